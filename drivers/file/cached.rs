//! How much of an image may be left in the page cache.

use std::fs;

use super::config::PageCache;

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
            Self::Auto => fs::read_to_string("/proc/meminfo")
                .ok()
                .and_then(|text| available(&text))
                .map_or(Room::NONE, |bytes| Room(bytes / PART)),
        }
    }
}

/// `MemAvailable`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read_or_taken_for_nothing() {
        let text = "MemTotal:  24 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\nBuffers: 3 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        for bad in
            ["", "MemFree: 1 kB\n", "MemAvailable: x kB", "MemAvailable: 5", "MemAvailable: kB"]
        {
            assert_eq!(available(bad), None, "{bad}");
        }
        assert!(PageCache::Auto.room().is_for(1 << 20));
    }

    #[test]
    fn an_image_is_kept_whole_or_not_begun() {
        let room = Room(100);
        assert_eq!(room.of(Some(100)), room);
        assert_eq!(room.of(Some(101)), Room::NONE);
        // Of what nobody knows the length, it shows later.
        assert_eq!(room.of(None), room);
        assert!(room.is_for(100) && !room.is_for(101) && !Room::NONE.is_for(1));
        assert!(PageCache::Always.room().is_for(u64::MAX) && !PageCache::Never.room().is_for(1));
    }
}
