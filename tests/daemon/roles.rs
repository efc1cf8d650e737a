//! Who may do what, by the credentials of the process that calls.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;

use crate::harness::{
    daemon::{Daemon, STORES},
    raw::ask_as,
};

/// A user without rights, as Debian numbers it.
const NOBODY: u32 = 65534;

/// The status that a request by `nobody` gets, and its body.
fn as_nobody(daemon: &Daemon, method: &str, path: &str) -> (u16, String) {
    let body = match method {
        "PUT" => "x",
        "POST" => r#"{"source":{"location":"mem://small/x"}}"#,
        _ => "",
    };
    ask_as(&daemon.socket, NOBODY, method, path, body.as_bytes())
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

/// Sends a request for each line of its input, all on one connection, and prints each status.
const KEPT: &str = "
import http.client, socket, sys
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
kept = Unix('imaged')
for line in sys.stdin:
    kept.request(*line.split())
    answer = kept.getresponse()
    answer.read()
    print(answer.status, flush=True)
";

#[test]
fn a_role_that_is_taken_away_is_gone_on_kept_connections_too() {
    let config = format!("{STORES}[imaged]\nsocket_mode = 0666\nroles = nobody:admin\n");
    let daemon = Daemon::start(&config);
    let mut nobody = Command::new("python3")
        .args(["-c", KEPT])
        .arg(&daemon.socket)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, from) = (nobody.stdin.take().unwrap(), nobody.stdout.take().unwrap());
    let mut from = BufReader::new(from).lines();
    let mut ask = |to: &mut std::process::ChildStdin, line: &str| {
        writeln!(to, "{line}").unwrap();
        from.next().unwrap().unwrap()
    };
    assert_eq!(ask(&mut to, "GET /v1/stores"), "200");
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    fs::write(daemon.path("conf"), conf.replace("nobody:admin", "nobody:reader")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("configuration reloaded");
    assert_eq!(ask(&mut to, "GET /v1/stores"), "200");
    assert_eq!(ask(&mut to, "DELETE /v1/stores/small/images/x"), "403");
    drop(to);
    nobody.wait().unwrap();
}

#[test]
fn the_socket_has_the_mode_and_group_that_were_asked_for() {
    use std::os::unix::fs::MetadataExt as _;
    let config = format!("{STORES}[imaged]\nsocket_mode = 0620\nsocket_group = nogroup\n");
    let daemon = Daemon::start(&config);
    let meta = fs::metadata(&daemon.socket).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.gid()), (0o620, 65534));
}

/// Name services that fail for as long as the file that `$BROKEN` names is there.
const BROKEN_NAMES: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

int getpwuid_r(uid_t uid, struct passwd *room, char *text, size_t size, struct passwd **found) {
    int (*real)(uid_t, struct passwd *, char *, size_t, struct passwd **) =
        dlsym(RTLD_NEXT, "getpwuid_r");
    if (access(getenv("BROKEN"), F_OK) == 0) {
        *found = NULL;
        return errno = EIO;
    }
    return real(uid, room, text, size, found);
}
"#;

#[test]
fn a_name_service_that_fails_takes_nobodys_role_away() {
    let home = Daemon::home();
    let (source, library) = (home.path().join("names.c"), home.path().join("names.so"));
    fs::write(&source, BROKEN_NAMES).unwrap();
    let mut build = Command::new("cc");
    build.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
    assert!(build.status().unwrap().success());
    let broken = home.path().join("broken");
    fs::write(&broken, "").unwrap();
    let config =
        format!("{STORES}[imaged]\nsocket_mode = 0666\nroles = nobody:admin, %65534:reader\n");
    let env = [("LD_PRELOAD", library.to_str().unwrap()), ("BROKEN", broken.to_str().unwrap())];
    let daemon = Daemon::start_in(home, &config, &env);
    let mut nobody = Command::new("python3")
        .args(["-c", KEPT])
        .arg(&daemon.socket)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, from) = (nobody.stdin.take().unwrap(), nobody.stdout.take().unwrap());
    let mut from = BufReader::new(from).lines();
    let mut ask = |line: &str| {
        writeln!(to, "{line}").unwrap();
        from.next().unwrap().unwrap()
    };
    assert_eq!(ask("GET /healthz"), "200");
    assert_eq!(ask("GET /v1/stores"), "200", "a grant by number needs no name");
    assert_eq!(ask("DELETE /v1/stores/small/images/x"), "503", "not 403: nobody knows");
    assert_eq!(ask("DELETE /v1/stores/small/images/x"), "503");
    fs::remove_file(&broken).unwrap();
    assert_eq!(ask("DELETE /v1/stores/small/images/x"), "404", "on the same connection");
    drop(to);
    nobody.wait().unwrap();
}
