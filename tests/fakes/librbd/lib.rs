//! librbd and librados in memory, as a C library: a test that links this crate has these functions
//! in the place of Ceph's.
//!
//! It keeps what the real ones keep for whoever calls them as `imaged-ffi` does: images with sparse
//! content, snapshots, clones, watchers, metadata, a trash, quotas, and the error numbers of librbd
//! 16. Callbacks come exactly once, on threads of its own, and a buffer is looked at as late as can
//! be. Beyond that it counts every call, and delays, fails, holds and reorders what it is told to.
//!
//! A [`Cluster`] is named by the path of its ceph.conf, so that each test has one to itself.

#![expect(unsafe_code, reason = "this is a C library, seen from the other side")]

mod aio;
mod c;
mod errno;
mod image;
mod locks;
mod pool;
mod queue;
mod rados;
mod script;
mod snaps;
mod world;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use aio::refuse_completions;
pub use queue::Order;
use queue::Queue;
pub use script::{Call, How, Plan, Told};
use script::{Script, Verdict};
use world::{Answer, Pool, World};

/// A cluster that a test has made. It lives until this is dropped and nothing is connected to it.
#[derive(Clone)]
pub struct Cluster(Arc<ClusterState>);

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cluster").field(&self.0.conf).finish()
    }
}

/// What is still open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Connections.
    pub clusters: usize,
    /// Ioctxs.
    pub pools: usize,
    /// Images.
    pub images: usize,
    /// Operations that have not called back.
    pub operations: usize,
}

/// Everything that belongs to one cluster.
pub(crate) struct ClusterState {
    conf: String,
    pub(crate) fsid: String,
    world: Mutex<World>,
    script: Mutex<Script>,
    /// Held calls may go on.
    released: Condvar,
    pub(crate) queue: Arc<Queue>,
    breaches: Mutex<Vec<String>>,
    pub(crate) clusters: AtomicUsize,
    pub(crate) pools: AtomicUsize,
    pub(crate) images: AtomicUsize,
}

static ALL: LazyLock<Mutex<HashMap<String, Weak<ClusterState>>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicUsize = AtomicUsize::new(1);

pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cluster of this ceph.conf.
pub(crate) fn cluster_of(conf: &str) -> Option<Arc<ClusterState>> {
    lock(&ALL).get(conf).and_then(Weak::upgrade)
}

impl Drop for ClusterState {
    fn drop(&mut self) {
        self.queue.close();
        lock(&ALL).remove(&self.conf);
    }
}

impl ClusterState {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// Notes a call; waits while it is held; what is to become of it.
    pub(crate) fn gate(&self, name: &'static str, of: &str, number: u64) -> Verdict {
        let mut script = lock(&self.script);
        let verdict = script.call(name, of, number);
        while script.is_held(name) {
            script = self.released.wait(script).unwrap_or_else(PoisonError::into_inner);
        }
        verdict
    }

    /// Goes on when nobody has a lock on the image of this name.
    pub(crate) fn unlocked<T>(&self, pool: &str, name: &str, then: impl FnOnce() -> T) -> T {
        let mut script = lock(&self.script);
        while self.world().is_name_locked(pool, name) {
            script = self.released.wait(script).unwrap_or_else(PoisonError::into_inner);
        }
        drop(script);
        then()
    }

    /// A call that does `work`, unless it is to fail. The answer as C returns it.
    pub(crate) fn call(
        &self,
        name: &'static str,
        of: &str,
        number: u64,
        work: impl FnOnce(&mut World) -> Answer<i32>,
    ) -> i32 {
        match self.gate(name, of, number) {
            Verdict::Do => work(&mut self.world()).unwrap_or_else(|errno| -errno),
            Verdict::Refuse(errno) | Verdict::Fail(errno) => -errno,
            Verdict::Lose(errno) => match work(&mut self.world()) {
                Ok(_) => -errno,
                Err(other) => -other,
            },
        }
    }

    /// Notes that the library was used as it must not be.
    pub(crate) fn breach(&self, what: String) {
        lock(&self.breaches).push(what);
    }
}

