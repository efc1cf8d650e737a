//! One store: what it is made of, and how its calls run on its lanes.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use imaged_ffi::{DIRECTORY, Errno, Pool};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::{
    cluster::{Connection, Live},
    config::{self, Config},
    failure::{errno_of, failed, is_shut_out},
    handles::Handles,
    location::Unsnapped,
    seen::{AllAbandoned, AllSeen},
};
use crate::{
    contract::{Error, Kind, Result},
    kit::{
        lane::{Going, Lane},
        refusals::foreign,
    },
};

/// Calls to librbd that block, at a time.
const PLACES: usize = 16;

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
    pub(super) long_lane: Lane,
    /// For purging the trash.
    pub(super) purge_lane: Lane,
    /// For flattening: one image at a time.
    pub(super) flatten_lane: Lane,
    pub(super) connection: Connection,
    /// How long what is in flight may take.
    pub(super) patience: Duration,
    pub(super) handles: Arc<Handles>,
    /// Whole images that were looked at.
    pub(super) seen: Mutex<AllSeen>,
    /// What others have put into the trash, by internal id, as far as that had to be looked at.
    pub(super) foreign: Mutex<BTreeSet<String>>,
    /// Entries of ours that stay in the trash, and of which the log has said so, by internal id.
    pub(super) logged: Mutex<BTreeSet<String>>,
    /// What other daemons seem to have abandoned.
    pub(super) abandoned: Mutex<AllAbandoned>,
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

/// The lanes that all pools of a store share.
#[derive(Clone)]
pub(super) struct Lanes {
    calls: Lane,
    long: Lane,
    purge: Lane,
    flatten: Lane,
    patience: Duration,
}

impl Lanes {
    /// For the store `name`; each step gets `patience`.
    pub(super) fn new(name: &str, patience: Duration) -> Self {
        Self {
            calls: Lane::new(name, PLACES, patience),
            long: Lane::new(name, PLACES, patience),
            purge: Lane::new(name, 1, patience),
            flatten: Lane::new(name, 1, patience),
            patience,
        }
    }
}

/// Runs `work` in `pool`, which is the store's or was, on the store's lane. What the user may not do there
/// is refused with the caps that allow it.
pub(super) async fn on_lane<T: Send + 'static>(
    store: &Arc<Store>,
    pool: &Pool,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>, &Pool) -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = run_on(&store.lane, (store, pool), doing, work).await;
    done.map_err(|error| store.denied(error))
}

/// The same on the store's lane for long calls, for as long as `work` goes on.
pub(super) async fn on_long_lane<T: Send + 'static>(
    store: &Arc<Store>,
    pool: &Pool,
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>, &Pool, &Going) -> Result<T> + Send + 'static,
) -> Result<T> {
    run_long_on(&store.long_lane, (store, pool), doing, work).await
}

/// The same on another of the store's lanes.
pub(super) async fn run_long_on<T: Send + 'static>(
    lane: &Lane,
    (store, pool): (&Arc<Store>, &Pool),
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>, &Pool, &Going) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (this, used) = (Arc::clone(store), pool.clone());
    let explained = move |going: &Going| {
        let done = work(&this, &used, going);
        done.map_err(|error| this.connection.explained(&used, error))
    };
    let done = after_answer(store, pool, lane.run_long(doing, explained).await);
    done.map_err(|error| store.denied(error))
}

/// Runs `work` on one of the store's lanes; it says itself what the user may not do, as in a pool that is
/// not the store's.
pub(super) async fn run_on<T: Send + 'static>(
    lane: &Lane,
    (store, pool): (&Arc<Store>, &Pool),
    doing: &'static str,
    work: impl FnOnce(&Arc<Store>, &Pool) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (this, used) = (Arc::clone(store), pool.clone());
    let explained =
        move || work(&this, &used).map_err(|error| this.connection.explained(&used, error));
    after_answer(store, pool, lane.run(doing, explained).await)
}

