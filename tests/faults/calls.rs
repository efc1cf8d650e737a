//! Every call of every scenario, failed in each way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use imaged::{
    digest::Algo,
    store::Store,
    transfer::Frame,
    wire::records::{Mode, State},
};
use imaged_drivers::{
    Caps, Error, Hold, ImageId, Kind, Location, Result, Span, memory::Share, window::PAGE,
};

use super::faulty::{FAILURES, Failure, Faulty, Script};
use crate::harness::stores::{
    self, Fixture, assert_free, assert_reads, begin,
    content::{Look, digests, image, pieces},
    drained, order, soon,
};

/// What is done, with one call failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    PutKnown,
    PutUnknown,
    /// A put whose body is short, so that it is aborted.
    PutShort,
    CopyInside,
    CopyThrough,
    /// A copy inside the backend, whose digests are computed before the answer.
    CopyDigested,
    Get,
    Delete,
}

/// A store over a faulty driver, and what is done with it.
struct Stage<'a> {
    f: &'a Fixture,
    store: Arc<Store>,
    script: Arc<Script>,
    scenario: Scenario,
    bytes: Bytes,
}

impl<'a> Stage<'a> {
    fn new(f: &'a Fixture, scenario: Scenario) -> Self {
        let script = Arc::new(Script::default());
        let streams = matches!(scenario, Scenario::CopyThrough | Scenario::Get);
        let driver = Faulty { inner: Arc::clone(&f.driver), script: Arc::clone(&script), streams };
        let (config, shared) = (f.store.config.clone(), Arc::clone(f.shared()));
        let store = Arc::new(Store::with_driver(config, shared, Arc::new(driver)));
        Self { f, store, script, scenario, bytes: image(Look::Mixed, 5 * PAGE + 9, 21) }
    }

    /// Does it once, with an image at `at` for those that need one.
    async fn run(&self, id: &ImageId, at: &Location) -> Result<()> {
        let size = self.bytes.len() as u64;
        let copy = async |mode, algo| {
            let mut put = order(id, None);
            put.choice.algo = algo;
            let store = Arc::clone(&self.store);
            let receipt = Arc::clone(&self.store).copy(put, store, at.clone(), mode).await?;
            // Where the source's digests are not known, they follow.
            if let Some(job) = receipt.digest_job {
                self.f.shared().jobs.get(&job, Duration::from_secs(60)).await?;
            }
            Ok(())
        };
        match self.scenario {
            Scenario::PutKnown | Scenario::PutUnknown | Scenario::PutShort => {
                let known = (self.scenario != Scenario::PutUnknown).then_some(size);
                let running = begin(&self.store, order(id, known));
                let mut chunks = pieces(&self.bytes, 2 * PAGE);
                if self.scenario == Scenario::PutShort {
                    chunks.pop();
                }
                running.give(&chunks).await;
                running.end(Frame::End).await.map(drop)
            }
            Scenario::CopyInside => copy(Mode::Clone, Algo::Sha256).await,
            Scenario::CopyThrough => copy(Mode::Stream, Algo::Sha256).await,
            Scenario::CopyDigested => copy(Mode::Copy, Algo::Sha1).await,
            Scenario::Get => {
                let reader =
                    self.store.open(at, Span::All, PAGE, Share::Get("main".into())).await?;
                let found = drained(reader.body.into_stream()).await?;
                assert_eq!(found, self.bytes, "what is told to be whole is whole");
                Ok(())
            }
            Scenario::Delete => self.store.delete(at, "r").await,
        }
    }

    /// A copy of what is at `at`, whose digests cannot be kept and wait to be tried again: where it is, and their job.
    async fn copy_that_waits(&self, id: &ImageId, at: &Location) -> (Location, String) {
        self.script.always("record", FAILURES[1]);
        let mut put = order(id, None);
        put.choice.algo = Algo::Sha384;
        let store = Arc::clone(&self.store);
        let receipt = Arc::clone(&store).copy(put, store, at.clone(), Mode::Clone).await.unwrap();
        let job = receipt.digest_job.unwrap();
        soon("the digests to wait", async {
            while self.job(&job).await != State::Waiting {
                tokio::task::yield_now().await;
            }
        })
        .await;
        (receipt.location.parse().unwrap(), job)
    }

    async fn job(&self, job: &str) -> State {
        self.f.shared().jobs.get(job, Duration::ZERO).await.unwrap().state
    }

    /// Gives what the journal kept to the store.
    async fn replay(&self) {
        for (intent, claim) in self.f.shared().ids.left_over() {
            self.store.take_up(&intent, claim).await;
        }
    }

