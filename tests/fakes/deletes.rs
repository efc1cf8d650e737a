//! Deletes that are broken off, refused, or followed by somebody else's: the image is whole, readable
//! and listed, or it is gone.

use bytes::Bytes;
use imaged_drivers::{Error, Hold, ImageId, Kind, Location};
use imaged_fake_librbd::{How, Plan};

use crate::{
    ceph::{POOL, another, called, closed, fake},
    harness::stores::{
        self, Fixture, assert_free, assert_reads,
        content::{Look, image},
    },
};

/// What says that a daemon deletes an image.
const MARK: &str = "imaged.trashed";

/// The clones that an image has: of the first format, of the second.
type Clones = (bool, bool);

const CLONES: [Clones; 4] = [(false, false), (false, true), (true, false), (true, true)];

/// An image with these clones.
async fn cloned(f: &Fixture, clones: Clones, bytes: &Bytes) -> (ImageId, Location) {
    let id = f.id();
    let at = f.place(&id, bytes).await;
    for (is_there, format) in [(clones.0, 1), (clones.1, 2)] {
        if is_there {
            fake(f).clone_image(POOL, id.as_str(), &format!("clone-{format}"), format);
        }
    }
    (id, at)
}

fn remove_clones(f: &Fixture) {
    for name in fake(f).images(POOL) {
        if name.starts_with("clone-") {
            fake(f).remove(POOL, &name);
        }
    }
}

/// That the image is as it was, for whoever looks.
async fn assert_whole(f: &Fixture, id: &ImageId, at: &Location, bytes: &Bytes, what: &str) {
    assert_reads(&*f.driver, at, bytes, what).await;
    assert!(f.list().await.iter().any(|listed| listed.id == *id), "{what}: it is not listed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_at_any_call_of_a_delete_leaves_the_image_whole_or_gone() {
    let bytes = image(Look::Random, 100_000, 31);
    for clones in CLONES {
        for calls in 0.. {
            let what = format!("{clones:?}, after {calls} calls");
            let f = stores::rbd().await;
            let (id, at) = cloned(&f, clones, &bytes).await;
            closed(&f).await;
            fake(&f).forget();
            fake(&f).cut(calls);
            let ended = f.driver.delete(&at, Hold::default()).await;
            closed(&f).await;
            let is_over = fake(&f).trace().len() <= calls;
            fake(&f).forget();
            // Another finds what was left, and takes it up without being asked.
            let after = another(&f).await;
            for _ in 0..3 {
                after.settle().await;
            }
            closed(&f).await;
            match after.driver.stat(&at).await {
                Ok(_) => {
                    assert!(ended.is_err(), "{what}: it is there and was said to be gone");
                    assert_whole(&after, &id, &at, &bytes, &what).await;
                    assert_eq!(fake(&f).trashed(POOL), 0, "{what}");
                    // And it can be cloned again, in the old way too.
                    fake(&f).clone_image(POOL, id.as_str(), "clone-3", 1);
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::NotFound, "{what}: {error:?}");
                    assert!(!clones.0, "{what}: clones that needed it have lost it");
                    assert!(!fake(&f).images(POOL).contains(&id.to_string()), "{what}");
                    let kept = usize::from(clones.1);
                    assert_eq!(fake(&f).trashed(POOL), kept, "{what}: what is kept for clones");
                }
            }
            for name in fake(&f).images(POOL).iter().filter(|name| name.starts_with("clone-")) {
                assert!(fake(&f).content(POOL, name) == bytes, "{what}: {name}");
            }
            remove_clones(&f);
            match after.driver.delete(&at, Hold::default()).await {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{what}: {error:?}"),
            }
            after.settle().await;
            assert_free(&after, &id, &what).await;
            after.assert_empty().await;
            assert_eq!(fake(&f).trashed(POOL), 0, "{what}");
            if is_over {
                assert!(calls > 5, "{what}");
                break;
            }
        }
    }
}

