//! A driver that promises less than it can do.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use imaged_drivers::{
    Capacity, Caps, Copied, Digests, Driver, ImageId, Listed, Location, Part, Progress, Properties,
    Reader, Recovered, Result, Source, Span, Stat, Upload, Volume, window::Window,
};

/// A driver that says it can do less than it can: whoever calls it must respect that.
#[derive(Debug)]
pub(super) struct Modest {
    pub(super) inner: Arc<dyn Driver>,
    pub(super) caps: Caps,
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
    fn metadata(&self, at: &Location) -> Properties {
        self.inner.metadata(at)
    }
    fn busy(&self) -> usize {
        self.inner.busy()
    }
    fn reads(&self) -> Option<(usize, usize)> {
        self.inner.reads()
    }
    fn place(&self, id: &ImageId) -> Option<Location> {
        self.inner.place(id)
    }
    async fn purge(&self) -> Result<()> {
        self.inner.purge().await
    }
    async fn probe(&self) -> Result<Capacity> {
        self.inner.probe().await
    }
    async fn locate(&self, id: &ImageId) -> Result<Location> {
        self.inner.locate(id).await
    }
    async fn create(&self, id: &ImageId, size: Option<u64>) -> Result<Box<dyn Upload>> {
        self.inner.create(id, size).await
    }
    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader> {
        self.inner.open(at, span, window).await
    }
    async fn stat(&self, at: &Location) -> Result<Stat> {
        self.inner.stat(at).await
    }
    async fn delete(&self, at: &Location) -> Result<()> {
        self.inner.delete(at).await
    }
    async fn copy(&self, from: Source, id: &ImageId) -> Result<Option<Copied>> {
        self.inner.copy(from, id).await
    }
    async fn flatten(&self, at: &Location, progress: Progress) -> Result<()> {
        self.inner.flatten(at, progress).await
    }
    fn volume(&self, at: &Location) -> Option<Volume> {
        self.inner.volume(at)
    }
    async fn seal(&self, volume: &Volume, id: &ImageId) -> Result<Source> {
        self.inner.seal(volume, id).await
    }
    async fn open_sealed(&self, sealed: &Source, window: Window) -> Result<Reader> {
        self.inner.open_sealed(sealed, window).await
    }
    async fn unseal(&self, volume: &Volume, id: &ImageId) -> Result<()> {
        self.inner.unseal(volume, id).await
    }
    async fn record(&self, at: &Location, digests: &Digests) -> Result<()> {
        self.inner.record(at, digests).await
    }
    async fn recover(&self, id: &ImageId) -> Result<Recovered> {
        self.inner.recover(id).await
    }
    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        self.inner.list()
    }
}
