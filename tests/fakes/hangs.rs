//! A cluster that does not answer in time, and answers later after all.

use std::sync::Arc;

use imaged::transfer::Frame;
use imaged_drivers::{Hold, Kind, Recovered, Span, window::CHUNK};
use imaged_fake_librbd::{How, Plan};

use crate::{
    ceph::{closed, fake, hasty},
    harness::stores::{
        Held, aligned_chunks, assert_free, assert_reads, begin, claim,
        content::{Look, image},
        idle, order, put, read, soon,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_answers_late_is_not_forgotten() {
    for call in ["rbd_snap_create", "rbd_snap_protect"] {
        let f = hasty().await;
        let (id, bytes) = (f.id(), image(Look::Mixed, 300_000, 1));
        fake(&f).hold_call(call);
        let error = put(&f.store, order(&id, Some(300_000)), &bytes).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout, "{call}: {error:?}");
        assert!(error.location().is_some(), "{call}: {error:?}");
        // As long as it may come to be, nobody is told that nothing was left.
        for _ in 0..2 {
            f.settle().await;
            assert_eq!(f.shared().ids.len(), 1, "{call}: the intent stays");
            assert!(f.shared().ids.left_over().is_empty(), "{call}: nobody takes it up");
            let again = begin(&f.store, order(&id, None)).leave().await.unwrap_err();
            assert_eq!(again.kind(), Kind::Unavailable, "{call}: {again:?}");
        }
        fake(&f).release_call(call);
        closed(&f).await;
        f.settled().await;
        let at = f.driver.locate(&id).await.expect(call);
        assert_reads(&*f.driver, &at, &bytes, call).await;
        assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Whole);
        f.driver.delete(&at, Hold::default()).await.unwrap();
        assert_free(&f, &id, call).await;
        closed(&f).await;
        f.assert_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_land_late_leave_nothing() {
    let f = hasty().await;
    let (id, bytes) = (f.id(), image(Look::Random, 2 * CHUNK + 9, 2));
    fake(&f).hold();
    let running = begin(&f.store, order(&id, None));
    running.give(&aligned_chunks(&bytes)).await;
    let error = soon("the put to be given up", running.end(Frame::End)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    // The image is closed as soon as that can be, and librbd in memory tells of who closes it sooner.
    assert_eq!(fake(&f).count("rbd_close"), 0, "something is in flight still");
    let again = begin(&f.store, order(&id, None)).leave().await.unwrap_err();
    assert_eq!(again.kind(), Kind::Unavailable, "{again:?}");
    fake(&f).release();
    closed(&f).await;
    f.settled().await;
    assert_eq!(f.ceph.as_ref().unwrap().images(), [""; 0]);
    assert_free(&f, &id, "landed").await;
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_answers_late_is_cleared_away() {
    let f = hasty().await;
    let (id, bytes) = (f.id(), image(Look::Random, 1000, 3));
    fake(&f).hold_call("rbd_create4");
    let error = put(&f.store, order(&id, Some(1000)), &bytes).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
    assert_eq!(f.shared().ids.len(), 1, "{error:?}");
    fake(&f).release_call("rbd_create4");
    closed(&f).await;
    f.settled().await;
    assert_free(&f, &id, "made late").await;
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_does_not_close_under_its_writes() {
    let f = hasty().await;
    for size in [Some(3 * CHUNK as u64), None] {
        let (id, bytes) = (f.id(), image(Look::Random, 2 * CHUNK, 4));
        fake(&f).hold();
        let running = begin(&f.store, order(&id, size));
        running.give(&aligned_chunks(&bytes)).await;
        soon("writes to be in flight", async {
            while fake(&f).open().operations == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let fake = fake(&f).clone();
        let freed = tokio::spawn(async move {
            soon("the put to be aborted", async {
                while fake.open().operations == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            fake.release();
        });
        let left = running.leave().await.unwrap_err();
        freed.await.unwrap();
        assert_ne!(left.kind(), Kind::Internal, "{left:?}");
        closed(&f).await;
        f.settled().await;
        assert_free(&f, &id, "left").await;
    }
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_dropped_in_flight_leaves_nothing() {
    let f = hasty().await;
    let id = f.id();
    fake(&f).hold();
    let held = Held::new(&id);
    let mut upload = held.create(&*f.driver, None).await.unwrap();
    upload.write(image(Look::Random, 500_000, 5)).await.unwrap();
    drop(upload);
    assert_eq!(fake(&f).count("rbd_close"), 0);
    fake(&f).release();
    closed(&f).await;
    let found = held.recovered(&*f.driver).await;
    assert!(matches!(found, Recovered::Removed(_) | Recovered::Nothing), "{found:?}");
    assert_free(&f, &id, "dropped").await;
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_is_not_answered_ends_and_holds_no_thread() {
    let f = hasty().await;
    let bytes = image(Look::Random, 3 * CHUNK, 7);
    let at = f.place(&f.id(), &bytes).await;
    closed(&f).await;
    fake(&f).hold();
    let reading = read(&*f.driver, &at, Span::All);
    let error = soon("a read to end", reading).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    assert!(fake(&f).open().operations > 0, "they are in flight still");
    idle(&f.store).await;
    fake(&f).release();
    closed(&f).await;
    assert_reads(&*f.driver, &at, &bytes, "afterwards").await;
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_that_hangs_is_answered_and_the_next_waits_for_it_on_no_thread() {
    let f = hasty().await;
    let bytes = image(Look::Random, 1000, 8);
    let at = f.place(&f.id(), &bytes).await;
    fake(&f).forget();
    fake(&f).hold_call("rbd_trash_move");
    let error = soon("an answer", f.driver.delete(&at, Hold::default())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
    for _ in 0..2 {
        let error = soon("an answer", f.driver.delete(&at, Hold::default())).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    }
    assert_eq!(fake(&f).count("rbd_trash_move"), 1);
    fake(&f).release_call("rbd_trash_move");
    closed(&f).await;
    soon("the image to go", async {
        while f.driver.delete(&at, Hold::default()).await.map_err(|error| error.kind())
            != Err(Kind::NotFound)
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    closed(&f).await;
    f.assert_empty().await;
}

/// It may take as long as an image has objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_looked_at_while_a_recovery_and_a_purge_go_on() {
    let f = hasty().await;
    let bytes = image(Look::Random, 1000, 9);
    let at = f.place(&f.id(), &bytes).await;
    fake(&f).hold_call("rbd_create4");
    let error = put(&f.store, order(&f.id(), Some(1000)), &bytes).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error:?}");
    fake(&f).plan(Plan::once("rbd_trash_remove_with_progress", 1, 5, How::Fail));
    f.driver.delete(&at, Hold::default()).await.unwrap();
    fake(&f).release_call("rbd_create4");
    closed(&f).await;
    soon("the late call to let go of its id", async {
        while f.shared().ids.left_over().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    fake(&f).forget();
    let removals = ["rbd_remove_with_progress", "rbd_trash_remove_with_progress"];
    for call in removals {
        fake(&f).hold_call(call);
    }
    let daemon = Arc::clone(&f.daemon);
    let round = tokio::spawn(async move { daemon.round().await });
    soon("both to hang", async {
        while removals.iter().any(|call| fake(&f).count(call) == 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = fake(&f).count("rados_cluster_stat");
    for _ in 0..3 {
        soon("a look", f.store.check()).await;
    }
    // The first may have joined the look of the round.
    assert!(fake(&f).count("rados_cluster_stat") >= before + 2);
    f.store.health().unwrap();
    for call in removals {
        fake(&f).release_call(call);
    }
    soon("the round to end", round).await.unwrap();
    f.settled().await;
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_hangs_stops_one_store_only() {
    let f = hasty().await;
    let bytes = image(Look::Random, 1000, 6);
    let at = f.place(&f.id(), &bytes).await;
    // More than there are places in the lane.
    fake(&f).hold_call("rbd_open");
    let stuck: Vec<_> = (0..20)
        .map(|_| {
            let (driver, at) = (Arc::clone(&f.driver), at.clone());
            tokio::spawn(async move {
                driver.open(&at, Span::All, crate::harness::stores::window(CHUNK)).await.map(drop)
            })
        })
        .collect();
    let memory = f.store_named("memory");
    let running = begin(&memory, order(&f.id(), None));
    running.give(&aligned_chunks(&bytes)).await;
    let receipt = running.end(Frame::End).await.unwrap();
    memory.delete(&receipt.location.parse().unwrap(), "r").await.unwrap();
    for stuck in stuck {
        let error = stuck.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), Kind::Timeout | Kind::Unavailable), "{error:?}");
    }
    fake(&f).release_call("rbd_open");
    closed(&f).await;
    assert_reads(&*f.driver, &at, &bytes, "afterwards").await;
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}
