//! Bodies by file descriptor, in both directions.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::FileExt as _, net::UnixStream},
    },
    process::{Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, fcntl_getfl, open},
};

use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
};

const FD: &str = "imaged-body: fd\r\ncontent-length: 0\r\n";

fn open_descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[test]
fn files_from_their_offset_and_pipes_to_their_end_are_stored() {
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
    for len in [0, 1, 70_000, image.len()] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        raw.head_with("PUT", &format!("/v1/stores/fast/images/p{len}"), FD, &[reader.as_fd()]);
        writer.write_all(&image[..len]).unwrap();
        drop(writer);
        let answer = raw.answer("PUT");
        assert_eq!(answer.json()["size"], len, "{answer:?}");
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
    let mut past = File::open(&path).unwrap();
    past.seek(SeekFrom::Start(6)).unwrap();
    let fd = image.as_fd();
    let target = "/v1/stores/fast/images/x";
    for (headers, descriptors, part) in [
        (FD, vec![], "came=`0`"),
        (FD, vec![fd, fd], "came=`2`"),
        (FD, vec![path_only.as_fd()], "not open for reading"),
        (FD, vec![write_only.as_fd()], "not open for reading"),
        (FD, vec![directory.as_fd()], "neither a regular file nor a pipe"),
        (FD, vec![socket.as_fd()], "neither a regular file nor a pipe"),
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

/// A caller in a process of its own: it passes a pipe, writes a piece of an image into it, and
/// waits to be killed. What is closed first when it dies is the descriptor of the lowest number or
/// of the highest; between them is one that takes long to free.
const CALLER: &str = r#"
import array, os, socket, sys, time
_, path, pipe, large, connection = sys.argv
pipe, large, connection = int(pipe), int(large), int(connection)
reader, writer = os.pipe()
os.dup2(writer, pipe)
os.close(writer)
memory = os.memfd_create("large")
os.dup2(memory, large)
os.close(memory)
for _ in range(300):
    os.write(large, b"x" * (1 << 20))
one = socket.socket(socket.AF_UNIX)
one.connect(path)
os.dup2(one.fileno(), connection)
one.close()
caller = socket.socket(fileno=connection)
head = b"PUT /v1/stores/fast/images/x HTTP/1.1\r\nhost: x\r\nimaged-body: fd\r\ncontent-length: 0\r\n\r\n"
caller.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))])
os.close(reader)
# More than a pipe holds: when it is written, the daemon is reading.
left = memoryview(b"y" * (1 << 20))
while left:
    left = left[os.write(pipe, left):]
print("written", flush=True)
time.sleep(600)
"#;

#[test]
fn a_caller_that_is_killed_in_its_pipe_stores_nothing() {
    let daemon = Daemon::start(STORES);
    for order in [["100", "101", "102"], ["102", "101", "100"]] {
        for _ in 0..3 {
            let mut caller = Command::new("python3")
                .args(["-c", CALLER])
                .arg(&daemon.socket)
                .args(order)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = [0; 7];
            caller.stdout.take().unwrap().read_exact(&mut said).unwrap();
            assert_eq!(&said, b"written");
            caller.kill().unwrap();
            caller.wait().unwrap();
            daemon.settle();
            daemon.assert_empty();
        }
    }
}

/// A connection that another process has made, which is gone.
fn of_a_process_that_ended(daemon: &Daemon) -> Raw {
    const MAKER: &str = r#"
import array, socket, sys
one = socket.socket(socket.AF_UNIX)
one.connect(sys.argv[1])
to = socket.socket(fileno=0)
made = array.array("i", [one.fileno()])
to.sendmsg([b"HTTP/1.1 200 OK\r\n\r\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, made)])
"#;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut maker = Command::new("python3")
        .args(["-c", MAKER])
        .arg(&daemon.socket)
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let mut raw = Raw::over(ours);
    raw.read_head().unwrap();
    maker.wait().unwrap();
    Raw::over(raw.take_descriptors().pop().unwrap().into())
}

#[test]
fn a_pipe_of_unknown_size_needs_a_caller_that_can_be_seen() {
    let daemon = Daemon::start(STORES);
    for (headers, status) in [("", 400), ("x-openstack-image-size: 5\r\n", 201)] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"image").unwrap();
        drop(writer);
        let mut raw = of_a_process_that_ended(&daemon);
        let headers = format!("{FD}{headers}");
        raw.head_with("PUT", "/v1/stores/fast/images/x", &headers, &[reader.as_fd()]);
        let answer = raw.answer("PUT");
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 400 {
            assert_eq!(answer.code(), "Invalid");
            assert!(answer.detail().contains("x-openstack-image-size"), "{answer:?}");
            daemon.assert_empty();
        }
    }
    assert_eq!(daemon.files("fast"), ["x"]);
}

#[test]
fn a_callers_pipe_stays_as_it_is() {
    let daemon = Daemon::start(STORES);
    daemon.put("fast", "taken", b"image");
    let mut raw = Raw::connect(&daemon.socket);
    for (id, status) in [("taken", 409), ("free", 201)] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"image").unwrap();
        drop(writer);
        let before = fcntl_getfl(&reader).unwrap();
        raw.head_with("PUT", &format!("/v1/stores/fast/images/{id}"), FD, &[reader.as_fd()]);
        let answer = raw.answer("PUT");
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(fcntl_getfl(&reader).unwrap(), before, "{id}");
    }
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
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut raw = Raw::connect(&daemon.socket);
    let headers = format!("{FD}x-request-id: watched\r\n");
    raw.head_with("PUT", "/v1/stores/fast/images/x", &headers, &[reader.as_fd()]);
    writer.write_all(&vec![7; 5 << 20]).unwrap();
    daemon.wait_until("4 MiB are done", |d| {
        let job = d.ask("GET", "/v1/jobs/watched");
        job.status == 200 && job.json()["done"] == 4 << 20
    });
    assert_eq!(daemon.ask("DELETE", "/v1/jobs/watched").status, 204);
    assert_ne!(raw.answer("PUT").status, 201);
    assert_eq!(daemon.ask("GET", "/v1/jobs/watched").json()["state"], "cancelled");
    assert_eq!(daemon.ask("DELETE", "/v1/jobs/watched").code(), "InUse");
    daemon.assert_empty();
}
