//! Connections to clusters: one for each (ceph.conf, user), shared by stores, made again when it may be
//! no good any more or when its keyring has changed. What uses an old one goes on with it.
//!
//! # Decisions
//! * Chose: an old connection serves until a new one could be made. Because: without the mon no new one
//!   can be made, but reads and writes go on over the old one; and a keyring that was exchanged for
//!   a wrong one stops nobody who is connected. Instead of: dropping it as soon as something took too
//!   long.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use imaged_ffi::{Cluster, Connecting, DIRECTORY, Errno, Pool};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::{
    config::{Config, Timeout},
    failure::{SHUT_OUT, failed},
};
use crate::{
    contract::{Error, Kind, Result},
    kit::lane::Lane,
};

/// Options that bound how long the cluster may take, and what they are where nobody has set them.
const LIMITS: [(&str, &str); 3] =
    [("client_mount_timeout", "300"), ("rados_mon_op_timeout", "0"), ("rados_osd_op_timeout", "0")];

/// Ceph's own default: layering, exclusive-lock, object-map, fast-diff, deep-flatten.
const FEATURES: u64 = 61;

/// The object that names the images in a pool's trash.
const TRASH: &str = "rbd_trash";

/// What makes two connections the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    conf: String,
    user: String,
    timeout: Option<Duration>,
    fixed: bool,
}

/// A connection and what it was made from.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) cluster: Cluster,
    pub(super) fsid: String,
    /// What new images have unless told otherwise: `rbd_default_features`.
    pub(super) features: u64,
    /// ceph.conf and the keyring, as they were.
    files: Vec<(String, Option<Stamp>)>,
    /// The cluster does not serve it any more, and never will.
    shut_out: AtomicBool,
}

type Stamp = (u64, Option<SystemTime>);

impl Live {
    /// From now on nobody begins anything over it.
    pub(super) fn shut_out(&self) {
        if !self.shut_out.swap(true, Ordering::Relaxed) {
            let client = self.cluster.instance_id();
            tracing::warn!(fsid = self.fsid, client, "{SHUT_OUT}");
        }
    }

    fn is_shut_out(&self) -> bool {
        self.shut_out.load(Ordering::Relaxed)
    }

    /// Whether a file that it was made from has changed.
    fn is_outdated(&self) -> bool {
        self.files.iter().any(|(path, stamp)| stamp_of(path) != *stamp)
    }
}

fn stamp_of(path: &str) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()))
}

type Slot = Arc<AsyncMutex<Weak<Live>>>;
static ALL: LazyLock<Mutex<HashMap<Key, Slot>>> = LazyLock::new(Mutex::default);

/// One store's use of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    key: Key,
    pool: String,
    /// The option that names the pool.
    option: &'static str,
    now: AsyncMutex<Now>,
    /// It may be no good any more.
    suspect: AtomicBool,
}

#[derive(Debug, Default)]
struct Now {
    made: Option<(Arc<Live>, Pool)>,
    /// When and why none could be made.
    failed: Option<(Instant, Kind, String)>,
}

impl Connection {
    /// For the pool of this name, which `option` names.
    pub(super) fn new(config: &Config, pool: &str, option: &'static str) -> Self {
        let (timeout, fixed) = match config.timeout {
            Timeout::Default(limit) => (Some(limit), false),
            Timeout::Fixed(limit) => (Some(limit), true),
            Timeout::None => (None, true),
        };
        let key = Key { conf: config.conf.clone(), user: config.user.clone(), timeout, fixed };
        let (now, pool) = (AsyncMutex::default(), pool.to_owned());
        Self { key, pool, option, now, suspect: AtomicBool::default() }
    }

    /// The connection and the pool, made if they are not there.
    pub(super) async fn get(&self, lane: &Lane) -> Result<(Arc<Live>, Pool)> {
        let came = Instant::now();
        let mut now = self.now.lock().await;
        let is_over = |(live, pool): &(Arc<Live>, Pool)| pool.is_retired() || live.is_shut_out();
        if now.made.as_ref().is_some_and(is_over) {
            now.made = None;
        }
        if let Some(made) = &now.made {
            return Ok(made.clone());
        }
        // Who has waited for a try that failed need not wait for another.
        if let Some((_, kind, why)) = now.failed.as_ref().filter(|(at, ..)| *at >= came) {
            return Err(Error::new(*kind, why.as_str()));
        }
        let made = self.make(lane, None).await;
        match &made {
            Ok(made) => now.made = Some(made.clone()),
            Err(error) => now.failed = Some((Instant::now(), error.kind(), error.to_string())),
        }
        made
    }

