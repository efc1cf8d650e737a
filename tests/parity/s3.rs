//! glance_store's s3 driver on the same bucket of real servers.

use super::{Pair, Peer};
use crate::harness::{
    daemon::{Daemon, noise},
    stores::buckets::Bucket,
};

impl Pair<Bucket> {
    /// Both send what has 5 MiB or more in parts of that size.
    fn start(bucket: Bucket) -> Self {
        let options = bucket.options() + "s3_store_bucket_url_format = path\n";
        let config = format!("[DEFAULT]\nenabled_backends = fast:s3\n[fast]\n{options}");
        Self { daemon: Daemon::start(&config), peer: Peer::new("s3", options), backend: bucket }
    }

    /// Ends the daemon, and checks that nothing is left.
    async fn end(mut self) {
        assert!(self.daemon.stop().success());
        assert_eq!(self.backend.left().await, [""; 0]);
    }

    fn delete(&self, id: &str) {
        let deleted = self.daemon.ask("DELETE", &format!("/v1/stores/fast/images/{id}"));
        assert_eq!(deleted.status, 204, "{deleted:?}");
    }
}

/// An empty image, one in one piece, some whose last parts are full, short, and single, in this order.
fn images() -> [Vec<u8>; 5] {
    const PART: usize = 5 << 20;
    [0, 70_001, PART, 2 * PART, 3 * PART + 1].map(|size| noise(size, size as u64))
}

async fn each_reads_sizes_and_deletes_what_the_other_wrote(bucket: Bucket) {
    let pair = Pair::start(bucket);
    for (n, image) in images().iter().enumerate() {
        for known in [true, false] {
            let (theirs, ours) = (format!("theirs-{n}-{known}"), format!("ours-{n}-{known}"));
            let what = format!("{n} {known}");
            let more: &[&str] = if known { &[] } else { &["--unknown-size"] };
            let put = pair.theirs(&theirs, image, more);
            let receipt = pair.ours(&ours, image, known);
            // Byte for byte the same, but for the id.
            let their_uri = put["uri"].as_str().unwrap_or_else(|| panic!("{what}: {put}"));
            let our_uri = their_uri.replace(&theirs, &ours);
            assert_eq!(receipt["location"], our_uri.as_str(), "{what}");
            for key in ["size", "checksum", "hash_value", "metadata"] {
                assert_eq!(receipt[key], put[key], "{what} {key}");
            }
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
    }
    pair.end().await;
}

#[tokio::test]
async fn on_seaweedfs_each_reads_sizes_and_deletes_what_the_other_wrote() {
    each_reads_sizes_and_deletes_what_the_other_wrote(Bucket::seaweed().await).await;
}

#[tokio::test]
async fn on_radosgw_each_reads_sizes_and_deletes_what_the_other_wrote() {
    each_reads_sizes_and_deletes_what_the_other_wrote(Bucket::radosgw().await).await;
}

#[tokio::test]
async fn every_digest_is_glance_stores() {
    let pair = Pair::start(Bucket::radosgw().await);
    let image = noise(100_003, 2);
    for algo in ["sha512", "sha384", "sha256", "sha224", "sha1", "blake2b", "md5"] {
        let put = pair.theirs("theirs", &image, &["--algo", algo]);
        let receipt = pair.ours(&format!("ours?hash_algo={algo}"), &image, true);
        for key in ["checksum", "hash_value"] {
            assert_eq!(receipt[key], put[key], "{algo} {key}");
        }
        pair.delete("ours");
        pair.delete("theirs");
    }
    pair.end().await;
}

#[tokio::test]
async fn each_refuses_an_id_that_the_other_has_taken() {
    for bucket in [Bucket::radosgw().await, Bucket::seaweed().await] {
        let pair = Pair::start(bucket);
        let put = pair.theirs("theirs", b"their image", &[]);
        assert_eq!(pair.daemon.put("fast", "theirs", b"another").code(), "Exists");
        assert_eq!(pair.read_by_peer(put["uri"].as_str().unwrap()), b"their image");
        pair.ours("ours", b"our image", true);
        assert_eq!(pair.theirs("ours", b"another", &[])["error"], "Duplicate");
        assert_eq!(pair.daemon.get("fast", "ours").body, b"our image");
        pair.delete("ours");
        pair.delete("theirs");
        pair.end().await;
    }
}

#[tokio::test]
async fn locations_with_keys_in_them_name_the_same_images() {
    let pair = Pair::start(Bucket::radosgw().await);
    let image = noise(70_000, 3);
    let put = pair.theirs("theirs", &image, &[]);
    let uri = put["uri"].as_str().unwrap();
    // As glance_store wrote them before 5.7; what is in them counts for neither.
    let old = uri.replace("s3://", "s3://ACCESS:se/cret@");
    assert!(pair.at("GET", &old).body == image);
    assert!(pair.read_by_peer(&old) == image);
    assert_eq!(pair.at("DELETE", &old).status, 204);
    assert_eq!(pair.peer.size(uri), "NotFound");
    let missing = pair.at("DELETE", &old);
    assert!(!missing.detail().contains("cret"), "{missing:?}");
    pair.end().await;
}
