//! A daemon with a store of volumes: killed at every named point, and images made of volumes.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
};

use imaged::point::{CINDER_POINTS, TURN_POINTS};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    cinder::{Call, Cinder, Fault, Rule, TYPE},
    daemon::{Daemon, noise},
    raw::{Answer, Raw, ask_as},
};

const GIB: u64 = 1 << 30;

/// The configuration of a daemon with a store of this Cinder's volumes, and one of files.
fn config(cinder: &Cinder, folder: &Path) -> String {
    let (login, folder) = (cinder.login(), folder.display());
    format!(
        "[DEFAULT]\nenabled_backends = volumes:cinder, fast:file\n\
         [glance_store]\ndefault_backend = fast\n\
         [volumes]\n{login}cinder_volume_type = {TYPE}\nimaged_cinder_mounts = 127.0.0.1:/exports/rig={folder}\n\
         imaged_cinder_timeout_s = 5\n[fast]\nfilesystem_store_datadir = {{dir}}/fast\n"
    )
}

struct Rig {
    cinder: Cinder,
    folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cinder: Cinder::nfs(folder.path()), folder }
    }

    fn daemon(&self, env: &[(&str, &str)]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("fast")).unwrap();
        Daemon::start_in(dir, &config(&self.cinder, self.folder.path()), env)
    }

    /// A volume that begins with these bytes.
    fn volume(&self, bytes: &[u8]) -> String {
        let volume = self.cinder.place("somebody's", 1, &[]);
        let file = fs::OpenOptions::new().write(true).open(self.cinder.file(&volume)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        volume
    }

    /// Waits until nothing but these volumes is there.
    fn until_left(&self, daemon: &Daemon, beside: &[&str], what: &str) {
        daemon.wait_until(&format!("{what}: nothing to be left"), |_| {
            self.cinder.left(beside).is_empty()
        });
    }
}

/// Sends a request that the daemon may not live to answer.
fn dies(daemon: &mut Daemon, method: &str, path: &str, body: &[u8]) {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head(method, path, &format!("content-length: {}\r\n", body.len()));
    let _sent = raw.stream.write_all(body);
    assert!(raw.read_head().is_none(), "the daemon answered before it died");
    assert!(!daemon.wait().success());
}

/// Sends a request with more headers.
fn send(daemon: &Daemon, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head(method, path, &format!("{headers}content-length: {}\r\n", body.len()));
    raw.stream.write_all(body).unwrap();
    raw.answer(method)
}

fn copy(daemon: &Daemon, store: &str, volume: &str, mode: &str) -> Answer {
    let body = json!({"source": {"cinder_volume": volume}, "mode": mode}).to_string();
    Raw::ask(&daemon.socket, "POST", &format!("/v1/stores/{store}/images/x"), body.as_bytes())
}

fn until_digested(daemon: &Daemon, answer: &Value) {
    let job = answer["digest_job"].as_str().unwrap();
    let mut ended = Value::Null;
    daemon.wait_until("the digests", |daemon| {
        ended = daemon.ask("GET", &format!("/v1/jobs/{job}?wait=5")).json();
        ended["state"] == "done" || ended["state"] == "failed"
    });
    assert_eq!(ended["state"], "done", "{ended}");
}

#[test]
fn a_daemon_killed_at_any_point_of_a_put_leaves_no_volume_and_no_attachment() {
    let image = noise(300_000, 3);
    for point in CINDER_POINTS {
        let rig = Rig::new();
        let mut daemon = rig.daemon(&[("IMAGED_KILL_AT", point)]);
        dies(&mut daemon, "PUT", "/v1/stores/volumes/images/x", &image);
        let daemon = daemon.restart(&[]);
        daemon.wait_until_idle();
        let found = daemon.get("volumes", "x");
        if point == "cinder-published" {
            assert_eq!(found.status, 200, "{point}");
            assert!(found.body == image, "{point}");
            assert_eq!(daemon.ask("DELETE", "/v1/stores/volumes/images/x").status, 204, "{point}");
        } else {
            assert_eq!(found.status, 404, "{point}");
        }
        // An attachment that was made and not yet noted goes with its volume.
        rig.until_left(&daemon, &[], point);
        assert_eq!(daemon.put("volumes", "x", b"again").status, 201, "{point}");
    }
}

