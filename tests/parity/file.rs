//! glance_store's filesystem driver on the same directory.

use std::fs;

use super::{Peer, text};
use crate::harness::{
    daemon::{Daemon, STORES, noise},
    raw::Raw,
};

fn peer(daemon: &Daemon) -> Peer {
    let dir = daemon.path("fast");
    Peer::new("file", format!("filesystem_store_datadir={}", text(&dir)))
}

#[test]
fn each_reads_sizes_and_deletes_what_the_other_wrote() {
    let daemon = Daemon::start(STORES);
    let peer = peer(&daemon);
    let (source, out) = (daemon.path("source"), daemon.path("out"));
    let mut sparse = vec![0; 3 << 20];
    sparse[1 << 20..(1 << 20) + 5].copy_from_slice(b"hello");
    for (n, image) in
        [Vec::new(), b"x".to_vec(), noise((5 << 20) + 3, 1), sparse].iter().enumerate()
    {
        fs::write(&source, image).unwrap();
        for algo in ["sha512", "sha384", "sha256", "sha224", "sha1", "blake2b", "md5"] {
            if n != 1 && !["sha512", "blake2b"].contains(&algo) {
                continue;
            }
            let theirs = format!("theirs-{n}-{algo}");
            let ours = format!("ours-{n}-{algo}");
            let put = peer.put(&theirs, &source, &["--algo", algo]);
            let path = format!("/v1/stores/fast/images/{ours}?hash_algo={algo}");
            let receipt = Raw::ask(&daemon.socket, "PUT", &path, image).json();
            // Byte for byte the same, but for the id.
            let their_uri = put["uri"].as_str().unwrap();
            let our_uri = their_uri.replace(&theirs, &ours);
            assert_eq!(receipt["location"], our_uri.as_str());
            for key in ["size", "checksum", "hash_value", "metadata"] {
                assert_eq!(receipt[key], put[key], "{algo} {key}");
            }
            // Each reads the other's.
            let got = daemon.get("fast", &theirs);
            assert!(got.status == 200 && got.body == *image);
            assert!(peer.get(&our_uri, &out) == *image);
            // Each sizes the other's.
            let head = daemon.ask("HEAD", &format!("/v1/stores/fast/images/{theirs}"));
            assert_eq!(head.headers["content-length"], image.len().to_string());
            assert_eq!(peer.size(&our_uri), image.len());
            // Each deletes the other's, and the id is free.
            let at = format!("/v1/stores/fast/images?at={their_uri}");
            assert_eq!(daemon.ask("DELETE", &at).status, 204);
            assert_eq!(peer.size(their_uri), "NotFound");
            assert!(peer.delete(&our_uri).is_null());
            assert_eq!(daemon.get("fast", &ours).code(), "NotFound");
        }
    }
    daemon.assert_empty();
}

#[test]
fn each_refuses_an_id_that_the_other_has_taken() {
    let daemon = Daemon::start(STORES);
    let peer = peer(&daemon);
    let source = daemon.path("source");
    fs::write(&source, b"image").unwrap();
    peer.put("theirs", &source, &[]);
    assert_eq!(daemon.put("fast", "theirs", b"other").code(), "Exists");
    daemon.put("fast", "ours", b"image");
    assert_eq!(peer.put("ours", &source, &[])["error"], "Duplicate");
}
