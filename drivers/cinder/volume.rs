//! Volumes as Cinder shows them, and what their metadata say of images.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};

use super::location;
use crate::contract::{Digests, Error, ImageId, Kind, Result};

/// Bytes of what Cinder counts sizes in.
pub(super) const GIB: u64 = 1 << 30;

/// What glance_store writes: the image's id.
const IMAGE: &str = "glance_image_id";
/// Its length in bytes.
const SIZE: &str = "image_size";
/// The project it is of.
const OWNER: &str = "image_owner";
/// The store that it is of: several may have their volumes in one project.
const STORE: &str = "imaged_store";
/// What says that a volume is none yet: the nonce of the upload that writes it.
pub(super) const UPLOAD: &str = "imaged_upload";
/// What says that a volume is whole: the nonce of the upload that wrote it.
const MADE: &str = "imaged_made";
/// What says that a volume is what another one held at a moment: the nonce of the work that has it.
pub(super) const SEAL: &str = "imaged_seal";
/// The digests.
const CHECKSUM: &str = "imaged_checksum";
const ALGO: &str = "imaged_hash_algo";
const HASH: &str = "imaged_hash_value";
/// The md5 of the first bytes, by which the device is known again.
const HEAD: &str = "imaged_head";

/// By name.
pub(super) type Metadata = BTreeMap<String, String>;

/// A volume.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Volume {
    /// Its UUID.
    pub(super) id: location::Volume,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) status: String,
    /// In GiB.
    #[serde(rename = "size")]
    pub(super) gib: u64,
    #[serde(default, deserialize_with = "texts")]
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) volume_type: Option<String>,
    #[serde(default)]
    pub(super) encrypted: bool,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    attachments: Vec<Attached>,
}

/// Where a volume is attached.
#[derive(Clone, Debug, Deserialize)]
struct Attached {
    /// Told to admins and services alone.
    #[serde(default)]
    host_name: Option<String>,
}

/// Metadata, in which servers may have nulls.
fn texts<'a, D: Deserializer<'a>>(from: D) -> Result<Metadata, D::Error> {
    let found = Option::<BTreeMap<String, Option<String>>>::deserialize(from)?.unwrap_or_default();
    Ok(found.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect())
}

impl Volume {
    /// Bytes that it has.
    pub(super) fn bytes(&self) -> u64 {
        self.gib.saturating_mul(GIB)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(String::as_str)
    }

    /// The id of the image that it has or is to have; `None` if it has none.
    pub(super) fn image(&self) -> Option<ImageId> {
        self.text(IMAGE)?.parse().ok()
    }

    /// Whether it is of the store of this name, whose volumes have this type. What others have made tells no
    /// store, and is of the one that has its type.
    pub(super) fn is_in(&self, store: &str, volume_type: Option<&str>) -> bool {
        match self.text(STORE) {
            Some(named) => named == store,
            None => volume_type.is_none() || self.volume_type.as_deref() == volume_type,
        }
    }

    /// Whether it is whole and not on its way out. Of its own clone of a volume Cinder tells the image's owner before
    /// Glance gets the location, and the image afterwards.
    pub(super) fn is_whole(&self) -> bool {
        let made = !self.metadata.contains_key(UPLOAD) && !self.metadata.contains_key(SEAL);
        let of_image = self.image().is_some() || self.metadata.contains_key(OWNER);
        made && of_image && !self.is_leaving()
    }

