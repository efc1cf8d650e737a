//! glance_store's rbd driver on the same pool of a real cluster.

use std::fs;

use serde_json::Value;

use super::{Pair, Peer};
use crate::harness::{
    daemon::{Daemon, noise},
    stores::ceph::{Ceph, Opener},
};

impl Pair<Ceph> {
    /// With these options beside those that say where the pool is.
    async fn start(options: &str) -> Self {
        let ceph = Ceph::up();
        let options = ceph.options() + options;
        Self::with(ceph, options)
    }

    fn with(ceph: Ceph, options: String) -> Self {
        let config = format!("[DEFAULT]\nenabled_backends = fast:rbd\n[fast]\n{options}");
        Self { daemon: Daemon::start(&config), peer: Peer::new("rbd", options), backend: ceph }
    }

    /// Ends the daemon, which closes its images, and checks that nothing is left.
    fn end(mut self) {
        assert!(self.daemon.stop().success());
        self.backend.assert_empty();
    }

    fn delete(&self, id: &str) {
        let path = format!("/v1/stores/fast/images/{id}");
        self.daemon.wait_until("nobody reads the image", |daemon| {
            let deleted = daemon.ask("DELETE", &path);
            assert!([204, 409].contains(&deleted.status), "{deleted:?}");
            deleted.status == 204
        });
    }
}

/// Without what no two images have alike.
fn shape(mut info: Value) -> Value {
    let own = ["id", "name", "block_name_prefix"];
    let times = ["create_timestamp", "access_timestamp", "modify_timestamp"];
    for key in own.iter().chain(&times) {
        assert!(info.as_object_mut().unwrap().remove(*key).is_some(), "{key}: {info}");
    }
    info
}

#[tokio::test]
async fn each_reads_sizes_and_deletes_what_the_other_wrote() {
    let mut sparse = vec![0; 20 << 20];
    sparse[9 << 20..(9 << 20) + 5].copy_from_slice(b"hello");
    let images = [Vec::new(), noise((17 << 20) + 3, 1), sparse];
    for (options, size, known) in [
        ("", 8, true),
        ("rbd_store_chunk_size=4\nrbd_thin_provisioning=true\n", 4, false),
        ("rbd_store_chunk_size=4\nrbd_thin_provisioning=false\n", 4, true),
        ("rbd_thin_provisioning=true\n", 8, false),
    ] {
        let pair = Pair::start(options).await;
        for (n, image) in images.iter().enumerate() {
            let (theirs, ours) = (format!("theirs-{n}"), format!("ours-{n}"));
            let what = format!("{options:?} {n} {known}");
            let more: &[&str] = if known { &[] } else { &["--unknown-size"] };
            let put = pair.theirs(&theirs, image, more);
            let receipt = pair.ours(&ours, image, known);
            // Byte for byte the same, but for the id.
            let their_uri = put["uri"].as_str().unwrap();
            let our_uri = their_uri.replace(&theirs, &ours);
            assert_eq!(receipt["location"], our_uri.as_str(), "{what}");
            for key in ["size", "checksum", "hash_value", "metadata"] {
                assert_eq!(receipt[key], put[key], "{what} {key}");
            }
            // The cluster sees two of a kind: length, objects, features, a protected snapshot.
            let seen = shape(pair.backend.info(&format!("{ours}@snap")));
            assert_eq!(seen, shape(pair.backend.info(&format!("{theirs}@snap"))), "{what}");
            assert_eq!(
                (&seen["protected"], &seen["object_size"]),
                (&"true".into(), &(size << 20).into())
            );
            // Each finds, reads and sizes the other's.
            let head = pair.daemon.ask("HEAD", &format!("/v1/stores/fast/images/{theirs}"));
            assert_eq!(head.status, 200, "{what}");
            assert_eq!(head.headers["content-length"], image.len().to_string(), "{what}");
            assert!(pair.daemon.get("fast", &theirs).body == *image, "{what}");
            assert!(pair.at("GET", their_uri).body == *image, "{what}");
            assert!(pair.read_by_peer(&our_uri) == *image, "{what}");
            assert_eq!(pair.peer.size(&our_uri), image.len(), "{what}");
            // Each deletes the other's, and the id is free.
            assert_eq!(pair.at("DELETE", their_uri).status, 204, "{what}");
            assert_eq!(pair.peer.size(their_uri), "NotFound", "{what}");
            assert!(pair.peer.delete(&our_uri).is_null(), "{what}");
            assert_eq!(pair.daemon.get("fast", &ours).code(), "NotFound", "{what}");
        }
        pair.end();
    }
}

