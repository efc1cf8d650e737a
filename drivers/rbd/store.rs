//! One store: its connection, and what it does where blocking is allowed.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imaged_ffi::{Errno, Extent, Image, Pool};

use super::{
    Config,
    cluster::{Connection, Live},
    config,
    failure::{Late, failed},
    handles::{Handles, Reading, close_later},
    kept,
    location::SNAP,
    read, trash, upload,
};
use crate::{Error, Kind, Recovered, Result, Stat, foreign, lane::Lane, missing};

/// Images whose size and digests are remembered.
const REMEMBERED: usize = 4096;
/// The object that has the names of a pool's images; made with the first of them.
const DIRECTORY: &str = "rbd_directory";
/// The length in bytes of what names an image's internal id.
const ID_OBJECT: usize = 256;

/// What a store is made of.
pub(super) struct Store {
    pub(super) name: String,
    pub(super) instance: String,
    pub(super) config: Config,
    /// The pool of its images.
    pub(super) pool: String,
    /// The option that names the pool.
    pub(super) option: &'static str,
    /// The pools that are only read and deleted in, each with handles and images of its own: an image
    /// there is another than the one of the same name here.
    pub(super) also: Vec<Arc<Self>>,
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
    /// Whether an open handle keeps it from being removed.
    pub(super) watched: bool,
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = on(&store.lane, store, doing, work).await;
    done.map_err(|error| store.denied(error))
}

/// Runs `work` where it may block for as long as an image has objects.
pub(super) async fn at_length<T: Send + 'static>(
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = on(&store.long, store, doing, work).await;
    done.map_err(|error| store.denied(error))
}

/// Runs `work` on one of the store's lanes. Of another pool than the store's it says itself what the
/// user lacks.
pub(super) async fn on<T: Send + 'static>(
    lane: &Lane,
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let this = Arc::clone(store);
    let explained = move || work(&this).map_err(|error| this.connection.explained(error));
    let done = lane.run(doing, explained).await;
    match done {
        Err(error) if is_shut_out(&error) => {
            store.connection.forget().await;
            Err(error)
        }
        Err(error) if matches!(error.kind(), Kind::Timeout | Kind::Unavailable) => {
            store.connection.suspect();
            Err(error)
        }
        done => done,
    }
}

/// Whether the cluster does not serve this connection any more, and never will.
fn is_shut_out(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.and_then(io::Error::raw_os_error) == Some(Errno::SHUTDOWN.number())
}

impl Store {
    /// The same in another pool of the cluster.
    pub(super) fn in_pool(&self, pool: &str) -> Self {
        Self {
            name: self.name.clone(),
            instance: self.instance.clone(),
            config: self.config.clone(),
            pool: pool.to_owned(),
            option: config::ALSO,
            also: Vec::new(),
            lane: self.lane.clone(),
            long: self.long.clone(),
            flattening: self.flattening.clone(),
            connection: Connection::new(&self.config, pool, config::ALSO),
            patience: self.patience,
            handles: Arc::default(),
            making: Mutex::default(),
            seen: Mutex::default(),
            fsid: Mutex::default(),
        }
    }

    pub(super) async fn connected(&self) -> Result<(Arc<Live>, Pool)> {
        let (live, pool) = self.connection.get(&self.lane).await?;
        *lock(&self.fsid) = Some(live.fsid.clone());
        Ok((live, pool))
    }

    /// What the caps of the user do not allow, with those that would; other failures as they are.
    fn denied(&self, error: Error) -> Error {
        if error.kind() != Kind::BackendDenied {
            return error;
        }
        let Self { pool, option, config: Config { user, .. }, .. } = self;
        let caps = self.caps("");
        Error::new(
            Kind::BackendDenied,
            format!(
                "{error}; to write, the user needs the caps {caps}: rbd_store_user=`{user}` \
                 {option}=`{pool}`"
            ),
        )
        .because(error.chain())
    }

