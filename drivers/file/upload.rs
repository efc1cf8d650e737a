//! Writing an image's file: blocks of zeros become holes, the page cache of others is left alone,
//! and the name appears last.
//!
//! What fits well into free memory is in the page cache afterwards, for whoever reads it first; all else
//! goes past it.
//!
//! # Decisions
//! * Chose: `O_DIRECT` in whole chunks for what is not kept in the page cache, buffered only where the
//!   filesystem refuses it and for the tail. Because: measured on ext4 it takes a tenth of the CPU of buffered writes at the same
//!   durable rate, and it evicts nothing. Instead of: io_uring, which gained nothing here and which
//!   container sandboxes commonly forbid.
//! * Chose: to have the disk begin with each chunk that is kept, at once. Because: what is dirty would
//!   wait for the final fsync, and the caller for all of it. Instead of: reading it again after a direct
//!   write, for which the disk or the network has to bring everything once more.
//! * Chose: `POSIX_FADV_DONTNEED` behind buffered writes that are not kept. Because: it starts the writeback of what
//!   was just written and drops what already is on disk, so that no large amount of dirty memory
//!   waits for the final fsync.

use std::{
    convert::Infallible,
    fmt, fs,
    num::NonZeroU64,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use imaged_ffi_linux::start_writeback;
use rustix::{
    fs::{
        Advice, AtFlags, FallocateFlags, Mode, OFlags, RenameFlags, copy_file_range, fadvise,
        fallocate, fchmod, fcntl_getfl, fcntl_setfl, fsync, ftruncate, linkat, openat,
        renameat_with,
    },
    io::Errno,
};
use tokio::sync::oneshot;

use super::{
    cached::Room,
    dir::Dir,
    location::Location,
    place::{keeps_digests, record},
    store::Store,
};
use crate::{
    contract::{Claim, Committed, Digests, Error, ImageId, Kind, Result, Upload, write_zeros},
    kit::{
        DropOnLane,
        file_body::SharedFile,
        lane::Lane,
        open_file::{Next, OpenFile, Unchanged, next_data, next_hole},
        refusals::already_exists,
        window::PAGE,
        zeros,
    },
};

/// How far behind the last write its pages may still be on their way to the disk, in bytes.
const BEHIND: u64 = 64 << 20;

/// Bytes copied by one call, so that progress can be seen.
const COPY_STEP: u64 = 64 << 20;

/// A file being made: unnamed, or staged under a name of its own.
#[derive(Debug)]
pub(super) struct Target {
    store: Arc<Store>,
    /// For as long as anything may still become of it.
    claim: Claim,
    at: crate::Location,
    dir: Dir,
    file: fs::File,
    /// What of it may be left in the page cache.
    room: Room,
    staged: Option<String>,
    /// Whether the staged name is not ours to remove any more.
    ended: AtomicBool,
}

impl Target {
    /// Begins the file of an id, in the directory that suits `size`.
    pub(super) fn create(store: &Arc<Store>, claim: Claim, size: Option<u64>) -> Result<Self> {
        let id = claim.id();
        if store.find(id)?.is_some() {
            return Err(already_exists(id, &store.name));
        }
        let (directory, dir) = store.choose(size)?;
        let (fd, staged) = if directory.has_unnamed(&dir, &Store::part(&claim))? {
            (dir.unnamed().map_err(|error| dir.error("create a file in", "", error))?, None)
        } else {
            let (fd, name) = stage(&claim, &dir)?;
            (fd, Some(name))
        };
        let at = crate::Location::File(Location::new(dir.path(), id.as_str()));
        let target = Self {
            store: Arc::clone(store),
            claim,
            at,
            dir,
            file: fd.into(),
            room: store.config.page_cache.room().of(size),
            staged,
            ended: AtomicBool::new(false),
        };
        match target.reserve(size) {
            Ok(()) => Ok(target),
            Err(error) => Err(target.fail(error)),
        }
    }

    /// Gives the file its length, and its space unless zeros may be skipped.
    fn reserve(&self, size: Option<u64>) -> Result<()> {
        let Some(size) = size.and_then(NonZeroU64::new) else { return Ok(()) };
        if !self.store.config.thin {
            match fallocate(&self.file, FallocateFlags::empty(), 0, size.get()) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(self.error("reserve space for", error)),
            }
        }
        ftruncate(&self.file, size.get()).map_err(|error| self.error("extend", error))
    }

    fn id(&self) -> &ImageId {
        self.claim.id()
    }

    /// Whether a copy of `source` can stay inside one filesystem.
    pub(super) fn is_beside(&self, source: &OpenFile) -> Result<bool> {
        Ok(self.dir.device()? == source.device)
    }

    pub(super) fn at(&self) -> &crate::Location {
        &self.at
    }

    /// Makes the file whole, durable and visible, in that order.
    pub(super) fn commit(&self, size: u64, digests: Option<&Digests>) -> Result<()> {
        self.publish(size, digests).map_err(|error| self.fail(error))
    }

    fn publish(&self, size: u64, digests: Option<&Digests>) -> Result<()> {
        ftruncate(&self.file, size).map_err(|error| self.error("set the length of", error))?;
        // Before the mode, which may be one that lets nobody write, not even attributes.
        if let Some(digests) = digests
            && keeps_digests(&self.file)
        {
            record(&self.file, digests)
                .map_err(|error| self.error("keep the digests of", error))?;
        }
        if let Some(mode) = self.store.config.file_perm {
            match fchmod(&self.file, Mode::from_raw_mode(mode)) {
                Ok(()) => {}
                // An export may have modes of its own; the image is whole without.
                Err(error @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                    let error = self.error("change the mode of", error);
                    self.store.mode_refused(&error.to_string());
                }
                Err(error) => return Err(self.error("change the mode of", error)),
            }
        }
        fsync(&self.file).map_err(|error| self.error("sync", error))?;
        self.link()?;
        // The name is there, but not for good yet: whoever is told of a failure finds none.
        self.sync_name().map_err(|error| match self.dir.remove(self.id().as_str()) {
            Ok(_) => error,
            Err(_) => error.leaving(&self.at),
        })
    }

    /// Gives the file its name, if no other has it.
    fn link(&self) -> Result<()> {
        let name = self.claim.id().as_str();
        // Within one directory the filesystem itself names an id once.
        let several = self.store.data.len() > 1;
        let _turn = several.then(|| self.store.naming.lock());
        if several && self.store.find(self.id())?.is_some() {
            return Err(already_exists(self.id(), &self.store.name));
        }
        // The image would be in a directory that its location does not name.
        if !self.store.is_still(&self.dir)? {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the directory was replaced while the image was written: directory=`{}`",
                    self.dir.path().display()
                ),
            ));
        }
        let linked = match &self.staged {
            None => self.dir.link(&self.file, name),
            Some(staged) => {
                match linkat(self.dir.fd(), staged, self.dir.fd(), name, AtFlags::empty()) {
                    // A filesystem without hard links may still rename without replacing.
                    Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                        let (dir, how) = (self.dir.fd(), RenameFlags::NOREPLACE);
                        let renamed = renameat_with(dir, staged, dir, name, how);
                        if renamed.is_ok() {
                            // From here on the staged name may be another upload's.
                            self.ended.store(true, Ordering::Relaxed);
                        }
                        renamed
                    }
                    linked => linked,
                }
            }
        };
        let named = match linked {
            Ok(()) => Ok(()),
            // Over NFS a call whose answer is lost is sent again, and then finds what it has done itself.
            Err(_) if self.dir.names(name, &self.file) => Ok(()),
            Err(Errno::EXIST) => return Err(already_exists(self.id(), &self.store.name)),
            // A filter of system calls, or a filesystem that has neither.
            Err(error @ (Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)) => {
                let error = self.error("name", error);
                let what = "an image cannot be given its name: let the filter of system calls that the container or \
                            the unit has pass linkat or renameat2, or use a filesystem that knows one of them";
                Err(Error::new(error.kind(), format!("{what}: {error}")).because(error))
            }
            Err(error) => return Err(self.error("name", error)),
        };
        if let Some(directory) = self.store.directory_of(&self.dir) {
            directory.named(named.as_ref().err().map(ToString::to_string));
        }
        named
    }

    /// Makes the name the only one, and durable.
    fn sync_name(&self) -> Result<()> {
        if let Some(staged) = self.staged() {
            self.dir.remove(staged)?;
            self.ended.store(true, Ordering::Relaxed);
        }
        self.dir.sync()
    }

    /// The staged name, while it is ours.
    fn staged(&self) -> Option<&str> {
        self.staged.as_deref().filter(|_| !self.ended.load(Ordering::Relaxed))
    }

    /// Removes what there is.
    pub(super) fn abort(&self) -> Result<()> {
        let Some(staged) = self.staged() else { return Ok(()) }; // it goes with its last descriptor
        // Also if it fails: whoever is told of what is left sees to it.
        self.ended.store(true, Ordering::Relaxed);
        match self.dir.remove(staged) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.leaving(self.dir.path().join(staged).display())),
        }
    }

    /// Removes what there is because of `error`, which says what could not be removed.
    fn fail(&self, error: Error) -> Error {
        match self.abort() {
            Ok(()) => error,
            Err(left) => match left.left() {
                Some(name) => error.leaving(name),
                None => error,
            },
        }
    }

    fn error(&self, doing: &str, error: Errno) -> Error {
        self.dir.error(doing, self.id().as_str(), error)
    }
}