#[tokio::test]
async fn every_digest_is_glance_stores() {
    let pair = Pair::start("").await;
    let image = noise(100_003, 2);
    for algo in ["sha512", "sha384", "sha256", "sha224", "sha1", "blake2b", "md5"] {
        let put = pair.theirs("theirs", &image, &["--algo", algo]);
        let receipt = pair.ours(&format!("ours?hash_algo={algo}"), &image, true);
        for key in ["checksum", "hash_value"] {
            assert_eq!(receipt[key], put[key], "{algo} {key}");
        }
        pair.delete("ours");
        pair.delete("theirs");
    }
    pair.end();
}

#[tokio::test]
async fn each_refuses_an_id_that_the_other_has_taken() {
    let pair = Pair::start("").await;
    let put = pair.theirs("theirs", b"their image", &[]);
    let taken = pair.daemon.put("fast", "theirs", b"another");
    assert_eq!(taken.code(), "Exists");
    assert_eq!(pair.read_by_peer(put["uri"].as_str().unwrap()), b"their image");
    pair.ours("ours", b"our image", true);
    assert_eq!(pair.theirs("ours", b"another", &[])["error"], "Duplicate");
    // glance_store's own clean-up left it alone too.
    assert_eq!(pair.daemon.get("fast", "ours").body, b"our image");
    pair.delete("ours");
    pair.delete("theirs");
    pair.end();
}

/// Without their snapshot, images of Glance's are told from volumes by their names.
const BROKEN: &str = "71c675ab-d94f-49cd-a114-e12490b328d9";
const PLAIN: &str = "0e6a7f0c-3c55-4b8e-9d41-2f6b8a1c7d03";
const OLD: &str = "5bb1c8f2-7a64-4c09-8e35-d90f4e6a2b17";

#[tokio::test]
async fn a_broken_put_of_the_others_is_no_image_and_can_be_deleted() {
    let pair = Pair::start("").await;
    // As if glance_store had died in the middle: no snapshot.
    pair.backend.rbd(&["create", "--size", "8M", &format!("images/{BROKEN}")]);
    assert_eq!(pair.daemon.get("fast", BROKEN).code(), "NotFound");
    assert_eq!(pair.daemon.put("fast", BROKEN, b"another").code(), "Exists");
    // But it has the name and the space, so the list has it, and says what it is.
    let listed = pair.daemon.ask("GET", "/v1/stores/fast/images").json();
    assert_eq!(listed["location"], format!("rbd://{BROKEN}"));
    assert!(listed["odd"].as_str().unwrap().contains("was broken off"), "{listed}");
    // Glance deletes by the location that it was given.
    assert_eq!(
        pair.daemon.ask("DELETE", &format!("/v1/stores/fast/images/{BROKEN}")).code(),
        "NotFound"
    );
    let uri = format!("rbd://{}/images/{BROKEN}/snap", pair.backend.fsid());
    assert_eq!(pair.at("DELETE", &uri).status, 204);
    pair.end();
}

