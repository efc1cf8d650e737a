//! Drivers with one fault each, as those who wrote drivers have made them: the suite sees every one. A
//! fault is planted in a driver that passes the same case without it.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use imaged_drivers::{
    Capacity, Claim, Committed, Digests, Driver, Hold, ImageId, Kind, Listed, Location, NewImage,
    Reader, Recovered, Result, Span, Stat, Upload, mem, window::Window,
};

use crate::{
    conformance::{clauses, lasting, late},
    harness::stores::{
        self, Fixture, Lasting,
        altered::{Alter, Altered, Inner},
    },
};

/// What a driver in memory does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// What is committed lies in the driver, and dies with it.
    CommitsToItself,
    /// The digests of a commit lie in the driver, and die with it.
    KeepsDigestsToItself,
    /// `recover` finds nothing, whatever there is.
    RecoversNothing,
    /// `abort` does nothing, and `probe` says that no space is taken.
    AbortsNothing,
    /// An image can be located before it is whole.
    ShowsTooEarly,
    /// The list lacks an image.
    ListsTooLittle,
    /// A span begins a byte too early.
    SpansAreOffByOne,
    /// What `record` is given is forgotten.
    RecordsNothing,
    /// A commit replaces the image that has its id.
    Replaces,
    /// To delete what is not there succeeds.
    DeletesAnything,
    /// Every other chunk is lost.
    LosesWrites,
}

/// What a fault needs to know; one for all drivers over the same backend.
#[derive(Debug)]
struct Planted {
    fault: Fault,
    /// How many drivers there were over the backend.
    opened: AtomicUsize,
    writes: AtomicUsize,
    /// Uploads that were not ended, by their nonce: what they leave in the backend.
    left: Mutex<BTreeMap<String, Box<dyn Upload>>>,
    under_way: Mutex<BTreeMap<ImageId, Location>>,
}

impl Planted {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn leave(&self, upload: Box<dyn Upload>, claim: &Claim) {
        self.left.lock().unwrap().insert(claim.nonce().to_owned(), upload);
    }
}

#[async_trait]
impl Alter for Planted {
    async fn probe(&self, inner: &Inner) -> Result<Capacity> {
        let mut found = inner.probe().await?;
        if self.is(Fault::AbortsNothing) {
            found.used = Some(0);
        }
        Ok(found)
    }

    async fn locate(&self, inner: &Inner, id: &ImageId) -> Result<Location> {
        let found = inner.locate(id).await;
        match self.under_way.lock().unwrap().get(id) {
            Some(at) if self.is(Fault::ShowsTooEarly) => Ok(at.clone()),
            _ => found,
        }
    }

    async fn create(&self, inner: &Inner, image: &NewImage) -> Result<Box<dyn Upload>> {
        let id = image.claim.id().clone();
        if self.is(Fault::Replaces)
            && let Ok(at) = inner.locate(&id).await
        {
            inner.delete(&at, Hold::default()).await?;
        }
        // What is left behind is in the backend, and owns nothing.
        let claim = Claim::new(id.clone(), image.claim.nonce(), Arc::new(()));
        let upload = inner.create(&NewImage { claim, ..image.clone() }).await?;
        self.under_way.lock().unwrap().insert(id, upload.at().clone());
        Ok(upload)
    }

    async fn open(
        &self,
        inner: &Inner,
        at: &Location,
        span: Span,
        window: Window,
    ) -> Result<Reader> {
        let reader = inner.open(at, span, window.clone()).await?;
        let (from, to) = (reader.range.start, reader.range.end);
        if from == 0 || !self.is(Fault::SpansAreOffByOne) {
            return Ok(reader);
        }
        let before = inner.open(at, Span::Part(from - 1, to - 1), window).await?;
        Ok(Reader { body: before.body, ..reader })
    }

    async fn stat(&self, inner: &Inner, at: &Location) -> Result<Stat> {
        let mut found = inner.stat(at).await?;
        if self.is(Fault::KeepsDigestsToItself) && self.opened.load(Ordering::Relaxed) > 1 {
            found.digests = None;
        }
        Ok(found)
    }

    async fn delete(&self, inner: &Inner, at: &Location, hold: Hold) -> Result<()> {
        match inner.delete(at, hold).await {
            Err(error) if error.kind() == Kind::NotFound && self.is(Fault::DeletesAnything) => {
                Ok(())
            }
            deleted => deleted,
        }
    }

    async fn record(
        &self,
        inner: &Inner,
        at: &Location,
        claim: &Claim,
        digests: &Digests,
    ) -> Result<()> {
        match self.is(Fault::RecordsNothing) {
            true => inner.stat(at).await.map(drop),
            false => inner.record(at, claim, digests).await,
        }
    }

    async fn recover(
        &self,
        inner: &Inner,
        claim: &Claim,
        token: Option<&str>,
    ) -> Result<Recovered> {
        let found = inner.recover(claim, token).await?;
        if self.is(Fault::RecoversNothing) {
            return Ok(found);
        }
        Ok(match self.left.lock().unwrap().remove(claim.nonce()) {
            Some(upload) => Recovered::Removed(vec![upload.at().to_string()]),
            None => found,
        })
    }

