//! Buckets of real servers of S3 on this machine.

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::MultipartUpload,
};

use crate::harness::rigs::{Facts, GATEWAY, Own, Turn, WEED};

/// The right to a bucket, one test at a time, until this is dropped.
pub(crate) struct Bucket {
    server: Facts,
    client: Client,
    name: &'static str,
    _turns: Vec<Turn>,
}

impl Bucket {
    /// One of SeaweedFS, empty.
    pub(crate) async fn seaweed() -> Self {
        Self::empty(WEED.clone(), vec![Turn::alone("weed")]).await
    }

    /// One of Ceph's gateway, empty.
    pub(crate) async fn radosgw() -> Self {
        let turns = vec![Turn::alone("gateway"), Turn::together("cluster")];
        Self::empty(GATEWAY.clone(), turns).await
    }

    /// One in a server of the test's own.
    pub(crate) async fn in_own(own: &Own) -> Self {
        Self::empty(own.facts(), Vec::new()).await
    }

    async fn empty(server: Facts, turns: Vec<Turn>) -> Self {
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
        let this = Self { server, client, name, _turns: turns };
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

    /// How many parts the server has of uploads that have not ended.
    pub(crate) async fn parts(&self) -> usize {
        let mut count = 0;
        for (key, id) in self.uploads().await {
            let parts = self.client.list_parts().bucket(self.name).key(key).upload_id(id);
            // It may have ended meanwhile.
            count += parts.send().await.map_or(0, |told| told.parts().len());
        }
        count
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
