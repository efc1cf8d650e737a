//! Where things are dropped whose drop may block: closing a file of a hung mount waits as any call to it does.
//!
//! [`Drops`] is the queue of one lane; a few threads of its own work it off. Threads that may block are
//! marked, so that a drop that happens on one of them is not queued.

use std::{cell::Cell, collections::VecDeque, fmt, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;

/// As many threads of one lane drop at a time.
pub(super) const DROPPERS: usize = 16;

thread_local! {
    /// Whether this thread is a lane's, and so may block.
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a thread where it may block. Whoever calls this counts.
pub(super) fn on_blocking_thread(work: impl FnOnce() + Send + 'static) {
    /// Threads are given back, also by a panic.
    struct Here;
    impl Drop for Here {
        fn drop(&mut self) {
            MAY_BLOCK.set(false);
        }
    }
    #[expect(clippy::disallowed_methods, reason = "those who call this count")]
    let _goes_on = tokio::task::spawn_blocking(move || {
        MAY_BLOCK.set(true);
        let _here = Here;
        work();
    });
}

/// Whether a drop may block here: on a lane's thread, or where there is no other to be had.
pub(super) fn may_block() -> bool {
    MAY_BLOCK.try_with(Cell::get).unwrap_or(true) || Handle::try_current().is_err()
}

/// What is to be dropped, in turn, and the threads that are at it.
#[derive(Default)]
pub(super) struct Drops(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Box<dyn FnOnce() + Send>>,
    threads: usize,
    /// Those that threads have taken from the queue, and not yet dropped.
    dropping: usize,
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drops").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Drops {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }

    /// How many threads drop something now.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.waiting().threads
    }

    /// How many wait or are under way.
    pub(super) fn count(&self) -> usize {
        let waiting = self.waiting();
        waiting.queue.len().saturating_add(waiting.dropping)
    }

    pub(super) fn push(self: &Arc<Self>, drops: Box<dyn FnOnce() + Send>) {
        let mut waiting = self.waiting();
        waiting.queue.push_back(drops);
        if waiting.threads >= DROPPERS {
            return;
        }
        waiting.threads += 1;
        drop(waiting);
        Dropper::begin(self);
    }
}

/// One thread that drops what waits, until nothing does.
struct Dropper {
    drops: Arc<Drops>,
    runs: bool,
    /// Whether it has taken one that is not dropped yet.
    has_one: bool,
}

impl Dropper {
    fn begin(drops: &Arc<Drops>) {
        let mut thread = Self { drops: Arc::clone(drops), runs: false, has_one: false };
        on_blocking_thread(move || {
            thread.runs = true;
            while let Some(drops) = thread.next() {
                drops();
            }
        });
    }

    fn next(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut waiting = self.drops.waiting();
        let next = waiting.queue.pop_front();
        waiting.dropping = waiting.dropping.saturating_sub(usize::from(self.has_one));
        self.has_one = next.is_some();
        waiting.dropping = waiting.dropping.saturating_add(usize::from(self.has_one));
        next
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        let mut waiting = self.drops.waiting();
        waiting.threads = waiting.threads.saturating_sub(1);
        waiting.dropping = waiting.dropping.saturating_sub(usize::from(self.has_one));
        // It may have ended by a panic, or have missed what came after its last look. One that never
        // ran belongs to a runtime that has ended.
        let again = self.runs && !waiting.queue.is_empty();
        waiting.threads += usize::from(again);
        drop(waiting);
        if again {
            Self::begin(&self.drops);
        }
    }
}
