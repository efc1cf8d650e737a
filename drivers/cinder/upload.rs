//! Writing an image: a volume of its size at once where that is known, with a window of writes in flight.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};

use super::{
    api::{Mode, NewVolume},
    attach::{Attached, HEAD, attach, check_head, known_by, let_go},
    location,
    store::Store,
    volume::{self, GIB, Told, Volume, gib},
};
use crate::{
    contract::{Claim, Committed, Digests, Error, Kind, NewImage, Result, Upload},
    kit::{point, refusals::already_exists, see_through::see_through, turns::Turns, zeros},
};

/// Where uploads of one id meet that become whole, of whichever driver they are.
static PUBLISHING: LazyLock<Turns> = LazyLock::new(Turns::default);

/// A cinder store's [`Upload`].
pub(super) struct Writing {
    store: Arc<Store>,
    /// For as long as anything may still become of the image.
    claim: Claim,
    owner: Option<String>,
    volume: location::Volume,
    at: crate::Location,
    /// `None` once it was let go of.
    attached: Option<Arc<Attached>>,
    /// Bytes of the volume.
    length: u64,
    /// Bytes that have come.
    size: u64,
    /// Bytes that were not zeros.
    stored: u64,
    /// The first bytes.
    head: Vec<u8>,
    in_flight: JoinSet<Result<()>>,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Makes the volume and attaches it.
pub(super) async fn create(store: &Arc<Store>, image: &NewImage) -> Result<Box<dyn Upload>> {
    let (store, image) = (Arc::clone(store), image.clone());
    // Whoever asked may be gone: what is made is found by its nonce then.
    see_through(image.claim.clone(), async move { make(store, image).await }).await
}

async fn make(store: Arc<Store>, image: NewImage) -> Result<Box<dyn Upload>> {
    let id = image.claim.id();
    if store.find(id).await?.is_some() {
        return Err(already_exists(id, &store.name));
    }
    let owner = match &image.context.project {
        Some(project) => Some(project.clone()),
        None => store.api.project().await?,
    };
    let metadata = volume::begun(Told {
        store: &store.name,
        id,
        size: image.size,
        owner: owner.as_deref(),
        nonce: image.claim.nonce(),
    });
    let new = NewVolume {
        name: &volume::name(id),
        gib: gib(image.size.unwrap_or(0)),
        volume_type: store.config.volume_type.as_deref(),
        source: None,
        metadata: &metadata,
    };
    let volume = store.make(&new, &image.claim).await?;
    let attached = match attach(&store, &volume, Mode::Write, true).await {
        Ok(attached) => attached,
        Err(error) => return Err(store.undone(&volume.id, error).await),
    };
    Ok(Box::new(Writing {
        at: store.location(&volume.id),
        length: volume.bytes(),
        volume: volume.id,
        store,
        claim: image.claim,
        owner,
        attached: Some(Arc::new(attached)),
        size: 0,
        stored: 0,
        head: Vec::new(),
        in_flight: JoinSet::new(),
    }))
}

impl Writing {
    fn attached(&self) -> Result<&Arc<Attached>> {
        let ended = || Error::new(Kind::Internal, "an upload goes on after its end");
        self.attached.as_ref().ok_or_else(ended)
    }

    /// Waits for one of those in flight; false if there is none.
    async fn one_landed(&mut self) -> Result<bool> {
        match self.in_flight.join_next().await {
            Some(landed) => write_result(landed).map(|()| true),
            None => Ok(false),
        }
    }

    async fn all_landed(&mut self) -> Result<()> {
        while self.one_landed().await? {}
        Ok(())
    }

    /// Makes room up to `end`: the volume is doubled as often as needed, by one call.
    async fn grow(&mut self, end: u64) -> Result<()> {
        let mut length = self.length.max(GIB);
        while length < end {
            length = length.saturating_mul(2);
        }
        if !self.grow_attached(length).await? {
            // All that was written is there when the device is connected again.
            self.all_landed().await?;
            self.attached()?.device().flush().await?;
            self.detach().await?;
            self.store.api.extend(&self.volume, gib(length)).await?;
            let grown = self.extended("available").await?;
            self.attach_again(&grown).await?;
        }
        self.length = length;
        Ok(())
    }

