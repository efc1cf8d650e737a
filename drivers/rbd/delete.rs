//! Removing images. One that is deleted is looked at, marked, moved into the trash, and there its deletion is brought to
//! an end, see [`trash`]; what an upload has left is removed at once.

use std::time::Duration;

use imaged_ffi::{Errno, Image, Pool, sys};

use super::{
    failure::failed,
    found::unfinished,
    image::{close, failed_at, held_by_snaps, id_of, is_sealed, locked_by, not_removed, remove},
    metadata,
    store::Store,
    trash::{self, Ended},
};
use crate::{
    contract::{Error, Kind, Recovered, Result},
    kit::{lane::Going, point, refusals::missing},
};

/// How often an image that somebody else has open is looked at again, each time twice as late at most:
/// another daemon may have opened it to delete it too, and would be refused as this one is.
const LOOKS: u32 = 4;
const FIRST_MS: u64 = 100;

/// Why an image is not deleted.
pub(super) enum Refused {
    /// This will not change soon.
    Now(Error),
    /// Somebody has it open, perhaps to delete it.
    Open(Error),
}

impl Refused {
    /// Because of what the cluster has answered: it may be on its way out.
    fn by(errno: Errno, error: Error) -> Self {
        if errno == Errno::STALE { Self::Open(error) } else { Self::Now(error) }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Now(error) | Self::Open(error) => error,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Now(error)
    }
}

/// Removes an image, or leaves it as it was. Returns whether it was a clone. Blocks.
pub(super) fn delete(store: &Store, pool: &Pool, name: &str, going: &Going) -> Result<bool> {
    for look in 0..LOOKS {
        match delete_once(store, pool, name, going) {
            Err(Refused::Open(_)) => {
                // Who deletes it at the same time waits for another time than this.
                let most = FIRST_MS << look;
                let pause = Duration::from_millis(metadata::any_below(most));
                #[expect(clippy::disallowed_methods, reason = "this is a thread of the lane")]
                std::thread::sleep(pause);
                going.report();
            }
            Err(Refused::Now(error)) => return Err(error),
            Ok(cloned) => return Ok(cloned),
        }
    }
    delete_once(store, pool, name, going).map_err(Refused::into_error)
}

fn delete_once(store: &Store, pool: &Pool, name: &str, going: &Going) -> Result<bool, Refused> {
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
            return Ok(pool.remove(name, goes_on).map(|()| false).map_err(fail)?);
        }
        image => image.map_err(|errno| Refused::by(errno, fail(errno)))?,
    };
    match may_delete(store, &image, name) {
        Ok(Way::Trash { clones }) => into_trash(store, image, name, clones, going),
        Ok(Way::Remove) => Ok(remove_old(store, image, name, going)?),
        Err(refused) => {
            close(image, name);
            Err(refused)
        }
    }
}

/// Removes an image of format 1: it knows no trash, and has no clones. Blocks.
fn remove_old(store: &Store, image: Image, name: &str, going: &Going) -> Result<bool> {
    let pool = image.pool().clone();
    close(image, name);
    store.forget(name);
    match remove(&pool, name, going) {
        Ok(true) => Ok(false),
        Ok(false) => Err(missing(name, &store.name)),
        Err(errno) => Err(not_removed(&pool, name, errno)),
    }
}

/// Marks an image that is to go, moves it into the trash, and brings its deletion to an end there; `clones`:
/// some may need it. Returns whether it was a clone. Blocks.
pub(super) fn into_trash(
    store: &Store,
    image: Image,
    name: &str,
    clones: bool,
    going: &Going,
) -> Result<bool, Refused> {
    let pool = &image.pool().clone();
    let fail = |errno| match errno {
        Errno::NOENT => missing(name, &store.name),
        errno => failed("delete", name, errno),
    };
    let mark = || {
        let (cloned, internal) = (image.overlap()? > 0, image.id()?);
        let number = metadata::set_trash_mark(&image, &internal, &store.instance)?;
        // The move opens the image itself, and waits for ever for a lock that this handle has and may
        // not give back, as in a pool that has just come to be another's.
        image.release_lock()?;
        Ok((cloned, internal, number))
    };
    let marked = mark().map_err(|errno| match errno {
        Errno::NOENT => missing(name, &store.name).into(),
        errno => Refused::by(errno, failed_at(&image, "delete", name, errno)),
    });
    let moved = marked.map(|(cloned, internal, number)| {
        point::pass("delete-marked");
        // The name is free at once, and after a crash the rest is done all the same.
        (cloned, internal, pool.trash_move(name, number))
    });
    // Not before it is moved, see `trash`.
    close(image, name);
    store.forget(name);
    let (cloned, internal, moved) = moved?;
    moved.map_err(|errno| match errno {
        Errno::BUSY if is_open(pool, name) => Refused::Open(in_use(name, "it is being removed")),
        Errno::BUSY => in_use(name, "it is being removed or migrated").into(),
        errno => Refused::by(errno, fail(errno)),
    })?;
    point::pass("delete-moved");
    let mut decided = !clones;
    match trash::end(pool, (&internal, name), going, &mut decided, point::pass) {
        Ok(Ended::Gone | Ended::Kept(_)) => Ok(cloned),
        Ok(Ended::Back(why)) => Err(in_use(name, why).into()),
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
            Err(fail(errno).into())
        }
    }
}

