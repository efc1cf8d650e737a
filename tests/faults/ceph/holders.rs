//! Images that somebody holds: clones, snapshots, open handles. And images that somebody has let go of
//! half way.

use bytes::Bytes;
use imaged_drivers::{ImageId, Kind, Location, Recovered, Volume};

use crate::harness::stores::{
    self, Fixture, assert_free, assert_reads,
    ceph::{Ceph, Opener, POOL},
    claim,
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
    assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Nothing);
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
    of(&f).rbd_must(&["trash", "rm", "--force", "--no-progress", &entry]);
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

/// Both kinds of clones at once show only in the trash, and then the image comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_users_put_into_the_trash_after_a_refused_delete_stays_there() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 57);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    for format in [1, 2] {
        clone(&f, &id, format, &format!("clone-{format}"));
    }
    assert_held(&f, &at, &id, &bytes, "it has clones").await;
    for expires in [None, Some("--expires-at=tomorrow"), Some("--expires-at=1 hour")] {
        let name = named(&id);
        of(&f).rbd_must(&[&["trash", "mv", &name][..], expires.as_slice()].concat());
        for _ in 0..2 {
            f.driver.purge().await.unwrap();
        }
        let trash = of(&f).rbd(&["trash", "ls", POOL]);
        let entry = trash.split(' ').next().unwrap();
        of(&f).rbd_must(&["trash", "restore", &named(entry)]);
        assert_reads(&*f.driver, &at, &bytes, "restored").await;
    }
    for format in [1, 2] {
        of(&f).rbd_must(&["rm", "--no-progress", &named(format!("clone-{format}"))]);
    }
    f.store.delete(&at, "test").await.unwrap();
    f.assert_empty().await;
}

