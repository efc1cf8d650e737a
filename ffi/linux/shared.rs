//! Memory that another process sees: bytes get there without passing through a socket.
//!
//! **Rule: nobody but who has the memory made can write to it.** Whoever is passed it gets a descriptor that is
//! open for reading alone, of a file that only its owner may open again; so a slot is a buffer like any other for
//! who has it, and what a reader does with it harms nobody else. Who runs as the owner, or as root, could change it,
//! and could change the process itself.
//!
//! **Rule: a slot is somebody's alone until he drops it.**

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    slice::{from_raw_parts, from_raw_parts_mut},
    sync::Arc,
};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;
use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fchmod, fcntl_add_seals,
        fcntl_get_seals, fstat, ftruncate, memfd_create, open,
    },
    io::Errno,
};
use tokio::sync::Notify;

/// Memory for bytes on their way to another process, in slots. What it holds is gone when this and every slot are
/// dropped, also for whoever still has a descriptor of it: it then reads as zeros. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: OwnedFd,
    map: MmapRaw,
    /// Bytes of a slot.
    slot: usize,
    /// Slots that nobody has.
    free: Mutex<Vec<usize>>,
    /// One came to be free.
    freed: Notify,
}

impl Shared {
    /// So many slots of so many bytes. Nobody can change the length any more: a reader who goes to its end is never in
    /// for a signal.
    ///
    /// # Errors
    /// Those of `memfd_create`, `ftruncate`, `fchmod`, `fcntl` and `mmap`.
    pub fn new(slots: usize, slot: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match memfd_create("imaged", flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memfd_create("imaged", flags)?,
            made => made?,
        };
        let bytes = slots.saturating_mul(slot);
        ftruncate(&file, bytes as u64)?;
        fchmod(&file, Mode::RUSR)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        // The first one is used first.
        let free = Mutex::new((0..slots).rev().collect());
        Ok(Self(Arc::new(Inner { file, map, slot, free, freed: Notify::new() })))
    }

    /// What is passed to the reader, open for reading alone.
    ///
    /// # Errors
    /// There is no `/proc`, or this process has as many open files as it may have.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.0.file.as_raw_fd());
        Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.0.map.len().checked_div(self.0.slot).unwrap_or_default()
    }

    /// Bytes of a slot.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.0.slot
    }

    /// A slot, if more than `left` are free.
    #[must_use]
    pub fn take(&self, left: usize) -> Option<Slot> {
        let mut free = self.0.free.lock();
        let number = if free.len() > left { free.pop()? } else { return None };
        Some(Slot { memory: Arc::clone(&self.0), number })
    }

    /// The same, waiting for it.
    pub async fn slot(&self, left: usize) -> Slot {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            // From here on none that comes back is missed.
            freed.as_mut().enable();
            if let Some(slot) = self.take(left) {
                return slot;
            }
            freed.await;
        }
    }

    /// Where `bytes` are in this memory, if they are.
    #[must_use]
    pub fn place(&self, bytes: &[u8]) -> Option<usize> {
        let at = bytes.as_ptr().addr().checked_sub(self.0.map.as_ptr().addr())?;
        (at.checked_add(bytes.len())? <= self.0.map.len()).then_some(at)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A reader that keeps its descriptor would keep the memory, which was counted as this process's.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _refused = fallocate(&self.file, flags, 0, self.map.len() as u64);
    }
}

/// A part of [`Shared`] memory that one has to himself.
pub struct Slot {
    memory: Arc<Inner>,
    number: usize,
}

