//! What becomes of files on this side: holes, verification, what is left after a failure.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{bytes, command, daemon, feed, line};
use crate::harness::daemon::Daemon;

fn names(daemon: &Daemon, dir: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(daemon.path(dir))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_sparse_file_comes_back_sparse() {
    let daemon = daemon();
    let sparse = fs::File::create(daemon.path("sparse")).unwrap();
    sparse.set_len(200 << 20).unwrap();
    sparse.write_all_at(&bytes(10_000), 50 << 20).unwrap();
    let file = daemon.path("sparse").display().to_string();
    let receipt = line(&daemon, &format!("put fast x {file} --json")).done().json();
    assert_eq!(receipt["size"], 200 << 20);
    assert!(receipt["stored_bytes"].as_u64().unwrap() < 1 << 20, "{receipt}");
    line(&daemon, "copy memory x --from-store fast --from")
        .text()
        .is_empty()
        .then_some(())
        .unwrap();
    // Whole, with a digest to verify; and a range, without.
    for range in ["", "--range 0-"] {
        let back = daemon.path("back").display().to_string();
        line(&daemon, &format!("get fast x {back} {range}")).done();
        let found = fs::metadata(&back).unwrap();
        assert_eq!(found.len(), 200 << 20);
        assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
        let same = Command::new("cmp").args([&file, &back]).status().unwrap();
        assert!(same.success());
    }
}

#[test]
fn zeros_that_come_through_the_socket_become_holes() {
    let daemon = daemon();
    let mut image = bytes(100_000);
    image.resize(20 << 20, 0);
    image.extend(bytes(1000));
    feed(&daemon, ["put", "memory", "x", "-"], &image).done();
    let back = daemon.path("back");
    line(&daemon, &format!("get memory x {}", back.display())).done();
    assert!(fs::read(&back).unwrap() == image);
    assert!(fs::metadata(&back).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_flipped_byte_is_found_and_no_file_is_left() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], &bytes(3 << 20)).done();
    let stored = fs::File::options().write(true).read(true).open(daemon.path("fast/x")).unwrap();
    let mut byte = [0];
    stored.read_exact_at(&mut byte, 1_234_567).unwrap();
    stored.write_all_at(&[byte[0] ^ 1], 1_234_567).unwrap();

    fs::create_dir(daemon.path("out")).unwrap();
    let target = daemon.path("out/x").display().to_string();
    let got = line(&daemon, &format!("get fast x {target}"));
    assert_eq!(got.code, 1, "{got:?}");
    assert!(got.err.contains("sha512"), "{}", got.err);
    assert_eq!(names(&daemon, "out"), [""; 0]);

    // What was there before stays.
    fs::write(&target, "precious").unwrap();
    let got = line(&daemon, &format!("get fast x {target} --json"));
    assert_eq!((got.code, &got.json()["error"]["code"]), (1, &"Mismatch".into()));
    assert_eq!(names(&daemon, "out"), ["x"]);
    assert_eq!(fs::read(&target).unwrap(), b"precious");

    // Standard output has it already; the exit code tells.
    assert_eq!(line(&daemon, "get fast x -").code, 1);
}

#[test]
fn a_directory_gets_a_file_named_by_the_id() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], b"abc").done();
    fs::create_dir(daemon.path("out")).unwrap();
    line(&daemon, &format!("get fast x {}", daemon.path("out").display())).done();
    assert_eq!(fs::read(daemon.path("out/x")).unwrap(), b"abc");
    let mut here = command(&daemon.socket, ["get", "fast", "x"]);
    here.current_dir(daemon.path("cheap"));
    super::finish(here, b"").done();
    assert_eq!(fs::read(daemon.path("cheap/x")).unwrap(), b"abc");
}

#[test]
fn an_interrupted_put_stores_nothing() {
    let daemon = daemon();
    for id in ["short", "long"] {
        let mut put = command(&daemon.socket, ["put", "fast", id, "-"]);
        let put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut put = put.spawn().unwrap();
        let mut stdin = put.stdin.take().unwrap();
        let some = if id == "long" { 20 << 20 } else { 10 };
        stdin.write_all(&bytes(some)).unwrap();
        let pid = put.id().to_string();
        // Until it listens to signals it dies of them, which stores nothing either.
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let ended = put.wait().unwrap();
        drop(stdin);
        assert!(!ended.success());
        let mut out = String::new();
        put.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert_eq!(out, "");
        assert_eq!(line(&daemon, &format!("stat fast {id}")).code, 4);
    }
    // The daemon notices within a moment.
    let since = Instant::now();
    while names(&daemon, "fast") != [""; 0] {
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", names(&daemon, "fast"));
    }
}

#[test]
fn a_reader_who_has_had_enough_is_no_failure() {
    let daemon = daemon();
    feed(&daemon, ["put", "fast", "x", "-"], &bytes(8 << 20)).done();
    let mut get = command(&daemon.socket, ["get", "fast", "x", "-"]);
    let mut get = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 10];
    get.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let got = get.wait_with_output().unwrap();
    assert!(got.status.success());
    assert_eq!(got.stderr, b"");
}

#[test]
fn a_file_that_does_not_tell_its_size_is_read_to_its_end() {
    let daemon = daemon();
    let enabled = "/sys/kernel/mm/transparent_hugepage/enabled";
    for (id, file) in [("a", "/proc/cpuinfo"), ("b", "/proc/sys/kernel/ostype"), ("c", enabled)] {
        let image = fs::read(file).unwrap();
        let receipt = line(&daemon, &format!("put fast {id} {file} --json")).done().json();
        assert_eq!(receipt["size"], image.len(), "{file}");
        assert!(fs::read(daemon.path(&format!("fast/{id}"))).unwrap() == image, "{file}");
    }
    // What has no bytes is an image all the same, and so is what has nothing but a hole.
    for (id, size) in [("empty", 0), ("hole", 5 << 20)] {
        let path = daemon.path(id);
        fs::File::create(&path).unwrap().set_len(size).unwrap();
        let put = format!("put fast {id} {} --json", path.display());
        let receipt = line(&daemon, &put).done().json();
        assert_eq!((&receipt["size"], &receipt["stored_bytes"]), (&size.into(), &0.into()));
    }
    assert_eq!(line(&daemon, "put fast d /proc/cpuinfo --size 3").code, 1);
    assert!(!daemon.path("fast/d").exists());
}
