//! Images from volumes, on a real cluster.

mod services;

use imaged::{digest::Algo, point::VOLUME_POINTS};
use serde_json::{Value, json};

use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    stores::{
        ceph::{Ceph, POOL, VOLUMES},
        content::digests,
    },
};

const IMAGE: &str = "/v1/stores/fast/images/x";

/// `fast` in the cluster, `cheap` in a directory.
fn config(ceph: &Ceph) -> String {
    format!(
        "[DEFAULT]\nenabled_backends = fast:rbd, cheap:file\n[glance_store]\ndefault_backend = fast\n\
         [fast]\n{}\n[cheap]\nfilesystem_store_datadir = {{dir}}/cheap\n",
        ceph.options()
    )
}

/// Something at both ends, and nothing in between.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; 40 << 20];
    bytes[..5 << 20].copy_from_slice(&noise(5 << 20, 91));
    let end = bytes.len() - 70_000;
    bytes[end..].copy_from_slice(&noise(70_000, 92));
    bytes
}

fn post(daemon: &Daemon, path: &str, source: &Value, mode: &str) -> Answer {
    let body = json!({"source": source, "mode": mode, "hash_algo": "sha256"});
    Raw::ask(&daemon.socket, "POST", path, body.to_string().as_bytes())
}

fn delete(daemon: &Daemon) {
    let deleted = daemon.ask("DELETE", IMAGE);
    assert_eq!(deleted.status, 204, "{}", String::from_utf8_lossy(&deleted.body));
}

/// No image, and no snapshot of a volume.
fn assert_clean(ceph: &Ceph, daemon: &Daemon, what: &str) {
    daemon.wait_until("the images to be gone", |_| ceph.images().is_empty());
    ceph.assert_empty();
    for volume in ceph.volumes() {
        let snaps = ceph.rbd(&["snap", "ls", "--all", &format!("{VOLUMES}/{volume}")]);
        assert_eq!(snaps, "", "{what}: snapshots of {volume}");
    }
    daemon.wait_until_idle();
}

/// The image is what the volume was, by digests too, and stands alone.
fn assert_made(ceph: &Ceph, daemon: &Daemon, bytes: &[u8], what: &str) {
    daemon.wait_until_idle();
    let wanted = digests(bytes, Algo::Sha256);
    let stat = daemon.ask("HEAD", IMAGE);
    assert_eq!(stat.status, 200, "{what}");
    assert_eq!(stat.headers["content-length"], bytes.len().to_string(), "{what}");
    assert_eq!(stat.headers["etag"], format!("\"{}\"", wanted.checksum.unwrap()), "{what}");
    assert!(stat.headers["repr-digest"].contains("sha-256=:"), "{what}");
    assert!(daemon.get("fast", "x").body == bytes, "{what}");
    let info = ceph.rbd(&["info", &format!("{POOL}/x@snap")]);
    assert!(info.contains("protected: True") && !info.contains("parent:"), "{what}: {info}");
}