    /// Another one than `old`, and the pool.
    async fn make(&self, lane: &Lane, old: Option<&Arc<Live>>) -> Result<(Arc<Live>, Pool)> {
        let live = shared(&self.key, lane, old).await?;
        let (cluster, name, option) = (live.cluster.clone(), self.pool.clone(), self.option);
        let pool = lane
            .run("open the pool", move || {
                let pool = Pool::open(&cluster, &name).map_err(|errno| match errno {
                    Errno::NOENT => no_pool(option, &name),
                    errno => failed("open the pool", &name, errno),
                })?;
                // Whatever is removed passes through the trash, which the first removal makes, and cannot
                // make in a pool that is full.
                if pool.read(TRASH, 1) == Err(Errno::NOENT)
                    && let Err(errno) = pool.write_nothing(TRASH)
                {
                    tracing::debug!(pool = name, %errno, "the pool has no trash yet");
                }
                Ok(pool)
            })
            .await?;
        Ok((live, pool))
    }

    /// Refuses a pool that has not the store's name any more, as far as the client has heard: what was
    /// read there is not what the store has, and what was written there is not in the store. The pool is
    /// looked up anew for whoever comes next. Blocks.
    pub(super) fn holds(&self, pool: &Pool) -> Result<()> {
        self.refusal_of(pool)?.map_or(Ok(()), Err)
    }

    /// As [`Connection::holds`]; an error is that nobody knows. Blocks.
    fn refusal_of(&self, pool: &Pool) -> Result<Option<Error>> {
        let refusal = match pool.has_its_name() {
            Ok(true) => return Ok(None),
            Ok(false) => Error::new(
                Kind::Unavailable,
                format!("another pool has come to have this name; {}", self.try_again()),
            ),
            Err(Errno::NOENT) => no_pool(self.option, &self.pool),
            Err(errno) => return Err(failed("look up the pool", &self.pool, errno)),
        };
        if pool.retire() {
            tracing::warn!(pool = self.pool, "the pool was renamed, removed or made again");
        }
        Ok(Some(refusal))
    }

    fn try_again(&self) -> String {
        format!("try again: {}=`{}`", self.option, self.pool)
    }

    /// As [`Connection::holds`] by what the cluster says now. Blocks.
    pub(super) fn holds_now(&self, pool: &Pool) -> Result<()> {
        self.refusal_now(pool)?.map_or(Ok(()), Err)
    }

    /// As [`Connection::refusal_of`] by what the cluster says now. Blocks.
    fn refusal_now(&self, pool: &Pool) -> Result<Option<Error>> {
        // The mon answers this in time or not at all; the other call waits for it for ever.
        let answers = pool.cluster().stat();
        answers.map_err(|errno| failed("look up the pool", &self.pool, errno))?;
        self.refusal_by_latest_map(pool)
    }

    /// As [`Connection::refusal_of`] by the latest map of the pools, of a mon that has just answered.
    /// Blocks.
    pub(super) fn refusal_by_latest_map(&self, pool: &Pool) -> Result<Option<Error>> {
        let updated = pool.cluster().wait_for_latest_osdmap();
        updated.map_err(|errno| failed("look up the pool", &self.pool, errno))?;
        self.refusal_of(pool)
    }

    /// What a failure in `pool` means if that is not the store's any more: that, and not that something is
    /// missing in the store or forbidden there. And what it means if the cluster has shut this client out:
    /// that, and not that somebody else has the lock of an image, for librbd says only that it has not got
    /// it. The pool is the one in which it failed: the store may have another by now, or somebody may be
    /// opening it. Blocks.
    pub(super) fn explained(&self, pool: &Pool, error: Error) -> Error {
        let kind = error.kind();
        let unlocked =
            matches!(kind, Kind::BackendDenied | Kind::InUse | Kind::Unsupported | Kind::Internal);
        if unlocked && pool.read(DIRECTORY, 1) == Err(Errno::SHUTDOWN) {
            self.shut_out(pool);
            let what = format!("{SHUT_OUT}: {}=`{}`", self.option, self.pool);
            return Error::new(Kind::Unavailable, what).instead_of(error);
        }
        let refusal = if unlocked {
            // That one may be faster than the news: of the caps, or of the lock that they do not let librbd take.
            self.refusal_now(pool)
        } else if kind == Kind::NotFound {
            self.refusal_of(pool)
        } else {
            return error;
        };
        match refusal {
            Ok(Some(refusal)) => refusal.instead_of(error),
            // It may have come back since: librbd takes its time to close what is refused.
            Ok(None) | Err(_) if unlocked && pool.is_retired() => {
                let what = format!("the pool had another name meanwhile; {}", self.try_again());
                Error::new(Kind::Unavailable, what).instead_of(error)
            }
            Ok(None) | Err(_) => error,
        }
    }

    /// Makes a new one, unless this one is still good.
    pub(super) async fn look(&self, lane: &Lane) -> Result<()> {
        let Some((old, _)) = self.now.lock().await.made.clone() else { return Ok(()) };
        let looked = Arc::clone(&old);
        let outdated = lane.run("look at the keyring", move || Ok(looked.is_outdated())).await?;
        let is_out = old.is_shut_out();
        if !self.suspect.swap(false, Ordering::Relaxed) && !outdated && !is_out {
            return Ok(());
        }
        match self.make(lane, Some(&old)).await {
            Ok(made) => {
                let why = match (is_out, outdated) {
                    (true, _) => "the cluster has shut the old one out",
                    (_, true) => "a file has changed",
                    _ => "the cluster was away",
                };
                tracing::info!(user = self.key.user, why, "connected to the cluster anew");
                self.now.lock().await.made = Some(made);
                Ok(())
            }
            Err(error) => {
                self.suspect();
                Err(error)
            }
        }
    }

