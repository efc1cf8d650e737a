//! A driver whose n-th call fails.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use imaged_drivers::{
    Asker, Body, Capacity, Caps, Claim, Committed, Copied, Copies, Digests, Driver, Error, Hold,
    ImageId, Kind, Listed, Location, Need, NewImage, Part, Pieces, Progress, Properties, Reader,
    Recovered, Result, Shares, Site, Source, Span, Stat, Upload, Volume, Volumes, window::Window,
};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// The backend did what was asked, and only the answer was lost: the other half of `Timeout`.
    pub(super) done: bool,
}

/// Every way in which a call may fail.
pub(super) const FAILURES: [Failure; 5] = [
    Failure { kind: Kind::Full, done: false },
    Failure { kind: Kind::Unavailable, done: false },
    Failure { kind: Kind::Internal, done: false },
    Failure { kind: Kind::Timeout, done: false },
    Failure { kind: Kind::Timeout, done: true },
];

/// Counts the calls, and knows which one is to fail.
#[derive(Debug, Default)]
pub(super) struct Script(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    calls: Vec<&'static str>,
    fail: Option<(usize, Failure)>,
    always: Option<(&'static str, Failure)>,
}

impl Script {
    /// From now on the `nth` call fails so. Gives the calls since the last plan.
    pub(super) fn plan(&self, fail: Option<(usize, Failure)>) -> Vec<&'static str> {
        let mut plan = self.0.lock().unwrap();
        plan.fail = fail;
        std::mem::take(&mut plan.calls)
    }

    /// From now on every call of this name fails so.
    pub(super) fn always(&self, name: &'static str, failure: Failure) {
        self.0.lock().unwrap().always = Some((name, failure));
    }

    fn call(&self, name: &'static str) -> Option<Failure> {
        let mut plan = self.0.lock().unwrap();
        plan.calls.push(name);
        if let Some((_, failure)) = plan.always.filter(|(always, _)| *always == name) {
            return Some(failure);
        }
        let now = plan.calls.len();
        plan.fail.filter(|(nth, _)| *nth == now).map(|(_, failure)| failure)
    }

    /// A call that either is done or is not.
    async fn pass<T>(
        &self,
        name: &'static str,
        inner: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.call(name) {
            None => inner.await,
            Some(failure) => {
                if failure.done {
                    drop(inner.await?);
                }
                Err(planted(name, failure))
            }
        }
    }
}

fn planted(name: &str, failure: Failure) -> Error {
    Error::new(failure.kind, format!("planted in {name}"))
}

