//! The client under the command line: one connection for many requests, and what breaks it.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    sync::mpsc,
    thread,
};

use imaged::client::{Client, Content, Error, Form};
use imaged_drivers::{Kind, Span};

use super::{bytes, daemon};

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let daemon = daemon();
    let client = Client::new(&daemon.socket);
    let image = bytes(5 << 20);
    for n in 0..20 {
        let id = format!("i{n}");
        let pieces = image.chunks(100_000).map(|piece| Ok(piece.to_vec().into()));
        let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
        let receipt = client.put_stream("memory", &id, None, None, pieces).await.unwrap();
        assert_eq!(receipt.size, 5 << 20);
        let got = client.get("memory", id.as_str(), Span::All, &[Form::Descriptor]).await.unwrap();
        let Content::Stream(mut download) = got.content else { panic!("memory has no descriptor") };
        let mut back = Vec::new();
        while let Some(chunk) = download.chunk().await.unwrap() {
            back.extend_from_slice(&chunk);
        }
        assert!(back == image);
        assert!(client.stat("memory", "nothing").await.unwrap_err().is(Kind::NotFound));
        client.delete("memory", id.as_str()).await.unwrap();
    }
    assert_eq!(connections(&client).await, 1);
    assert_eq!(client.peer_pid().await.unwrap().cast_unsigned(), daemon.pid());
}

#[tokio::test]
async fn descriptors_go_both_ways_on_a_kept_connection() {
    use std::os::unix::fs::FileExt as _;
    let daemon = daemon();
    let client = Client::new(&daemon.socket);
    for n in 0..20 {
        let (id, image) = (format!("i{n}"), bytes(10_000 + n));
        let path = daemon.path("image");
        std::fs::write(&path, &image).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let receipt = client.put_fd("fast", &id, &file, None).await.unwrap();
        assert_eq!(receipt.size, image.len() as u64);
        let got =
            client.get("fast", id.as_str(), Span::Part(5, 10), &[Form::Descriptor]).await.unwrap();
        assert_eq!((got.size, got.range), (image.len() as u64, 5..10));
        let Content::Descriptor(descriptor) = got.content else { panic!("file has descriptors") };
        let mut back = vec![0; image.len()];
        std::fs::File::from(descriptor).read_exact_at(&mut back, 0).unwrap();
        assert!(back == image);
    }
    assert_eq!(connections(&client).await, 1);
}

/// Where something keeps descriptors from one process to another, images come in the answer.
#[tokio::test]
async fn an_image_whose_descriptors_do_not_come_is_asked_for_without() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let (heads, asked) = mpsc::channel();
    thread::spawn(move || {
        for caller in listener.incoming() {
            let (mut caller, mut head) = (caller.unwrap(), [0; 4096]);
            let len = caller.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..len]).into_owned();
            // The ids of requests have any digits.
            let accepts = |form| {
                head.lines().any(|line| line.starts_with("imaged-accept: ") && line.contains(form))
            };
            let said = if accepts("memory") {
                "content-type: application/vnd.imaged.memory\r\nimaged-size: 3\r\ncontent-length: 0"
            } else if accepts("fd") {
                "imaged-body: fd\r\nimaged-size: 3\r\ncontent-length: 0"
            } else {
                "content-length: 3\r\n\r\nabc"
            };
            heads.send(head).unwrap();
            let _gone = caller.write_all(format!("HTTP/1.1 200 OK\r\n{said}\r\n\r\n").as_bytes());
        }
    });
    let client = Client::new(&socket);
    let (fd, memory, extents) = (Form::Descriptor, Form::Memory, Form::Extents);
    for forms in [&[fd, memory, extents][..], &[fd], &[memory], &[memory, extents]] {
        let got = client.get("a", "b", Span::All, forms).await.unwrap();
        let Content::Stream(mut download) = got.content else { panic!("{forms:?}") };
        assert_eq!(download.chunk().await.unwrap().unwrap(), "abc");
        asked.recv().unwrap();
        let again = asked.recv().unwrap();
        assert_eq!(again.contains("imaged-accept: extents\r\n"), forms.contains(&extents));
        assert_eq!(again.contains("imaged-accept"), forms.contains(&extents));
    }
}

#[tokio::test]
async fn a_connection_that_a_restart_broke_is_made_again() {
    let mut daemon = daemon();
    let client = Client::new(&daemon.socket);
    client.health().await.unwrap();
    daemon.kill();
    assert!(matches!(client.health().await.unwrap_err(), Error::Unreachable { .. }));
    let mut daemon = daemon.restart(&[]);
    client.health().await.unwrap();
    assert!(daemon.stop().success());
    let daemon = daemon.restart(&[]);
    // The kept connection is dead, and this is the first to notice.
    client.stores().await.unwrap();
    drop(daemon);
}

#[tokio::test]
async fn a_source_that_fails_is_told_and_stores_nothing() {
    let daemon = daemon();
    let client = Client::new(&daemon.socket);
    let pieces: Vec<std::io::Result<bytes::Bytes>> =
        vec![Ok(bytes(100_000).into()), Err(std::io::Error::other("the tape tore"))];
    let put = client.put_stream("fast", "x", None, None, futures_util::stream::iter(pieces)).await;
    let Err(Error::Broken(what)) = put else { panic!("{put:?}") };
    assert!(what.contains("the tape tore"), "{what}");
    assert!(client.stat("fast", "x").await.unwrap_err().is(Kind::NotFound));
}

/// How many connections the daemon has.
async fn connections(client: &Client) -> u64 {
    let answer = client
        .request(
            hyper::Method::GET,
            "/metrics",
            hyper::HeaderMap::new(),
            imaged::client::Body::empty(),
        )
        .await
        .unwrap();
    let text = String::from_utf8(answer.bytes().await.unwrap().to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with("imaged_connections ")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