/// Takes somebody's lock off.
fn unlock(f: &Fixture, image: &str) {
    let locks = of(f).rbd_must(&["lock", "ls", "--format", "json", image]);
    let locks: serde_json::Value = serde_json::from_str(&locks).unwrap();
    let lock = &locks[0];
    let (id, locker) = (lock["id"].as_str().unwrap(), lock["locker"].as_str().unwrap());
    of(f).rbd_must(&["lock", "rm", image, id, locker]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_locked_stays_whole_and_no_thread_waits_for_it() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 58);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    of(&f).rbd_must(&["lock", "add", &named(&id), "theirs"]);
    for _ in 0..10 {
        assert_held(&f, &at, &id, &bytes, "locked by `theirs`").await;
        assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Whole);
        f.driver.probe().await.unwrap();
    }
    stores::idle(&f.store).await;
    unlock(&f, &named(&id));
    f.store.delete(&at, "test").await.unwrap();
    of(&f).assert_empty();
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_locked_is_refused_and_an_earlier_seal_goes_when_it_is_not() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 59);
    of(&f).volume("locked", &bytes);
    let name = "volumes/locked";
    let volume = Volume::Rbd(name.parse().unwrap());
    let id = f.id();
    // Sealed before it is locked: that cannot be undone yet, and is said at once.
    f.driver.volumes().unwrap().seal(&volume, &claim(&id)).await.unwrap();
    of(&f).rbd_must(&["lock", "add", name, "theirs"]);
    for _ in 0..20 {
        let error =
            stores::soon("an answer", f.driver.volumes().unwrap().unseal(&volume, &claim(&id)))
                .await
                .unwrap_err();
        assert_eq!(error.kind(), Kind::InUse, "{error:?}");
        assert!(error.to_string().contains("locked by `theirs`"), "{error}");
        let other = f.id();
        let of_other = claim(&other);
        let sealing = f.driver.volumes().unwrap().seal(&volume, &of_other);
        let error = stores::soon("an answer", sealing).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InUse, "{error:?}");
        f.driver.volumes().unwrap().unseal(&volume, &of_other).await.unwrap();
    }
    stores::idle(&f.store).await;
    unlock(&f, name);
    f.driver.volumes().unwrap().unseal(&volume, &claim(&id)).await.unwrap();
    assert_eq!(of(&f).rbd(&["snap", "ls", name]), "");
    of(&f).rbd_must(&["rm", "--no-progress", name]);
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_being_migrated_stops_nothing() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 60);
    let (moved, id) = (f.id(), f.id());
    let (at_moved, at) = (f.place(&moved, &bytes).await, f.place(&id, &bytes).await);
    of(&f).rbd_must(&["migration", "prepare", &named(&moved), &named(&moved)]);
    f.driver.probe().await.unwrap();
    f.driver.purge().await.unwrap();
    assert_eq!(f.list().await.len(), 2);
    // A daemon that starts now opens the store.
    let home = tempfile::tempdir().unwrap();
    let after = Fixture::new("rbd", &[], &of(&f).options(), None, home).await;
    after.store.health().unwrap();
    for at in [&at_moved, &at] {
        assert_reads(&*after.driver, at, &bytes, "meanwhile").await;
    }
    let error = after.store.delete(&at_moved, "test").await.unwrap_err();
    assert_eq!(error.kind(), Kind::InUse, "{error:?}");
    after.store.delete(&at, "test").await.unwrap();
    stores::idle(&after.store).await;
    of(&f).rbd_must(&["migration", "abort", "--no-progress", &named(&moved)]);
    assert_reads(&*f.driver, &at_moved, &bytes, "aborted").await;
    // To its end, inside the pool: its name is another image's then.
    of(&f).rbd_must(&["migration", "prepare", &named(&moved), &named(&moved)]);
    of(&f).rbd_must(&["migration", "execute", "--no-progress", &named(&moved)]);
    assert_reads(&*f.driver, &at_moved, &bytes, "executed").await;
    stores::idle(&f.store).await;
    of(&f).rbd_must(&["migration", "commit", "--no-progress", &named(&moved)]);
    assert_reads(&*f.driver, &at_moved, &bytes, "committed").await;
    stores::idle(&f.store).await;
    f.store.delete(&at_moved, "test").await.unwrap();
    f.assert_empty().await;
}

/// librbd's own encryption: without the passphrase an image is what lies in the cluster, as glance_store reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_image_is_read_as_it_is_stored() {
    let f = stores::rbd().await;
    let ceph = of(&f);
    let passphrase = f.home().join("passphrase");
    std::fs::write(&passphrase, "secret").unwrap();
    for (format, version) in [("luks1", 1), ("luks2", 2)] {
        let id = f.id();
        ceph.import(&named(&id), &image(Look::Random, 24 << 20, 65), &[]);
        let passphrase = passphrase.to_str().unwrap();
        ceph.rbd_must(&["encryption", "format", &named(&id), format, passphrase]);
        ceph.rbd_must(&["snap", "create", "--no-progress", &named(format!("{id}@snap"))]);
        ceph.rbd_must(&["snap", "protect", &named(format!("{id}@snap"))]);
        let stored = Bytes::from(exported(&f, id.as_str()));
        let header = [b"LUKS\xba\xbe", &[0, version][..]].concat();
        assert!(stored.starts_with(&header), "{format}: it has a header");
        let at = f.driver.locate(&id).await.unwrap();
        assert_reads(&*f.driver, &at, &stored, format).await;
        stores::idle(&f.store).await;
        f.store.delete(&at, "test").await.unwrap();
    }
    ceph.assert_empty();
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_somebody_has_open_stays_whole() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 55);
    // By librbd, and as the kernel does.
    for open in [Opener::open, Opener::map] {
        let id = f.id();
        let at = f.place(&id, &bytes).await;
        let opener = open(of(&f), id.as_str());
        assert_held(&f, &at, &id, &bytes, "it is open at ").await;
        opener.close();
        f.store.delete(&at, "test").await.unwrap();
    }
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
            let removed = f.driver.recover(&claim(&id), None).await.unwrap();
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

