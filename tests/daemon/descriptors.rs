//! Bodies by file descriptor, in both directions.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::{
        fd::AsFd as _,
        unix::{fs::FileExt as _, net::UnixStream},
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
};

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
    stores::plain::Plain,
};

const FD: &str = "imaged-body: fd\r\ncontent-length: 0\r\n";

fn open_descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[test]
fn files_are_stored_from_their_offset_to_their_end() {
    let daemon = Daemon::start(STORES);
    let image = noise(9 << 20, 5);
    let path = daemon.path("image");
    fs::write(&path, &image).unwrap();
    let before = open_descriptors(&daemon);
    let mut raw = Raw::connect(&daemon.socket);
    for (n, offset) in [0_usize, 1, 4096, 4_194_305, image.len()].into_iter().enumerate() {
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(offset as u64)).unwrap();
        raw.head_with("PUT", &format!("/v1/stores/fast/images/f{n}"), FD, &[file.as_fd()]);
        let answer = raw.answer("PUT");
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(fs::read(daemon.path(&format!("fast/f{n}"))).unwrap() == image[offset..]);
        assert_eq!(file.stream_position().unwrap(), offset as u64, "the offset is the caller's");
        // Requests of both kinds share the connection.
        raw.head("PUT", &format!("/v1/stores/fast/images/i{n}"), "content-length: 3\r\n");
        raw.send(b"abc");
        assert_eq!(raw.answer("PUT").status, 201);
    }
    drop(raw);
    daemon.wait_until("descriptors are closed", |d| open_descriptors(d) <= before);
}

#[test]
fn a_head_in_pieces_still_finds_its_descriptor() {
    let daemon = Daemon::start(STORES);
    let path = daemon.path("image");
    fs::write(&path, b"piecemeal").unwrap();
    let file = File::open(&path).unwrap();
    let head = format!("PUT /v1/stores/fast/images/x HTTP/1.1\r\nhost: x\r\n{FD}\r\n");
    for with in [0, 1] {
        let mut raw = Raw::connect(&daemon.socket);
        for (n, piece) in
            [&head[..1], &head[1..head.len() - 2], &head[head.len() - 2..]].into_iter().enumerate()
        {
            if n == with * 2 {
                raw.send_with(piece.as_bytes(), &[file.as_fd()]);
            } else {
                raw.send(piece.as_bytes());
            }
        }
        assert_eq!(raw.answer("PUT").json()["size"], 9);
        assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/x").status, 204);
    }
}

#[test]
fn what_cannot_be_a_body_is_refused_and_closed() {
    let daemon = Daemon::start(STORES);
    let path = daemon.path("image");
    fs::write(&path, b"image").unwrap();
    let before = open_descriptors(&daemon);
    let image = File::open(&path).unwrap();
    let path_only = open(&path, OFlags::PATH, Mode::empty()).unwrap();
    let write_only = open(&path, OFlags::WRONLY, Mode::empty()).unwrap();
    let directory = File::open(daemon.dir.path()).unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let device = File::open("/dev/zero").unwrap();
    let mut past = File::open(&path).unwrap();
    past.seek(SeekFrom::Start(6)).unwrap();
    let fd = image.as_fd();
    let target = "/v1/stores/fast/images/x";
    for (headers, descriptors, part) in [
        (FD, vec![], "came=`0`"),
        (FD, vec![fd, fd], "came=`2`"),
        (FD, vec![path_only.as_fd()], "not open for reading"),
        (FD, vec![write_only.as_fd()], "not open for reading"),
        (FD, vec![directory.as_fd()], "no regular file: send the bytes as the body"),
        (FD, vec![socket.as_fd()], "no regular file"),
        (FD, vec![pipe.as_fd()], "no regular file"),
        (FD, vec![device.as_fd()], "no regular file"),
        (FD, vec![past.as_fd()], "past the end"),
        ("content-length: 0\r\n", vec![fd], "does not say `Imaged-Body: fd`"),
        ("imaged-body: memory\r\ncontent-length: 0\r\n", vec![fd], "Imaged-Body=`memory`"),
        (
            "imaged-body: fd\r\ncontent-length: 0\r\nx-openstack-image-size: 9\r\n",
            vec![fd],
            "body=`5`",
        ),
    ] {
        let mut raw = Raw::connect(&daemon.socket);
        if descriptors.is_empty() {
            raw.head("PUT", target, headers);
        } else {
            raw.head_with("PUT", target, headers, &descriptors);
        }
        let answer = raw.answer("PUT");
        assert_eq!(answer.code(), "Invalid", "{part}");
        assert!(answer.detail().contains(part), "{part}: {answer:?}");
    }
    let connect = || Raw::connect(&daemon.socket);
    let mut with_bytes = connect();
    with_bytes.head_with("PUT", target, "imaged-body: fd\r\ncontent-length: 3\r\n", &[fd]);
    with_bytes.send(b"abc");
    assert!(with_bytes.answer("PUT").detail().contains("the body is empty"));
    // More than any request can claim: the connection ends.
    let mut many = connect();
    many.send_with(b"P", &[fd; 9]);
    assert!(many.is_closed());
    // With a request that wants none, and in the middle of a body.
    let mut unasked = connect();
    unasked.head_with("GET", "/v1/stores", "", &[fd]);
    assert_eq!(unasked.answer("GET").code(), "Invalid");
    let mut inside = connect();
    inside.head("PUT", "/v1/stores/fast/images/ok", "content-length: 3\r\n");
    inside.send(b"a");
    inside.send_with(b"bc", &[fd]);
    assert_eq!(inside.answer("PUT").status, 201);
    drop((with_bytes, many, unasked, inside));
    daemon.wait_until("descriptors are closed", |d| open_descriptors(d) <= before);
    assert_eq!(daemon.files("fast"), ["ok"]);
}

