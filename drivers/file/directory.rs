//! One directory of a store: whether it is there, whether it is still the one that was there, and what
//! can be done in it now.
//!
//! # Decisions
//! * Chose: remember where the filesystem of a directory was mounted, and refuse the directory while
//!   its path leads to a filesystem that is mounted further up. Because: beneath a mount that has gone
//!   lies an empty directory of the same name, in which no image is found, and what is written there
//!   is lost from sight when the mount is back. Instead of: comparing device numbers, which differ
//!   after each mount of NFS, FUSE or a loop device.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, StatVfs, StatxFlags, statx};

use super::dir::{Dir, let_through, real_path};
use crate::contract::{Error, Kind, Result, Usable};

/// A configured directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// Higher is filled first; `None` where nothing is ever written.
    pub(super) priority: Option<u32>,
    /// What was there when it was looked at last and was right.
    known: Mutex<Option<Known>>,
    /// What could be done there then.
    usable: Mutex<Usable>,
}

#[derive(Clone, Debug)]
struct Known {
    /// Device and inode.
    identity: (u64, u64),
    /// Where its filesystem is mounted.
    mount: PathBuf,
    /// Its path without symbolic links.
    real: PathBuf,
}

/// What was found at one look.
pub(super) struct Found {
    pub(super) usable: Usable,
    /// What the failure asks for, if there was one.
    pub(super) kind: Option<Kind>,
    /// The device and its space, if it can be read.
    pub(super) space: Option<(u64, StatVfs)>,
}

impl Directory {
    pub(super) fn new(path: PathBuf, priority: Option<u32>) -> Self {
        let usable = Mutex::new(Usable::Up);
        Self { path, priority, known: Mutex::default(), usable }
    }

    /// Opens it. A failure is always about the directory, never about an image in it, so it is never
    /// `NotFound`.
    pub(super) fn open(&self) -> Result<Dir> {
        let dir = Dir::open(&self.path)?;
        let identity = dir.identity()?;
        let known = self.known.lock().clone();
        if known.as_ref().is_some_and(|known| known.identity == identity) {
            return Ok(dir);
        }
        let real = real_path(dir.fd()).map_err(|error| dir.error("look at", "", error))?;
        let mount = mount_of(&real).map_err(|error| dir.error("look at", "", error))?;
        if let Some(known) = known
            && known.mount != mount
            && known.mount.starts_with(&mount)
        {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "what was mounted at `{}` is not mounted any more; mount it again, or restart the \
                     daemon if the images have moved: directory=`{}`",
                    known.mount.display(),
                    self.path.display()
                ),
            ));
        }
        let now = Known { identity, mount, real };
        *self.known.lock() = Some(now);
        Ok(dir)
    }

    /// What of `path` is below it, by its name or by its real path where that was ever seen.
    pub(super) fn rest_of<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let known = self.known.lock();
        let real = || path.strip_prefix(&known.as_ref()?.real).ok();
        path.strip_prefix(&self.path).ok().or_else(real)
    }

    /// Whether its path still leads to `dir`, which was opened before.
    pub(super) fn is_still(&self, dir: &Dir) -> Result<bool> {
        Ok(self.open()?.identity()? == dir.identity()?)
    }

    /// Looks what can be done there now, and lets `mode` of images through. Remembers and logs what has
    /// changed.
    pub(super) fn look(&self, mode: Option<u32>) -> Found {
        let found = self.find_out(mode);
        let mut before = self.usable.lock();
        if *before != found.usable {
            let (directory, state) = (self.path.display(), found.usable.word());
            match found.usable.reason() {
                None => tracing::info!(%directory, state, "a directory of a store"),
                Some(reason) => {
                    tracing::warn!(%directory, state, reason, "a directory of a store");
                }
            }
            *before = found.usable.clone();
        }
        found
    }

    fn find_out(&self, mode: Option<u32>) -> Found {
        let looked = self.open().and_then(|dir| Ok((dir.device()?, dir.space()?, dir)));
        let (device, space, dir) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                let usable = Usable::Down(error.to_string());
                return Found { usable, kind: Some(error.kind()), space: None };
            }
        };
        let writable = match self.priority {
            None => Ok(()),
            Some(_) => dir
                .writable()
                .and_then(|()| mode.map_or(Ok(()), |mode| let_through(&self.path, mode))),
        };
        let kind = writable.as_ref().err().map(Error::kind);
        let usable = match writable {
            Ok(()) => Usable::Up,
            Err(error) => Usable::ReadingOnly(error.to_string()),
        };
        Found { usable, kind, space: Some((device, space)) }
    }

    /// How it was when it was looked at last.
    pub(super) fn usable(&self) -> Usable {
        self.usable.lock().clone()
    }
}

/// Where the filesystem that holds the real path `real` is mounted.
fn mount_of(real: &Path) -> rustix::io::Result<PathBuf> {
    let here = look(real)?;
    let mut mount = real;
    while let Some(parent) = mount.parent().filter(|parent| look(parent) == Ok(here)) {
        mount = parent;
    }
    Ok(mount.to_owned())
}

/// The device and the mount that a path is on.
fn look(path: &Path) -> rustix::io::Result<(u32, u32, u64)> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = statx(CWD, path, flags, StatxFlags::MNT_ID)?;
    Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_mnt_id))
}
