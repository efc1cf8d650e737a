//! Open directories and the names in them, by descriptor.

use std::{
    ffi::OsString,
    fs,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        Access, AtFlags, CWD, Mode, OFlags, Stat, StatVfs, accessat, fstat, fstatvfs, fsync,
        linkat, open, openat, readlinkat, statat, unlinkat,
    },
    io::Errno,
};

use super::location::Location;
use crate::contract::{Error, ImageId, Kind, Result};

/// How the names of staged files begin; image ids do not start with a dot.
pub(super) const STAGED: &str = ".imaged-";

pub(super) const PLAIN: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// The directory that is open as `fd`, found at `path`.
    pub(super) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

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

    /// A file without a name, to be linked later.
    pub(super) fn unnamed(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        openat(&self.fd, ".", flags, Mode::from_raw_mode(0o666))
    }

    /// Whether a file without a name can be given one: a filesystem may have none, a filter of system
    /// calls may refuse it, `/proc` may be missing. Tried on one that is thrown away.
    pub(super) fn has_unnamed(&self, name: &str) -> Result<bool> {
        match self.unnamed().and_then(|file| self.link(&file, name)) {
            Ok(()) => self.remove(name),
            Err(
                Errno::OPNOTSUPP
                | Errno::ISDIR
                | Errno::INVAL
                | Errno::NOENT
                | Errno::PERM
                | Errno::NOSYS
                | Errno::XDEV,
            ) => Ok(false),
            Err(error) => Err(self.error("create a file in", "", error)),
        }
    }

    /// Gives a file without a name this one, if nothing has it.
    pub(super) fn link(&self, file: impl AsFd, name: &str) -> rustix::io::Result<()> {
        let open = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        linkat(CWD, open, &self.fd, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Whether this name is that of the open `file`.
    pub(super) fn names(&self, name: &str, file: impl AsFd) -> bool {
        let found = statat(&self.fd, name, PLAIN);
        let of = |stat: Stat| (stat.st_dev, stat.st_ino);
        matches!((found, fstat(file)), (Ok(found), Ok(file)) if of(found) == of(file))
    }

    /// Makes additions and removals durable.
    pub(super) fn sync(&self) -> Result<()> {
        fsync(&self.fd).map_err(|error| self.error("sync", "", error))
    }

    pub(super) fn writable(&self) -> Result<()> {
        let access = |flags| accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, flags);
        // A filter of system calls may know the older call alone, which asks for the real user.
        access(AtFlags::EACCESS)
            .or_else(|error| match error {
                Errno::PERM | Errno::NOSYS => access(AtFlags::empty()),
                error => Err(error),
            })
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

    /// What is here, to be looked at with [`Dir::images`].
    pub(super) fn entries(&self) -> Result<fs::ReadDir> {
        fs::read_dir(&self.path).map_err(|error| self.unlisted(error))
    }

    /// The next images here, `most` at most: id, location, size; symbolic links, which may lead to one,
    /// are without. None are left when there are fewer.
    pub(super) fn images(
        &self,
        entries: &mut fs::ReadDir,
        most: usize,
    ) -> Result<Vec<(ImageId, Location, Option<u64>)>> {
        let mut found = Vec::new();
        while found.len() < most {
            let Some(entry) = entries.next() else { break };
            let entry = entry.map_err(|error| self.unlisted(error))?;
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
                Err(error) => return Err(self.unlisted(error)),
            }
        }
        Ok(found)
    }

    fn unlisted(&self, error: std::io::Error) -> Error {
        about_directory(Error::io("list", self.path.display(), error))
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

/// The path of an open directory, without symbolic links.
pub(super) fn real_path(dir: &OwnedFd) -> rustix::io::Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
    Ok(OsString::from_vec(readlinkat(CWD, link, Vec::new())?.into_bytes()).into())
}

/// `ENOENT` is an answer here, not a failure; so is `ENAMETOOLONG`, for there can be no such file.
fn absent<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(error),
    }
}