/// That what somebody else puts into the trash stays there, whatever daemons do, and comes back.
async fn assert_kept(f: &Fixture, id: &ImageId, at: &Location, bytes: &Bytes, what: &str) {
    for deferred_s in [0, 1, 60, 86_399] {
        fake(f).trash(POOL, id.as_str(), deferred_s);
        let after = another(f).await;
        for _ in 0..2 {
            after.settle().await;
            f.settle().await;
        }
        assert_eq!(fake(f).trashed(POOL), 1, "{what}: it was removed");
        fake(f).restore(POOL, id.as_str());
        assert_whole(f, id, at, bytes, what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_users_put_into_the_trash_after_a_delete_that_failed_stays_there() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 32);
    let kind = |error: Error| error.kind();
    // Refused, failed, and died.
    for clones in [(true, false), (true, true)] {
        let (id, at) = cloned(&f, clones, &bytes).await;
        assert_eq!(f.driver.delete(&at, Hold::default()).await.map_err(kind), Err(Kind::InUse));
        // Those of the first format alone are seen before it is marked.
        let mark = fake(&f).metadata(POOL, id.as_str(), MARK);
        assert_eq!(mark.is_some(), clones.1, "{clones:?}");
        assert_kept(&f, &id, &at, &bytes, "refused").await;
        remove_clones(&f);
        f.driver.delete(&at, Hold::default()).await.unwrap();
    }
    for errno in [1, 5, 16, 108, 110, 122] {
        let (id, at) = cloned(&f, (false, true), &bytes).await;
        fake(&f).plan(Plan::once("rbd_trash_move", 1, errno, How::Fail));
        let failed = f.driver.delete(&at, Hold::default()).await;
        assert!(failed.is_err(), "{errno}");
        closed(&f).await;
        fake(&f).forget();
        assert!(fake(&f).metadata(POOL, id.as_str(), MARK).is_some(), "{errno}");
        assert_kept(&f, &id, &at, &bytes, &format!("failed by {errno}")).await;
        remove_clones(&f);
        f.driver.delete(&at, Hold::default()).await.unwrap();
    }
    let (id, at) = cloned(&f, (false, false), &bytes).await;
    fake(&f).plan(Plan::always("rbd_trash_move", 110, How::Fail));
    let _died = f.driver.delete(&at, Hold::default()).await.unwrap_err();
    fake(&f).forget();
    assert_kept(&f, &id, &at, &bytes, "died").await;
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_users_take_out_of_the_trash_is_theirs_again() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 33);
    let (id, at) = cloned(&f, (false, true), &bytes).await;
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    assert_eq!(fake(&f).trashed(POOL), 1, "its clone needs it");
    fake(&f).restore(POOL, id.as_str());
    remove_clones(&f);
    fake(&f).trash(POOL, id.as_str(), 0);
    let after = another(&f).await;
    for _ in 0..2 {
        after.settle().await;
        f.settle().await;
    }
    assert_eq!(fake(&f).trashed(POOL), 1, "its users have put it there this time");
    fake(&f).restore(POOL, id.as_str());
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}

/// A delete that fails says nothing of another daemon's that is about to move the image by the same mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_daemon_moves_after_a_delete_that_failed_is_taken_up() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 37);
    for errno in [2, 5, 16, 110] {
        let (id, at) = cloned(&f, (false, false), &bytes).await;
        fake(&f).plan(Plan::once("rbd_trash_move", 1, errno, How::Fail));
        assert!(f.driver.delete(&at, Hold::default()).await.is_err(), "{errno}");
        closed(&f).await;
        fake(&f).forget();
        move_as_marked(&f, &id).await;
        assert_eq!(fake(&f).trashed(POOL), 0, "{errno}");
        assert_free(&f, &id, "moved").await;
    }
    // Refused where it was in the trash already.
    let (id, at) = cloned(&f, (true, true), &bytes).await;
    let refused = f.driver.delete(&at, Hold::default()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::InUse, "{refused:?}");
    move_as_marked(&f, &id).await;
    assert_whole(&f, &id, &at, &bytes, "it came back").await;
    remove_clones(&f);
    move_as_marked(&f, &id).await;
    assert_free(&f, &id, "the clones are gone").await;
    closed(&f).await;
    f.assert_empty().await;
}

/// Moves the image as the deletion does whose mark it has, and lets that be taken up.
async fn move_as_marked(f: &Fixture, id: &ImageId) {
    let mark = fake(f).metadata(POOL, id.as_str(), MARK).expect("it has a mark");
    let mark: serde_json::Value = serde_json::from_str(&mark).unwrap();
    fake(f).trash(POOL, id.as_str(), mark["deferred_s"].as_u64().unwrap());
    f.settle().await;
}