/// One that was not ended: nobody waits for it any more.
impl Drop for Target {
    fn drop(&mut self) {
        if let Err(left) = self.abort() {
            tracing::error!(error = %left.chain(), "cannot clean up");
        }
    }
}

/// Makes the staged file of an upload.
fn stage(claim: &Claim, dir: &Dir) -> Result<(OwnedFd, String)> {
    let name = Store::part(claim);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
    match openat(dir.fd(), &name, flags, Mode::from_raw_mode(0o666)) {
        Ok(fd) => Ok((fd, name)),
        Err(error) => Err(dir.error("create", &name, error)),
    }
}

/// A write that takes longer may hang.
const SOON: Duration = Duration::from_secs(1);

/// A file store's [`Upload`].
pub(super) struct Writing {
    lane: Lane,
    target: Arc<DropOnLane<Target>>,
    pen: Pen,
    size: u64,
    /// Ends with the last write, also if nobody waits for that any more.
    under_way: Option<oneshot::Receiver<Infallible>>,
}

impl Writing {
    pub(super) fn new(lane: Lane, target: DropOnLane<Target>) -> Self {
        let pen = Pen::new(&target.file, target.store.config.thin, target.room);
        Self { lane, target: Arc::new(target), pen, size: 0, under_way: None }
    }
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", self.target.at()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let at = self.size;
        self.size = self.size.saturating_add(chunk.len() as u64);
        let (mut pen, target) = (self.pen, Arc::clone(&self.target));
        let (ends, under_way) = oneshot::channel();
        self.under_way = Some(under_way);
        let write = move || {
            let written = pen.write(at, &chunk, &target).map(|()| pen);
            // In this order: when the write has ended, it holds no claim.
            drop(target);
            drop(ends);
            written
        };
        self.pen = self.lane.run("write", write).await?;
        Ok(())
    }

    async fn skip(&mut self, len: u64) -> Result<()> {
        if !self.pen.thin {
            return write_zeros(self, len).await;
        }
        // The file gets its length by the commit.
        self.size = self.size.saturating_add(len);
        Ok(())
    }

    fn at(&self) -> &crate::Location {
        self.target.at()
    }

    async fn commit(self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let (target, size, digests) = (self.target, self.size, digests.clone());
        let at = target.at().clone();
        let committed = self.lane.run("commit", move || target.commit(size, Some(&digests))).await;
        committed.map_err(|error| match error.kind() == Kind::Timeout {
            true => error.at(at),
            false => error,
        })?;
        Ok(Committed { stored_bytes: self.pen.written })
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let target = self.target;
        let aborted = self.lane.run("abort", move || target.abort()).await;
        // A write that was given up holds the claim until it returns: unless it hangs, the id is free
        // when the caller hears that it is.
        if let Some(under_way) = self.under_way {
            let _hangs = tokio::time::timeout(SOON, under_way).await;
        }
        aborted
    }
}

