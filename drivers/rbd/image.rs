//! What is done with one image of a pool, whichever store it is of.

use std::{io, ops::Range, sync::Arc, time::Duration};

use imaged_ffi::{Errno, Image, Pool, Snap, SnapOwner};

use super::{
    failure::{failed, failed_or_done},
    location::SNAP,
};
use crate::{
    contract::{Error, Kind},
    kit::lane::Going,
};

/// How often an image that is still watched is tried to be removed.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(200);

/// The length in bytes of what names an image's internal id.
const ID_OBJECT: usize = 256;

/// Where the header of an image of format 1 has the name that its parts begin with, and what all such names
/// begin with.
const OLD_ID: Range<usize> = 40..64;
const OLD: &str = "rb.";

/// Closes a handle; a failure only goes to the log. Blocks.
pub(super) fn close(image: Image, name: &str) {
    if let Err(errno) = image.close() {
        tracing::warn!(image = name, %errno, "a handle was not closed cleanly");
    }
}

/// Closes a handle, unless a call that has not returned still uses it: its end closes it then.
pub(super) fn give_up(image: Arc<Image>, name: &str) {
    if let Some(image) = Arc::into_inner(image) {
        close(image, name);
    }
}

/// Whether the image has its protected snapshot.
pub(super) fn is_sealed(image: &Image) -> imaged_ffi::Result<bool> {
    match image.snap_is_protected(SNAP) {
        Err(Errno::NOENT) => Ok(false),
        other => other,
    }
}

/// The internal id of an open image; of one of format 1, the name that its parts have and no other's.
/// Blocks.
pub(super) fn id_of(image: &Image, name: &str) -> imaged_ffi::Result<String> {
    match image.id() {
        Err(Errno::INVAL) if image.is_old_format()? => old_id(image.pool(), name),
        id => id,
    }
}

fn old_id(pool: &Pool, name: &str) -> imaged_ffi::Result<String> {
    let header = pool.read(&format!("{name}.rbd"), OLD_ID.end)?;
    let id = header.get(OLD_ID).ok_or(Errno::IO)?;
    let id = id.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(id).into_owned())
}

/// Whether the image of this name still has this internal id.
pub(super) fn is_still(pool: &Pool, name: &str, internal: &str) -> imaged_ffi::Result<bool> {
    if internal.starts_with(OLD) {
        return match old_id(pool, name) {
            Err(Errno::NOENT) => Ok(false),
            found => Ok(found? == internal),
        };
    }
    // A length of four bytes, then the id.
    Ok(id_object(pool, name)?.is_some_and(|found| found.get(4..) == Some(internal.as_bytes())))
}

/// Whether there is an internal id of this name, be there an image that has it or not. Blocks.
pub(super) fn has_id(pool: &Pool, name: &str) -> imaged_ffi::Result<bool> {
    Ok(id_object(pool, name)?.is_some())
}

fn id_object(pool: &Pool, name: &str) -> imaged_ffi::Result<Option<Vec<u8>>> {
    match pool.read(&format!("rbd_id.{name}"), ID_OBJECT) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    }
}