    /// By whom it is attached, where that is told: ` by host NAME`.
    pub(super) fn attached_by(&self) -> String {
        let hosts = self.attachments.iter().filter_map(|one| one.host_name.as_deref());
        let hosts = hosts.map(|host| host.chars().filter(|c| !c.is_control()).take(100).collect());
        let hosts: BTreeSet<String> = hosts.collect();
        if hosts.is_empty() {
            return String::new();
        }
        format!(" by host {}", hosts.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// Whether nobody reads it any more.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.status.as_str(), "deleting" | "error_deleting" | "creating" | "error")
    }

    /// Whether the work of this nonce made it, or began to.
    pub(super) fn is_of(&self, nonce: &str) -> bool {
        self.is_begun_by(nonce) || self.text(MADE) == Some(nonce)
    }

    /// Whether the work of this nonce began to make it, and has not made it an image.
    pub(super) fn is_begun_by(&self, nonce: &str) -> bool {
        [UPLOAD, SEAL].iter().any(|name| self.text(name) == Some(nonce))
    }

    /// The length of its image in bytes. One that others have put there without a length fills it.
    pub(super) fn image_size(&self) -> Result<u64> {
        let Some(text) = self.text(SIZE) else { return Ok(self.bytes()) };
        let size = text.parse().ok().filter(|size| *size <= self.bytes());
        size.ok_or_else(|| {
            Error::new(
                Kind::Unavailable,
                format!(
                    "the volume's metadata tell no length that it can hold, mend them: volume=`{}` \
                     {SIZE}=`{text}` gib=`{}`",
                    self.id, self.gib
                ),
            )
        })
    }

    /// The digests, if they are kept.
    pub(super) fn digests(&self) -> Option<Digests> {
        let text = |name| self.text(name).map(str::to_owned);
        Some(Digests { checksum: text(CHECKSUM), hash_algo: text(ALGO)?, hash_value: text(HASH)? })
    }

    /// The md5 of the first bytes, if they were read when it was written.
    pub(super) fn head(&self) -> Option<&str> {
        self.text(HEAD)
    }

    /// What of two volumes of one image stays: the older one.
    pub(super) fn age(&self) -> (Option<&str>, &str) {
        (self.created_at.as_deref(), self.id.as_str())
    }
}

/// The name that glance_store gives to the volume of an image.
pub(super) fn name(id: &ImageId) -> String {
    format!("image-{id}")
}

fn pairs<const N: usize>(pairs: [(&str, Option<String>); N]) -> Metadata {
    let told = pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    told.collect()
}

/// An image as its volume's metadata tell of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) store: &'a str,
    pub(super) id: &'a ImageId,
    pub(super) size: Option<u64>,
    pub(super) owner: Option<&'a str>,
    /// Of the work that makes it.
    pub(super) nonce: &'a str,
}

/// What is the same from the beginning to the end.
fn common(told: Told<'_>) -> Metadata {
    let Told { store, id, size, owner, nonce: _ } = told;
    pairs([
        (STORE, Some(store.to_owned())),
        (IMAGE, Some(id.to_string())),
        (SIZE, size.map(|size| size.to_string())),
        (OWNER, owner.map(str::to_owned)),
    ])
}

/// What is written at first.
pub(super) fn begun(told: Told<'_>) -> Metadata {
    let mut all = common(told);
    all.insert(UPLOAD.to_owned(), told.nonce.to_owned());
    all
}

/// What a whole image has, and nothing else.
pub(super) fn whole(told: Told<'_>, head: Option<String>, digests: Option<&Digests>) -> Metadata {
    let mut all = common(told);
    all.extend(pairs([(MADE, Some(told.nonce.to_owned())), (HEAD, head)]));
    all.extend(digests.map(kept).unwrap_or_default());
    all
}

/// What the clone of a volume is told to be.
pub(super) fn sealing(id: &ImageId, nonce: &str) -> Metadata {
    pairs([(SEAL, Some(nonce.to_owned())), ("imaged_for", Some(id.to_string()))])
}

/// Digests as metadata.
pub(super) fn kept(digests: &Digests) -> Metadata {
    let Digests { checksum, hash_algo, hash_value } = digests.clone();
    pairs([(CHECKSUM, checksum), (ALGO, Some(hash_algo)), (HASH, Some(hash_value))])
}

/// GiB that hold so many bytes; a volume has at least one.
pub(super) fn gib(bytes: u64) -> u64 {
    bytes.div_ceil(GIB).max(1)
}
