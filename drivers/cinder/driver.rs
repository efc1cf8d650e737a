//! The contract, kept by a Cinder.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};

use super::{
    attach::{self, Lease, evict},
    config::Config,
    copy, left, location, needs,
    store::Store,
    upload,
    volume::{Volume, kept},
};
use crate::{
    Location,
    contract::{
        Asker, Body, Capacity, Caps, Claim, Copied, Copies, Digests, Driver, Hold, Host, ImageId,
        Listed, Need, NewImage, Pieces, Properties, Reader, Recovered, Result, Source, Span, Stat,
        Upload, Volumes,
    },
    kit::{
        refusals::{missing, unreached},
        see_through::see_through,
        window::{CHUNK, Window, ends_with_the_last},
    },
};

/// How devices of any kind are read.
const READS: Pieces = Pieces { chunk: CHUNK, in_flight: 4 };

/// Opens the store `name`; see [`crate::open`]. Its server is not asked yet.
///
/// # Errors
/// `Invalid` if the file of certificates cannot be used.
pub async fn open(config: &Config, name: &str, host: &Host) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(Cinder(Arc::new(Store::new(config, name, host)?))))
}

/// Detaches what is attached for reading and nobody reads any more; for the end of the process.
pub async fn let_go() {
    attach::let_go_of_all().await;
}

/// One store in a Cinder.
#[derive(Clone, Debug)]
pub struct Cinder(Arc<Store>);

impl Cinder {
    /// The image in a volume as a reader of `span`.
    async fn reader(
        &self,
        volume: Volume,
        at: Location,
        span: Span,
        window: Window,
    ) -> Result<Reader> {
        let size = volume.image_size()?;
        let range = span.of(size)?;
        let (digests, version) = (volume.digests(), Some(volume.id.to_string()));
        let body = if range.is_empty() {
            futures_util::stream::empty().boxed()
        } else {
            let lease = Arc::new(attach::lease(&self.0, volume).await?);
            bytes_of(lease, range.clone(), window)
        };
        Ok(Reader { at, version, size, range, digests, body: Body::Stream(body) })
    }
}

/// The bytes of `range`, in order, several reads in flight.
fn bytes_of(
    lease: Arc<Lease>,
    range: std::ops::Range<u64>,
    window: Window,
) -> BoxStream<'static, Result<bytes::Bytes>> {
    let pieces = window.pieces(range, READS.in_flight, move |start, buffer| {
        let lease = Arc::clone(&lease);
        async move { lease.device().read(start, buffer).await }
    });
    ends_with_the_last(pieces)
}

#[async_trait]
impl Driver for Cinder {
    fn caps(&self) -> Caps {
        Caps {
            write: true,
            delete: true,
            seek: true,
            list: true,
            copy: true,
            descriptor: false,
            volumes: true,
            flatten: false,
        }
    }

    fn serves(&self, at: &Location) -> bool {
        matches!(at, Location::Cinder(at) if self.0.serves(at))
    }

    fn properties(&self) -> Properties {
        let Config { volume_type, reach, .. } = &self.0.config;
        Properties::from([
            ("volume_type".to_owned(), volume_type.clone().into()),
            ("use_multipath".to_owned(), reach.multipath.into()),
        ])
    }

    fn busy(&self) -> usize {
        self.0.connections.lane.busy()
    }

    fn reads(&self) -> Option<Pieces> {
        Some(READS)
    }

    fn copies(&self) -> Option<&dyn Copies> {
        Some(self)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }

    async fn probe(&self) -> Result<Capacity> {
        let store = &self.0;
        let capacity = store.api.capacity().await?;
        let reason = match &store.config.volume_type {
            Some(wanted) if !store.api.has_type(wanted).await? => Some(format!(
                "Cinder has no such volume type: make it, or name another: cinder_volume_type=`{wanted}`"
            )),
            _ => None,
        };
        *store.reading_only.lock() = reason;
        Ok(capacity)
    }

    fn reading_only(&self) -> Option<String> {
        self.0.reading_only.lock().clone()
    }

    async fn purge(&self) -> Result<()> {
        left::end(&self.0).await
    }

