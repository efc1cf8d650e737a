//! One exploration: a daemon over three disks, through its lives, and the checks after.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use imaged::{
    config::{self, Config},
    daemon::Daemon,
    digest::Pool,
    shared::{Opener, Shared},
    wire::records::Mode,
};
use imaged_drivers::{Kind, Result, mem, window::PAGE};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{task::JoinSet, time::Instant};

use super::{
    backend,
    callers::{AGAIN, bytes},
    disk::{self, Disk, Found, Granted, Temper},
    history::History,
    random::Random,
    schedule::{Act, Ends, HANGS, Life, NAMES, Name, Schedule, THERE},
};

/// When nothing hangs or fails any more.
const CALM: Duration = Duration::from_secs(200);
/// An operation that waits for nothing but its own calls has ended after so long, and after what its
/// caller takes for itself.
const LONGEST: Duration = Duration::from_secs(1000);
/// The same of one that nobody may disturb.
const UNDISTURBED: Duration = Duration::from_secs(5);
/// After so long of calm nothing is under way: work in the background pauses for 300 s at most.
const REST: Duration = Duration::from_secs(1500);

pub(super) struct World {
    pub(super) schedule: Schedule,
    /// In the order of [`NAMES`].
    pub(super) disks: [Arc<Disk>; 3],
    pub(super) granted: Granted,
    pub(super) history: Mutex<History>,
    /// Numbers what is done.
    pub(super) number: AtomicU64,
    tally: Mutex<Tally>,
    found: Found,
    crashes: AtomicUsize,
    state: TempDir,
}

/// How often each kind of act came to what.
pub(super) type Tally = BTreeMap<String, u64>;

/// Runs the schedule of `seed`, and gives what should never have happened, and what did.
pub(super) fn explore(seed: u64) -> (Vec<String>, Tally) {
    let world = Arc::new(World::new(Schedule::of(seed)));
    world.fill();
    for life in &world.schedule.lives {
        world.live(life);
    }
    let mut found = world.found.lock().clone();
    found.dedup();
    (found, std::mem::take(&mut world.tally.lock()))
}

impl World {
    fn new(schedule: Schedule) -> Self {
        let (granted, found) = (Granted::default(), Found::default());
        let tempers = [
            Temper { takes: (0, 2_000), faults: 25, in_flight: 2, shares: false },
            Temper { takes: (500, 8_000), faults: 0, in_flight: 4, shares: true },
            Temper { takes: (0, 20), faults: 0, in_flight: 2, shares: false },
        ];
        let disk = |store: usize| {
            let seed = schedule.seed ^ (store as u64 + 1) << 60;
            Disk::new(NAMES[store], tempers[store], seed, &granted, &found)
        };
        let disks = [disk(0), disk(1), disk(2)];
        // Nothing has to outlive this process, and syncing memory is quick.
        let memory = Path::new("/dev/shm");
        let state =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self {
            schedule,
            disks,
            granted,
            history: Mutex::default(),
            number: AtomicU64::new(0),
            tally: Mutex::default(),
            found,
            crashes: AtomicUsize::new(0),
            state: state.unwrap(),
        }
    }

    /// The images that are there from the beginning.
    fn fill(&self) {
        for (store, disk) in self.disks.iter().enumerate() {
            for id in THERE {
                let nth = self.number.fetch_add(1, Ordering::SeqCst);
                let bytes = bytes(&mut Random::of(self.schedule.seed, nth), 3 * PAGE);
                let image = disk::Image { bytes: bytes.clone(), digests: None, shared: false };
                disk.content().images.insert(id.parse().unwrap(), image);
                self.history.lock().is_there(Name { store, id }, bytes);
            }
        }
    }

    /// Something that should never have happened.
    pub(super) fn report(&self, what: String) {
        self.found.lock().push(what);
    }

