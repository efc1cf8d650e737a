//! Callers that are slow, many, large or odd.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
};

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
};

fn limits(lines: &str) -> String {
    format!("{STORES}[imaged]\n{lines}")
}

#[test]
fn a_head_that_trickles_in_is_cut_off_and_an_idle_connection_is_not() {
    let daemon = Daemon::start(&limits("header_timeout_s = 1\nidle_timeout_s = 3\n"));
    let mut idle = Raw::connect(&daemon.socket);
    idle.head("GET", "/healthz", "");
    assert_eq!(idle.answer("GET").status, 200);
    let mut slow = Raw::connect(&daemon.socket);
    slow.send(b"GET /healthz HT");
    assert!(slow.is_closed(), "after header_timeout_s");
    // Longer idle than a head may take, and still served.
    idle.head("GET", "/healthz", "");
    assert_eq!(idle.answer("GET").status, 200);
    assert!(idle.is_closed(), "after idle_timeout_s");
}

#[test]
fn a_reader_that_stops_reading_is_cut_off_and_others_are_served() {
    let daemon = Daemon::start(&limits("stall_timeout_s = 1\n"));
    let image = noise(32 << 20, 1);
    daemon.put("fast", "x", &image);
    let mut stuck = Raw::connect(&daemon.socket);
    stuck.head("GET", "/v1/stores/fast/images/x", "");
    assert!(daemon.get("fast", "x").body == image);
    daemon.wait_for_log("the caller left before the end of the image");
    let mut rest = Vec::new();
    let _reset = stuck.stream.read_to_end(&mut rest);
    assert!(rest.len() < image.len(), "a short body is the error");
}

#[test]
fn a_caller_that_has_finished_writing_still_gets_its_answer() {
    let daemon = Daemon::start(STORES);
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", "/v1/stores/fast/images/x", "content-length: 3\r\n");
    raw.send(b"abc");
    raw.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(raw.answer("PUT").status, 201);
    // But not one that has finished before its body was whole.
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", "/v1/stores/fast/images/y", "transfer-encoding: chunked\r\n");
    raw.chunk(b"abc");
    raw.stream.shutdown(Shutdown::Write).unwrap();
    let _refused = raw.read_head();
    daemon.wait_until_idle();
    assert_eq!(daemon.files("fast"), ["x"]);
}

#[test]
fn heads_too_large_or_unreadable_are_refused() {
    let daemon = Daemon::start(STORES);
    let mut raw = Raw::connect(&daemon.socket);
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    raw.head("GET", "/healthz", &many);
    assert_eq!(raw.read_head().unwrap().0, 431);
    let mut raw = Raw::connect(&daemon.socket);
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(2 << 20));
    let _refused = raw.stream.write_all(long.as_bytes());
    let status = raw.read_head().map(|head| head.0);
    assert!(matches!(status, Some(414 | 431) | None), "{status:?}");
    let mut raw = Raw::connect(&daemon.socket);
    raw.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n");
    assert_eq!(raw.read_head().unwrap().0, 400);
    assert_eq!(daemon.ask("GET", "/healthz").status, 200);
}

#[test]
fn five_hundred_readers_at_once_are_served() {
    let daemon = Daemon::start(STORES);
    let image = noise(1 << 20, 2);
    daemon.put("fast", "x", &image);
    // All of them are connected and have asked before the first is read.
    let mut readers: Vec<_> = (0..500)
        .map(|_| {
            let mut raw = Raw::connect(&daemon.socket);
            raw.head("GET", "/v1/stores/fast/images/x", "");
            raw
        })
        .collect();
    thread::scope(|scope| {
        for some in readers.chunks_mut(50) {
            scope.spawn(|| {
                for raw in some {
                    let answer = raw.answer("GET");
                    assert!(
                        answer.status == 200 && answer.body == image,
                        "{} {:?}",
                        answer.status,
                        answer.headers
                    );
                }
            });
        }
    });
}

