//! Uploads whose daemon is gone for good, and those whose daemon only seems to be: two daemons on one pool.

use std::process::Command;

use nix::sys::signal::Signal;

use super::{MIB, assert_free, begin, cleared, conf};
use crate::harness::{
    daemon::{Daemon, IMAGED, noise},
    raw::{Answer, Raw},
    stores::ceph::{Ceph, POOL},
};

fn named(image: &str) -> String {
    format!("{POOL}/{image}")
}

/// A daemon that clears away what has been abandoned for so many seconds; by hand only if 0.
fn daemon(ceph: &Ceph, after_s: u32) -> Daemon {
    let options = ceph.options_of("glance", POOL, 20);
    let text = conf(&format!("{options}imaged_recover_after_s = {after_s}\n"));
    // A stopped one that goes on has not waited too long for its caller.
    Daemon::start(&format!("{text}stall_timeout_s = 600\n"))
}

/// Waits until an image is watched by who makes it.
fn watched(ceph: &Ceph, id: &str) {
    ceph.until("the image to be watched", |ceph| {
        ceph.rbd(&["status", &named(id)]).contains("watcher=")
    });
}

/// While this is there the cluster gives new watches 120 s of silence, instead of the 10 s of `ci/ceph`.
struct Longer<'a>(&'a Ceph);

impl<'a> Longer<'a> {
    fn begin(ceph: &'a Ceph) -> Self {
        ceph.admin(&["tell", "osd.*", "config", "set", "osd_client_watch_timeout", "120"]);
        Self(ceph)
    }
}

impl Drop for Longer<'_> {
    fn drop(&mut self) {
        self.0.try_admin(&["tell", "osd.*", "config", "set", "osd_client_watch_timeout", "10"]);
    }
}

fn recover(daemon: &Daemon, id: &str) -> Answer {
    daemon.ask("POST", &format!("/v1/stores/slow/images/{id}/recover"))
}

/// Waits until it is known that the owner is gone, for its watch outlives it by 10 s here.
fn recovered(ceph: &Ceph, daemon: &Daemon, id: &str) {
    ceph.until("the upload to be cleared away", |_| {
        let recovered = recover(daemon, id);
        match recovered.status {
            200 => {
                assert_eq!(recovered.json()["found"], "removed", "{:?}", recovered.json());
                true
            }
            409 => false,
            status => panic!("{status}: {}", recovered.detail()),
        }
    });
}

#[test]
fn what_a_daemon_that_is_gone_has_left_another_clears_away_and_nothing_that_is_alive() {
    let ceph = Ceph::up();
    let (owner, other) = (daemon(&ceph, 0), daemon(&ceph, 0));
    let mut gone = daemon(&ceph, 0);
    let image = noise(24 * MIB, 81);
    let mut putting = begin(&ceph, &owner, "alive", Some(image.len()), &image);
    let _half = begin(&ceph, &gone, "half", None, &image);
    // Nor one that does nothing for a while.
    for stopped in [false, true] {
        if stopped {
            owner.signal(Signal::SIGSTOP);
        }
        for id in ["alive", "half"] {
            let refused = recover(&other, id);
            assert_eq!((refused.status, refused.code().as_str()), (409, "InUse"), "{id} {stopped}");
            assert!(refused.detail().contains("is being made"), "{}", refused.detail());
            assert_eq!(other.put("slow", id, b"another").status, 409, "{id}");
            assert_eq!(other.get("slow", id).status, 404, "{id}");
        }
    }
    owner.signal(Signal::SIGCONT);
    let own = recover(&owner, "alive");
    assert_eq!(own.status, 409, "{}", String::from_utf8_lossy(&own.body));
    putting.send(&image[9 * MIB..]);
    assert_eq!(putting.answer("PUT").status, 201, "{}", owner.log());
    assert!(other.get("slow", "alive").body == image);
    for daemon in [&owner, &other] {
        assert_eq!(recover(daemon, "alive").json()["found"], "whole");
    }
    gone.kill();
    recovered(&ceph, &other, "half");
    assert_eq!(recover(&other, "half").json()["found"], "nothing");
    assert_free(&other, "half");
    // Its own daemon, when it comes back after all, finds nothing to do, or another's image.
    assert_eq!(other.put("slow", "half", &image).status, 201);
    let gone = gone.restart(&[]);
    cleared(&[&gone]);
    assert!(gone.get("slow", "half").body == image);
    for id in ["alive", "half"] {
        other.wait_until("nobody reads the image", |daemon| {
            daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}")).status == 204
        });
    }
    ceph.assert_empty();
}

/// The cluster shuts out who has been silent for too long before it lets another have his lock.
#[test]
fn what_a_daemon_writes_that_was_taken_for_dead_lands_nowhere() {
    let ceph = Ceph::up();
    let (owner, other) = (daemon(&ceph, 0), daemon(&ceph, 0));
    let image = noise(24 * MIB, 82);
    let mut putting = begin(&ceph, &owner, "late", Some(image.len()), &image);
    owner.signal(Signal::SIGSTOP);
    recovered(&ceph, &other, "late");
    assert_free(&other, "late");
    assert_eq!(other.put("slow", "late", b"another").status, 201);
    owner.signal(Signal::SIGCONT);
    // It may end before all is sent.
    let _sent = std::io::Write::write_all(&mut putting.stream, &image[9 * MIB..]);
    let failed = putting.answer("PUT");
    assert!(failed.status >= 500, "{}: {}", failed.status, failed.detail());
    cleared(&[&owner]);
    assert_eq!(other.get("slow", "late").body, b"another");
    // It is connected anew, and goes on.
    owner.wait_until("the store to be up", |daemon| {
        daemon.put("slow", "next", &image).status == 201
    });
    for id in ["late", "next"] {
        other.wait_until("nobody reads the image", |daemon| {
            daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}")).status == 204
        });
    }
    ceph.assert_empty();
}

