//! kill -9 of a daemon at every named point of a put into a cluster, and between points. The dead
//! watch their images for a while, and nothing can be removed until then: all die first.

use std::io::Write as _;

use imaged::point::POINTS;

use super::{MIB, TIMEOUT_S, assert_free, begin, cleared, conf};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::Raw,
    stores::ceph::{Ceph, POOL},
};

/// Sends a put whose daemon dies of it.
fn put(daemon: &Daemon, id: &str, known: bool, image: &[u8]) {
    let mut raw = Raw::connect(&daemon.socket);
    let path = format!("/v1/stores/slow/images/{id}");
    if known {
        raw.head("PUT", &path, &format!("content-length: {}\r\n", image.len()));
        // The daemon dies in the middle of this.
        let _sent = raw.stream.write_all(image);
    } else {
        raw.head("PUT", &path, "transfer-encoding: chunked\r\n");
        let mut body = format!("{:x}\r\n", image.len()).into_bytes();
        body.extend_from_slice(image);
        body.extend_from_slice(b"\r\n0\r\n\r\n");
        let _sent = raw.stream.write_all(&body);
    }
    assert!(raw.read_head().is_none(), "the daemon answered before it died");
}

#[test]
fn a_daemon_killed_at_any_point_of_a_put_leaves_the_image_whole_or_absent() {
    let ceph = Ceph::up();
    let text = conf(&ceph.options_of("glance", POOL, TIMEOUT_S));
    let image = noise((9 << 20) + 11, 61);
    let mut dead = Vec::new();
    for known in [true, false] {
        for point in POINTS {
            let id = format!("{point}-{known}");
            let env = [("IMAGED_KILL_AT", point)];
            let mut daemon = Daemon::start_in(Daemon::home(), &text, &env);
            put(&daemon, &id, known, &image);
            assert!(!daemon.wait().success());
            let whole = matches!(point, "put-committed" | "put-cleared");
            dead.push((id, daemon, whole));
        }
    }
    // One that dies of nothing in particular while it writes.
    let mut daemon = Daemon::start(&text);
    let large = noise(24 * MIB, 62);
    let raw = begin(&ceph, &daemon, "writing", Some(large.len()), &large);
    daemon.kill();
    drop(raw);
    dead.push(("writing".to_owned(), daemon, false));
    // And one that dies again while it recovers.
    let mut daemon = Daemon::start_in(Daemon::home(), &text, &[("IMAGED_KILL_AT", POINTS[2])]);
    put(&daemon, "again", true, &image);
    daemon.wait();
    let mut daemon = daemon.restart(&[]);
    daemon.kill();
    dead.push(("again".to_owned(), daemon, false));

    let living: Vec<_> =
        dead.into_iter().map(|(id, daemon, whole)| (id, daemon.restart(&[]), whole)).collect();
    cleared(&living.iter().map(|(_, daemon, _)| daemon).collect::<Vec<_>>());
    let mut kept: Vec<_> =
        living.iter().filter(|(.., whole)| *whole).map(|(id, ..)| id.as_str()).collect();
    kept.sort_unstable();
    assert_eq!(ceph.images(), kept);
    for (id, daemon, whole) in &living {
        let found = daemon.get("slow", id);
        assert_eq!(found.status, if *whole { 200 } else { 404 }, "{id}");
        if *whole {
            assert!(found.body == image, "{id}");
            let deleted = daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}"));
            assert_eq!(deleted.status, 204, "{id}");
        }
        assert_free(daemon, id);
    }
    ceph.assert_empty();
}
