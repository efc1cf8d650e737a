//! File stores where the system refuses calls, as filters of containers and of systemd do, or answers as
//! NFS does when it has sent a call twice.

use std::{fs, io::Write as _, os::unix::fs::symlink, process::Command};

use imaged::transfer::Frame;
use imaged_drivers::Kind;

use crate::harness::{
    daemon::{Daemon, noise, refusing},
    raw::Raw,
    stores::{
        self, aligned_chunks, assert_free, assert_reads, begin,
        content::{Look, image},
        order, put,
    },
};

const CONFIG: &str = "\
[DEFAULT]
enabled_backends = fast:file
[fast]
filesystem_store_datadir = {dir}/fast
filesystem_store_file_perm = 0640
imaged_also_directories = {dir}/cheap
";

/// A daemon to which `calls` are refused with `errno`.
fn refused(errno: &str, calls: &str) -> Daemon {
    let dir = Daemon::home();
    let text = format!("{CONFIG}[imaged]\nstate_dir = {{dir}}/state\n");
    let text = text.replace("{dir}", &dir.path().display().to_string());
    fs::write(dir.path().join("conf"), text).unwrap();
    Daemon::start_by(dir, refusing(errno, calls))
}

#[test]
fn what_a_filter_refuses_has_a_way_around() {
    let all = "openat2,statx,faccessat2,copy_file_range,renameat2,tmpfile";
    for (errno, calls) in [
        ("ENOSYS", "openat2"),
        ("EPERM", "openat2"),
        ("ENOSYS", all),
        ("EPERM", all),
        ("EPERM", "linkat"),
        ("ENOSYS", "linkat,tmpfile"),
        ("EPERM", "fchmod"),
    ] {
        let what = format!("{errno} {calls}");
        let daemon = refused(errno, calls);
        let image = noise(3 << 20, 1);
        assert_eq!(daemon.put("fast", "x", &image).status, 201, "{what}: {}", daemon.log());
        assert_eq!(daemon.put("fast", "x", &image).status, 409, "{what}");
        assert!(daemon.get("fast", "x").body == image, "{what}");
        let copy = format!(
            "{{\"source\": {{\"location\": \"file://{}/x\"}}}}",
            daemon.path("fast").display()
        );
        let copied = Raw::ask(&daemon.socket, "POST", "/v1/stores/fast/images/y", copy.as_bytes());
        assert_eq!(copied.status, 201, "{what}: {copied:?}");
        assert!(daemon.get("fast", "y").body == image, "{what}");

        // Beneath the directory links are followed, and into the also-directory; out of them never.
        fs::create_dir(daemon.path("fast/sub")).unwrap();
        fs::write(daemon.path("fast/sub/deep"), "deep").unwrap();
        fs::write(daemon.path("cheap/old"), "old").unwrap();
        fs::write(daemon.path("secret"), "secret").unwrap();
        for (name, to, body) in [
            ("within", "sub/../sub/deep".to_owned(), Some("deep")),
            ("also", daemon.path("cheap/old").display().to_string(), Some("old")),
            ("out", "../secret".to_owned(), None),
            ("absolute", daemon.path("secret").display().to_string(), None),
            ("proc", format!("/proc/{}/environ", daemon.pid()), None),
        ] {
            symlink(&to, daemon.path("fast").join(name)).unwrap();
            let got = daemon.get("fast", name);
            assert_eq!(
                (got.status == 200).then_some(got.body),
                body.map(Into::into),
                "{what} {name}"
            );
        }
        let list = daemon.ask("GET", "/v1/stores/fast/images");
        let list = String::from_utf8(list.body).unwrap();
        assert!(list.contains("\"within\"") && !list.contains("\"out\""), "{what}: {list}");
        for id in ["x", "y"] {
            let deleted = daemon.ask("DELETE", &format!("/v1/stores/fast/images/{id}"));
            assert_eq!(deleted.status, 204, "{what}");
        }
        let left = fs::read_dir(daemon.path("fast")).unwrap().count();
        assert_eq!(left, 6, "{what}");
    }
}

#[test]
fn where_no_name_can_be_given_the_reason_is_told_and_nothing_is_left() {
    let daemon = refused("EPERM", "linkat,renameat2");
    fs::write(daemon.path("fast/old"), "old").unwrap();
    for id in ["x", "y"] {
        let answer = daemon.put("fast", id, b"image");
        assert_eq!(answer.status, 502, "{answer:?}");
        let detail = answer.detail();
        assert!(
            detail.contains("operation not permitted") && detail.contains("linkat"),
            "{detail}"
        );
        daemon.wait_until_idle();
        assert_eq!(daemon.files("fast"), ["old"]);
        // The store says of itself that it can only be read.
        let shown = daemon.ask("GET", "/v1/stores/fast").json();
        let reason = shown["reason"].as_str().unwrap();
        assert!(reason.contains("reading only") && reason.contains("linkat"), "{shown}");
        assert_eq!(daemon.get("fast", "old").body, b"old");
    }
    assert_eq!(daemon.log().matches("state=\"reading only\"").count(), 1, "{}", daemon.log());
}

