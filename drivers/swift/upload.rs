//! Writing an image: one object if it is small, else segments, several of them in flight.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::task::JoinHandle;

use super::{
    account::Call,
    config::LargeObject,
    names,
    object::look,
    publish::Publication,
    segments::{Segments, Sent, remove_object},
    sizes::Sizes,
    store::{Place, Store},
};
use crate::{
    contract::{Claim, Committed, Digests, Error, Kind, NewImage, Result, Upload},
    kit::{
        http::Method,
        parts::{Filling, Part, Parts},
        refusals::already_exists,
        see_through::{lost, see_through},
    },
};

/// Segments outlive their manifest by so long, where Swift removes both: they were made before it.
const LATER: Duration = Duration::from_hours(24);

/// A swift store's [`Upload`].
pub(super) struct Writing {
    store: Arc<Store>,
    /// For as long as anything may still become of the image.
    claim: Claim,
    place: Place,
    at: crate::Location,
    /// Where the image is to be: the names of its segments follow from the claim.
    token: String,
    parts: Parts,
    sizes: Sizes,
    segments: Segments,
    delete_at: Option<u64>,
    /// Bytes that have come.
    size: u64,
    filling: Option<Filling>,
    /// The first part, which is full and may be all of the image.
    first: Option<Part>,
    /// Segments that were begun.
    count: usize,
    sent: Vec<Sent>,
    /// Each on a task of its own: who gives up a call does not break off what it has sent.
    in_flight: FuturesUnordered<JoinHandle<Result<Sent>>>,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Sees that the id is free and that there is a container. Nothing is stored yet.
pub(super) async fn create(store: &Arc<Store>, image: &NewImage) -> Result<Box<dyn Upload>> {
    let NewImage { claim, size, context, parts, .. } = image.clone();
    let place = store.new_place(claim.id(), &context).await?;
    if look(&place.account, place.container(), place.object()).await?.is_some() {
        return Err(already_exists(claim.id(), &store.name));
    }
    store.ensure_container(&place.account, place.container()).await?;
    let delete_at = store.config.delete_after.map(from_now);
    let segments = Segments {
        account: place.account.clone(),
        container: place.container().to_owned(),
        prefix: names::prefix(&claim),
        delete_at: delete_at.map(|at| at.saturating_add(LATER.as_secs())),
        unwanted: Arc::new(AtomicBool::new(false)),
    };
    Ok(Box::new(Writing {
        at: place.location(),
        token: place.at.to_string(),
        sizes: Sizes::new(&store.config, size),
        store: Arc::clone(store),
        claim,
        place,
        parts,
        segments,
        delete_at,
        size: 0,
        filling: None,
        first: None,
        count: 0,
        sent: Vec::new(),
        in_flight: FuturesUnordered::new(),
    }))
}

/// Seconds since 1970 in so long.
fn from_now(after: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_add(after).as_secs()
}

impl Writing {
    /// Sends a full part as the next segment, when one of those in flight has landed.
    async fn launch(&mut self, part: Part) -> Result<()> {
        if self.count >= names::MOST || (self.is_static() && self.count >= self.sizes.most()) {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "the image has more segments than there can be: raise \
                     swift_store_large_object_chunk_size: image=`{}` segments=`{}`",
                    self.claim.id(),
                    self.count
                ),
            ));
        }
        while self.in_flight.len() >= self.store.config.in_flight {
            self.one_landed().await?;
        }
        self.count = self.count.saturating_add(1);
        let (segments, store) = (self.segments.clone(), Arc::clone(&self.store));
        let (number, claim) = (self.count, self.claim.clone());
        self.in_flight.push(tokio::spawn(async move {
            let sent = segments.send(store, number, part).await;
            drop(claim);
            sent
        }));
        Ok(())
    }

    fn is_static(&self) -> bool {
        self.store.config.large_object == LargeObject::Static
    }

    /// Waits for one of those in flight; false if there is none.
    async fn one_landed(&mut self) -> Result<bool> {
        match self.in_flight.next().await {
            Some(landed) => landed.map_err(lost)?.map(|sent| self.sent.push(sent)).map(|()| true),
            None => Ok(false),
        }
    }

    /// The part that is full goes on its way, or is kept if it is the first one.
    async fn full(&mut self, part: Part) -> Result<()> {
        if self.count == 0 && self.first.is_none() && self.sizes.may_be_one(self.size) {
            self.first = Some(part);
            return Ok(());
        }
        self.launch(part).await
    }

    async fn append(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            if let Some(first) = self.first.take() {
                self.launch(first).await?;
            }
            let mut filling = match self.filling.take() {
                Some(filling) => filling,
                None => {
                    let room = self.sizes.of(self.count, self.size);
                    self.parts.begin(room).await?
                }
            };
            let count = filling.push(&chunk).await?;
            chunk = chunk.split_off(count);
            self.size = self.size.saturating_add(count as u64);
            if filling.room() == 0 {
                self.full(filling.freeze()).await?;
            } else {
                self.filling = Some(filling);
            }
        }
        Ok(())
    }

    /// Waits until all segments are there, and makes an image of them.
    async fn publish(&mut self, digests: &Digests) -> Result<()> {
        let last = self.filling.take().map(Filling::freeze);
        let first = self.first.take();
        let is_one = self.count == 0 && self.sizes.is_one(self.size);
        if !is_one {
            for part in first.into_iter().chain(last) {
                self.launch(part).await?;
            }
            while self.one_landed().await? {}
            self.sent.sort_by_key(|sent| sent.number);
            let publication = self.publication(digests);
            return publication.segmented(&self.segments, &self.sent).await;
        }
        self.publication(digests).whole(first.or(last)).await
    }

    fn publication<'a>(&'a self, digests: &'a Digests) -> Publication<'a> {
        Publication {
            store: &self.store,
            claim: &self.claim,
            place: &self.place,
            size: self.size,
            digests,
            delete_at: self.delete_at,
        }
    }

    /// Removes the segments, when none is in flight any more, and a manifest that is of no use.
    async fn clear(&mut self, published: bool) -> Result<()> {
        self.segments.unwanted.store(true, Ordering::Relaxed);
        while let Some(landed) = self.in_flight.next().await {
            drop(landed);
        }
        let (container, object) = (self.place.container(), self.place.object());
        let account = &self.place.account;
        if published
            && let Some(found) = look(account, container, object).await?
            && found.upload.as_deref() == Some(self.claim.nonce())
        {
            remove_object(account, container, object).await?;
        }
        if self.count > 0 {
            self.segments.remove(self.count).await?;
        }
        if self.store.config.multi_tenant {
            remove_container(&self.place).await;
        }
        Ok(())
    }

    fn left(&self, error: Error) -> Error {
        error.leaving(format!("{}/{}*", self.segments.container, self.segments.prefix))
    }
}

