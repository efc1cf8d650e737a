//! glance_store's cinder driver on the volumes of the same project of a real Cinder, attached by os-brick.

use serde_json::Value;

use super::{Pair, Peer, text};
use crate::harness::{
    daemon::{Daemon, noise},
    stores::project::Project,
};

impl Pair<Project> {
    /// In this project, with nothing else set.
    fn start(project: Project) -> Self {
        let options = project.options();
        let config = format!("[DEFAULT]\nenabled_backends = fast:cinder\n[fast]\n{options}");
        let daemon = Daemon::start(&config);
        let mounts = daemon.path("mounts");
        let options = format!("{options}cinder_mount_point_base = {}\n", text(&mounts));
        let mut peer = Peer::new("cinder", options);
        let facts = ["directory", "ceph_conf", "ceph_user"].map(|name| project.facts[name].clone());
        peer.within = [&["tests/parity/attach.sh".to_owned()][..], &facts].concat();
        Self { daemon, peer, backend: project }
    }

    /// What Cinder tells of the volume at a location, without what no two volumes have alike.
    fn volume(&self, uri: &str) -> Value {
        let id = uri.rsplit('/').next().unwrap();
        let told = self.backend.must("GET", &format!("volumes/{id}"), &Value::Null);
        let volume = &told["volume"];
        let mut shape = volume["metadata"].clone();
        // The receipt's digests and the mark of the upload are ours alone.
        shape.as_object_mut().unwrap().retain(|name, _| !name.starts_with("imaged"));
        shape["name"] = volume["name"].clone();
        shape["GiB"] = volume["size"].clone();
        shape["status"] = volume["status"].clone();
        shape["type"] = volume["volume_type"].clone();
        shape
    }

    /// Each reads, sizes and deletes the other's image.
    fn exchange(&self, n: usize, image: &[u8], known: bool) {
        let what = format!("{} {n} {known}", self.backend.volume_type);
        let (theirs, ours) = (format!("theirs-{n}"), format!("ours-{n}"));
        let put = self.theirs(&theirs, image, if known { &[] } else { &["--unknown-size"] });
        let receipt = self.ours(&ours, image, known);
        assert!(put["error"].is_null(), "{what}: {put}");
        for key in ["size", "checksum", "hash_value", "metadata"] {
            assert_eq!(receipt[key], put[key], "{what} {key}: {receipt}");
        }
        let uri = |told: &Value, key: &str| told[key].as_str().unwrap().to_owned();
        let (their_uri, our_uri) = (uri(&put, "uri"), uri(&receipt, "location"));
        let [mut a, mut b] = [&their_uri, &our_uri].map(|uri| self.volume(uri));
        for (shape, id) in [(&mut a, &theirs), (&mut b, &ours)] {
            assert_eq!(shape["name"], format!("image-{id}"), "{what}");
            for key in ["name", "glance_image_id"] {
                shape[key] = shape[key].as_str().unwrap().replace(id, "ID").into();
            }
        }
        assert_eq!(a, b, "{what}");
        let head = self.daemon.ask("HEAD", &format!("/v1/stores/fast/images/{theirs}"));
        assert_eq!(head.headers["content-length"], image.len().to_string(), "{what}");
        assert!(self.daemon.get("fast", &theirs).body == *image, "{what}");
        assert!(self.at("GET", &their_uri).body == *image, "{what}");
        assert!(self.read_by_peer(&our_uri) == *image, "{what}");
        assert_eq!(self.peer.size(&our_uri), image.len(), "{what}");
        self.daemon.wait_until("nobody reads the volume", |_| {
            let deleted = self.at("DELETE", &their_uri);
            assert!([204, 409].contains(&deleted.status), "{what}: {deleted:?}");
            deleted.status == 204
        });
        assert!(self.peer.delete(&our_uri).is_null(), "{what}");
        assert_eq!(self.daemon.get("fast", &ours).code(), "NotFound", "{what}");
    }
}

fn each_reads_sizes_and_deletes_what_the_other_wrote(project: Project) {
    let mut pair = Pair::start(project);
    pair.exchange(0, &noise(70_003, 1), true);
    pair.exchange(1, &noise((9 << 20) + 512, 2), false);
    // glance_store does not wait for Cinder to have deleted a volume.
    pair.daemon.wait_until("all volumes are gone", |_| pair.backend.left(&[]).is_empty());
    assert!(pair.daemon.stop().success());
    assert_eq!(pair.backend.left(&[]), [""; 0]);
}

#[test]
fn each_reads_sizes_and_deletes_what_the_other_wrote_to_volumes_in_files() {
    each_reads_sizes_and_deletes_what_the_other_wrote(Project::in_files());
}

#[test]
fn each_reads_sizes_and_deletes_what_the_other_wrote_to_volumes_in_ceph() {
    each_reads_sizes_and_deletes_what_the_other_wrote(Project::in_ceph());
}
