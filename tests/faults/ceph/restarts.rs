//! An OSD that is killed, and started again with what it has on its disk.

use std::thread;

use super::{MIB, assert_free, assert_others_go_on, begin, cleared, conf, daemon, looked_at};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::Raw,
    stores::ceph::{Ceph, POOL},
};

/// With more patience than a restart takes.
#[test]
fn what_is_read_and_written_while_an_osd_restarts_goes_on() {
    let ceph = Ceph::lasting();
    let daemon = Daemon::start(&conf(&ceph.options_of("glance", POOL, 90)));
    let (large, image) = (noise(64 * MIB, 73), noise(24 * MIB, 74));
    assert_eq!(daemon.put("slow", "large", &large).status, 201);
    let mut putting = begin(&ceph, &daemon, "new", Some(image.len()), &image);
    let mut reading = Raw::connect(&daemon.socket);
    reading.head("GET", "/v1/stores/slow/images/large", "");
    reading.wait_for(MIB);
    ceph.kill_osd();
    let put = thread::scope(|scope| {
        // More than the daemon takes meanwhile.
        let sending = scope.spawn(|| {
            putting.send(&image[9 * MIB..]);
            putting.answer("PUT")
        });
        ceph.start_osd();
        sending.join().unwrap()
    });
    assert_eq!(put.status, 201, "{}", daemon.log());
    let read = reading.answer("GET");
    assert!(read.whole && read.body == large);
    assert!(daemon.get("slow", "new").body == image);
    for id in ["large", "new"] {
        daemon.wait_until("nobody reads the image", |daemon| {
            daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}")).status == 204
        });
    }
    ceph.assert_empty();
}

#[test]
fn after_an_osd_was_killed_and_started_all_goes_on_by_itself() {
    let ceph = Ceph::lasting();
    let daemon = daemon(&ceph);
    let (large, image) = (noise(64 * MIB, 71), noise(24 * MIB, 72));
    assert_eq!(daemon.put("slow", "large", &large).status, 201);
    let mut putting = begin(&ceph, &daemon, "half", Some(image.len()), &image);
    let mut reading = Raw::connect(&daemon.socket);
    reading.head("GET", "/v1/stores/slow/images/large", "");
    assert_eq!(reading.read_head().unwrap().0, 200);
    ceph.kill_osd();
    let _sent = std::io::Write::write_all(&mut putting.stream, &image[9 * MIB..]);
    let failed = putting.answer("PUT");
    assert_eq!(failed.status, 503, "{}", String::from_utf8_lossy(&failed.body));
    let mut got = Vec::new();
    // It ends by a reset or by an end that comes too early.
    let _ended = std::io::Read::read_to_end(&mut reading.stream, &mut got);
    assert!(got.len() < large.len());
    assert_eq!(daemon.put("slow", "new", b"new").status, 503);
    assert_eq!(daemon.get("slow", "large").status, 503);
    looked_at(&daemon, "slow").unwrap_err();
    assert_others_go_on(&daemon, "without the OSD");
    ceph.start_osd();
    daemon.wait_until("it is up again", |daemon| looked_at(daemon, "slow").is_ok());
    assert!(daemon.get("slow", "large").body == large, "what was there is as it was");
    cleared(&[&daemon]);
    for id in ["half", "new"] {
        assert_free(&daemon, id);
    }
    assert_eq!(ceph.images(), ["large"]);
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/large").status, 204);
    ceph.assert_empty();
}