#[test]
fn a_volume_becomes_an_image_in_every_mode() {
    let ceph = Ceph::up();
    let bytes = content();
    ceph.volume("volume-1", &bytes);
    ceph.rbd(&["snap", "create", &format!("{VOLUMES}/volume-1@then")]);
    let fsid = ceph.fsid();
    let daemon = Daemon::start(&config(&ceph));
    let volume = format!("{VOLUMES}/volume-1");
    let sources = [
        json!({"rbd_volume": volume}),
        json!({"rbd_volume": format!("{volume}@then"), "store": "fast"}),
        json!({"location": format!("rbd://{fsid}/{VOLUMES}/volume-1/then")}),
    ];
    for source in &sources {
        for mode in ["clone", "copy", "auto", "stream"] {
            let what = format!("{source} by {mode}");
            let made = post(&daemon, IMAGE, source, mode);
            assert_eq!(made.status, 201, "{what}: {}", String::from_utf8_lossy(&made.body));
            let receipt = made.json();
            assert_eq!(receipt["size"], bytes.len(), "{what}");
            assert_eq!(receipt["location"], format!("rbd://{fsid}/{POOL}/x/snap"), "{what}");
            let follow = matches!(mode, "clone" | "auto");
            assert_eq!(receipt["digest_job"].is_string(), follow, "{what}: {receipt}");
            if let Some(job) = receipt["digest_job"].as_str() {
                let job = daemon.ask("GET", &format!("/v1/jobs/{job}?wait=30")).json();
                assert_eq!(job["state"], "done", "{what}: {job}");
                assert_eq!(job["done"], bytes.len(), "{what}: {job}");
            } else {
                assert_eq!(receipt["hash_value"], digests(&bytes, Algo::Sha256).hash_value);
            }
            assert_made(&ceph, &daemon, &bytes, &what);
            assert_eq!(post(&daemon, IMAGE, source, mode).code(), "Exists", "{what}");
            delete(&daemon);
            ceph.rbd(&["snap", "rm", &format!("{volume}@none")]);
        }
    }
    ceph.rbd(&["snap", "rm", &format!("{volume}@then")]);
    assert_clean(&ceph, &daemon, "every mode");
}

#[test]
fn an_image_of_a_volume_has_no_md5_where_images_have_none() {
    let ceph = Ceph::up();
    let bytes = content();
    ceph.volume("volume-1", &bytes);
    let daemon = Daemon::start(&format!("{}[imaged]\nchecksum = none\n", config(&ceph)));
    let source = json!({"rbd_volume": format!("{VOLUMES}/volume-1")});
    let wanted = digests(&bytes, Algo::Sha256).hash_value;
    for mode in ["clone", "copy", "stream"] {
        let made = post(&daemon, IMAGE, &source, mode);
        assert_eq!(made.status, 201, "{mode}: {}", String::from_utf8_lossy(&made.body));
        assert_eq!(made.json().get("checksum"), None, "{mode}");
        daemon.wait_until_idle();
        for method in ["HEAD", "GET"] {
            let headers = daemon.ask(method, IMAGE).headers;
            assert_eq!(headers["etag"], format!("\"{wanted}\""), "{mode}");
            assert!(!headers["repr-digest"].contains("md5="), "{mode}: {headers:?}");
        }
        assert!(daemon.get("fast", "x").body == bytes, "{mode}");
        delete(&daemon);
    }
    assert_clean(&ceph, &daemon, "without md5");
}

#[test]
fn a_volume_is_streamed_into_a_store_of_another_kind() {
    let ceph = Ceph::up();
    let bytes = content();
    ceph.volume("volume-1", &bytes);
    let daemon = Daemon::start(&config(&ceph));
    let source = json!({"rbd_volume": format!("{VOLUMES}/volume-1")});
    let path = "/v1/stores/cheap/images/x";
    let made = post(&daemon, path, &source, "auto");
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    assert_eq!(made.json()["hash_value"], digests(&bytes, Algo::Sha256).hash_value);
    assert!(daemon.get("cheap", "x").body == bytes);
    assert_eq!(daemon.ask("DELETE", path).status, 204);
    assert_eq!(post(&daemon, path, &source, "clone").code(), "Unsupported");
    assert_clean(&ceph, &daemon, "streamed");
}