#[test]
fn a_reader_s_attachment_is_ended_by_the_next_daemon() {
    let rig = Rig::new();
    let mut daemon = rig.daemon(&[]);
    let image = noise(300_000, 4);
    assert_eq!(daemon.put("volumes", "x", &image).status, 201);
    daemon.kill();
    let mut daemon = daemon.restart(&[("IMAGED_KILL_AT", "cinder-attached")]);
    dies(&mut daemon, "GET", "/v1/stores/volumes/images/x", b"");
    assert_eq!(rig.cinder.attachments().len(), 1);
    let mut daemon = daemon.restart(&[]);
    daemon.wait_until("the attachment to be ended", |_| rig.cinder.attachments().is_empty());
    assert!(daemon.get("volumes", "x").body == image);
    // So is one that Cinder made, and that the daemon did not live to hear of.
    assert!(daemon.stop().success());
    let mut daemon = daemon.restart(&[("IMAGED_KILL_AT", "cinder-reserved")]);
    dies(&mut daemon, "GET", "/v1/stores/volumes/images/x", b"");
    assert_eq!(rig.cinder.attachments()[0].status, "reserved");
    let mut daemon = daemon.restart(&[]);
    daemon.wait_until("the reservation to be ended", |_| rig.cinder.attachments().is_empty());
    assert!(daemon.get("volumes", "x").body == image);
    // A daemon that ends in order leaves nothing attached.
    assert!(daemon.stop().success());
    assert_eq!(rig.cinder.attachments().len(), 0);
}

#[test]
fn a_volume_that_cinder_makes_when_the_next_daemon_has_cleared_up_already_goes_too() {
    let rig = Rig::new();
    let volume = rig.volume(b"somebody's");
    let seal = json!({"source": {"cinder_volume": volume}}).to_string();
    for (method, body) in [("POST", seal.as_bytes()), ("PUT", b"an image")] {
        let mut daemon = rig.daemon(&[]);
        rig.cinder.fail(Rule::new(Fault::Late).on(Call::CreateVolume).times(1));
        let mut raw = Raw::connect(&daemon.socket);
        let length = format!("content-length: {}\r\n", body.len());
        raw.head(method, "/v1/stores/volumes/images/x", &length);
        raw.stream.write_all(body).unwrap();
        daemon.wait_until("Cinder to be asked", |_| rig.cinder.held() == 1);
        daemon.kill();
        let daemon = daemon.restart(&[]);
        daemon.wait_until_idle();
        assert_eq!(rig.cinder.left(&[&volume]), [""; 0], "{method}: there is none yet");
        rig.cinder.heal();
        // It is noted until it was found.
        daemon.wait_until(&format!("{method}: the volume to be found"), |daemon| {
            fs::read_dir(daemon.path("state/held")).unwrap().next().is_none()
        });
        assert_eq!(rig.cinder.left(&[&volume]), [""; 0], "{method}");
        assert_eq!(daemon.put("volumes", "x", b"another").status, 201, "{method}");
        assert_eq!(daemon.ask("DELETE", "/v1/stores/volumes/images/x").status, 204, "{method}");
    }
}

#[test]
fn an_image_of_a_volume_is_one_clone_and_its_digests_follow() {
    let rig = Rig::new();
    let bytes = noise(200_000, 5);
    let volume = rig.volume(&bytes);
    let daemon = rig.daemon(&[]);
    let answer = copy(&daemon, "volumes", &volume, "auto");
    assert_eq!(answer.status, 201, "{:?}", answer.json());
    let receipt = answer.json();
    assert_eq!(receipt["size"], GIB);
    let clone = rig.cinder.volume("image-x").unwrap();
    assert_eq!(receipt["location"], format!("cinder://volumes/{}", clone.id));
    until_digested(&daemon, &receipt);
    // They are kept with the volume, so that they outlive the daemon.
    let kept = &rig.cinder.volume("image-x").unwrap().metadata;
    assert_eq!(
        (kept["imaged_hash_algo"].as_str(), kept["imaged_hash_value"].len()),
        ("sha512", 128)
    );
    assert_eq!(kept["image_size"], GIB.to_string());
    let first =
        send(&daemon, "GET", "/v1/stores/volumes/images/x", "range: bytes=0-199999\r\n", b"");
    assert!(first.body == bytes);
    // Both orders: the source goes first, and the image stays.
    rig.cinder.remove(&volume);
    let first =
        send(&daemon, "GET", "/v1/stores/volumes/images/x", "range: bytes=0-199999\r\n", b"");
    assert!(first.body == bytes);
    daemon.wait_until("the readers to be gone", |daemon| {
        daemon.ask("DELETE", "/v1/stores/volumes/images/x").status == 204
    });
    rig.until_left(&daemon, &[], "the end");
}

#[test]
fn an_image_of_a_volume_in_another_store_is_what_was_sealed() {
    let rig = Rig::new();
    let volume = rig.volume(&noise(100_000, 6));
    let daemon = rig.daemon(&[]);
    let answer = copy(&daemon, "fast", &volume, "auto");
    assert_eq!(answer.status, 201, "{:?}", answer.json());
    assert_eq!(answer.json()["size"], GIB);
    assert!(answer.json()["hash_value"].is_string());
    rig.until_left(&daemon, &[&volume], "the seal");
}

