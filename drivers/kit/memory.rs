//! The memory that all transfers together may hold, and how it is shared out.
//!
//! **Rule: nobody waits for others' memory while holding more than its minimum.** A transfer is
//! given its minimum when its first bytes move, and keeps it to its end. Everything beyond that is
//! lent one buffer at a time, only while it is free, and only to a transfer whose buffers come back
//! soon. So whoever waits, waits for its own buffers, and those of a caller or a backend that stands
//! still are nobody else's.
//!
//! What is free is divided between [`Share`]s, one for each store and direction: a share is lent
//! more only while it holds no more than what would still be free. One share alone comes to half of
//! the total, the next to half of what is left, and so on: however many stores hang, a healthy one
//! finds room. For minimums a share may come to seven eighths: they are small, and a request that
//! gets none has to be refused.
//!
//! # Decisions
//! * Chose: a bound that moves with what is free (Choudhury and Hahne's dynamic threshold, known
//!   from switches that share buffers between ports). Because: it needs no list of stores, no option
//!   for each, and no share lies idle that another could use. Instead of: fixed parts of the total.
//! * Chose: a minimum so small that every connection can have one at once. Because: then no request
//!   is refused for want of memory, whatever a crowd of slow callers does. Instead of: a queue.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use memmap2::MmapMut;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::contract::{Error, Kind, Result};

/// Bytes of a page; every buffer is a multiple of it, and starts on one.
pub const PAGE: usize = 4096;

/// The largest minimum, in bytes: two pieces of 256 KiB.
const MINIMUM: usize = 512 << 10;

/// Minimums may bring a share to so many times what is still free.
const FOR_MINIMUMS: usize = 7;

/// What stays with its transfers may bring a share to this part of what is still free.
const TO_STAY: usize = 8;

/// Buffers that nobody uses are kept for the next transfer, up to so many bytes.
const SPARE: usize = 64 << 20;

/// Whose transfers share what they hold: those that the same slow or hanging party can hold up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Images on their way into a store, or into several, named together.
    Put(Arc<str>),
    /// Images on their way out of a store.
    Get(Arc<str>),
    /// Images on their way from one store to another.
    Copy(Arc<str>, Arc<str>),
    /// Work in the background with the images of a store.
    Background(Arc<str>),
}

/// The memory that all transfers together may hold. Clones are the same memory.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    /// Bytes.
    total: usize,
    /// Bytes of a transfer's minimum.
    minimum: usize,
    patience: Duration,
    held: Mutex<Held>,
    /// Something has come back.
    freed: Notify,
}

#[derive(Default)]
struct Held {
    /// Bytes that transfers hold, those of all shares together.
    bytes: usize,
    /// Bytes that each share holds; none holds 0.
    shares: BTreeMap<Share, usize>,
    /// Buffers that nobody uses now.
    spare: Vec<MmapMut>,
    /// Bytes of those.
    spare_bytes: usize,
}

/// What bytes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A transfer's minimum.
    Minimum,
    /// More, for a transfer that has its minimum.
    Growth,
    /// More, which may not come back before the transfer ends.
    Stay,
}

impl Memory {
    /// `total` bytes, for at most `transfers` at a time: more than those may have to wait for their
    /// minimum, at most for `patience`.
    #[must_use]
    pub fn new(total: usize, transfers: usize, patience: Duration) -> Self {
        let each = total / transfers.max(1) / 2;
        let minimum = each.clamp(2 * PAGE, MINIMUM) / (2 * PAGE) * (2 * PAGE);
        let held = Mutex::default();
        Self(Arc::new(Inner { total, minimum, patience, held, freed: Notify::new() }))
    }

    /// Bytes of a transfer's minimum.
    #[must_use]
    pub fn minimum(&self) -> usize {
        self.0.minimum
    }

