//! What two threads make of chunks of one image, one its md5 and one its sha512, where the pass that makes both
//! has fallen behind.
//!
//! **Rule: the chunks of an image are halved if as many wait as may, and neither thread has to wait for the CPU;
//! else one pass goes on.** A pass takes about four fifths of the CPU time of the two digests, on one thread. Where
//! nobody else needs the other cores its queue is full all the time, and two threads are faster. Where a caller is
//! slow, hardly any chunk waits. Where a backend needs the CPU itself the two threads wait for it, which is seen the
//! first time, and tried again after a while. So it needs no threshold in bytes a second, which would not be right
//! on two machines.
//!
//! # Decisions
//! * Chose: to halve what waits and go on together, by what the last time was like. Instead of two threads for as
//!   long as that is faster by what the last 256 MiB have taken: on two cores beside a cluster 3.3 CPU seconds a GiB
//!   for the same time; or one pass always: a lone image would wait for it beside cores that are idle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use imaged_digest::Kernel;
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;

use super::pass::Computing;

/// A thread that takes so many times its CPU time has waited for the CPU.
const WAITED: f64 = 1.1;

/// Takes what both have come to, to go on in one pass, and whether either had to wait for the CPU.
type Ended = Box<dyn Fn(Option<Computing>, bool) + Send + Sync>;

/// One of the two, for a thread.
pub(super) struct Half {
    computing: Computing,
    kernel: Kernel,
    both: Arc<Halves>,
}

/// Where the two meet.
struct Halves {
    done: Mutex<Option<(Computing, bool)>>,
    ended: Ended,
}

impl Half {
    /// sha512 and md5 of what goes in one pass, `None` of what does not; whoever is done last calls `ended`.
    pub(super) fn both(computing: &Computing, kernel: Kernel, ended: Ended) -> Option<[Self; 2]> {
        let both = Arc::new(Halves { done: Mutex::default(), ended });
        let half = |computing| Self { computing, kernel, both: Arc::clone(&both) };
        computing.parted().map(|halves| halves.map(half))
    }

    /// Takes the next bytes of the image, each with whatever goes when both have taken them.
    pub(super) fn compute<T>(mut self, chunks: Vec<Arc<(Bytes, T)>>) {
        let (since, before) = (Instant::now(), cpu());
        for chunk in chunks {
            self.computing.update(self.kernel, &chunk.0);
        }
        let spent = cpu().saturating_sub(before);
        let waited = since.elapsed() > spent.mul_f64(WAITED);
        let mut done = self.both.done.lock();
        match done.take() {
            None => *done = Some((self.computing, waited)),
            Some((other, other_waited)) => {
                let joined = Computing::joined(&self.computing, &other);
                (self.both.ended)(joined, waited || other_waited);
            }
        }
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
