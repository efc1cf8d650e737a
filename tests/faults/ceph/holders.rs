//! Images that somebody holds: clones, snapshots, open handles. And images that somebody has let go of
//! half way.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use imaged_drivers::{ImageId, Kind, Location, Recovered};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::stores::{
    self, Fixture, assert_free, assert_reads,
    ceph::{Ceph, POOL},
    content::{Look, image},
};

fn named(image: impl std::fmt::Display) -> String {
    format!("{POOL}/{image}")
}

fn of(f: &Fixture) -> &Ceph {
    f.ceph.as_ref().unwrap()
}

/// That deleting is refused for this reason, and the image is as it was.
async fn assert_held(f: &Fixture, at: &Location, id: &ImageId, bytes: &Bytes, why: &str) {
    for _ in 0..2 {
        let error = f.store.delete(at, "test").await.expect_err(why);
        assert_eq!(error.kind(), Kind::InUse, "{error:?}");
        assert!(error.to_string().contains(why), "{error:?}");
        let snaps = of(f).rbd_must(&["snap", "ls", "--format", "json", &named(id)]);
        let snaps: serde_json::Value = serde_json::from_str(&snaps).unwrap();
        let snap = snaps.as_array().unwrap().iter().find(|snap| snap["name"] == "snap").unwrap();
        assert_eq!(snap["protected"], "true", "{snaps}");
        assert_reads(&*f.driver, at, bytes, why).await;
    }
}

/// Clones the image, in this format.
fn clone(f: &Fixture, id: &ImageId, format: u8, child: &str) {
    let format = format!("--rbd_default_clone_format={format}");
    of(f).rbd_must(&["clone", &format, &named(format!("{id}@snap")), &named(child)]);
}

/// What the cluster's own tool reads from an image.
fn exported(f: &Fixture, image: &str) -> Vec<u8> {
    let to = f.home().join("exported");
    of(f).rbd_must(&["export", "--no-progress", &named(image), to.to_str().unwrap()]);
    let bytes = std::fs::read(&to).unwrap();
    std::fs::remove_file(&to).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_clones_that_need_it_stays_whole() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 9_000_000, 51);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    clone(&f, &id, 1, "child");
    assert_held(&f, &at, &id, &bytes, "it has clones").await;
    // One of either kind.
    clone(&f, &id, 2, "other");
    assert_held(&f, &at, &id, &bytes, "it has clones").await;
    assert_eq!(exported(&f, "child"), bytes);
    for child in ["child", "other"] {
        of(&f).rbd_must(&["rm", "--no-progress", &named(child)]);
    }
    f.store.delete(&at, "test").await.unwrap();
    of(&f).assert_empty();
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_clones_that_do_not_need_its_name_goes_and_they_stay() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 9_000_000, 52);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    clone(&f, &id, 2, "child");
    f.store.delete(&at, "test").await.unwrap();
    let again = f.store.delete(&at, "test").await.unwrap_err();
    assert_eq!(again.kind(), Kind::NotFound, "{again:?}");
    assert_eq!(f.driver.recover(&id).await.unwrap(), Recovered::Nothing);
    assert_free(&f, &id, "its name").await;
    // Also a whole other image under that name is no concern of the child's.
    let other = image(Look::Random, 5_000_000, 53);
    let at = f.place(&id, &other).await;
    assert_eq!(exported(&f, "child"), bytes);
    assert_reads(&*f.driver, &at, &other, "the other image").await;
    f.store.delete(&at, "test").await.unwrap();
    assert_eq!(exported(&f, "child"), bytes);
    let trash = of(&f).rbd(&["trash", "ls", POOL]);
    assert_eq!(trash.lines().count(), 1, "{trash}");
    of(&f).rbd_must(&["rm", "--no-progress", &named("child")]);
    let entry = named(trash.split(' ').next().unwrap());
    of(&f).rbd_must(&["trash", "rm", "--no-progress", &entry]);
    of(&f).assert_empty();
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_a_snapshot_of_somebodys_stays_whole() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 54);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let theirs = named(format!("{id}@theirs"));
    of(&f).rbd_must(&["snap", "create", "--no-progress", &theirs]);
    assert_held(&f, &at, &id, &bytes, "it has other snapshots, theirs").await;
    of(&f).rbd_must(&["snap", "rm", "--no-progress", &theirs]);
    f.store.delete(&at, "test").await.unwrap();
    of(&f).assert_empty();
    f.assert_empty().await;
}