/// How bytes reach the file.
#[derive(Clone, Copy, Debug)]
struct Pen {
    thin: bool,
    direct: bool,
    /// What may be left in the page cache, of an image all or nothing.
    room: Room,
    /// Bytes written, zeros that were skipped not counted.
    written: u64,
}

impl Pen {
    fn new(file: &fs::File, thin: bool, room: Room) -> Self {
        let mut pen = Self { thin, direct: false, room, written: 0 };
        if !room.is_for(1) {
            pen.pass_by(file);
        }
        pen
    }

    /// From here on past the page cache, if the filesystem can.
    fn pass_by(&mut self, file: &fs::File) {
        self.room = Room::NONE;
        self.direct =
            fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT)).is_ok();
    }

    /// Writes `chunk` at offset `at`, without its blocks of zeros.
    fn write(&mut self, at: u64, chunk: &[u8], target: &Target) -> Result<()> {
        let file = &target.file;
        let path = || target.dir.path().join(target.id().as_str());
        let fail = |error| Error::io("write", path().display(), error);
        if !self.thin {
            return self.put(file, at, chunk).map_err(fail);
        }
        for run in zeros::data(chunk, at) {
            let at = at.saturating_add(run.start as u64);
            self.put(file, at, chunk.get(run).unwrap_or_default()).map_err(fail)?;
        }
        Ok(())
    }

    fn put(&mut self, file: &fs::File, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.room.is_for(self.written) {
            file.write_all_at(bytes, at)?;
            // Only a hint: it may be filtered out, and fsync sees to everything.
            let _hint = start_writeback(file, at, bytes.len() as u64);
            return Ok(());
        }
        if self.room != Room::NONE {
            // It has become longer than was thought: what is on the disk need not stay.
            self.pass_by(file);
            let _hint = fadvise(file, 0, None, Advice::DontNeed);
        }
        if self.direct {
            let whole = if at.is_multiple_of(PAGE as u64) && bytes.as_ptr().align_offset(PAGE) == 0
            {
                bytes.len() / PAGE * PAGE
            } else {
                0
            };
            let (whole, tail) = bytes.split_at(whole);
            match file.write_all_at(whole, at) {
                Ok(()) if tail.is_empty() => return Ok(()),
                Ok(()) => {
                    self.buffer(file)?;
                    return file.write_all_at(tail, at.saturating_add(whole.len() as u64));
                }
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.buffer(file)?; // this filesystem wants another alignment, or none
                }
                Err(error) => return Err(error),
            }
        }
        file.write_all_at(bytes, at)?;
        // Starts the writeback of this part and drops what is on disk already.
        let recent = at.saturating_sub(BEHIND);
        let _hint = fadvise(file, recent, None, Advice::DontNeed);
        Ok(())
    }

    /// From here on through the page cache.
    fn buffer(&mut self, file: &fs::File) -> std::io::Result<()> {
        self.direct = false;
        let flags = fcntl_getfl(file)?;
        fcntl_setfl(file, flags.difference(OFlags::DIRECT))?;
        Ok(())
    }
}

