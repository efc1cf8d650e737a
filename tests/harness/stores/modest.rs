//! A driver that can do less than the one it stands on.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use imaged_drivers::{
    Asker, Capacity, Caps, Claim, Copied, Copies, Digests, Driver, Hold, ImageId, Listed, Location,
    Need, NewImage, Part, Pieces, Progress, Properties, Reader, Recovered, Result, Shares, Site,
    Source, Span, Stat, Upload, Volume, Volumes, window::Window,
};

/// The driver `inner` with fewer capabilities: what they deny is an error of whoever calls it.
#[derive(Debug)]
pub(crate) struct Modest {
    pub(crate) inner: Arc<dyn Driver>,
    pub(crate) caps: Caps,
}

impl Modest {
    /// The rule of the contract: what `caps` deny is refused above, and never asked for.
    fn only_if(&self, can: bool, call: &str) {
        assert!(can, "{call} is called although the driver says that it cannot: {:?}", self.caps);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Driver for Modest {
    fn caps(&self) -> Caps {
        self.caps
    }
    fn serves(&self, at: &Location) -> bool {
        self.inner.serves(at)
    }
    fn properties(&self) -> Properties {
        self.inner.properties()
    }
    fn parts(&self) -> Vec<Part> {
        self.inner.parts()
    }
    fn reading_only(&self) -> Option<String> {
        self.inner.reading_only()
    }
    fn sites(&self) -> Vec<Site> {
        self.inner.sites()
    }
    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }
    fn metadata(&self, at: &Location) -> Properties {
        self.inner.metadata(at)
    }
    fn busy(&self) -> usize {
        self.inner.busy()
    }
    fn reads(&self) -> Option<Pieces> {
        self.inner.reads()
    }

    fn writes(&self, size: Option<u64>) -> Option<Pieces> {
        self.inner.writes(size)
    }
    fn place(&self, id: &ImageId) -> Option<Location> {
        self.inner.place(id)
    }
    async fn purge(&self) -> Result<()> {
        self.inner.purge().await
    }
    fn copies(&self) -> Option<&dyn Copies> {
        self.caps.copy.then_some(self as _)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        self.inner.volumes().filter(|_| self.caps.volumes).map(|_| self as _)
    }

    fn shares(&self) -> Option<&dyn Shares> {
        self.inner.shares()
    }

    async fn probe(&self) -> Result<Capacity> {
        self.inner.probe().await
    }
    async fn locate(&self, id: &ImageId) -> Result<Location> {
        self.inner.locate(id).await
    }
    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        self.only_if(self.caps.write, "create");
        self.inner.create(image).await
    }
    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader> {
        self.only_if(self.caps.seek || span == Span::All, "open of a part");
        self.inner.open(at, span, window).await
    }
    async fn stat(&self, at: &Location) -> Result<Stat> {
        self.inner.stat(at).await
    }
    async fn delete(&self, at: &Location, hold: Hold) -> Result<()> {
        // Whoever writes also removes what nobody is to have.
        self.only_if(self.caps.delete || self.caps.write, "delete");
        self.inner.delete(at, hold).await
    }
    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()> {
        self.inner.record(at, claim, digests).await
    }
    async fn recover(&self, claim: &Claim, token: Option<&str>) -> Result<Recovered> {
        self.inner.recover(claim, token).await
    }

    async fn clear_abandoned(&self, id: &ImageId, hold: Hold) -> Result<Recovered> {
        self.inner.clear_abandoned(id, hold).await
    }

    async fn is_made_by(&self, at: &Location, claim: &Claim) -> Result<bool> {
        self.inner.is_made_by(at, claim).await
    }
    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        self.only_if(self.caps.list, "list");
        self.inner.list()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Copies for Modest {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        self.only_if(self.caps.copy, "copy");
        self.inner.copies().unwrap().copy(from, claim).await
    }
    async fn flatten(&self, at: &Location, claim: &Claim, progress: Progress) -> Result<()> {
        self.inner.copies().unwrap().flatten(at, claim, progress).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Volumes for Modest {
    fn volume(&self, at: &Location) -> Option<Volume> {
        self.inner.volumes().unwrap().volume(at)
    }
    async fn seal(&self, volume: &Volume, claim: &Claim) -> Result<Source> {
        self.only_if(self.caps.volumes, "seal");
        self.inner.volumes().unwrap().seal(volume, claim).await
    }
    async fn open_sealed(&self, sealed: &Source, window: Window) -> Result<Reader> {
        self.inner.volumes().unwrap().open_sealed(sealed, window).await
    }
    async fn needs(&self, asker: &Asker<'_>) -> Vec<Need> {
        self.inner.volumes().unwrap().needs(asker).await
    }

    async fn unseal(&self, volume: &Volume, claim: &Claim) -> Result<()> {
        self.inner.volumes().unwrap().unseal(volume, claim).await
    }
}
