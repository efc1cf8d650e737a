//! A driver some of whose calls do other than those of the one it stands on.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use imaged_drivers::{
    Capacity, Caps, Claim, Committed, Copied, Copies, Digests, Driver, Error, Hold, ImageId,
    Listed, Location, NewImage, Pieces, Progress, Properties, Reader, Recovered, Result, Source,
    Span, Stat, Upload, Volumes, window::Window,
};

/// A driver that others stand on.
pub(crate) type Inner = Arc<dyn Driver>;

/// What is other: each call does what `inner` does unless it is written anew.
#[async_trait]
pub(crate) trait Alter: fmt::Debug + Send + Sync + 'static {
    async fn probe(&self, inner: &Inner) -> Result<Capacity> {
        inner.probe().await
    }
    async fn locate(&self, inner: &Inner, id: &ImageId) -> Result<Location> {
        inner.locate(id).await
    }
    async fn create(&self, inner: &Inner, image: &NewImage) -> Result<Box<dyn Upload>> {
        inner.create(image).await
    }
    async fn open(
        &self,
        inner: &Inner,
        at: &Location,
        span: Span,
        window: Window,
    ) -> Result<Reader> {
        inner.open(at, span, window).await
    }
    async fn stat(&self, inner: &Inner, at: &Location) -> Result<Stat> {
        inner.stat(at).await
    }
    async fn delete(&self, inner: &Inner, at: &Location, hold: Hold) -> Result<()> {
        inner.delete(at, hold).await
    }
    async fn copy(&self, inner: &Inner, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        inner.copies().unwrap().copy(from, claim).await
    }
    async fn record(
        &self,
        inner: &Inner,
        at: &Location,
        claim: &Claim,
        digests: &Digests,
    ) -> Result<()> {
        inner.record(at, claim, digests).await
    }
    async fn recover(
        &self,
        inner: &Inner,
        claim: &Claim,
        token: Option<&str>,
    ) -> Result<Recovered> {
        inner.recover(claim, token).await
    }
    fn list(&self, inner: &Inner) -> BoxStream<'static, Result<Listed>> {
        inner.list()
    }
    async fn write(&self, inner: &mut dyn Upload, claim: &Claim, chunk: Bytes) -> Result<()> {
        let _claim = claim;
        inner.write(chunk).await
    }
    async fn commit(
        &self,
        inner: Box<dyn Upload>,
        claim: Claim,
        digests: &Digests,
    ) -> Result<Committed> {
        let _claim = claim;
        inner.commit(digests).await
    }
    async fn abort(&self, inner: Box<dyn Upload>, claim: Claim) -> Result<()> {
        let _claim = claim;
        inner.abort().await
    }
    /// An upload is dropped without its end.
    fn dropped(&self, inner: Box<dyn Upload>, claim: Claim) {
        drop((inner, claim));
    }
}

/// The driver `inner`, altered.
#[derive(Debug)]
pub(crate) struct Altered<A> {
    pub(crate) inner: Inner,
    pub(crate) alter: Arc<A>,
}

#[async_trait]
impl<A: Alter> Driver for Altered<A> {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }
    fn serves(&self, at: &Location) -> bool {
        self.inner.serves(at)
    }
    fn metadata(&self, at: &Location) -> Properties {
        self.inner.metadata(at)
    }
    fn busy(&self) -> usize {
        self.inner.busy()
    }
    fn place(&self, id: &ImageId) -> Option<Location> {
        self.inner.place(id)
    }
    fn reads(&self) -> Option<Pieces> {
        self.inner.reads()
    }

    fn writes(&self, size: Option<u64>) -> Option<Pieces> {
        self.inner.writes(size)
    }
    fn copies(&self) -> Option<&dyn Copies> {
        self.inner.copies().map(|_| self as _)
    }
    fn volumes(&self) -> Option<&dyn Volumes> {
        self.inner.volumes()
    }
    async fn purge(&self) -> Result<()> {
        self.inner.purge().await
    }
    async fn probe(&self) -> Result<Capacity> {
        self.alter.probe(&self.inner).await
    }
    async fn locate(&self, id: &ImageId) -> Result<Location> {
        self.alter.locate(&self.inner, id).await
    }
    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        let inner = self.alter.create(&self.inner, image).await?;
        let (at, claim) = (inner.at().clone(), image.claim.clone());
        Ok(Box::new(Writing {
            alter: Arc::clone(&self.alter),
            at,
            under_way: Some((inner, claim)),
        }))
    }
    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader> {
        self.alter.open(&self.inner, at, span, window).await
    }
    async fn stat(&self, at: &Location) -> Result<Stat> {
        self.alter.stat(&self.inner, at).await
    }
    async fn delete(&self, at: &Location, hold: Hold) -> Result<()> {
        self.alter.delete(&self.inner, at, hold).await
    }
    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()> {
        self.alter.record(&self.inner, at, claim, digests).await
    }
    async fn recover(&self, claim: &Claim, token: Option<&str>) -> Result<Recovered> {
        self.alter.recover(&self.inner, claim, token).await
    }
    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        self.alter.list(&self.inner)
    }
}

#[async_trait]
impl<A: Alter> Copies for Altered<A> {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        self.alter.copy(&self.inner, from, claim).await
    }
    async fn flatten(&self, at: &Location, claim: &Claim, progress: Progress) -> Result<()> {
        self.inner.copies().unwrap().flatten(at, claim, progress).await
    }
}

struct Writing<A: Alter> {
    alter: Arc<A>,
    at: Location,
    under_way: Option<(Box<dyn Upload>, Claim)>,
}

impl<A: Alter> fmt::Debug for Writing<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

#[async_trait]
impl<A: Alter> Upload for Writing<A> {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let (inner, claim) = self.under_way.as_mut().unwrap();
        self.alter.write(&mut **inner, claim, chunk).await
    }
    async fn failing(&mut self) -> Error {
        self.under_way.as_mut().unwrap().0.failing().await
    }
    fn at(&self) -> &Location {
        &self.at
    }
    fn token(&self) -> Option<&str> {
        self.under_way.as_ref().and_then(|(inner, _)| inner.token())
    }
    async fn commit(mut self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let (inner, claim) = self.under_way.take().unwrap();
        self.alter.commit(inner, claim, digests).await
    }
    async fn abort(mut self: Box<Self>) -> Result<()> {
        let (inner, claim) = self.under_way.take().unwrap();
        self.alter.abort(inner, claim).await
    }
}

impl<A: Alter> Drop for Writing<A> {
    fn drop(&mut self) {
        if let Some((inner, claim)) = self.under_way.take() {
            self.alter.dropped(inner, claim);
        }
    }
}
