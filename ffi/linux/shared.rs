//! Memory that another process sees: bytes get there without passing through a socket.
//!
//! **Rule: who has the memory made writes to it and never reads it; who was given it only reads.** So it does no
//! harm to the writer whatever the reader does with it, and no reference to bytes that another process may be
//! changing is ever made here by the writer.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    ptr::copy_nonoverlapping,
    slice::from_raw_parts,
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
        ftruncate, memfd_create,
    },
    io::Errno,
};

/// Memory for bytes on their way to another process. What it holds is gone when this is dropped, also for
/// whoever still has a descriptor of it: it then reads as zeros.
#[derive(Debug)]
pub struct Shared {
    file: OwnedFd,
    map: MmapRaw,
}

impl Shared {
    /// So many bytes, whose length nobody can change any more: a reader who goes to their end is never in for
    /// a signal.
    ///
    /// # Errors
    /// Those of `memfd_create`, `ftruncate`, `fcntl` and `mmap`.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match memfd_create("imaged", flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memfd_create("imaged", flags)?,
            made => made?,
        };
        ftruncate(&file, bytes as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// What is passed to the reader.
    ///
    /// # Errors
    /// This process has as many open files as it may have.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }

    /// Writes `bytes` at the offset `at`. `None`, and nothing is written, if there is no room for them.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        let end = at.checked_add(bytes.len())?;
        if end > self.map.len() {
            return None;
        }
        let to = self.map.as_mut_ptr().wrapping_add(at);
        // SAFETY: `to` and as many bytes as `bytes` has lie within the mapping, which is writable and backed by
        // memory that cannot shrink; `bytes` is no part of it, for nobody here has a reference to that.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Some(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A reader that keeps its descriptor would keep the memory, which was counted as this process's.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _refused = fallocate(&self.file, flags, 0, self.map.len() as u64);
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
        let mut shared = Shared::new(8192).unwrap();
        let passed = shared.descriptor().unwrap();
        let view = View::new(&passed).unwrap();
        shared.write(0, b"one").unwrap();
        shared.write(8189, b"two").unwrap();
        assert_eq!(view.get(0, 4), Some(&b"one\0"[..]));
        assert_eq!(view.get(8189, 3), Some(&b"two"[..]));
        for (at, bytes) in [(8190, 3), (8193, 0), (usize::MAX, 2)] {
            assert_eq!(view.get(at, bytes), None, "{at}");
            assert_eq!(shared.write(at, &[7; 3][..bytes]), None, "{at}");
        }
        let kept = fstat(&passed).unwrap().st_blocks;
        assert!(kept > 0);
        drop(shared);
        assert_eq!(fstat(&passed).unwrap().st_blocks, 0, "a reader keeps no memory");
        assert_eq!(view.get(0, 3), Some(&[0; 3][..]));
    }

    #[test]
    fn its_length_is_for_ever() {
        let shared = Shared::new(4096).unwrap();
        let file = File::from(shared.descriptor().unwrap());
        for length in [0, 4095, 4097] {
            file.set_len(length).unwrap_err();
        }
        fcntl_add_seals(&file, SealFlags::WRITE).unwrap_err();
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
