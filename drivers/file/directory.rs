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
use rustix::{
    fs::{AtFlags, CWD, StatVfs, StatxFlags, lstat, makedev, stat, statx},
    io::Errno,
};

use super::{
    dir::{Dir, let_through, real_path},
    note::Note,
};
use crate::contract::{Error, Kind, Result, Site, Usable};

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
    /// What was good to know of it then.
    note: Note,
    /// Whether a file without a name can be given one there, once that is known.
    unnamed: Mutex<Option<bool>>,
    /// Why the last image that was whole could not be given its name there.
    nameless: Mutex<Option<String>>,
}

#[derive(Clone, Debug)]
struct Known {
    /// Device and inode.
    identity: (u64, u64),
    /// Where its filesystem is mounted.
    mount: PathBuf,
    /// Its path without symbolic links.
    real: PathBuf,
    /// Devices and inodes of the directories that it is in.
    within: Vec<(u64, u64)>,
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
        let (known, note) = (Mutex::default(), Note::default());
        let (unnamed, nameless) = (Mutex::default(), Mutex::default());
        Self { path, priority, known, usable, note, unnamed, nameless }
    }

    /// Whether `dir`, which is this one, takes files without a name and gives them one later, which is
    /// tried with `name` where it is not known yet.
    pub(super) fn has_unnamed(&self, dir: &Dir, name: &str) -> Result<bool> {
        let known = *self.unnamed.lock();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = dir.has_unnamed(name)?;
        *self.unnamed.lock() = Some(found);
        Ok(found)
    }

    /// An image that was whole has got its name there, or not, and why. Until the next one does, nothing can
    /// be written there; each upload tries again.
    pub(super) fn named(&self, refused: Option<String>) {
        let mut nameless = self.nameless.lock();
        *nameless = match refused {
            // The reason names the image, and is told of the first.
            Some(why) => nameless.take().or(Some(why)),
            None => None,
        };
    }

    /// What it is by whatever path, if it was ever seen.
    pub(super) fn site(&self) -> Option<Site> {
        let identity = |(device, inode)| format!("{device}:{inode}");
        self.known.lock().as_ref().map(|known| Site {
            what: format!("directory `{}`", self.path.display()),
            identity: identity(known.identity),
            within: known.within.iter().copied().map(identity).collect(),
            exclusive: true,
        })
    }

    /// What was good to know of it when it was looked at last.
    pub(super) fn note(&self) -> Option<String> {
        self.note.get()
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
        let parents = real.ancestors().skip(1).filter_map(|parent| stat(parent).ok());
        let within = parents.map(|found| (found.st_dev, found.st_ino)).collect();
        let now = Known { identity, mount, real, within };
        *self.known.lock() = Some(now);
        *self.unnamed.lock() = None;
        *self.nameless.lock() = None;
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
        let writable = if self.priority.is_some() { dir.writable() } else { Ok(()) };
        let mode = mode.filter(|_| self.priority.is_some() && writable.is_ok());
        // Whoever may write here need not own it: a directory of a group, or an export.
        let refused = mode.and_then(|mode| let_through(&self.path, mode).err());
        let note = refused.map(|error| {
            format!(
                "others than its owner may not reach the images in it, as filesystem_store_file_perm \
                 lets them: let its owner give it the mode: {error}"
            )
        });
        let directory = self.path.display();
        self.note.set(note, |note| tracing::warn!(%directory, note, "a directory of a store"));
        let kind = writable.as_ref().err().map(Error::kind);
        let nameless = self.nameless.lock().clone();
        let usable = match writable.map_err(|error| error.to_string()).err().or(nameless) {
            None => Usable::Up,
            Some(why) => Usable::ReadingOnly(why),
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

/// The device and the mount that a path is on; where a filter of system calls refuses to tell the mount,
/// the device alone.
fn look(path: &Path) -> rustix::io::Result<(u64, u64)> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::MNT_ID) {
        Ok(found) => Ok((makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_mnt_id)),
        Err(Errno::NOSYS | Errno::PERM) => lstat(path).map(|found| (found.st_dev, 0)),
        Err(error) => Err(error),
    }
}
