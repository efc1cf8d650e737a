//! How fast bytes were moved, and what a GiB of them cost.

use serde::Serialize;

/// Bytes of a GiB, for what is counted per GiB.
pub(super) const GIB: f64 = (1_u64 << 30) as f64;

/// How fast bytes were moved.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// How many.
    pub bytes: u64,
    /// In what time.
    pub seconds: f64,
    /// Millions of them a second.
    pub mb_per_s: f64,
    /// What it cost, where that was measured.
    pub cpu_seconds_per_gib: Option<f64>,
}

impl Rate {
    pub(super) fn new(bytes: u64, seconds: f64, cpu: Option<f64>) -> Self {
        let mb_per_s = ratio(bytes as f64 / 1e6, seconds);
        let cpu_seconds_per_gib = cpu.filter(|_| bytes > 0).map(|cpu| per_gib(cpu, bytes));
        Self { bytes, seconds, mb_per_s, cpu_seconds_per_gib }
    }
}

/// CPU seconds of each GiB.
pub(super) fn per_gib(cpu: f64, bytes: u64) -> f64 {
    ratio(cpu, bytes as f64 / GIB)
}

/// One by the other; 0 by nothing.
pub(super) fn ratio(one: f64, other: f64) -> f64 {
    if other > 0.0 { one / other } else { 0.0 }
}