/// Whether somebody has the image open now, or it has just gone. Blocks.
fn is_open(pool: &Pool, name: &str) -> bool {
    match Image::open_unwatched(pool, name, None) {
        Ok(image) => {
            let watched = image.watchers().is_ok_and(|watchers| !watchers.is_empty());
            close(image, name);
            watched
        }
        Err(errno) => errno == Errno::NOENT,
    }
}

/// How an image goes.
enum Way {
    /// Through the trash; some clones may outlive it.
    Trash { clones: bool },
    /// At once.
    Remove,
}

/// How the image goes; refuses one that something else needs or uses.
fn may_delete(store: &Store, image: &Image, name: &str) -> Result<Way, Refused> {
    let fail = |errno| Refused::by(errno, failed("look at", name, errno));
    // Without the mon nothing is begun: some of what follows waits for it without a limit.
    let _answers = image.pool().cluster().stat().map_err(fail)?;
    let internal = id_of(image, name).map_err(fail)?;
    let sealed = is_sealed(image).map_err(fail)?;
    let mark = metadata::upload_mark(image, &internal).map_err(fail)?;
    // One that is being made is no image yet, whoever makes it: it has its mark, no snapshot and no digests.
    let being_made = || -> imaged_ffi::Result<bool> {
        Ok(mark.is_some()
            && image.snaps()?.is_empty()
            && metadata::digests(image, &internal, image.size()?)?.is_none())
    };
    if !sealed && being_made().map_err(fail)? {
        return Err(unfinished(store, image, name, true).into());
    }
    let watchers = image.watchers().map_err(fail)?;
    if watchers.len() > 1 {
        let who: Vec<_> = watchers.iter().map(|watcher| watcher.address.as_str()).collect();
        let error = in_use(name, &format!("it is open at {}", who.join(", ")));
        // Work of this process, which it ends for a delete when it hears of it; deletes wait for each other here.
        let own = image.pool().cluster().instance_id();
        let own = watchers.iter().filter(|watcher| u64::try_from(watcher.client) == Ok(own));
        return Err(if own.count() > 1 { Refused::Now(error) } else { Refused::Open(error) });
    }
    // librbd would wait for the lock, for ever.
    if let Some(why) = locked_by(image).map_err(fail)? {
        return Err(in_use(name, &why).into());
    }
    if let Some(why) = held_by_snaps(image).map_err(fail)? {
        return Err(in_use(name, &why).into());
    }
    if image.is_old_format().map_err(fail)? {
        return Ok(Way::Remove);
    }
    // It would stay in the trash for as long as it is in there.
    let operations = image.op_features().map_err(fail)?;
    if operations & sys::RBD_OPERATION_FEATURE_GROUP != 0 {
        // The group may be in a pool that the user may not read.
        let group = image.group().ok().flatten().unwrap_or_else(|| "of another pool".to_owned());
        let why = format!("it is in the group {group} (`rbd group image rm` takes it out)");
        return Err(in_use(name, &why).into());
    }
    if !sealed {
        return Ok(Way::Trash { clones: false });
    }
    let has_clones = !image.children().map_err(fail)?.is_empty();
    let second = operations & sys::RBD_OPERATION_FEATURE_CLONE_PARENT;
    // Those of the first format need its protection; where there are both, that shows in the trash.
    if has_clones && second == 0 {
        return Err(in_use(name, "it has clones").into());
    }
    Ok(Way::Trash { clones: has_clones })
}

pub(super) fn in_use(name: &str, why: &str) -> Error {
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
        let internal = id_of(&image, name)?;
        if is_sealed(&image)? {
            return Ok(Recovered::Whole);
        }
        let ours = match metadata::upload_mark(&image, &internal)? {
            Some(mark) => mark.instance == store.instance,
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

/// Removes what is no whole image. Blocks.
pub(super) fn remove_residue(pool: &Pool, name: &str, going: &Going) -> Result<Recovered> {
    match remove(pool, name, going) {
        Ok(true) => {
            let removed = format!("image {name} in pool {}", pool.name());
            Ok(Recovered::Removed(vec![removed]))
        }
        Ok(false) => Ok(Recovered::Nothing),
        Err(errno) => Err(not_removed(pool, name, errno)),
    }
}
