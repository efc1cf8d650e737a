//! What is done with one image of a pool, whichever store it is of.

use std::{sync::Arc, time::Duration};

use imaged_ffi::{Errno, Image, Pool};

use super::{
    failure::{failed, failed_or_done},
    location::SNAP,
};
use crate::{contract::Error, kit::lane::Going};

/// How often an image that is still watched is tried to be removed.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(200);

/// The length in bytes of what names an image's internal id.
const ID_OBJECT: usize = 256;

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

/// Whether the image of this name still has this internal id.
pub(super) fn is_still(pool: &Pool, name: &str, internal: &str) -> imaged_ffi::Result<bool> {
    match pool.read(&format!("rbd_id.{name}"), ID_OBJECT) {
        // A length of four bytes, then the id.
        Ok(found) => Ok(found.get(4..) == Some(internal.as_bytes())),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes an image that is no whole one, with its snapshot; false if there is none.
pub(super) fn remove(pool: &Pool, name: &str, going: &Going) -> imaged_ffi::Result<bool> {
    let goes_on = |_done, _all| {
        going.report();
        true
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
        // A removal that was broken off has left the rest in the trash, where this finds it.
        Err(Errno::NOENT) => {
            return match pool.remove(name, goes_on) {
                Ok(()) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(errno) => Err(errno),
            };
        }
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
                    Err(Errno::NOENT) => return Ok(true),
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
