//! Images that daemons delete: all of them pass through the pool's trash, and those that clones still
//! need stay there until the last clone is gone.
//!
//! The rule that makes a crash harmless: as long as an image is in the pool a delete changes nothing of
//! it but its mark, and what is in the trash under that very mark any daemon may bring to its end. There it
//! is decided by one call, the unprotecting of its snapshot: it goes, or clones need that protection and
//! it comes back. For that a mark is never taken off: another daemon may be about to move the image by it.
//! On an image that stayed it says nothing, for whoever else moves that has another number.
//!
//! And the rule that makes two deletes at once harmless: who moves an image into the trash has it open until
//! that is done, and nobody removes what another has open. librbd's move looks the name up and takes it away
//! a while later; if the image could be gone by then, that would be the name of another one, and the trash
//! would list for good what is not there.

use std::sync::{Arc, atomic::Ordering};

use imaged_ffi::{Errno, Image, Pool, Trashed};

use super::{
    failure::failed,
    image::{close, held_by_snaps, is_sealed},
    location::SNAP,
    metadata,
    store::{Store, run_long_on},
};
use crate::{contract::Result, kit::lane::Going};

/// What comes before the internal id in the name of the object without which there is no image.
const HEADER: &str = "rbd_header.";

/// How a deletion has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is gone.
    Gone,
    /// It is gone for all but its clones, or for whoever has it open; so many bytes long.
    Kept(u64),
    /// It is where it was, because of this.
    Back(&'static str),
}

/// Why it comes back, if it does.
type Decided = imaged_ffi::Result<Option<&'static str>>;

