//! When a server is given up: nothing moved for too long.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The time by which something has to move, for one request.
#[derive(Debug)]
pub(super) struct Watch(Mutex<Instant>);

impl Watch {
    /// Something has to move within `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self(Mutex::new(later(patience)))
    }

    /// Something moved; more has to move within `patience`.
    pub(super) fn moved(&self, patience: Duration) {
        *self.0.lock() = later(patience);
    }

    /// Waits until nothing has moved in time.
    pub(super) async fn stalled(&self) {
        loop {
            let due = *self.0.lock();
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// In `patience` from now; a time that cannot be told is a day.
fn later(patience: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(patience.min(Duration::from_hours(24))).unwrap_or(now)
}