#[test]
fn a_daemon_killed_while_an_image_is_made_of_a_volume_leaves_it_whole_or_absent() {
    let points = ["volume-claimed", "cinder-made", "volume-sealed", "copy-made", "copy-turned"];
    for point in points.into_iter().chain(TURN_POINTS) {
        let rig = Rig::new();
        let bytes = noise(100_000, 7);
        let volume = rig.volume(&bytes);
        let mut daemon = rig.daemon(&[("IMAGED_KILL_AT", point)]);
        let body = json!({"source": {"cinder_volume": volume}}).to_string();
        dies(&mut daemon, "POST", "/v1/stores/volumes/images/x", body.as_bytes());
        let daemon = daemon.restart(&[]);
        daemon.wait_until_idle();
        let stat = daemon.ask("HEAD", "/v1/stores/volumes/images/x");
        let whole = matches!(point, "cinder-turned" | "copy-made" | "copy-turned");
        assert_eq!(stat.status, if whole { 200 } else { 404 }, "{point}");
        if whole {
            // Nobody was told, and its digests are recorded all the same.
            daemon.wait_until(&format!("{point}: digests"), |_| {
                let clone = rig.cinder.volume("image-x").unwrap();
                clone.metadata.contains_key("imaged_hash_value")
            });
            daemon.wait_until(&format!("{point}: the readers to be gone"), |daemon| {
                daemon.ask("DELETE", "/v1/stores/volumes/images/x").status == 204
            });
        }
        rig.until_left(&daemon, &[&volume], point);
    }
}

#[test]
fn what_is_no_volume_is_refused_with_the_remedy() {
    let rig = Rig::new();
    let daemon = rig.daemon(&[]);
    for (volume, status, says) in [
        ("not-a-uuid", 400, "UUID"),
        ("1b2c3d4e-0000-4111-8222-abcdef012345", 404, "no such volume"),
    ] {
        let answer = copy(&daemon, "volumes", volume, "auto");
        assert_eq!(answer.status, status, "{volume}");
        assert!(answer.json().to_string().contains(says), "{}", answer.json());
    }
    let encrypted = rig.cinder.place_encrypted("a secret", 1);
    let answer = copy(&daemon, "volumes", &encrypted, "auto");
    assert_eq!(answer.status, 405, "{}", answer.json());
    assert!(answer.json().to_string().contains("encrypted"));
    let busy = rig.volume(b"x");
    rig.cinder.set_status(&busy, "uploading");
    let answer = copy(&daemon, "volumes", &busy, "auto");
    assert_eq!(answer.status, 503, "{}", answer.json());
    // A store that takes the project from who asks writes it down.
    let put = send(&daemon, "PUT", "/v1/stores/volumes/images/y", "x-project-id: p-1\r\n", b"abc");
    assert_eq!(put.status, 201);
    assert_eq!(rig.cinder.volume("image-y").unwrap().metadata["image_owner"], "p-1");
    let long = format!("x-project-id: {}\r\n", "p".repeat(65));
    assert_eq!(send(&daemon, "PUT", "/v1/stores/volumes/images/z", &long, b"abc").status, 400);
}

#[test]
fn a_service_takes_back_what_cinder_has_cloned_for_it() {
    let path = "/v1/stores/volumes/images/x";
    for point in [None, Some("copy-made"), Some("copy-noted")] {
        let rig = Rig::new();
        let volume = rig.volume(&noise(100_000, 8));
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("fast")).unwrap();
        let config = config(&rig.cinder, rig.folder.path());
        let config =
            format!("{config}[imaged]\nsocket_mode = 0666\nroles = 5:service, 34:service\n");
        let env: Vec<_> = point.iter().map(|point| ("IMAGED_KILL_AT", *point)).collect();
        let mut daemon = Daemon::start_in(dir, &config, &env);
        let body = json!({"source": {"cinder_volume": volume}, "mode": "clone"}).to_string();
        let (status, said) = ask_as(&daemon.socket, 5, "POST", path, body.as_bytes());
        assert_eq!(status, if point.is_none() { 201 } else { 0 }, "{point:?}: {said}");
        if point.is_some() {
            assert!(!daemon.wait().success());
            daemon = daemon.restart(&[]);
        }
        let delete = |uid| ask_as(&daemon.socket, uid, "DELETE", path, b"").0;
        daemon.wait_until("the image to be there", |_| delete(34) == 403);
        // It may have to be found yet, and the reader of its digests be attached.
        daemon.wait_until("it to be taken back", |_| delete(5) == 204);
        assert_eq!(daemon.files("state/made").len(), 0, "{point:?}");
        rig.until_left(&daemon, &[&volume], "what was taken back");
    }
}
