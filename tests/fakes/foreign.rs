//! Things in the pool that are not ours: one of them stops nothing.

use imaged_drivers::{Hold, Kind};
use imaged_fake_librbd::{Cluster, How, Plan};

use crate::{
    ceph::{Ceph, POOL},
    harness::stores::{
        self, Fixture, assert_reads,
        content::{Look, image},
        names, soon,
    },
};

fn fake(f: &Fixture) -> &Cluster {
    &f.ceph.as_ref().unwrap().fake
}

/// Another daemon with the same store.
async fn another(f: &Fixture) -> Fixture {
    let options = Ceph { fake: fake(f).clone() }.options();
    Fixture::new("rbd", &[], &options, None, tempfile::tempdir().unwrap()).await
}

/// How many images were opened so far.
fn opens(f: &Fixture) -> usize {
    fake(f).trace().iter().filter(|call| call.starts_with("rbd_open")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_being_migrated_stops_nothing() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 41);
    let (moved, id) = (f.id(), f.id());
    let (at_moved, at) = (f.place(&moved, &bytes).await, f.place(&id, &bytes).await);
    fake(&f).migrate(POOL, moved.as_str());
    f.settle().await;
    f.store.health().unwrap();
    f.driver.probe().await.unwrap();
    assert_eq!(f.list().await.len(), 2);
    assert_reads(&*f.driver, &at_moved, &bytes, "migrated").await;
    // A daemon that starts now opens the store.
    let after = another(&f).await;
    after.store.health().unwrap();
    assert_reads(&*after.driver, &at, &bytes, "after a start").await;
    after.driver.delete(&at, Hold::default()).await.unwrap();
    after.settle().await;
    assert_eq!(fake(&f).trashed(POOL), 1, "the migration's is not touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_opened_is_left_out_of_the_list_and_no_other() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 1000, 42);
    let ids = [f.id(), f.id(), f.id()];
    for id in &ids {
        f.place(id, &bytes).await;
    }
    // Looked at before, they would be remembered.
    for errno in [1, 5, 16, 22, 30, 95] {
        let after = another(&f).await;
        fake(&f).forget();
        fake(&f).plan(Plan::once("rbd_open_read_only", 2, errno, How::Fail));
        assert_eq!(after.list().await.len(), 2, "{errno}");
        fake(&f).forget();
        assert_eq!(after.list().await.len(), 3, "{errno}");
    }
    // A cluster that does not answer is another thing: nobody is told that images are gone.
    let after = another(&f).await;
    fake(&f).plan(Plan::once("rbd_open_read_only", 2, 110, How::Fail));
    let listed: imaged_drivers::Result<Vec<_>> =
        futures_util::TryStreamExt::try_collect(after.driver.list()).await;
    assert_eq!(listed.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_store_costs_the_same_however_full_the_trash_is() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 1000, 43);
    let mut costs = Vec::new();
    for count in [0, 1, 50] {
        for number in 0..count {
            let id = f.id();
            f.place(&id, &bytes).await;
            // Some are to be kept for a while, and some came from a daemon and are needed by clones.
            let deferred_s = [0, 60, 86_399, 604_800][number % 4];
            if number % 5 == 4 {
                fake(&f).clone_image(POOL, id.as_str(), &format!("clone-of-{id}"), 2);
                f.driver
                    .delete(&f.driver.locate(&id).await.unwrap(), Hold::default())
                    .await
                    .unwrap();
            } else {
                fake(&f).trash(POOL, id.as_str(), deferred_s);
            }
        }
        fake(&f).forget();
        f.driver.probe().await.unwrap();
        costs.push(fake(&f).trace());
    }
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{costs:?}");
    // What others have put there is looked at once at most.
    f.settle().await;
    fake(&f).forget();
    f.settle().await;
    assert!(opens(&f) <= 2 * 10, "those of daemons: {}", opens(&f));
    assert_eq!(names(&f.home().join("state/journal")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_while_the_store_is_looked_at_shares_that_look() {
    let f = stores::rbd().await;
    f.settle().await;
    fake(&f).forget();
    fake(&f).hold_call("rados_cluster_stat");
    let looks: Vec<_> = (0..20)
        .map(|_| {
            let store = std::sync::Arc::clone(&f.store);
            tokio::spawn(async move { store.check().await })
        })
        .collect();
    soon("a look to begin", async {
        while fake(&f).count("rados_cluster_stat") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Time for the others to come, had they anything to do.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    fake(&f).release_call("rados_cluster_stat");
    for look in looks {
        soon("a look to end", look).await.unwrap();
    }
    let count = fake(&f).count("rados_cluster_stat");
    assert!(count <= 2, "{count}");
    f.store.health().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_the_trash_that_cannot_be_looked_at_stops_no_other() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 1000, 44);
    for number in 0..3 {
        let id = f.id();
        let at = f.place(&id, &bytes).await;
        fake(&f).clone_image(POOL, id.as_str(), &format!("clone-{number}"), 2);
        f.driver.delete(&at, Hold::default()).await.unwrap();
    }
    assert_eq!(fake(&f).trashed(POOL), 3);
    for number in 0..3 {
        fake(&f).remove(POOL, &format!("clone-{number}"));
    }
    fake(&f).forget();
    fake(&f).plan(Plan::once("rbd_open_by_id_read_only", 1, 30, How::Fail));
    fake(&f).plan(Plan::once("rbd_open_by_id", 2, 5, How::Fail));
    f.settle().await;
    assert!(fake(&f).trashed(POOL) <= 2);
    f.store.health().unwrap();
    f.settle().await;
    assert_eq!(fake(&f).trashed(POOL), 0);
    f.assert_empty().await;
}