/// Removes the container of an image, if it is empty.
pub(super) async fn remove_container(place: &Place) {
    let call = Call::container(Method::DELETE, place.container());
    match place.account.send(&call).await {
        Ok(answer) => answer.finish().await,
        Err(error) => tracing::warn!(error = %error.chain(), "an empty container is left"),
    }
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.append(chunk).await
    }

    async fn failing(&mut self) -> Error {
        loop {
            match self.one_landed().await {
                Ok(true) => {}
                Ok(false) => return std::future::pending().await,
                Err(error) => return error,
            }
        }
    }

    fn at(&self) -> &crate::Location {
        &self.at
    }

    fn token(&self) -> Option<&str> {
        Some(&self.token)
    }

    async fn commit(self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let (mut this, digests) = (*self, digests.clone());
        let commit = async move {
            let Err(error) = this.publish(&digests).await else {
                return Ok(Committed { stored_bytes: this.size });
            };
            // Whether the image is there is not known: what it consists of has to stay.
            if error.kind() == Kind::Timeout {
                return Err(error);
            }
            let cleared = this.clear(true).await;
            Err(error.after_clearing(cleared.map_err(|left| this.left(left))))
        };
        see_through((), commit).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let mut this = *self;
        let abort = async move { this.clear(false).await.map_err(|error| this.left(error)) };
        see_through((), abort).await
    }
}