    /// Makes the volume `length` bytes long while it is attached, where that can be done; gives whether it could.
    async fn grow_attached(&self, length: u64) -> Result<bool> {
        let attached = self.attached()?;
        let can = self.store.config.extends_attached;
        if !can.unwrap_or_else(|| attached.grows_attached()) {
            return Ok(false);
        }
        match self.store.api.extend(&self.volume, gib(length)).await {
            Ok(()) => {}
            // Whoever may extend volumes may not do so, by Cinder's policy, while they are attached.
            Err(error) if error.kind() == Kind::BackendDenied => {
                tracing::debug!(error = %error.chain(), "a volume does not grow while it is attached");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.extended("in-use").await?;
        attached.until_grown(length).await?;
        Ok(true)
    }

    /// Waits until the volume has its new length.
    async fn extended(&self, to: &str) -> Result<Volume> {
        let extended = self.store.until(&self.volume, &["extending"], &[to], "extend").await;
        extended.map_err(|error| {
            // Where it cannot grow, there is no room.
            Error::new(Kind::Full, error.to_string()).because(error)
        })
    }

    /// Attaches the volume again, which has to begin as it did.
    async fn attach_again(&mut self, volume: &Volume) -> Result<()> {
        let attached = Arc::new(attach(&self.store, volume, Mode::Write, true).await?);
        self.attached = Some(Arc::clone(&attached));
        let known = self.head.len() as u64;
        check_head(&attached, known, &known_by(&self.head)).await
    }

    /// Lets go of the volume. Nothing is in flight.
    async fn detach(&mut self) -> Result<()> {
        let Some(attached) = self.attached.take() else { return Ok(()) };
        let_go(&attached).await?;
        let from = ["in-use", "attaching", "detaching", "reserved"];
        self.store.until(&self.volume, &from, &["available"], "detach").await.map(drop)
    }

    async fn append(&mut self, chunk: Bytes) -> Result<()> {
        while let Some(landed) = self.in_flight.try_join_next() {
            write_result(landed)?;
        }
        let start = self.size;
        let end = start.saturating_add(chunk.len() as u64);
        if end > self.length {
            self.grow(end).await?;
        }
        self.size = end;
        if let Some(room) = HEAD.checked_sub(self.head.len()) {
            self.head.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
        }
        let runs: Vec<_> = zeros::stretches(&chunk, start).collect();
        for (run, holds) in runs {
            if !holds {
                self.zeros(start, run).await?;
                continue;
            }
            let at = start.saturating_add(run.start as u64);
            self.stored = self.stored.saturating_add(run.len() as u64);
            let bytes = chunk.slice(run);
            self.launch(async move |device| device.write(at, bytes).await).await?;
        }
        Ok(())
    }

    /// Has a run of the chunk at `start` read as zeros, if it does not already.
    async fn zeros(&mut self, start: u64, run: Range<usize>) -> Result<()> {
        if self.attached()?.device().is_zero_when_new() {
            return Ok(());
        }
        let from = start.saturating_add(run.start as u64);
        let range = from..start.saturating_add(run.end as u64);
        self.launch(async move |device| device.zero(range).await).await
    }

    /// Sets a call to the device going, when there is room for one more.
    async fn launch<F>(
        &mut self,
        call: impl FnOnce(Arc<dyn super::device::Device>) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let attached = Arc::clone(self.attached()?);
        while self.in_flight.len() >= attached.device().pieces().in_flight {
            self.one_landed().await?;
        }
        let (call, claim) = (call(Arc::clone(attached.device())), self.claim.clone());
        self.in_flight.spawn(async move {
            let done = call.await;
            // In this order: the id is free when nothing is written any more.
            drop((attached, claim));
            done
        });
        Ok(())
    }

    /// Makes the volume an image.
    async fn publish(&mut self, digests: &Digests) -> Result<()> {
        self.all_landed().await?;
        let device = Arc::clone(self.attached()?.device());
        device.flush().await?;
        // Whether it is the same device still.
        if device.size().await? < self.length {
            let what = "the device shrank while the image was written to it";
            return Err(Error::new(Kind::Unavailable, format!("{what}: volume=`{}`", self.volume)));
        }
        drop(device);
        self.detach().await?;
        point::pass("cinder-detached");
        let id = self.claim.id().clone();
        // Of several here, one at a time looks and publishes.
        let _turn = PUBLISHING.of(&(self.store.name.as_str(), id.as_str())).await;
        if self.store.find(&id).await?.is_some() {
            return Err(already_exists(&id, &self.store.name));
        }
        self.store.api.set_read_only(&self.volume).await?;
        point::pass("cinder-readonly");
        let told = Told {
            store: &self.store.name,
            id: &id,
            size: Some(self.size),
            owner: self.owner.as_deref(),
            nonce: self.claim.nonce(),
        };
        let whole = volume::whole(told, Some(known_by(&self.head)), Some(digests));
        self.store.publish(&self.volume, &whole).await?;
        point::pass("cinder-published");
        self.is_first(&id).await
    }

    /// Of two daemons that made an image of one id at a time, the older volume stays.
    async fn is_first(&self, id: &crate::ImageId) -> Result<()> {
        match self.store.find(id).await {
            Ok(Some(found)) if found.id != self.volume => Err(already_exists(id, &self.store.name)),
            // It is there, and nobody says that another is.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Removes what was written, when nothing is in flight any more.
    async fn clear(&mut self) -> Result<()> {
        while let Some(landed) = self.in_flight.join_next().await {
            drop(landed);
        }
        if let Some(attached) = self.attached.take()
            && let Err(error) = let_go(&attached).await
        {
            // It goes with its volume.
            tracing::debug!(error = %error.chain(), "a volume that goes is still attached");
        }
        self.store.remove(&self.volume).await
    }
}

fn write_result(landed: Result<Result<()>, JoinError>) -> Result<()> {
    landed.map_err(|lost| Error::new(Kind::Internal, "a write was lost").because(lost))?
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
        Some(self.volume.as_str())
    }

    async fn commit(self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let (mut this, digests) = (*self, digests.clone());
        let claim = this.claim.clone();
        see_through(claim, async move {
            let Err(error) = this.publish(&digests).await else {
                return Ok(Committed { stored_bytes: this.stored });
            };
            // Whether the image is there is not known.
            if error.kind() == Kind::Timeout {
                return Err(error);
            }
            Err(error.after_clearing(this.clear().await))
        })
        .await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let mut this = *self;
        let claim = this.claim.clone();
        see_through(claim, async move { this.clear().await }).await
    }
}