    async fn locate(&self, id: &ImageId) -> Result<Location> {
        let found = self.0.find(id).await?.ok_or_else(|| missing(id, &self.0.name))?;
        Ok(self.0.location(&found.id))
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        upload::create(&self.0, image).await
    }

    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader> {
        let volume = self.0.look(at).await?;
        let at = self.0.location(&volume.id);
        self.reader(volume, at, span, window).await
    }

    async fn stat(&self, at: &Location) -> Result<Stat> {
        let volume = self.0.look(at).await?;
        let (size, version) = (volume.image_size()?, Some(volume.id.to_string()));
        Ok(Stat { size, version, digests: volume.digests() })
    }

    async fn delete(&self, at: &Location, hold: Hold) -> Result<()> {
        let (store, id) = (Arc::clone(&self.0), self.0.volume_at(at)?.clone());
        see_through(hold, async move {
            let _alone = evict(&id).await?;
            let found = store.api.volume(&id).await?.filter(Volume::is_whole);
            let found = found.ok_or_else(|| missing(&id, &store.name))?;
            store.remove_image(&found).await
        })
        .await
    }

    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()> {
        let volume = self.0.look(at).await?.id;
        let (store, digests) = (Arc::clone(&self.0), kept(digests));
        see_through(claim.clone(), async move {
            let there = store.api.add_metadata(&volume, &digests).await?;
            if there { Ok(()) } else { Err(missing(&volume, &store.name)) }
        })
        .await
    }

    async fn recover(&self, claim: &Claim, _token: Option<&str>) -> Result<Recovered> {
        let mut removed = Vec::new();
        let mut whole = false;
        for found in self.0.volumes_of(claim.id()).await? {
            whole |= found.is_whole();
            if !found.is_whole() && found.is_of(claim.nonce()) {
                self.0.remove(&found.id).await?;
                removed.push(format!("volume {}", found.id));
            }
        }
        Ok(match (removed.is_empty(), whole) {
            (false, _) => Recovered::Removed(removed),
            (true, true) => Recovered::Whole,
            (true, false) => Recovered::Nothing,
        })
    }

    async fn is_made_by(&self, at: &Location, claim: &Claim) -> Result<bool> {
        Ok(self.0.look(at).await?.is_of(claim.nonce()))
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let store = Arc::clone(&self.0);
        let listed = move |volume: Volume| {
            let id = volume.image().filter(|_| volume.is_whole())?;
            // One whose length makes no sense is told of by who looks at it.
            let size = volume.image_size().ok()?;
            Some(Listed { id, at: store.location(&volume.id), size, odd: None })
        };
        let all = self.0.all().try_filter_map(move |volume| std::future::ready(Ok(listed(volume))));
        all.boxed()
    }
}

#[async_trait]
impl Copies for Cinder {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        copy::copy(&self.0, &from, claim).await
    }
}

#[async_trait]
impl Volumes for Cinder {
    fn volume(&self, _at: &Location) -> Option<crate::Volume> {
        // A location names an image.
        None
    }

    async fn seal(&self, volume: &crate::Volume, claim: &Claim) -> Result<Source> {
        copy::seal(&self.0, self.of(volume)?, claim).await
    }

    async fn open_sealed(&self, sealed: &Source, window: Window) -> Result<Reader> {
        let id = self.0.volume_at(&sealed.at)?;
        let found = self.0.api.volume(id).await?;
        let found = found.ok_or_else(|| missing(id, &self.0.name))?;
        self.reader(found, sealed.at.clone(), Span::All, window).await
    }

    async fn needs(&self, asker: &Asker<'_>) -> Vec<Need> {
        needs::needs(&self.0, asker).await
    }

    async fn unseal(&self, volume: &crate::Volume, claim: &Claim) -> Result<()> {
        self.of(volume)?;
        copy::unseal(&self.0, claim).await
    }
}

impl Cinder {
    /// The volume, if it is one of Cinder.
    fn of<'a>(&self, volume: &'a crate::Volume) -> Result<&'a location::Volume> {
        match volume {
            crate::Volume::Cinder(volume) => Ok(volume),
            crate::Volume::Rbd(_) => Err(unreached(volume, "cinder", &self.0.name)),
        }
    }
}