/// Images that glance_store serves and makes no more: of format 1, without a snapshot, and with one that is
/// not protected.
#[tokio::test]
async fn each_serves_the_odd_images_of_old_glances() {
    let pair = Pair::start("").await;
    let image = noise((9 << 20) + 3, 7);
    let fsid = pair.backend.fsid();
    let (old, at_snap) =
        (|id: &str| format!("rbd://{id}"), |id: &str| format!("rbd://{fsid}/images/{id}/snap"));
    let snapped = |id: &str| {
        pair.backend.rbd_must(&["snap", "create", "--no-progress", &format!("images/{id}@snap")]);
    };
    let imported =
        |id: &str, how: &[&str]| pair.backend.import(&format!("images/{id}"), &image, how);
    let format_1 = ["--image-format", "1"];
    let make = |id: &str| match id {
        "theirs" => {
            pair.theirs(id, &image, &[]);
            pair.backend.rbd_must(&["snap", "unprotect", "images/theirs@snap"]);
        }
        "ours" => {
            pair.ours(id, &image, true);
            pair.backend.rbd_must(&["snap", "unprotect", "images/ours@snap"]);
        }
        PLAIN => imported(id, &[]),
        // glance_store makes no images without it, but an operator's default may.
        "flat" => {
            imported(id, &["--image-feature", "exclusive-lock"]);
            snapped(id);
        }
        OLD => imported(id, &format_1),
        _ => {
            imported(id, &format_1);
            snapped(id);
        }
    };
    for (id, uri, odd) in [
        ("theirs", at_snap("theirs"), "is not protected"),
        ("ours", at_snap("ours"), "is not protected"),
        ("flat", at_snap("flat"), "is not protected"),
        (PLAIN, old(PLAIN), "no snapshot"),
        (OLD, old(OLD), "format 1"),
        ("old-snapped", old("old-snapped"), "format 1"),
        ("old-snapped", at_snap("old-snapped"), "format 1"),
    ] {
        // Without the snapshot's name glance_store knows no way to remove the last.
        let who: &[_] = if uri == old("old-snapped") { &["daemon"] } else { &["daemon", "peer"] };
        for who in who {
            make(id);
            let head = pair.at("HEAD", &uri);
            assert_eq!(head.status, 200, "{uri}");
            assert_eq!(head.headers["content-length"], image.len().to_string(), "{uri}");
            assert!(pair.at("GET", &uri).body == image, "{uri}");
            assert!(pair.read_by_peer(&uri) == image, "{uri}");
            assert_eq!(pair.peer.size(&uri), image.len(), "{uri}");
            let listed = pair.daemon.ask("GET", "/v1/stores/fast/images").json();
            assert_eq!(
                (&listed["id"], &listed["size"]),
                (&id.into(), &image.len().into()),
                "{listed}"
            );
            assert!(listed["odd"].as_str().unwrap().contains(odd), "{listed}");
            // What is listed is found there.
            let at = listed["location"].as_str().unwrap();
            assert_eq!(pair.at("HEAD", at).status, 200, "{listed}");
            if id != PLAIN {
                assert!(pair.daemon.get("fast", id).body == image, "{uri}");
            }
            if *who == "daemon" {
                let deleted = pair.at("DELETE", &uri);
                let said = String::from_utf8_lossy(&deleted.body);
                assert_eq!(deleted.status, 204, "{uri}: {said}");
            } else {
                pair.daemon
                    .wait_until("nobody reads the image", |_| pair.peer.delete(&uri).is_null());
            }
            assert_eq!(pair.peer.size(&uri), "NotFound", "{uri}");
            assert_eq!(pair.at("HEAD", &uri).status, 404, "{uri}");
            assert_eq!(pair.daemon.get("fast", id).status, 404, "{uri}");
            pair.backend.until("the name to be free", |ceph| ceph.images().is_empty());
        }
    }
    // What glance_store still writes is in no list.
    imported("half", &[]);
    let opener = Opener::open(&pair.backend, "half");
    assert_eq!(pair.daemon.ask("GET", "/v1/stores/fast/images").body, b"");
    opener.close();
    assert_eq!(pair.at("DELETE", &at_snap("half")).status, 204);
    pair.end();
}

