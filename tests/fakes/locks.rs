//! Images and volumes that somebody has put a lock on: whoever asks is told at once, and no thread waits
//! for the lock to be taken off.

use std::sync::Arc;

use imaged::{transfer::Frame, wire::records::Mode};
use imaged_drivers::{Hold, Kind, Recovered, Volume};

use crate::{
    ceph::{POOL, closed, fake, hasty},
    harness::stores::{
        self, aligned_chunks, assert_free, assert_reads, begin, claim,
        content::{Look, image},
        order, put, soon,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_locked_is_in_use_and_stays_whole() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 51);
    for clones in [false, true] {
        let id = f.id();
        let at = f.place(&id, &bytes).await;
        if clones {
            fake(&f).clone_image(POOL, id.as_str(), "clone", 2);
        }
        fake(&f).lock(POOL, id.as_str(), Some("theirs"));
        for _ in 0..40 {
            let error = soon("an answer", f.store.delete(&at, "test")).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InUse, "{error:?}");
            let told = error.to_string();
            assert!(told.contains("locked by `theirs`") && told.contains("client.4120"), "{told}");
        }
        assert_reads(&*f.driver, &at, &bytes, "locked").await;
        assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Whole);
        f.driver.stat(&at).await.unwrap();
        closed(&f).await;
        fake(&f).lock(POOL, id.as_str(), None);
        f.store.delete(&at, "test").await.unwrap();
        if clones {
            fake(&f).remove(POOL, "clone");
        }
    }
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_locked_is_in_use_and_no_try_holds_a_thread() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 52);
    // Any image is a volume to another store.
    let source = f.id();
    let at = f.place(&source, &bytes).await;
    let volume = Volume::Rbd(format!("{POOL}/{source}").parse().unwrap());
    for (when, mode) in [(0, Mode::Auto), (1, Mode::Auto), (0, Mode::Stream), (1, Mode::Stream)] {
        let id = f.id();
        if when == 0 {
            // Before it is sealed.
            fake(&f).lock(POOL, source.as_str(), Some("theirs"));
        } else {
            // After that.
            fake(&f).forget();
            fake(&f).hold_call("rbd_create4");
            fake(&f).hold_call("rbd_clone3");
        }
        let (store, via) = (Arc::clone(&f.store), Arc::clone(&f.store));
        let copying = tokio::spawn(store.copy_volume(order(&id, None), via, volume.clone(), mode));
        if when == 1 {
            soon("the volume to be sealed", async {
                while fake(&f).count("rbd_create4") + fake(&f).count("rbd_clone3") == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            fake(&f).lock(POOL, source.as_str(), Some("theirs"));
            fake(&f).release_call("rbd_create4");
            fake(&f).release_call("rbd_clone3");
        }
        let copied = soon("an answer", copying).await.unwrap();
        if when == 0 {
            let error = copied.unwrap_err();
            assert_eq!(error.kind(), Kind::InUse, "{error:?}");
            assert!(error.to_string().contains("locked by `theirs`"), "{error}");
        } else {
            copied.unwrap();
        }
        for _ in 0..40 {
            f.settle().await;
        }
        soon("jobs to end", async {
            while f.shared().jobs.running() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        closed(&f).await;
        fake(&f).lock(POOL, source.as_str(), None);
        f.settled().await;
        if let Ok(at) = f.driver.locate(&id).await {
            assert_reads(&*f.driver, &at, &bytes, "copied").await;
            f.store.delete(&at, "test").await.unwrap();
        }
        fake(&f).forget();
    }
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}

/// Whatever librbd does not answer as long as another has the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_image_is_locked_ends_and_holds_no_thread() {
    let f = hasty().await;
    let bytes = image(Look::Random, 300_000, 53);
    let id = f.id();
    let running = begin(&f.store, order(&id, None));
    soon("the image to be made", async {
        while fake(&f).images(POOL).is_empty() || fake(&f).count("rbd_metadata_set") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    fake(&f).lock(POOL, id.as_str(), Some("theirs"));
    running.give(&aligned_chunks(&bytes)).await;
    let error = running.end(Frame::End).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    for _ in 0..40 {
        f.settle().await;
    }
    soon("no thread to wait", async {
        while f.driver.busy() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Others go on meanwhile.
    let other = f.id();
    put(&f.store, order(&other, None), &bytes).await.unwrap();
    f.driver.delete(&f.driver.locate(&other).await.unwrap(), Hold::default()).await.unwrap();
    fake(&f).lock(POOL, id.as_str(), None);
    f.settled().await;
    closed(&f).await;
    assert_free(&f, &id, "unlocked").await;
    closed(&f).await;
    f.assert_empty().await;
}
