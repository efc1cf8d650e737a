//! What all stores and all requests of one daemon share.

use std::{fmt, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use imaged_drivers::{
    self as drivers, Driver, Host, Result,
    lane::Lane,
    memory::{Memory, Share},
    parts::{Parts, Spool},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config, digest::Pool, ids::Ids, jobs::Jobs, metrics::Metrics};

/// How the backend of a store is opened, from its section, its name, and the daemon as backends know it.
#[derive(Clone)]
pub struct Opener(Arc<Open>);

type Open = dyn Fn(drivers::Config, String, Host) -> BoxFuture<'static, Result<Arc<dyn Driver>>>
    + Send
    + Sync;

impl Opener {
    /// Opens by `open`: for backends that no section can name, such as those of tests.
    pub fn new<F>(open: impl Fn(drivers::Config, String, Host) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn Driver>>> + Send + 'static,
    {
        Self(Arc::new(move |section, name, host| open(section, name, host).boxed()))
    }

    /// Opens the backend of the store `name`.
    ///
    /// # Errors
    /// See [`drivers::open`].
    pub async fn open(
        &self,
        section: &drivers::Config,
        name: &str,
        host: &Host,
    ) -> Result<Arc<dyn Driver>> {
        (self.0)(section.clone(), name.to_owned(), host.clone()).await
    }
}

/// By the drivers there are.
impl Default for Opener {
    fn default() -> Self {
        Self::new(|section, name, host| async move { drivers::open(&section, &name, &host).await })
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

/// Threads that the spool is written by, at most.
const SPOOL_PLACES: usize = 4;

/// What every store and every request may use.
#[derive(Debug)]
pub struct Shared {
    /// How stores are opened.
    pub backends: Opener,
    /// The threads that digests run on.
    pub digests: Pool,
    /// The memory of all transfers.
    pub memory: Memory,
    /// Where parts of uploads lie for which there is no memory.
    pub spool: Spool,
    /// Who owns which id, and the journal of that.
    pub ids: Ids,
    /// Counters.
    pub metrics: Metrics,
    /// Background work.
    pub jobs: Jobs,
    /// Every task that a drain waits for.
    pub tasks: TaskTracker,
    /// Fires when no new work is taken.
    pub closing: CancellationToken,
    /// Fires when what is still under way must end.
    pub stop: CancellationToken,
}

impl Shared {
    /// What a daemon of these `settings` shares. Blocks while it reads the journal.
    ///
    /// # Errors
    /// The state directory cannot be used, the system gives no threads, or the machine lacks the kernel
    /// for digests.
    pub fn new(settings: &config::Daemon) -> Result<Arc<Self>> {
        let digests = Pool::new(settings.digest_threads, &settings.digest_kernel)?;
        Self::over(settings, Opener::default(), digests)
    }

    /// The same, whose stores are opened by `backends`, and which computes digests on `digests`.
    ///
    /// # Errors
    /// The state directory cannot be used.
    pub fn over(settings: &config::Daemon, backends: Opener, digests: Pool) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            backends,
            digests,
            memory: Memory::new(
                settings.total_window,
                settings.connection_limit,
                settings.stall_timeout,
            ),
            spool: Spool::new(
                &settings.state_dir,
                settings.spool_limit,
                Lane::new("spool", SPOOL_PLACES, settings.stall_timeout),
            ),
            ids: Ids::open(&settings.state_dir)?,
            metrics: Metrics::new(),
            jobs: Jobs::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Parts of an upload, in memory that `share` is lent.
    #[must_use]
    pub fn parts(&self, share: Share) -> Parts {
        Parts::new(&self.memory, share, &self.spool)
    }
}