/// So nobody removes it, nor takes its name, between librbd's look at the name and its taking it away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_stays_open_until_it_is_in_the_trash() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 38);
    let (id, at) = cloned(&f, (false, false), &bytes).await;
    closed(&f).await;
    let other = another(&f).await;
    fake(&f).forget();
    fake(&f).hold_call("rbd_trash_move");
    let (one, two) = tokio::join!(f.driver.delete(&at, Hold::default()), async {
        called(&f, "rbd_trash_move").await;
        let refused = other.driver.delete(&at, Hold::default()).await;
        assert_eq!(fake(&f).count("rbd_trash_move"), 1, "both move it");
        fake(&f).release_call("rbd_trash_move");
        refused
    });
    one.unwrap();
    let refused = two.unwrap_err();
    assert_eq!(refused.kind(), Kind::InUse, "{refused:?}");
    assert!(refused.to_string().contains("it is open at"), "{refused:?}");
    closed(&f).await;
    assert_eq!(fake(&f).trashed(POOL), 0);
    assert_free(&other, &id, "gone").await;
    closed(&f).await;
    f.assert_empty().await;
}

/// What is refused while the pool has another name is told as that, although the name is back by the time
/// that librbd returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_that_is_refused_while_the_pool_has_another_name_is_to_be_tried_again() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 39);
    let (gone, (id, at)) =
        (f.place(&f.id(), &bytes).await, cloned(&f, (false, false), &bytes).await);
    f.driver.delete(&gone, Hold::default()).await.unwrap();
    closed(&f).await;
    fake(&f).forget();
    for notices in [false, true] {
        fake(&f).hold_call("rbd_trash_move");
        fake(&f).plan(Plan::once("rbd_trash_move", 1, 1, How::Fail));
        let (deleted, ()) = tokio::join!(f.driver.delete(&at, Hold::default()), async {
            called(&f, "rbd_trash_move").await;
            if notices {
                fake(&f).plan(Plan::once("rados_pool_lookup", 1, 2, How::Fail));
            }
            let kind = f.driver.stat(&gone).await.unwrap_err().kind();
            assert_eq!(kind, if notices { Kind::Unavailable } else { Kind::NotFound });
            fake(&f).release_call("rbd_trash_move");
        });
        let refused = deleted.unwrap_err();
        let told = "the pool had another name meanwhile; try again: rbd_store_pool=`images`";
        let expected = if notices { Kind::Unavailable } else { Kind::BackendDenied };
        assert_eq!(refused.kind(), expected, "{refused:?}");
        assert_eq!(refused.to_string().contains(told), notices, "{refused:?}");
        closed(&f).await;
        fake(&f).forget();
    }
    assert_whole(&f, &id, &at, &bytes, "refused").await;
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}

/// A delete whose move into the trash comes to be although nobody heard of it, and one after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_into_the_trash_that_is_not_answered_is_taken_up() {
    let f = stores::rbd().await;
    let bytes = image(Look::Random, 100_000, 34);
    for again in [false, true] {
        let (id, at) = cloned(&f, (false, false), &bytes).await;
        if again {
            fake(&f).plan(Plan::once("rbd_trash_move", 1, 110, How::Fail));
            assert_eq!(
                f.driver.delete(&at, Hold::default()).await.unwrap_err().kind(),
                Kind::Unavailable
            );
        }
        fake(&f).forget();
        fake(&f).plan(Plan::once("rbd_trash_move", 1, 110, How::Lose));
        assert_eq!(
            f.driver.delete(&at, Hold::default()).await.unwrap_err().kind(),
            Kind::Unavailable
        );
        closed(&f).await;
        fake(&f).forget();
        let after = another(&f).await;
        after.settle().await;
        assert_eq!(fake(&f).trashed(POOL), 0);
        assert_free(&f, &id, "moved").await;
    }
    closed(&f).await;
    f.assert_empty().await;
}

/// Between the look at an image and its move somebody clones it in the old way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_whose_name_was_taken_meanwhile_is_not_put_back_over_it() {
    let f = stores::rbd().await;
    let (bytes, other) = (image(Look::Random, 100_000, 35), image(Look::Random, 90_000, 36));
    let (id, at) = cloned(&f, (true, true), &bytes).await;
    fake(&f).plan(Plan::always("rbd_trash_restore", 5, How::Fail));
    assert!(f.driver.delete(&at, Hold::default()).await.is_err());
    closed(&f).await;
    fake(&f).forget();
    assert_eq!(fake(&f).images(POOL), ["clone-1", "clone-2"]);
    f.place(&id, &other).await;
    for _ in 0..2 {
        f.settle().await;
    }
    assert_whole(&f, &id, &at, &other, "the other image").await;
    assert_eq!((fake(&f).trashed(POOL), fake(&f).content(POOL, "clone-1")), (1, bytes.to_vec()));
    // Once there is room it comes back, and then it can be deleted.
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.settle().await;
    assert_whole(&f, &id, &at, &bytes, "put back").await;
    remove_clones(&f);
    f.driver.delete(&at, Hold::default()).await.unwrap();
    closed(&f).await;
    f.assert_empty().await;
}