    /// The configuration, in its `version`; other `backends` are others to the daemon. Perhaps without the
    /// store that hangs.
    fn config(&self, version: i64, backends: u64, drops: bool) -> Config {
        let store = |name: &str| config::Store {
            name: name.to_owned(),
            kind: "mem".to_owned(),
            description: None,
            weight: version,
            read_only: false,
            driver: Some(imaged_drivers::Config::Mem(mem::Config { capacity: 1 << 30 | backends })),
            problem: None,
        };
        let daemon = config::Daemon {
            state_dir: self.state.path().to_owned(),
            total_window: self.schedule.memory * PAGE,
            ..config::Daemon::default()
        };
        let default = NAMES[0].to_owned();
        let names = if drops { &NAMES[HANGS + 1..] } else { &NAMES[..] };
        Config { daemon, stores: names.iter().copied().map(store).collect(), default }
    }

    fn start(&self) -> Arc<Daemon> {
        let disks = self.disks.clone();
        let opener = Opener::new(move |_section, name, _instance| {
            let disk = disks.iter().find(|disk| disk.name == name).map(Arc::clone);
            backend::open(disk.unwrap())
        });
        let config = self.config(0, 0, false);
        // Other tests of this process begin daemons, and a child that has not become one yet holds the
        // lock of the life before.
        let shared = loop {
            match Shared::over(&config.daemon, opener.clone(), Pool::of_runtime()) {
                Err(error) if error.kind() == Kind::InUse => std::thread::yield_now(),
                shared => break shared.unwrap(),
            }
        };
        Daemon::over(&config, shared)
    }

