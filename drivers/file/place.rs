//! Images in an open directory, by descriptor: what was checked is what is used.

use std::{fs, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{FileType, OFlags, XattrFlags, fgetxattr, flistxattr, fsetxattr, fstat, statat},
    io::Errno,
};

use super::{
    dir::{Dir, PLAIN, STAGED},
    directory::Directory,
    links::{Followed, follow},
};
use crate::{
    contract::{Digests, Error, Result},
    kit::open_file::OpenFile,
};

/// The extended attribute that holds an image's digests.
const DIGESTS: &str = "user.imaged.digests";

/// A name in an open directory, proven to be beneath one of the store's.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    dir: Dir,
    name: String,
    foreign: Error,
    missing: Error,
    /// The also-directories that a symbolic link may lead into.
    links: Option<&'a [Directory]>,
    /// Whether it is where the store writes.
    ours: bool,
}

impl<'a> Entry<'a> {
    /// `rest` is the path below `dir`; the refusals are of a foreign location and of a missing image.
    pub(super) fn beneath(
        dir: Dir,
        rest: &Path,
        (foreign, missing): (Error, Error),
        links: Option<&'a [Directory]>,
    ) -> Result<Self> {
        let Some(name) = rest.file_name().and_then(|name| name.to_str()) else {
            return Err(foreign);
        };
        if name.starts_with(STAGED) {
            return Err(missing);
        }
        let (name, ours) = (name.to_owned(), links.is_some());
        let parent = match rest.parent() {
            Some(parent) if parent.components().next().is_some() => parent,
            _ => return Ok(Self { dir, name, foreign, missing, links, ours }),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match follow(&dir, parent, flags, links)? {
            Followed::Here(fd) => {
                let dir = Dir::new(fd, dir.path().join(parent));
                Ok(Self { dir, name, foreign, missing, links, ours })
            }
            // Links lead on once, not from link to link.
            Followed::There(fd, path) => {
                let dir = Dir::new(fd, path);
                Ok(Self { dir, name, foreign, missing, links: None, ours: false })
            }
            Followed::Nothing => Err(missing),
            Followed::Outside => Err(foreign),
        }
    }

    /// Opens the file for reading; only a plain file will do.
    pub(super) fn open(self) -> Result<Opened> {
        // Not blocking: a FIFO under this name must not hold the thread.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let (fd, ours) = match follow(&self.dir, Path::new(&self.name), flags, self.links)? {
            Followed::Here(fd) => (fd, self.ours),
            Followed::There(fd, _) => (fd, false),
            Followed::Nothing => return Err(self.missing),
            Followed::Outside => return Err(self.foreign),
        };
        let stat = fstat(&fd).map_err(|error| self.dir.error("look at", &self.name, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.foreign);
        }
        let path = self.dir.path().join(&self.name);
        Ok(Opened { file: OpenFile::new(fd.into(), path, &stat), ours })
    }

    /// Removes the file, durably; of a symbolic link the link alone, as glance_store does: others may
    /// lead to the same file.
    pub(super) fn remove(self) -> Result<()> {
        match statat(self.dir.fd(), &self.name, PLAIN).map(|stat| stat.st_mode) {
            Ok(mode) if FileType::from_raw_mode(mode) == FileType::RegularFile => {}
            Ok(mode) if FileType::from_raw_mode(mode) == FileType::Symlink => {
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                match follow(&self.dir, Path::new(&self.name), flags, self.links)? {
                    Followed::Here(fd) | Followed::There(fd, _) if !is_file(&fd) => {
                        return Err(self.foreign);
                    }
                    Followed::Here(_) => {}
                    Followed::There(_, stays) => tracing::info!(
                        stays = %stays.display(),
                        "the symbolic link to a file is removed, and the file stays"
                    ),
                    // What it led to is gone, and so is the image.
                    Followed::Nothing => {}
                    Followed::Outside => return Err(self.foreign),
                }
            }
            Ok(_) => return Err(self.foreign),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Err(self.missing),
            Err(error) => return Err(self.dir.error("look at", &self.name, error)),
        }
        // It was here a moment ago: see `removing`.
        let _removed = self.dir.remove(&self.name)?;
        self.dir.sync()
    }
}

fn is_file(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// An image's file, open for reading.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: OpenFile,
    /// Whether it is where the store writes.
    ours: bool,
}

impl Opened {
    /// The digests kept with the file. Whoever changes an image in place leaves them as they are,
    /// and so is found out.
    pub(super) fn digests(&self) -> Option<Digests> {
        let mut room = [0_u8; 1024];
        let len = fgetxattr(&self.file.file, DIGESTS, &mut room[..]).ok()?;
        serde_json::from_slice(room.get(..len)?).ok()
    }

    /// Keeps `digests` with the file, where the filesystem can, and where the store may write.
    pub(super) fn record(&self, digests: &Digests) -> Result<()> {
        if !self.ours {
            return Ok(());
        }
        record(&self.file.file, digests).map_err(|error| {
            Error::io("keep the digests of", self.file.path.display(), error.into())
        })
    }
}

/// Keeps `digests` with an open file.
pub(super) fn record(file: &fs::File, digests: &Digests) -> rustix::io::Result<()> {
    let Ok(text) = serde_json::to_vec(digests) else { return Ok(()) };
    match fsetxattr(file, DIGESTS, &text, XattrFlags::empty()) {
        Err(
            Errno::NOTSUP | Errno::NOSPC | Errno::PERM | Errno::ACCESS | Errno::ROFS | Errno::NOSYS,
        ) => Ok(()),
        other => other,
    }
}

/// Whether extended attributes can be kept beside `file` at all.
pub(super) fn keeps_digests(file: &fs::File) -> bool {
    let mut none: [u8; 0] = [];
    flistxattr(file, &mut none[..]).is_ok()
}