    /// Bytes that transfers hold now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock()
    }

    /// Room for `bytes` that a transfer of `share` keeps to its end however slow it is; `None` where a crowd
    /// of such would leave too little to others.
    #[must_use]
    pub fn room(&self, share: Share, bytes: usize) -> Option<Room> {
        let lent = self.lend(&share, bytes, For::Stay);
        lent.then(|| Room { memory: self.clone(), share, bytes })
    }

    /// Gives `bytes` to `share`, if it may have them now.
    pub(super) fn lend(&self, share: &Share, bytes: usize, what: For) -> bool {
        let mut held = self.lock();
        let Some(free) = self.0.total.saturating_sub(held.bytes).checked_sub(bytes) else {
            return false;
        };
        let before = held.shares.get(share).copied().unwrap_or_default();
        let after = before.saturating_add(bytes);
        let may = match what {
            For::Growth => after <= free,
            For::Stay => after <= free / TO_STAY,
            // The first of a share can always be had while there is any.
            For::Minimum => before == 0 || after <= free.saturating_mul(FOR_MINIMUMS),
        };
        if !may {
            return false;
        }
        held.bytes = held.bytes.saturating_add(bytes);
        held.shares.insert(share.clone(), after);
        let most = self.0.total.saturating_sub(held.bytes);
        let unmapped = held.spare_down_to(most);
        drop(held);
        drop(unmapped);
        true
    }

    /// Takes `bytes` back from `share`.
    pub(super) fn take_back(&self, share: &Share, bytes: usize) {
        let mut held = self.lock();
        held.bytes = held.bytes.saturating_sub(bytes);
        if let Some(of_share) = held.shares.get_mut(share) {
            *of_share = of_share.saturating_sub(bytes);
            if *of_share == 0 {
                held.shares.remove(share);
            }
        }
        drop(held);
        self.0.freed.notify_waiters();
    }

    /// Waits until a minimum of `bytes` can be had by `share`, and gives it.
    pub(super) async fn minimum_for(&self, share: &Share, bytes: usize) -> Result<()> {
        let given = async {
            loop {
                let mut freed = std::pin::pin!(self.0.freed.notified());
                // From here on nothing that comes back is missed.
                freed.as_mut().enable();
                if self.lend(share, bytes, For::Minimum) {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(self.0.patience, given).await.map_err(|late| {
            Error::new(
                Kind::Unavailable,
                format!(
                    "other transfers have all the memory, and none came free within {} s; try \
                     again, or raise total_window_mib",
                    self.0.patience.as_secs()
                ),
            )
            .because(late)
        })
    }

    /// A buffer of `bytes`, one that was used before if there is one.
    pub(super) fn map(&self, bytes: usize) -> Result<MmapMut> {
        if let Some(map) = self.lock().reuse(bytes) {
            return Ok(map);
        }
        map(bytes)
    }

    /// Keeps a buffer for another transfer, if there is room for it.
    pub(super) fn unmap(&self, map: MmapMut) {
        let mut held = self.lock();
        let after = held.spare_bytes.saturating_add(map.len());
        if after <= SPARE && held.bytes.saturating_add(after) <= self.0.total {
            held.spare_bytes = after;
            held.spare.push(map);
        }
    }
}

/// Bytes of the system, in whole pages.
pub(super) fn map(bytes: usize) -> Result<MmapMut> {
    MmapMut::map_anon(bytes).map_err(|error| Error::io("allocate", "a transfer buffer", error))
}

impl Held {
    fn reuse(&mut self, bytes: usize) -> Option<MmapMut> {
        let at = self.spare.iter().rposition(|map| map.len() == bytes)?;
        let map = self.spare.swap_remove(at);
        self.spare_bytes = self.spare_bytes.saturating_sub(map.len());
        Some(map)
    }

    /// Takes out spare buffers until no more than `most` bytes of them are left.
    fn spare_down_to(&mut self, most: usize) -> Vec<MmapMut> {
        let mut out = Vec::new();
        while self.spare_bytes > most {
            let Some(map) = self.spare.pop() else { break };
            self.spare_bytes = self.spare_bytes.saturating_sub(map.len());
            out.push(map);
        }
        out
    }
}

/// Bytes that the memory counts as a transfer's until this is dropped.
#[derive(Debug)]
pub struct Room {
    memory: Memory,
    share: Share,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.take_back(&self.share, self.bytes);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("total", &self.0.total)
            .field("minimum", &self.0.minimum)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const PATIENCE: Duration = Duration::from_secs(5);

    fn put(store: &str) -> Share {
        Share::Put(store.into())
    }

    /// As much growth as a share is lent, in steps.
    fn grow(memory: &Memory, share: &Share, step: usize) -> usize {
        let mut got = 0;
        while memory.lend(share, step, For::Growth) {
            got += step;
        }
        got
    }

    #[test]
    fn one_share_comes_to_half_and_the_next_to_half_of_what_is_left() {
        let memory = Memory::new(64 * MIB, 64, PATIENCE);
        assert_eq!(grow(&memory, &put("hangs"), MIB), 32 * MIB);
        assert_eq!(grow(&memory, &put("also"), MIB), 16 * MIB);
        assert_eq!(grow(&memory, &put("well"), MIB), 8 * MIB);
        memory.take_back(&put("hangs"), 32 * MIB);
        assert_eq!(grow(&memory, &put("well"), MIB), 16 * MIB, "what came back is shared anew");
    }

    #[test]
    fn minimums_leave_an_eighth_to_other_shares() {
        let memory = Memory::new(64 * MIB, 64, PATIENCE);
        let mut given = 0;
        while memory.lend(&put("crowd"), MIB / 2, For::Minimum) {
            given += MIB / 2;
        }
        assert_eq!(given, 56 * MIB);
        assert_eq!(grow(&memory, &put("well"), MIB), 4 * MIB);
        assert!(!memory.lend(&put("crowd"), MIB / 2, For::Growth));
    }

    #[test]
    fn what_stays_leaves_a_crowd_most_of_its_growth_and_comes_back() {
        let memory = Memory::new(64 * MIB, 64, PATIENCE);
        let rooms: Vec<_> = std::iter::from_fn(|| memory.room(put("crowd"), MIB)).collect();
        assert_eq!(rooms.len(), 7);
        assert_eq!(grow(&memory, &put("crowd"), MIB), 25 * MIB);
        assert_eq!(grow(&memory, &put("well"), MIB), 16 * MIB);
        drop(rooms);
        assert_eq!(memory.held(), 41 * MIB);
    }

    #[test]
    fn every_transfer_can_have_its_minimum_at_once() {
        for (total, transfers) in [(1024 * MIB, 1024), (16 * MIB, 1024), (64 * MIB, 10), (0, 0)] {
            let memory = Memory::new(total, transfers, PATIENCE);
            let minimum = memory.minimum();
            assert!(minimum.is_multiple_of(2 * PAGE) && minimum >= 2 * PAGE, "{minimum}");
            let all = (0..transfers).all(|_| memory.lend(&put("x"), minimum, For::Minimum));
            assert!(all, "{total} {transfers}: {minimum}");
        }
        assert_eq!(Memory::new(1024 * MIB, 1024, PATIENCE).minimum(), MINIMUM);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_minimum_waits_until_some_comes_back_and_not_for_ever() {
        let memory = Memory::new(MIB, 1, PATIENCE);
        let all = put("all");
        assert!(memory.lend(&all, MIB, For::Minimum));
        let late = memory.minimum_for(&put("late"), PAGE).await.unwrap_err();
        assert_eq!(late.kind(), Kind::Unavailable);
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { memory.minimum_for(&put("late"), PAGE).await }
        });
        tokio::task::yield_now().await;
        memory.take_back(&all, MIB);
        waiting.await.unwrap().unwrap();
        assert_eq!(memory.held(), PAGE);
    }

    #[test]
    fn spare_buffers_are_used_again_and_never_exceed_the_total() {
        let memory = Memory::new(4 * MIB, 1, PATIENCE);
        let map = memory.map(MIB).unwrap();
        let address = map.as_ptr();
        memory.unmap(map);
        assert_eq!(memory.map(MIB).unwrap().as_ptr(), address);
        for _ in 0..8 {
            let maps: Vec<_> = (0..3).map(|_| memory.map(MIB).unwrap()).collect();
            maps.into_iter().for_each(|map| memory.unmap(map));
        }
        assert_eq!(memory.lock().spare_bytes, 3 * MIB);
        assert!(memory.lend(&put("x"), 3 * MIB, For::Minimum));
        assert_eq!(memory.lock().spare_bytes, MIB, "what is lent comes first");
    }
}
