//! How much of an image may be left in the page cache.

use super::config::PageCache;
use crate::kit::meminfo;

/// Of the memory that is available an image may take this part.
const PART: u64 = 8;

/// What an image may be long to be left in the page cache, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room(u64);

impl Room {
    pub(super) const NONE: Self = Self(0);

    #[cfg(test)]
    pub(super) fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// For an image of this size, if it is known: what does not fit as a whole is not begun.
    pub(super) fn of(self, size: Option<u64>) -> Self {
        if self.is_for(size.unwrap_or(0)) { self } else { Self::NONE }
    }

    /// Whether an image may be so long.
    pub(super) fn is_for(self, bytes: u64) -> bool {
        bytes <= self.0
    }
}

impl PageCache {
    /// What there is now.
    pub(super) fn room(self) -> Room {
        match self {
            Self::Always => Room(u64::MAX),
            Self::Never => Room::NONE,
            // Where nothing is known of the memory, it is left to others.
            Self::Auto => meminfo::bytes("MemAvailable").map_or(Room::NONE, |all| Room(all / PART)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_kept_whole_or_not_begun() {
        let room = Room(100);
        assert_eq!(room.of(Some(100)), room);
        assert_eq!(room.of(Some(101)), Room::NONE);
        // Of what nobody knows the length, it shows later.
        assert_eq!(room.of(None), room);
        assert!(PageCache::Auto.room().is_for(1 << 20));
        assert!(room.is_for(100) && !room.is_for(101) && !Room::NONE.is_for(1));
        assert!(PageCache::Always.room().is_for(u64::MAX) && !PageCache::Never.room().is_for(1));
    }
}
