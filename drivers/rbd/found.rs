//! What there is under a name that may be no image yet, and what is told of it.

use imaged_ffi::{Errno, Image, Pool};

use super::{
    config::ALSO,
    handles::is_made,
    image::{close, has_id, id_of, is_sealed},
    location::SNAP,
    metadata,
    store::Store,
};
use crate::{
    contract::{Error, Kind},
    kit::refusals::{already_exists, missing},
};

/// What there is under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole image.
    Whole,
    /// Something that no daemon has made.
    Foreign,
    /// What an upload of this daemon has left, of which its journal knows nothing.
    Own,
    /// What is being made by who has it open here.
    Alive(String),
    /// What is left of an upload.
    Abandoned,
    /// An image without bytes that nobody has open: made and not marked yet, or never.
    Empty,
}

/// What an open image is; `watched`: by this handle too. Blocks.
pub(super) fn find(
    store: &Store,
    image: &Image,
    name: &str,
    watched: bool,
) -> imaged_ffi::Result<Found> {
    if is_sealed(image)? {
        return Ok(Found::Whole);
    }
    let internal = id_of(image, name)?;
    let Some(mark) = metadata::upload_mark(image, &internal)? else {
        let is_empty = image.snaps()?.is_empty()
            && !image.is_old_format()?
            && image.watchers()?.len() <= usize::from(watched)
            && !image.has_objects()?;
        return Ok(if is_empty { Found::Empty } else { Found::Foreign });
    };
    if let Some(address) = mark.watched_at(image, watched, is_made(image.pool(), name))? {
        return Ok(Found::Alive(address));
    }
    let snapped = image.snaps()?.iter().any(|snap| snap.name == SNAP);
    if snapped && metadata::digests(image, &internal, image.size()?)?.is_some() {
        return Ok(Found::Whole);
    }
    Ok(if mark.instance == store.instance { Found::Own } else { Found::Abandoned })
}

/// What is under a name that is taken, though there is no whole image, in words, with the remedy where there is
/// one; `None` of what daemons have not made. `watched`: the handle watches it. Blocks.
fn told(store: &Store, image: &Image, name: &str, watched: bool) -> Option<String> {
    let clears = |what| clears(store, name, what);
    match find(store, image, name, watched).ok()? {
        Found::Alive(address) => Some(format!("it is being made by who has it open at {address}")),
        Found::Abandoned | Found::Own => clears("an upload that was broken off has left this"),
        Found::Empty => clears("there is not a byte in it, and nobody has it open"),
        Found::Whole | Found::Foreign => None,
    }
}

/// The same where no image can be opened: what makes or removes one takes its name first, and gives it back last.
/// Blocks.
fn told_of_name(store: &Store, pool: &Pool, name: &str) -> Option<String> {
    let taken = has_id(pool, name).ok()?;
    taken
        .then(|| clears(store, name, "only the name is left of one that was made or removed"))
        .flatten()
}

/// `what` there is, and what clears it away. In the other pools of a store nothing is recovered.
fn clears(store: &Store, name: &str, what: &str) -> Option<String> {
    let of = &store.name;
    (store.option != ALSO)
        .then(|| format!("{what}: unless it ends yet, `imaged recover {of} {name}` clears it away"))
}

/// [`missing`], with what is there instead. Blocks.
pub(super) fn unfinished(store: &Store, image: &Image, name: &str, watched: bool) -> Error {
    no_image(store, name, told(store, image, name, watched))
}

/// The same where no image can be opened. Blocks.
pub(super) fn unopened(store: &Store, pool: &Pool, name: &str) -> Error {
    no_image(store, name, told_of_name(store, pool, name))
}

fn no_image(store: &Store, name: &str, told: Option<String>) -> Error {
    match told {
        None => missing(name, &store.name),
        Some(why) => Error::new(
            Kind::NotFound,
            format!("no such image, {why}: image=`{name}` store=`{}`", store.name),
        ),
    }
}

/// [`already_exists`], with what it is that has the name if that is no image. Blocks.
pub(super) fn taken(store: &Store, pool: &Pool, name: &str) -> Error {
    let told = match Image::open_unwatched(pool, name, None) {
        Ok(image) => {
            let told = told(store, &image, name, false);
            close(image, name);
            told
        }
        Err(Errno::NOENT) => told_of_name(store, pool, name),
        Err(_) => None,
    };
    match told {
        None => already_exists(name, &store.name),
        Some(why) => Error::new(
            Kind::Exists,
            format!("the id is taken, {why}: id=`{name}` store=`{}`", store.name),
        ),
    }
}
