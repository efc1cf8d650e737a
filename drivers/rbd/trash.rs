//! Deleted images that clones still need: they are in the pool's trash until the last clone is gone.

use imaged_ffi::{Errno, Image, Pool};

use super::{
    failure::{Late, failed},
    kept,
    store::{Store, close},
    upload,
};
use crate::Result;

/// Moves an image into the trash, marked as put there by a daemon: the name is free at once, and after
/// a crash it is removed all the same. Returns its internal id. Blocks.
pub(super) fn discard(store: &Store, pool: &Pool, name: &str) -> imaged_ffi::Result<String> {
    let image = Image::open(pool, name, None)?;
    let marked = image.id().and_then(|id| {
        kept::mark_trashed(&image, &id, &store.instance)?;
        Ok(id)
    });
    close(image, name);
    let id = marked?;
    pool.trash_move(name)?;
    Ok(id)
}

/// Removes an image from the trash, with its snapshot. Blocks.
pub(super) fn remove(pool: &Pool, id: &str) -> imaged_ffi::Result<()> {
    let image = Image::open_by_id(pool, id)?;
    let unsnapped = upload::unsnap(&image);
    image.close().and(unsnapped)?;
    pool.trash_remove(id)
}

/// Removes what daemons have put into the trash and no clone needs any more. Returns the length in
/// bytes of what stays. What others have put there is left alone. Blocks.
///
/// # Errors
/// The trash cannot be looked at.
pub(super) fn purge(store: &Store, pool: &Pool) -> Result<u64> {
    let fail = |errno| failed("look at the trash of", pool.name(), errno, Late::Away);
    let mut kept = 0_u64;
    for entry in pool.trash_list().map_err(fail)? {
        let size = match look(pool, &entry.id) {
            Ok(Some(size)) => size,
            // Another's, or gone meanwhile.
            Ok(None) | Err(Errno::NOENT) => continue,
            Err(errno) => return Err(fail(errno)),
        };
        match remove(pool, &entry.id) {
            Ok(()) => {
                tracing::info!(store = store.name, image = entry.name, "purged from the trash")
            }
            Err(Errno::NOENT) => {}
            // It has clones, or somebody has it open.
            Err(_) => kept = kept.saturating_add(size),
        }
    }
    Ok(kept)
}

/// The same, where nobody waits for it: what cannot be done now is done in another round. Blocks.
pub(super) fn purge_quietly(store: &Store, pool: &Pool) {
    if let Err(error) = purge(store, pool) {
        tracing::warn!(store = store.name, error = %error.chain(), "the trash is not purged now");
    }
}

/// The length in bytes of an image in the trash, if a daemon has put it there.
fn look(pool: &Pool, id: &str) -> imaged_ffi::Result<Option<u64>> {
    let image = Image::open_by_id(pool, id)?;
    let looked = kept::is_marked_trashed(&image, id)
        .and_then(|ours| if ours { image.size().map(Some) } else { Ok(None) });
    close(image, id);
    looked
}
