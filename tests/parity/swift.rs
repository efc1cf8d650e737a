//! glance_store's swift driver on the same container of a real Swift.

use std::fs;

use super::{Pair, Peer};
use crate::harness::{
    daemon::{Daemon, noise},
    stores::{
        keystone,
        swift::{Server, Swift},
    },
};

/// Bytes of a segment.
const SEGMENT: usize = 1_024_000;

const SEGMENTS: &str =
    "swift_store_large_object_size = 1\nswift_store_large_object_chunk_size = 1\n";

impl Pair<Swift> {
    /// With these options beside those that say where the container is.
    fn start(more: &str) -> Self {
        let swift = Swift::up(Server::OpenStack);
        let options = swift.options_of_version_3(&keystone::door(&swift)) + more;
        Self::with(swift, options)
    }

    fn with(swift: Swift, options: String) -> Self {
        let config = format!("[DEFAULT]\nenabled_backends = fast:swift\n[fast]\n{options}");
        Self { daemon: Daemon::start(&config), peer: Peer::new("swift", options), backend: swift }
    }

    /// Ends the daemon, and checks that nothing is left.
    fn end(mut self) {
        assert!(self.daemon.stop().success());
        assert_eq!(self.backend.objects(), [""; 0]);
    }

    /// Each reads, sizes and deletes the other's image.
    fn exchange(&self, n: usize, image: &[u8], known: bool, what: &str) {
        // Their own known length works for whole segments alone.
        let whole = image.len().is_multiple_of(SEGMENT);
        let more: &[&str] = if known && whole { &[] } else { &["--unknown-size"] };
        let (theirs, ours) = (format!("theirs-{n}"), format!("ours-{n}"));
        let put = self.theirs(&theirs, image, more);
        let receipt = self.ours(&ours, image, known);
        let their_uri = put["uri"].as_str().unwrap_or_else(|| panic!("{what}: {put}"));
        let our_uri = their_uri.replace(&theirs, &ours);
        let key = "p%40ss%20w%2Brd%25";
        assert_eq!(receipt["location"], our_uri.replace(&format!(":{key}@"), ":***@"), "{what}");
        for key in ["size", "checksum", "hash_value", "metadata"] {
            assert_eq!(receipt[key], put[key], "{what} {key}");
        }
        let head = self.daemon.ask("HEAD", &format!("/v1/stores/fast/images/{theirs}"));
        assert_eq!(head.status, 200, "{what}: {head:?}");
        assert_eq!(head.headers["content-length"], image.len().to_string(), "{what}");
        assert!(self.daemon.get("fast", &theirs).body == *image, "{what}");
        assert!(self.at("GET", their_uri).body == *image, "{what}");
        assert!(self.read_by_peer(&our_uri) == *image, "{what}");
        assert_eq!(self.peer.size(&our_uri), image.len(), "{what}");
        let listed = self.daemon.ask("GET", "/v1/stores/fast/images");
        let listed = String::from_utf8(listed.body).unwrap();
        assert_eq!(listed.lines().count(), 2, "{what}: no segments among them: {listed}");
        assert_eq!(self.at("DELETE", their_uri).status, 204, "{what}");
        assert!(self.peer.delete(&our_uri).is_null(), "{what}");
        assert_eq!(self.daemon.get("fast", &ours).code(), "NotFound", "{what}");
        assert_eq!(self.backend.objects(), [""; 0], "{what}");
    }
}

#[test]
fn each_reads_sizes_and_deletes_what_the_other_wrote_to_swift() {
    let images = [Vec::new(), noise(70_003, 1), noise(3 * SEGMENT, 2), noise(5 * SEGMENT + 7, 3)];
    for (options, known) in [("", true), (SEGMENTS, true), (SEGMENTS, false)] {
        let pair = Pair::start(options);
        for (n, image) in images.iter().enumerate() {
            pair.exchange(n, image, known, &format!("{options:?} {n} {known}"));
        }
        pair.end();
    }
}

#[test]
fn references_and_seeds_are_glance_stores() {
    let swift = Swift::up(Server::OpenStack);
    let door = keystone::door(&swift);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("swift.conf");
    let (user, key) = (keystone::USER, keystone::PASSWORD.replace('%', "%%"));
    let section = format!("auth_address = {door}\nuser = {user}\nkey = \"{key}\"\n");
    fs::write(&file, format!("[other]\n{section}[ref1]\n{section}")).unwrap();
    let options = format!(
        "swift_store_config_file = {}\ndefault_swift_reference = ref1\n\
         swift_store_region = RegionOne\nswift_store_container = {}\n",
        file.display(),
        swift.container
    );
    let pair = Pair::with(swift, options);
    pair.exchange(0, &noise(70_003, 1), true, "by reference");
    pair.end();
}
