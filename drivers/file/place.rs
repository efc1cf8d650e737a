//! Directories and the files in them, by descriptor: what was checked is what is used.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, StatVfs, XattrFlags, accessat, fgetxattr, flistxattr,
    fsetxattr, fstat, fstatvfs, fsync, open, statat, unlinkat,
};
use rustix::io::Errno;

use super::{
    Location, PLAIN, absent,
    links::{Followed, follow},
    store::Store,
};
use crate::{
    contract::{Digests, Error, ImageId, Kind, Result},
    kit::open_file::OpenFile,
};

/// How the names of staged files begin; image ids do not start with a dot.
pub(super) const STAGED: &str = ".imaged-";

/// The extended attribute that holds an image's digests.
const DIGESTS: &str = "user.imaged.digests";

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::NOENT) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the directory does not exist; mount it, or create it for the daemon's user: \
                     directory=`{}`",
                    path.display()
                ),
            )),
            Err(error) => {
                Err(about_directory(Error::io("open directory", path.display(), error.into())))
            }
        }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file of this name is here.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        absent(statat(&self.fd, name, PLAIN))
            .map(|found| found.is_some())
            .map_err(|error| self.error("look at", name, error))
    }

    /// Removes a file; false if there was none.
    pub(super) fn remove(&self, name: &str) -> Result<bool> {
        absent(unlinkat(&self.fd, name, AtFlags::empty()))
            .map(|found| found.is_some())
            .map_err(|error| self.error("remove", name, error))
    }

    /// Makes additions and removals durable.
    pub(super) fn sync(&self) -> Result<()> {
        fsync(&self.fd).map_err(|error| self.error("sync", "", error))
    }

    pub(super) fn writable(&self) -> Result<()> {
        accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|error| Error::io("write into directory", self.path.display(), error.into()))
    }

    /// Device and inode.
    pub(super) fn identity(&self) -> Result<(u64, u64)> {
        fstat(&self.fd)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .map_err(|error| self.error("look at", "", error))
    }

    pub(super) fn device(&self) -> Result<u64> {
        fstat(&self.fd).map(|stat| stat.st_dev).map_err(|error| self.error("look at", "", error))
    }

    pub(super) fn space(&self) -> Result<StatVfs> {
        fstatvfs(&self.fd).map_err(|error| self.error("look at", "", error))
    }

    /// The images here: id, location, size; symbolic links, which may lead to one, are without.
    pub(super) fn images(&self) -> Result<Vec<(ImageId, Location, Option<u64>)>> {
        let mut found = Vec::new();
        let fail = |error| about_directory(Error::io("list", self.path.display(), error));
        for entry in fs::read_dir(&self.path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<ImageId>().ok())
            else {
                continue;
            };
            match entry.metadata() {
                Ok(meta) if meta.is_file() || meta.is_symlink() => {
                    let at = Location::new(&self.path, id.as_str());
                    found.push((id, at, meta.is_file().then_some(meta.len())));
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(found)
    }

    /// What failed here. That a file is not there is said by whoever knows that this is the reason.
    pub(super) fn error(&self, doing: &str, name: &str, error: Errno) -> Error {
        about_directory(Error::io(doing, self.path.join(name).display(), error.into()))
    }
}

/// A failure of a directory: where it is not there, or no directory, that says nothing of the images
/// that should be in it.
fn about_directory(error: Error) -> Error {
    if matches!(error.kind(), Kind::NotFound | Kind::Invalid) {
        return Error::new(Kind::Unavailable, error.to_string()).because(error);
    }
    error
}

/// Lets others pass through `path` where `mode` lets them read the images in it, as glance_store
/// does for `filesystem_store_file_perm`.
pub(super) fn let_through(path: &Path, mode: u32) -> Result<()> {
    let fail = |error| Error::io("change the mode of", path.display(), error);
    let now = fs::metadata(path).map_err(fail)?.permissions().mode();
    let group = if mode & 0o040 != 0 { 0o010 } else { 0 };
    let others = if mode & 0o004 != 0 { 0o001 } else { 0 };
    let wanted = now | group | others;
    if wanted == now {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(wanted)).map_err(fail)
}

/// A name in an open directory, proven to be beneath one of the store's.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    dir: Dir,
    name: String,
    foreign: Error,
    missing: Error,
    /// The store whose also-directories a symbolic link may lead into.
    links: Option<&'a Store>,
    /// Whether it is where the store writes.
    ours: bool,
}

impl<'a> Entry<'a> {
    /// `rest` is the path below `dir`; the refusals are of a foreign location and of a missing image.
    pub(super) fn beneath(
        dir: Dir,
        rest: &Path,
        (foreign, missing): (Error, Error),
        links: Option<&'a Store>,
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
                let dir = Dir { fd, path: dir.path.join(parent) };
                Ok(Self { dir, name, foreign, missing, links, ours })
            }
            // Links lead on once, not from link to link.
            Followed::There(fd, path) => {
                let dir = Dir { fd, path };
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
        let path = self.dir.path.join(&self.name);
        Ok(Opened { file: OpenFile::new(fd.into(), path, &stat), ours })
    }

    /// Removes the file, durably; of a symbolic link the link alone, as glance_store does: others may
    /// lead to the same file.
    pub(super) fn remove(self) -> Result<()> {
        match statat(&self.dir.fd, &self.name, PLAIN).map(|stat| stat.st_mode) {
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
        if self.dir.remove(&self.name)? { self.dir.sync() } else { Err(self.missing) }
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
        Err(Errno::NOTSUP | Errno::NOSPC | Errno::PERM | Errno::ACCESS | Errno::ROFS) => Ok(()),
        other => other,
    }
}

/// Whether extended attributes can be kept beside `file` at all.
pub(super) fn keeps_digests(file: &fs::File) -> bool {
    let mut none: [u8; 0] = [];
    flistxattr(file, &mut none[..]).is_ok()
}
