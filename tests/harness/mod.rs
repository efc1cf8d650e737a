//! What tests stand on: stores of every kind, a real daemon, an object server that fails as it is told, a
//! caller that sees every byte.

pub(crate) mod daemon;
pub(crate) mod objects;
pub(crate) mod raw;
pub(crate) mod stores;

/// Where rigs are made, to be found again: `IMAGED_RIGS`, or beside the build.
pub(crate) fn rigs() -> std::path::PathBuf {
    std::env::var_os("IMAGED_RIGS").map_or_else(|| "target/rigs".into(), Into::into)
}
