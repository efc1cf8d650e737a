//! Pauses of no fixed length, and other tries after them.

use std::time::Duration;

/// A time between a half of `wait` and all of it, so that those who failed together do not come back
/// together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(f64::midpoint(1.0, fastrand::f64()))
}

/// Other tries of what failed for the moment, until too much time has passed since the first failure.
#[derive(Debug)]
pub(crate) struct Tries {
    patience: Duration,
    first: Option<tokio::time::Instant>,
    count: u32,
}

/// There are so many other tries, however long each takes.
const LEAST: u32 = 3;

impl Tries {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, first: None, count: 0 }
    }

    /// Waits before another try; false if there is to be none.
    pub(crate) async fn another(&mut self) -> bool {
        let now = tokio::time::Instant::now();
        let first = *self.first.get_or_insert(now);
        if self.count >= LEAST && now.duration_since(first) >= self.patience {
            return false;
        }
        let most =
            Duration::from_millis(100).saturating_mul(2_u32.saturating_pow(self.count.min(6)));
        self.count = self.count.saturating_add(1);
        tokio::time::sleep(jittered(most)).await;
        true
    }

    /// Something went well: what fails next is another failure.
    pub(crate) fn again(&mut self) {
        (self.first, self.count) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tries_end_when_patience_does() {
        let mut tries = Tries::new(Duration::from_secs(20));
        let begun = tokio::time::Instant::now();
        while tries.another().await {}
        assert!((20..40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        let mut tries = Tries::new(Duration::ZERO);
        for _ in 0..LEAST {
            assert!(tries.another().await);
        }
        assert!(!tries.another().await);
        tries.again();
        assert!(tries.another().await);
    }
}