/// Somebody who has an image open, as a hypervisor has its disk.
struct Opener(Child);

const OPENER: &str = r#"
import sys, rados, rbd
_, conf, pool, image = sys.argv
with rados.Rados(conffile=conf, name="client.glance") as cluster:
    with cluster.open_ioctx(pool) as ioctx, rbd.Image(ioctx, image) as image:
        print("open", flush=True)
        sys.stdin.read()
"#;

impl Opener {
    fn open(ceph: &Ceph, image: &ImageId) -> Self {
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", OPENER])
            .args([ceph.conf().to_str().unwrap(), POOL, image.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "open\n");
        Self(child)
    }

    fn close(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }

    /// By SIGKILL: what it had open stays watched for a while.
    fn die(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_somebody_has_open_stays_whole() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 55);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let opener = Opener::open(of(&f), &id);
    assert_held(&f, &at, &id, &bytes, "it is open at ").await;
    opener.close();
    f.store.delete(&at, "test").await.unwrap();
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_another_half_deleted_can_be_deleted() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 56);
    // Broken off before its removal.
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let ceph = of(&f);
    ceph.rbd_must(&["image-meta", "rm", &named(&id), "imaged.upload"]);
    ceph.rbd_must(&["snap", "unprotect", &named(format!("{id}@snap"))]);
    f.store.delete(&at, "test").await.unwrap();
    ceph.assert_empty();
    // Broken off in its removal.
    for recovers in [false, true] {
        let id = f.id();
        let at = f.place(&id, &bytes).await;
        ceph.half_remove(id.as_str(), f.home());
        assert_eq!(ceph.images(), [id.as_str()], "it counts as one still");
        if recovers {
            let removed = f.driver.recover(&id).await.unwrap();
            assert!(matches!(removed, Recovered::Removed(_)), "{removed:?}");
        } else {
            f.store.delete(&at, "test").await.unwrap();
        }
        ceph.assert_empty();
        let again = f.store.delete(&at, "test").await.unwrap_err();
        assert_eq!(again.kind(), Kind::NotFound, "{again:?}");
        assert_free(&f, &id, "removed").await;
    }
    f.assert_empty().await;
}

/// What a daemon leaves that dies between two calls to the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_half_made_image_is_cleared_away() {
    let f = stores::rbd().await;
    let ceph = of(&f);
    let instance = f.shared().journal.instance();
    let made = |id: &ImageId| ceph.rbd_must(&["create", "--size", "9M", &named(id)]);
    let marked = |id: &ImageId, instance: &str| {
        let shown = ceph.rbd_must(&["info", "--format", "json", &named(id)]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let mark = serde_json::json!({"image": shown["id"], "instance": instance}).to_string();
        ceph.rbd_must(&["image-meta", "set", &named(id), "imaged.upload", &mark]);
    };
    let snapped = |id: &ImageId| {
        ceph.rbd_must(&["snap", "create", "--no-progress", &named(format!("{id}@snap"))]);
    };
    let ids: [ImageId; 3] = [f.id(), f.id(), f.id()];
    for (stage, id) in ids.iter().enumerate() {
        made(id);
        if stage > 0 {
            marked(id, instance);
        }
        if stage > 1 {
            snapped(id);
        }
    }
    for id in &ids {
        assert_eq!(f.driver.locate(id).await.unwrap_err().kind(), Kind::NotFound);
        let removed = f.driver.recover(id).await.unwrap();
        assert!(matches!(removed, Recovered::Removed(_)), "{removed:?}");
        assert_free(&f, id, "recovered").await;
    }
    ceph.assert_empty();
    // Another daemon's is not touched.
    let id = f.id();
    made(&id);
    marked(&id, "another");
    assert_eq!(f.driver.recover(&id).await.unwrap(), Recovered::Nothing);
    assert_eq!(ceph.images(), [id.as_str()]);
    ceph.rbd_must(&["rm", "--no-progress", &named(&id)]);
    // Whose it is that has no mark shows when nobody has it open, be it a live one or a dead.
    for dies in [false, true] {
        made(&id);
        let opener = Opener::open(ceph, &id);
        let error = f.driver.recover(&id).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
        if dies {
            opener.die();
        } else {
            opener.close();
        }
        let removed = stores::recovered(&*f.driver, &id).await;
        assert!(matches!(removed, Recovered::Removed(_)), "{removed:?}");
    }
    ceph.assert_empty();
    f.assert_empty().await;
}