    /// Does so until nothing is kept: what was dropped may still be on its way out.
    async fn resolve(&self, what: &str) {
        soon(what, async {
            while !self.f.shared().ids.is_empty() {
                self.replay().await;
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Runs the scenario with the `nth` call failing, and looks at what is there then.
    async fn fail(&self, nth: usize, failure: Failure, call: &str) {
        let what = format!("{:?}, call {nth} ({call}) fails by {failure:?}", self.scenario);
        let (f, driver) = (self.f, &self.f.driver);
        let (id, source) = (f.id(), f.id());
        let at = f.place(&source, &self.bytes).await;
        self.script.plan(Some((nth, failure)));
        let ended = self.run(&id, &at).await;
        self.script.plan(None);
        // Until it is resolved, an id that may be in use is not given to another.
        let kept = !f.shared().ids.is_empty();
        self.resolve(&what).await;
        let there = driver.locate(&id).await.ok();
        if self.scenario == Scenario::Delete {
            let error = ended.expect_err(&what);
            assert_eq!(error.kind(), failure.kind, "{what}: {error:?}");
            if !failure.done {
                assert_reads(&**driver, &at, &self.bytes, &what).await;
                f.remove(&at).await;
            }
        } else {
            self.judge(ended.as_ref().err(), failure, call, there.is_some(), kept, &what);
            assert_reads(&**driver, &at, &self.bytes, &what).await;
            f.remove(&at).await;
        }
        if let Some(at) = there {
            assert_reads(&**driver, &at, &self.bytes, &what).await;
            if let Some(kept) = driver.stat(&at).await.unwrap().digests {
                assert_eq!(kept, digests(&self.bytes, kept.hash_algo.parse().unwrap()), "{what}");
            }
            f.remove(&at).await;
        }
        assert_free(f, &id, &what).await;
        f.assert_empty().await;
    }

    fn judge(
        &self,
        ended: Option<&Error>,
        failure: Failure,
        call: &str,
        there: bool,
        kept: bool,
        what: &str,
    ) {
        let Some(error) = ended else {
            // Digests are tried again until they are known.
            let digests = matches!(self.scenario, Scenario::CopyInside | Scenario::CopyDigested)
                && matches!(call, "locate" | "open" | "record");
            assert!(digests, "{what}: a fault went unnoticed");
            assert!(there, "{what}");
            return;
        };
        let aborting = call == "abort";
        let kind = if aborting { Kind::Mismatch } else { failure.kind };
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        assert_eq!(error.left().is_some(), aborting, "{what}: {error:?}");
        // Of what did not answer only this is known: where it would be, and that it is looked at.
        let unknown = failure.kind == Kind::Timeout && matches!(call, "create" | "commit" | "copy");
        assert_eq!(error.location().is_some(), unknown, "{what}: {error:?}");
        assert_eq!(kept, unknown || aborting, "{what}: the journal");
        assert_eq!(there, unknown && failure.done && call != "create", "{what}: the image");
    }
}

/// Counts the calls of a scenario, then fails each of them in each way.
async fn exhaust(f: &Fixture, scenario: Scenario, failures: &[Failure]) {
    let stage = Stage::new(f, scenario);
    let (id, source) = (f.id(), f.id());
    let at = f.place(&source, &stage.bytes).await;
    stage.script.plan(None);
    let whole = stage.run(&id, &at).await;
    let calls = stage.script.plan(None);
    assert_eq!(whole.is_err(), scenario == Scenario::PutShort, "{scenario:?}: {whole:?}");
    assert!(!calls.is_empty());
    for id in [id, source] {
        if let Ok(at) = f.driver.locate(&id).await {
            f.remove(&at).await;
        }
    }
    f.assert_empty().await;
    for failure in failures {
        for (nth, call) in (1..).zip(&calls) {
            stage.fail(nth, *failure, call).await;
        }
    }
}

impl Scenario {
    /// Whether there is such a thing in a store that can do this.
    fn applies(self, caps: Caps) -> bool {
        match self {
            Self::PutKnown | Self::PutUnknown | Self::PutShort | Self::CopyThrough => caps.write,
            Self::CopyInside | Self::CopyDigested => caps.copy,
            Self::Delete => caps.delete,
            Self::Get => true,
        }
    }
}

/// One test for each scenario and each kind of store, but for those on a cluster: the other suite fails
/// every call that their driver makes of it.
macro_rules! each_call {
    (rbd: $name:ident) => {};
    ($kind:ident: $name:ident) => {
        mod $name {
            use super::*;
            each_call! { of $name
                a_put_of_known_size_fails: PutKnown, &FAILURES;
                a_put_of_unknown_size_fails: PutUnknown, &FAILURES;
                a_short_put_fails: PutShort, &FAILURES;
                a_copy_inside_fails: CopyInside, &FAILURES;
                a_copy_through_the_daemon_fails: CopyThrough, &FAILURES;
                // Digests wait before they are tried again: once is enough.
                a_copy_with_digests_fails: CopyDigested, &FAILURES[1..2];
                a_get_fails: Get, &FAILURES;
                a_delete_fails: Delete, &FAILURES;
            }
        }
    };
    (of $name:ident $($test:ident: $scenario:ident, $failures:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let f = stores::$name().await;
            if Scenario::$scenario.applies(f.caps()) {
                exhaust(&f, Scenario::$scenario, $failures).await;
            }
        }
    )*};
}

mod each_call_of {
    use super::*;
    every_store!(each_call);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_fails_is_tried_again() {
    let f = stores::file_staged().await;
    let stage = Stage::new(&f, Scenario::PutShort);
    let (id, at) = (f.id(), "mem://main/x".parse().unwrap());
    stage.script.plan(None);
    stage.run(&id, &at).await.unwrap_err();
    let last = stage.script.plan(None).len();
    let failure = FAILURES[1];
    stage.script.plan(Some((last, failure)));
    let error = stage.run(&id, &at).await.unwrap_err();
    assert!(error.left().is_some(), "the abort failed: {error:?}");
    for _ in 0..3 {
        stage.script.plan(Some((1, failure)));
        // What was dropped may still be on its way out, and owns the id as long.
        let calls = soon("a recovery", async {
            loop {
                stage.replay().await;
                let calls = stage.script.plan(Some((1, failure)));
                if !calls.is_empty() {
                    break calls;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(calls, ["recover"]);
        stage.script.plan(None);
        assert_eq!(f.shared().ids.len(), 1, "the intent stays");
        let again = begin(&stage.store, order(&id, None)).leave().await;
        assert_eq!(again.unwrap_err().kind(), Kind::Unavailable, "and the id is not free");
    }
    stage.resolve("recovered").await;
    assert_free(&f, &id, "recovered").await;
    f.assert_empty().await;
}

/// A copy whose digests cannot be promised, because the journal cannot be written any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_whose_digests_cannot_be_promised_is_not_left_behind() {
    let f = stores::file().await;
    let bytes = image(Look::Random, 1000, 1);
    let at = f.place(&f.id(), &bytes).await;
    let journal = f.home().join("state/journal");
    let away = f.home().join("state/away");
    let driver = Arc::new(Moving { inner: Arc::clone(&f.driver), from: journal, to: away });
    let (config, shared) = (f.store.config.clone(), Arc::clone(f.shared()));
    let store = Arc::new(Store::with_driver(config, shared, driver));
    let id = f.id();
    let mut put = order(&id, None);
    put.choice.algo = Algo::Blake2b;
    let copied = Arc::clone(&store).copy(put, Arc::clone(&store), at.clone(), Mode::Clone).await;
    assert_eq!(copied.unwrap_err().kind(), Kind::Unavailable);
    f.settle().await;
    f.remove(&at).await;
    assert_free(&f, &id, "the copy").await;
    f.assert_empty().await;
}

/// A driver that takes a directory away with each copy, until the next delete.
#[derive(Debug)]
struct Moving {
    inner: Arc<dyn imaged_drivers::Driver>,
    from: std::path::PathBuf,
    to: std::path::PathBuf,
}

#[async_trait::async_trait]
impl imaged_drivers::Driver for Moving {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }
    async fn purge(&self) -> Result<()> {
        self.inner.purge().await
    }

    fn copies(&self) -> Option<&dyn imaged_drivers::Copies> {
        self.inner.copies().map(|_| self as _)
    }

    async fn probe(&self) -> Result<imaged_drivers::Capacity> {
        self.inner.probe().await
    }
    async fn locate(&self, id: &ImageId) -> Result<Location> {
        self.inner.locate(id).await
    }
    async fn create(
        &self,
        image: &imaged_drivers::NewImage,
    ) -> Result<Box<dyn imaged_drivers::Upload>> {
        self.inner.create(image).await
    }
    async fn open(
        &self,
        at: &Location,
        span: Span,
        window: imaged_drivers::window::Window,
    ) -> Result<imaged_drivers::Reader> {
        self.inner.open(at, span, window).await
    }
    async fn stat(&self, at: &Location) -> Result<imaged_drivers::Stat> {
        self.inner.stat(at).await
    }
    async fn delete(&self, at: &Location, hold: Hold) -> Result<()> {
        std::fs::rename(&self.to, &self.from).unwrap();
        self.inner.delete(at, hold).await
    }
    async fn record(
        &self,
        at: &Location,
        claim: &imaged_drivers::Claim,
        digests: &imaged_drivers::Digests,
    ) -> Result<()> {
        self.inner.record(at, claim, digests).await
    }
    async fn recover(
        &self,
        claim: &imaged_drivers::Claim,
        token: Option<&str>,
    ) -> Result<imaged_drivers::Recovered> {
        self.inner.recover(claim, token).await
    }
    fn list(&self) -> futures_util::stream::BoxStream<'static, Result<imaged_drivers::Listed>> {
        self.inner.list()
    }
}

#[async_trait::async_trait]
impl imaged_drivers::Copies for Moving {
    async fn copy(
        &self,
        from: imaged_drivers::Source,
        claim: &imaged_drivers::Claim,
    ) -> Result<Option<imaged_drivers::Copied>> {
        let copied = self.inner.copies().unwrap().copy(from, claim).await;
        std::fs::rename(&self.from, &self.to).unwrap();
        copied
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn digests_that_could_not_be_kept_are_tried_again() {
    let f = stores::file().await;
    let stage = Stage::new(&f, Scenario::CopyDigested);
    let at = f.place(&f.id(), &stage.bytes).await;
    let id = f.id();
    let mut put = order(&id, None);
    put.choice.algo = Algo::Sha384;
    // open, copy, locate, open, record
    stage.script.plan(Some((5, FAILURES[0])));
    let store = Arc::clone(&stage.store);
    let receipt = Arc::clone(&store).copy(put, store, at.clone(), Mode::Clone).await.unwrap();
    let job = receipt.digest_job.unwrap();
    let view = f.shared().jobs.get(&job, Duration::from_secs(60)).await.unwrap();
    assert_eq!(view.state, State::Done);
    assert_eq!(stage.script.plan(None).iter().filter(|call| **call == "record").count(), 2);
    let copy: Location = receipt.location.parse().unwrap();
    let kept = f.driver.stat(&copy).await.unwrap().digests;
    assert_eq!(kept, Some(digests(&stage.bytes, Algo::Sha384)));
    f.remove(&copy).await;
    f.remove(&at).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_a_deleted_image_is_free_although_its_digests_were_still_to_come() {
    let f = stores::file().await;
    let stage = Stage::new(&f, Scenario::CopyDigested);
    let (at, id) = (f.place(&f.id(), &stage.bytes).await, f.id());
    for _ in 0..3 {
        let (copy, job) = stage.copy_that_waits(&id, &at).await;
        let elsewhere = format!("file:///nowhere/{id}").parse().unwrap();
        stage.store.delete(&elsewhere, "r").await.unwrap_err();
        assert_eq!(stage.job(&job).await, State::Waiting);
        stage.store.delete(&copy, "r").await.unwrap();
        assert_eq!(stage.job(&job).await, State::Cancelled);
        assert!(f.shared().ids.is_empty());
    }
    f.remove(&at).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_waits_until_digests_that_it_ended_have_let_go_of_the_image() {
    let f = stores::file().await;
    let stage = Stage::new(&f, Scenario::CopyDigested);
    let at = f.place(&f.id(), &stage.bytes).await;
    for others_have_it_open in [false, true] {
        let (copy, job) = stage.copy_that_waits(&f.id(), &at).await;
        stage.script.always("delete", Failure { kind: Kind::InUse, done: false });
        let (store, to) = (Arc::clone(&stage.store), copy.clone());
        let deleting = tokio::spawn(async move { store.delete(&to, "r").await });
        soon("the digests to be ended", async {
            while stage.job(&job).await != State::Cancelled || !f.shared().ids.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        if others_have_it_open {
            let refused = soon("the delete", deleting).await.unwrap().unwrap_err();
            assert_eq!(refused.kind(), Kind::InUse);
            soon("the digests to be there all the same", async {
                while f.driver.stat(&copy).await.unwrap().digests.is_none() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            f.remove(&copy).await;
            continue;
        }
        soon("it to be tried again", async {
            let mut tries = 0;
            while tries < 5 {
                let calls = stage.script.plan(None);
                tries += calls.into_iter().filter(|call| *call == "delete").count();
                tokio::task::yield_now().await;
            }
        })
        .await;
        stage.script.always("nothing", FAILURES[0]);
        soon("the delete", deleting).await.unwrap().unwrap();
    }
    f.remove(&at).await;
    f.assert_empty().await;
}
