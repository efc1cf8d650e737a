//! Buckets of real servers of S3 on this machine, started once by the scripts that people use too.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    sync::{Arc, LazyLock},
};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::MultipartUpload,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// A server that was started, and what there is to know of it, by the names of its file.
type Server = BTreeMap<String, String>;

static SEAWEED: LazyLock<Server> = LazyLock::new(|| {
    let dir = std::path::absolute(crate::harness::rigs().join("objects")).unwrap();
    up(Command::new("ci/objects").arg("up").arg(&dir).arg("weed"));
    read(dir.join("weed.env"))
});

static RADOSGW: LazyLock<Server> = LazyLock::new(|| {
    let dir = std::path::absolute(crate::harness::rigs().join("ceph")).unwrap();
    up(Command::new("ci/ceph").arg("up").arg(&dir));
    up(Command::new("ci/ceph").args(["rgw", "start"]).arg(&dir));
    read(dir.join("rgw.env"))
});

static TURN: [LazyLock<Arc<Mutex<()>>>; 2] =
    [LazyLock::new(Arc::default), LazyLock::new(Arc::default)];

fn up(script: &mut Command) {
    let said = script.output().unwrap();
    assert!(said.status.success(), "{script:?}: {}", String::from_utf8_lossy(&said.stderr));
}

fn read(path: PathBuf) -> Server {
    let text = fs::read_to_string(&path).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The right to a bucket, one test at a time, until this is dropped.
pub(crate) struct Bucket {
    server: &'static Server,
    client: Client,
    name: &'static str,
    _turn: OwnedMutexGuard<()>,
}

impl Bucket {
    /// One of SeaweedFS, empty.
    pub(crate) async fn seaweed() -> Self {
        let turn = Arc::clone(&TURN[0]).lock_owned().await;
        Self::empty(&SEAWEED, turn).await
    }

    /// One of Ceph's gateway, empty.
    pub(crate) async fn radosgw() -> Self {
        let turn = Arc::clone(&TURN[1]).lock_owned().await;
        Self::empty(&RADOSGW, turn).await
    }

    async fn empty(server: &'static Server, turn: OwnedMutexGuard<()>) -> Self {
        let keys =
            Credentials::new(&server["access_key"], &server["secret_key"], None, None, "rig");
        let settings = aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&server["url"])
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .credentials_provider(keys);
        let (client, name) = (Client::from_conf(settings.build()), "imaged-test");
        // That it is there already is no error to some.
        let _there = client.create_bucket().bucket(name).send().await;
        let this = Self { server, client, name, _turn: turn };
        // What a test that failed has left.
        for key in this.keys().await {
            this.client.delete_object().bucket(name).key(key).send().await.unwrap();
        }
        for (key, id) in this.uploads().await {
            let abort = this.client.abort_multipart_upload().bucket(name).key(key);
            abort.upload_id(id).send().await.unwrap();
        }
        this
    }

    /// The options of a store in it.
    pub(crate) fn options(&self) -> String {
        format!(
            "s3_store_host = {}\ns3_store_bucket = {}\ns3_store_access_key = {}\n\
             s3_store_secret_key = {}\ns3_store_large_object_size = 5\n\
             s3_store_large_object_chunk_size = 5\nimaged_s3_timeout_s = 20\n",
            self.server["url"], self.name, self.server["access_key"], self.server["secret_key"]
        )
    }

    /// What lies in it: objects, and uploads that have not ended.
    pub(crate) async fn left(&self) -> Vec<String> {
        let uploads = self.uploads().await.into_iter();
        let uploads = uploads.map(|(key, id)| format!("upload {id} of {key}"));
        self.keys().await.into_iter().chain(uploads).collect()
    }

    async fn keys(&self) -> Vec<String> {
        let told = self.client.list_objects_v2().bucket(self.name).send().await.unwrap();
        told.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
    }

    async fn uploads(&self) -> Vec<(String, String)> {
        let told = self.client.list_multipart_uploads().bucket(self.name).send().await.unwrap();
        let named = |upload: &MultipartUpload| {
            Some((upload.key()?.to_owned(), upload.upload_id()?.to_owned()))
        };
        told.uploads().iter().filter_map(named).collect()
    }
}
