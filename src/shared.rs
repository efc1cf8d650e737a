//! What all stores and all requests of one daemon share.

use std::sync::Arc;

use imaged_drivers::{Result, memory::Memory};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config, digest::Pool, ids::Ids, jobs::Jobs, metrics::Metrics};

/// What every store and every request may use.
#[derive(Debug)]
pub struct Shared {
    /// The threads that digests run on.
    pub digests: Pool,
    /// The memory of all transfers.
    pub memory: Memory,
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
    /// The state directory cannot be used, or the system gives no threads.
    pub fn new(settings: &config::Daemon) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            digests: Pool::new(settings.digest_threads)?,
            memory: Memory::new(settings.total_window, settings.connection_limit)
                .with_patience(settings.stall_timeout),
            ids: Ids::open(&settings.state_dir)?,
            metrics: Metrics::new(),
            jobs: Jobs::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
        }))
    }
}