    /// Something took too long: the next look makes a new one, if it can.
    pub(super) fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// The cluster has shut out the client whose pool this is: all stores that share it make a new one the
    /// next time.
    pub(super) fn shut_out(&self, pool: &Pool) {
        // Otherwise somebody is making one.
        let Ok(now) = self.now.try_lock() else { return };
        if let Some((live, _)) = &now.made
            && live.cluster.instance_id() == pool.cluster().instance_id()
        {
            live.shut_out();
        }
    }
}

fn no_pool(option: &str, name: &str) -> Error {
    Error::new(Kind::Unavailable, format!("the pool does not exist, create it: {option}=`{name}`"))
}

fn slot(key: &Key) -> Slot {
    let mut all = ALL.lock();
    Arc::clone(all.entry(key.clone()).or_default())
}

async fn shared(key: &Key, lane: &Lane, old: Option<&Arc<Live>>) -> Result<Arc<Live>> {
    let slot = slot(key);
    // One at a time connects; the others find what it made.
    let mut shared = slot.lock().await;
    if let Some(live) = shared.upgrade()
        && !live.is_shut_out()
        && old.is_none_or(|old| !Arc::ptr_eq(old, &live))
    {
        return Ok(live);
    }
    let wanted = key.clone();
    let live = Arc::new(lane.run("connect", move || connect(&wanted)).await?);
    *shared = Arc::downgrade(&live);
    Ok(live)
}

fn connect(key: &Key) -> Result<Live> {
    let Key { conf, user, timeout, fixed } = key;
    let named = if conf.is_empty() { "ceph.conf where librados looks for it" } else { conf };
    let connecting = Connecting::new(user, conf).map_err(|errno| {
        Error::new(
            Kind::Unavailable,
            format!(
                "the configuration of Ceph cannot be read, mend it or name another: {errno}: \
                 rbd_store_ceph_conf=`{named}`"
            ),
        )
    })?;
    set_options(&connecting, *timeout, *fixed)?;
    // A number where it is set as one; librados does not turn names into it.
    let features = connecting.get("rbd_default_features").ok();
    let features = features.and_then(|text| text.trim().parse().ok()).unwrap_or(FEATURES);
    let keyring = connecting.get("keyring").unwrap_or_default();
    let files = std::iter::once(conf.as_str())
        .chain(keyring.split(',').map(str::trim))
        .filter(|path| Path::new(path).is_absolute())
        .map(|path| (path.to_owned(), stamp_of(path)))
        .collect();
    let cluster = connecting.connect().map_err(|errno| {
        let missing = keyring.split(',').map(str::trim).map(stamp_of).all(|stamp| stamp.is_none());
        let errno = if missing && errno == Errno::ACCES { Errno::NOENT } else { errno };
        unconnected(errno, user, &keyring, named)
    })?;
    let fsid = cluster.fsid().map_err(|errno| failed("name", "the cluster", errno))?;
    Ok(Live { cluster, fsid, features, files, shut_out: AtomicBool::default() })
}

/// Sets how long the cluster may take, as far as nobody has, and what images need.
fn set_options(connecting: &Connecting, timeout: Option<Duration>, fixed: bool) -> Result<()> {
    let set = |option: &str, value: &str| {
        connecting.set(option, value).map_err(|errno| failed("set", option, errno))
    };
    for (option, unset) in LIMITS {
        let limited = connecting
            .get(option)
            .is_ok_and(|now| now.parse::<f64>().is_ok_and(|now| unset.parse() != Ok(now)));
        match timeout {
            Some(limit) if fixed || !limited => set(option, &limit.as_secs().max(1).to_string())?,
            None => set(option, "0")?,
            Some(_) => {}
        }
    }
    // Whole objects are written and read once: a cache only copies them.
    set("rbd_cache", "false")
}

/// Why the cluster cannot be connected to; `NOENT`: there is no keyring that can be read.
fn unconnected(errno: Errno, user: &str, keyring: &str, conf: &str) -> Error {
    match errno {
        Errno::ACCES | Errno::PERM => Error::new(
            Kind::BackendDenied,
            format!(
                "the cluster refuses the user or its key, compare the keyring with what `ceph auth \
                 get client.{user}` says: rbd_store_user=`{user}` keyring=`{keyring}`"
            ),
        ),
        Errno::NOENT => Error::new(
            Kind::BackendDenied,
            format!(
                "there is no keyring for the user, or it cannot be read, write one by `ceph auth \
                 get client.{user}`: rbd_store_user=`{user}` keyring=`{keyring}`"
            ),
        ),
        errno => Error::new(
            Kind::Unavailable,
            format!("the cluster cannot be reached: {errno}: rbd_store_ceph_conf=`{conf}`"),
        ),
    }
}
