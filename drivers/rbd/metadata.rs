//! What daemons write into the metadata of an image: who makes it, which deletion has put it into the
//! trash, and its digests.
//! Clones and copies inherit it, so all of it names the image that it belongs to by its internal id.

use std::{
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use imaged_ffi::{Errno, Image, Result};
use serde::{Deserialize, Serialize};

use crate::contract::Digests;

/// Who makes the image; matters as long as it has no protected snapshot.
const UPLOAD: &str = "imaged.upload";
/// Which deletion has put the image into the trash.
const TRASHED: &str = "imaged.trashed";
/// The image's size and digests.
const DIGESTS: &str = "imaged.digests";

#[derive(Serialize, Deserialize)]
pub(super) struct UploadMark {
    image: String,
    /// The daemon that makes the image, or has made it.
    pub(super) instance: String,
    /// The number in the cluster of the connection over which it is made; earlier daemons wrote none.
    #[serde(default)]
    client: Option<u64>,
}

impl UploadMark {
    /// Where whoever makes the image still has it open: its watch goes when it closes the image, and some time
    /// after its end. Where the mark does not tell who that is, anybody may be, but this handle, if it has a
    /// watch too (`watched`). Who reads over this very connection looks like who writes: for that, `writes`
    /// says whether this process makes the image. Blocks.
    pub(super) fn watched_at(
        &self,
        image: &Image,
        watched: bool,
        writes: bool,
    ) -> Result<Option<String>> {
        let own = image.pool().cluster().instance_id();
        let watchers = image.watchers()?;
        let of = |client| {
            watchers.iter().find(move |watcher| u64::try_from(watcher.client) == Ok(client))
        };
        let owner = match self.client {
            Some(client) if client == own && !writes => None,
            Some(client) => of(client),
            None => watchers.first().filter(|_| watchers.len() > usize::from(watched)),
        };
        Ok(owner.map(|watcher| watcher.address.clone()))
    }
}

#[derive(Serialize, Deserialize)]
struct TrashMark {
    image: String,
    instance: String,
    deferred_s: u64,
}

/// Among which a deletion has its number of seconds: no round numbers that a person would choose.
pub(super) const DEFERRED_S: Range<u64> = 50_021..85_991;

#[derive(Serialize, Deserialize)]
struct DigestRecord {
    image: String,
    size: u64,
    imaged: String,
    #[serde(flatten)]
    digests: Digests,
}

/// Writes that the daemon `instance` makes the image.
pub(super) fn set_upload_mark(image: &Image, id: &str, instance: &str) -> Result<()> {
    let client = Some(image.pool().cluster().instance_id());
    let mark = UploadMark { image: id.to_owned(), instance: instance.to_owned(), client };
    image.metadata_set(UPLOAD, &text(&mark)?)
}

/// Who makes, or made, the image.
pub(super) fn upload_mark(image: &Image, id: &str) -> Result<Option<UploadMark>> {
    let found: Option<UploadMark> = read(image, UPLOAD)?;
    Ok(found.filter(|mark| mark.image == id))
}

/// Writes that a daemon moves the image into the trash, and for how many seconds it asks to have it kept
/// there. The cluster has that number beside the image in the trash, and so the mark names this
/// very deletion: whatever others put there, now or later, has another.
pub(super) fn set_trash_mark(image: &Image, id: &str, instance: &str) -> Result<u64> {
    // A move that was not answered may come to be yet, with the number that it had.
    if let Some(deferred_s) = trash_mark(image, id)? {
        return Ok(deferred_s);
    }
    let deferred_s = DEFERRED_S.start + any_below(DEFERRED_S.end - DEFERRED_S.start);
    let mark = TrashMark { image: id.to_owned(), instance: instance.to_owned(), deferred_s };
    image.metadata_set(TRASHED, &text(&mark)?)?;
    Ok(deferred_s)
}

/// Some number below `end`, such as no other daemon has at this time.
pub(super) fn any_below(end: u64) -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    u64::from(nanos) % end.max(1)
}

/// The number of the deletion that has put the image into the trash, if a daemon did or was about to.
pub(super) fn trash_mark(image: &Image, id: &str) -> Result<Option<u64>> {
    let found: Option<TrashMark> = read(image, TRASHED)?;
    let ours = |mark: &TrashMark| mark.image == id && DEFERRED_S.contains(&mark.deferred_s);
    Ok(found.filter(ours).map(|mark| mark.deferred_s))
}

/// Writes the digests of the image.
pub(super) fn store_digests(image: &Image, id: &str, size: u64, digests: &Digests) -> Result<()> {
    let imaged = env!("CARGO_PKG_VERSION").to_owned();
    let record = DigestRecord { image: id.to_owned(), size, imaged, digests: digests.clone() };
    image.metadata_set(DIGESTS, &text(&record)?)
}

/// The digests of the image, if they are its own.
pub(super) fn digests(image: &Image, id: &str, size: u64) -> Result<Option<Digests>> {
    let found: Option<DigestRecord> = read(image, DIGESTS)?;
    Ok(found
        .filter(|record| record.image == id && record.size == size)
        .map(|record| record.digests))
}

fn text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|_never| Errno::INVAL)
}

/// What cannot be read was not written by us.
fn read<T: for<'a> Deserialize<'a>>(image: &Image, key: &str) -> Result<Option<T>> {
    match image.metadata(key) {
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