/// Copies a whole file inside the filesystem, by reference where it can (XFS, btrfs), hole by hole
/// where it cannot; gives the space the copy takes. `None` if the filesystem will not; nothing is
/// left then. A file that is changed before its copy is whole has none.
pub(super) async fn copy(
    lane: &Lane,
    target: DropOnLane<Target>,
    source: SharedFile,
    digests: Option<Digests>,
) -> Result<Option<u64>> {
    let target = Arc::new(target);
    let (mut at, mut stored_bytes) = (0, 0_u64);
    let size = source.size;
    while at < size {
        let (from, to) = (source.clone(), Arc::clone(&target));
        match lane.run("copy", move || copy_step(&from, &to, at)).await {
            Ok(Some((next, data))) => {
                at = next;
                stored_bytes = stored_bytes.saturating_add(data);
            }
            Ok(None) => {
                lane.run("abandon a copy", move || target.abort()).await?;
                return Ok(None);
            }
            Err(error) => return Err(abandoned(lane, target, error).await),
        }
    }
    // Once more at the end: what was read of a file that never was so is no copy of it.
    if let Err(error) = lane.run("copy", move || source.check(Unchanged::Everything)).await {
        return Err(abandoned(lane, target, error).await);
    }
    lane.run("commit", move || target.commit(size, digests.as_ref())).await?;
    Ok(Some(stored_bytes))
}

