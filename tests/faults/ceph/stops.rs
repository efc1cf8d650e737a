//! An OSD that takes what it is sent and answers nothing, and goes on later.

use nix::sys::signal::Signal;

use super::{MIB, assert_free, assert_others_go_on, begin, cleared, daemon, looked_at};
use crate::harness::{
    daemon::noise,
    raw::{Answer, Raw},
    stores::ceph::{Ceph, POOL},
};

/// That a request was refused because its store is away, and told when to try again.
fn assert_away(answer: &Answer, what: &str) {
    let told = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 503, "{what}: {told}");
    assert_eq!(answer.code(), "Unavailable", "{what}");
    assert!(answer.headers.contains_key("retry-after"), "{what}");
    assert!(answer.detail().contains("does not answer"), "{what}: {told}");
}

#[test]
fn what_an_osd_that_stops_interrupts_fails_in_time_and_is_cleared_away() {
    let ceph = Ceph::up();
    let daemon = daemon(&ceph);
    let (large, image) = (noise(64 * MIB, 1), noise(24 * MIB, 2));
    assert_eq!(daemon.put("slow", "large", &large).status, 201);
    let mut known = begin(&ceph, &daemon, "known", Some(image.len()), &image);
    let mut unknown = begin(&ceph, &daemon, "unknown", None, &image);
    // Nothing of this one has to be written but its end.
    let mut zeros = Raw::connect(&daemon.socket);
    let length = format!("content-length: {}\r\n", 16 * MIB);
    zeros.head("PUT", "/v1/stores/slow/images/zeros", &length);
    ceph.until("an image to be made", |ceph| ceph.images().len() == 4);
    let mut reading = Raw::connect(&daemon.socket);
    reading.head("GET", "/v1/stores/slow/images/large", "");
    assert_eq!(reading.read_head().unwrap().0, 200);

    let stopped = ceph.stop_osd();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A refusal may come before all is sent.
            let _sent = std::io::Write::write_all(&mut known.stream, &image[9 * MIB..]);
            assert_away(&known.answer("PUT"), "a put of known size");
        });
        scope.spawn(|| {
            let rest = image.len() - 9 * MIB;
            let mut body = format!("{rest:x}\r\n").into_bytes();
            body.extend_from_slice(&image[9 * MIB..]);
            body.extend_from_slice(b"\r\n0\r\n\r\n");
            let _sent = std::io::Write::write_all(&mut unknown.stream, &body);
            assert_away(&unknown.answer("PUT"), "a put of unknown size");
        });
        scope.spawn(|| {
            zeros.send(&vec![0; 16 * MIB]);
            assert_away(&zeros.answer("PUT"), "a put that has only to be ended");
        });
        scope.spawn(|| {
            // What was read ahead comes; then the connection is cut short.
            let mut got = 0;
            let mut room = vec![0; MIB];
            loop {
                match std::io::Read::read(&mut reading.stream, &mut room) {
                    Ok(0) => break,
                    Ok(more) => got += more,
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                        break;
                    }
                }
            }
            assert!(got < large.len(), "{got}");
        });
        for n in 0..4 {
            assert_others_go_on(&daemon, &format!("while it hangs, {n}"));
        }
        for (method, path) in [
            ("GET", "images/large"),
            ("HEAD", "images/large"),
            ("GET", "images"),
            ("DELETE", "images/large"),
            ("PUT", "images/new"),
        ] {
            let daemon = &daemon;
            scope.spawn(move || {
                let answer = daemon.ask(method, &format!("/v1/stores/slow/{path}"));
                assert_eq!(
                    answer.status,
                    503,
                    "{method} {path}: {:?}",
                    String::from_utf8_lossy(&answer.body)
                );
            });
        }
    });
    let why = looked_at(&daemon, "slow").unwrap_err();
    assert!(why.contains("does not answer"), "{why}");
    assert_others_go_on(&daemon, "when all has failed");
    drop(stopped);
    assert!(daemon.get("slow", "large").body == large);
    looked_at(&daemon, "slow").unwrap();
    cleared(&[&daemon]);
    for id in ["known", "unknown", "zeros", "new"] {
        assert_free(&daemon, id);
    }
    assert_eq!(ceph.images(), ["large"]);
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/large").status, 204);
    ceph.assert_empty();
}

/// A client of the cluster that is no longer served, until this is dropped.
struct ShutOut<'a>(&'a Ceph, String);

impl<'a> ShutOut<'a> {
    /// Whoever has the image open.
    fn reader_of(ceph: &'a Ceph, image: &str) -> Self {
        let status = ceph.rbd_must(&["status", "--format", "json", &format!("{POOL}/{image}")]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let address = status["watchers"][0]["address"].as_str().unwrap().to_owned();
        ceph.admin(&["osd", "blocklist", "add", &address]);
        Self(ceph, address)
    }
}

impl Drop for ShutOut<'_> {
    fn drop(&mut self) {
        self.0.try_admin(&["osd", "blocklist", "rm", &self.1]);
    }
}

#[test]
fn a_daemon_whose_cluster_has_shut_it_out_connects_anew() {
    let ceph = Ceph::up();
    let daemon = daemon(&ceph);
    let (large, image) = (noise(64 * MIB, 4), noise(24 * MIB, 5));
    assert_eq!(daemon.put("slow", "large", &large).status, 201);
    let mut reading = Raw::connect(&daemon.socket);
    reading.head("GET", "/v1/stores/slow/images/large", "");
    assert_eq!(reading.read_head().unwrap().0, 200);
    let mut putting = begin(&ceph, &daemon, "half", Some(image.len()), &image);
    let _shut_out = ShutOut::reader_of(&ceph, "large");
    let _sent = std::io::Write::write_all(&mut putting.stream, &image[9 * MIB..]);
    let refused = putting.answer("PUT");
    assert_eq!(refused.status, 503, "{}", String::from_utf8_lossy(&refused.body));
    let mut got = Vec::new();
    // It ends by a reset or by an end that comes too early.
    let _ended = std::io::Read::read_to_end(&mut reading.stream, &mut got);
    assert!(got.len() < large.len());
    daemon.wait_until("it is served again", |daemon| daemon.get("slow", "large").body == large);
    cleared(&[&daemon]);
    assert_free(&daemon, "half");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/large").status, 204);
    ceph.assert_empty();
}

#[test]
fn a_daemon_ends_while_its_cluster_hangs() {
    let ceph = Ceph::up();
    let mut daemon = daemon(&ceph);
    let image = noise(24 * MIB, 3);
    let raw = begin(&ceph, &daemon, "half", Some(image.len()), &image);
    let stopped = ceph.stop_osd();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
    drop(raw);
    drop(stopped);
    let daemon = daemon.restart(&[]);
    cleared(&[&daemon]);
    ceph.assert_empty();
    assert_free(&daemon, "half");
}
