//! Sending segments: each as often as it takes, alone, and removing them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::{Stream, TryStreamExt as _, stream};
use imaged_digest::Md5;

use super::{
    account::{Account, Call},
    failure, listing, names,
    object::{DELETE_AT, SEGMENT_TYPE},
    store::Store,
};
use crate::{
    contract::{Error, Kind, Result},
    kit::{
        http::{
            Method, Payload, StatusCode,
            header::{CONTENT_TYPE, ETAG},
        },
        lane::Lane,
        parts::Part,
        pause::Tries,
    },
};

/// Bytes of a spooled part that are digested at a time.
const PIECE: usize = 4 << 20;
/// Segments that are removed at a time.
const REMOVALS: usize = 8;
/// Numbers behind the last one of a listing that are looked for: a listing may be behind.
const BEHIND: usize = 32;

/// A segment that the server has.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) number: usize,
    pub(super) bytes: u64,
    /// The md5 of its bytes.
    pub(super) etag: String,
}

/// What all segments of an upload have in common.
#[derive(Clone, Debug)]
pub(super) struct Segments {
    pub(super) account: Account,
    pub(super) container: String,
    pub(super) prefix: String,
    /// When Swift is to remove them, in seconds since 1970.
    pub(super) delete_at: Option<u64>,
    /// Nobody wants them any more: what fails is not sent again.
    pub(super) unwanted: Arc<AtomicBool>,
}

/// The md5 of a part, in hexadecimal.
pub(super) async fn md5(part: &Part, lane: &Lane) -> Result<String> {
    let update = |mut digest: imaged_digest::Stream<Md5>, bytes: Bytes| {
        lane.run("digest a segment", move || {
            digest.update(&bytes);
            Ok(digest)
        })
    };
    let mut digest = imaged_digest::Stream::default();
    match part {
        Part::Memory(bytes) => digest = update(digest, bytes.clone()).await?,
        Part::Spool(file) => {
            let mut at = 0;
            while at < part.len() {
                let bytes = file.read(at, PIECE).await?;
                at = at.saturating_add(bytes.len() as u64);
                digest = update(digest, bytes).await?;
            }
        }
    }
    Ok(HEXLOWER.encode(&digest.finish()))
}

impl Segments {
    /// Sends `part` as the segment of this number, as often as it takes.
    ///
    /// # Errors
    /// `Full`; `BackendDenied`; `Unavailable` if it did not come through in the store's time.
    pub(super) async fn send(self, store: Arc<Store>, number: usize, part: Part) -> Result<Sent> {
        let etag = md5(&part, &store.lane).await?;
        let bytes = part.len();
        let call =
            Call::object(Method::PUT, &self.container, &names::segment(&self.prefix, number))
                .header(ETAG, &etag)
                .header(CONTENT_TYPE, SEGMENT_TYPE)
                .headers(self.delete_at.map(|at| (DELETE_AT, at.to_string())))
                .payload(Payload::Part(part))
                .once();
        let mut tries = Tries::new(store.config.timeout);
        let error = loop {
            let error = match self.account.send(&call).await {
                Ok(answer) if answer.status.is_success() => {
                    let told = answer.header(&ETAG).map(|told| told.trim_matches('"').to_owned());
                    answer.finish().await;
                    match told {
                        Some(told) if told != etag => altered(number),
                        _ => return Ok(Sent { number, bytes, etag }),
                    }
                }
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                    answer.finish().await;
                    store.forget_container(&self.container);
                    store.ensure_container(&self.account, &self.container).await?;
                    super::store::no_container(&self.container, &store.name)
                }
                Ok(answer) => {
                    let passes = failure::passes(answer.status);
                    let error = failure::of(answer, "store a segment").await;
                    if !passes {
                        return Err(error);
                    }
                    error
                }
                Err(error) if failure::is_away(&error) => {
                    self.renew_token().await?;
                    error
                }
                Err(error) => return Err(error),
            };
            if self.unwanted.load(Ordering::Relaxed) || !tries.another().await {
                break error;
            }
            tracing::debug!(store = %store.name, number, error = %error, "a segment is sent again");
        };
        Err(error)
    }

    /// A server that does not take the token may close the connection before all of a segment has come, so
    /// that its answer is lost. A request without a body is answered in any case.
    async fn renew_token(&self) -> Result<()> {
        let call = Call::container(Method::HEAD, &self.container).once();
        match self.account.send(&call).await {
            Err(error) if !failure::is_away(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the segments that are listed and those up to this number, whether or not they are there; tells
    /// which were.
    ///
    /// # Errors
    /// Some are left, perhaps.
    pub(super) async fn remove(&self, up_to: usize) -> Result<Vec<String>> {
        let named = (1..=up_to).map(|number| names::segment(&self.prefix, number));
        let mut removed = self.remove_all(stream::iter(named.map(Ok))).await?;
        let listed = listing::entries(&self.account, &self.container, &self.prefix);
        removed.extend(self.remove_all(listed.map_ok(|entry| entry.name)).await?);
        Ok(removed)
    }

    /// The same of an upload of which only the names are known.
    pub(super) async fn remove_unknown(&self) -> Result<Vec<String>> {
        let mut removed = self.remove(0).await?;
        let last = removed.iter().filter_map(|name| name.strip_prefix(&self.prefix)?.parse().ok());
        let last: usize = last.max().unwrap_or(0);
        removed.extend(self.remove(last.saturating_add(BEHIND).min(names::MOST)).await?);
        Ok(removed)
    }

    async fn remove_all(
        &self,
        names: impl Stream<Item = Result<String>> + Send,
    ) -> Result<Vec<String>> {
        remove_objects(&self.account, &self.container, names).try_collect().await
    }
}

/// Removes objects, several at a time; tells which were there.
pub(super) fn remove_objects(
    account: &Account,
    container: &str,
    names: impl Stream<Item = Result<String>> + Send,
) -> impl Stream<Item = Result<String>> + Send {
    let remove = move |name: String| async move {
        let gone = remove_object(account, container, &name).await?;
        Ok::<_, Error>(gone.then_some(name))
    };
    let removed = names.map_ok(remove).try_buffer_unordered(REMOVALS);
    removed.try_filter_map(|name| std::future::ready(Ok(name)))
}

/// Removes an object; false if it was not there.
pub(super) async fn remove_object(account: &Account, container: &str, name: &str) -> Result<bool> {
    let answer = account.send(&Call::object(Method::DELETE, container, name)).await?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(false),
        status if status.is_success() => {
            answer.finish().await;
            Ok(true)
        }
        _ => Err(failure::of(answer, "remove an object").await),
    }
}

fn altered(number: usize) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("what came to the server was not what was sent to it: segment=`{number}`"),
    )
}