impl Cluster {
    /// A cluster with these pools, empty.
    #[must_use]
    pub fn new(pools: &[&str]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut world = World::default();
        for (name, number) in pools.iter().zip(1..) {
            world.pools.insert((*name).to_owned(), Pool { number, ..Pool::default() });
        }
        let state = Arc::new(ClusterState {
            conf: format!("fake/{number}/ceph.conf"),
            fsid: format!("fa4e0000-0000-4000-8000-{number:012}"),
            world: Mutex::new(world),
            script: Mutex::default(),
            released: Condvar::new(),
            queue: Queue::new(),
            breaches: Mutex::default(),
            clusters: AtomicUsize::new(0),
            pools: AtomicUsize::new(0),
            images: AtomicUsize::new(0),
        });
        lock(&ALL).insert(state.conf.clone(), Arc::downgrade(&state));
        Self(state)
    }

    /// The path of its ceph.conf, which no file has.
    #[must_use]
    pub fn conf(&self) -> &str {
        &self.0.conf
    }

    /// Its UUID.
    #[must_use]
    pub fn fsid(&self) -> &str {
        &self.0.fsid
    }

    /// From now on a call is to fail, beside what was planned before.
    pub fn plan(&self, plan: Plan) {
        lock(&self.0.script).plan(plan);
    }

    /// After so many calls all fail, so that it is as if whoever calls had died.
    pub fn cut(&self, calls: usize) {
        lock(&self.0.script).cut(calls);
    }

    /// After so many calls the cluster serves whoever calls no more, as `ceph osd blocklist add` says it,
    /// until it has connected anew.
    pub fn shut_out(&self, calls: usize, told: Told) {
        lock(&self.0.script).shut_out(calls, told);
    }

    /// Every call succeeds again, and none is counted so far. Whether a plan was left that had not
    /// come to pass.
    pub fn forget(&self) -> bool {
        lock(&self.0.script).forget()
    }

