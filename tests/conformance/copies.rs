//! Copies through the store, in every mode, from every store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use imaged::{
    digest::{Algo, Choice},
    store::Store,
    wire::records::{Mode, Receipt, State},
};
use imaged_drivers::{Digests, Kind, Location, Result, window::CHUNK};

use crate::harness::stores::{
    Fixture, aligned_chunks, assert_free, assert_reads,
    content::{Look, digest, digests, image},
    order, put, write_image,
};

const MODES: [Mode; 4] = [Mode::Auto, Mode::Clone, Mode::Copy, Mode::Stream];
const SOURCES: [&str; 3] = ["main", "beside", "memory"];

/// An image in the store `name`, whose digest by SHA-256 is kept with it where there is a place.
async fn planted(f: &Fixture, name: &str, bytes: &Bytes) -> (Arc<Store>, Location) {
    let store = f.store_named(name);
    let (driver, chunks) = (store.driver().unwrap(), aligned_chunks(bytes));
    let (at, _) = write_image(&*driver, &f.id(), None, chunks).await.unwrap();
    (store, at)
}

/// Deletes it as callers do, where they may.
async fn gone(f: &Fixture, (store, at): &(Arc<Store>, Location)) {
    match store.caps().unwrap().delete {
        true => store.delete(at, "r").await.unwrap(),
        false => f.remove(at).await,
    }
}

fn copy(
    f: &Fixture,
    put: imaged::transfer::Put,
    source: &(Arc<Store>, Location),
    mode: Mode,
) -> impl Future<Output = Result<Receipt>> + use<> {
    Arc::clone(&f.store).copy(put, Arc::clone(&source.0), source.1.clone(), mode)
}

async fn job_over(f: &Fixture, job: &str) -> State {
    f.shared().jobs.get(job, Duration::from_secs(60)).await.unwrap().state
}

pub(super) async fn every_mode_copies_from_every_store_or_says_why_not(f: &Fixture) {
    for (look, size) in [(Look::Mixed, 2 * CHUNK + 7), (Look::Random, 0)] {
        let bytes = image(look, size, 13);
        for name in SOURCES {
            let source = planted(f, name, &bytes).await;
            for mode in MODES {
                for algo in [Algo::Sha256, Algo::Blake2b] {
                    let what = format!("{size} bytes from {name} by {mode:?} with {algo}");
                    let id = f.id();
                    let mut put = order(&id, None);
                    put.choice.algo = algo;
                    let request = put.request.clone();
                    put.job =
                        Some(f.shared().jobs.begin("copy", &request, "main", id.as_str(), None));
                    let copied = copy(f, put, &source, mode).await;
                    let inside = f.shares_backend_with(name);
                    if !inside && matches!(mode, Mode::Clone | Mode::Copy) {
                        assert_eq!(copied.expect_err(&what).kind(), Kind::Unsupported, "{what}");
                        assert_eq!(job_over(f, &request).await, State::Failed);
                        assert_free(f, &id, &what).await;
                        continue;
                    }
                    let receipt = copied.expect(&what);
                    assert_eq!(job_over(f, &request).await, State::Done, "{what}");
                    assert_eq!(receipt.size, size as u64, "{what}");
                    let at: Location = receipt.location.parse().unwrap();
                    assert_eq!(f.driver.locate(&id).await.unwrap(), at, "{what}");
                    if let Some(job) = &receipt.digest_job {
                        assert!(inside && matches!(mode, Mode::Clone | Mode::Auto), "{what}");
                        assert_eq!((receipt.checksum, receipt.hash_value), (None, None));
                        assert_eq!(job_over(f, job).await, State::Done, "{what}");
                    } else {
                        let wanted = digests(&bytes, algo);
                        assert_eq!(receipt.checksum, wanted.checksum, "{what}");
                        assert_eq!(receipt.hash_value, Some(wanted.hash_value), "{what}");
                    }
                    if let Some(kept) = f.driver.stat(&at).await.unwrap().digests {
                        assert_eq!(kept, digests(&bytes, algo), "{what}");
                    }
                    assert_reads(&*f.driver, &at, &bytes, &what).await;
                    gone(f, &(Arc::clone(&f.store), at)).await;
                }
            }
            gone(f, &source).await;
        }
    }
}

pub(super) async fn digests_follow_a_clone_as_a_job(f: &Fixture) {
    let bytes = image(Look::Mixed, 2 * CHUNK, 14);
    let source = planted(f, "main", &bytes).await;
    for checksum in [true, false] {
        let mut put = order(&f.id(), None);
        put.choice = Choice { algo: Algo::Sha1, checksum }; // not the one that is kept
        let receipt = copy(f, put, &source, Mode::Clone).await.unwrap();
        let job = receipt.digest_job.expect("a digest that was not kept has to follow");
        let view = f.shared().jobs.get(&job, Duration::from_secs(60)).await.unwrap();
        assert_eq!((view.state, view.kind.as_str()), (State::Done, "digest"));
        assert_eq!((view.done, view.total), (bytes.len() as u64, Some(bytes.len() as u64)));
        let at: Location = receipt.location.parse().unwrap();
        if let Some(kept) = f.driver.stat(&at).await.unwrap().digests {
            let wanted = digests(&bytes, Algo::Sha1);
            // An md5 that came along with the source is true of its copy too.
            let md5 = wanted.checksum.clone().filter(|_| checksum || kept.checksum.is_some());
            assert_eq!(kept, Digests { checksum: md5, ..wanted });
        }
        // The image may go before its digests are known; that ends the job, and leaves nothing.
        gone(f, &(Arc::clone(&f.store), at)).await;
    }
    gone(f, &source).await;
}