/// Gives the connection up, or has it looked at, if `done` says that the cluster does not answer on it.
fn after_answer<T>(store: &Store, pool: &Pool, done: Result<T>) -> Result<T> {
    match done {
        Err(error) if is_shut_out(&error) => {
            store.connection.shut_out(pool);
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
    match errno_of(error) {
        Some(errno) => [Errno::TIMEDOUT, Errno::SHUTDOWN].map(Errno::number).contains(&errno),
        None => matches!(error.kind(), Kind::Timeout | Kind::Unavailable),
    }
}

impl Store {
    /// The store of the pool that `option` names, and of no others yet; what may take long gets
    /// `patience` for each step.
    pub(super) fn new(
        config: &Config,
        (name, instance): (&str, &str),
        (option, pool): (&'static str, &str),
        lanes: Lanes,
    ) -> Self {
        Self {
            name: name.to_owned(),
            instance: instance.to_owned(),
            config: config.clone(),
            pool: pool.to_owned(),
            option,
            also: Vec::new(),
            lane: lanes.calls,
            long_lane: lanes.long,
            purge_lane: lanes.purge,
            flatten_lane: lanes.flatten,
            connection: Connection::new(config, pool, option),
            patience: lanes.patience,
            handles: Arc::default(),
            seen: Mutex::default(),
            foreign: Mutex::default(),
            logged: Mutex::default(),
            abandoned: Mutex::default(),
            trash: Mutex::default(),
            purging: AsyncMutex::default(),
            purge_again: AtomicBool::default(),
            fsid: Mutex::default(),
        }
    }

    /// With the pools of the section that are only read and deleted in, which share its lanes.
    pub(super) fn with_also_pools(mut self) -> Self {
        let lanes = Lanes {
            calls: self.lane.clone(),
            long: self.long_lane.clone(),
            purge: self.purge_lane.clone(),
            flatten: self.flatten_lane.clone(),
            patience: self.patience,
        };
        let of = (self.name.as_str(), self.instance.as_str());
        let in_pool = |pool: &String| {
            Arc::new(Self::new(&self.config, of, (config::ALSO, pool), lanes.clone()))
        };
        self.also = self.config.also_pools.iter().map(in_pool).collect();
        self
    }

    pub(super) async fn connected(&self) -> Result<(Arc<Live>, Pool)> {
        let (live, pool) = self.connection.get(&self.lane).await?;
        *self.fsid.lock() = Some(live.fsid.clone());
        Ok((live, pool))
    }

    /// What the caps of the user do not allow, with those that would; other failures, and what names its
    /// remedy already, as they are.
    fn denied(&self, error: Error) -> Error {
        if error.kind() != Kind::BackendDenied || errno_of(&error).is_none() {
            return error;
        }
        let Self { pool, option, config: Config { user, .. }, .. } = self;
        let caps = self.config.caps("");
        Error::new(
            Kind::BackendDenied,
            format!(
                "{error}; to write, the user needs the caps {caps}: rbd_store_user=`{user}` \
                 {option}=`{pool}`"
            ),
        )
        .instead_of(error)
    }

    /// Whether the pools can be used, which not only the mon knows. Blocks.
    pub(super) fn probe(&self, pool: &Pool) -> Result<()> {
        let fail = |errno| failed("look at", &self.pool, errno);
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

    /// The image that `at` names, if it may be one of this store's, and whether it may lack its snapshot.
    pub(super) fn image_at(
        &self,
        at: &crate::Location,
        live: &Live,
    ) -> Result<(String, Unsnapped)> {
        let crate::Location::Rbd(rbd) = at else { return Err(foreign(at, &self.name)) };
        if !rbd.is_in(&live.fsid, &self.pool) {
            return Err(foreign(at, &self.name));
        }
        Ok((rbd.image().to_owned(), Unsnapped::by(rbd)))
    }

    pub(super) fn forget(&self, name: &str) {
        self.seen.lock().forget(name);
    }
}

/// The refusal of a store whose pool for data is missing.
pub(super) fn no_data_pool(name: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("the pool for data does not exist, create it: rbd_store_data_pool=`{name}`"),
    )
}
