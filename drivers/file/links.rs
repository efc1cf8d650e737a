//! Opening a path beneath a directory, and nowhere else, except where a symbolic link leads into one of
//! the store's also-directories.
//!
//! Rule: every descriptor comes from `openat2` with `RESOLVE_BENEATH` on a directory of the store, or, where
//! that is refused, from a walk that opens one name after the other and follows no link but by its text. A
//! link is otherwise only read to choose that directory, so it does not matter who changes it meanwhile.
//!
//! # Decisions
//! * Chose: a walk of our own where `openat2` is refused, as by filters of system calls that do not know
//!   it. Because: the daemon would be up, and every read would fail. Instead of: down, with the reason,
//!   for what the walk opens is proven as well, one descriptor after the other.

use std::{
    ffi::{OsStr, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat},
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
    match beneath(dir.fd(), path, flags) {
        Ok(fd) => return Ok(Followed::Here(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(Followed::Nothing),
        Err(Errno::XDEV | Errno::LOOP) => {}
        Err(error) => return Err(dir.error("open", &path.to_string_lossy(), error)),
    }
    let Some(target) = links.and_then(|_| target(dir, path)) else { return Ok(Followed::Outside) };
    let also = links.map_or(Ok(None), |also| holder(also, &target))?;
    let Some((also, rest)) = also else { return Ok(Followed::Outside) };
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    match beneath(also.fd(), rest, flags) {
        Ok(fd) => Ok(Followed::There(fd, target)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(Followed::Nothing),
        Err(Errno::XDEV | Errno::LOOP) => Ok(Followed::Outside),
        Err(error) => Err(also.error("open", &rest.to_string_lossy(), error)),
    }
}

/// Opens `path` if it is beneath `dir`; `XDEV` or `LOOP` if it may not be.
fn beneath(dir: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    match openat2(dir, path, flags, Mode::empty(), RESOLVE) {
        // Not there, or refused by a filter; or names changed while it looked, and it is not sure.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => walk(dir, path, flags),
        opened => opened,
    }
}

/// The same as [`beneath`], name by name: `..` goes back to what was opened before, never to what is
/// above that now, and a link is followed by its text, which begins where it lies.
fn walk(dir: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let parts = |path: &Path| -> Vec<OsString> {
        let named = path.components().rev().filter(|part| *part != Component::CurDir);
        named.map(|part| part.as_os_str().to_owned()).collect()
    };
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (mut opened, mut left, mut links) =
        (vec![dir.try_clone().map_err(unopened)?], parts(path), 0);
    loop {
        let here = opened.last().ok_or(Errno::XDEV)?;
        // It ended in a directory.
        let Some(name) = left.pop() else { return openat(here, ".", flags, Mode::empty()) };
        let next = match name.as_bytes() {
            b"/" => return Err(Errno::XDEV),
            b".." => {
                opened.pop();
                continue;
            }
            _ => openat(here, &name, look, Mode::empty())?,
        };
        let kind = FileType::from_raw_mode(fstat(&next)?.st_mode);
        if kind == FileType::Symlink {
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP);
            }
            let text = readlinkat(&next, "", Vec::new())?;
            left.extend(parts(Path::new(OsStr::from_bytes(text.as_bytes()))));
        } else if kind == FileType::Directory {
            opened.push(next);
        } else if left.is_empty() {
            // Replaced by a link meanwhile, it is not opened.
            return openat(here, &name, flags | OFlags::NOFOLLOW, Mode::empty());
        } else {
            return Err(Errno::NOTDIR);
        }
    }
}

/// Links that a path may lead through, as in the system.
const LINKS: usize = 40;

fn unopened(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::MFILE)
}

/// Where the first link in `path` that leads out of `dir` leads, with the rest of `path` after it.
fn target(dir: &Dir, path: &Path) -> Option<PathBuf> {
    let mut here = dir.fd().try_clone().ok()?;
    let mut rest = path.components();
    while let Some(part) = rest.next() {
        let name = part.as_os_str();
        let onward = beneath(&here, name.as_ref(), OFlags::PATH | OFlags::CLOEXEC);
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

    /// Both ways to open a path must agree on what is beneath a directory.
    #[test]
    fn a_walk_finds_what_the_system_finds_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir_all(at("dir/sub/deep")).unwrap();
        for name in ["outside", "dir/file", "dir/sub/file", "dir/sub/deep/file"] {
            std::fs::write(at(name), name).unwrap();
        }
        for (name, to) in [
            ("dir/link", "sub/file"),
            ("dir/up", "sub/../file"),
            ("dir/sub/back", "../file"),
            ("dir/sub/deep/far", "../../sub/back"),
            ("dir/out", "../outside"),
            ("dir/sub/out", "../../outside"),
            ("dir/round", "sub/../../dir/file"),
            ("dir/absolute", at("dir/file").to_str().unwrap()),
            ("dir/loop", "loop"),
            ("dir/nothing", "none"),
            ("dir/subs", "sub"),
            ("dir/proc", "/proc/self/environ"),
            ("dir/dot", "."),
        ] {
            std::os::unix::fs::symlink(to, at(name)).unwrap();
        }
        let dir = Dir::open(&at("dir")).unwrap();
        for path in [
            "file",
            "sub",
            "sub/file",
            "./sub/./file",
            "link",
            "up",
            "sub/back",
            "sub/deep/far",
            "out",
            "sub/out",
            "round",
            "absolute",
            "loop",
            "nothing",
            "none",
            "none/x",
            "file/x",
            "subs/file",
            "subs/back",
            "subs/../file",
            "..",
            "../dir/file",
            "sub/../..",
            "proc",
            "dot/file",
            "dot/dot",
            ".",
            "link/x",
            "sub/../../dir/file",
            "/etc/passwd",
        ] {
            for flags in [OFlags::RDONLY | OFlags::CLOEXEC, OFlags::PATH | OFlags::CLOEXEC] {
                let same = |fd: OwnedFd| fstat(fd).map(|found| (found.st_dev, found.st_ino));
                let path = Path::new(path);
                let system = openat2(dir.fd(), path, flags, Mode::empty(), RESOLVE).and_then(same);
                let walked = walk(dir.fd(), path, flags).and_then(same);
                assert_eq!(walked, system, "{path:?}");
            }
        }
    }

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