#[tokio::test]
async fn locations_are_quoted_as_glance_store_quotes_them() {
    let ceph = Ceph::up();
    let pool = "im ages+1~é";
    ceph.make_pool(pool);
    let options = ceph.options_of("admin", pool, 20);
    let pair = Pair::with(ceph, options);
    let image = noise(70_000, 3);
    // The daemon's own ids are plain, and yet it finds what others have named.
    for id in ["plain-1.x_Y", "a b", "a/b", "100%", "%41", "q?x=1&y#z", "é+~"] {
        let put = pair.theirs(id, &image, &[]);
        let uri = put["uri"].as_str().unwrap_or_else(|| panic!("{id}: {put}"));
        assert!(pair.at("GET", uri).body == image, "{uri}");
        assert_eq!(pair.at("HEAD", uri).headers["content-length"], "70000", "{uri}");
        assert_eq!(pair.at("DELETE", uri).status, 204, "{uri}");
        assert_eq!(pair.peer.size(uri), "NotFound");
    }
    let put = pair.theirs("theirs", &image, &[]);
    let receipt = pair.ours("ours", &image, true);
    let uri = receipt["location"].as_str().unwrap();
    assert_eq!(uri, put["uri"].as_str().unwrap().replace("theirs", "ours"));
    assert!(pair.read_by_peer(uri) == image);
    assert!(pair.peer.delete(uri).is_null());
    assert_eq!(pair.at("DELETE", put["uri"].as_str().unwrap()).status, 204);
    pair.backend.remove_pool(pool);
    pair.end();
}

#[tokio::test]
async fn old_locations_of_one_part_name_the_same_images() {
    let pair = Pair::start("").await;
    let image = noise(9 << 20, 4);
    pair.theirs("theirs", &image, &[]);
    pair.ours("ours", &image, true);
    for id in ["theirs", "ours"] {
        let old = format!("rbd://{id}");
        assert_eq!(pair.at("HEAD", &old).headers["content-length"], image.len().to_string());
        assert!(pair.at("GET", &old).body == image, "{id}");
        assert!(pair.read_by_peer(&old) == image, "{id}");
        assert_eq!(pair.at("DELETE", &old).status, 204, "{id}");
        assert_eq!(pair.peer.size(&old), "NotFound", "{id}");
    }
    pair.end();
}

#[tokio::test]
async fn an_image_with_a_clone_is_in_use_for_both_and_stays_usable() {
    let pair = Pair::start("").await;
    let image = noise((9 << 20) + 1, 5);
    let theirs = pair.theirs("theirs", &image, &[]);
    let ours = pair.ours("ours", &image, true);
    let uris = [theirs["uri"].as_str().unwrap(), ours["location"].as_str().unwrap()];
    for (uri, id) in uris.iter().zip(["theirs", "ours"]) {
        pair.backend.clone_of(id, "disk", 1);
        assert_eq!(pair.at("DELETE", uri).code(), "InUse", "{id}");
        assert_eq!(pair.peer.delete(uri), "InUseByStore", "{id}");
        assert_eq!(pair.backend.info(&format!("{id}@snap"))["protected"], "true", "{id}");
        assert!(pair.at("GET", uri).body == image, "{id}");
        assert!(pair.read_by_peer(uri) == image, "{id}");
        pair.backend.rbd(&["rm", "volumes/disk"]);
    }
    // And then no more: each deletes the other's.
    assert_eq!(pair.at("DELETE", uris[0]).status, 204);
    assert!(pair.peer.delete(uris[1]).is_null());
    pair.end();
}

#[tokio::test]
async fn clones_of_the_second_format_outlive_their_image_whoever_deletes_it() {
    let pair = Pair::start("").await;
    let image = noise((9 << 20) + 1, 6);
    for (id, ours) in [("first", true), ("second", false)] {
        let put = pair.theirs(id, &image, &[]);
        let uri = put["uri"].as_str().unwrap();
        pair.backend.clone_of(id, "disk", 2);
        if ours {
            assert_eq!(pair.at("DELETE", uri).status, 204);
        } else {
            assert!(pair.peer.delete(uri).is_null());
        }
        // Gone for both, its name is free, and the clone reads.
        assert_eq!(pair.peer.size(uri), "NotFound", "{id}");
        assert_eq!(pair.at("HEAD", uri).status, 404, "{id}");
        let out = pair.daemon.path("disk");
        pair.backend.rbd(&["export", "volumes/disk", out.to_str().unwrap()]);
        assert!(fs::read(&out).unwrap() == image, "{id}");
        fs::remove_file(&out).unwrap();
        pair.ours(id, b"the next", true);
        pair.delete(id);
        pair.backend.rbd(&["rm", "volumes/disk"]);
        // What the daemon has put there it purges itself, once the clone is gone.
        pair.backend.rbd(&["trash", "purge", "images"]);
        pair.backend.assert_empty();
    }
    pair.end();
}