#[test]
fn the_volume_may_change_and_go_while_the_image_stays_what_it_was() {
    let ceph = Ceph::up();
    let bytes = content();
    ceph.volume("volume-1", &bytes);
    // Left as clones, so that nothing is copied.
    let text = config(&ceph).replace("[fast]\n", "[fast]\nimaged_flatten = false\n");
    let daemon = Daemon::start(&text);
    let source = json!({"rbd_volume": format!("{VOLUMES}/volume-1")});
    assert_eq!(post(&daemon, IMAGE, &source, "clone").status, 201);
    let rest = "--io-type=write --io-pattern=seq --io-size=4M --io-total=20M";
    let mut bench = vec!["bench", "volumes/volume-1"];
    bench.extend(rest.split(' '));
    ceph.rbd(&bench);
    daemon.wait_until_idle();
    assert!(daemon.get("fast", "x").body == bytes);
    let info = ceph.rbd(&["info", &format!("{POOL}/x")]);
    assert!(info.contains("parent: volumes/volume-1@"), "{info}");
    // Clones of images, and the deletion of what they come from.
    let at = daemon.ask("HEAD", IMAGE).headers["content-location"].clone();
    let second = "/v1/stores/fast/images/y";
    let copied = post(&daemon, second, &json!({"location": at}), "clone");
    assert_eq!(copied.status, 201, "{}", String::from_utf8_lossy(&copied.body));
    daemon.wait_until_idle();
    delete(&daemon);
    assert_eq!(daemon.ask("HEAD", IMAGE).status, 404);
    assert!(daemon.get("fast", "y").body == bytes, "its parent is in the trash");
    let stores = daemon.ask("GET", "/v1/stores").json();
    assert_eq!(daemon.put("fast", "x", b"another").status, 201, "the name is free: {stores}");
    assert_eq!(daemon.get("fast", "x").body, b"another");
    delete(&daemon);
    assert_eq!(daemon.ask("DELETE", second).status, 204);
    assert_clean(&ceph, &daemon, "clones");
}

#[test]
fn an_image_may_be_deleted_before_its_digests_and_its_flattening_are_over() {
    let ceph = Ceph::up();
    let bytes = noise(200 << 20, 94);
    ceph.volume("volume-1", &bytes);
    let text = config(&ceph).replace("[fast]\n", "[fast]\nimaged_flatten_objects = 1\n");
    let daemon = Daemon::start(&text);
    let source = json!({"rbd_volume": format!("{VOLUMES}/volume-1")});
    for moment in ["digest", "flatten"] {
        let made = post(&daemon, IMAGE, &source, "clone");
        assert_eq!(made.status, 201, "{moment}");
        let job = |kind: &str| {
            let jobs = daemon.ask("GET", "/v1/jobs").json()["jobs"].clone();
            let mut jobs = jobs.as_array().unwrap().iter().rev();
            jobs.find(|job| job["kind"] == kind).cloned()
        };
        daemon.wait_until(moment, |_| {
            job(moment)
                .is_some_and(|job| job["done"].as_u64() > Some(0) && job["state"] == "running")
        });
        delete(&daemon);
        let job = job(moment).unwrap();
        assert_eq!(job["state"], "cancelled", "{moment}: {job}");
        // Bytes, also of a flattening, which librbd counts in objects.
        assert_eq!(job["total"], bytes.len(), "{moment}: {job}");
        assert!(job["done"].as_u64() < job["total"].as_u64(), "{moment}: {job}");
        assert_clean(&ceph, &daemon, moment);
    }
}

#[test]
fn bad_volumes_are_refused_with_a_remedy_and_leave_nothing() {
    let ceph = Ceph::up();
    ceph.volume("volume-1", &noise(100_000, 93));
    let daemon = Daemon::start(&config(&ceph));
    let mine = format!("{VOLUMES}/volume-1");
    for (volume, code, part) in [
        ("volume-1", "Invalid", "POOL/NAME"),
        ("volumes/none", "NotFound", "no such volume"),
        ("nowhere/volume-1", "NotFound", "no such pool"),
        ("volumes/volume-1@none", "NotFound", "volume-1@none"),
    ] {
        for mode in ["auto", "stream"] {
            let refused = post(&daemon, IMAGE, &json!({"rbd_volume": volume}), mode);
            assert_eq!(refused.code(), code, "{volume}: {}", refused.detail());
            assert!(refused.detail().contains(part), "{volume}: {}", refused.detail());
        }
    }
    let refused = post(&daemon, IMAGE, &json!({"rbd_volume": mine, "store": "cheap"}), "auto");
    assert_eq!(refused.code(), "Unsupported");
    let refused = post(&daemon, IMAGE, &json!({"rbd_volume": mine, "cinder_volume": "x"}), "auto");
    assert_eq!(refused.code(), "Invalid");
    assert_clean(&ceph, &daemon, "refused");
}