#[test]
fn after_its_time_an_abandoned_upload_goes_by_itself_and_a_living_one_stays() {
    let ceph = Ceph::up();
    let (owner, stopped) = (daemon(&ceph, 0), daemon(&ceph, 0));
    let mut gone = daemon(&ceph, 0);
    let image = noise(24 * MIB, 83);
    let _half = begin(&ceph, &gone, "half", Some(image.len()), &image);
    watched(&ceph, "half");
    let mut putting = begin(&ceph, &owner, "alive", Some(image.len()), &image);
    let longer = Longer::begin(&ceph);
    let mut waiting = begin(&ceph, &stopped, "stopped", Some(image.len()), &image);
    watched(&ceph, "stopped");
    drop(longer);
    assert_eq!(owner.put("slow", "whole", &image).status, 201);
    stopped.signal(Signal::SIGSTOP);
    gone.kill();
    let other = daemon(&ceph, 2);
    ceph.until("the upload to be cleared away", |ceph| {
        !ceph.images().iter().any(|image| image == "half")
    });
    other.wait_for_log("an upload of a daemon that is gone is cleared away");
    let mut images = ceph.images();
    images.sort();
    assert_eq!(images, ["alive", "stopped", "whole"]);
    let refused = recover(&other, "stopped");
    assert_eq!((refused.status, refused.code().as_str()), (409, "InUse"), "{refused:?}");
    stopped.signal(Signal::SIGCONT);
    for (daemon, putting) in [(&owner, &mut putting), (&stopped, &mut waiting)] {
        putting.send(&image[9 * MIB..]);
        assert_eq!(putting.answer("PUT").status, 201, "{}", daemon.log());
    }
    for id in ["alive", "stopped", "whole"] {
        assert!(other.get("slow", id).body == image, "{id}");
        other.wait_until("nobody reads the image", |daemon| {
            daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}")).status == 204
        });
    }
    ceph.assert_empty();
}

/// As people meet it.
#[test]
fn imaged_recover_says_what_it_found() {
    let ceph = Ceph::up();
    let daemon = daemon(&ceph, 0);
    let recover = |store: &str, id: &str, json: &[&str]| {
        let mut command = Command::new(IMAGED);
        command.arg("recover").args([store, id]).arg("--socket").arg(&daemon.socket).args(json);
        let ran = command.output().unwrap();
        let out = String::from_utf8(ran.stdout).unwrap();
        (ran.status.code().unwrap(), out, String::from_utf8(ran.stderr).unwrap())
    };
    let (code, out, _) = recover("slow", "x", &[]);
    assert_eq!((code, out.as_str()), (0, "x in slow: there is nothing of it\n"));
    // What glance_store has left goes as an image goes.
    ceph.import(&format!("{POOL}/theirs"), b"theirs", &[]);
    let (code, _, error) = recover("slow", "theirs", &[]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("by its location"), "{error}");
    ceph.rbd_must(&["rm", "--no-progress", &format!("{POOL}/theirs")]);
    // A daemon that died at once leaves just this.
    ceph.rbd_must(&["create", "--size", "10M", &format!("{POOL}/empty")]);
    // What has no ETag meets no condition but a star.
    for condition in ["if-match: \"a\"", "if-none-match: *", "if-match: a"] {
        let path = "/v1/stores/slow/images/empty/recover";
        let headers = format!("{condition}\r\n");
        let refused = Raw::ask_with(&daemon.socket, "POST", path, &headers, b"");
        assert!([412, 400].contains(&refused.status), "{condition}: {refused:?}");
        assert_eq!(ceph.images(), ["empty"], "{condition}");
    }
    let (code, out, _) = recover("slow", "empty", &["--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &document["found"]), (0, &"removed".into()), "{document}");
    // Or this, if it died while the cluster made that; or while the cluster removed it.
    ceph.rbd_must(&["create", "--size", "10M", "--image-feature", "layering", &named("name")]);
    ceph.remove_header("name");
    for answer in [daemon.put("slow", "name", b"x"), daemon.get("slow", "name")] {
        assert!([409, 404].contains(&answer.status), "{answer:?}");
        let why = "only the name is left of one that was made or removed: unless it ends yet, `imaged recover slow \
                   name` clears it away";
        assert!(answer.detail().contains(why), "{}", answer.detail());
    }
    let (code, out, error) = recover("slow", "name", &[]);
    assert_eq!((code, out.contains("removed")), (0, true), "{out}{error}");
    assert_free(&daemon, "name");
    // Stores of other types know nothing of other daemons.
    let (code, _, error) = recover("cheap", "x", &[]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("cannot tell"), "{error}");
    ceph.assert_empty();
}
