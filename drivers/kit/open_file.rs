//! Open files that others may change while they are read.
//!
//! Rule: whoever passes on the bytes of an open file takes its [`Version`] first, and looks again after
//! each piece that was read and before it is passed on. A piece that holds anything of a change was
//! read after that change, so the look that follows it sees the change: what was passed on is all of
//! one version, whatever becomes of the file.

use std::{fs, os::fd::AsFd, path::PathBuf};

use rustix::{
    fs::{SeekFrom, Stat, fstat, seek},
    io::{self, Errno, pread},
};

use super::window::Buffer;
use crate::contract::{Error, Kind, Result};

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Length in bytes.
    pub size: u64,
    /// When its bytes were changed last, by seconds and nanoseconds; its owner can set it back.
    modified: (i64, u64),
    /// When anything about it was changed last: its names and attributes too. Nobody can set it back.
    changed: (i64, u64),
}

impl Version {
    /// The version that `file` has now.
    ///
    /// # Errors
    /// What the system says when it cannot be looked at.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        fstat(file).map(|stat| Self::from(&stat))
    }

    /// Whether a reader of the one has the bytes of the other. A file that was only renamed, removed
    /// or given attributes meanwhile still has.
    #[must_use]
    pub fn reads_like(&self, other: &Self) -> bool {
        (self.size, self.modified) == (other.size, other.modified)
    }
}

impl From<&Stat> for Version {
    fn from(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// How much of a file must stay as it was while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// Its bytes: an image may be removed while it is read, and its readers go on.
    Bytes,
    /// All of it, so that nobody who sets times back is believed: what is made of it is kept.
    Everything,
}

/// An image in a file that is open for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: fs::File,
    /// Where it was found, for people.
    pub path: PathBuf,
    /// Length in bytes.
    pub size: u64,
    /// Whether it takes less space than its length.
    pub sparse: bool,
    /// The device that it is on.
    pub device: u64,
    /// What it was when it was opened.
    version: Version,
}

impl OpenFile {
    /// `file`, which was just opened and is as `stat` says.
    #[must_use]
    pub fn new(file: fs::File, path: PathBuf, stat: &Stat) -> Self {
        let version = Version::from(stat);
        let held = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let (size, sparse, device) = (version.size, held < version.size, stat.st_dev);
        Self { file, path, size, sparse, device, version }
    }

    /// Fails if the file is not what it was when it was opened. To be called after bytes were read,
    /// before they are passed on.
    ///
    /// # Errors
    /// `Mismatch` if it was changed.
    pub fn check(&self, what: Unchanged) -> Result<()> {
        let now = Version::of(&self.file)
            .map_err(|error| Error::io("look at", self.path.display(), error.into()))?;
        let same = match what {
            Unchanged::Bytes => now.reads_like(&self.version),
            Unchanged::Everything => now == self.version,
        };
        if same { Ok(()) } else { Err(self.changed()) }
    }

    /// The refusal of a file that changes while it is read.
    #[must_use]
    pub fn changed(&self) -> Error {
        Error::new(
            Kind::Mismatch,
            format!(
                "the file was changed while it was read, so what was read is no image: path=`{}`",
                self.path.display()
            ),
        )
    }
}

/// What comes at an offset of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Data begins here: at the offset, or behind a hole.
    Data(u64),
    /// The rest of the file is a hole.
    Hole,
    /// The file ends before it should: it has only so many bytes.
    Short(u64),
}

/// Looks for data at or after `from`, in a file that should have `size` bytes. A filesystem that
/// cannot tell has data everywhere.
///
/// # Errors
/// What the system says when the file cannot be looked at.
pub fn next_data(file: impl AsFd, from: u64, size: u64) -> io::Result<Next> {
    match seek(&file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Next::Data(at)),
        // It says so of a hole up to the end, and of an offset past the end.
        Err(Errno::NXIO) => Version::of(&file).map(|now| match now.size < size {
            true => Next::Short(now.size),
            false => Next::Hole,
        }),
        Err(_) => Ok(Next::Data(from)),
    }
}

/// Fills `buffer` with what the file has from `at` on. Gives whether it had as much.
///
/// # Errors
/// What the system says when the file cannot be read.
pub fn fill(file: impl AsFd, at: u64, buffer: &mut Buffer) -> io::Result<bool> {
    while !buffer.is_full() {
        let from = at.saturating_add(buffer.len() as u64);
        match pread(&file, buffer.room(), from) {
            Ok(0) => return Ok(false),
            Ok(got) => buffer.filled(got),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

/// Where the data at `from` ends: the next hole, at the latest `end`.
pub fn next_hole(file: impl AsFd, from: u64, end: u64) -> u64 {
    match seek(file, SeekFrom::Hole(from)) {
        Ok(hole) if hole > from => hole.min(end),
        Ok(_) | Err(_) => end,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_hole_up_to_the_end_and_an_end_that_came_early_are_told_apart() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"data", 0).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(next_data(&file, 0, 1 << 20), Ok(Next::Data(0)));
        assert_eq!(next_data(&file, 1 << 19, 1 << 20), Ok(Next::Hole));
        assert_eq!(next_data(&file, 1 << 19, 1 << 21), Ok(Next::Short(1 << 20)));
        assert_eq!(next_data(&file, 1 << 20, 1 << 20), Ok(Next::Hole));
        file.set_len(10).unwrap();
        assert_eq!(next_data(&file, 1 << 19, 1 << 20), Ok(Next::Short(10)));
    }

    #[test]
    fn a_change_of_bytes_is_another_version_and_a_new_mode_reads_alike() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100).unwrap();
        // The clock of files moves in steps, so a change may need more than one try to show.
        let after = |change: &dyn Fn()| {
            let before = Version::of(file.as_file()).unwrap();
            loop {
                change();
                let now = Version::of(file.as_file()).unwrap();
                if now != before {
                    return (before, now);
                }
            }
        };
        let (before, now) = after(&|| file.as_file().write_all_at(b"x", 5).unwrap());
        assert!(!now.reads_like(&before));
        let (before, now) = after(&|| {
            file.as_file().set_len(0).unwrap();
            file.as_file().set_len(100).unwrap();
        });
        assert!(!now.reads_like(&before), "cut and extended again");
        let (before, now) = after(&|| {
            let mode = file.as_file().metadata().unwrap().permissions();
            file.as_file().set_permissions(mode).unwrap();
        });
        assert!(now.reads_like(&before), "its attributes alone");
    }
}
