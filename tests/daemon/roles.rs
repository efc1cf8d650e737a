//! Who may do what, by the credentials of the process that calls.

use std::{os::unix::process::CommandExt as _, process::Command};

use crate::harness::daemon::{Daemon, STORES};

/// A user without rights, as Debian numbers it.
const NOBODY: u32 = 65534;

/// The status that a request by `nobody` gets, and its body.
fn as_nobody(daemon: &Daemon, method: &str, path: &str) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-w", "%{http_code}", "-X", method, "--unix-socket"])
        .arg(&daemon.socket)
        .arg(format!("http://imaged{path}"))
        .uid(NOBODY)
        .gid(NOBODY);
    if method == "HEAD" {
        curl.arg("-I");
    }
    if method == "PUT" {
        curl.args(["-d", "x"]);
    }
    if method == "POST" {
        curl.args(["-d", r#"{"source":{"location":"mem://small/x"}}"#]);
    }
    let output = curl.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.split_at(text.len() - 3);
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn each_role_may_do_its_part_and_no_more() {
    let image = "/v1/stores/small/images/x";
    let other = "/v1/stores/small/images/y";
    // What each request gets once it is allowed, in an order in which each finds what it needs.
    let requests = [
        ("GET", "/healthz", 0, 200),
        ("GET", "/v1/stores", 1, 200),
        ("GET", "/metrics", 1, 200),
        ("GET", "/v1/stores/small/images", 1, 200),
        ("HEAD", image, 1, 200),
        ("GET", "/v1/jobs", 1, 200),
        ("GET", image, 2, 200),
        ("POST", other, 3, 201),
        ("PUT", "/v1/stores/small/images/z", 3, 201),
        ("DELETE", image, 4, 204),
    ];
    for (rank, grant) in
        ["", "nobody:reader", "%nogroup:service", "65534:member", "%65534:admin"].iter().enumerate()
    {
        let config =
            format!("{STORES}[imaged]\nsocket_mode = 0666\nroles = root:reader, {grant}\n");
        let config = config.replace(", \n", "\n");
        let daemon = Daemon::start(&config);
        daemon.put("small", "x", b"x");
        for (method, path, least, granted) in requests {
            let (status, body) = as_nobody(&daemon, method, path);
            let expected = if rank >= least { granted } else { 403 };
            assert_eq!(status, expected, "{grant}: {method} {path}: {body}");
            if status == 403 && method != "HEAD" {
                let role = ["", "reader", "service", "member", "admin"][least];
                // A copy from a location takes more than a copy from a volume.
                let role = if method == "POST" && rank < 2 { "service" } else { role };
                let line = format!(":{role}`: uid=`65534`");
                assert!(body.contains(&line), "{grant}: {method} {path}: {body}");
            }
        }
    }
}

#[test]
fn the_socket_has_the_mode_and_group_that_were_asked_for() {
    use std::os::unix::fs::MetadataExt as _;
    let config = format!("{STORES}[imaged]\nsocket_mode = 0620\nsocket_group = nogroup\n");
    let daemon = Daemon::start(&config);
    let meta = std::fs::metadata(&daemon.socket).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.gid()), (0o620, 65534));
}
