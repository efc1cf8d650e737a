//! Whether md5 and sha512 of an image are computed by two threads, or by one in one pass over its bytes.
//!
//! **Rule: an image has two threads only while that is faster than one pass would be.** Two threads are faster
//! where the digests alone set the pace, for a pass takes about four fifths of the CPU time of the two together on
//! one thread. Where bytes come more slowly than that, from a caller or to a backend that needs the CPU itself,
//! one pass keeps up and leaves the rest to them. So it is looked at again as the image goes on, by what its bytes
//! have taken: no threshold in bytes a second would be right on two machines.

use std::time::{Duration, Instant};

/// What one pass takes, as a part of the CPU time of two; a little more, so that there is something to gain.
const A_PASS: f64 = 0.9;

/// It is looked at again after so many bytes: that a caller or a backend stops for a moment tells nothing.
const JUDGED: u64 = 256 << 20;

/// The time that bytes of an image took to come, beside the CPU time of their digests.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the first of them came.
    since: Option<Instant>,
    bytes: u64,
}

/// How md5 and sha512 of an image are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passes {
    /// In one, by one thread.
    One,
    /// Each by a thread of its own.
    Two,
}

impl Pace {
    /// So many bytes more have come. Gives how long they took, with those before them, once there are enough to
    /// tell; those that come now are others then.
    pub(super) fn came(&mut self, bytes: usize) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes < JUDGED {
            return None;
        }
        *self = Self { since: Some(Instant::now()), bytes: 0 };
        Some(since.elapsed())
    }
}

impl Passes {
    /// How the next bytes are digested, when those before them took so long and their digests so much CPU time,
    /// and another thread is `idle`.
    pub(super) fn next(self, took: Duration, cpu: Duration, idle: bool) -> Self {
        match self {
            Self::Two if took >= cpu.mul_f64(A_PASS) => Self::One,
            // The thread had hardly anything to wait for.
            Self::One if idle && took.mul_f64(0.95) <= cpu => Self::Two,
            Self::One | Self::Two => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_two_threads_only_while_its_digests_set_the_pace() {
        let s = Duration::from_millis;
        for (now, took, cpu, idle, next) in [
            // Both threads hardly wait.
            (Passes::Two, 1300, 2500, false, Passes::Two),
            // As fast as on a machine that does something else too.
            (Passes::Two, 2000, 2500, true, Passes::Two),
            // Others have the CPU, or the caller is slow.
            (Passes::Two, 2300, 2500, false, Passes::One),
            (Passes::Two, 2600, 2500, true, Passes::One),
            (Passes::Two, 60_000, 2500, true, Passes::One),
            // One pass that waits for its bytes, and one for which they wait.
            (Passes::One, 2600, 2000, true, Passes::One),
            (Passes::One, 2050, 2000, true, Passes::Two),
            (Passes::One, 2050, 2000, false, Passes::One),
        ] {
            assert_eq!(now.next(s(took), s(cpu), idle), next, "{now:?} {took} {cpu} {idle}");
        }
    }

    #[test]
    fn little_tells_nothing() {
        let mut pace = Pace::default();
        assert_eq!(pace.came(0), None);
        let half = usize::try_from(JUDGED / 2).unwrap();
        assert_eq!(pace.came(half), None);
        assert!(pace.came(half).is_some());
        assert_eq!(pace.came(half), None, "what was told of is over");
    }
}