/// Removes an image that is no whole one, with its snapshot; false if there is none.
pub(super) fn remove(pool: &Pool, name: &str, going: &Going) -> imaged_ffi::Result<bool> {
    let goes_on = |_done, _all| {
        going.report();
        true
    };
    // A removal that was broken off has left the rest in the trash, where this finds it.
    let remove_rest = || match pool.remove(name, goes_on) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    };
    match Image::open(pool, name, None) {
        Ok(image) => {
            let unsnapped = match image.lockers() {
                // librbd would wait for the lock, for ever.
                Ok(lockers) if !lockers.is_empty() => Err(Errno::ROFS),
                Ok(_) => unsnap(&image),
                Err(errno) => Err(errno),
            };
            let closed = image.close();
            unsnapped.and(closed)?;
        }
        Err(Errno::NOENT) => return remove_rest(),
        Err(errno) => return Err(errno),
    }
    for _ in 1..TRIES {
        match pool.remove(name, goes_on) {
            Ok(()) => return Ok(true),
            // A handle of our own may still be closing.
            Err(Errno::BUSY) => {
                #[expect(clippy::disallowed_methods, reason = "this is a thread of the lane")]
                std::thread::sleep(BETWEEN);
            }
            // A pool that is full may refuse to note the removal, and yet gives space back.
            Err(Errno::NOENT | Errno::DQUOT | Errno::NOSPC) => {
                match Image::open(pool, name, None) {
                    Ok(image) => {
                        let shrunk = image.resize(0, goes_on);
                        image.close().and(shrunk)?;
                    }
                    // Whoever removed it at the same time may have left the note of this removal there.
                    Err(Errno::NOENT) => return remove_rest().map(|_was_noted| true),
                    Err(errno) => return Err(errno),
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    match pool.remove(name, goes_on) {
        Ok(()) => Ok(true),
        // Shrunk it is, and it could not be noted.
        Err(Errno::NOENT) => Err(Errno::DQUOT),
        Err(errno) => Err(errno),
    }
}

/// Removes the snapshot of an image that is to go. Blocks.
fn unsnap(image: &Image) -> imaged_ffi::Result<()> {
    if !image.snaps()?.iter().any(|snap| snap.name == SNAP) {
        return Ok(());
    }
    match image.snap_unprotect(SNAP) {
        Ok(()) | Err(Errno::INVAL) => image.snap_remove(SNAP),
        Err(errno) => Err(errno),
    }
}

/// Removes an image that could not be made whole; the failure says what is left of it. `snapped`: its
/// snapshot had been begun. Blocks.
pub(super) fn unpublished(
    pool: &Pool,
    name: &str,
    errno: Errno,
    snapped: bool,
    at: crate::Location,
    going: &Going,
) -> Error {
    // A snapshot that did not come in time may come later: only a look can tell.
    if errno == Errno::TIMEDOUT && snapped {
        return failed_or_done("commit", name, errno).at(at);
    }
    cleared(pool, name, failed("commit", name, errno), going)
}

/// Removes an image because of `error`, which says so if it is left. Blocks.
pub(super) fn cleared(pool: &Pool, name: &str, error: Error, going: &Going) -> Error {
    match remove(pool, name, going) {
        Ok(_) => error,
        Err(_left) => error.leaving(name),
    }
}

/// The snapshots for which an image has to stay, in words, if there are any. The one that images have goes
/// with them; so do those of mirroring, and those that clones keep in the trash. Blocks.
pub(super) fn held_by_snaps(image: &Image) -> imaged_ffi::Result<Option<String>> {
    let snaps = image.snaps()?;
    let names = |owners: &[SnapOwner]| {
        let owned = |snap: &&Snap| owners.contains(&snap.owner) && snap.name != SNAP;
        let names: Vec<_> = snaps.iter().filter(owned).map(|snap| snap.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = names(&[SnapOwner::User, SnapOwner::Unknown]) {
        return Ok(Some(format!("it has other snapshots, {names}")));
    }
    Ok(names(&[SnapOwner::Group]).map(|names| {
        format!("it has a part of a group's snapshots, {names} (`rbd group snap ls` shows them)")
    }))
}

/// The failure of `doing` something to an open image, with what keeps it from being changed. Blocks.
pub(super) fn failed_at(image: &Image, doing: &str, name: &str, errno: Errno) -> Error {
    let why = match errno {
        Errno::ROFS | Errno::INVAL if image.is_not_primary() == Ok(true) => NOT_PRIMARY.to_owned(),
        Errno::ROFS => match (locked_by(image), may_not_take_lock(image, doing, name, errno)) {
            (Ok(Some(why)), _) => why,
            (_, Some(denied)) => return denied,
            (_, None) => return failed(doing, name, errno),
        },
        errno => return failed(doing, name, errno),
    };
    Error::new(Kind::InUse, format!("cannot {doing} `{name}`: {why}"))
        .because(io::Error::from(errno))
}

/// The refusal of a user who may not shut out a client that is gone, where that still has the image's lock: then
/// librbd cannot take the lock, and says only that the image is busy, or not to be written to. Blocks.
fn may_not_take_lock(image: &Image, doing: &str, name: &str, errno: Errno) -> Option<Error> {
    let owner = image.lock_owner().ok()??;
    let watchers = image.watchers().ok()?;
    if watchers.iter().any(|watcher| format!("client.{}", watcher.client) == owner.client) {
        return None;
    }
    let (client, address) = (owner.client, owner.address);
    Some(
        Error::new(
            Kind::BackendDenied,
            format!(
                "cannot {doing} `{name}`: {client} at {address} is gone and has the image's lock; to take it the \
                 user must be allowed to shut that client out (`osd blocklist`), as `profile rbd` for the mon \
                 allows and `allow r` does not; start the daemon again when it is"
            ),
        )
        .because(io::Error::from(errno)),
    )
}

/// The failure to remove an image by its name, with the cause if it is kept by the lock of a client that is gone.
/// Blocks.
pub(super) fn not_removed(pool: &Pool, name: &str, errno: Errno) -> Error {
    let doing = "remove";
    let denied = (errno == Errno::BUSY).then(|| {
        let image = Image::open_unwatched(pool, name, None).ok()?;
        let denied = may_not_take_lock(&image, doing, name, errno);
        close(image, name);
        denied
    });
    denied.flatten().unwrap_or_else(|| failed(doing, name, errno))
}

const NOT_PRIMARY: &str = "this image is not primary here: it is mirrored from another cluster, where it can be \
                           changed, unless it is made primary here (`rbd mirror image promote`)";

/// Who has put a lock on the image, if anybody, in words. Blocks.
pub(super) fn locked_by(image: &Image) -> imaged_ffi::Result<Option<String>> {
    let lockers = image.lockers()?;
    let who: Vec<_> = lockers
        .iter()
        .map(|locker| {
            format!("locked by `{}` of {} at {}", locker.lock, locker.client, locker.address)
        })
        .collect();
    Ok((!who.is_empty())
        .then(|| format!("it is {} (`rbd lock rm` takes a lock off)", who.join(", "))))
}
