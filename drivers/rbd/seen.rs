//! Whole images that were looked at: what is sealed by a snapshot never changes.

use std::collections::HashMap;

use crate::contract::Stat;

/// As many are remembered.
const REMEMBERED: usize = 4096;

/// What is known of a whole image.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) internal: String,
    pub(super) stat: Stat,
    /// Whether an open handle keeps it from being removed.
    pub(super) watched: bool,
}

/// The images of one store that were seen, by name.
#[derive(Debug, Default)]
pub(super) struct AllSeen(HashMap<String, Seen>);

impl AllSeen {
    pub(super) fn get(&self, name: &str) -> Option<Seen> {
        self.0.get(name).cloned()
    }

    pub(super) fn insert(&mut self, name: &str, seen: Seen) {
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(name.to_owned(), seen);
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}