/// Brings the deletion of an image in the trash to its end. `pass` is told the points that it passes.
/// Blocks, for as long as its objects take.
///
/// # Errors
/// It is to be tried again; `decided` says whether the image goes for sure.
pub(super) fn end(
    pool: &Pool,
    (id, name): (&str, &str),
    going: &Going,
    decided: &mut bool,
    pass: fn(&'static str),
) -> imaged_ffi::Result<Ended> {
    let image = match Image::open_by_id(pool, id) {
        // Another was faster.
        Err(Errno::NOENT) => {
            *decided = true;
            return forget_gone(pool, id).map(|_was_gone| Ended::Gone);
        }
        image => image?,
    };
    match decide(&image) {
        Ok(None) => {}
        Ok(Some(why)) => return put_back(pool, image, (id, name), pass).map(|()| Ended::Back(why)),
        Err(errno) => {
            close(image, name);
            return Err(errno);
        }
    }
    *decided = true;
    pass("delete-decided");
    let emptied = empty(&image);
    close(image, name);
    let (size, is_free) = emptied?;
    if !is_free {
        return Ok(Ended::Kept(size));
    }
    pass("delete-unsnapped");
    let goes_on = |_done, _all| {
        going.report();
        true
    };
    match pool.trash_remove(id, goes_on) {
        Ok(()) | Err(Errno::NOENT) => Ok(Ended::Gone),
        Err(Errno::NOTEMPTY | Errno::BUSY) => Ok(Ended::Kept(size)),
        Err(errno) => Err(errno),
    }
}

/// Takes an image that is not there any more off the list of the trash, where clients that delete it at the
/// same time may leave it; false if it is there. Blocks.
///
/// # Errors
/// It is listed still.
fn forget_gone(pool: &Pool, id: &str) -> imaged_ffi::Result<bool> {
    // That it cannot be opened is not enough: so it is with a clone whose parent is missing.
    if pool.read(&format!("{HEADER}{id}"), 1) != Err(Errno::NOENT) {
        return Ok(false);
    }
    match pool.trash_remove(id, |_done, _all| true) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Whether the image goes, which from then on cannot be taken back.
fn decide(image: &Image) -> Decided {
    if is_sealed(image)? && held_by_snaps(image)?.is_some() {
        return Ok(Some("it has other snapshots"));
    }
    match image.snap_unprotect(SNAP) {
        // Decided before; or never whole.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(Errno::BUSY) => Ok(Some("it has clones")),
        Err(errno) => Err(errno),
    }
}

/// Removes the snapshot of an image that goes, unless somebody needs it as it is. Returns its length in
/// bytes, and whether nobody needs the image any more.
fn empty(image: &Image) -> imaged_ffi::Result<(u64, bool)> {
    let size = image.size()?;
    // Who has opened it before it was moved reads on; and what is locked cannot be removed.
    if image.watchers()?.len() > 1 || !image.lockers()?.is_empty() {
        return Ok((size, false));
    }
    match image.snap_remove(SNAP) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    // Its snapshot is in a trash of its own as long as it has clones.
    Ok((size, image.children()?.is_empty()))
}

/// Gives an image that does not go its name back, with its snapshot protected.
fn put_back(
    pool: &Pool,
    image: Image,
    (id, name): (&str, &str),
    pass: fn(&'static str),
) -> imaged_ffi::Result<()> {
    let sealed = match image.snap_is_protected(SNAP) {
        Ok(false) => match image.snap_protect(SNAP) {
            Err(Errno::BUSY) => Ok(()),
            sealed => sealed,
        },
        sealed => sealed.map(drop),
    };
    close(image, name);
    sealed?;
    match pool.trash_restore(id, name) {
        // Another has put it back.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    pass("delete-back");
    Ok(())
}

/// Begins to purge the trash, and does not wait for it.
pub(super) fn purge_soon(store: &Arc<Store>) {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        if let Err(error) = purge(&store).await {
            let error = error.chain();
            tracing::warn!(store = store.name, error, "the trash is not purged now");
        }
    });
}

/// Purges the trash, one at a time: who comes meanwhile waits for the next time.
pub(super) async fn purge(store: &Arc<Store>) -> Result<()> {
    store.purge_again.store(true, Ordering::SeqCst);
    let _one = store.purging.lock().await;
    if !store.purge_again.swap(false, Ordering::SeqCst) {
        return Ok(());
    }
    let (_, pool) = store.connected().await?;
    let purged =
        run_long_on(&store.purge_lane, (store, &pool), "purge the trash", |store, pool, going| {
            end_all(store, pool, going)
        });
    purged.await
}

/// Brings the deletions to their end that daemons have begun and not ended. What others have put into
/// the trash is left alone, and what cannot be looked at is for another time. Blocks.
///
/// # Errors
/// The trash cannot be listed.
fn end_all(store: &Store, pool: &Pool, going: &Going) -> Result<()> {
    let fail = |errno| failed("look at the trash of", pool.name(), errno);
    let entries = pool.trash_list().map_err(fail)?;
    for known in [&store.foreign, &store.logged] {
        known.lock().retain(|id| entries.iter().any(|entry| entry.id == *id));
    }
    let mut kept_bytes = 0_u64;
    for entry in entries.iter().filter(|entry| metadata::DEFERRED_S.contains(&entry.deferred_s)) {
        going.report();
        if store.foreign.lock().contains(&entry.id) || store.handles.deletes(&entry.name) {
            continue;
        }
        let ended = match is_ours(pool, entry) {
            Ok(true) => end(pool, (&entry.id, &entry.name), going, &mut false, |_point| {}),
            Ok(false) => {
                store.foreign.lock().insert(entry.id.clone());
                continue;
            }
            Err(Errno::NOENT) => forget_gone(pool, &entry.id)
                .and_then(|is_gone| is_gone.then_some(Ended::Gone).ok_or(Errno::NOENT)),
            Err(errno) => Err(errno),
        };
        // The log says once what does not change.
        let is_new = ended.is_err() && store.logged.lock().insert(entry.id.clone());
        let (store, image) = (&store.name, &entry.name);
        match ended {
            Ok(Ended::Gone) => tracing::info!(store, image, "purged from the trash"),
            Ok(Ended::Kept(size)) => kept_bytes = kept_bytes.saturating_add(size),
            Ok(Ended::Back(why)) => tracing::warn!(store, image, why, "an image is not deleted"),
            Err(Errno::NOENT) => {}
            Err(errno) if !is_new => {
                tracing::debug!(store, image, %errno, "left in the trash again")
            }
            Err(Errno::EXIST) => tracing::warn!(
                store,
                image,
                id = entry.id,
                "an image that was to be deleted has clones and cannot come back, for there is another \
                 of its name: it stays in the trash until that is gone"
            ),
            Err(errno) => {
                tracing::warn!(store, image, %errno, "an entry of the trash is left for another time");
            }
        }
    }
    *store.trash.lock() = Some(kept_bytes);
    Ok(())
}

/// Whether a daemon has put this into the trash, by this very deletion.
fn is_ours(pool: &Pool, entry: &Trashed) -> imaged_ffi::Result<bool> {
    let image = Image::open_by_id_unwatched(pool, &entry.id)?;
    let marked = metadata::trash_mark(&image, &entry.id);
    close(image, &entry.name);
    Ok(marked? == Some(entry.deferred_s))
}
