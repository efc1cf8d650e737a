//! Reading an image: stretches of it are asked for by their ranges.
//!
//! **Rule: every stretch is asked for on the condition that the object is still the one that was opened.** So an
//! object that is replaced meanwhile ends the read, and never mixes with it.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::time::timeout;

use super::{
    client::Bucket,
    object::{Object, range_of},
};
use crate::{
    contract::{Body, Error, Kind, Result},
    kit::{
        stretches::{self, Origin},
        window::Window,
    },
};

/// The bytes `range` of an object.
pub(super) fn read(
    bucket: &Arc<Bucket>,
    key: &str,
    object: &Object,
    range: Range<u64>,
    window: Window,
) -> Body {
    let reading = Reading {
        bucket: Arc::clone(bucket),
        key: key.to_owned(),
        etag: object.etag.clone(),
        size: object.size,
    };
    Body::Stream(stretches::read(reading, range, window, bucket.config.timeout))
}

/// An object that is being read.
struct Reading {
    bucket: Arc<Bucket>,
    key: String,
    etag: String,
    size: u64,
}

#[async_trait]
impl Origin for Reading {
    type Incoming = ByteStream;

    fn reach(&self, _at: u64) -> Result<Range<u64>> {
        Ok(0..self.size)
    }

    async fn ask(&self, range: Range<u64>) -> Result<ByteStream> {
        let Self { bucket, key, etag, .. } = self;
        let ask = || {
            let get = bucket.client.get_object().bucket(bucket.name()).key(key);
            get.range(range_of(&range)).if_match(etag).send()
        };
        let asked = bucket.ask("read", key, 0, ask).await;
        let answer = asked.map_err(|error| {
            if error.kind() != Kind::Exists {
                return error;
            }
            // The condition failed.
            let what = format!("the object was changed while it was read: object=`{key}`");
            Error::new(Kind::Mismatch, what).because(error)
        })?;
        let told = answer.content_range().unwrap_or_default();
        // One that ignores ranges begins at the beginning.
        if !told.starts_with(&format!("bytes {}-", range.start)) {
            let what = format!(
                "the server sends other bytes than were asked for: object=`{key}` range=`{told}`"
            );
            return Err(Error::new(Kind::Internal, what));
        }
        Ok(answer.body)
    }

    async fn next(&self, incoming: &mut ByteStream) -> Result<Option<Bytes>> {
        let (key, patience) = (&self.key, self.bucket.config.timeout);
        let next = timeout(patience, incoming.next()).await.map_err(|late| {
            let what = format!("no byte came for {} s: object=`{key}`", patience.as_secs());
            Error::new(Kind::Timeout, what).because(late)
        })?;
        next.transpose().map_err(|broken| {
            let what = format!("the answer broke off: object=`{key}`");
            Error::new(Kind::Unavailable, what).because(broken)
        })
    }
}
