//! Directories of a file store that cannot be written, or are not there: what can be read is served,
//! and no image is called missing that may lie in what is not there. Needs root, for mounts.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::{
    daemon::{Daemon, IMAGED, noise},
    raw::{Answer, Raw},
};

/// A filesystem in memory, whose directories can be mounted elsewhere and keep what they hold.
struct Disk {
    home: tempfile::TempDir,
}

impl Disk {
    fn new(size: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let disk = Self { home };
        system("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &disk.path("")]);
        disk
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// Mounts the directory `name` of it at `at`.
    fn mount(&self, name: &str, at: &Path) -> Mounted {
        fs::create_dir_all(self.path(name)).unwrap();
        fs::create_dir_all(at).unwrap();
        system("mount", &["--bind", &self.path(name), &at.display().to_string()]);
        Mounted(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        quietly("umount", &["--lazy", &self.path("")]);
    }
}

/// A mounted directory.
struct Mounted(PathBuf);

impl Mounted {
    fn remount(&self, how: &str) {
        system("mount", &["-o", &format!("remount,bind,{how}"), &self.0.display().to_string()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        quietly("umount", &["--lazy", &self.0.display().to_string()]);
    }
}

fn quietly(program: &str, words: &[&str]) -> bool {
    Command::new(program).args(words).status().is_ok_and(|status| status.success())
}

fn system(program: &str, words: &[&str]) {
    assert!(quietly(program, words), "this test needs root: {program} {}", words.join(" "));
}

const ONE: &str = "\
[DEFAULT]
enabled_backends = fast:file
[fast]
filesystem_store_datadir = {dir}/fast
";

const TWO: &str = "\
[DEFAULT]
enabled_backends = fast:file
[fast]
filesystem_store_datadirs = {dir}/fast:2
filesystem_store_datadirs = {dir}/cheap:1
";

fn check_config(daemon: &Daemon) -> Output {
    let conf = daemon.path("conf");
    Command::new(IMAGED).args(["check-config", "--config-file"]).arg(conf).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shown(daemon: &Daemon) -> Value {
    daemon.ask("GET", "/v1/stores/fast").json()
}

/// The states of the directories.
fn states(daemon: &Daemon) -> Vec<String> {
    let shown = shown(daemon);
    let directories = shown["properties"]["directories"].as_array().unwrap().clone();
    directories.iter().map(|dir| dir["state"].as_str().unwrap().to_owned()).collect()
}

fn delete(daemon: &Daemon, id: &str) -> Answer {
    daemon.ask("DELETE", &format!("/v1/stores/fast/images/{id}"))
}

fn assert_code(answer: &Answer, status: u16, code: &str, words: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert!(answer.detail().contains(words), "`{words}` is not in: {}", answer.detail());
}

/// Lets a directory be written, or not.
type Lock<'a> = &'a dyn Fn(bool);

#[test]
fn what_cannot_be_written_is_read_and_says_why_it_is_not_written() {
    let disk = Disk::new("64m");
    let home = Daemon::home();
    let fast = home.path().join("fast");
    let mounted = disk.mount("images", &fast);
    let remount = |free: bool| mounted.remount(if free { "rw" } else { "ro" });
    let attribute = |free: bool| {
        let how = if free { "-i" } else { "+i" };
        system("chattr", &[how, &fast.display().to_string()]);
    };
    let ways: [(&str, &str, Lock<'_>); 2] = [
        ("read-only file system", "BackendDenied", &remount),
        ("operation not permitted", "BackendDenied", &attribute),
    ];
    let mut daemon = Daemon::start_in(home, ONE, &[]);
    let image = noise(100_000, 1);
    for (words, code, lock) in ways {
        assert_eq!(daemon.put("fast", "x", &image).status, 201, "{words}");
        assert!(check_config(&daemon).status.success(), "{words}");
        lock(false);
        // While the daemon runs, and after it has been started again.
        for again in [false, true] {
            if again {
                daemon.stop();
                daemon = daemon.restart(&[]);
            }
            assert!(daemon.get("fast", "x").body == image, "{words}");
            assert_code(&daemon.put("fast", "y", b"y"), 502, code, words);
            assert_code(&delete(&daemon, "x"), 502, code, words);
            assert_code(&daemon.get("fast", "none"), 404, "NotFound", "no such image");
            let shown = shown(&daemon);
            assert_eq!(
                (&shown["state"], states(&daemon)),
                (&"up".into(), vec!["reading only".into()])
            );
            let reason = shown["reason"].as_str().unwrap();
            assert!(reason.starts_with("reading only: ") && reason.contains(words), "{reason}");
            assert_eq!(shown["capacity"]["available"], 0);
            let told = check_config(&daemon);
            assert_eq!(told.status.code(), Some(1), "{told:?}");
            let told = text(&told.stderr);
            assert!(told.contains("is reading only") && told.contains(words), "{told}");
        }
        lock(true);
        assert_eq!(delete(&daemon, "x").status, 204, "{words}");
        assert_eq!(
            (shown(&daemon)["reason"].clone(), states(&daemon)),
            (Value::Null, vec!["up".into()])
        );
    }
    // Where nothing is to be written nothing is wrong.
    assert_eq!(daemon.put("fast", "x", &image).status, 201);
    daemon.stop();
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    fs::write(daemon.path("conf"), conf.replace("[fast]\n", "[fast]\nimaged_read_only = true\n"))
        .unwrap();
    mounted.remount("ro");
    let told = check_config(&daemon);
    assert!(told.status.success(), "{told:?}");
    assert!(text(&told.stderr).contains("imaged_read_only"), "{told:?}");
    daemon = daemon.restart(&[]);
    assert!(daemon.get("fast", "x").body == image);
    assert_eq!(shown(&daemon)["reason"], Value::Null);
    assert_code(&daemon.put("fast", "y", b"y"), 405, "Unsupported", "imaged_read_only");
}

#[test]
fn an_image_in_a_directory_that_was_unmounted_is_unavailable_and_not_missing() {
    let disk = Disk::new("64m");
    let home = Daemon::home();
    let (fast, cheap) = (home.path().join("fast"), home.path().join("cheap"));
    let first = disk.mount("first", &fast);
    let _second = disk.mount("second", &cheap);
    let daemon = Daemon::start_in(home, TWO, &[]);
    let image = noise(100_000, 2);
    let location = daemon.put("fast", "a", &image).json()["location"].as_str().unwrap().to_owned();
    assert_eq!(daemon.files("fast"), ["a"], "the priority is higher");
    fs::write(cheap.join("b"), &image).unwrap();

    // What is beneath the mount is there, and empty.
    drop(first);
    assert_eq!(daemon.files("fast"), [""; 0]);
    let at = format!("/v1/stores/fast/images?at={location}");
    for answer in [
        daemon.get("fast", "a"),
        delete(&daemon, "a"),
        daemon.ask("GET", &at),
        daemon.ask("DELETE", &at),
        daemon.get("fast", "never-was"),
        daemon.put("fast", "c", b"c"),
    ] {
        assert_code(&answer, 503, "Unavailable", "not mounted any more");
    }
    assert_eq!(daemon.ask("HEAD", "/v1/stores/fast/images/a").status, 503);
    assert!(daemon.get("fast", "b").body == image, "what can be read is served");
    let list = daemon.ask("GET", "/v1/stores/fast/images");
    assert!(text(&list.body).contains("\"b\"") && !list.whole, "{list:?}");
    assert_eq!(states(&daemon), ["down", "up"]);
    assert_eq!(shown(&daemon)["state"], "up");
    assert!(shown(&daemon)["reason"].as_str().unwrap().contains("not mounted any more"));
    assert_eq!(delete(&daemon, "b").status, 204);
    assert_eq!(daemon.files("fast"), [""; 0], "nothing is written beneath the mount");

    // It comes back, as another mount.
    let _again = disk.mount("first", &fast);
    assert!(daemon.get("fast", "a").body == image);
    assert_code(&daemon.get("fast", "never-was"), 404, "NotFound", "no such image");
    assert_eq!(daemon.put("fast", "c", b"c").status, 201);
    assert_eq!(states(&daemon), ["up", "up"]);
    assert_eq!(daemon.files("fast"), ["a", "c"]);
}

#[test]
fn an_upload_whose_directory_is_unmounted_meanwhile_is_not_called_stored() {
    let disk = Disk::new("64m");
    let home = Daemon::home();
    let fast = home.path().join("fast");
    let mounted = disk.mount("images", &fast);
    let daemon = Daemon::start_in(home, ONE, &[]);
    let begin = |id: &str| {
        let mut raw = Raw::connect(&daemon.socket);
        let headers = "content-length: 200000\r\n";
        raw.head("PUT", &format!("/v1/stores/fast/images/{id}"), headers);
        raw.send(&[7; 100_000]);
        // It has begun when its file is open.
        let open = format!("{}/", fast.display());
        daemon.wait_until("the upload", |daemon| {
            let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
            let mut paths = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            paths.any(|path| path.display().to_string().starts_with(&open))
        });
        raw
    };
    let end = |mut raw: Raw| {
        let _sent = raw.stream.write_all(&[7; 100_000]);
        raw.answer("PUT")
    };
    let raw = begin("a");
    drop(mounted);
    assert_code(&end(raw), 503, "Unavailable", "not mounted any more");
    let mounted = disk.mount("images", &fast);
    // The directory was exchanged by another.
    daemon.wait_until_idle();
    let raw = begin("b");
    drop(mounted);
    let _other = disk.mount("other", &fast);
    assert_code(&end(raw), 503, "Unavailable", "was replaced");
    daemon.wait_until_idle();
    for name in ["images", "other"] {
        assert_eq!(fs::read_dir(disk.path(name)).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn one_of_two_directories_that_is_not_there_does_not_hide_the_other() {
    let home = Daemon::home();
    let (fast, cheap) = (home.path().join("fast"), home.path().join("cheap"));
    fs::remove_dir(&fast).unwrap();
    fs::write(cheap.join("b"), "b").unwrap();
    let daemon = Daemon::start_in(home, TWO, &[]);
    assert_eq!(daemon.get("fast", "b").body, b"b");
    assert_code(&daemon.get("fast", "a"), 503, "Unavailable", "does not exist");
    assert_code(&daemon.put("fast", "c", b"c"), 503, "Unavailable", "does not exist");
    assert_eq!(states(&daemon), ["down", "up"]);
    let told = check_config(&daemon);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let told = text(&told.stderr);
    let (down, up) = (fast.display(), cheap.display());
    assert!(told.contains(&format!("directory `{down}` is down: ")), "{told}");
    assert!(told.contains(&format!("directory `{up}` is up")), "{told}");
    // A file in its place is no directory, and not an image that is not there.
    fs::write(&fast, "a file").unwrap();
    assert_code(&daemon.get("fast", "a"), 503, "Unavailable", "not a directory");
    fs::remove_file(&fast).unwrap();
    fs::create_dir(&fast).unwrap();
    assert_code(&daemon.get("fast", "a"), 404, "NotFound", "no such image");
    assert_eq!(daemon.put("fast", "c", b"c").status, 201);
    assert_eq!(states(&daemon), ["up", "up"]);
    assert_eq!(daemon.files("fast"), ["c"]);
    assert!(check_config(&daemon).status.success());
}

#[test]
fn what_is_full_and_what_can_only_be_read_are_passed_over_and_named() {
    let (small, large) = (Disk::new("256k"), Disk::new("64m"));
    let home = Daemon::home();
    let (fast, cheap) = (home.path().join("fast"), home.path().join("cheap"));
    let first = small.mount("images", &fast);
    let second = large.mount("images", &cheap);
    let daemon = Daemon::start_in(home, TWO, &[]);
    let image = noise(1 << 20, 3);
    // The first is too small, and the second takes it.
    assert_eq!(daemon.put("fast", "a", &image).status, 201);
    assert_eq!(daemon.files("cheap"), ["a"]);
    second.remount("ro");
    let refused = daemon.put("fast", "b", &image);
    assert_code(&refused, 507, "Full", "read-only file system");
    assert_eq!(daemon.put("fast", "c", b"small").status, 201, "this fits into the first");
    assert_eq!(states(&daemon), ["up", "reading only"]);
    assert_eq!(shown(&daemon)["reason"], Value::Null, "it can be written");
    first.remount("ro");
    assert_code(&daemon.put("fast", "d", b"d"), 502, "BackendDenied", "read-only file system");
    assert!(daemon.get("fast", "a").body == image);
    second.remount("rw");
    assert_eq!(daemon.put("fast", "d", b"d").status, 201);
    assert_eq!(daemon.files("cheap"), ["a", "d"]);
}

#[test]
fn a_mode_that_a_directory_is_not_given_is_a_note() {
    let home = Daemon::home();
    let fast = home.path().join("fast");
    let dir = home.path().display().to_string();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // A directory of a group, whose owner alone can change its mode.
    std::os::unix::fs::chown(&fast, Some(0), Some(65534)).unwrap();
    fs::set_permissions(&fast, fs::Permissions::from_mode(0o770)).unwrap();
    let text =
        format!("{ONE}filesystem_store_file_perm = 0644\n[imaged]\nstate_dir = {{dir}}/state\n");
    fs::write(home.path().join("conf"), text.replace("{dir}", &dir)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", IMAGED]);
    let daemon = Daemon::start_by(home, command);
    assert_eq!(daemon.put("fast", "x", b"image").status, 201);
    assert_eq!(fs::metadata(fast.join("x")).unwrap().permissions().mode() & 0o777, 0o644);
    let found = shown(&daemon);
    assert_eq!((&found["state"], &found["reason"]), (&"up".into(), &Value::Null));
    assert_eq!(states(&daemon), ["up"]);
    let note = found["notes"][0].as_str().unwrap();
    assert!(
        note.contains("filesystem_store_file_perm") && note.contains("not permitted"),
        "{note}"
    );
    assert!(daemon.log().contains("filesystem_store_file_perm"), "{}", daemon.log());
    assert_eq!(delete(&daemon, "x").status, 204);
    // Its owner has mended it.
    fs::set_permissions(&fast, fs::Permissions::from_mode(0o771)).unwrap();
    assert_eq!(shown(&daemon)["notes"], Value::Null);
}

#[test]
fn a_metadata_file_that_cannot_be_read_is_a_note() {
    let home = Daemon::home();
    let file = home.path().join("metadata.json");
    let config = format!("{ONE}filesystem_store_metadata_file = {{dir}}/metadata.json\n");
    let daemon = Daemon::start_in(home, &config, &[]);
    for bad in [None, Some("{"), Some("[1]"), Some("{\"id\": \"x\"}"), Some("\u{feff}[]")] {
        match bad {
            None => assert!(!file.exists()),
            Some(text) => fs::write(&file, text).unwrap(),
        }
        let found = shown(&daemon);
        assert_eq!((&found["state"], &found["reason"]), (&"up".into(), &Value::Null), "{bad:?}");
        let note = found["notes"][0].as_str().unwrap();
        assert!(note.contains("filesystem_store_metadata_file"), "{bad:?}: {note}");
        assert!(note.contains(file.to_str().unwrap()), "{bad:?}: {note}");
        let told = check_config(&daemon);
        assert!(told.status.success(), "{told:?}");
        assert!(text(&told.stderr).contains("filesystem_store_metadata_file"), "{told:?}");
        assert_eq!(daemon.put("fast", "x", b"image").status, 201);
        assert_eq!(delete(&daemon, "x").status, 204);
    }
    let mount = daemon.path("fast").display().to_string();
    fs::write(&file, format!("{{\"mountpoint\": \"{mount}\", \"share\": \"nfs\"}}")).unwrap();
    assert_eq!(shown(&daemon)["notes"], Value::Null);
    assert_eq!(daemon.put("fast", "x", b"image").json()["metadata"]["share"], "nfs");
    // What was read once is kept.
    fs::remove_file(&file).unwrap();
    assert!(shown(&daemon)["notes"][0].is_string());
    assert_eq!(daemon.put("fast", "y", b"image").json()["metadata"]["share"], "nfs");
}

/// Two stores; the second one is in `{second}`.
const STORES: &str = "\
[DEFAULT]
enabled_backends = fast:file, cheap:file
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
[cheap]
filesystem_store_datadir = {dir}/{second}
";

#[test]
fn one_directory_of_two_stores_is_refused_with_both_names() {
    let bound = |home: &Path| {
        let at = home.join("bound");
        fs::create_dir(&at).unwrap();
        let from = home.join("fast").display().to_string();
        system("mount", &["--bind", &from, at.to_str().unwrap()]);
        Mounted(at)
    };
    for second in ["fast", "./fast", "fast/.", "link", "up/link", "bound"] {
        let home = Daemon::home();
        symlink(home.path().join("fast"), home.path().join("link")).unwrap();
        symlink(".", home.path().join("up")).unwrap();
        let _mounted = (second == "bound").then(|| bound(home.path()));
        let mut daemon = Daemon::start_in(home, &STORES.replace("{second}", second), &[]);
        assert_eq!(daemon.put("fast", "x", b"image").status, 201, "{second}");
        let cheap = daemon.ask("GET", "/v1/stores/cheap").json();
        assert_eq!(cheap["state"], "down", "{second}");
        let reason = cheap["reason"].as_str().unwrap();
        for name in ["`fast`", "/fast`", &format!("/{second}`")] {
            assert!(reason.contains(name), "{second}: {reason}");
        }
        let at = format!("file://{}/x", daemon.path(second).display());
        for (method, path) in [
            ("GET", "/v1/stores/cheap/images/x".to_owned()),
            ("DELETE", "/v1/stores/cheap/images/x".to_owned()),
            ("DELETE", format!("/v1/stores/cheap/images?at={at}")),
            ("GET", "/v1/stores/cheap/images".to_owned()),
        ] {
            assert_eq!(daemon.ask(method, &path).status, 503, "{second}: {method} {path}");
        }
        assert_eq!(daemon.put("cheap", "y", b"image").status, 503, "{second}");
        assert_eq!(daemon.get("fast", "x").body, b"image", "{second}");
        let told = check_config(&daemon);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(text(&told.stderr).contains("store `cheap` is down: its directory"), "{told:?}");

        // A reload that mends it, and one that makes the mistake again.
        let bad = fs::read_to_string(daemon.path("conf")).unwrap();
        let place = |name: &str| {
            format!("[cheap]\nfilesystem_store_datadir = {}/{name}\n", daemon.dir.path().display())
        };
        fs::write(daemon.path("conf"), bad.replace(&place(second), &place("cheap"))).unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        daemon.wait_until("the store is up", |daemon| {
            daemon.ask("GET", "/v1/stores/cheap").json()["state"] == "up"
        });
        assert_eq!(daemon.put("cheap", "x", b"another").status, 201, "{second}");
        fs::write(daemon.path("conf"), &bad).unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        daemon.wait_until("the store is down", |daemon| {
            daemon.ask("GET", "/v1/stores/cheap").json()["state"] == "down"
        });
        assert_eq!(daemon.get("fast", "x").body, b"image", "{second}");
        daemon.stop();
    }
}

#[test]
fn one_directory_of_two_names_in_a_store_is_refused_with_both() {
    let home = Daemon::home();
    let path = |name: &str| home.path().join(name).display().to_string();
    fs::remove_dir(path("cheap")).unwrap();
    symlink(path("fast"), path("cheap")).unwrap();
    fs::write(home.path().join("conf"), TWO.replace("{dir}", &home.path().display().to_string()))
        .unwrap();
    let told = Command::new(IMAGED)
        .args(["check-config", "--config-file", &path("conf")])
        .output()
        .unwrap();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let told = text(&told.stderr);
    for name in ["is down", &path("fast"), &path("cheap")] {
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn directories_that_lie_in_each_other_are_told_of() {
    let home = Daemon::home();
    fs::create_dir(home.path().join("fast/inner")).unwrap();
    let daemon = Daemon::start_in(home, &STORES.replace("{second}", "fast/inner"), &[]);
    let cheap = daemon.ask("GET", "/v1/stores/cheap").json();
    assert_eq!((&cheap["state"], &cheap["reason"]), (&"up".into(), &Value::Null));
    let note = cheap["notes"][0].as_str().unwrap();
    assert!(
        note.contains("/fast/inner` is in the directory") && note.contains("store `fast`"),
        "{note}"
    );
    let told = check_config(&daemon);
    assert!(told.status.success() && text(&told.stderr).contains(note), "{told:?}");
    assert!(daemon.log().contains(note), "{}", daemon.log());
}

#[test]
fn a_daemon_without_descriptors_says_so_and_goes_on_when_it_has_some() {
    let daemon = Daemon::start_in(Daemon::home(), ONE, &[]);
    let image = noise(100_000, 4);
    assert_eq!(daemon.put("fast", "x", &image).status, 201);
    let mut raw = Raw::connect(&daemon.socket);
    let mut ask = |method: &str| {
        let headers = if method == "PUT" { "content-length: 0\r\n" } else { "" };
        let id = if method == "PUT" { "y" } else { "x" };
        raw.head(method, &format!("/v1/stores/fast/images/{id}"), headers);
        raw.answer(method)
    };
    assert!(ask("GET").body == image);
    let limit = |count: usize| {
        let (pid, limit) = (daemon.pid().to_string(), format!("--nofile={count}:"));
        system("prlimit", &["--pid", &pid, &limit]);
    };
    // From here on nothing can be opened.
    limit(3);
    for method in ["GET", "PUT", "DELETE"] {
        let answer = ask(method);
        assert_code(&answer, 503, "Unavailable", "too many open files");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
    limit(1000);
    assert!(ask("GET").body == image);
    assert_eq!((ask("PUT").status, ask("DELETE").status), (201, 204));
    assert_eq!(daemon.files("fast"), ["y"]);
}