#[test]
fn a_crowd_of_slow_callers_holds_little_and_keeps_nobody_waiting() {
    const EACH: u64 = 50;
    let lines = "total_window_mib = 64\nstall_timeout_s = 20\n";
    let daemon = Daemon::start(&limits(lines));
    let image = noise(6 << 20, 3);
    daemon.put("fast", "x", &image);
    let mut slow = Vec::new();
    for n in 0..EACH {
        let mut raw = Raw::connect(&daemon.socket);
        let target = format!("/v1/stores/fast/images/slow-{n}");
        raw.head("PUT", &target, "transfer-encoding: chunked\r\n");
        raw.chunk(b"some");
        let mut reader = Raw::connect(&daemon.socket);
        reader.head("GET", "/v1/stores/fast/images/x", "");
        reader.wait_for(1);
        slow.push((raw, reader));
    }
    // An upload has its minimum, which of 64 MiB for 1024 connections is 32 KiB; a reader has more than
    // that while the socket takes it, at most its window.
    daemon.wait_until("each of them has its memory", |d| d.held_memory() >= 2 * EACH * (32 << 10));
    assert!(daemon.held_memory() <= EACH * ((32 << 10) + (512 << 10)), "{}", daemon.held_memory());
    for n in 0..5 {
        assert_eq!(daemon.put("fast", &format!("y-{n}"), &image).status, 201);
        assert_eq!(daemon.get("fast", &format!("y-{n}")).body, image);
    }
    for (mut raw, reader) in slow {
        raw.chunk(b"more");
        drop(reader);
    }
    daemon.wait_until("all memory is back", |d| d.held_memory() == 0);
}

/// A connection that is served, unless there are too many.
fn admitted(daemon: &Daemon) -> Option<Raw> {
    let mut raw = Raw::connect(&daemon.socket);
    let sent = raw.stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").is_ok();
    (sent && raw.read_head()?.0 == 200).then_some(raw)
}

#[test]
fn one_caller_too_many_is_told_so() {
    let daemon = Daemon::start(&limits("connection_limit = 3\nconnection_limit_per_user = 3\n"));
    // Those who asked whether it is up may not quite be gone.
    let mut held = Vec::new();
    daemon.wait_until("three callers are served", |d| {
        held.extend(admitted(d));
        held.len() == 3
    });
    let mut raw = Raw::connect(&daemon.socket);
    let (status, headers) = raw.read_head().unwrap();
    assert_eq!((status, headers["connection"].as_str()), (503, "close"));
    drop(held);
    daemon.wait_until("there is room again", |d| admitted(d).is_some());
}

/// Opens so many connections as `nobody`, says how many were not turned away, and keeps them.
const CROWD: &str = r#"
import socket, sys
kept = []
for _ in range(int(sys.argv[2])):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(60)
    one.connect(sys.argv[1])
    try:
        one.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    except BrokenPipeError:
        pass  # turned away already, and told so
    answer = one.recv(1 << 16)
    if answer.startswith(b"HTTP/1.1 200"):
        kept.append(one)
    else:
        assert b"connection_limit_per_user" in answer, answer
print(len(kept), flush=True)
sys.stdin.read()
"#;

#[test]
fn one_user_cannot_hold_every_connection() {
    for (lines, most) in [("", 4), ("connection_limit_per_user = 6\n", 6)] {
        let lines = format!("socket_mode = 0666\nconnection_limit = 8\n{lines}");
        let daemon = Daemon::start(&limits(&lines));
        let mut crowd = Command::new("python3")
            .args(["-c", CROWD])
            .arg(&daemon.socket)
            .arg("12")
            .uid(65534)
            .gid(65534)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut kept = String::new();
        BufReader::new(crowd.stdout.take().unwrap()).read_line(&mut kept).unwrap();
        assert_eq!(kept.trim().parse(), Ok(most));
        assert_eq!(daemon.put("fast", "x", b"image").status, 201, "others are served");
        drop(crowd.stdin.take());
        crowd.wait().unwrap();
    }
}

