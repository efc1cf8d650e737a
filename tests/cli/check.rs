//! `imaged check-config`: what is wrong with a configuration, and which locations no store could serve.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use super::{Ran, finish};
use crate::harness::daemon::{Daemon, IMAGED};

const CONFIG: &str = "\
[DEFAULT]
enabled_backends = fast:file, memory:mem
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
imaged_also_directories = {dir}/cheap
";

/// A directory with a configuration and its directories.
fn home(config: &str) -> tempfile::TempDir {
    let home = Daemon::home();
    let text = config.replace("{dir}", &home.path().display().to_string());
    fs::write(home.path().join("conf"), text).unwrap();
    home
}

fn check(home: &Path, words: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(IMAGED);
    command.args(["check-config", "--config-file"]).arg(home.join("conf")).args(words);
    finish(command, input)
}

/// Locations, of which two can be served.
fn locations(home: &Path) -> String {
    let home = home.display();
    format!(
        "file://{home}/fast/one\n\
         \n\
         \t file://{home}/cheap/two \r\n\
         file://{home}/elsewhere/three\n\
         filesystem:///var/lib/glance/images/four\n\
         vsphere://user:secret@host/folder/five\n\
         rbd://fsid/images/six/snap\n\
         mem://other/seven\n\
         eight\n\
         file://nine\n\
         {}\n\
         mem://memory/ten",
        "x".repeat(20_000)
    )
}

#[test]
fn locations_that_no_store_could_serve_are_named_and_counted() {
    let home = home(CONFIG);
    let text = locations(home.path());
    fs::write(home.path().join("uris"), &text).unwrap();
    let file = home.path().join("uris").display().to_string();
    for (words, input) in [(["--locations", &file], ""), (["--locations", "-"], text.as_str())] {
        let ran = check(home.path(), &words, input.as_bytes());
        assert_eq!((ran.code, ran.text()), (1, ""), "{ran:?}");
        for told in [
            "line 4: no store could serve it: location=`file:///".to_owned(),
            "line 5: no store could serve it: location=`filesystem:///var".to_owned(),
            "line 6: no store of this build has locations that begin with `vsphere://`: \
             location=`vsphere://...@host/folder/five`"
                .to_owned(),
            "line 7: no store could serve it: location=`rbd://fsid/images/six/snap`".to_owned(),
            "line 8: no store could serve it: location=`mem://other/seven`".to_owned(),
            "line 9: is no URI such as file:///var/lib/glance/images/ID: location=`eight`"
                .to_owned(),
            "line 10: a file location has an absolute path after file://: location=`file://nine`"
                .to_owned(),
            "line 11: is longer than 8192 bytes: location=`xxx".to_owned(),
            "11 locations: 3 could be served, 5 could not, 3 are no locations\n".to_owned(),
        ] {
            assert!(ran.err.contains(&told), "{told}\n{}", &ran.err[..2000]);
        }
        assert!(!ran.err.contains("secret") && !ran.err.contains("line 1:"), "{}", ran.err);
    }
    let json = check(home.path(), &["--locations", &file, "--json"], b"");
    assert_eq!(json.code, 1);
    let found = json.json();
    let counts = &found["locations"];
    assert_eq!(
        (&counts["served"], &counts["unserved"], &counts["bad"]),
        (&3.into(), &5.into(), &3.into())
    );
    assert_eq!(counts["refused"][0]["line"], 4);
    assert_eq!(counts["refused"][7]["state"], "bad");
    assert_eq!(found["problems"], serde_json::json!([]));
}

#[test]
fn locations_that_can_all_be_served_are_no_failure() {
    let home = home(CONFIG);
    let dir = home.path().display();
    let text = format!("\n\nfile://{dir}/fast/one\nfile://{dir}/cheap/sub/two\n\nmem://memory/x\n");
    let ran = check(home.path(), &["--locations", "-"], text.as_bytes());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("3 locations: 3 could be served, 0 could not"), "{ran:?}");
    let none = check(home.path(), &["--locations", "-", "--json"], b"");
    assert_eq!((none.code, &none.json()["locations"]["served"]), (0, &0.into()));
    let missing = check(home.path(), &["--locations", "/nonexistent/uris"], b"");
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("cannot read `/nonexistent/uris`"), "{missing:?}");
    // What is not text is no location.
    let binary = check(home.path(), &["--locations", "-"], b"file:///\xff\xfe\n\0\n");
    assert_eq!(binary.code, 1);
    assert!(binary.err.contains("line 1: is no UTF-8 text"), "{binary:?}");
    assert!(binary.err.contains("line 2: is no URI"), "{binary:?}");
}

