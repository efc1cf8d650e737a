//! One store: its connection, and what it does where blocking is allowed.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imaged_ffi::{Errno, Extent, Image, Pool};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    Config,
    cluster::{Connection, Live},
    failure::{Late, failed},
    handles::{Handles, Reading},
    kept,
    location::SNAP,
    read, trash, upload,
};
use crate::{Error, Kind, Recovered, Result, Stat, foreign, lane::Lane, missing};

/// Images whose size and digests are remembered.
const REMEMBERED: usize = 4096;
/// The length in bytes of what names an image's internal id.
const ID_OBJECT: usize = 256;

/// What a store is made of.
pub(super) struct Store {
    pub(super) name: String,
    pub(super) instance: String,
    pub(super) config: Config,
    pub(super) lane: Lane,
    /// For calls that take as long as an image has objects. Each of their steps is bounded.
    pub(super) long: Lane,
    /// For flattening: one image at a time.
    pub(super) flattening: Lane,
    pub(super) connection: Connection,
    /// How long what is in flight may take.
    pub(super) patience: Duration,
    pub(super) handles: Arc<Handles>,
    /// Images that this process makes.
    pub(super) making: Mutex<BTreeSet<String>>,
    /// Whole images that were looked at: what is sealed by a snapshot never changes.
    pub(super) seen: Mutex<HashMap<String, Seen>>,
    /// The pool's facts, once it was reached.
    pub(super) fsid: Mutex<Option<String>>,
    /// Held while an image is deleted, so that two do not see each other's handles.
    pub(super) deleting: AsyncMutex<()>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is known of a whole image.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) internal: String,
    pub(super) stat: Stat,
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
) -> Result<T> {
    on(&store.lane, store, doing, work).await
}

/// Runs `work` where it may block for as long as an image has objects.
pub(super) async fn at_length<T: Send + 'static>(
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
) -> Result<T> {
    on(&store.long, store, doing, work).await
}

/// Runs `work` on one of the store's lanes.
pub(super) async fn on<T: Send + 'static>(
    lane: &Lane,
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let this = Arc::clone(store);
    let done = lane.run(doing, move || work(&this)).await;
    if let Err(error) = &done
        && matches!(error.kind(), Kind::Timeout | Kind::Unavailable)
    {
        store.suspect().await;
    }
    done
}

/// A failure that leaves it open whether there is an image says where to look.
pub(super) fn failed_late(error: Error, at: &crate::Location) -> Error {
    if error.kind() == Kind::Timeout && error.location().is_none() {
        return error.at(at);
    }
    error
}

impl Store {
    pub(super) async fn connected(&self) -> Result<(Arc<Live>, Pool)> {
        let (live, pool) = self.connection.get(&self.lane).await?;
        *lock(&self.fsid) = Some(live.fsid.clone());
        Ok((live, pool))
    }

    /// Something took too long: the connection may be no good any more, which shows in whether
    /// a new one can be made.
    pub(super) async fn suspect(&self) {
        tracing::debug!(store = self.name, "the connection is made again");
        self.connection.forget().await;
    }

    /// The image that `at` names, if it may be one of this store's.
    pub(super) fn image_at(&self, at: &crate::Location, live: &Live) -> Result<String> {
        match at {
            crate::Location::Rbd(rbd) if rbd.is_in(&live.fsid, &self.config.pool) => {
                Ok(rbd.image().to_owned())
            }
            crate::Location::Rbd(_) | crate::Location::File(_) | crate::Location::Mem(_) => {
                Err(foreign(at, &self.name))
            }
        }
    }

    /// Size and digests of a whole image. One that was seen before costs one look whether it is
    /// still the same. Blocks.
    pub(super) fn look(&self, pool: &Pool, name: &str) -> Result<Stat> {
        let known = lock(&self.seen).get(name).cloned();
        if let Some(Seen { internal, stat }) = known
            && is_still(pool, name, &internal)
                .map_err(|errno| failed("look at", name, errno, Late::Away))?
        {
            return Ok(stat);
        }
        let (image, seen) = self.open_whole(pool, name)?;
        close(image, name);
        Ok(seen.stat)
    }

    /// Opens a whole image at its snapshot. Blocks.
    pub(super) fn open_whole(&self, pool: &Pool, name: &str) -> Result<(Image, Seen)> {
        let fail = |errno| match errno {
            Errno::NOENT => missing(name, &self.name),
            errno => failed("open", name, errno, Late::Away),
        };
        let image = Image::open(pool, name, Some(SNAP)).map_err(fail)?;
        let looked = || {
            if !image.snap_is_protected(SNAP)? {
                return Err(Errno::NOENT); // on its way to be one
            }
            let (internal, size) = (image.id()?, image.size()?);
            let digests = kept::kept(&image, &internal, size)?;
            Ok(Seen { internal, stat: Stat { size, digests } })
        };
        match looked() {
            Ok(seen) => {
                let mut all = lock(&self.seen);
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(name.to_owned(), seen.clone());
                Ok((image, seen))
            }
            Err(errno) => {
                close(image, name);
                Err(fail(errno))
            }
        }
    }