/// A connection in some state in which its caller does nothing more.
type State = fn(&mut Raw);

/// The states that a caller can leave a connection in, for ever if it were up to the caller.
const STATES: [(&str, State); 12] = [
    ("connected", |_| ()),
    ("in a head", |raw| raw.send(b"GET /healthz HT")),
    ("between two requests", |raw| {
        raw.head("GET", "/healthz", "");
        assert_eq!(raw.answer("GET").status, 200);
    }),
    ("in the second head", |raw| {
        raw.head("GET", "/healthz", "");
        assert_eq!(raw.answer("GET").status, 200);
        raw.send(b"GET");
    }),
    ("before the body of an image", |raw| {
        raw.head("PUT", "/v1/stores/fast/images/a", "content-length: 9\r\n");
    }),
    ("in the body of an image", |raw| {
        raw.head("PUT", "/v1/stores/fast/images/b", "transfer-encoding: chunked\r\n");
        raw.chunk(b"some");
    }),
    ("asked to go on", |raw| {
        let headers = "content-length: 9\r\nexpect: 100-continue\r\n";
        raw.head("PUT", "/v1/stores/fast/images/c", headers);
        assert_eq!(raw.read_head().unwrap().0, 100);
    }),
    ("before the body of a copy", |raw| {
        raw.head("POST", "/v1/stores/fast/images/d", "content-length: 9\r\n");
    }),
    ("in the body of a copy", |raw| {
        raw.head("POST", "/v1/stores/fast/images/e", "transfer-encoding: chunked\r\n");
        raw.chunk(b"{");
    }),
    ("in a body that nobody wants", |raw| {
        raw.head("GET", "/v1/stores", "content-length: 9\r\n");
    }),
    ("in the body of a refused request", |raw| {
        raw.head("PUT", "/v1/stores/none/images/f", "content-length: 9\r\n");
    }),
    ("with an image to read", |raw| raw.head("GET", "/v1/stores/fast/images/large", "")),
];

#[test]
fn every_state_of_a_connection_has_a_deadline() {
    let lines = "header_timeout_s = 1\nidle_timeout_s = 1\nstall_timeout_s = 1\n";
    let daemon = Daemon::start(&limits(lines));
    daemon.put("fast", "large", &noise(32 << 20, 1));
    let left: Vec<_> = STATES
        .iter()
        .map(|(name, leave)| {
            let mut raw = Raw::connect(&daemon.socket);
            leave(&mut raw);
            (name, raw)
        })
        .collect();
    // Only the one who asks is connected then.
    daemon.wait_until("all of them were ended", |daemon| {
        let metrics = String::from_utf8(daemon.ask("GET", "/metrics").body).unwrap();
        metrics.contains("\nimaged_connections 1\n")
    });
    for (name, mut raw) in left {
        let mut rest = Vec::new();
        let ended = raw.stream.read_to_end(&mut rest);
        assert!(ended.is_ok() || !rest.is_empty() || *name == "connected", "{name}: {ended:?}");
    }
    daemon.wait_until_idle();
    assert_eq!(daemon.files("fast"), ["large"]);
}

