//! What the server holds: in memory, and without a thought of who may see it.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use imaged_digest::{Md5, Stream};

/// Bytes in pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Blob(pub(super) Vec<Bytes>);

impl Blob {
    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    pub(super) fn slice(&self, range: Range<u64>) -> Self {
        let mut at = 0;
        let mut pieces = Vec::new();
        for piece in &self.0 {
            let end = at + piece.len() as u64;
            let (from, to) = (range.start.max(at), range.end.min(end));
            if from < to {
                let within = |offset: u64| usize::try_from(offset - at).unwrap();
                pieces.push(piece.slice(within(from)..within(to)));
            }
            at = end;
        }
        Self(pieces)
    }

    /// With another byte in its middle.
    pub(super) fn with_a_wrong_byte(&self) -> Self {
        let mut whole = BytesMut::new();
        self.0.iter().for_each(|piece| whole.extend_from_slice(piece));
        let middle = whole.len() / 2;
        if let Some(byte) = whole.get_mut(middle) {
            *byte ^= 0x20;
        }
        Self(vec![whole.freeze()])
    }

    pub(super) fn md5(&self) -> Vec<u8> {
        let mut md5 = Stream::<Md5>::default();
        self.0.iter().for_each(|piece| md5.update(piece));
        md5.finish()
    }

    pub(super) fn text(&self) -> String {
        let whole: Vec<u8> = self.0.iter().flatten().copied().collect();
        String::from_utf8_lossy(&whole).into_owned()
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<String> for Blob {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub(super) fn md5_of(text: &[u8]) -> Vec<u8> {
    Blob::from(Bytes::copy_from_slice(text)).md5()
}

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

/// A token of Swift's.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) account: String,
    pub(super) until: Instant,
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
    /// How long a token is good.
    pub(super) token_life: Duration,
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
            token_life: Duration::from_secs(3600),
            unlisted: 0,
            quota: None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) ways: Ways,
    /// By account, which is empty for S3, and name.
    pub(super) buckets: BTreeMap<(String, String), Bucket>,
    pub(super) uploads: BTreeMap<String, Upload>,
    pub(super) tokens: BTreeMap<String, Token>,
    /// S3: access keys. Swift: `USER KEY`, `ID SECRET` of an application credential, `trust ID`. With the
    /// account that each is for.
    pub(super) admitted: BTreeMap<String, String>,
    made: u64,
}

impl Space {
    /// A name that was not given before.
    pub(super) fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}-{}", self.made, hex(&md5_of(&self.made.to_le_bytes())))
    }

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