#[test]
fn a_store_that_is_down_is_named_where_it_might_have_served() {
    let home = home(CONFIG);
    fs::remove_dir(home.path().join("fast")).unwrap();
    let at = format!("file://{}/fast/one\n", home.path().display());
    let ran = check(home.path(), &["--locations", "-"], at.as_bytes());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("store `fast` is down: the directory does not exist"), "{ran:?}");
    assert!(
        ran.err.contains("line 1: no store that is up could serve it; store `fast`"),
        "{ran:?}"
    );
    // A configuration that cannot be read has no stores at all.
    fs::write(home.path().join("conf"), "[DEFAULT]\nenabled_backends = a:nfs\n").unwrap();
    let ran = check(home.path(), &["--locations", "-"], at.as_bytes());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no such type of store"), "{ran:?}");
}

#[test]
fn memory_does_not_grow_with_the_locations() {
    let home = home(CONFIG);
    let mut command = Command::new(IMAGED);
    command.args(["check-config", "--json", "--locations", "-", "--config-file"]);
    command.arg(home.path().join("conf"));
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = pipes.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let most = |child: &std::process::Child| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let lines = "file:///nowhere/at/all/00000000-0000-0000-0000-000000000000\n".repeat(1000);
    let mut write = |times: usize| {
        for _ in 0..times {
            stdin.write_all(lines.as_bytes()).unwrap();
        }
    };
    // The pipe holds few of them, so nearly all were read when they were written.
    write(100);
    let before = most(&child);
    write(1000);
    let after = most(&child);
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(after < before + 4096, "{before} KiB before, {after} KiB after a million lines more");
}

#[test]
fn a_time_that_no_clock_tells_is_refused_and_nothing_panics() {
    let most = ["86401", "4294967296", "9223372036854775807", "18446744073709551615"];
    for (section, option) in [
        ("fast", "filesystem_store_timeout"),
        ("imaged", "header_timeout_s"),
        ("imaged", "idle_timeout_s"),
        ("imaged", "stall_timeout_s"),
        ("imaged", "drain_timeout_s"),
        ("ceph", "rados_connect_timeout"),
    ] {
        for value in most {
            let config = CONFIG.replace("memory:mem", "memory:mem, ceph:rbd");
            let config = format!("{config}[ceph]\n[imaged]\n")
                .replace(&format!("[{section}]\n"), &format!("[{section}]\n{option} = {value}\n"));
            let home = home(&config);
            let ran = check(home.path(), &[], b"");
            assert_eq!(ran.code, 1, "{option} = {value}: {ran:?}");
            let told = format!("[{section}] {option}: must be a whole number");
            assert!(ran.err.contains(&told), "{ran:?}");
        }
    }
}

/// Every option that takes a number, at the edges of what a number can be.
#[test]
fn numbers_at_the_edge_are_taken_or_refused_and_nothing_panics() {
    let edges = ["-9223372036854775809", "-9223372036854775808", "-1", "0", "1", "4294967295"];
    let more =
        ["4294967296", "9223372036854775807", "18446744073709551615", "18446744073709551616"];
    for (section, option) in [
        ("fast", "weight"),
        ("fast", "filesystem_store_file_perm"),
        ("fast", "filesystem_store_chunk_size"),
        ("fast", "filesystem_store_timeout"),
        ("fast", "filesystem_store_thread_pool_size"),
        ("memory", "mem_capacity"),
        ("memory", "weight"),
        ("imaged", "socket_mode"),
        ("imaged", "connection_limit"),
        ("imaged", "header_timeout_s"),
        ("imaged", "idle_timeout_s"),
        ("imaged", "stall_timeout_s"),
        ("imaged", "drain_timeout_s"),
        ("imaged", "put_window_mib"),
        ("imaged", "get_window_kib"),
        ("imaged", "total_window_mib"),
        ("imaged", "digest_threads"),
    ] {
        for value in edges.into_iter().chain(more) {
            let config = format!("{CONFIG}[memory]\n[imaged]\n")
                .replace(&format!("[{section}]\n"), &format!("[{section}]\n{option} = {value}\n"));
            let home = home(&config);
            let ran = check(home.path(), &[], b"");
            assert!(matches!(ran.code, 0 | 1), "{option} = {value}: {ran:?}");
            assert!(!ran.err.contains("panicked"), "{option} = {value}: {ran:?}");
            assert_eq!(ran.code == 1, ran.err.contains(option), "{option} = {value}: {ran:?}");
        }
    }
}
