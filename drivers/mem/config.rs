//! The options of a `mem` section.

use crate::kit::options::Options;

/// The options of a `mem` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes that all images together may take.
    pub capacity: u64,
}

impl Config {
    /// Reads a `mem` section.
    pub fn read(options: &mut Options) -> Option<Self> {
        let capacity = options.int("mem_capacity", 1..=u64::MAX).unwrap_or(1 << 30);
        Some(Self { capacity })
    }
}
