//! The time that is written down: it outlives the machine's other clocks, and may be set.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of Unix time; 0 before it began.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
