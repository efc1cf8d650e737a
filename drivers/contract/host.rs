//! The daemon as backends know it.

use crate::kit::ledger::Ledger;

/// The daemon that opens a backend.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its name among those that may share the backend, so that none clears away what another is writing.
    pub instance: String,
    /// Where it notes what it holds in backends.
    pub ledger: Ledger,
}

impl Host {
    /// A daemon of this name that notes nothing.
    #[must_use]
    pub fn named(instance: &str) -> Self {
        Self { instance: instance.to_owned(), ledger: Ledger::default() }
    }
}