/// The driver `inner`, as `script` lets it.
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) inner: Arc<dyn Driver>,
    pub(super) script: Arc<Script>,
    /// Whether images are read chunk by chunk, so that a chunk can fail.
    pub(super) streams: bool,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Driver for Faulty {
    fn caps(&self) -> Caps {
        self.inner.caps()
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

    fn reads(&self) -> Option<Pieces> {
        self.inner.reads()
    }

    fn writes(&self, size: Option<u64>) -> Option<Pieces> {
        self.inner.writes(size)
    }

    fn busy(&self) -> usize {
        self.inner.busy()
    }

    fn place(&self, id: &ImageId) -> Option<Location> {
        self.inner.place(id)
    }

    async fn purge(&self) -> Result<()> {
        self.script.pass("purge", self.inner.purge()).await
    }

    fn copies(&self) -> Option<&dyn Copies> {
        self.inner.copies().map(|_| self as _)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        self.inner.volumes().map(|_| self as _)
    }

    fn shares(&self) -> Option<&dyn Shares> {
        self.inner.shares()
    }

    async fn probe(&self) -> Result<Capacity> {
        self.script.pass("probe", self.inner.probe()).await
    }

    async fn locate(&self, id: &ImageId) -> Result<Location> {
        self.script.pass("locate", self.inner.locate(id)).await
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        let inner = self.script.pass("create", self.inner.create(image)).await?;
        Ok(Box::new(Writing { inner, script: Arc::clone(&self.script) }))
    }

    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader> {
        let mut reader = self.script.pass("open", self.inner.open(at, span, window)).await?;
        if self.streams {
            let script = Arc::clone(&self.script);
            let extents = reader.body.into_extents().map(move |next| match script.call("read") {
                None => next,
                Some(failure) => Err(planted("read", failure)),
            });
            reader.body = Body::Extents(extents.boxed());
        }
        Ok(reader)
    }

    async fn stat(&self, at: &Location) -> Result<Stat> {
        self.script.pass("stat", self.inner.stat(at)).await
    }

    async fn delete(&self, at: &Location, hold: Hold) -> Result<()> {
        self.script.pass("delete", self.inner.delete(at, hold)).await
    }

    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()> {
        self.script.pass("record", self.inner.record(at, claim, digests)).await
    }

    async fn recover(&self, claim: &Claim, token: Option<&str>) -> Result<Recovered> {
        self.script.pass("recover", self.inner.recover(claim, token)).await
    }

    async fn clear_abandoned(&self, id: &ImageId, hold: Hold) -> Result<Recovered> {
        self.script.pass("clear_abandoned", self.inner.clear_abandoned(id, hold)).await
    }

    async fn is_made_by(&self, at: &Location, claim: &Claim) -> Result<bool> {
        self.script.pass("is_made_by", self.inner.is_made_by(at, claim)).await
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        self.inner.list()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Copies for Faulty {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        self.script.pass("copy", self.inner.copies().unwrap().copy(from, claim)).await
    }

    async fn flatten(&self, at: &Location, claim: &Claim, progress: Progress) -> Result<()> {
        self.script.pass("flatten", self.inner.copies().unwrap().flatten(at, claim, progress)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Volumes for Faulty {
    fn volume(&self, at: &Location) -> Option<Volume> {
        self.inner.volumes().unwrap().volume(at)
    }

    async fn seal(&self, volume: &Volume, claim: &Claim) -> Result<Source> {
        self.script.pass("seal", self.inner.volumes().unwrap().seal(volume, claim)).await
    }

    async fn open_sealed(&self, sealed: &Source, window: Window) -> Result<Reader> {
        self.script
            .pass("open_sealed", self.inner.volumes().unwrap().open_sealed(sealed, window))
            .await
    }

    async fn needs(&self, asker: &Asker<'_>) -> Vec<Need> {
        self.inner.volumes().unwrap().needs(asker).await
    }

    async fn unseal(&self, volume: &Volume, claim: &Claim) -> Result<()> {
        self.script.pass("unseal", self.inner.volumes().unwrap().unseal(volume, claim)).await
    }
}

#[derive(Debug)]
struct Writing {
    inner: Box<dyn Upload>,
    script: Arc<Script>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upload for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.script.pass("write", self.inner.write(chunk)).await
    }

    async fn skip(&mut self, len: u64) -> Result<()> {
        self.script.pass("write", self.inner.skip(len)).await
    }

    async fn failing(&mut self) -> Error {
        self.inner.failing().await
    }

    fn at(&self) -> &Location {
        self.inner.at()
    }

    fn token(&self) -> Option<&str> {
        self.inner.token()
    }

    async fn commit(self: Box<Self>, digests: &Digests) -> Result<Committed> {
        match self.script.call("commit") {
            None => self.inner.commit(digests).await,
            Some(failure) => {
                match failure {
                    Failure { done: true, .. } => drop(self.inner.commit(digests).await?),
                    // What it had written stays where it is, and nobody knows.
                    Failure { kind: Kind::Timeout, .. } => drop(self.inner),
                    // The contract: nothing is visible, and nothing is left.
                    Failure { .. } => self.inner.abort().await?,
                }
                Err(planted("commit", failure))
            }
        }
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        match self.script.call("abort") {
            None => self.inner.abort().await,
            Some(failure) => {
                let what = self.inner.at().to_string();
                if failure.done {
                    self.inner.abort().await?;
                }
                Err(planted("abort", failure).leaving(what))
            }
        }
    }
}
