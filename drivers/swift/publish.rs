//! The end of an upload: its object appears, whole or as the manifest of its segments.

use futures_util::TryStreamExt as _;
use serde_json::json;

use super::{
    account::Call,
    config::LargeObject,
    failure, listing, names,
    object::{DELETE_AT, IMAGE_TYPE, MANIFEST, incomplete, kept, look, manifest},
    segments::{Segments, Sent},
    store::{Place, Store},
};
use crate::{
    contract::{Claim, Digests, Error, Kind, Result},
    kit::{
        http::{
            Method, Payload, StatusCode,
            header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH},
        },
        parts::Part,
        pause::Tries,
        refusals::already_exists,
    },
};

/// An upload whose bytes have all come.
pub(super) struct Publication<'a> {
    pub(super) store: &'a Store,
    pub(super) claim: &'a Claim,
    pub(super) place: &'a Place,
    pub(super) size: u64,
    pub(super) digests: &'a Digests,
    /// When Swift is to remove the image, in seconds since 1970.
    pub(super) delete_at: Option<u64>,
}

impl Publication<'_> {
    /// Stores an image as one object.
    pub(super) async fn whole(&self, part: Option<Part>) -> Result<()> {
        let payload = part.map_or(Payload::Empty, Payload::Part);
        let call = match &self.digests.checksum {
            Some(md5) => self.call().header(ETAG, md5),
            None => self.call(),
        };
        let call = call.payload(payload);
        self.put(call).await
    }

    /// Makes one image of its segments.
    pub(super) async fn segmented(&self, segments: &Segments, sent: &[Sent]) -> Result<()> {
        match self.store.config.large_object {
            LargeObject::Static => self.put(self.list(segments, sent)?).await,
            LargeObject::Dynamic => {
                self.until_listed(segments, sent.len()).await?;
                let header = manifest(&segments.container, &segments.prefix);
                self.put(self.call().header(MANIFEST, header)).await?;
                self.until_whole().await
            }
        }
    }

    fn call(&self) -> Call {
        Call::object(Method::PUT, self.place.container(), self.place.object())
            .header(IF_NONE_MATCH, "*")
            .header(CONTENT_TYPE, IMAGE_TYPE)
            .headers(self.delete_at.map(|at| (DELETE_AT, at.to_string())))
            .headers(kept(self.claim, self.size, self.digests))
            .once()
    }

    /// The PUT of a static large object.
    fn list(&self, segments: &Segments, sent: &[Sent]) -> Result<Call> {
        let entry = |sent: &Sent| {
            let name = names::segment(&segments.prefix, sent.number);
            json!({
                "path": format!("/{}/{name}", segments.container),
                "etag": sent.etag,
                "size_bytes": sent.bytes,
            })
        };
        let list =
            serde_json::to_vec(&sent.iter().map(entry).collect::<Vec<_>>()).map_err(|error| {
                Error::new(Kind::Internal, "cannot write a manifest").because(error)
            })?;
        let call = self.call().query("multipart-manifest", "put");
        Ok(call.payload(Payload::Bytes(list.into())))
    }

    /// Puts the object, if there is none. What a server did before its answer was lost is looked up.
    async fn put(&self, call: Call) -> Result<()> {
        // Swift judges If-None-Match before the bytes come: of several at a time all would be told that they
        // were the first.
        let _alone = self.store.alone(self.place).await;
        self.put_alone(call).await?;
        // Another daemon may have put its image at the same time: the last one is there.
        match self.is_there().await {
            Err(error) if error.kind() == Kind::Exists => Err(error),
            _ => Ok(()),
        }
    }

    async fn put_alone(&self, call: Call) -> Result<()> {
        let mut tries = Tries::new(self.store.config.timeout);
        // Whether a request is out that may still be done.
        let mut out = false;
        loop {
            // Not every server honours If-None-Match.
            let error = match self.is_there().await {
                Ok(true) => return Ok(()),
                Ok(false) => match self.try_to_put(&call, &mut out).await {
                    Ok(None) => return Ok(()),
                    Ok(Some(error)) => error,
                    Err(error) => return Err(self.judged(error, out)),
                },
                Err(error) if failure::is_away(&error) => error,
                Err(error) => return Err(error),
            };
            if !tries.another().await {
                return match self.is_there().await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(self.judged(error, out)),
                    Err(other) => Err(self.judged(other, out)),
                };
            }
            tracing::debug!(store = %self.store.name, error = %error, "an image is sent again");
        }
    }

    /// One try. `Some`: it failed, and may come out otherwise.
    async fn try_to_put(&self, call: &Call, out: &mut bool) -> Result<Option<Error>> {
        let answer = match self.place.account.send(call).await {
            Ok(answer) => answer,
            Err(error) if failure::is_away(&error) => {
                *out = true;
                return Ok(Some(error));
            }
            Err(error) => return Err(error),
        };
        match answer.status {
            status if status.is_success() => {
                answer.finish().await;
                Ok(None)
            }
            StatusCode::NOT_FOUND => {
                answer.finish().await;
                let container = self.place.container();
                self.store.forget_container(container);
                self.store.ensure_container(&self.place.account, container).await?;
                Ok(Some(super::store::no_container(container, &self.store.name)))
            }
            // Perhaps by ours, of a try whose answer was lost: the next look tells.
            StatusCode::PRECONDITION_FAILED => {
                answer.finish().await;
                Ok(Some(already_exists(self.claim.id(), &self.store.name)))
            }
            status => {
                // A server that failed may have done it all the same.
                *out |= status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
                let error = failure::of(answer, "store an image").await;
                if failure::passes(status) { Ok(Some(error)) } else { Err(error) }
            }
        }
    }

    /// Whether the image is there.
    ///
    /// # Errors
    /// `Exists` if another one is.
    async fn is_there(&self) -> Result<bool> {
        let Place { account, .. } = self.place;
        match look(account, self.place.container(), self.place.object()).await? {
            None => Ok(false),
            Some(found) if found.upload.as_deref() == Some(self.claim.nonce()) => Ok(true),
            Some(_) => Err(already_exists(self.claim.id(), &self.store.name)),
        }
    }

    /// `error`, or that the image may be there all the same if a request is still out.
    fn judged(&self, error: Error, out: bool) -> Error {
        if out && error.kind() != Kind::Exists { self.unsure(error) } else { error }
    }

    /// That the image may be there although `error` says otherwise.
    fn unsure(&self, error: Error) -> Error {
        Error::new(Kind::Timeout, error.to_string()).at(self.place.location()).because(error)
    }

    /// Waits until the server lists all segments: a manifest has those that are listed.
    async fn until_listed(&self, segments: &Segments, count: usize) -> Result<()> {
        let Segments { account, container, prefix, .. } = segments;
        let mut tries = Tries::new(self.store.config.timeout);
        loop {
            let add = |(count, bytes): (usize, u64), entry: listing::Entry| async move {
                Ok((count.saturating_add(1), bytes.saturating_add(entry.bytes)))
            };
            let entries = listing::entries(account, container, prefix);
            let listed = entries.try_fold((0, 0), add).await?;
            if listed == (count, self.size) {
                return Ok(());
            }
            if !tries.another().await {
                return Err(incomplete(self.claim.id().as_str(), self.size, listed.1));
            }
        }
    }

    /// Waits until the server gives the image its whole length.
    async fn until_whole(&self) -> Result<()> {
        let Place { account, .. } = self.place;
        let mut tries = Tries::new(self.store.config.timeout);
        loop {
            let counted = async {
                let looked = look(account, self.place.container(), self.place.object()).await?;
                match looked {
                    Some(found) => found.counted(account).await,
                    None => Ok(0),
                }
            };
            let found = match counted.await {
                Ok(found) => found,
                Err(error) if failure::is_away(&error) => return Err(self.unsure(error)),
                Err(error) => return Err(error),
            };
            if found == self.size {
                return Ok(());
            }
            if !tries.another().await {
                return Err(incomplete(self.claim.id().as_str(), self.size, found));
            }
        }
    }
}