/// Each upload tries again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_given_a_name_again_can_be_written_again() {
    let f = stores::file_renamed().await;
    let (id, bytes) = (f.id(), image(Look::Random, 100_000, 4));
    let state = async || {
        f.store.check().await;
        f.store.reading_only()
    };
    assert_eq!(state().await, None);
    let plain = f.plain.as_ref().unwrap();
    plain.fail("rename", nix::errno::Errno::EPERM as i32);
    let error = put(&f.store, order(&id, None), &bytes).await.unwrap_err();
    assert_eq!(error.kind(), Kind::BackendDenied, "{error:?}");
    assert!(state().await.unwrap().contains("renameat2"));
    plain.fail("rename", 0);
    put(&f.store, order(&id, None), &bytes).await.unwrap();
    assert_eq!(state().await, None);
}

#[test]
fn a_mode_that_is_refused_is_a_note() {
    let daemon = refused("EPERM", "fchmod");
    assert_eq!(daemon.put("fast", "x", b"image").status, 201);
    let shown = daemon.ask("GET", "/v1/stores/fast").json();
    assert_eq!((&shown["state"], &shown["reason"]), (&"up".into(), &serde_json::Value::Null));
    let note = shown["notes"][0].as_str().unwrap();
    assert!(note.contains("filesystem_store_file_perm"), "{note}");
    assert_eq!(daemon.log().matches("filesystem_store_file_perm").count(), 1, "{}", daemon.log());
    assert_eq!(daemon.put("fast", "y", b"image").status, 201);
    assert_eq!(daemon.log().matches("filesystem_store_file_perm").count(), 1, "told once");
}

/// NFS sends a call again whose answer was lost, and then finds what the first has done.
#[test]
fn a_link_that_was_made_by_the_same_call_before_is_no_other_image() {
    let daemon = Daemon::start_in(Daemon::home(), CONFIG, &[]);
    let image = noise(200_000, 2);
    let place = daemon.path("fast");
    for (own, status) in [(true, 201), (false, 409)] {
        let id = if own { "own" } else { "other" };
        let mut raw = Raw::connect(&daemon.socket);
        let length = format!("content-length: {}\r\n", image.len());
        raw.head("PUT", &format!("/v1/stores/fast/images/{id}"), &length);
        raw.send(&image[..100_000]);
        let open = format!("{}/", place.display());
        let mut file = None;
        daemon.wait_until("the upload", |daemon| {
            let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
            file = files.filter_map(|file| Some(file.ok()?.path())).find(|file| {
                fs::read_link(file).is_ok_and(|path| path.display().to_string().starts_with(&open))
            });
            file.is_some()
        });
        if own {
            let mut link = Command::new("ln");
            link.arg("-L").arg(file.unwrap()).arg(place.join(id));
            assert!(link.status().unwrap().success());
        } else {
            fs::write(place.join(id), "other").unwrap();
        }
        raw.stream.write_all(&image[100_000..]).unwrap();
        let answer = raw.answer("PUT");
        assert_eq!(answer.status, status, "{answer:?}");
        let body = daemon.get("fast", id).body;
        assert!(if own { body == image } else { body == b"other" });
    }
}

/// The same of every call that gives a name, or takes one away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_twice_is_done_once_and_is_no_failure() {
    for f in [stores::file_staged().await, stores::file_renamed().await] {
        let bytes = image(Look::Random, 100_000, 3);
        for call in ["link", "rename", "unlink"] {
            f.plain.as_ref().unwrap().resend(call);
        }
        let id = f.id();
        put(&f.store, order(&id, None), &bytes).await.unwrap();
        let at = f.driver.locate(&id).await.unwrap();
        assert_reads(&*f.driver, &at, &bytes, "sent twice").await;
        f.store.delete(&at, "test").await.unwrap();
        let error = f.store.delete(&at, "test").await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
        // Nor does an upload that is not ended leave anything, or say that it does.
        let running = begin(&f.store, order(&id, Some(bytes.len() as u64 + 1)));
        running.give(&aligned_chunks(&bytes)).await;
        let error = running.end(Frame::End).await.unwrap_err();
        assert_eq!((error.kind(), error.left()), (Kind::Mismatch, None), "{error:?}");
        f.assert_empty().await;
        assert_free(&f, &id, "sent twice").await;
    }
}
