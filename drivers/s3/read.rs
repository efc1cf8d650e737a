//! Reading an image: pieces of it are asked for by their ranges, several at a time, in order.
//!
//! **Rule: every piece is asked for on the condition that the object is still the one that was opened.** So an
//! object that is replaced meanwhile ends the read, and never mixes with it.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;

use super::{
    client::Bucket,
    object::{Object, range_of},
};
use crate::{
    contract::{Body, Error, Kind, Pieces, Result},
    kit::window::{Buffer, CHUNK, Window},
};

/// As one piece takes a round trip, several are under way.
pub(super) const PIECES: Pieces = Pieces { chunk: CHUNK, in_flight: 4 };

/// The bytes `range` of an object.
pub(super) fn read(
    bucket: &Arc<Bucket>,
    key: &str,
    object: &Object,
    range: Range<u64>,
    window: Window,
) -> Body {
    Body::Stream(
        pieces(Arc::clone(bucket), key.to_owned(), object.etag.clone(), range, window).boxed(),
    )
}

fn pieces(
    bucket: Arc<Bucket>,
    key: String,
    etag: String,
    range: Range<u64>,
    window: Window,
) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
    window.pieces(range, PIECES.in_flight, move |at, buffer| {
        let (bucket, key, etag) = (Arc::clone(&bucket), key.clone(), etag.clone());
        async move { fill(&bucket, &key, &etag, at, buffer).await }
    })
}

/// Fills `buffer` with what is at `at`; what breaks off is asked for again from the byte that was reached.
async fn fill(
    bucket: &Bucket,
    key: &str,
    etag: &str,
    at: u64,
    mut buffer: Buffer,
) -> Result<Bytes> {
    let mut fruitless = 0_u32;
    while !buffer.is_full() {
        let before = buffer.len();
        match fetch(bucket, key, etag, at, &mut buffer).await {
            Ok(()) => {}
            // As long as bytes come it goes on.
            Err(error) if is_passing(&error) && fruitless < FRUITLESS => {
                fruitless = if buffer.len() > before { 0 } else { fruitless.saturating_add(1) };
                tracing::debug!(store = bucket.store, %error, reached = buffer.len(), "a read is resumed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(buffer.freeze())
}

/// An answer may break off before its first byte so many times.
const FRUITLESS: u32 = 3;

fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
}

/// One answer's bytes, as far as they come.
async fn fetch(bucket: &Bucket, key: &str, etag: &str, at: u64, buffer: &mut Buffer) -> Result<()> {
    let start = at.saturating_add(buffer.len() as u64);
    let want = start..at.saturating_add(buffer.capacity() as u64);
    let ask = || {
        let get = bucket.client.get_object().bucket(bucket.name()).key(key);
        get.range(range_of(&want)).if_match(etag).send()
    };
    let asked = bucket.ask("read", key, 0, ask).await;
    let mut answer = asked.map_err(|error| {
        if error.kind() != Kind::Exists {
            return error;
        }
        // The condition failed.
        let what = format!("the object was changed while it was read: object=`{key}`");
        Error::new(Kind::Mismatch, what).because(error)
    })?;
    let told = answer.content_range().unwrap_or_default();
    // One that ignores ranges begins at the beginning.
    if !told.starts_with(&format!("bytes {}-", want.start)) {
        let what = format!(
            "the server sends other bytes than were asked for: object=`{key}` range=`{told}`"
        );
        return Err(Error::new(Kind::Internal, what));
    }
    let patience = bucket.config.timeout;
    while !buffer.is_full() {
        let next = timeout(patience, answer.body.next()).await.map_err(|late| {
            let what = format!("no byte came for {} s: object=`{key}`", patience.as_secs());
            Error::new(Kind::Timeout, what).because(late)
        })?;
        match next {
            Some(Ok(bytes)) => {
                buffer.push(&bytes);
            }
            Some(Err(broken)) => {
                let what = format!("the answer broke off: object=`{key}`");
                return Err(Error::new(Kind::Unavailable, what).because(broken));
            }
            None => {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("the answer ended short of what was announced: object=`{key}`"),
                ));
            }
        }
    }
    Ok(())
}
