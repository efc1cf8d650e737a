//! The life of one daemon: start, reload, drain.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use imaged_drivers::Result;
use tokio::{sync::Mutex, time::MissedTickBehavior};

use crate::{
    config::{self, Config},
    metrics::Now,
    shared::Shared,
    store::Store,
    stores::Stores,
};

/// How often stores are looked at, and what is left over is taken up.
const ROUND: Duration = Duration::from_secs(10);

/// One imaged.
#[derive(Debug)]
pub struct Daemon {
    /// What stores and requests share.
    pub shared: Arc<Shared>,
    stores: ArcSwap<Stores>,
    settings: ArcSwap<config::Daemon>,
    reloading: Mutex<()>,
}

impl Daemon {
    /// A daemon with the stores of `config`, none of them opened. Blocks while it reads the
    /// journal.
    ///
    /// # Errors
    /// The state directory cannot be used.
    pub fn new(config: &Config) -> Result<Arc<Self>> {
        Ok(Self::over(config, Shared::new(&config.daemon)?))
    }

    /// The same over what is shared already.
    #[must_use]
    pub fn over(config: &Config, shared: Arc<Shared>) -> Arc<Self> {
        let stores = Stores::build(config, None, &shared);
        Arc::new(Self {
            shared,
            stores: ArcSwap::from_pointee(stores),
            settings: ArcSwap::from_pointee(config.daemon.clone()),
            reloading: Mutex::default(),
        })
    }

    /// The stores as they are now.
    #[must_use]
    pub fn stores(&self) -> Arc<Stores> {
        self.stores.load_full()
    }

    /// The settings as they are now.
    #[must_use]
    pub fn settings(&self) -> Arc<config::Daemon> {
        self.settings.load_full()
    }

    /// Opens the stores and resolves what a predecessor left; then looks after them until the
    /// daemon closes.
    pub async fn look_after(self: Arc<Self>) {
        let closing = &self.shared.closing;
        let look = async {
            // A round begins whether or not a store still hangs in the one before.
            let mut rounds = FuturesUnordered::new();
            let mut turn = tokio::time::interval(ROUND);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = turn.tick() => rounds.push(self.round()),
                    Some(()) = rounds.next() => {}
                }
            }
        };
        // A store that hangs must not hold the end: what a round leaves, the next start finds.
        tokio::select! {
            () = look => {}
            () = closing.cancelled() => {}
        }
    }

    /// Looks at every store once, and takes up what is left over in the journal; all stores at once,
    /// and not those that another round is still at.
    pub async fn round(&self) {
        self.shared.ids.made().expire().await;
        let stores = self.stores();
        let mut stale: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (intent, begun) in self.shared.ids.left_over() {
            match stores.get(&intent.store) {
                Ok(_) => stale.entry(intent.store.clone()).or_default().push((intent, begun)),
                // Dropped, it stays: the store may come back.
                Err(_) => tracing::warn!(
                    store = intent.store,
                    image = %intent.image,
                    "an unfinished put waits for a store that is no longer configured"
                ),
            }
        }
        join_all(stores.iter().map(|store| {
            let left = stale.remove(store.name()).unwrap_or_default();
            async move { store.look_after(left).await }
        }))
        .await;
    }

    /// Exchanges the configuration: stores are added, removed and changed, transfers under way go
    /// on with what they have. New stores are opened before anyone can ask for them, if that does
    /// not take long. What only a restart can change is left and named.
    pub async fn reload(&self, config: &Config) {
        let _one_at_a_time = self.reloading.lock().await;
        let before = self.settings();
        let mut settings = config.daemon.clone();
        let mut fixed = Vec::new();
        for (name, changed) in [
            ("socket", settings.socket != before.socket),
            ("socket_mode", settings.socket_mode != before.socket_mode),
            ("socket_group", settings.socket_group != before.socket_group),
            ("state_dir", settings.state_dir != before.state_dir),
            ("digest_threads", settings.digest_threads != before.digest_threads),
            ("digest_kernel", settings.digest_kernel != before.digest_kernel),
            ("total_window_mib", settings.total_window != before.total_window),
            ("spool_limit_mib", settings.spool_limit != before.spool_limit),
            ("connection_limit", settings.connection_limit != before.connection_limit),
            (
                "connection_limit_per_user",
                settings.connection_limit_per_user != before.connection_limit_per_user,
            ),
            ("log_format", settings.log_format != before.log_format),
            ("log_level", settings.log_level != before.log_level),
        ] {
            if changed {
                fixed.push(name);
            }
        }
        if !fixed.is_empty() {
            tracing::warn!(options = fixed.join(", "), "these changes take a restart");
            settings.total_window = before.total_window;
            // They were fitted to the new total.
            settings.put_window = settings.put_window.min(before.total_window);
            settings.get_window = settings.get_window.min(before.total_window);
        }
        let before = self.stores();
        let stores = Stores::build(config, Some(&before), &self.shared);
        stores.open_soon().await;
        stores.replace(&before);
        self.settings.store(Arc::new(settings));
        self.stores.store(Arc::new(stores));
    }

    /// What is only known at the time of asking, for `/metrics`.
    #[must_use]
    pub fn now(&self) -> Now {
        let of = |store: &Arc<Store>| {
            let busy = store.driver().map_or(0, |driver| driver.busy());
            (store.name().to_owned(), store.health().is_ok(), busy)
        };
        Now {
            window_bytes: self.shared.memory.held(),
            journal: self.shared.ids.len(),
            jobs: self.shared.jobs.running(),
            stores: self.stores().iter().map(of).collect(),
        }
    }

    /// Takes no new work, gives what is under way `patience` to finish, or as long as it goes on, then
    /// aborts it. Gives whether everything finished by itself.
    pub async fn drain(&self, patience: Option<Duration>) -> bool {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        let under_way = self.shared.tasks.len();
        tracing::info!(under_way, patience_s = patience.map(|time| time.as_secs()), "draining");
        let Some(patience) = patience else {
            self.shared.tasks.wait().await;
            return true;
        };
        if tokio::time::timeout(patience, self.shared.tasks.wait()).await.is_ok() {
            return true;
        }
        let aborted = self.shared.tasks.len();
        tracing::warn!(aborted, "transfers did not finish in time and are aborted");
        self.shared.stop.cancel();
        let cleaned = tokio::time::timeout(CLEAN_UP, self.shared.tasks.wait()).await;
        if cleaned.is_err() {
            tracing::error!(
                "some clean-up did not finish; the journal keeps it for the next start"
            );
        }
        false
    }
}

/// How long aborts may take at the end.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// The files and directories that a configuration is read from, to be read again on reload.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config-file`
    pub files: Vec<PathBuf>,
    /// `--config-dir`
    pub dirs: Vec<PathBuf>,
}

impl Sources {
    /// Whether there is no configuration, so that the embedded default holds.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.files.is_empty() && self.dirs.is_empty()
    }

    /// Reads them; without any, the embedded default.
    ///
    /// # Errors
    /// All that is wrong, and what is good to know beside it.
    pub fn read(&self) -> Result<(Config, Vec<config::Note>), config::Findings> {
        Config::load(&self.files, &self.dirs)
    }
}
