//! What callers of the role service have had made of volumes, and take back.

use std::{fs, thread};

use imaged::point::VOLUME_POINTS;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{IMAGE, assert_clean, assert_made, config, content, post};
use crate::harness::{
    daemon::Daemon,
    raw::{Raw, ask_as},
    stores::ceph::{Ceph, POOL, VOLUMES},
};

/// Users whom no configuration names but this one.
const CINDER: u32 = 65534;
const OTHER: u32 = 34;
const MEMBER: u32 = 5;

/// The same stores, and users of these roles.
fn with_roles(ceph: &Ceph) -> String {
    format!(
        "{}[imaged]\nsocket_mode = 0666\nroles = {CINDER}:service, {OTHER}:service, {MEMBER}:member\n",
        config(ceph)
    )
}

fn source() -> Value {
    json!({"rbd_volume": format!("{VOLUMES}/volume-1")})
}

fn make_as(daemon: &Daemon, uid: u32) -> (u16, String) {
    let body = json!({"source": source(), "mode": "clone", "hash_algo": "sha256"}).to_string();
    ask_as(&daemon.socket, uid, "POST", IMAGE, body.as_bytes())
}

fn made_as(daemon: &Daemon, uid: u32) -> Value {
    let (status, body) = make_as(daemon, uid);
    assert_eq!(status, 201, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn delete_as(daemon: &Daemon, uid: u32) -> u16 {
    let (status, body) = ask_as(&daemon.socket, uid, "DELETE", IMAGE, b"");
    if status == 403 {
        assert!(body.contains("has not had this image made of a volume"), "{body}");
        assert!(body.contains("needs the role admin and the caller has"), "{body}");
    }
    status
}

fn assert_no_notes(daemon: &Daemon) {
    daemon.wait_until("no notes", |daemon| daemon.files("state/made").is_empty());
}

fn ceph_with_volume() -> Ceph {
    let ceph = Ceph::up();
    ceph.volume("volume-1", &content());
    ceph
}

#[test]
fn a_service_takes_back_what_it_has_made() {
    let ceph = ceph_with_volume();
    let daemon = Daemon::start(&with_roles(&ceph));
    for uid in [CINDER, MEMBER] {
        made_as(&daemon, uid);
        assert_eq!(delete_as(&daemon, uid), 204, "{uid}");
        assert_eq!(delete_as(&daemon, uid), 404, "{uid}");
        assert_no_notes(&daemon);
    }
    // Also by its location, and when all work with it is over.
    let at = made_as(&daemon, CINDER)["location"].as_str().unwrap().to_owned();
    daemon.wait_until_idle();
    assert_eq!(daemon.files("state/made").len(), 1);
    let path = format!("/v1/stores/fast/images?at={}", at.replace('/', "%2F"));
    let (status, body) = ask_as(&daemon.socket, CINDER, "DELETE", &path, b"");
    assert_eq!(status, 204, "{body}");
    assert_no_notes(&daemon);
    assert_clean(&ceph, &daemon, "taken back");
}

#[test]
fn a_service_takes_back_no_image_of_others() {
    let ceph = ceph_with_volume();
    let daemon = Daemon::start(&with_roles(&ceph));
    assert_eq!(post(&daemon, IMAGE, &source(), "clone").status, 201);
    assert_eq!(delete_as(&daemon, CINDER), 403, "one that the administrator had made");
    super::delete(&daemon);
    assert_eq!(daemon.put("fast", "x", b"image").status, 201);
    assert_eq!(make_as(&daemon, CINDER).0, 409);
    assert_eq!(delete_as(&daemon, CINDER), 403, "one that was put");
    super::delete(&daemon);
    made_as(&daemon, OTHER);
    for uid in [CINDER, MEMBER] {
        assert_eq!(delete_as(&daemon, uid), 403, "one of another service");
    }
    assert_eq!(delete_as(&daemon, OTHER), 204);
    assert_eq!(delete_as(&daemon, CINDER), 404, "what is not there is nobody's");
    assert_clean(&ceph, &daemon, "others");
}

#[test]
fn a_service_takes_back_no_image_that_took_the_id_later() {
    let ceph = ceph_with_volume();
    let daemon = Daemon::start(&with_roles(&ceph));
    made_as(&daemon, CINDER);
    super::delete(&daemon);
    assert_no_notes(&daemon);
    assert_eq!(daemon.put("fast", "x", b"another").status, 201);
    assert_eq!(delete_as(&daemon, CINDER), 403);
    super::delete(&daemon);
    // Past this daemon: it is another image in the same place.
    made_as(&daemon, CINDER);
    daemon.wait_until_idle();
    let image = format!("{POOL}/x");
    ceph.rbd_must(&["snap", "unprotect", &format!("{image}@snap")]);
    ceph.rbd_must(&["snap", "rm", "--no-progress", &format!("{image}@snap")]);
    ceph.rbd_must(&["mv", &image, &format!("{POOL}/y")]);
    ceph.rbd_must(&["cp", "--no-progress", &format!("{POOL}/y"), &image]);
    ceph.rbd_must(&["rm", "--no-progress", &format!("{POOL}/y")]);
    ceph.rbd_must(&["snap", "create", "--no-progress", &format!("{image}@snap")]);
    ceph.rbd_must(&["snap", "protect", &format!("{image}@snap")]);
    assert_eq!(delete_as(&daemon, CINDER), 403);
    super::delete(&daemon);
    assert_clean(&ceph, &daemon, "put again");
}

#[test]
fn it_may_after_a_restart_a_kill_and_a_reload() {
    let ceph = ceph_with_volume();
    let mut daemon = Daemon::start(&with_roles(&ceph));
    for end in ["stop", "kill", "reload"] {
        made_as(&daemon, CINDER);
        match end {
            "stop" => {
                daemon.stop();
                daemon = daemon.restart(&[]);
            }
            "kill" => {
                daemon.kill();
                daemon = daemon.restart(&[]);
            }
            _ => {
                // The store is opened anew.
                let conf = fs::read_to_string(daemon.path("conf")).unwrap();
                let changed = conf.replace("[fast]\n", "[fast]\nimaged_flatten_objects = 2\n");
                fs::write(daemon.path("conf"), changed).unwrap();
                daemon.signal(Signal::SIGHUP);
                daemon.wait_for_log("configuration reloaded");
            }
        }
        assert_eq!(delete_as(&daemon, OTHER), 403, "{end}");
        // What the dead had open is in use for as long as Ceph believes them to live.
        let mut status = 409;
        ceph.until("the image to be free", |_| {
            status = delete_as(&daemon, CINDER);
            status != 409
        });
        assert_eq!(status, 204, "{end}");
        assert_no_notes(&daemon);
        assert_clean(&ceph, &daemon, end);
    }
    // A role that is taken away takes the right with it.
    made_as(&daemon, CINDER);
    daemon.wait_until_idle();
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    let reader = conf.replace(&format!("{CINDER}:service"), &format!("{CINDER}:reader"));
    fs::write(daemon.path("conf"), reader).unwrap();
    daemon.kill();
    let daemon = daemon.restart(&[]);
    let (status, body) = ask_as(&daemon.socket, CINDER, "DELETE", IMAGE, b"");
    assert_eq!(status, 403, "{body}");
    super::delete(&daemon);
    assert_clean(&ceph, &daemon, "a role less");
}

/// Has it begun by `uid`, of a daemon that is to die meanwhile.
fn begin_to_die(daemon: &mut Daemon, uid: u32) {
    let (status, _) = make_as(daemon, uid);
    assert_eq!(status, 0, "it answered before it died");
    assert!(!daemon.wait().success());
}

#[test]
fn a_daemon_killed_at_any_point_keeps_who_may_take_back() {
    let ceph = ceph_with_volume();
    let text = with_roles(&ceph);
    for point in VOLUME_POINTS {
        let mut daemon = Daemon::start_in(Daemon::home(), &text, &[("IMAGED_KILL_AT", point)]);
        begin_to_die(&mut daemon, CINDER);
        let daemon = daemon.restart(&[]);
        daemon.wait_until_idle();
        if matches!(point, "copy-made" | "copy-noted" | "copy-turned") {
            assert_made(&ceph, &daemon, &content(), point);
            assert_eq!(delete_as(&daemon, OTHER), 403, "{point}");
            assert_eq!(delete_as(&daemon, CINDER), 204, "{point}");
        } else {
            assert_eq!(delete_as(&daemon, CINDER), 404, "{point}");
        }
        assert_no_notes(&daemon);
        assert_clean(&ceph, &daemon, point);
    }
}

#[test]
fn an_image_of_another_daemon_that_came_after_a_crash_is_not_taken_back() {
    let ceph = ceph_with_volume();
    let text = with_roles(&ceph);
    let points = [("IMAGED_KILL_AT", "copy-claimed")];
    let mut killed = Daemon::start_in(Daemon::home(), &text, &points);
    begin_to_die(&mut killed, CINDER);
    assert_eq!(killed.files("state/made").len(), 1, "it was noted");
    let other = Daemon::start(&text);
    made_as(&other, CINDER);
    other.wait_until_idle();
    let killed = killed.restart(&[]);
    killed.wait_until_idle();
    assert_eq!(delete_as(&killed, CINDER), 403);
    assert_no_notes(&killed);
    assert_eq!(delete_as(&other, CINDER), 204, "it was this one that made it");
    assert_clean(&ceph, &other, "two daemons");
}

#[test]
fn of_two_at_once_each_takes_back_its_own() {
    let ceph = ceph_with_volume();
    let daemon = Daemon::start(&with_roles(&ceph));
    for round in 0..5 {
        let made = thread::scope(|scope| {
            let makers = [CINDER, OTHER].map(|uid| {
                scope.spawn({
                    let daemon = &daemon;
                    move || make_as(daemon, uid).0
                })
            });
            makers.map(|maker| maker.join().unwrap())
        });
        let mut sorted = made;
        sorted.sort_unstable();
        assert_eq!(sorted, [201, 409], "{round}");
        let (winner, loser) = if made[0] == 201 { (CINDER, OTHER) } else { (OTHER, CINDER) };
        assert_eq!(delete_as(&daemon, loser), 403, "{round}");
        let mut deleted = thread::scope(|scope| {
            let deletes = [(); 2].map(|()| scope.spawn(|| delete_as(&daemon, winner)));
            deletes.map(|delete| delete.join().unwrap())
        });
        deleted.sort_unstable();
        assert_eq!(deleted[0], 204, "{round}: {deleted:?}");
        assert!(matches!(deleted[1], 204 | 404), "{round}: {deleted:?}");
        assert_no_notes(&daemon);
    }
    assert_clean(&ceph, &daemon, "at once");
}

#[test]
fn what_cannot_be_noted_is_not_begun_and_what_fails_leaves_no_note() {
    let ceph = ceph_with_volume();
    let daemon = Daemon::start(&with_roles(&ceph));
    fs::remove_dir(daemon.path("state/made")).unwrap();
    let (status, body) = make_as(&daemon, CINDER);
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("cannot note in state_dir what is made"), "{body}");
    assert_clean(&ceph, &daemon, "not noted");
    assert_eq!(daemon.ask("HEAD", IMAGE).status, 404);
    fs::create_dir(daemon.path("state/made")).unwrap();
    let none = json!({"source": {"rbd_volume": format!("{VOLUMES}/none")}}).to_string();
    assert_eq!(ask_as(&daemon.socket, CINDER, "POST", IMAGE, none.as_bytes()).0, 404);
    assert_no_notes(&daemon);
    // One that is streamed to where images cannot be told apart has no note either.
    let cheap = "/v1/stores/cheap/images/x";
    let stream = json!({"source": source(), "mode": "stream"}).to_string();
    assert_eq!(ask_as(&daemon.socket, CINDER, "POST", cheap, stream.as_bytes()).0, 201);
    assert_no_notes(&daemon);
    assert_eq!(ask_as(&daemon.socket, CINDER, "DELETE", cheap, b"").0, 403);
    assert_eq!(daemon.ask("DELETE", cheap).status, 204);
    // One that is streamed into the cluster can be taken back.
    assert_eq!(ask_as(&daemon.socket, CINDER, "POST", IMAGE, stream.as_bytes()).0, 201);
    assert_eq!(delete_as(&daemon, CINDER), 204);
    assert_no_notes(&daemon);
    assert_clean(&ceph, &daemon, "no notes");
}

#[test]
fn the_right_ends_after_an_hour_and_what_is_no_note_gives_none() {
    let ceph = ceph_with_volume();
    let mut daemon = Daemon::start(&with_roles(&ceph));
    for kind in ["old", "ahead", "unknown"] {
        made_as(&daemon, CINDER);
        daemon.wait_until_idle();
        daemon.kill();
        let file = daemon.path("state/made").join(&daemon.files("state/made")[0]);
        let mut note: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let since = note["whole"]["since"].as_u64().unwrap();
        match kind {
            "old" => note["whole"]["since"] = (since - 3700).into(),
            "ahead" => note["whole"]["since"] = (since + 3700).into(),
            _ => note["v"] = 2.into(),
        }
        fs::write(&file, note.to_string()).unwrap();
        daemon = daemon.restart(&[]);
        assert_eq!(delete_as(&daemon, CINDER), 403, "{kind}");
        if kind == "unknown" {
            assert!(daemon.log().contains("is of version 2, which this imaged does not know"));
            fs::remove_file(&file).unwrap();
        }
        assert_no_notes(&daemon);
        super::delete(&daemon);
    }
    assert_clean(&ceph, &daemon, "an hour");
}

#[test]
fn a_service_ends_the_jobs_of_what_it_has_made_alone() {
    let ceph = ceph_with_volume();
    let daemon = Daemon::start(&with_roles(&ceph));
    let job = made_as(&daemon, CINDER)["digest_job"].as_str().unwrap().to_owned();
    let cancel = |uid| ask_as(&daemon.socket, uid, "DELETE", &format!("/v1/jobs/{job}"), b"").0;
    assert_eq!(cancel(OTHER), 403);
    // It may be over by now.
    assert!(matches!(cancel(CINDER), 204 | 409));
    assert_eq!(delete_as(&daemon, CINDER), 204);
    let body = json!({"source": source(), "mode": "clone"}).to_string();
    let made = Raw::ask(&daemon.socket, "POST", IMAGE, body.as_bytes()).json();
    let job = format!("/v1/jobs/{}", made["digest_job"].as_str().unwrap());
    assert_eq!(ask_as(&daemon.socket, CINDER, "DELETE", &job, b"").0, 403);
    super::delete(&daemon);
    assert_clean(&ceph, &daemon, "jobs");
}
