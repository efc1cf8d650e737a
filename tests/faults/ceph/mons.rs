//! A mon that is gone: at the start, and while everybody is connected.

use super::{
    MIB, TIMEOUT_S, assert_free, assert_others_go_on, begin, cleared, conf, daemon, health,
    looked_at,
};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::Raw,
    stores::ceph::{Ceph, POOL},
};

#[test]
fn a_daemon_starts_without_its_mon_and_the_store_comes_up_with_it() {
    let ceph = Ceph::up();
    let stopped = ceph.stop_mon();
    // One that has a limit of its own, and one that has not.
    let text = conf(&ceph.options_of("glance", POOL, TIMEOUT_S))
        .replace("slow:rbd,", "slow:rbd, patient:rbd,")
        .replace("[cheap]", &format!("[patient]\n{}[cheap]", ceph.options_of("glance", POOL, 300)));
    let daemon = Daemon::start(&text);
    assert_others_go_on(&daemon, "without the mon");
    let why = health(&daemon, "slow").unwrap_err();
    assert!(why.contains("cannot be reached") && why.contains("rbd_store_ceph_conf=`"), "{why}");
    assert!(health(&daemon, "patient").is_err());
    for store in ["slow", "patient"] {
        let put = daemon.put(store, "x", b"image");
        assert_eq!((put.status, put.code().as_str()), (503, "Unavailable"), "{store}");
    }
    drop(stopped);
    for store in ["slow", "patient"] {
        daemon.wait_until("the store to come up", |daemon| health(daemon, store).is_ok());
    }
    assert_free(&daemon, "x");
    ceph.assert_empty();
}

fn assert_reads(daemon: &Daemon, image: &[u8], what: &str) {
    let got = daemon.get("slow", "large");
    let (status, bytes) = (got.status, got.body.len());
    assert!(got.body == image, "{what}: {status}, {bytes} bytes");
}

#[test]
fn without_its_mon_a_store_that_is_connected_reads_on() {
    let ceph = Ceph::up();
    let daemon = daemon(&ceph);
    let (large, image) = (noise(64 * MIB, 31), noise(24 * MIB, 32));
    assert_eq!(daemon.put("slow", "large", &large).status, 201);
    let mut reading = Raw::connect(&daemon.socket);
    reading.head("GET", "/v1/stores/slow/images/large", "");
    let mut putting = begin(&ceph, &daemon, "new", Some(image.len()), &image);
    let stopped = ceph.stop_mon();
    // To look at it takes the mon.
    let why = looked_at(&daemon, "slow").unwrap_err();
    assert!(why.contains("does not answer"), "{why}");
    assert!(reading.answer("GET").body == large);
    assert_reads(&daemon, &large, "and by those who come now");
    looked_at(&daemon, "slow").unwrap_err();
    assert_reads(&daemon, &large, "whatever was tried meanwhile");
    // Bytes go on, and what makes an image of them takes the mon; so does a delete.
    putting.send(&image[9 * MIB..]);
    let failed = putting.answer("PUT");
    let told = String::from_utf8_lossy(&failed.body);
    assert!(matches!(failed.status, 503 | 504), "{told}");
    assert!(told.contains("does not answer"), "{told}");
    let deleted = daemon.ask("DELETE", "/v1/stores/slow/images/large");
    assert_eq!(deleted.status, 503, "{}", String::from_utf8_lossy(&deleted.body));
    assert_reads(&daemon, &large, "what could not be deleted is whole");
    assert_others_go_on(&daemon, "without the mon");
    drop(stopped);
    daemon.wait_until("the store to come up", |daemon| looked_at(daemon, "slow").is_ok());
    cleared(&[&daemon]);
    assert_free(&daemon, "new");
    assert_reads(&daemon, &large, "with its mon again");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/large").status, 204);
    ceph.assert_empty();
}

#[test]
fn a_store_that_hangs_delays_the_clearing_away_of_no_other() {
    let ceph = Ceph::up();
    let text = conf(&ceph.options_of("glance", POOL, 300));
    let env = [("IMAGED_KILL_AT", "put-claimed")];
    let mut daemon = Daemon::start_in(Daemon::home(), &text, &env);
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", "/v1/stores/cheap/images/x", "content-length: 5\r\n");
    assert!(raw.read_head().is_none(), "the daemon answered before it died");
    daemon.wait();
    let _stopped = ceph.stop_mon();
    let daemon = daemon.restart(&[]);
    cleared(&[&daemon]);
    assert_others_go_on(&daemon, "while it hangs");
}

/// A daemon on a store that nobody can reach is no reason to keep it.
#[test]
fn a_daemon_ends_while_it_looks_for_its_mon() {
    let ceph = Ceph::up();
    let _stopped = ceph.stop_mon();
    let mut daemon = Daemon::start(&conf(&ceph.options_of("glance", POOL, 300)));
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
}
