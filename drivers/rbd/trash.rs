//! Deleted images that clones still need: they are in the pool's trash until the last clone is gone.

use imaged_ffi::{Errno, Image, Pool};

use super::{
    failure::{Late, failed},
    kept,
    store::{Store, close},
    upload,
};
use crate::Result;

/// Marks an image as put into the trash by a daemon, which it has yet to be. Returns its internal id.
/// Blocks.
pub(super) fn mark(store: &Store, image: &Image) -> imaged_ffi::Result<String> {
    let id = image.id()?;
    kept::mark_trashed(image, &id, &store.instance)?;
    Ok(id)
}

/// Removes an image from the trash, with its snapshot. Blocks.
pub(super) fn remove(pool: &Pool, id: &str) -> imaged_ffi::Result<()> {
    let image = Image::open_by_id(pool, id)?;
    take_out(pool, image, id)
}

fn take_out(pool: &Pool, image: Image, id: &str) -> imaged_ffi::Result<()> {
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
        let (image, size) = match look(pool, &entry.id) {
            Ok(Some(ours)) => ours,
            // Another's, or gone meanwhile.
            Ok(None) | Err(Errno::NOENT) => continue,
            Err(errno) => return Err(fail(errno)),
        };
        match take_out(pool, image, &entry.id) {
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

/// An image in the trash and its length in bytes, if a daemon has put it there.
fn look(pool: &Pool, id: &str) -> imaged_ffi::Result<Option<(Image, u64)>> {
    let image = Image::open_by_id(pool, id)?;
    let looked = kept::is_marked_trashed(&image, id)
        .and_then(|ours| if ours { image.size().map(Some) } else { Ok(None) });
    match looked {
        Ok(Some(size)) => Ok(Some((image, size))),
        Ok(None) => {
            close(image, id);
            Ok(None)
        }
        Err(errno) => {
            close(image, id);
            Err(errno)
        }
    }
}
