//! kill -9 at every named point of a put: the image is whole or absent, and the id is free.

use std::{fs::File, os::fd::AsFd as _};

use imaged::point::POINTS;

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
};

#[derive(Clone, Copy, Debug)]
enum How {
    Known,
    Unknown,
    Descriptor,
}

fn put(daemon: &Daemon, how: How, image: &[u8]) {
    let mut raw = Raw::connect(&daemon.socket);
    let path = "/v1/stores/fast/images/x";
    match how {
        How::Known => {
            raw.head("PUT", path, &format!("content-length: {}\r\n", image.len()));
            // The daemon dies in the middle of this.
            let _sent = std::io::Write::write_all(&mut raw.stream, image);
        }
        How::Unknown => {
            raw.head("PUT", path, "transfer-encoding: chunked\r\n");
            let mut body = format!("{:x}\r\n", image.len()).into_bytes();
            body.extend_from_slice(image);
            body.extend_from_slice(b"\r\n0\r\n\r\n");
            let _sent = std::io::Write::write_all(&mut raw.stream, &body);
        }
        How::Descriptor => {
            let file = File::open(daemon.path("image")).unwrap();
            let headers = "imaged-body: fd\r\ncontent-length: 0\r\n";
            raw.head_with("PUT", path, headers, &[file.as_fd()]);
        }
    }
    assert!(raw.read_head().is_none(), "the daemon answered before it died");
}

#[test]
fn a_daemon_killed_at_any_point_of_a_put_leaves_the_image_whole_or_absent() {
    let image = noise((9 << 20) + 11, 8);
    for how in [How::Known, How::Unknown, How::Descriptor] {
        for point in POINTS {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("fast")).unwrap();
            std::fs::create_dir(dir.path().join("cheap")).unwrap();
            std::fs::write(dir.path().join("image"), &image).unwrap();
            let mut daemon = Daemon::start_in(dir, STORES, &[("IMAGED_KILL_AT", point)]);
            put(&daemon, how, &image);
            assert!(!daemon.wait().success());
            let daemon = daemon.restart(&[]);
            daemon.wait_until_idle();
            let found = daemon.get("fast", "x");
            let committed = matches!(point, "put-committed" | "put-cleared");
            assert_eq!(found.status, if committed { 200 } else { 404 }, "{how:?} {point}");
            if committed {
                assert!(found.body == image, "{how:?} {point}");
                assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/x").status, 204);
            }
            daemon.assert_empty();
            assert_eq!(daemon.put("fast", "x", b"again").status, 201, "{how:?} {point}");
        }
    }
}

#[test]
fn a_daemon_killed_again_while_it_recovers_recovers_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("fast")).unwrap();
    std::fs::create_dir(dir.path().join("cheap")).unwrap();
    let mut daemon = Daemon::start_in(dir, STORES, &[("IMAGED_KILL_AT", "put-written")]);
    let image = noise(5 << 20, 9);
    put(&daemon, How::Known, &image);
    daemon.wait();
    let mut daemon = daemon.restart(&[]);
    daemon.kill();
    let daemon = daemon.restart(&[]);
    daemon.wait_until_idle();
    daemon.assert_empty();
}