#[test]
fn a_reader_is_given_the_descriptor_it_can_take() {
    let daemon = Daemon::start(STORES);
    let image = noise(3 << 20, 6);
    daemon.put("fast", "x", &image);
    daemon.put("small", "x", &image);
    let accept = "imaged-accept: fd\r\n";
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/v1/stores/fast/images/x", accept);
    let answer = raw.answer("GET");
    assert_eq!((answer.status, answer.headers["imaged-body"].as_str()), (200, "fd"));
    assert_eq!(answer.headers["imaged-size"], image.len().to_string());
    let descriptors = raw.take_descriptors();
    let [descriptor] = <[_; 1]>::try_from(descriptors).unwrap();
    let mut file = File::from(descriptor);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == image);
    assert!(file.write_at(b"x", 0).is_err(), "it is read-only");
    // A part of it, on the same connection; and a store that has no file to give.
    raw.head("GET", "/v1/stores/fast/images/x", &format!("{accept}range: bytes=7-9\r\n"));
    let answer = raw.answer("GET");
    assert_eq!(answer.status, 206);
    assert_eq!(answer.headers["content-range"], format!("bytes 7-9/{}", image.len()));
    assert_eq!(raw.take_descriptors().len(), 1);
    raw.head("GET", "/v1/stores/small/images/x", accept);
    let answer = raw.answer("GET");
    assert!(answer.body == image && raw.take_descriptors().is_empty());
    // The image stays whole for its reader when it is deleted.
    assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/x").status, 204);
    let mut byte = [0];
    file.read_exact_at(&mut byte, image.len() as u64 - 1).unwrap();
    assert_eq!(byte[0], image[image.len() - 1]);
}

#[test]
fn a_descriptor_beside_a_body_of_bytes_is_closed_at_once() {
    let daemon = Daemon::start(STORES);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut raw = Raw::connect(&daemon.socket);
    let headers = "content-length: 3\r\n";
    raw.head_with("PUT", "/v1/stores/fast/images/x", headers, &[writer.as_fd()]);
    drop(writer);
    let mut polled = [PollFd::new(&reader, PollFlags::IN)];
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut polled, Some(&patience)).unwrap(), 1, "the pipe ends");
    assert!(polled[0].revents().contains(PollFlags::HUP));
    raw.send(b"abc");
    assert_eq!(raw.answer("PUT").status, 201);
}

#[test]
fn an_upload_by_descriptor_is_a_job_that_can_be_cancelled() {
    let daemon = Daemon::start(STORES);
    let mount = tempfile::tempdir().unwrap();
    let plain = Plain::mount(mount.path(), "links");
    fs::write(mount.path().join("image"), vec![7; 5 << 20]).unwrap();
    // What is cached is read without asking the filesystem.
    let image = open(mount.path().join("image"), OFlags::RDONLY, Mode::empty()).unwrap();
    plain.hang("read");
    let mut raw = Raw::connect(&daemon.socket);
    let headers = format!("{FD}x-request-id: watched\r\n");
    raw.head_with("PUT", "/v1/stores/fast/images/x", &headers, &[image.as_fd()]);
    daemon.wait_until("it is read", |d| {
        plain.held() > 0 && d.ask("GET", "/v1/jobs/watched").status == 200
    });
    assert_eq!(daemon.ask("DELETE", "/v1/jobs/watched").status, 204);
    let answer = raw.answer("PUT");
    assert_eq!((answer.status, answer.code()), (422, "Mismatch".to_owned()));
    assert_eq!(daemon.ask("GET", "/v1/jobs/watched").json()["state"], "cancelled");
    assert_eq!(daemon.ask("DELETE", "/v1/jobs/watched").code(), "InUse");
    daemon.assert_empty();
    plain.free();
}
