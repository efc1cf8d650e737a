//! One body to several stores, of which some fail.

use std::sync::Arc;

use bytes::Bytes;
use imaged::{
    store::{Store, put_to_all},
    transfer::{Frame, ImageBody, Put},
    wire::{digests::Promise, records::Receipt},
};
use imaged_drivers::{Hold, ImageId, Kind, Location, Result, window::PAGE};
use tokio::sync::{mpsc, oneshot};

use super::faulty::{FAILURES, Failure, Faulty, Script};
use crate::harness::stores::{
    self, Fixture, assert_free, assert_reads,
    content::{Look, digests, image, pieces},
    order, soon,
};

/// Three stores for one body, of which the first and the last fail as their scripts say.
struct Three {
    f: Fixture,
    stores: Vec<Arc<Store>>,
    first: Arc<Script>,
    last: Arc<Script>,
    bytes: Bytes,
}

impl Three {
    fn new(f: Fixture) -> Self {
        let (first, last) = (Arc::new(Script::default()), Arc::new(Script::default()));
        let faulty = |store: Arc<Store>, script: &Arc<Script>| {
            let (inner, script) = (store.driver().unwrap(), Arc::clone(script));
            let driver = Faulty { inner, script, streams: false };
            let (config, shared) = (store.config.clone(), Arc::clone(f.shared()));
            Arc::new(Store::with_driver(config, shared, Arc::new(driver)))
        };
        let stores = vec![
            faulty(Arc::clone(&f.store), &first),
            f.store_named("beside"),
            faulty(f.store_named("memory"), &last),
        ];
        let bytes = image(Look::Mixed, 5 * PAGE + 9, 41);
        Self { f, stores, first, last, bytes }
    }

    /// Puts what `frames` say into all three.
    async fn put_frames(
        &self,
        put: Put,
        all_or_none: bool,
        frames: Vec<Frame>,
    ) -> Vec<Result<Receipt>> {
        let (to, body) = mpsc::channel(2);
        let (ready, _ready) = oneshot::channel();
        let stored =
            put_to_all(self.stores.clone(), all_or_none, put, ImageBody::Caller(body), ready);
        let task = tokio::spawn(stored);
        for frame in frames {
            if to.send(frame).await.is_err() {
                break;
            }
        }
        drop(to);
        soon("a put to end", task).await.unwrap()
    }

    async fn put(&self, id: &ImageId, all_or_none: bool) -> Vec<Result<Receipt>> {
        let order = order(id, Some(self.bytes.len() as u64));
        self.put_frames(order, all_or_none, self.whole()).await
    }

    fn whole(&self) -> Vec<Frame> {
        let chunks = pieces(&self.bytes, 2 * PAGE).into_iter().map(Frame::Data);
        chunks.chain([Frame::End]).collect()
    }

