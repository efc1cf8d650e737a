//! A pool at its quota.

use std::{io::Write as _, thread};

use super::{MIB, TIMEOUT_S, assert_others_go_on, conf};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    stores::ceph::Ceph,
};

const SMALL: &str = "small";

/// The quota of the small pool, lifted when this is dropped.
struct Quota<'a>(&'a Ceph);

impl<'a> Quota<'a> {
    /// Sets it on the pool, emptied of what a test that failed has left.
    fn set(ceph: &'a Ceph, bytes: usize) -> Self {
        let quota = Self(ceph);
        for image in ceph.rbd(&["ls", SMALL]).lines() {
            ceph.rbd(&["snap", "unprotect", &format!("{SMALL}/{image}@snap")]);
            ceph.rbd(&["snap", "purge", &format!("{SMALL}/{image}")]);
            ceph.rbd_must(&["rm", &format!("{SMALL}/{image}")]);
        }
        // The quota before may still be in force.
        quota.wait_until_full(false);
        quota.be(bytes);
        quota
    }

    /// Waits until the cluster has noticed that the pool is at its quota, or no longer.
    fn wait_until_full(&self, full: bool) {
        self.0.until("the quota to be noticed", |ceph| {
            let pools = ceph.admin(&["osd", "pool", "ls", "detail"]);
            let pool = pools.lines().find(|line| line.contains(&format!(" '{SMALL}' "))).unwrap();
            pool.contains("full_quota") == full
        });
    }

    fn be(&self, bytes: usize) {
        self.0.admin(&["osd", "pool", "set-quota", SMALL, "max_bytes", &bytes.to_string()]);
    }

    /// So many objects, whatever their size.
    fn be_objects(&self, objects: usize) {
        self.0.admin(&["osd", "pool", "set-quota", SMALL, "max_objects", &objects.to_string()]);
    }
}

impl Drop for Quota<'_> {
    fn drop(&mut self) {
        for quota in ["max_bytes", "max_objects"] {
            self.0.try_admin(&["osd", "pool", "set-quota", SMALL, quota, "0"]);
        }
    }
}

/// That it was refused because there is no room.
fn assert_full(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 507, "{what}: {}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.code(), "Full", "{what}");
    assert!(answer.detail().contains("the pool is full"), "{what}: {}", answer.detail());
}

/// Puts an image the first half of which is more than the quota, and the rest when that is noticed.
fn put_slowly(daemon: &Daemon, quota: &Quota<'_>, id: &str, known: bool, image: &[u8]) -> Answer {
    let mut raw = Raw::connect(&daemon.socket);
    let path = format!("/v1/stores/slow/images/{id}");
    if known {
        raw.head("PUT", &path, &format!("content-length: {}\r\n", image.len()));
    } else {
        raw.head("PUT", &path, "transfer-encoding: chunked\r\n");
    }
    for (number, piece) in image.chunks(MIB).enumerate() {
        if number * MIB == image.len() / 2 {
            quota.wait_until_full(true);
        }
        let mut bytes = Vec::new();
        if !known {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        }
        bytes.extend_from_slice(piece);
        if !known {
            bytes.extend_from_slice(b"\r\n");
        }
        // A refusal may come before all is sent.
        if raw.stream.write_all(&bytes).is_err() {
            break;
        }
    }
    if !known {
        let _sent = raw.stream.write_all(b"0\r\n\r\n");
    }
    raw.answer("PUT")
}

#[test]
fn a_pool_at_its_quota_of_objects_is_full_too() {
    let ceph = Ceph::up();
    let quota = Quota::set(&ceph, 0);
    quota.be_objects(12);
    let text = ceph.options_of("glance", SMALL, TIMEOUT_S) + "rbd_store_chunk_size = 1\n";
    let daemon = Daemon::start(&conf(&text));
    let image = noise(64 * MIB, 43);
    assert_full(&put_slowly(&daemon, &quota, "many", true, &image), "while it grows");
    assert_full(&daemon.put("slow", "more", &image[..MIB]), "while it is full");
    assert_eq!(daemon.files("state/journal"), [""; 0], "nothing is left to clear away");
    assert_eq!(ceph.rbd_must(&["ls", SMALL]), "", "what was written is removed");
    quota.be_objects(0);
    daemon.wait_until("there is room again", |daemon| {
        daemon.put("slow", "known", &image[..MIB]).status == 201
    });
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/known").status, 204);
    ceph.assert_empty_pool(SMALL);
}

#[test]
fn a_pool_at_its_quota_refuses_at_once_and_gives_space_back() {
    let ceph = Ceph::up();
    let quota = Quota::set(&ceph, 16 * MIB);
    let daemon = Daemon::start(&conf(&ceph.options_of("glance", SMALL, TIMEOUT_S)));
    let (small, large) = (noise(8 * MIB, 41), noise(256 * MIB, 42));
    for id in ["a", "b"] {
        assert_eq!(daemon.put("slow", id, &small).status, 201);
    }
    // Two grow until the quota is noticed.
    thread::scope(|scope| {
        for (id, known) in [("known", true), ("unknown", false)] {
            let (daemon, quota, large) = (&daemon, &quota, &large);
            scope.spawn(move || assert_full(&put_slowly(daemon, quota, id, known, large), id));
        }
    });
    assert_full(&daemon.put("slow", "more", &small), "while it is full");
    assert_eq!(daemon.files("state/journal"), [""; 0], "nothing is left to clear away");
    let images: Vec<_> = ceph.rbd_must(&["ls", SMALL]).lines().map(str::to_owned).collect();
    assert_eq!(images, ["a", "b"], "what was written is removed although the pool is full");
    assert!(daemon.get("slow", "a").body == small);
    assert_others_go_on(&daemon, "while it is full");
    assert_full(&daemon.put("slow", "more", &small), "as the two are still there");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/a").status, 204);
    quota.be(0);
    daemon.wait_until("there is room again", |daemon| {
        daemon.put("slow", "known", &small).status == 201
    });
    assert!(daemon.get("slow", "known").body == small);
    for id in ["b", "known"] {
        assert_eq!(daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}")).status, 204);
    }
    ceph.assert_empty_pool(SMALL);
}