    fn list(&self, inner: &Inner) -> BoxStream<'static, Result<Listed>> {
        let skipped = usize::from(self.is(Fault::ListsTooLittle));
        inner.list().skip(skipped).boxed()
    }

    async fn write(&self, inner: &mut dyn Upload, claim: &Claim, chunk: Bytes) -> Result<()> {
        let _claim = claim;
        let nth = self.writes.fetch_add(1, Ordering::Relaxed);
        match self.is(Fault::LosesWrites) && !nth.is_multiple_of(2) {
            true => Ok(()),
            false => inner.write(chunk).await,
        }
    }

    async fn commit(
        &self,
        inner: Box<dyn Upload>,
        claim: Claim,
        digests: &Digests,
    ) -> Result<Committed> {
        self.under_way.lock().unwrap().remove(claim.id());
        inner.commit(digests).await
    }

    async fn abort(&self, inner: Box<dyn Upload>, claim: Claim) -> Result<()> {
        self.under_way.lock().unwrap().remove(claim.id());
        match self.is(Fault::AbortsNothing) {
            true => self.leave(inner, &claim),
            false => inner.abort().await?,
        }
        Ok(())
    }

    fn dropped(&self, inner: Box<dyn Upload>, claim: Claim) {
        self.under_way.lock().unwrap().remove(claim.id());
        self.leave(inner, &claim);
    }
}

/// A store in memory whose driver has this fault, and can be opened again.
async fn with(fault: Fault) -> Fixture {
    let planted = Arc::new(Planted {
        fault,
        opened: AtomicUsize::new(0),
        writes: AtomicUsize::new(0),
        left: Mutex::default(),
        under_way: Mutex::default(),
    });
    let wrap = Arc::new(move |inner: Inner| {
        planted.opened.fetch_add(1, Ordering::Relaxed);
        if fault == Fault::CommitsToItself {
            return Arc::new(mem::Mem::new(&mem::Config { capacity: 1 << 28 }, "main")) as _;
        }
        Arc::new(Altered { inner, alter: Arc::clone(&planted) }) as Arc<dyn Driver>
    });
    let home = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::wrapped("mem", &[], "", None, home, wrap).await;
    fixture.lasting = Lasting::InThisProcess;
    fixture
}

type Case = for<'a> fn(&'a Fixture) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Whether a case passes, and finds nothing left after it.
fn passes(fixture: impl Future<Output = Fixture>, case: Case) -> bool {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = fixture.await;
            case(&fixture).await;
            fixture.assert_empty().await;
        });
    };
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

/// Each fault in memory, and the case that sees it.
macro_rules! seen {
    ($($told:ident: $fault:ident => $module:ident::$case:ident;)*) => {$(
        #[test]
        fn $told() {
            let case: Case = |f| Box::pin($module::$case(f));
            assert!(passes(with(Fault::None), case), "the case fails without the fault");
            assert!(!passes(with(Fault::$fault), case), "the fault is not seen");
        }
    )*};
}

mod seen {
    use super::*;

    seen! {
        a_commit_that_is_not_durable: CommitsToItself => lasting::what_is_committed_outlives_the_process;
        digests_that_are_not_durable: KeepsDigestsToItself => lasting::what_is_committed_outlives_the_process;
        a_recover_that_ignores_an_upload: RecoversNothing => clauses::recovering_twice_is_recovering_once;
        an_abort_that_does_nothing: AbortsNothing => clauses::an_aborted_upload_leaves_nothing;
        an_image_that_shows_too_early: ShowsTooEarly => clauses::invisible_until_commit;
        a_list_that_lacks_an_image: ListsTooLittle => clauses::the_list_is_what_was_put;
        a_span_that_is_off_by_one: SpansAreOffByOne => clauses::spans_are_slices;
        digests_that_are_not_recorded: RecordsNothing => clauses::digests_stay_with_the_image;
        an_image_that_is_replaced: Replaces => clauses::id_is_taken_once;
        a_delete_of_nothing_that_succeeds: DeletesAnything => clauses::deleting_twice_is_not_found;
        a_chunk_that_is_lost: LosesWrites => clauses::what_is_read_is_what_was_written;
    }

    /// A driver that leaves out a call of the filesystem is one whose filesystem does nothing when called.
    #[test]
    fn a_file_or_a_name_that_is_not_synced() {
        let case: Case = |f| Box::pin(lasting::what_is_committed_outlives_the_process(f));
        for left_out in ["fsync", "fsyncdir"] {
            for kind in ["unnamed", "links", "no-links"] {
                let without = async {
                    let fixture = stores::plain(kind, "").await;
                    fixture.plain.as_ref().unwrap().skip(left_out);
                    fixture
                };
                assert!(!passes(without, case), "{kind}: that {left_out} is left out is not seen");
            }
        }
    }

    #[test]
    fn a_call_that_lets_go_of_its_claim_before_it_returns() {
        let lets_go: Case = |f| Box::pin(late::a_call_is_out(f, "write", false));
        assert!(!passes(stores::mem(), lets_go));
    }
}
