//! Calls that have not returned although nobody waits for them any more.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use imaged::{digest::Algo, store::Store, transfer::Frame, wire::records::Mode};
use imaged_drivers::{
    Claim, Committed, Copied, Digests, Error, ImageId, Kind, Location, NewImage, Recovered, Result,
    Source, Upload, window::PAGE,
};
use tokio::sync::Semaphore;

use crate::harness::stores::{
    Fixture,
    altered::{Alter, Altered, Inner},
    assert_free, assert_reads, begin,
    content::{Look, image, pieces},
    order, put, soon,
};

/// A driver one of whose calls answers that it took too long, and goes on until it is let go.
#[derive(Debug)]
struct Late {
    call: &'static str,
    /// Whether what goes on holds the claim, as the contract has it.
    holds: bool,
    go_on: Arc<Semaphore>,
    recovered: AtomicUsize,
}

impl Late {
    /// Lets `call` go on by itself, later, and answers.
    fn later<T>(
        &self,
        claim: &Claim,
        call: impl Future<Output = ()> + Send + 'static,
    ) -> Result<T> {
        let (go_on, claim) = (Arc::clone(&self.go_on), self.holds.then(|| claim.clone()));
        tokio::spawn(async move {
            drop(go_on.acquire().await);
            call.await;
            drop(claim);
        });
        Err(Error::new(Kind::Timeout, format!("planted in {}", self.call)))
    }
}

#[async_trait]
impl Alter for Late {
    async fn create(&self, inner: &Inner, image: &NewImage) -> Result<Box<dyn Upload>> {
        if self.call != "create" {
            return inner.create(image).await;
        }
        let (inner, new) = (Arc::clone(inner), image.clone());
        self.later(&image.claim, async move {
            if let Ok(upload) = inner.create(&new).await {
                upload.abort().await.unwrap();
            }
        })
    }

    async fn write(&self, inner: &mut dyn Upload, claim: &Claim, chunk: Bytes) -> Result<()> {
        match self.call {
            "write" => self.later(claim, async move { drop(chunk) }),
            _ => inner.write(chunk).await,
        }
    }

    async fn commit(
        &self,
        inner: Box<dyn Upload>,
        claim: Claim,
        digests: &Digests,
    ) -> Result<Committed> {
        if self.call != "commit" {
            return inner.commit(digests).await;
        }
        let (at, digests) = (inner.at().clone(), digests.clone());
        let late = self.later(&claim, async move {
            // Where its id was given to another meanwhile, that one is there.
            let _committed = inner.commit(&digests).await;
        });
        late.map_err(|error| error.at(at))
    }

    async fn abort(&self, inner: Box<dyn Upload>, claim: Claim) -> Result<()> {
        if self.call != "abort" {
            return inner.abort().await;
        }
        let left = inner.at().to_string();
        let late = self.later(&claim, async move { inner.abort().await.unwrap() });
        late.map_err(|error| error.leaving(left))
    }

    async fn copy(&self, inner: &Inner, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        if self.call != "copy" {
            return inner.copies().unwrap().copy(from, claim).await;
        }
        let (inner, of) = (Arc::clone(inner), claim.clone());
        self.later(claim, async move { drop(inner.copies().unwrap().copy(from, &of).await) })
    }

    async fn recover(
        &self,
        inner: &Inner,
        claim: &Claim,
        token: Option<&str>,
    ) -> Result<Recovered> {
        self.recovered.fetch_add(1, Ordering::Relaxed);
        inner.recover(claim, token).await
    }
}

pub(crate) async fn not_recovered_while_a_call_is_out(f: &Fixture) {
    for call in ["create", "write", "commit", "abort", "copy"] {
        if call != "copy" || f.caps().copy {
            a_call_is_out(f, call, true).await;
        }
    }
}

/// What comes of an id with one call of its upload out; `holds`: that holds the claim.
pub(crate) async fn a_call_is_out(f: &Fixture, call: &'static str, holds: bool) {
    let (go_on, recovered) = (Arc::new(Semaphore::new(0)), AtomicUsize::new(0));
    let alter = Arc::new(Late { call, holds, go_on: Arc::clone(&go_on), recovered });
    let driver = Altered { inner: Arc::clone(&f.driver), alter: Arc::clone(&alter) };
    let (config, shared) = (f.store.config.clone(), f.shared());
    let store = Arc::new(Store::with_driver(config, Arc::clone(shared), Arc::new(driver)));
    let bytes = image(Look::Mixed, 5 * PAGE + 9, 51);
    let (id, source) = (f.id(), f.place(&f.id(), &bytes).await);
    let error = fails(&store, &id, call, &bytes, &source).await;
    assert_eq!(error.kind(), if call == "abort" { Kind::Mismatch } else { Kind::Timeout });
    for _ in 0..3 {
        take_up(f, &store).await;
        assert_eq!(alter.recovered.load(Ordering::Relaxed), 0, "{call} is out: recovered");
        let again = begin(&store, order(&id, None)).leave().await.unwrap_err();
        let refused = matches!(again.kind(), Kind::Unavailable | Kind::Exists);
        assert!(refused, "{call} is out, and its id is given to another: {again:?}");
    }
    go_on.add_permits(1);
    soon("the call to return", async {
        while !shared.ids.is_empty() {
            take_up(f, &store).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    f.remove(&source).await;
    if let Ok(at) = f.driver.locate(&id).await {
        assert_reads(&*f.driver, &at, &bytes, call).await;
        f.remove(&at).await;
    }
    assert_free(f, &id, call).await;
    f.assert_empty().await;
}

/// What is answered when `call` is not.
async fn fails(
    store: &Arc<Store>,
    id: &ImageId,
    call: &str,
    bytes: &Bytes,
    source: &Location,
) -> Error {
    let mut order = order(id, Some(bytes.len() as u64));
    match call {
        "copy" => {
            (order.size, order.choice.algo) = (None, Algo::Sha256);
            let from = (Arc::clone(store), source.clone());
            Arc::clone(store).copy(order, from.0, from.1, Mode::Clone).await.unwrap_err()
        }
        "abort" => {
            let running = begin(store, order);
            running.give(&pieces(bytes, 2 * PAGE)[..2]).await;
            running.end(Frame::End).await.unwrap_err()
        }
        _ => put(store, order, bytes).await.unwrap_err(),
    }
}

/// Gives what nobody owns any more to the store.
async fn take_up(f: &Fixture, store: &Arc<Store>) {
    for (intent, begun) in f.shared().ids.left_over() {
        store.take_up(&intent, begun).await;
    }
}
