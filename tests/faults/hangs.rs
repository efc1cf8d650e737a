//! Calls into a filesystem that do not return in time, and return later after all.

use std::sync::Arc;

use bytes::Bytes;
use imaged::store::{Mode, Receipt};
use imaged_drivers::{Kind, Location, Recovered, Result};

use crate::harness::stores::{
    self, Fixture, assert_free, assert_reads, begin,
    content::{Look, image},
    idle, order, put,
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
                assert_eq!(f.shared().journal.len(), 1, "{what}: the intent stays");
                let error = f.driver.recover(&id).await.expect_err(&what);
                assert_eq!(error.kind(), Kind::Unavailable, "{what}: {error:?}");
                let again = begin(&f.store, order(&id, None)).leave().await.unwrap_err();
                assert_eq!(again.kind(), Kind::Exists, "{what}: {again:?}");
            }
            plain.free();
            idle(&f.store).await;
            f.settle().await;
            assert!(f.shared().journal.is_empty(), "{what}");
            let at = f.driver.locate(&id).await.expect(&what);
            assert_reads(&*f.driver, &at, &bytes, &what).await;
            assert_eq!(f.driver.recover(&id).await.unwrap(), Recovered::Whole);
            f.driver.delete(&at).await.unwrap();
            assert_free(&f, &id, &what).await;
        }
        f.driver.delete(&source).await.unwrap();
        f.assert_empty().await;
    }
}