    /// Does what the journal says is left, until nothing is.
    async fn resolve(&self, what: &str) {
        soon(what, async {
            while !self.f.shared().ids.is_empty() {
                for (intent, begun) in self.f.shared().ids.left_over() {
                    let of = |store: &&Arc<Store>| store.name() == intent.store;
                    self.stores.iter().find(of).unwrap().take_up(&intent, begun).await;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Where the image is in each of the stores, whose bytes must be right where it is.
    async fn there(&self, id: &ImageId, what: &str) -> Vec<bool> {
        let mut there = Vec::new();
        for store in &self.stores {
            let driver = store.driver().unwrap();
            let at = driver.locate(id).await.ok();
            if let Some(at) = &at {
                assert_reads(&*driver, at, &self.bytes, what).await;
                match store.name() == self.f.store.name() {
                    true => self.f.remove(at).await,
                    false => driver.delete(at, Hold::default()).await.unwrap(),
                }
            }
            there.push(at.is_some());
        }
        there
    }

    /// That nothing is left anywhere, and the id is free.
    async fn assert_empty(&self, id: &ImageId, what: &str) {
        let stored = self.put(id, true).await;
        assert!(stored.iter().all(Result::is_ok), "{what}: {stored:?}");
        assert_eq!(self.there(id, what).await, [true; 3], "{what}");
        assert_free(&self.f, id, what).await;
        self.f.assert_empty().await;
        let memory = self.stores[2].driver().unwrap().probe().await.unwrap();
        assert_eq!(memory.used, Some(0), "{what}");
    }
}

fn kinds(stored: &[Result<Receipt>]) -> Vec<Option<Kind>> {
    stored.iter().map(|one| one.as_ref().err().map(imaged_drivers::Error::kind)).collect()
}

async fn all_have_the_same(f: Fixture) {
    let three = Three::new(f);
    for all_or_none in [false, true] {
        let id = three.f.id();
        let stored = three.put(&id, all_or_none).await;
        let wanted = digests(&three.bytes, order(&id, None).choice.algo);
        for (stored, store) in stored.iter().zip(&three.stores) {
            let stored = stored.as_ref().unwrap();
            assert_eq!(stored.store, store.name());
            assert_eq!(stored.size, three.bytes.len() as u64);
            assert_eq!(stored.checksum, wanted.checksum);
            assert_eq!(stored.hash_value.as_ref(), Some(&wanted.hash_value));
            let at: Location = stored.location.parse().unwrap();
            // A filesystem without attributes keeps none.
            let kept = store.stat(&at).await.unwrap().digests;
            assert!(kept.is_none_or(|kept| kept == wanted), "{}", store.name());
        }
        assert_eq!(three.there(&id, "all").await, [true; 3]);
        three.assert_empty(&id, "all").await;
    }
}

/// Fails each call of a put to the first store in each way, and looks at what all three have then.
async fn each_call_fails(f: Fixture, all_or_none: bool) {
    let three = Three::new(f);
    three.first.plan(None);
    let id = three.f.id();
    three.put(&id, all_or_none).await;
    let calls = three.first.plan(None);
    three.there(&id, "unharmed").await;
    assert!(calls.contains(&"create") && calls.contains(&"write") && calls.contains(&"commit"));
    for failure in FAILURES {
        for (nth, call) in (1..).zip(&calls) {
            let what = format!("call {nth} ({call}) fails by {failure:?}, {all_or_none}");
            let id = three.f.id();
            three.first.plan(Some((nth, failure)));
            let stored = three.put(&id, all_or_none).await;
            three.first.plan(None);
            let others = all_or_none.then_some(failure.kind);
            assert_eq!(kinds(&stored), [Some(failure.kind), others, others], "{what}: {stored:?}");
            for stored in stored.iter().skip(1).filter_map(|one| one.as_ref().err()) {
                let told = stored.to_string();
                assert!(told.contains("all_or_none") && told.contains("store=`main`"), "{told}");
                assert_eq!((stored.left(), stored.location()), (None, None), "{what}");
            }
            three.resolve(&what).await;
            let answer_lost = failure.done && *call == "commit";
            let there = [answer_lost, !all_or_none, !all_or_none];
            assert_eq!(three.there(&id, &what).await, there, "{what}");
            three.assert_empty(&id, &what).await;
        }
    }
}

async fn an_id_is_taken(f: Fixture) {
    let three = Three::new(f);
    for all_or_none in [false, true] {
        let id = three.f.id();
        let at = three.f.place(&id, &three.bytes).await;
        let stored = three.put(&id, all_or_none).await;
        let others = all_or_none.then_some(Kind::Exists);
        assert_eq!(kinds(&stored), [Some(Kind::Exists), others, others], "{stored:?}");
        assert_reads(&*three.f.driver, &at, &three.bytes, "it stays").await;
        assert_eq!(three.there(&id, "taken").await, [true, !all_or_none, !all_or_none]);
        three.assert_empty(&id, "taken").await;
    }
}

/// One test for each kind of store that can be the first, of those on a cluster for one.
macro_rules! several {
    (rbd: rbd_thick) => {};
    ($kind:ident: $name:ident) => {
        mod $name {
            use super::*;
            several! { of $name
                fn all_stores_have_the_same_image_and_digests: all_have_the_same();
                fn one_that_fails_at_any_call_loses_no_other: each_call_fails(false);
                fn all_or_none_with_one_that_fails_at_any_call_leaves_nothing_anywhere:
                    each_call_fails(true);
                fn one_whose_id_is_taken_keeps_its_image_and_loses_no_other: an_id_is_taken();
            }
        }
    };
    (of $name:ident $(fn $test:ident: $run:ident($($argument:expr)?);)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let f = stores::$name().await;
            if f.caps().write {
                $run(f $(, $argument)?).await;
            }
        }
    )*};
}
every_store!(several);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_fail_leave_the_third_its_image() {
    let three = Three::new(stores::file().await);
    let full = Failure { kind: Kind::Full, done: false };
    for all_or_none in [false, true] {
        let id = three.f.id();
        // The second write of the one, and the commit of the other.
        three.first.plan(None);
        three.put(&id, false).await;
        let calls = three.first.plan(None);
        three.there(&id, "unharmed").await;
        let nth = |name| 1 + calls.iter().position(|call| *call == name).unwrap();
        three.first.plan(Some((nth("write") + 1, full)));
        three.last.plan(Some((nth("commit"), Failure { kind: Kind::Internal, done: false })));
        let stored = three.put(&id, all_or_none).await;
        three.first.plan(None);
        three.last.plan(None);
        let wanted = match all_or_none {
            false => [Some(Kind::Full), None, Some(Kind::Internal)],
            // The last was never asked to commit.
            true => [Some(Kind::Full); 3],
        };
        assert_eq!(kinds(&stored), wanted, "{stored:?}");
        assert_eq!(three.there(&id, "two fail").await, [false, !all_or_none, false]);
        three.assert_empty(&id, "two fail").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_deleted_again_is_told_and_goes_later() {
    let three = Three::new(stores::file().await);
    let id = three.f.id();
    three.first.plan(None);
    three.last.plan(None);
    three.put(&id, true).await;
    let (calls, others) = (three.first.plan(None), three.last.plan(None));
    three.there(&id, "unharmed").await;
    three.last.plan(None);
    assert_eq!(calls.last(), Some(&"commit"), "{calls:?}");
    let broken = Failure { kind: Kind::Unavailable, done: false };
    three.first.plan(Some((calls.len(), Failure { kind: Kind::Full, done: false })));
    // The call after its own last one is the delete.
    three.last.plan(Some((others.len() + 1, broken)));
    let stored = three.put(&id, true).await;
    three.first.plan(None);
    assert!(three.last.plan(None).ends_with(&["commit", "delete"]));
    assert_eq!(kinds(&stored), [Some(Kind::Full); 3], "{stored:?}");
    let left: Vec<_> = stored.iter().map(|one| one.as_ref().unwrap_err().left()).collect();
    let driver = three.stores[2].driver().unwrap();
    let at = driver.locate(&id).await.unwrap().to_string();
    assert_eq!(left, [None, None, Some(at.as_str())]);
    three.resolve("a delete failed").await;
    assert_eq!(three.there(&id, "left").await, [false; 3]);
    three.assert_empty(&id, "left").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_as_promised_is_in_no_store() {
    let three = Three::new(stores::file().await);
    let size = three.bytes.len() as u64;
    let other = Promise { algo: imaged::digest::Algo::Md5, value: "00".repeat(16) };
    for all_or_none in [false, true] {
        for case in ["short", "long", "left", "failed", "another digest", "cancelled"] {
            let what = format!("{case}, {all_or_none}");
            let id = three.f.id();
            let mut put = order(&id, Some(size));
            let mut frames = three.whole();
            match case {
                "short" => drop(frames.remove(0)),
                "long" => frames.insert(0, Frame::Data(Bytes::from_static(b"more"))),
                "left" => drop(frames.pop()),
                "failed" => {
                    frames.pop();
                    let failed = imaged_drivers::Error::new(Kind::Mismatch, "failed");
                    frames.push(Frame::Failed(failed));
                }
                "another digest" => put.promises = vec![other.clone()],
                _ => put.cancel.cancel(),
            }
            let stored = three.put_frames(put, all_or_none, frames).await;
            assert_eq!(kinds(&stored), [Some(Kind::Mismatch); 3], "{what}: {stored:?}");
            assert_eq!(three.there(&id, &what).await, [false; 3], "{what}");
            three.assert_empty(&id, &what).await;
        }
    }
}
