//! glance_store's rbd driver on the same pool of a real cluster.

use std::fs;

use serde_json::Value;

use super::Peer;
use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    stores::ceph::Ceph,
};

/// A daemon and its peer on one pool.
struct Pair {
    ceph: Ceph,
    daemon: Daemon,
    peer: Peer,
}

impl Pair {
    /// With these options beside those that say where the pool is.
    async fn start(options: &str) -> Self {
        let ceph = Ceph::up().await;
        let options = ceph.options() + options;
        let config = format!("[DEFAULT]\nenabled_backends = fast:rbd\n[fast]\n{options}");
        Self { ceph, daemon: Daemon::start(&config), peer: Peer::new("rbd", options) }
    }

    /// What Glance gets to know of the image that the peer stores.
    fn theirs(&self, id: &str, image: &[u8], more: &[&str]) -> Value {
        let source = self.daemon.path("source");
        fs::write(&source, image).unwrap();
        self.peer.put(id, &source, more)
    }

    /// The same of the image that the daemon stores.
    fn ours(&self, id: &str, image: &[u8], known: bool) -> Value {
        let path = format!("/v1/stores/fast/images/{id}");
        if known {
            return Raw::ask(&self.daemon.socket, "PUT", &path, image).json();
        }
        let mut raw = Raw::connect(&self.daemon.socket);
        raw.head("PUT", &path, "transfer-encoding: chunked\r\n");
        for piece in image.chunks(1 << 20) {
            raw.chunk(piece);
        }
        raw.send(b"0\r\n\r\n");
        raw.answer("PUT").json()
    }

    /// Asks the daemon for the image at a location.
    fn at(&self, method: &str, uri: &str) -> Answer {
        let at = uri.replace('%', "%25").replace('+', "%2B");
        self.daemon.ask(method, &format!("/v1/stores/fast/images?at={at}"))
    }

    fn read_by_peer(&self, uri: &str) -> Vec<u8> {
        self.peer.get(uri, &self.daemon.path("out"))
    }
}

/// Without what no two images have alike.
fn shape(mut info: Value) -> Value {
    let own = ["id", "name", "block_name_prefix"];
    let times = ["create_timestamp", "access_timestamp", "modify_timestamp"];
    for key in own.iter().chain(&times) {
        assert!(info.as_object_mut().unwrap().remove(*key).is_some(), "{key}: {info}");
    }
    info
}

#[tokio::test]
async fn each_reads_sizes_and_deletes_what_the_other_wrote() {
    let mut sparse = vec![0; 20 << 20];
    sparse[9 << 20..(9 << 20) + 5].copy_from_slice(b"hello");
    let images = [Vec::new(), b"x".to_vec(), noise((17 << 20) + 3, 1), sparse];
    for (options, size, known) in [
        ("", 8, true),
        ("rbd_store_chunk_size=4\nrbd_thin_provisioning=true\n", 4, false),
        ("rbd_store_chunk_size=4\nrbd_thin_provisioning=false\n", 4, true),
        ("rbd_thin_provisioning=true\n", 8, false),
    ] {
        let pair = Pair::start(options).await;
        for (n, image) in images.iter().enumerate() {
            let (theirs, ours) = (format!("theirs-{n}"), format!("ours-{n}"));
            let what = format!("{options:?} {n} {known}");
            let more: &[&str] = if known { &[] } else { &["--unknown-size"] };
            let put = pair.theirs(&theirs, image, more);
            let receipt = pair.ours(&ours, image, known);
            // Byte for byte the same, but for the id.
            let their_uri = put["uri"].as_str().unwrap();
            let our_uri = their_uri.replace(&theirs, &ours);
            assert_eq!(receipt["location"], our_uri.as_str(), "{what}");
            for key in ["size", "checksum", "hash_value", "metadata"] {
                assert_eq!(receipt[key], put[key], "{what} {key}");
            }
            // The cluster sees two of a kind: length, objects, features, a protected snapshot.
            let seen = shape(pair.ceph.info(&format!("{ours}@snap")));
            assert_eq!(seen, shape(pair.ceph.info(&format!("{theirs}@snap"))), "{what}");
            assert_eq!(
                (&seen["protected"], &seen["object_size"]),
                (&"true".into(), &(size << 20).into())
            );
            // Each finds, reads and sizes the other's.
            let head = pair.daemon.ask("HEAD", &format!("/v1/stores/fast/images/{theirs}"));
            assert_eq!(head.status, 200, "{what}");
            assert_eq!(head.headers["content-length"], image.len().to_string(), "{what}");
            assert!(pair.daemon.get("fast", &theirs).body == *image, "{what}");
            assert!(pair.at("GET", their_uri).body == *image, "{what}");
            assert!(pair.read_by_peer(&our_uri) == *image, "{what}");
            assert_eq!(pair.peer.size(&our_uri), image.len(), "{what}");
            // Each deletes the other's, and the id is free.
            assert_eq!(pair.at("DELETE", their_uri).status, 204, "{what}");
            assert_eq!(pair.peer.size(their_uri), "NotFound", "{what}");
            assert!(pair.peer.delete(&our_uri).is_null(), "{what}");
            assert_eq!(pair.daemon.get("fast", &ours).code(), "NotFound", "{what}");
        }
        assert!(pair.ceph.is_empty(), "{:?}", pair.ceph.images());
    }
}