    /// From a start to a crash, or to the end.
    fn live(self: &Arc<Self>, life: &Life) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let daemon = self.start();
            daemon.stores().open_soon().await;
            drop(tokio::spawn(Arc::clone(&daemon).look_after()));
            drop(tokio::spawn(Arc::clone(self).watch_memory(Arc::clone(&daemon))));
            let mut acts = JoinSet::new();
            for (at, act) in &life.acts {
                let (this, daemon) = (Arc::clone(self), Arc::clone(&daemon));
                let (at, act) = (*at, act.clone());
                acts.spawn(async move {
                    tokio::time::sleep(at).await;
                    this.act(&daemon, &act).await;
                });
            }
            match life.ends {
                Ends::AtRest => self.end(&daemon, acts).await,
                Ends::Crash(after) => tokio::time::sleep(after).await,
                Ends::Drain(after) => {
                    tokio::time::sleep(after).await;
                    let _by_itself = daemon.drain(Some(Duration::from_secs(10))).await;
                }
            }
        });
        // Whatever was under way is gone with its tasks.
        drop(runtime);
        self.history.lock().crash();
        self.crashes.fetch_add(1, Ordering::SeqCst);
    }

    async fn reload(&self, daemon: &Daemon, reopens: bool, drops: bool) {
        let version = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        let backends = if reopens { version } else { 0 };
        let version = i64::try_from(version).unwrap();
        daemon.reload(&self.config(version, backends, drops)).await;
    }

    async fn act(&self, daemon: &Arc<Daemon>, act: &Act) {
        let closing = &daemon.shared.closing;
        if closing.is_cancelled() {
            return;
        }
        let begun = Instant::now();
        let result = match act {
            Act::Put(upload) => self.put_again(daemon, upload).await,
            Act::Replace(upload) => self.replace(daemon, upload).await,
            Act::Get(download) => self.get(daemon, download).await,
            Act::Copy { from, to, mode } => self.copy(daemon, *from, *to, *mode).await,
            Act::Delete(name) => self.delete(daemon, *name).await,
            Act::Reload { reopens, drops } => {
                self.reload(daemon, *reopens, *drops).await;
                Ok(())
            }
            Act::Hang(hangs) => {
                self.disks[HANGS].hang(*hangs);
                Ok(())
            }
            Act::Cancel => {
                self.cancel(daemon);
                Ok(())
            }
        };
        let came_to = result.as_ref().map_or_else(|error| error.kind().code(), |()| "done");
        *self.tally.lock().entry(format!("{} {came_to}", act.name())).or_default() += 1;
        // At the end of a daemon all that is under way is refused.
        if !closing.is_cancelled() {
            self.judge(act, begun.elapsed(), &result);
        }
    }

    /// Whether an operation may come to this, after so long.
    fn judge(&self, act: &Act, took: Duration, result: &Result<()>) {
        let own = match act {
            Act::Put(upload) | Act::Replace(upload) => upload.pause * 12 + AGAIN,
            Act::Get(download) => download.pause * 6,
            Act::Copy { .. } | Act::Delete(_) | Act::Reload { .. } | Act::Hang(_) | Act::Cancel => {
                Duration::ZERO
            }
        };
        let took = took.saturating_sub(own);
        // These wait for work in the background, which waits for its store.
        let waits =
            matches!(act, Act::Copy { mode: Mode::Copy, .. } | Act::Delete(_) | Act::Replace(_));
        if took > LONGEST && !waits {
            self.report(format!("took {} s: {act:?}", took.as_secs()));
        }
        if let Err(error) = result
            && error.kind() == Kind::Internal
            && !error.to_string().contains("planted")
        {
            self.report(format!("a defect, {}: {act:?}", error.chain()));
        }
        if !self.schedule.is_undisturbed(act) {
            return;
        }
        if took > UNDISTURBED {
            self.report(format!("took {} s, held up by other stores: {act:?}", took.as_secs()));
        }
        if let Err(error) = result
            && matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
            // Of the same id.
            && !error.to_string().contains("a delete of an earlier image")
            // What a crash has left takes a moment.
            && !(self.crashes.load(Ordering::SeqCst) > 0 && error.to_string().contains("earlier"))
        {
            self.report(format!("refused for what others do, {}: {act:?}", error.chain()));
        }
    }

    /// No transfer holds memory before its backend has answered, or after it has ended.
    async fn watch_memory(self: Arc<Self>, daemon: Arc<Daemon>) {
        loop {
            tokio::time::sleep(Duration::from_millis(997)).await;
            let held = daemon.shared.memory.held();
            let granted = self.granted.load(Ordering::SeqCst);
            if held > granted {
                self.report(format!(
                    "{held} bytes of memory are held, and transfers that may are of {granted}"
                ));
                return;
            }
        }
    }

    /// Nothing hangs or fails any more: all that is under way ends, and nothing is left of it.
    async fn end(&self, daemon: &Arc<Daemon>, mut acts: JoinSet<()>) {
        tokio::time::sleep(CALM).await;
        self.disks.iter().for_each(|disk| disk.calm_down());
        // The store that was dropped comes back.
        self.reload(daemon, false, false).await;
        let ended = async {
            while let Some(ended) = acts.join_next().await {
                if let Err(panic) = ended {
                    self.report(format!("a caller panicked: {panic}"));
                }
            }
        };
        if tokio::time::timeout(REST, ended).await.is_err() {
            let count = acts.len();
            self.report(format!("{count} operations do not end though all stores are well"));
        }
        let shared = &daemon.shared;
        let is_busy = || {
            let (ids, jobs) = (shared.ids.len(), shared.jobs.running());
            let held = shared.memory.held();
            (ids + jobs + held > 0).then(|| format!("ids={ids} jobs={jobs} memory={held}"))
        };
        let since = Instant::now();
        while let Some(busy) = is_busy() {
            if since.elapsed() > REST {
                return self.report(format!("does not come to rest though all is well: {busy}"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if !daemon.drain(Some(Duration::from_secs(10))).await {
            self.report("a daemon at rest does not end by itself".to_owned());
        }
        self.nothing_is_left();
    }

    fn nothing_is_left(&self) {
        let intents = fs::read_dir(self.state.path().join("journal")).unwrap().count();
        if intents > 0 {
            self.report(format!("{intents} intents are left in the journal"));
        }
        let granted = self.granted.load(Ordering::SeqCst);
        if granted > 0 {
            self.report(format!("windows of {granted} bytes are left"));
        }
        for disk in &self.disks {
            let staged = disk.content().staged.len();
            if staged > 0 {
                disk.report(format!("{staged} unfinished images are left"));
            }
        }
        self.history.lock().compare(&self.disks);
    }
}
