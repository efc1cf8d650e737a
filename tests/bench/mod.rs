//! `imaged bench` against a real daemon, and the comparison with the peer, small: that they measure
//! and clean up. How fast anything is depends on the machine, and fails no test.

use std::{
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::daemon::{Daemon, IMAGED, STORES};

fn bench(daemon: &Daemon, words: &str) -> Command {
    let mut command = Command::new(IMAGED);
    command.arg("bench").args(words.split_whitespace()).env("IMAGED_SOCKET", &daemon.socket);
    command
}

/// Runs it to its end: exit code, standard output, standard error.
fn ran(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn document(daemon: &Daemon, words: &str) -> Value {
    let (code, out, err) = ran(bench(daemon, &format!("{words} --json")));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn every_kind_of_request_is_measured_and_nothing_is_left() {
    let daemon = Daemon::start(STORES);
    for how in ["--zeros 0.5", "--descriptor --hash-algo sha256"] {
        let report = document(&daemon, &format!("fast --size 5MiB --count 3 --jobs 2 {how}"));
        assert_eq!(
            (&report["store"]["type"], &report["load"]["count"]),
            (&"file".into(), &3.into())
        );
        let ops: Vec<_> = report["ops"].as_array().unwrap().iter().collect();
        let names: Vec<_> = ops.iter().map(|op| op["op"].as_str().unwrap()).collect();
        assert_eq!(names, ["put", "get", "stat", "delete"]);
        for op in ops {
            assert_eq!(op["errors"], 0, "{op}");
            assert!(op["latency_ms"]["p99"].as_f64() > Some(0.0), "{op}");
            assert!(op["rss"]["peak_bytes"].as_u64() > Some(1 << 20), "{op}");
        }
        assert_eq!(report["ops"][2]["requests"], 3 * 200);
        let ceilings = &report["ceilings"];
        for stage in ["disk_write", "disk_read", "digests_at_once", "socket"] {
            assert!(ceilings[stage]["mb_per_s"].as_f64() > Some(0.0), "{stage}: {ceilings}");
        }
        assert!(report["ops"][0]["stages"].as_array().is_some_and(|all| all.len() > 1));
        daemon.assert_empty();
    }
    // A store without a directory has no disk to compare with.
    let report = document(&daemon, "small --size 1MiB --count 1 --ops put");
    assert_eq!(report["ceilings"]["disk_write"], Value::Null);
    assert_eq!(report["ops"].as_array().unwrap().len(), 1);
}

#[test]
fn sparse_images_are_read_without_their_holes_where_the_store_knows_of_them() {
    let daemon = Daemon::start(STORES);
    let words = "--size 3MiB --count 2 --zeros 0.75 --block 1MiB --ops get --extents";
    for (store, note) in [("fast", None), ("small", Some("knows of no holes"))] {
        let report = document(&daemon, &format!("{store} {words}"));
        let load = &report["load"];
        assert_eq!((&load["extents"], &load["block"]), (&true.into(), &(1 << 20).into()));
        let get = &report["ops"][0];
        assert_eq!((&get["errors"], &get["bytes"]), (&0.into(), &(6 << 20).into()), "{report}");
        let notes = report["notes"].to_string();
        assert_eq!(notes.contains("holes"), note.is_some(), "{store}: {notes}");
        assert!(note.is_none_or(|note| notes.contains(note)), "{store}: {notes}");
    }
    // A descriptor goes before extents, as of every reader that takes both.
    let report = document(&daemon, &format!("fast {words} --descriptor"));
    assert_eq!((&report["ops"][0]["errors"], &report["notes"]), (&0.into(), &Value::Array(vec![])));
    daemon.assert_empty();
}

#[test]
fn digests_that_images_do_not_get_are_no_ceiling() {
    let daemon = Daemon::start(&format!("{STORES}[imaged]\nchecksum = none\n"));
    let report = document(&daemon, "fast --size 1MiB --count 1 --ops put");
    assert_eq!(report["load"]["md5"], false);
    let digests = report["ceilings"]["digests"].as_array().unwrap();
    let names: Vec<_> = digests.iter().map(|digest| digest["algo"].as_str().unwrap()).collect();
    assert_eq!(names, ["sha512"]);
}

#[test]
fn people_get_a_table_and_a_page_that_needs_nothing_else() {
    let daemon = Daemon::start(STORES);
    let page = daemon.path("report.html");
    let words = format!("fast --size 2MiB --count 2 --report {}", page.display());
    let (code, out, err) = ran(bench(&daemon, &words));
    assert_eq!(code, 0, "{err}");
    for part in ["p50", "RSS peak", "each stage alone", "reached of", "md5, one thread"] {
        assert!(out.contains(part), "{part}\n{out}");
    }
    assert!(err.contains("put: 2 of 2 MiB"), "{err}");
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<svg"), "{html}");
    for fetched in ["src=", "@import", "url(", "<link"] {
        assert!(!html.contains(fetched), "{fetched}: the page would need something else");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_a_byte_is_written() {
    let daemon = Daemon::start(STORES);
    for (words, code, what) in [
        ("nowhere", 4, "no such store"),
        ("small --size 1GiB", 2, "too little"),
        ("fast --zeros 2", 2, "--zeros"),
        ("fast --zeros 0.5 --block 1", 2, "--block"),
        ("fast --block 1MiB", 2, "--zeros"),
        ("fast --size 0", 2, "--size"),
        ("fast --size many", 2, "unknown unit"),
        ("fast --report /nonexistent/report.html", 2, "/nonexistent/report.html"),
        ("fast --socket /nonexistent/socket", 3, "/nonexistent/socket"),
    ] {
        let (ended, out, err) = ran(bench(&daemon, words));
        assert_eq!(ended, code, "{words}: {out}{err}");
        assert!(err.contains(what), "{words}: {err}");
    }
    daemon.assert_empty();
}

/// Starts one that will not end by itself soon, and waits until it has stored something.
fn under_way(daemon: &Daemon) -> Child {
    let mut long = bench(daemon, "fast --size 1MiB --count 1000 --jobs 2");
    let child = long.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    daemon.wait_until("an image is stored", |daemon| !daemon.files("fast").is_empty());
    child
}

#[test]
fn a_signal_ends_it_and_removes_its_images() {
    let daemon = Daemon::start(STORES);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let child = under_way(&daemon);
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let ended = thread::spawn(|| child.wait_with_output().unwrap()).join().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{err}");
        assert!(err.contains("no image is left"), "{err}");
        daemon.wait_until_idle();
        daemon.assert_empty();
    }
}

/// Runs a comparison, small and once.
fn compared(script: &str, words: &str, figures: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = ran({
        let mut command = Command::new(script);
        command.args(words.split_whitespace()).args(["--imaged", IMAGED, "--dir"]).arg(dir.path());
        command
    });
    assert_eq!(code, 0, "{err}");
    for figure in figures {
        assert!(out.contains(figure), "{figure}\n{out}");
    }
    assert!(!out.contains("non-zero exit status"), "{out}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn the_comparison_with_glance_store_on_files_runs() {
    let figures = [
        "beside glance_store",
        "by descriptor",
        "as extents",
        "--no-verify",
        "sha256 alone",
        "0 errors",
        "resident memory",
    ];
    compared("tests/bench/file.py", "--size 8 --sparse 40 --rounds 1", &figures);
}

#[test]
fn the_comparison_with_glance_store_on_ceph_runs() {
    let figures = [
        "| imaged, by descriptor |",
        "| imaged, by descriptor, sha256 alone |",
        "| imaged, as extents |",
        "| imaged, Python's client |",
        "| imaged get --no-verify, to a file |",
        "| glance_store |",
        "not seen before",
    ];
    compared("tests/bench/rbd.py", "--size 16 --sparse 40 --runs 1", &figures);
}
