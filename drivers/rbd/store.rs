//! One store: its connection, and what it does where blocking is allowed.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use imaged_ffi::{Errno, Extent, Image, Pool};
use tokio::sync::Mutex as AsyncMutex;

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
use crate::{
    contract::{Error, Kind, Recovered, Result, Stat},
    kit::{
        lane::{Going, Lane},
        refusals::{foreign, missing},
    },
};

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
    /// For purging the trash.
    pub(super) purge_lane: Lane,
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
    /// What others have put into the trash, by internal id, as far as that had to be looked at.
    pub(super) foreign: Mutex<BTreeSet<String>>,
    /// What the trash holds of ours of which it was told that it stays there.
    pub(super) told: Mutex<BTreeSet<String>>,
    /// The length in bytes of what the trash keeps of ours, when it was last looked at.
    pub(super) trash: Mutex<Option<u64>>,
    /// Held by whoever purges the trash.
    pub(super) purging: AsyncMutex<()>,
    /// Whether the trash is to be purged once more.
    pub(super) purge_again: AtomicBool,
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

/// Runs `work` where it may block for as long as it goes on.
pub(super) async fn at_length<T: Send + 'static>(
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>, &Going) -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = long_on(&store.long, store, doing, work).await;
    done.map_err(|error| store.denied(error))
}

/// The same on one of the store's lanes.
pub(super) async fn long_on<T: Send + 'static>(
    lane: &Lane,
    store: &Arc<Store>,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>, &Going) -> Result<T> + Send + 'static,
) -> Result<T> {
    let this = Arc::clone(store);
    let explained =
        move |going: &Going| work(&this, going).map_err(|error| this.connection.explained(error));
    heard(store, lane.run_long(doing, explained).await).await
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
    heard(store, lane.run(doing, explained).await).await
}

/// Notes what an answer says of the connection.
async fn heard<T>(store: &Store, done: Result<T>) -> Result<T> {
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

/// Whether an error says that the cluster, and not one image, cannot be asked.
pub(super) fn is_away(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    match cause.and_then(io::Error::raw_os_error) {
        Some(errno) => [Errno::TIMEDOUT, Errno::SHUTDOWN].map(Errno::number).contains(&errno),
        None => matches!(error.kind(), Kind::Timeout | Kind::Unavailable),
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
            purge_lane: self.purge_lane.clone(),
            flattening: self.flattening.clone(),
            connection: Connection::new(&self.config, pool, config::ALSO),
            patience: self.patience,
            handles: Arc::default(),
            making: Mutex::default(),
            seen: Mutex::default(),
            foreign: Mutex::default(),
            told: Mutex::default(),
            trash: Mutex::default(),
            purging: AsyncMutex::default(),
            purge_again: AtomicBool::default(),
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

    /// Begins to purge the trash, for nobody who waits for it.
    pub(super) fn purge_soon(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = this.purge().await {
                let error = error.chain();
                tracing::warn!(store = this.name, error, "the trash is not purged now");
            }
        });
    }

    /// Purges the trash, one at a time: who comes meanwhile waits for the next time.
    pub(super) async fn purge(self: &Arc<Self>) -> Result<()> {
        self.purge_again.store(true, Ordering::SeqCst);
        let _one = self.purging.lock().await;
        if !self.purge_again.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        let (_, pool) = self.connected().await?;
        let purged = long_on(&self.purge_lane, self, "purge the trash", move |store, going| {
            trash::purge(store, &pool, going)
        });
        purged.await
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
        Ok((Reading::new(image, name, &self.handles, &self.lane, self.patience), extents))
    }

    pub(super) fn forget(&self, name: &str) {
        lock(&self.seen).remove(name);
    }

    /// Removes what an upload of `name` has left. Blocks.
    pub(super) fn recover(&self, pool: &Pool, name: &str, going: &Going) -> Result<Recovered> {
        let fail = |errno| failed("look at", name, errno, Late::Away);
        let image = match Image::open(pool, name, None) {
            Ok(image) => image,
            // It may be half removed.
            Err(Errno::NOENT) => return self.remove(pool, name, going),
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
            Recovered::Removed(_) => self.remove(pool, name, going),
            found @ (Recovered::Nothing | Recovered::Whole) => Ok(found),
        }
    }

    fn remove(&self, pool: &Pool, name: &str, going: &Going) -> Result<Recovered> {
        match upload::remove(pool, name, going) {
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