/// Clients that move an image into the trash while another removes it have it listed there for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_trash_lists_and_is_gone_is_listed_no_more() {
    let f = stores::rbd().await;
    let bytes = image(Look::Mixed, 5_000_000, 59);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let ceph = of(&f);
    // In the trash for a clone, under the number of a daemon's deletion.
    clone(&f, &id, 2, "child");
    f.store.delete(&at, "test").await.unwrap();
    let noted = ceph.noted(id.as_str(), f.home());
    ceph.rbd_must(&["rm", "--no-progress", &named("child")]);
    f.driver.purge().await.unwrap();
    assert!(ceph.trash().is_empty(), "{:?}", ceph.trash());
    noted.again();
    assert_eq!(ceph.trash().len(), 1, "{:?}", ceph.trash());
    f.driver.purge().await.unwrap();
    ceph.assert_empty();
    f.assert_empty().await;
}

/// What a daemon leaves that dies between two calls to the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_half_made_image_is_cleared_away() {
    let f = stores::rbd().await;
    let ceph = of(&f);
    let instance = f.shared().ids.instance();
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
        let removed = f.driver.recover(&claim(id), None).await.unwrap();
        assert!(matches!(removed, Recovered::Removed(_)), "{removed:?}");
        assert_free(&f, id, "recovered").await;
    }
    ceph.assert_empty();
    // Another daemon's is not touched.
    let id = f.id();
    made(&id);
    marked(&id, "another");
    assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Nothing);
    assert_eq!(ceph.images(), [id.as_str()]);
    ceph.rbd_must(&["rm", "--no-progress", &named(&id)]);
    // Whose it is that has no mark shows when nobody has it open, be it a live one or a dead.
    for dies in [false, true] {
        made(&id);
        let opener = Opener::open(ceph, id.as_str());
        let error = f.driver.recover(&claim(&id), None).await.unwrap_err();
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

/// Mirroring of the pool, until this is dropped.
struct Mirroring<'a>(&'a Ceph);

impl<'a> Mirroring<'a> {
    fn on(ceph: &'a Ceph) -> Self {
        let mirroring = Self(ceph);
        mirroring.end();
        ceph.admin_rbd(&["mirror", "pool", "enable", POOL, "image"]);
        // Without a peer there are no snapshots for it.
        ceph.admin_rbd(&["mirror", "pool", "peer", "add", POOL, "client.other@elsewhere"]);
        mirroring
    }

    /// Also of what a test that failed has left: nothing can be done with an image that is not primary.
    fn end(&self) {
        for image in self.0.images() {
            self.0.try_admin_rbd(&["mirror", "image", "promote", "--force", &named(image)]);
        }
        let shown = ["mirror", "pool", "info", "--format", "json", POOL];
        let shown: serde_json::Value =
            serde_json::from_str(&self.0.admin_rbd(&shown)).unwrap_or_default();
        for peer in shown["peers"].as_array().into_iter().flatten() {
            let uuid = peer["uuid"].as_str().unwrap_or_default();
            self.0.try_admin_rbd(&["mirror", "pool", "peer", "remove", POOL, uuid]);
        }
        self.0.try_admin_rbd(&["mirror", "pool", "disable", POOL]);
    }
}