    /// The caps that the store's user needs, as `ceph auth caps` takes them; `more` is for other pools.
    pub(super) fn caps(&self, more: &str) -> String {
        let Config { pool, data_pool, also_pools, .. } = &self.config;
        let others = data_pool.iter().chain(also_pools);
        let others: String = others.map(|pool| format!(", profile rbd pool={pool}")).collect();
        format!("mon 'profile rbd' mgr 'profile rbd' osd 'profile rbd pool={pool}{others}{more}'")
    }

    /// Whether the pools can be used, which not only the mon knows. Blocks.
    pub(super) fn probe(&self, pool: &Pool) -> Result<()> {
        let fail = |errno| failed("look at", &self.pool, errno, Late::Away);
        if let Some(data) = &self.config.data_pool {
            Pool::open(pool.cluster(), data).map_err(|errno| match errno {
                Errno::NOENT => no_data_pool(data),
                errno => fail(errno),
            })?;
        }
        match pool.read(DIRECTORY, 1) {
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// The image that `at` names, if it may be one of this store's.
    pub(super) fn image_at(&self, at: &crate::Location, live: &Live) -> Result<String> {
        match at {
            crate::Location::Rbd(rbd) if rbd.is_in(&live.fsid, &self.pool) => {
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
        if let Some(Seen { internal, stat, .. }) = known
            && is_still(pool, name, &internal)
                .map_err(|errno| failed("look at", name, errno, Late::Away))?
        {
            return Ok(stat);
        }
        // A watch costs as much as all else, and what is asked for here never changes.
        let image =
            Image::open_unwatched(pool, name, SNAP).map_err(|errno| self.unopened(name, errno))?;
        let (image, seen) = self.whole(pool, image, name, false)?;
        // Closing takes as long as looking, and the answer is here.
        close_later(image, name, &self.handles, &self.lane);
        Ok(seen.stat)
    }

    fn unopened(&self, name: &str, errno: Errno) -> Error {
        match errno {
            Errno::NOENT => missing(name, &self.name),
            errno => failed("open", name, errno, Late::Away),
        }
    }

    /// Opens a whole image at its snapshot. Blocks.
    pub(super) fn open_whole(&self, pool: &Pool, name: &str) -> Result<(Image, Seen)> {
        let opened = match Image::open(pool, name, Some(SNAP)) {
            Err(Errno::PERM) => Image::open_unwatched(pool, name, SNAP).map(|image| (image, false)),
            opened => opened.map(|image| (image, true)),
        };
        let (image, watched) = opened.map_err(|errno| self.unopened(name, errno))?;
        self.whole(pool, image, name, watched)
    }

    /// What is known of an image that is open at its snapshot; closes it if it is not whole. Blocks.
    fn whole(&self, pool: &Pool, image: Image, name: &str, watched: bool) -> Result<(Image, Seen)> {
        let looked = || {
            if !image.snap_is_protected(SNAP)? {
                return Err(Errno::NOENT); // on its way to be one
            }
            let (internal, size) = (image.id()?, image.size()?);
            let digests = kept::kept(&image, &internal, size)?;
            Ok(Seen { internal, stat: Stat { size, digests }, watched })
        };
        let found = looked().map_err(|errno| self.unopened(name, errno));
        // By now the client has heard what the OSD knows of the pool.
        match found.and_then(|seen| self.connection.holds(pool).map(|()| seen)) {
            Ok(seen) => {
                let mut all = lock(&self.seen);
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(name.to_owned(), seen.clone());
                Ok((image, seen))
            }
            Err(error) => {
                close(image, name);
                Err(error)
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

    /// Removes an image, or touches nothing. Returns whether it was a clone. Blocks.
    pub(super) fn delete(&self, pool: &Pool, name: &str) -> Result<bool> {
        let fail = |errno| match errno {
            Errno::NOENT => missing(name, &self.name),
            errno => failed("delete", name, errno, Late::Away),
        };
        let image = match Image::open(pool, name, None) {
            // What an earlier delete did not get done.
            Err(Errno::NOENT) => return pool.remove(name).map(|()| false).map_err(fail),
            other => other.map_err(fail)?,
        };
        // Without the mon nothing is begun: some of what follows waits for it without a limit.
        let mon = pool.cluster().stat().map_err(fail);
        let ready = mon.and_then(|_answers| self.may_delete(&image, name)).and_then(|clones| {
            // Clones of the first format need its protection. Those of the second keep what they need.
            let unsealed = if clones { unseal(&image) } else { Ok(()) };
            unsealed.map_err(|errno| match errno {
                Errno::BUSY => in_use(name, "it has clones"),
                errno => fail(errno),
            })?;
            // From here on any daemon may finish it.
            kept::unmark(&image).map_err(fail)?;
            let cloned = image.overlap().map_err(fail)? > 0;
            Ok((clones, cloned, trash::mark(self, &image)))
        });
        close(image, name);
        self.forget(name);
        let (clones, cloned, marked) = ready?;
        // The name is free at once, and after a crash the rest is removed all the same.
        let discarded = marked.and_then(|internal| pool.trash_move(name).map(|()| internal));
        match discarded {
            Ok(internal) => {
                // From here on it is deleted; what takes its time can be done again.
                if let Err(errno) = trash::remove(pool, &internal) {
                    tracing::debug!(image = name, %errno, "a deleted image stays in the trash");
                }
                Ok(cloned)
            }
            Err(errno) if clones => {
                // So that the image stays whole, if that much can be had.
                if let Err(errno) = reseal(pool, name) {
                    tracing::warn!(image = name, %errno, "the snapshot of an image that could not be deleted is not protected");
                }
                Err(fail(errno))
            }
            Err(errno @ (Errno::NOENT | Errno::TIMEDOUT)) => Err(fail(errno)),
            // A full pool may refuse it.
            Err(_) => upload::remove(pool, name).map(|_| cloned).map_err(fail),
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
        let snaps = image.snaps().map_err(fail)?;
        let others: Vec<_> =
            snaps.iter().map(|snap| snap.name.as_str()).filter(|name| *name != SNAP).collect();
        if !others.is_empty() {
            return Err(in_use(name, &format!("it has other snapshots, {}", others.join(", "))));
        }
        let children = image.children().map_err(fail)?;
        Ok(!children.is_empty())
    }

    /// Removes what an upload of `name` has left. Blocks.
    pub(super) fn recover(&self, pool: &Pool, name: &str) -> Result<Recovered> {
        let fail = |errno| failed("look at", name, errno, Late::Away);
        let image = match Image::open(pool, name, None) {
            Ok(image) => image,
            // It may be half removed.
            Err(Errno::NOENT) => return self.remove(pool, name),
            Err(errno) => return Err(fail(errno)),
        };
        let looked = || {
            let internal = image.id()?;
            if is_sealed(&image)? {
                return Ok(Recovered::Whole);
            }
            let ours = match kept::marked(&image, &internal)? {
                Some(instance) => instance == self.instance,
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
            Recovered::Removed(_) => self.remove(pool, name),
            found @ (Recovered::Nothing | Recovered::Whole) => Ok(found),
        }
    }

    fn remove(&self, pool: &Pool, name: &str) -> Result<Recovered> {
        match upload::remove(pool, name) {
            Ok(true) => {
                let removed = format!("image {name} in pool {}", pool.name());
                Ok(Recovered::Removed(vec![removed]))
            }
            Ok(false) => Ok(Recovered::Nothing),
            Err(errno) => Err(failed("remove", name, errno, Late::Away)),
        }
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

/// The refusal of a store whose pool for data is missing.
pub(super) fn no_data_pool(name: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("the pool for data does not exist, create it: rbd_store_data_pool=`{name}`"),
    )
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

/// Protects the snapshot again.
fn reseal(pool: &Pool, name: &str) -> imaged_ffi::Result<()> {
    let image = Image::open(pool, name, None)?;
    let sealed = image.snap_protect(SNAP);
    close(image, name);
    sealed
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