impl Slot {
    /// Where it begins: its place in the mapping.
    fn start(&self) -> *mut u8 {
        self.memory.map.as_mut_ptr().wrapping_add(self.number.saturating_mul(self.memory.slot))
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the slot lies within the mapping, which lives as long as `self` and is backed by memory that cannot
        // shrink and begins as zeros. Each number is given out once at a time, and no other process can write.
        unsafe { from_raw_parts(self.start(), self.memory.slot) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for as long.
        unsafe { from_raw_parts_mut(self.start(), self.memory.slot) }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.memory.free.lock().push(self.number);
        self.memory.freed.notify_waiters();
    }
}

/// Another process's [`Shared`] memory.
#[derive(Debug)]
pub struct View(MmapRaw);

impl View {
    /// Of what was passed.
    ///
    /// # Errors
    /// It is no such memory, or cannot be mapped.
    pub fn new(file: impl AsFd) -> io::Result<Self> {
        let seals = fcntl_get_seals(&file)?;
        if !seals.contains(SealFlags::SHRINK) {
            let text = "memory that its owner can take away under its reader";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let bytes = usize::try_from(fstat(&file)?.st_size).map_err(io::Error::other)?;
        MmapOptions::new().len(bytes).map_raw_read_only(&file.as_fd()).map(Self)
    }

    /// So many bytes at the offset `at`, if there are so many. What the writer has said to be written it leaves
    /// alone until it hears that this is not needed any more; so it must not be said while this is held.
    #[must_use]
    pub fn get(&self, at: usize, bytes: usize) -> Option<&[u8]> {
        let end = at.checked_add(bytes)?;
        if end > self.0.len() {
            return None;
        }
        let from = self.0.as_ptr().wrapping_add(at);
        // SAFETY: so many bytes lie within the mapping, which lives as long as `self` and is backed by memory that
        // cannot shrink; the writer, who is trusted with the bytes themselves, does not change them meanwhile.
        Some(unsafe { from_raw_parts(from, bytes) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_written_is_seen_until_the_writer_lets_go() {
        let shared = Shared::new(2, 4096).unwrap();
        let passed = shared.descriptor().unwrap();
        let view = View::new(&passed).unwrap();
        let mut slots = [shared.take(0).unwrap(), shared.take(0).unwrap()];
        slots[0][..3].copy_from_slice(b"one");
        slots[1][4093..].copy_from_slice(b"two");
        assert_eq!(view.get(0, 4), Some(&b"one\0"[..]));
        assert_eq!(view.get(8189, 3), Some(&b"two"[..]));
        assert_eq!(shared.place(&slots[1][4093..]), Some(8189));
        assert_eq!(shared.place(b"elsewhere"), None);
        for (at, bytes) in [(8190, 3), (8193, 0), (usize::MAX, 2)] {
            assert_eq!(view.get(at, bytes), None, "{at}");
        }
        assert!(fstat(&passed).unwrap().st_blocks > 0);
        drop(shared);
        assert_eq!(view.get(8189, 3), Some(&b"two"[..]), "a slot holds it");
        drop(slots);
        assert_eq!(fstat(&passed).unwrap().st_blocks, 0, "a reader keeps no memory");
        assert_eq!(view.get(0, 3), Some(&[0; 3][..]));
    }

    #[test]
    fn a_slot_is_one_s_alone_and_comes_back() {
        let shared = Shared::new(3, 4096).unwrap();
        let first = shared.take(0).unwrap();
        let second = shared.take(1).unwrap();
        assert!(shared.take(1).is_none(), "one is left");
        let third = shared.take(0).unwrap();
        assert!(shared.take(0).is_none());
        let places = [&first, &second, &third].map(|slot| shared.place(slot).unwrap());
        assert_eq!(places, [0, 4096, 8192]);
        drop(second);
        assert_eq!(shared.place(&shared.take(0).unwrap()), Some(4096));
    }

    #[tokio::test]
    async fn who_waits_for_a_slot_gets_the_next_that_is_free() {
        let shared = Shared::new(1, 4096).unwrap();
        let held = shared.take(0).unwrap();
        let (_slot, ()) = tokio::join!(shared.slot(0), async { drop(held) });
    }

    #[test]
    fn its_reader_can_neither_change_it_nor_its_length() {
        let shared = Shared::new(1, 4096).unwrap();
        let file = File::from(shared.descriptor().unwrap());
        for length in [0, 4095, 4097] {
            file.set_len(length).unwrap_err();
            File::from(shared.0.file.try_clone().unwrap()).set_len(length).unwrap_err();
        }
        rustix::io::pwrite(&file, b"x", 0).unwrap_err();
        MmapOptions::new().map_raw(&file).unwrap_err();
        fcntl_add_seals(&file, SealFlags::WRITE).unwrap_err();
        assert_eq!(fstat(&file).unwrap().st_mode & 0o777, 0o400);
    }

    #[test]
    fn what_its_owner_can_take_away_is_not_looked_at() {
        let file = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, 4096).unwrap();
        View::new(&file).unwrap_err();
        View::new(File::open("/proc/self/exe").unwrap()).unwrap_err();
        View::new(io::pipe().unwrap().0).unwrap_err();
    }
}