#[test]
fn a_copys_body_that_trickles_in_is_given_up() {
    let daemon = Daemon::start(&limits("header_timeout_s = 1\n"));
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("POST", "/v1/stores/fast/images/x", "content-length: 60000\r\n");
    thread::scope(|scope| {
        let mut drip = raw.stream.try_clone().unwrap();
        scope.spawn(move || while drip.write_all(b" ").is_ok() {});
        let answer = raw.answer("POST");
        let code = answer.code();
        // Unless the machine was so fast that all of it came, which then is no JSON.
        assert!(matches!(code.as_str(), "Timeout" | "Invalid"), "{answer:?}");
        raw.stream.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn a_daemon_that_stops_waits_for_no_body() {
    let mut daemon = Daemon::start(&limits("drain_timeout_s = 0\n"));
    daemon.put("fast", "large", &noise(32 << 20, 1));
    let mut left: Vec<_> = STATES
        .iter()
        .map(|(_, leave)| {
            let mut raw = Raw::connect(&daemon.socket);
            leave(&mut raw);
            raw
        })
        .collect();
    let mut copy = Raw::connect(&daemon.socket);
    let headers = "content-length: 9\r\nexpect: 100-continue\r\n";
    copy.head("POST", "/v1/stores/fast/images/x", headers);
    let mut upload = Raw::connect(&daemon.socket);
    upload.head("PUT", "/v1/stores/fast/images/y", headers);
    for raw in [&mut copy, &mut upload] {
        assert_eq!(raw.read_head().unwrap().0, 100, "it is under way");
    }
    daemon.stop();
    // Whoever was changing something is told.
    for (method, raw) in [("POST", &mut copy), ("PUT", &mut upload)] {
        let answer = raw.answer(method);
        assert_eq!((answer.status, answer.code()), (503, "Unavailable".to_owned()), "{method}");
    }
    left.clear();
    assert_eq!(daemon.files("fast"), ["large"]);
    assert_eq!(daemon.files("state/journal"), [""; 0]);
}

#[test]
fn a_window_of_any_size_gives_an_image_with_holes_as_it_is() {
    let daemon = Daemon::start(&limits("get_window_kib = 65536\n"));
    let path = daemon.path("fast/x");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(100 << 20).unwrap();
    // Holes of many lengths, the last after data.
    for (n, at) in [0_u64, 13 << 20, 50 << 20, 80 << 20].into_iter().enumerate() {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(1 << 20, n as u64), at).unwrap();
    }
    let got = daemon.get("fast", "x");
    assert_eq!((got.status, got.whole), (200, true));
    assert!(got.body == std::fs::read(&path).unwrap(), "{} bytes", got.body.len());
}

#[test]
fn memory_stays_within_its_windows_whatever_the_size() {
    let daemon = Daemon::start(&limits("put_window_mib = 16\ntotal_window_mib = 64\n"));
    let peak = |d: &Daemon| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", d.pid())).unwrap();
        let told = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
        };
        // Without the pages of the program itself, which the system has on disk.
        told("VmHWM:") - told("RssFile:")
    };
    assert!(peak(&daemon) < 30 << 20, "idle: {}", peak(&daemon));
    let path = daemon.path("sparse");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(5 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(8 << 20, 1), 9 << 29).unwrap();
    let mut raw = Raw::connect(&daemon.socket);
    let file = std::fs::File::open(&path).unwrap();
    let headers = "imaged-body: fd\r\ncontent-length: 0\r\n";
    let fd = std::os::fd::AsFd::as_fd(&file);
    raw.stream.set_read_timeout(None).unwrap();
    raw.head_with("PUT", "/v1/stores/fast/images/x?hash_algo=sha256", headers, &[fd]);
    let receipt = raw.answer("PUT").json();
    assert_eq!(receipt["size"], 5_u64 << 30);
    assert_eq!(receipt["stored_bytes"], 8 << 20, "holes stay holes");
    raw.head("GET", "/v1/stores/fast/images/x", "");
    assert_eq!(raw.read_head().unwrap().0, 200);
    let mut room = vec![0; 1 << 20];
    let mut left = 5_u64 << 30;
    while left > 0 {
        let got = raw.stream.read(&mut room).unwrap();
        assert_ne!(got, 0, "{left} bytes are missing");
        left = left.saturating_sub(got as u64);
        if left < 1 << 20 {
            break; // what came with the head was not counted
        }
    }
    assert!(peak(&daemon) < (30 << 20) + (64 << 20), "{}", peak(&daemon));
}
