//! Writing an image: at its full size at once where that is known, with a window of writes in flight.

use std::{fmt, io, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use imaged_ffi::{Errno, Image, Options, Pool};
use tokio::task::{JoinError, JoinSet};

use super::{
    cluster::Live,
    failure::{errno_of, failed, is_shut_out},
    found::taken,
    handles::{BeingMade, begin_write},
    image::{cleared, give_up, not_removed, remove, unpublished},
    location::{Location, SNAP},
    metadata,
    store::{Store, no_data_pool, on_lane, on_long_lane},
};
use crate::{
    contract::{Claim, Committed, Digests, Error, Kind, NewImage, Result, Upload, write_zeros},
    kit::{lane::Going, zeros},
};

/// The length that an image of unknown size begins with, in bytes; doubled as often as needed. It
/// takes no space.
const FIRST: u64 = 1 << 30;

/// Removes an image that was made whole in a pool that has not the store's name any more: it is not
/// where its location says. A snapshot is made with the latest news of the pools, so this hears of
/// whatever happened before. Blocks.
pub(super) fn is_in_store(store: &Store, pool: &Pool, name: &str, going: &Going) -> Result<()> {
    store.connection.holds(pool).map_err(|moved| cleared(pool, name, moved, going))
}

/// An rbd store's [`Upload`].
pub(super) struct Writing {
    store: Arc<Store>,
    /// For as long as anything may still become of the image.
    claim: Claim,
    live: Arc<Live>,
    pool: Pool,
    at: crate::Location,
    _being_made: BeingMade,
    image: Arc<Image>,
    /// The image's internal id.
    internal: String,
    /// The length of the image in the cluster, in bytes.
    length: u64,
    /// Bytes that have come.
    size: u64,
    /// Bytes that were not zeros.
    stored: u64,
    in_flight: JoinSet<imaged_ffi::Result<()>>,
    /// Why one of those in flight failed, until the caller is told.
    failed: Option<Error>,
    /// The cluster did not answer in time.
    lost: bool,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Makes the image and opens it.
pub(super) async fn create(store: &Arc<Store>, image: &NewImage) -> Result<Box<dyn Upload>> {
    let NewImage { claim, size, .. } = image.clone();
    let (live, pool) = store.connected().await?;
    let length = size.unwrap_or(FIRST);
    let at = Location::new(&live.fsid, pool.name(), claim.id().as_str());
    let until_done = claim.clone();
    let being_made = begin_write(&pool, claim.id().as_str());
    let (image, internal) = on_lane(store, &pool, "create an image", move |store, pool| {
        make(store, pool, until_done.id().as_str(), length)
    })
    .await?;
    Ok(Box::new(Writing {
        store: Arc::clone(store),
        claim,
        live,
        pool,
        at: crate::Location::Rbd(at),
        _being_made: being_made,
        image: Arc::new(image),
        internal,
        length,
        size: 0,
        stored: 0,
        in_flight: JoinSet::new(),
        failed: None,
        lost: false,
    }))
}

/// Blocks.
fn make(store: &Store, pool: &Pool, name: &str, length: u64) -> Result<(Image, String)> {
    let options = Options {
        order: Some(store.config.order),
        data_pool: store.config.data_pool.clone(),
        features: store.config.features,
        ..Options::default()
    };
    pool.create(name, length, &options).map_err(|errno| match (errno, &options.data_pool) {
        (Errno::EXIST, _) => taken(store, pool, name),
        (Errno::NOENT, Some(data)) => {
            store.connection.holds(pool).err().unwrap_or_else(|| no_data_pool(data))
        }
        // It may come to be all the same.
        (Errno::TIMEDOUT, _) => failed("create", name, errno).leaving(name),
        (errno, _) => failed("create", name, errno),
    })?;
    let open = || {
        let image = Image::open(pool, name, None)?;
        let internal = image.id()?;
        metadata::set_upload_mark(&image, &internal, &store.instance)?;
        Ok((image, internal))
    };
    open().map_err(|errno| cleared(pool, name, failed("open", name, errno), &Going::begin()))
}

/// Whether the cluster has answered, and what was written to is gone.
fn is_gone(error: &Error) -> bool {
    errno_of(error) == Some(Errno::NOENT.number())
}

impl Writing {
    fn name(&self) -> &str {
        self.claim.id().as_str()
    }

    fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn fail(&self, errno: Errno) -> Error {
        match errno {
            // Not that there is no such image: one was made.
            Errno::NOENT => Error::new(
                Kind::Unavailable,
                format!(
                    "the pool was removed while this was written to it: image=`{}`",
                    self.name()
                ),
            )
            .because(io::Error::from(errno)),
            errno => failed("write", self.name(), errno),
        }
    }

    /// Waits for what is in flight, in time.
    async fn landed<T>(&self, landing: impl Future<Output = imaged_ffi::Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.store().patience, landing).await {
            Ok(landed) => landed.map_err(|errno| self.fail(errno)),
            Err(late) => Err(self.fail(Errno::TIMEDOUT).because(late)),
        }
    }

    /// Waits for one of those in flight; false if there is none.
    async fn one_landed(&mut self) -> Result<bool> {
        let next = tokio::time::timeout(self.store().patience, self.in_flight.join_next()).await;
        match next.map_err(|late| self.fail(Errno::TIMEDOUT).because(late))? {
            Some(landed) => self.write_result(landed).map(|()| true),
            None => Ok(false),
        }
    }

    /// What became of a write that is not in flight any more.
    fn write_result(&self, landed: Result<imaged_ffi::Result<()>, JoinError>) -> Result<()> {
        landed
            .map_err(|lost| Error::new(Kind::Internal, "a write was lost").because(lost))?
            .map_err(|errno| self.fail(errno))
    }

    /// Makes room for the image to grow.
    async fn grow(&mut self, end: u64) -> Result<()> {
        let mut length = self.length.max(1);
        while length < end {
            length = length.saturating_mul(2);
        }
        let name = self.name().to_owned();
        let image = Arc::clone(&self.image);
        on_lane(self.store(), &self.pool, "grow an image", move |_, _| {
            image.resize(length, |_, _| true).map_err(|errno| failed("grow", &name, errno))
        })
        .await?;
        self.length = length;
        Ok(())
    }

    /// An answer as it is; that the cluster gave none in time is kept, for `abort`.
    fn remember_if_lost<T>(&mut self, answer: Result<T>) -> Result<T> {
        let away = |error: &Error| {
            matches!(error.kind(), Kind::Unavailable | Kind::Timeout) && !is_gone(error)
        };
        self.lost |= answer.as_ref().is_err_and(away);
        if answer.as_ref().is_err_and(is_shut_out) {
            self.live.shut_out();
        }
        answer
    }

    /// What was refused in flight, by what has become of the store's pool, or of this client, meanwhile.
    async fn explained<T: Send + 'static>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(refused) if !matches!(refused.kind(), Kind::Unavailable | Kind::Timeout) => {
                on_lane(self.store(), &self.pool, "look up the pool", move |_, _| Err(refused))
                    .await
            }
            answer => answer,
        }
    }

    /// Takes note of `len` bytes more, for which there is then room, and gives where they begin.
    async fn advance(&mut self, len: u64) -> Result<u64> {
        self.failed.take().map_or(Ok(()), Err)?;
        while let Some(landed) = self.in_flight.try_join_next() {
            self.write_result(landed)?;
        }
        let start = self.size;
        self.size = self.size.saturating_add(len);
        if self.size > self.length {
            self.grow(self.size).await?;
        }
        Ok(start)
    }

    async fn append(&mut self, chunk: Bytes) -> Result<()> {
        let start = self.advance(chunk.len() as u64).await?;
        let runs: Vec<_> = if self.store().config.thin {
            zeros::data(&chunk, start).collect()
        } else {
            std::iter::once(0..chunk.len()).collect()
        };
        for run in runs {
            let slot = self.landed(self.image.slot()).await?;
            let at = start.saturating_add(run.start as u64);
            self.stored = self.stored.saturating_add(run.len() as u64);
            let landing = self.image.write_at(slot, chunk.slice(run), at);
            let landing = landing.map_err(|errno| self.fail(errno))?;
            // Its memory comes free when it lands, whether or not another chunk comes: the chunk that
            // would come next may be waiting for just that memory.
            self.in_flight.spawn(async move { landing.await.map(drop) });
        }
        Ok(())
    }
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let appended = self.append(chunk).await;
        let appended = self.remember_if_lost(appended);
        self.explained(appended).await
    }

    async fn skip(&mut self, len: u64) -> Result<()> {
        if !self.store().config.thin {
            return write_zeros(self, len).await;
        }
        let skipped = self.advance(len).await.map(drop);
        let skipped = self.remember_if_lost(skipped);
        self.explained(skipped).await
    }

    async fn failing(&mut self) -> Error {
        loop {
            let failed = match self.one_landed().await {
                Ok(true) => continue,
                Ok(false) => std::future::pending().await,
                failed => self.remember_if_lost(failed),
            };
            // This may be dropped while it looks for the reason; the next call then fails with it.
            let same = |error: &Error| Error::new(error.kind(), error.to_string());
            self.failed = failed.as_ref().err().map(same);
            if let Err(error) = self.explained(failed).await {
                return error;
            }
        }
    }

    fn at(&self) -> &crate::Location {
        &self.at
    }

    async fn commit(mut self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let flushed = self.flush().await;
        let flushed = self.remember_if_lost(flushed);
        match self.explained(flushed).await {
            Ok(()) => {}
            Err(error) => {
                return Err(error.after_clearing(self.abort().await));
            }
        }
        let this = *self;
        let (store, pool) = (Arc::clone(this.store()), this.pool.clone());
        let digests = digests.clone();
        let stored_bytes = this.stored;
        on_long_lane(&store, &pool, "commit an image", move |_, _, going| {
            this.publish(&digests, going)
        })
        .await?;
        Ok(Committed { stored_bytes })
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let (store, pool) = (Arc::clone(self.store()), self.pool.clone());
        let mut this = *self;
        if !this.lost {
            let idle = async {
                this.image.idle().await;
                Ok(())
            };
            this.lost = this.landed(idle).await.is_err();
        }
        if this.lost {
            // To close it takes as long again several times over, and to remove it cannot succeed:
            // the caller is told, and recovery removes it.
            let name = this.name().to_owned();
            let left = failed("remove", &name, Errno::TIMEDOUT).leaving(name);
            tokio::spawn(async move {
                // What is in flight may take for ever, and no thread is to wait for that.
                this.image.idle().await;
                on_lane(&store, &pool, "close an image", move |_, _| {
                    this.close();
                    Ok(())
                })
                .await
            });
            return Err(left);
        }
        on_long_lane(&store, &pool, "abort an upload", move |_, _, going| this.remove(going)).await
    }
}

