//! Things in the pool that are not ours: one of them stops nothing.

use std::sync::Arc;

use imaged::{transfer::Frame, wire::records::Mode};
use imaged_drivers::{Hold, Kind};
use imaged_fake_librbd::{How, Plan};

use crate::{
    ceph::{POOL, another, called, closed, fake},
    harness::stores::{
        self, Fixture, aligned_chunks, assert_free, assert_reads, begin,
        content::{Look, image},
        names, order, put, soon,
    },
};

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
    let looks = futures_util::future::join_all((0..20).map(|_| f.store.check()));
    let release = async {
        called(&f, "rados_cluster_stat").await;
        fake(&f).release_call("rados_cluster_stat");
    };
    // Polled in this order: all have asked before the first is answered.
    soon("all looks to end", async { tokio::join!(looks, release) }).await;
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

const UUID: &str = "71c675ab-d94f-49cd-a114-e12490b328d9";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_keep_in_the_pool_is_listed_only_if_it_may_be_an_image() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 1000, 45);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let others = [
        UUID.to_owned(),
        format!("volume-{UUID}"),
        format!("volume-{UUID}.deleted"),
        format!("{UUID}_disk"),
        format!("{UUID}_disk.config"),
        format!("csi-vol-{UUID}"),
        "backup.base".to_owned(),
        "anything".to_owned(),
    ];
    for other in &others {
        fake(&f).clone_image(POOL, id.as_str(), other, 2);
    }
    let mut listed: Vec<_> = f.list().await.into_iter().map(|one| (one.id, one.odd)).collect();
    listed.sort();
    let (odd, whole): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(_, odd)| odd.is_some());
    assert_eq!(whole, [(id.clone(), None)]);
    assert_eq!(odd.len(), 1, "{odd:?}");
    assert_eq!(odd[0].0.as_str(), UUID);
    assert!(odd[0].1.as_ref().unwrap().contains("no snapshot `snap`"), "{odd:?}");
    for other in &others {
        fake(&f).remove(POOL, other);
    }
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}

/// Whoever meets what a daemon has left that is gone is told how it is cleared away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_daemon_that_is_gone_has_left_names_its_remedy() {
    let gone = stores::rbd().await;
    let other = another(&gone).await;
    let bytes = image(Look::Random, 300_000, 46);
    let (id, source) = (gone.id(), gone.id());
    let from = gone.place(&source, &bytes).await;
    fake(&gone).forget();
    let running = begin(&gone.store, order(&id, None));
    running.give(&aligned_chunks(&bytes)).await;
    let stem = format!("rbd://{}/{POOL}/{id}/snap", fake(&gone).fsid());
    let at: imaged_drivers::Location = stem.parse().unwrap();
    let ask = async |what: &'static str| {
        let store = Arc::clone(&other.store);
        let error = match what {
            "put" => put(&other.store, order(&id, None), &bytes).await.unwrap_err(),
            "clone" => {
                let copied =
                    Arc::clone(&store).copy(order(&id, None), store, from.clone(), Mode::Clone);
                copied.await.unwrap_err()
            }
            "stat" => other.driver.stat(&at).await.unwrap_err(),
            "locate" => other.driver.locate(&id).await.unwrap_err(),
            _ => other.driver.delete(&at, Hold::default()).await.unwrap_err(),
        };
        let taken = matches!(what, "put" | "clone");
        let kind = if taken { Kind::Exists } else { Kind::NotFound };
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        error.to_string()
    };
    soon("the image to be made", async {
        while !fake(&gone).images(POOL).contains(&id.to_string())
            || fake(&gone).count("rbd_metadata_set") == 0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for what in ["put", "clone", "stat", "locate", "delete"] {
        let told = ask(what).await;
        assert!(told.contains("is being made by") && !told.contains("recover"), "{what}: {told}");
    }
    // It ends without being able to clear up.
    fake(&gone).plan(Plan::always("rbd_remove_with_progress", 5, How::Fail));
    drop(running.end(Frame::Failed(imaged_drivers::Error::new(Kind::Invalid, "gone"))).await);
    closed(&gone).await;
    let remedy = format!("`imaged recover {} {id}` clears it away", other.store.name());
    for what in ["put", "clone", "stat", "locate", "delete"] {
        let told = ask(what).await;
        assert!(told.contains(&remedy), "{what}: {told}");
    }
    fake(&gone).forget();
    other.driver.clear_abandoned(&id, Hold::default()).await.unwrap();
    assert_free(&other, &id, "cleared").await;
    gone.settled().await;
    gone.driver.delete(&from, Hold::default()).await.unwrap();
    closed(&gone).await;
    gone.assert_empty().await;
}
