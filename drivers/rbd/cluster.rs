//! Connections to clusters: one for each (ceph.conf, user), shared by stores, made again when it is
//! no good any more or when its keyring has changed. What uses an old one goes on with it.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use imaged_ffi::{Cluster, Connecting, Errno, Pool};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    Config,
    config::Timeout,
    failure::{Late, failed},
};
use crate::{Error, Kind, Result, lane::Lane};

/// Options that bound how long the cluster may take, and what they are where nobody has set them.
const LIMITS: [(&str, &str); 3] =
    [("client_mount_timeout", "300"), ("rados_mon_op_timeout", "0"), ("rados_osd_op_timeout", "0")];

/// Ceph's own default: layering, exclusive-lock, object-map, fast-diff, deep-flatten.
const FEATURES: u64 = 61;

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
}

type Stamp = (u64, Option<SystemTime>);

impl Live {
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
    now: AsyncMutex<Option<(Arc<Live>, Pool)>>,
}

impl Connection {
    pub(super) fn new(config: &Config) -> Self {
        let (timeout, fixed) = match config.timeout {
            Timeout::Default(limit) => (Some(limit), false),
            Timeout::Fixed(limit) => (Some(limit), true),
            Timeout::None => (None, true),
        };
        let key = Key { conf: config.conf.clone(), user: config.user.clone(), timeout, fixed };
        Self { key, pool: config.pool.clone(), now: AsyncMutex::default() }
    }

    /// The connection and the pool, made if they are not there.
    pub(super) async fn get(&self, lane: &Lane) -> Result<(Arc<Live>, Pool)> {
        let mut now = self.now.lock().await;
        if let Some((live, pool)) = &*now {
            return Ok((Arc::clone(live), pool.clone()));
        }
        let live = shared(&self.key, lane).await?;
        let (cluster, name) = (live.cluster.clone(), self.pool.clone());
        let pool = lane
            .run("open the pool", move || {
                Pool::open(&cluster, &name).map_err(|errno| match errno {
                    Errno::NOENT => Error::new(
                        Kind::Unavailable,
                        format!("the pool does not exist, create it: rbd_store_pool=`{name}`"),
                    ),
                    errno => failed("open the pool", &name, errno, Late::Away),
                })
            })
            .await?;
        *now = Some((Arc::clone(&live), pool.clone()));
        Ok((live, pool))
    }

    /// Makes a new one the next time, unless this one is still good.
    pub(super) async fn look(&self, lane: &Lane) -> Result<()> {
        let Some((live, _)) = self.now.lock().await.clone() else { return Ok(()) };
        if lane.run("look at the keyring", move || Ok(live.is_outdated())).await? {
            tracing::info!(user = self.key.user, "ceph.conf or the keyring has changed");
            self.forget().await;
        }
        Ok(())
    }

    /// Makes a new one the next time; what uses this one goes on with it.
    pub(super) async fn forget(&self) {
        let old = self.now.lock().await.take();
        let slot = slot(&self.key);
        let mut shared = slot.lock().await;
        // Another store may have a newer one already.
        if let Some((old, _)) = old
            && std::ptr::eq(shared.as_ptr(), Arc::as_ptr(&old))
        {
            *shared = Weak::new();
        }
    }
}

fn slot(key: &Key) -> Slot {
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(all.entry(key.clone()).or_default())
}

async fn shared(key: &Key, lane: &Lane) -> Result<Arc<Live>> {
    let slot = slot(key);
    // One at a time connects; the others find what it made.
    let mut shared = slot.lock().await;
    if let Some(live) = shared.upgrade() {
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
                "the configuration of Ceph cannot be read: {errno}: rbd_store_ceph_conf=`{named}`"
            ),
        )
    })?;
    let set = |option: &str, value: &str| {
        connecting.set(option, value).map_err(|errno| failed("set", option, errno, Late::Away))
    };
    for (option, unset) in LIMITS {
        let limited = connecting
            .get(option)
            .is_ok_and(|now| now.parse::<f64>().is_ok_and(|now| unset.parse() != Ok(now)));
        match timeout {
            Some(limit) if *fixed || !limited => set(option, &limit.as_secs().max(1).to_string())?,
            None => set(option, "0")?,
            Some(_) => {}
        }
    }
    // Whole objects are written and read once: a cache only copies them.
    set("rbd_cache", "false")?;
    // A number where it is set as one; librados does not turn names into it.
    let features = connecting.get("rbd_default_features").ok();
    let features = features.and_then(|text| text.trim().parse().ok()).unwrap_or(FEATURES);
    let keyring = connecting.get("keyring").unwrap_or_default();
    let files = std::iter::once(conf.as_str())
        .chain(keyring.split(',').map(str::trim))
        .filter(|path| Path::new(path).is_absolute())
        .map(|path| (path.to_owned(), stamp_of(path)))
        .collect();
    let cluster = connecting.connect().map_err(|errno| match errno {
        Errno::ACCES | Errno::PERM => Error::new(
            Kind::BackendDenied,
            format!("the cluster refuses the user's key: rbd_store_user=`{user}`"),
        ),
        Errno::NOENT => Error::new(
            Kind::BackendDenied,
            format!(
                "there is no keyring for the user, or it cannot be read: rbd_store_user=`{user}` \
                 keyring=`{keyring}`"
            ),
        ),
        errno => Error::new(
            Kind::Unavailable,
            format!("the cluster cannot be reached: {errno}: rbd_store_ceph_conf=`{named}`"),
        ),
    })?;
    let fsid = cluster.fsid().map_err(|errno| failed("name", "the cluster", errno, Late::Away))?;
    Ok(Live { cluster, fsid, features, files })
}
