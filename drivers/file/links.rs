//! Opening a path beneath a directory, and nowhere else, except where a symbolic link leads into one of
//! the store's also-directories.
//!
//! Rule: every descriptor comes from `openat2` with `RESOLVE_BENEATH` on a directory of the store. A link
//! is only read to choose that directory, so it does not matter who changes it meanwhile.

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2, readlinkat},
    io::Errno,
};

use super::{
    dir::{Dir, real_path},
    directory::Directory,
};
use crate::contract::Result;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Where a path has led.
#[derive(Debug)]
pub(super) enum Followed {
    /// To what is beneath the directory.
    Here(OwnedFd),
    /// To what is beneath an also-directory, at this path.
    There(OwnedFd, PathBuf),
    /// To nothing.
    Nothing,
    /// To what is none of the store's.
    Outside,
}

/// The open also-directory that holds `path`, and the rest of the path.
fn holder<'a>(also: &[Directory], path: &'a Path) -> Result<Option<(Dir, &'a Path)>> {
    let mut holding = also.iter().filter_map(|also| Some((also, also.rest_of(path)?)));
    holding.next().map(|(also, rest)| Ok((also.open()?, rest))).transpose()
}

/// Opens `path` beneath `dir`, or beneath an also-directory of `links` if a symbolic link leads there.
pub(super) fn follow(
    dir: &Dir,
    path: &Path,
    flags: OFlags,
    links: Option<&[Directory]>,
) -> Result<Followed> {
    match openat2(dir.fd(), path, flags, Mode::empty(), RESOLVE) {
        Ok(fd) => return Ok(Followed::Here(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(Followed::Nothing),
        Err(Errno::XDEV | Errno::LOOP) => {}
        Err(error) => return Err(dir.error("open", &path.to_string_lossy(), error)),
    }
    let Some(target) = links.and_then(|_| target(dir, path)) else { return Ok(Followed::Outside) };
    let also = links.map_or(Ok(None), |also| holder(also, &target))?;
    let Some((also, rest)) = also else { return Ok(Followed::Outside) };
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    match openat2(also.fd(), rest, flags, Mode::empty(), RESOLVE) {
        Ok(fd) => Ok(Followed::There(fd, target)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(Followed::Nothing),
        Err(Errno::XDEV | Errno::LOOP) => Ok(Followed::Outside),
        Err(error) => Err(also.error("open", &rest.to_string_lossy(), error)),
    }
}

/// Where the first link in `path` that leads out of `dir` leads, with the rest of `path` after it.
fn target(dir: &Dir, path: &Path) -> Option<PathBuf> {
    let mut here = dir.fd().try_clone().ok()?;
    let mut rest = path.components();
    while let Some(part) = rest.next() {
        let name = part.as_os_str();
        let onward = openat2(&here, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), RESOLVE);
        match onward {
            Ok(next) => here = next,
            Err(Errno::XDEV | Errno::LOOP) => {
                let link = readlinkat(&here, name, Vec::new()).ok()?;
                let link = Path::new(OsStr::from_bytes(link.as_bytes()));
                return Some(joined(&real_path(&here).ok()?, link)?.join(rest.as_path()));
            }
            Err(_) => return None,
        }
    }
    None
}

/// The path of a link in the directory of the real path `dir`; `None` where only the system could say
/// what `..` means in it.
fn joined(dir: &Path, link: &Path) -> Option<PathBuf> {
    let mut path = dir.to_owned();
    let mut down = false;
    for part in link.components() {
        match part {
            Component::RootDir => {
                path = PathBuf::from("/");
                down = true;
            }
            Component::ParentDir if down => return None,
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => {
                path.push(name);
                down = true;
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_joined_only_where_its_meaning_is_plain() {
        let joined = |link: &str| joined(Path::new("/srv/images"), Path::new(link));
        assert_eq!(joined("/mnt/disk/x"), Some("/mnt/disk/x".into()));
        assert_eq!(joined("../disk/x"), Some("/srv/disk/x".into()));
        assert_eq!(joined("../../../../x"), Some("/x".into()));
        assert_eq!(joined("./x/./y"), Some("/srv/images/x/y".into()));
        for unclear in ["/mnt/../etc/passwd", "../disk/../../etc/passwd", "x/.."] {
            assert_eq!(joined(unclear), None, "{unclear}");
        }
    }
}