    /// How often a C function was called.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.calls(name).len()
    }

    /// The calls of a C function so far.
    #[must_use]
    pub fn calls(&self, name: &str) -> Vec<Call> {
        lock(&self.0.script).calls().iter().filter(|call| call.name == name).cloned().collect()
    }

    /// The names of all C functions that were called so far, each as often as it was.
    #[must_use]
    pub fn trace(&self) -> Vec<&'static str> {
        lock(&self.0.script).calls().iter().map(|call| call.name).collect()
    }

    /// From now on every call of a C function that is not asynchronous blocks in it.
    pub fn hold_call(&self, name: &'static str) {
        lock(&self.0.script).hold(name);
    }

    /// Lets those go on.
    pub fn release_call(&self, name: &'static str) {
        lock(&self.0.script).release(name);
        self.0.released.notify_all();
    }

    /// Lets everything go on that is held in whatever way: a test that fails must end too.
    pub fn let_go(&self) {
        lock(&self.0.script).release_all();
        self.0.released.notify_all();
        self.release();
    }

    /// From now on nothing lands.
    pub fn hold(&self) {
        self.0.queue.set(|rules| rules.held = true);
    }

    /// Lets what is in flight land.
    pub fn release(&self) {
        self.0.queue.set(|rules| rules.held = false);
    }

    /// The order in which operations land. A flush never overtakes what was begun before it.
    pub fn order(&self, order: Order) {
        self.0.queue.set(|rules| rules.order = order);
    }

    /// How long an operation takes at least.
    pub fn delay(&self, delay: Duration) {
        self.0.queue.set(|rules| rules.delay = delay);
    }

    /// The most operations that were in flight at a time, and the most bytes of writes among them,
    /// since this was asked.
    #[must_use]
    pub fn peak(&self) -> (usize, usize) {
        self.0.queue.peak()
    }

    /// What is still open.
    #[must_use]
    pub fn open(&self) -> Open {
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        Open {
            clusters: count(&self.0.clusters),
            pools: count(&self.0.pools),
            images: count(&self.0.images),
            operations: self.0.queue.waiting(),
        }
    }

    /// How the library was used as it must not be.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        lock(&self.0.breaches).clone()
    }

    /// The names of a pool's images, without those in the trash.
    #[must_use]
    pub fn images(&self, pool: &str) -> Vec<String> {
        let world = self.0.world();
        world.pool(pool).map(|pool| pool.names.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many images are in a pool's trash.
    #[must_use]
    pub fn trashed(&self, pool: &str) -> usize {
        self.0.world().pool(pool).map_or(0, |pool| pool.trash.len())
    }

    /// Clones an image's snapshot `snap` in its pool, in this format.
    pub fn clone_image(&self, pool: &str, image: &str, child: &str, format: u64) {
        let wanted = world::Wanted { format: Some(format), ..world::Wanted::default() };
        let mut world = self.0.world();
        let cloned = world.clone_image((pool, image, "snap"), pool, child, &wanted);
        cloned.expect("there is such a snapshot, and no such clone");
    }

    /// Flattens an image.
    pub fn flatten(&self, pool: &str, image: &str) {
        let mut world = self.0.world();
        let id =
            world.pool(pool).and_then(|pool| pool.id_of(image)).expect("there is such an image");
        let at = world::At { pool: pool.to_owned(), image: id, snap: None };
        world.flatten(&at, &mut |_, _| 0).expect("it is a clone");
    }

    /// Removes an image that has no snapshot and that nobody has open.
    pub fn remove(&self, pool: &str, image: &str) {
        self.0.world().remove(pool, image).expect("it can be removed");
    }

    /// The bytes of an image.
    #[must_use]
    pub fn content(&self, pool: &str, image: &str) -> Vec<u8> {
        let world = self.0.world();
        let id =
            world.pool(pool).and_then(|pool| pool.id_of(image)).expect("there is such an image");
        let at = world::At { pool: pool.to_owned(), image: id, snap: None };
        let size = world.size(&at).expect("it has a size");
        let mut bytes = vec![0; usize::try_from(size).expect("it fits into memory")];
        world.read(&at, 0, &mut bytes).expect("it can be read");
        bytes
    }

    /// Moves an image into the trash, as its users do, to be kept there for so many seconds.
    pub fn trash(&self, pool: &str, image: &str, deferred_s: u64) {
        self.0.world().trash_move(pool, image, deferred_s).expect("there is such an image");
    }

    /// Gives an image in the trash its name back, as its users do.
    pub fn restore(&self, pool: &str, image: &str) {
        let mut world = self.0.world();
        let named =
            |(id, trashed): (&String, &world::Trashed)| (trashed.name == image).then(|| id.clone());
        let id = world.pool(pool).ok().and_then(|pool| pool.trash.iter().find_map(named));
        let id = id.expect("there is such an image in the trash");
        world.trash_restore(pool, &id, image).expect("its name is free");
    }

    /// Begins the migration of an image to another place in its pool.
    pub fn migrate(&self, pool: &str, image: &str) {
        self.0.world().migrate(pool, image).expect("there is such an image");
    }

    /// Puts a lock of this name on an image, or takes it off. Until then nothing is written, and what
    /// needs librbd's own lock waits.
    pub fn lock(&self, pool: &str, image: &str, name: Option<&str>) {
        let mut world = self.0.world();
        let id =
            world.pool(pool).and_then(|pool| pool.id_of(image)).expect("there is such an image");
        let at = world::At { pool: pool.to_owned(), image: id, snap: None };
        let image = world.image_mut(&at).expect("there is such an image");
        image.locker = name.map(str::to_owned);
        drop(world);
        // Who looks at it and then waits does both under this.
        drop(lock(&self.0.script));
        self.0.released.notify_all();
        self.0.queue.look();
    }

    /// A key of an image's metadata.
    #[must_use]
    pub fn metadata(&self, pool: &str, image: &str, key: &str) -> Option<String> {
        let world = self.0.world();
        let pool = world.pool(pool).ok()?;
        pool.images.get(pool.names.get(image)?)?.metadata.get(key).cloned()
    }

    /// Makes an object of these bytes, or replaces what it holds.
    pub fn put_object(&self, pool: &str, name: &str, bytes: &[u8]) {
        let mut world = self.0.world();
        let pool = world.pool_mut(pool).expect("there is such a pool");
        pool.objects.insert(name.to_owned(), bytes.to_vec());
    }

    /// Bytes of a pool's objects.
    #[must_use]
    pub fn used(&self, pool: &str) -> u64 {
        self.0.world().pool(pool).map_or(0, Pool::used)
    }

    /// The pool takes no more once it has so many bytes.
    pub fn set_quota(&self, pool: &str, bytes: Option<u64>) {
        if let Ok(pool) = self.0.world().pool_mut(pool) {
            pool.quota = bytes;
        }
    }

    /// Makes a pool, or removes it with all that is in it.
    pub fn set_pool(&self, pool: &str, there: bool) {
        let mut world = self.0.world();
        let number = world.pools.values().map(|pool| pool.number).max().unwrap_or(0) + 1;
        if there {
            world.pools.entry(pool.to_owned()).or_insert(Pool { number, ..Pool::default() });
        } else {
            world.pools.remove(pool);
        }
    }
}