impl Drop for Mirroring<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_snapshots_of_mirroring_go_with_their_image_and_no_others() {
    let f = stores::rbd().await;
    let ceph = of(&f);
    let _mirroring = Mirroring::on(ceph);
    let bytes = image(Look::Mixed, 5_000_000, 61);
    for mode in ["snapshot", "journal"] {
        let id = f.id();
        let at = f.place(&id, &bytes).await;
        if mode == "journal" {
            ceph.rbd_must(&["feature", "enable", &named(&id), "journaling"]);
        }
        ceph.admin_rbd(&["mirror", "image", "enable", &named(&id), mode]);
        if mode == "snapshot" {
            ceph.admin_rbd(&["mirror", "image", "snapshot", &named(&id)]);
            let snaps = ceph.rbd_must(&["snap", "ls", "--all", &named(&id)]);
            assert!(snaps.contains(".mirror.primary."), "{snaps}");
        }
        // A user's beside them refuses as ever, by its name alone.
        let theirs = named(format!("{id}@theirs"));
        ceph.rbd_must(&["snap", "create", "--no-progress", &theirs]);
        let error = f.store.delete(&at, "test").await.unwrap_err();
        assert!(error.to_string().contains("it has other snapshots, theirs: "), "{error}");
        let mirrored = ceph.rbd_must(&["mirror", "image", "status", &named(&id)]);
        assert!(
            mirrored.contains("global_id"),
            "the refused delete has touched nothing: {mirrored}"
        );
        ceph.rbd_must(&["snap", "rm", "--no-progress", &theirs]);
        assert_reads(&*f.driver, &at, &bytes, mode).await;
        stores::idle(&f.store).await;
        f.store.delete(&at, "test").await.unwrap();
        ceph.assert_empty();
    }
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_not_primary_says_so_and_is_read() {
    let f = stores::rbd().await;
    let ceph = of(&f);
    let _mirroring = Mirroring::on(ceph);
    let bytes = image(Look::Mixed, 5_000_000, 62);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    ceph.admin_rbd(&["mirror", "image", "enable", &named(&id), "snapshot"]);
    ceph.admin_rbd(&["mirror", "image", "demote", &named(&id)]);
    let why = "this image is not primary here";
    assert_held(&f, &at, &id, &bytes, why).await;
    let digests = f.driver.stat(&at).await.unwrap().digests.unwrap();
    let error = f.driver.record(&at, &claim(&id), &digests).await.unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    // A volume that is not primary cannot be sealed, and says the same.
    ceph.admin_rbd(&["mirror", "image", "promote", &named(&id)]);
    f.store.delete(&at, "test").await.unwrap();
    ceph.assert_empty();
    f.assert_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_in_a_group_stays_whole_until_it_has_left_it() {
    let f = stores::rbd().await;
    let ceph = of(&f);
    let bytes = image(Look::Mixed, 5_000_000, 63);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let group = named("together");
    ceph.rbd(&["group", "rm", &group]);
    ceph.rbd_must(&["group", "create", &group]);
    ceph.rbd_must(&["group", "image", "add", &group, &named(&id)]);
    assert_held(&f, &at, &id, &bytes, "it is in the group together").await;
    ceph.rbd_must(&["group", "snap", "create", &format!("{group}@then")]);
    assert_held(&f, &at, &id, &bytes, "a group's snapshots").await;
    ceph.rbd_must(&["group", "rm", &group]);
    f.store.delete(&at, "test").await.unwrap();
    ceph.assert_empty();
    f.assert_empty().await;
}

/// What a user's snapshot left when it was removed and had clones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_a_snapshot_in_the_trash_goes_when_its_clone_does() {
    let f = stores::rbd().await;
    let ceph = of(&f);
    let bytes = image(Look::Mixed, 5_000_000, 64);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let theirs = named(format!("{id}@theirs"));
    ceph.rbd_must(&["snap", "create", "--no-progress", &theirs]);
    ceph.rbd_must(&["clone", "--rbd_default_clone_format=2", &theirs, &named("child")]);
    ceph.rbd_must(&["snap", "rm", "--no-progress", &theirs]);
    f.store.delete(&at, "test").await.unwrap();
    assert_eq!(exported(&f, "child"), bytes);
    ceph.rbd_must(&["rm", "--no-progress", &named("child")]);
    f.driver.purge().await.unwrap();
    ceph.assert_empty();
    f.assert_empty().await;
}