impl Writing {
    /// Waits until all that was written is durable.
    async fn flush(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)?;
        while self.one_landed().await? {}
        let slot = self.landed(self.image.slot()).await?;
        let flush = self.image.flush(slot).map_err(|errno| self.fail(errno))?;
        self.landed(flush).await?;
        Ok(())
    }

    /// Gives the image its length and digests, then its snapshot. Blocks.
    fn publish(self, digests: &Digests, going: &Going) -> Result<()> {
        let Self { store, claim, pool, image, internal, length, size, at, .. } = self;
        let name = claim.id().as_str();
        let mut snapped = false;
        let publish = |snapped: &mut bool| {
            if length != size {
                image.resize(size, |_, _| {
                    going.report();
                    true
                })?;
            }
            metadata::store_digests(&image, &internal, size, digests)?;
            *snapped = true;
            image.snap_create(SNAP)?;
            image.snap_protect(SNAP)
        };
        let published = publish(&mut snapped);
        give_up(image, name);
        published.map_err(|errno| unpublished(&pool, name, errno, snapped, at, going))?;
        is_in_store(&store, &pool, name, going)
    }

    /// Leaves what was written. Blocks.
    fn close(self) {
        let Self { claim, image, .. } = self;
        give_up(image, claim.id().as_str());
    }

    /// Removes what was written. Blocks.
    fn remove(self, going: &Going) -> Result<()> {
        let Self { claim, pool, image, .. } = self;
        let name = claim.id().as_str();
        give_up(image, name);
        match remove(&pool, name, going) {
            Ok(_) => Ok(()),
            Err(errno) => Err(not_removed(&pool, name, errno).leaving(name)),
        }
    }
}
