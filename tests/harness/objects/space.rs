//! What the server holds: in memory, and without a thought of who may see it.

use std::collections::BTreeMap;

use super::{Call, Dialect, s3, swift};
use crate::harness::service::{Answer, Blob, Head, Identity, Service, hex};

/// How a Swift object stands for others.
#[derive(Clone, Debug)]
pub(super) enum Manifest {
    /// All that begin so: `CONTAINER/PREFIX`.
    Dynamic(String),
    /// Exactly these, in this order.
    Static(Vec<Segment>),
}

/// A segment of a static manifest.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) container: String,
    pub(super) name: String,
    pub(super) etag: String,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) blob: Blob,
    /// Without quotes.
    pub(super) etag: String,
    /// What came with it and is given back with it, by names in small letters.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) tags: Vec<(String, String)>,
    pub(super) manifest: Option<Manifest>,
    pub(super) modified: chrono::DateTime<chrono::Utc>,
}

impl Object {
    pub(super) fn new(blob: Blob, headers: BTreeMap<String, String>) -> Self {
        let etag = hex(&blob.md5());
        let modified = chrono::Utc::now();
        Self { blob, etag, headers, tags: Vec::new(), manifest: None, modified }
    }
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Object>,
    /// Swift: a container's metadata, by names in small letters.
    pub(super) headers: BTreeMap<String, String>,
}

/// A multipart upload.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) tags: Vec<(String, String)>,
    pub(super) parts: BTreeMap<u32, (Blob, String)>,
}

/// What servers differ in.
#[derive(Clone, Debug)]
pub(super) struct Ways {
    /// S3: `If-None-Match: *` counts for `Put`.
    pub(super) conditional_put: bool,
    /// S3: it counts for `Complete`.
    pub(super) conditional_complete: bool,
    /// S3: the answer to `Complete` has an `ETag`.
    pub(super) complete_tells_etag: bool,
    /// S3: the least that a part has that is not the last, in bytes.
    pub(super) least_part: u64,
    /// The most that one `Put` takes, in bytes.
    pub(super) largest: u64,
    /// The most that one page of a listing has.
    pub(super) page: usize,
    /// Swift: so many of the newest objects are not in a listing yet.
    pub(super) unlisted: usize,
    /// Swift: the objects that fit into a container, after which puts are 413.
    pub(super) quota: Option<u64>,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            conditional_put: true,
            conditional_complete: true,
            complete_tells_etag: true,
            least_part: 5 << 20,
            largest: 5 << 30,
            page: 1000,
            unlisted: 0,
            quota: None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Space {
    pub(super) dialect: Dialect,
    pub(super) ways: Ways,
    /// By account, which is empty for S3, and name.
    pub(super) buckets: BTreeMap<(String, String), Bucket>,
    pub(super) uploads: BTreeMap<String, Upload>,
    /// Who may ask. S3: access keys. Swift: `USER KEY`, `ID SECRET` of an application credential, `trust ID`.
    pub(super) identity: Identity,
}

impl Space {
    pub(super) fn bucket(&mut self, account: &str, name: &str) -> Option<&mut Bucket> {
        self.buckets.get_mut(&(account.to_owned(), name.to_owned()))
    }

    /// Everything that is there, a line each.
    pub(super) fn left(&self) -> Vec<String> {
        let objects = self.buckets.values().flat_map(|bucket| bucket.objects.keys().cloned());
        let uploads = self
            .uploads
            .values()
            .map(|upload| format!("an upload of {} with {} parts", upload.key, upload.parts.len()));
        objects.chain(uploads).collect()
    }

    pub(super) fn bytes_held(&self) -> u64 {
        let objects = self.buckets.values().flat_map(|bucket| bucket.objects.values());
        let parts = self.uploads.values().flat_map(|upload| upload.parts.values());
        objects.map(|object| object.blob.len()).sum::<u64>()
            + parts.map(|(blob, _)| blob.len()).sum::<u64>()
    }
}

impl Service for Space {
    type Call = Call;

    fn call(&self, head: &Head, _body: &Blob) -> (Call, String) {
        match self.dialect {
            Dialect::S3 => s3::call(head),
            Dialect::Swift => swift::call(head),
        }
    }

    fn answer(&mut self, call: Call, head: &Head, body: Blob, address: &str) -> Answer {
        match self.dialect {
            Dialect::S3 => s3::answer(self, call, head, body),
            Dialect::Swift => swift::answer(self, call, head, body, address),
        }
    }

    fn refusal(&self, _call: Call, status: u16) -> Answer {
        match self.dialect {
            Dialect::S3 => s3::refusal(status),
            Dialect::Swift => swift::refusal(status),
        }
    }

    fn identity(&mut self) -> &mut Identity {
        &mut self.identity
    }
}