    /// An open image as something that is read, and what of `range` may hold something, if asking is
    /// worth while. Blocks.
    pub(super) fn reading(
        &self,
        image: Image,
        name: &str,
        range: Range<u64>,
    ) -> Result<(Reading, Option<Vec<Extent>>)> {
        let extents = if range.end.saturating_sub(range.start) > read::READS.0 as u64 {
            match image.extents(range) {
                Ok(extents) => Some(extents),
                Err(errno) => {
                    close(image, name);
                    return Err(failed("read", name, errno, Late::Away));
                }
            }
        } else {
            None
        };
        Ok((Reading::new(image, name, &self.handles, &self.lane), extents))
    }

    pub(super) fn forget(&self, name: &str) {
        lock(&self.seen).remove(name);
    }

    /// Removes an image, or touches nothing. Blocks.
    pub(super) fn delete(&self, pool: &Pool, name: &str) -> Result<()> {
        let fail = |errno| match errno {
            Errno::NOENT => missing(name, &self.name),
            errno => failed("delete", name, errno, Late::Away),
        };
        let image = Image::open(pool, name, None).map_err(fail)?;
        let ready = self.may_delete(&image, name).and_then(|clones| {
            // Clones of the first format need its protection. Those of the second keep what they need.
            let unsealed = if clones { unseal(&image) } else { Ok(()) };
            unsealed.map_err(|errno| match errno {
                Errno::BUSY => in_use(name, "it has clones"),
                errno => fail(errno),
            })
        });
        close(image, name);
        self.forget(name);
        ready?;
        match trash::discard(self, pool, name) {
            Ok(internal) => {
                // From here on it is deleted; what takes its time can be done again.
                if let Err(errno) = trash::remove(pool, &internal) {
                    tracing::debug!(image = name, %errno, "a deleted image stays in the trash");
                }
                Ok(())
            }
            Err(errno @ (Errno::NOENT | Errno::TIMEDOUT)) => Err(fail(errno)),
            // A full pool may refuse it.
            Err(_) => upload::remove(pool, name).map_err(fail).map(drop),
        }
    }

    /// Whether the image has clones that do not mind; refuses where somebody does.
    fn may_delete(&self, image: &Image, name: &str) -> Result<bool> {
        let fail = |errno| failed("look at", name, errno, Late::Away);
        let internal = image.id().map_err(fail)?;
        let sealed = is_sealed(image).map_err(fail)?;
        let marked = kept::marked(image, &internal).map_err(fail)?;
        let theirs = marked.as_ref().is_some_and(|instance| *instance != self.instance);
        if !sealed && (theirs || upload::is_making(self, name)) {
            return Err(missing(name, &self.name));
        }
        let watchers = image.watchers().map_err(fail)?;
        if watchers.len() > 1 {
            let who: Vec<_> = watchers.iter().map(|watcher| watcher.address.as_str()).collect();
            return Err(in_use(name, &format!("it is open at {}", who.join(", "))));
        }
        if !sealed {
            return Ok(false);
        }
        let children = image.children().map_err(fail)?;
        Ok(!children.is_empty())
    }

    /// Removes what an upload of `name` has left. Blocks.
    pub(super) fn recover(&self, pool: &Pool, name: &str) -> Result<Recovered> {
        let fail = |errno| failed("look at", name, errno, Late::Away);
        let image = match Image::open(pool, name, None) {
            Ok(image) => image,
            Err(Errno::NOENT) => return Ok(Recovered::Nothing),
            Err(errno) => return Err(fail(errno)),
        };
        let looked = || {
            let internal = image.id()?;
            if is_sealed(&image)? {
                return Ok(Recovered::Whole);
            }
            let ours = match kept::marked(&image, &internal)? {
                Some(instance) => instance == self.instance,
                // Ours if we died between making and marking it. Nobody loses anything by that: it is
                // empty, and nobody has it open.
                None => {
                    image.watchers()?.len() <= 1
                        && image.snaps()?.is_empty()
                        && !image.has_objects()?
                }
            };
            Ok(if ours { Recovered::Removed(Vec::new()) } else { Recovered::Nothing })
        };
        let found = looked().map_err(fail);
        close(image, name);
        if !matches!(found, Ok(Recovered::Removed(_))) {
            return found;
        }
        upload::remove(pool, name).map_err(|errno| failed("remove", name, errno, Late::Away))?;
        Ok(Recovered::Removed(vec![format!("image {name} in pool {}", pool.name())]))
    }
}

/// Closes a handle; what goes wrong then is nobody's business but the log's. Blocks.
pub(super) fn close(image: Image, name: &str) {
    if let Err(errno) = image.close() {
        tracing::warn!(image = name, %errno, "a handle was not closed cleanly");
    }
}

pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn in_use(name: &str, why: &str) -> Error {
    Error::new(Kind::InUse, format!("the image cannot be deleted now, {why}: image=`{name}`"))
}

/// Whether the image has its protected snapshot.
pub(super) fn is_sealed(image: &Image) -> imaged_ffi::Result<bool> {
    match image.snap_is_protected(SNAP) {
        Err(Errno::NOENT) => Ok(false),
        other => other,
    }
}

/// Lets the snapshot be removed, unless it has clones that need its protection.
fn unseal(image: &Image) -> imaged_ffi::Result<()> {
    match image.snap_unprotect(SNAP) {
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno),
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