#[test]
fn caps_that_only_read_volumes_take_named_snapshots_and_name_what_is_missing() {
    let ceph = Ceph::up();
    let bytes = content();
    ceph.volume("volume-1", &bytes);
    ceph.rbd(&["snap", "create", &format!("{VOLUMES}/volume-1@then")]);
    let keyring = ceph.conf().with_file_name("ceph.client.narrow.keyring");
    let osd = format!("profile rbd pool={POOL}, profile rbd-read-only pool={VOLUMES}");
    let caps = ["mon", "profile rbd", "mgr", "profile rbd", "osd", &osd];
    let made = [&["auth", "get-or-create", "client.narrow"][..], &caps].concat();
    std::fs::write(&keyring, ceph.admin(&made) + "\n").unwrap();
    let text = config(&ceph).replace("rbd_store_user = glance", "rbd_store_user = narrow");
    let daemon = Daemon::start(&text);
    let volume = format!("{VOLUMES}/volume-1");
    let refused = post(&daemon, IMAGE, &json!({"rbd_volume": volume}), "auto");
    assert_eq!(refused.code(), "BackendDenied", "{}", refused.detail());
    let line = format!(
        "ceph auth caps client.narrow mon 'profile rbd' mgr 'profile rbd' osd 'profile rbd \
         pool={POOL}, profile rbd pool={VOLUMES}'"
    );
    assert!(refused.detail().contains(&line), "{}", refused.detail());
    assert_eq!(refused.detail().matches("needs the caps").count(), 0, "one remedy is enough");
    for mode in ["clone", "stream"] {
        let source = json!({"rbd_volume": format!("{volume}@then")});
        let made = post(&daemon, IMAGE, &source, mode);
        assert_eq!(made.status, 201, "{mode}: {}", String::from_utf8_lossy(&made.body));
        assert_made(&ceph, &daemon, &bytes, mode);
        delete(&daemon);
    }
    ceph.rbd(&["snap", "rm", &format!("{volume}@then")]);
    assert_clean(&ceph, &daemon, "narrow caps");
    ceph.admin(&["auth", "rm", "client.narrow"]);
    std::fs::remove_file(keyring).unwrap();
}

#[test]
fn a_daemon_killed_at_any_point_leaves_the_image_whole_or_absent_and_the_volume_clean() {
    let ceph = Ceph::up();
    let bytes = content();
    ceph.volume("volume-1", &bytes);
    let source = json!({"rbd_volume": format!("{VOLUMES}/volume-1")});
    for point in VOLUME_POINTS {
        let home = Daemon::home();
        let mut daemon = Daemon::start_in(home, &config(&ceph), &[("IMAGED_KILL_AT", point)]);
        let body = json!({"source": source, "mode": "clone", "hash_algo": "sha256"}).to_string();
        let mut raw = Raw::connect(&daemon.socket);
        raw.head("POST", IMAGE, &format!("content-length: {}\r\n", body.len()));
        raw.send(body.as_bytes());
        assert!(raw.read_head().is_none(), "{point}: it answered before it died");
        assert!(!daemon.wait().success());
        let daemon = daemon.restart(&[]);
        daemon.wait_until_idle();
        if matches!(point, "copy-made" | "copy-noted" | "copy-turned") {
            assert_made(&ceph, &daemon, &bytes, point);
            delete(&daemon);
        } else {
            assert_eq!(daemon.ask("HEAD", IMAGE).status, 404, "{point}");
        }
        assert_clean(&ceph, &daemon, point);
    }
}
