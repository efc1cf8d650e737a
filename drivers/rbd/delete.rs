//! Removing images. One that is deleted is looked at, marked, moved into the trash, and there its deletion is brought to
//! an end, see [`trash`]; what an upload has left is removed at once.

use imaged_ffi::{Errno, Image, Pool, sys};

use super::{
    failure::failed,
    image::{close, is_sealed, locked_by, remove},
    location::SNAP,
    metadata,
    store::Store,
    trash::{self, Ended},
};
use crate::{
    contract::{Error, Kind, Recovered, Result},
    kit::{lane::Going, point, refusals::missing},
};

/// Removes an image, or leaves it as it was. Returns whether it was a clone. Blocks.
pub(super) fn delete(store: &Store, pool: &Pool, name: &str, going: &Going) -> Result<bool> {
    let fail = |errno| match errno {
        Errno::NOENT => missing(name, &store.name),
        errno => failed("delete", name, errno),
    };
    let image = match Image::open(pool, name, None) {
        // What an earlier delete did not get done.
        Err(Errno::NOENT) => {
            let goes_on = |_done, _all| {
                going.report();
                true
            };
            return pool.remove(name, goes_on).map(|()| false).map_err(fail);
        }
        image => image.map_err(fail)?,
    };
    let ready = may_delete(store, &image, name).and_then(|clones| {
        let cloned = image.overlap().map_err(fail)? > 0;
        let internal = image.id().map_err(fail)?;
        let number = metadata::set_trash_mark(&image, &internal, &store.instance).map_err(fail)?;
        Ok((clones, cloned, internal, number))
    });
    close(image, name);
    store.forget(name);
    let (clones, cloned, internal, number) = ready?;
    point::pass("delete-marked");
    // The name is free at once, and after a crash the rest is done all the same.
    match pool.trash_move(name, number) {
        Ok(()) => {}
        // It may come to be yet; then the mark says what it is.
        Err(errno @ Errno::TIMEDOUT) => return Err(fail(errno)),
        Err(errno) => {
            trash::unmark(pool, name, &internal);
            return Err(match errno {
                Errno::BUSY => in_use(name, "it is being removed or migrated"),
                errno => fail(errno),
            });
        }
    }
    point::pass("delete-moved");
    let mut decided = !clones;
    match trash::end(pool, (&internal, name), going, &mut decided, point::pass) {
        Ok(Ended::Gone | Ended::Kept(_)) => Ok(cloned),
        Ok(Ended::Back(why)) => Err(in_use(name, why)),
        Err(errno) if decided => {
            // What takes its time can be done again.
            tracing::debug!(image = name, %errno, "a deleted image stays in the trash");
            Ok(cloned)
        }
        Err(errno) => {
            tracing::warn!(
                image = name, %errno,
                "an image that was to be deleted is in the trash: it goes, or comes back, with the next \
                 look at that"
            );
            Err(fail(errno))
        }
    }
}

/// Whether the image has clones that outlive it; refuses an image that something else needs or uses.
fn may_delete(store: &Store, image: &Image, name: &str) -> Result<bool> {
    let fail = |errno| failed("look at", name, errno);
    // Without the mon nothing is begun: some of what follows waits for it without a limit.
    let _answers = image.pool().cluster().stat().map_err(fail)?;
    let internal = image.id().map_err(fail)?;
    let sealed = is_sealed(image).map_err(fail)?;
    let mark = metadata::upload_mark(image, &internal).map_err(fail)?;
    // One that is being made is no image yet, whoever makes it: it has its mark, no snapshot and no digests.
    let being_made = || -> imaged_ffi::Result<bool> {
        Ok(mark.is_some()
            && image.snaps()?.is_empty()
            && metadata::digests(image, &internal, image.size()?)?.is_none())
    };
    if !sealed && being_made().map_err(fail)? {
        return Err(missing(name, &store.name));
    }
    let watchers = image.watchers().map_err(fail)?;
    if watchers.len() > 1 {
        let who: Vec<_> = watchers.iter().map(|watcher| watcher.address.as_str()).collect();
        return Err(in_use(name, &format!("it is open at {}", who.join(", "))));
    }
    // librbd would wait for the lock, for ever.
    if let Some(why) = locked_by(image).map_err(fail)? {
        return Err(in_use(name, &why));
    }
    let snaps = image.snaps().map_err(fail)?;
    let others: Vec<_> =
        snaps.iter().map(|snap| snap.name.as_str()).filter(|name| *name != SNAP).collect();
    if !others.is_empty() {
        return Err(in_use(name, &format!("it has other snapshots, {}", others.join(", "))));
    }
    if !sealed {
        return Ok(false);
    }
    let has_clones = !image.children().map_err(fail)?.is_empty();
    let second = image.op_features().map_err(fail)? & sys::RBD_OPERATION_FEATURE_CLONE_PARENT;
    // Those of the first format need its protection; where there are both, that shows in the trash.
    if has_clones && second == 0 {
        return Err(in_use(name, "it has clones"));
    }
    Ok(has_clones)
}

fn in_use(name: &str, why: &str) -> Error {
    Error::new(Kind::InUse, format!("the image cannot be deleted now, {why}: image=`{name}`"))
}

/// The refusal of an image that is being read.
pub(super) fn is_read(name: &str) -> Error {
    in_use(name, "it is being read")
}

/// Removes what an upload of `name` has left. Blocks.
pub(super) fn recover(store: &Store, pool: &Pool, name: &str, going: &Going) -> Result<Recovered> {
    let fail = |errno| failed("look at", name, errno);
    let image = match Image::open(pool, name, None) {
        Ok(image) => image,
        // It may be half removed.
        Err(Errno::NOENT) => return remove_residue(pool, name, going),
        Err(errno) => return Err(fail(errno)),
    };
    let looked = || {
        let internal = image.id()?;
        if is_sealed(&image)? {
            return Ok(Recovered::Whole);
        }
        let ours = match metadata::upload_mark(&image, &internal)? {
            Some(instance) => instance == store.instance,
            // Ours if we died between making and marking it. If not, nobody loses anything: it is
            // empty.
            None => image.snaps()?.is_empty() && !image.has_objects()?,
        };
        if ours && image.watchers()?.len() > 1 {
            // The dead watch it for a while, and glance_store's would be filled by and by.
            return Err(Errno::BUSY);
        }
        Ok(if ours { Recovered::Removed(Vec::new()) } else { Recovered::Nothing })
    };
    let found = looked().map_err(|errno| match errno {
        Errno::BUSY => Error::new(
            Kind::Unavailable,
            format!("it is removed when nobody has it open any more: image=`{name}`"),
        ),
        errno => fail(errno),
    });
    close(image, name);
    match found? {
        Recovered::Removed(_) => remove_residue(pool, name, going),
        found @ (Recovered::Nothing | Recovered::Whole) => Ok(found),
    }
}

fn remove_residue(pool: &Pool, name: &str, going: &Going) -> Result<Recovered> {
    match remove(pool, name, going) {
        Ok(true) => {
            let removed = format!("image {name} in pool {}", pool.name());
            Ok(Recovered::Removed(vec![removed]))
        }
        Ok(false) => Ok(Recovered::Nothing),
        Err(errno) => Err(failed("remove", name, errno)),
    }
}