/// The choice of images that are to have an md5, or none.
fn chosen(checksum: bool) -> Choice {
    Choice { algo: Algo::Sha256, checksum }
}

/// Images with an md5 and without one lie in one store once the option was changed.
pub(super) async fn a_copy_has_an_md5_if_it_is_told_to_whatever_its_source_has(f: &Fixture) {
    let bytes = image(Look::Mixed, 300_001, 18);
    let md5 = digest(&bytes, Algo::Md5);
    let writes = f.caps().write;
    // What is only read is copied elsewhere.
    let target = if writes { Arc::clone(&f.store) } else { f.store_named("memory") };
    let sources: &[&str] = if writes { &SOURCES } else { &["main"] };
    for (name, has) in sources.iter().flat_map(|name| [(*name, true), (*name, false)]) {
        let store = f.store_named(name);
        let from = if writes {
            let mut planted = order(&f.id(), None);
            planted.choice = chosen(has);
            put(&store, planted, &bytes).await.unwrap().location.parse().unwrap()
        } else {
            f.place(&f.id(), &bytes).await
        };
        let source = (store, from);
        let known = source.0.stat(&source.1).await.unwrap().digests;
        let told = known.as_ref().and_then(|known| known.checksum.as_ref());
        assert!(
            !writes || told.is_none() || (has && told == Some(&md5)),
            "{name} {has}: {known:?}"
        );
        for (wants, mode) in MODES.iter().flat_map(|mode| [(true, *mode), (false, *mode)]) {
            let what = format!("from {name}, which has one: {has}; wanted: {wants}; by {mode:?}");
            let mut order = order(&f.id(), None);
            order.choice = chosen(wants);
            let copied =
                Arc::clone(&target).copy(order, Arc::clone(&source.0), source.1.clone(), mode);
            let receipt = match copied.await {
                Err(error) if error.kind() == Kind::Unsupported => {
                    assert!(matches!(mode, Mode::Clone | Mode::Copy), "{what}: {error:?}");
                    continue;
                }
                copied => copied.expect(&what),
            };
            let at: Location = receipt.location.parse().unwrap();
            // What comes along inside a backend is true of the copy too.
            let inside = mode != Mode::Stream && writes && f.shares_backend_with(name);
            let is_right = |found: Option<&String>| match found {
                Some(found) => *found == md5 && (wants || (has && inside)),
                None => !wants,
            };
            match &receipt.digest_job {
                Some(job) => assert_eq!(job_over(f, job).await, State::Done, "{what}"),
                None => assert!(is_right(receipt.checksum.as_ref()), "{what}: {receipt:?}"),
            }
            if let Some(kept) = target.stat(&at).await.unwrap().digests {
                assert!(is_right(kept.checksum.as_ref()), "{what}: {kept:?}");
                assert_eq!(kept.hash_value, digest(&bytes, Algo::Sha256), "{what}");
            }
            assert_reads(&*target.driver().unwrap(), &at, &bytes, &what).await;
            gone(f, &(Arc::clone(&target), at)).await;
        }
        gone(f, &source).await;
    }
}

pub(super) async fn a_copy_onto_a_taken_id_is_refused(f: &Fixture) {
    let (bytes, other) = (image(Look::Random, 9000, 15), image(Look::Random, 9000, 16));
    let id = f.id();
    let taken = f.place(&id, &other).await;
    for name in SOURCES {
        let source = planted(f, name, &bytes).await;
        for mode in [Mode::Auto, Mode::Stream] {
            let error = copy(f, order(&id, None), &source, mode).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Exists, "{name} {mode:?}: {error:?}");
            assert_reads(&*f.driver, &taken, &other, "what was there").await;
        }
        gone(f, &source).await;
    }
    f.remove(&taken).await;
}

pub(super) async fn a_copy_of_nothing_leaves_nothing(f: &Fixture) {
    for name in SOURCES {
        let source = planted(f, name, &image(Look::Random, 10, 1)).await;
        gone(f, &source).await;
        for mode in MODES {
            let id = f.id();
            let error = copy(f, order(&id, None), &source, mode).await.unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound, "{name} {mode:?}: {error:?}");
            assert_free(f, &id, name).await;
        }
    }
}

pub(super) async fn a_cancelled_copy_leaves_nothing(f: &Fixture) {
    let bytes = image(Look::Random, CHUNK + 1, 17);
    for name in SOURCES {
        let source = planted(f, name, &bytes).await;
        for mode in [Mode::Auto, Mode::Stream] {
            let id = f.id();
            let put = order(&id, None);
            put.cancel.cancel();
            // What was cancelled before it began must not be there afterwards.
            let error = copy(f, put, &source, mode).await.expect_err(name);
            assert_eq!(error.kind(), Kind::Mismatch, "{name} {mode:?}: {error:?}");
            assert_free(f, &id, name).await;
        }
        gone(f, &source).await;
    }
}
