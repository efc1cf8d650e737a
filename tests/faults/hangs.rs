//! Calls into a filesystem that do not return in time, and return later after all.

use std::sync::Arc;

use bytes::Bytes;
use imaged::wire::records::{Mode, Receipt};
use imaged_drivers::{Hold, Kind, Location, Recovered, Result};

use crate::harness::stores::{
    self, Fixture, Held, assert_free, assert_reads, begin, claim,
    content::{Look, image},
    idle, names, order, put, soon,
};

/// Stores of a second's patience.
const PATIENCE: &str = "filesystem_store_timeout = 1\n";

async fn copied(f: &Fixture, from: &Location, id: &imaged_drivers::ImageId) -> Result<Receipt> {
    let store = Arc::clone(&f.store);
    Arc::clone(&store).copy(order(id, None), store, from.clone(), Mode::Clone).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_answers_late_is_not_forgotten() {
    for kind in ["unnamed", "links", "no-links"] {
        let f = stores::plain(kind, PATIENCE).await;
        let plain = f.plain.as_ref().unwrap();
        let bytes: Bytes = image(Look::Mixed, 200_000, 71);
        let source = f.place(&f.id(), &bytes).await;
        for copy in [false, true] {
            let what = format!("{kind}, copy {copy}");
            let id = f.id();
            plain.hang("fsync");
            let late = match copy {
                true => copied(&f, &source, &id).await,
                false => put(&f.store, order(&id, None), &bytes).await,
            };
            let error = late.expect_err(&what);
            assert_eq!(error.kind(), Kind::Timeout, "{what}: {error:?}");
            assert!(error.location().is_some(), "{what}: {error:?}");
            assert_eq!(plain.held(), 1, "{what}");
            // As long as it may come to be, nobody is told that nothing was left.
            for _ in 0..2 {
                f.settle().await;
                assert_eq!(f.shared().ids.len(), 1, "{what}: the intent stays");
                assert!(f.shared().ids.left_over().is_empty(), "{what}: nobody takes it up");
                let again = begin(&f.store, order(&id, None)).leave().await.unwrap_err();
                assert_eq!(again.kind(), Kind::Unavailable, "{what}: {again:?}");
            }
            plain.free();
            idle(&f.store).await;
            f.settled().await;
            let at = f.driver.locate(&id).await.expect(&what);
            assert_reads(&*f.driver, &at, &bytes, &what).await;
            assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Whole);
            f.driver.delete(&at, Hold::default()).await.unwrap();
            assert_free(&f, &id, &what).await;
        }
        f.driver.delete(&source, Hold::default()).await.unwrap();
        f.assert_empty().await;
    }
}

/// Waits until the directory of the store is empty.
async fn emptied(f: &Fixture) {
    soon("the directory to be empty", async {
        while names(&f.dirs[0]) != [""; 0] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_answers_late_leaves_nothing() {
    for kind in ["links", "no-links"] {
        let f = stores::plain(kind, PATIENCE).await;
        let plain = f.plain.as_ref().unwrap();
        let id = f.id();
        plain.hang("create");
        let held = Held::new(&id);
        let error = held.create(&*f.driver, None).await.expect_err(kind);
        assert_eq!(error.kind(), Kind::Timeout, "{kind}: {error:?}");
        assert!(held.is_out(), "{kind}: the call still owns the id");
        plain.free();
        assert_eq!(held.recovered(&*f.driver).await, Recovered::Nothing);
        idle(&f.store).await;
        emptied(&f).await;
        assert_free(&f, &id, kind).await;
        f.assert_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_dropped_leaves_nothing() {
    let f = stores::file_staged().await;
    let id = f.id();
    let held = Held::new(&id);
    let mut upload = held.create(&*f.driver, None).await.unwrap();
    upload.write(image(Look::Random, 5000, 72)).await.unwrap();
    assert_eq!(names(&f.dirs[0]).len(), 1, "a part");
    drop(upload);
    emptied(&f).await;
    assert_eq!(held.recovered(&*f.driver).await, Recovered::Nothing);
    assert_free(&f, &id, "dropped").await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_version_staged_is_in_nobodys_way_and_goes_with_its_intent() {
    let f = stores::file_staged().await;
    let bytes = image(Look::Random, 5000, 73);
    let id = f.id();
    let part = f.dirs[0].join(format!(".imaged-{id}-{}.part", f.shared().ids.instance()));
    std::fs::write(&part, b"half").unwrap();
    let receipt = put(&f.store, order(&id, None), &bytes).await.unwrap();
    assert_eq!(std::fs::read(&part).unwrap(), b"half", "it is not touched");
    f.driver.delete(&receipt.location.parse().unwrap(), Hold::default()).await.unwrap();
    let removed = f.driver.recover(&claim(&id), None).await.unwrap();
    assert_eq!(removed, Recovered::Removed(vec![part.display().to_string()]));
    f.assert_empty().await;
}
