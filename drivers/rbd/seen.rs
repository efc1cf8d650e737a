//! What was seen of images: whole ones, which a snapshot seals for good, and those that seem abandoned.

use std::{collections::HashMap, fmt, time::Instant};

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
    pub(super) odd: Option<Odd>,
}

/// In what an image differs from those that daemons and glance_store make now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// Its snapshot is not protected.
    Unprotected,
    /// It has no snapshot, and is of format 2.
    Unsnapped,
    /// It is of format 1, with the snapshot or without.
    Old { snapped: bool },
}

impl Seen {
    /// Whether it is read at its head, for want of a snapshot.
    pub(super) fn at_head(&self) -> bool {
        matches!(self.odd, Some(Odd::Unsnapped | Odd::Old { snapped: false }))
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unprotected => "its snapshot `snap` is not protected",
            Self::Unsnapped => {
                "it has no snapshot `snap`: an image of an old Glance, or what is left of an upload of \
                 glance_store's that was broken off"
            }
            Self::Old { snapped: true } => "it is of format 1, of which there are no clones",
            Self::Old { snapped: false } => {
                "it is of format 1, of which there are no clones, and has no snapshot `snap`"
            }
        })
    }
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

/// What other daemons seem to have abandoned in one pool.
#[derive(Debug, Default)]
pub(super) struct AllAbandoned {
    /// When each was first found so, and in each look since, by name and internal id.
    pub(super) since: HashMap<(String, String), Instant>,
    /// When the pool was last looked through.
    pub(super) looked: Option<Instant>,
}
