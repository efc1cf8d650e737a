//! The JSON documents: what is stored, what stores there are, what is under way, what to copy.
//! The daemon writes some and the client others, and each reads the other's.

use imaged_drivers::{Capacity, Properties};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The store's name.
    pub store: String,
    /// The image's id.
    pub id: String,
    /// Where it is: the URI that glance_store would have made.
    pub location: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its md5 in hexadecimal; absent while `digest_job` runs, and with `checksum = none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// The multihash algorithm.
    pub hash_algo: String,
    /// The multihash in hexadecimal; absent while `digest_job` runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_value: Option<String>,
    /// Location metadata for Glance; always has `store`.
    #[schema(value_type = Object)]
    pub metadata: Properties,
    /// Bytes that take space after zeros were skipped.
    pub stored_bytes: u64,
    /// The job that computes the digests, if they follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_job: Option<String>,
}

/// How to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Inside the backend if it can, else through the daemon.
    #[default]
    Auto,
    /// Inside the backend; digests may follow.
    Clone,
    /// Inside the backend; digests before the answer.
    Copy,
    /// Through the daemon.
    Stream,
}

/// The body of `POST /v1/stores/{store}/images/{id}`, and of `POST /v1/images/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// What to make the image from.
    pub source: Origin,
    /// How.
    #[serde(default)]
    pub mode: Mode,
    /// The multihash algorithm.
    #[serde(default)]
    pub hash_algo: Option<String>,
    /// The stores that it is to go to, where the path names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
    /// Whether none of them is to have it unless all do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_or_none: bool,
}

/// The body of `PUT /v1/stores/{store}/images/{id}/acl`: who may reach an image beside its owner.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Whether everybody may read it.
    #[serde(default)]
    pub public: bool,
    /// Projects, by their ids, that may read it.
    #[serde(default)]
    pub read: Vec<String>,
    /// Projects, by their ids, that may write it.
    #[serde(default)]
    pub write: Vec<String>,
}

/// A source: exactly one of the three.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// The location of an image.
    pub location: Option<String>,
    /// The store it is in, or that reaches the volume; without it, the first one that does.
    pub store: Option<String>,
    /// A volume in Ceph, `pool/name` or `pool/name@snapshot`.
    pub rbd_volume: Option<String>,
    /// A Cinder volume.
    pub cinder_volume: Option<String>,
}

/// `GET /v1/stores`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Stores {
    /// In the order of `enabled_backends`.
    pub stores: Vec<Shown>,
}

/// Whether a store can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It can.
    Up,
    /// It cannot, for the reason beside it.
    Down,
}

/// A store as callers see it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Shown {
    /// Its name.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `store_description`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it is the default.
    pub default: bool,
    /// `weight`: larger is preferred.
    pub weight: i64,
    /// Whether nothing may be written or deleted.
    pub read_only: bool,
    /// Whether it can be used.
    pub state: Health,
    /// Why it is down, or, of one that is up, why it can only be read now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is good to know of it although it can be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it can do; empty until it could be opened.
    #[schema(value_type = Object)]
    pub capabilities: serde_json::Value,
    /// What Glance shows of it.
    #[schema(value_type = Object)]
    pub properties: Properties,
    /// Space in bytes, where the backend tells; only of one store at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub capacity: Option<Capacity>,
    /// What of the journal this imaged cannot read, and therefore keeps: the ids stay taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread_intents: Vec<Unread>,
}

/// A file of the journal that this version cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unread {
    /// The file's name.
    pub file: String,
    /// The store that it speaks of, if it can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The image that it speaks of, if it can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Why it cannot be read.
    pub why: String,
}

/// One image of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub location: String,
    /// Its length in bytes.
    pub size: u64,
    /// In what it differs from the images that the store makes now, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odd: Option<String>,
}

/// What `POST /v1/stores/{store}/images/{id}/recover` has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Remains {
    /// There was nothing.
    Nothing,
    /// A whole image, which stays.
    Whole,
    /// What an upload had left, which is removed.
    Removed,
}

/// The answer of `POST /v1/stores/{store}/images/{id}/recover`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// The store.
    pub store: String,
    /// The image's id.
    pub image: String,
    /// What there was.
    pub found: Remains,
    /// What is removed, in words.
    pub removed: Vec<String>,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// At work.
    Running,
    /// Failed, and will be tried again.
    Waiting,
    /// Finished.
    Done,
    /// Given up.
    Failed,
    /// Ended by request.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A job as callers see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct View {
    /// Its id; a job that a request waits for has the request's id.
    pub id: String,
    /// `put`, `copy`, `digest` or `flatten`; the last counts objects, not bytes.
    pub kind: String,
    /// The store's name.
    pub store: String,
    /// The image's id.
    pub image: String,
    /// How it stands.
    pub state: State,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
    /// Why it failed, or failed last.
    pub error: Option<String>,
    /// When it began, in seconds since 1970.
    pub begun: u64,
}

/// `GET /v1/jobs`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Jobs {
    /// Oldest first.
    pub jobs: Vec<View>,
}