/// Removes what there is of a copy because of `error`.
async fn abandoned(lane: &Lane, target: Arc<DropOnLane<Target>>, error: Error) -> Error {
    let failed = lane.run("abandon a copy", move || Err::<(), _>(target.fail(error))).await;
    failed.err().unwrap_or_else(|| Error::new(Kind::Internal, "a failed copy succeeded"))
}

/// Copies the next stretch of data at or after `at`, and says where it ended and how long it was;
/// `None` if the filesystem cannot copy between these two files.
fn copy_step(source: &OpenFile, target: &Target, at: u64) -> Result<Option<(u64, u64)>> {
    let fail = |error: Errno| Error::io("copy", source.path.display(), error.into());
    let start = match next_data(&source.file, at, source.size).map_err(fail)? {
        Next::Data(start) => start,
        Next::Hole => return Ok(Some((source.size, 0))),
        Next::Short(_) => return Err(source.changed()),
    };
    let end = next_hole(&source.file, start, source.size).min(start.saturating_add(COPY_STEP));
    let (mut from, mut to) = (start, start);
    let file = &target.file;
    while from < end {
        let len = usize::try_from(end - from).unwrap_or(usize::MAX);
        match copy_file_range(&source.file, Some(&mut from), file, Some(&mut to), len) {
            Ok(0) => return Err(source.changed()),
            Ok(_) | Err(Errno::INTR) => {}
            // A filter of system calls refuses what it does not know.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return Ok(None);
            }
            Err(error) => return Err(fail(error)),
        }
    }
    source.check(Unchanged::Everything)?;
    if target.room.is_for(source.size) {
        let _hint = start_writeback(file, start, end.saturating_sub(start));
    } else {
        let _hint = fadvise(file, start.saturating_sub(BEHIND), None, Advice::DontNeed);
    }
    Ok(Some((end, end.saturating_sub(start))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_longer_than_was_thought_goes_on_past_the_page_cache_and_is_whole() {
        let mut pages = memmap2::MmapMut::map_anon(8 * PAGE).unwrap();
        fastrand::fill(&mut pages);
        for rest in [0, 1, 700] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let (file, path) = (file.as_file(), file.path());
            let mut pen = Pen::new(file, true, Room::bytes(3 * PAGE as u64).of(None));
            let bytes = &pages[..8 * PAGE - rest];
            for (number, chunk) in (0_u64..).zip(bytes.chunks(2 * PAGE)) {
                assert_eq!(pen.room == Room::NONE, number > 1, "{number}");
                pen.put(file, number * 2 * PAGE as u64, chunk).unwrap();
            }
            assert_eq!(pen.written, bytes.len() as u64);
            assert!(fs::read(path).unwrap() == bytes, "{rest}");
        }
    }
}
