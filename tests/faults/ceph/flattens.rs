//! Images that stop being clones while somebody has them open: librbd goes on by the object map that a
//! snapshot had when it was opened, and by a parent that has gone since.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
};

use super::{MIB, conf};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::Raw,
    stores::{
        assert_same,
        ceph::{Ceph, POOL, VOLUMES},
    },
};

/// In objects, which are small, so that a reader is far from its end.
const SIZE: usize = 64 * MIB;

/// A daemon that leaves its clones as they are.
fn daemon(ceph: &Ceph, user: &str) -> Daemon {
    let options = ceph.options_of(user, POOL, 30);
    Daemon::start(&conf(&format!("{options}rbd_store_chunk_size = 1\nimaged_flatten = false\n")))
}

/// A download that has begun, and goes on when it is read.
fn download(daemon: &Daemon, id: &str) -> Raw {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", &format!("/v1/stores/slow/images/{id}"), "");
    assert_eq!(raw.read_head().unwrap().0, 200);
    raw
}

/// Somebody who has an image open, as a virtual machine has its disk, and reads on when he is waited for.
fn holder(ceph: &Ceph, image: &str) -> (Child, Vec<u8>) {
    let mut child = Command::new("rbd")
        .args(["--id", "admin", "--rbd-concurrent-management-ops", "1", "--no-progress", "-c"])
        .arg(ceph.conf())
        .args(["export", image, "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = vec![0; MIB];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    (child, first)
}

#[test]
fn what_was_cloned_reads_right_for_all_who_have_it_open_when_it_stands_alone() {
    let ceph = Ceph::up();
    let bytes = noise(SIZE, 51);
    ceph.volume("volume-1", &bytes);
    let daemon = daemon(&ceph, "glance");
    let body = format!(r#"{{"source": {{"rbd_volume": "{VOLUMES}/volume-1"}}, "mode": "clone"}}"#);
    let made = Raw::ask(&daemon.socket, "POST", "/v1/stores/slow/images/x", body.as_bytes());
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    daemon.wait_until_idle();
    let (image, disk) = (format!("{POOL}/x"), format!("{VOLUMES}/disk"));
    ceph.rbd_must(&["clone", &format!("{image}@snap"), &disk]);
    let (mut holder, mut held) = holder(&ceph, &disk);
    let reading = download(&daemon, "x");
    ceph.rbd_must(&["flatten", "--no-progress", &image]);
    // With its last clone the snapshot goes, and then the volume may.
    ceph.until("the volume to have no snapshot", |ceph| {
        ceph.rbd(&["snap", "ls", "--all", &format!("{VOLUMES}/volume-1")]).is_empty()
    });
    ceph.rbd_must(&["rm", "--no-progress", &format!("{VOLUMES}/volume-1")]);
    assert_same(&reading.rest(SIZE), &bytes, "a download");
    holder.stdout.take().unwrap().read_to_end(&mut held).unwrap();
    assert!(holder.wait().unwrap().success());
    assert_same(&held, &bytes, "a disk that is a clone of the image");
    ceph.rbd_must(&["rm", "--no-progress", &disk]);
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/x").status, 204);
    ceph.assert_empty();
}

#[test]
fn a_clone_that_others_made_is_read_right_or_not_to_its_end_when_they_make_it_stand_alone() {
    let ceph = Ceph::up();
    let bytes = noise(SIZE, 52);
    let (source, image) = (format!("{POOL}/source"), format!("{POOL}/x"));
    let (from, sealed) = (format!("{source}@then"), format!("{image}@snap"));
    ceph.volume("volume-1", &bytes);
    // One hears of it by its watch, the other may not watch.
    for user in ["glance", "readonly"] {
        ceph.rbd_must(&["cp", "--no-progress", &format!("{VOLUMES}/volume-1"), &source]);
        ceph.rbd_must(&["snap", "create", "--no-progress", &from]);
        ceph.rbd_must(&["clone", "--rbd-default-clone-format=2", &from, &image]);
        ceph.rbd_must(&["snap", "create", "--no-progress", &sealed]);
        ceph.rbd_must(&["snap", "protect", &sealed]);
        let daemon = daemon(&ceph, user);
        let reading = download(&daemon, "x");
        ceph.rbd_must(&["flatten", "--no-progress", &image]);
        ceph.rbd_must(&["snap", "rm", "--no-progress", &from]);
        ceph.rbd_must(&["rm", "--no-progress", &source]);
        let found = reading.rest(SIZE);
        assert_same(&found, &bytes[..found.len()], user);
        assert!(daemon.get("slow", "x").body == bytes, "{user}: and then it is read again");
        drop(daemon);
        ceph.rbd_must(&["snap", "unprotect", &sealed]);
        ceph.rbd_must(&["snap", "rm", "--no-progress", &sealed]);
        ceph.rbd_must(&["rm", "--no-progress", &image]);
    }
    ceph.rbd_must(&["rm", "--no-progress", &format!("{VOLUMES}/volume-1")]);
    ceph.assert_empty();
}
