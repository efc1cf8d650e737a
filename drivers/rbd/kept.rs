//! What is kept with an image as its metadata. Clones and copies inherit it, so all of it names the
//! image that it belongs to by its internal id.

use imaged_ffi::{Errno, Image, Result};
use serde::{Deserialize, Serialize};

use crate::Digests;

/// Who makes the image; matters as long as it has no protected snapshot.
const UPLOAD: &str = "imaged.upload";
/// Who has put the image into the trash.
const TRASHED: &str = "imaged.trashed";
/// The image's size and digests.
const DIGESTS: &str = "imaged.digests";

#[derive(Serialize, Deserialize)]
struct Mark {
    image: String,
    instance: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    image: String,
    size: u64,
    imaged: String,
    #[serde(flatten)]
    digests: Digests,
}

/// Notes that the daemon `instance` makes the image.
pub(super) fn mark(image: &Image, id: &str, instance: &str) -> Result<()> {
    note(image, UPLOAD, id, instance)
}

/// Forgets who has made the image.
pub(super) fn unmark(image: &Image) -> Result<()> {
    match image.metadata_remove(UPLOAD) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// The daemon that makes, or made, the image.
pub(super) fn marked(image: &Image, id: &str) -> Result<Option<String>> {
    noted(image, UPLOAD, id)
}

/// Notes that a daemon puts the image into the trash, so that one takes it out of there.
pub(super) fn mark_trashed(image: &Image, id: &str, instance: &str) -> Result<()> {
    note(image, TRASHED, id, instance)
}

/// Whether a daemon has put the image into the trash.
pub(super) fn is_marked_trashed(image: &Image, id: &str) -> Result<bool> {
    noted(image, TRASHED, id).map(|instance| instance.is_some())
}

/// Keeps the digests of the image.
pub(super) fn keep(image: &Image, id: &str, size: u64, digests: &Digests) -> Result<()> {
    let imaged = env!("CARGO_PKG_VERSION").to_owned();
    let kept = Kept { image: id.to_owned(), size, imaged, digests: digests.clone() };
    image.metadata_set(DIGESTS, &text(&kept)?)
}

/// The digests of the image, if they are its own.
pub(super) fn kept(image: &Image, id: &str, size: u64) -> Result<Option<Digests>> {
    let found: Option<Kept> = read(image, DIGESTS)?;
    Ok(found.filter(|kept| kept.image == id && kept.size == size).map(|kept| kept.digests))
}

fn note(image: &Image, key: &str, id: &str, instance: &str) -> Result<()> {
    let mark = Mark { image: id.to_owned(), instance: instance.to_owned() };
    image.metadata_set(key, &text(&mark)?)
}

/// The daemon that a mark names, if it is of this very image.
fn noted(image: &Image, key: &str, id: &str) -> Result<Option<String>> {
    let found: Option<Mark> = read(image, key)?;
    Ok(found.filter(|mark| mark.image == id).map(|mark| mark.instance))
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
