//! The parts in which object stores take images: larger than the buffers of a transfer, and at hand
//! until the server has them, so that one that fails is sent again alone.
//!
//! **Rule: a part that is being filled keeps nothing of its transfer's window.** What comes is copied, into
//! memory that is lent while there is some, else into a [`Spool`] on disk. So a transfer whose parts are
//! larger than its window goes on, however little memory there is, and a slow caller's part costs others
//! nothing that they wait for.
//!
//! # Decisions
//! * Chose: copying each byte once. Because: it costs 4 % of what the digests do, and a part lies in one
//!   piece, which clients can send and send again. Instead of: parts as lists of the window's buffers,
//!   which stand still as soon as the window is smaller than a part.

use std::{
    fmt, fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use memmap2::MmapMut;

use super::{
    lane::Lane,
    memory::{For, Memory, PAGE, Share},
};
use crate::contract::{Error, Kind, Result};

/// Where parts lie for which there is no memory: files without a name, which end with the process.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Dir>);

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    /// Bytes that all parts together may take.
    limit: u64,
    /// Bytes that they take.
    taken: AtomicU64,
    lane: Lane,
}

impl Spool {
    /// A spool of at most `limit` bytes in the directory `path`.
    #[must_use]
    pub fn new(path: &Path, limit: u64, lane: Lane) -> Self {
        Self(Arc::new(Dir { path: path.to_owned(), limit, taken: AtomicU64::new(0), lane }))
    }

    /// Bytes that parts take in it now.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Room for `bytes`, if there is any.
    fn take(&self, bytes: u64) -> Result<Room> {
        let dir = Arc::clone(&self.0);
        let more = |taken: u64| taken.checked_add(bytes).filter(|after| *after <= dir.limit);
        match dir.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Room { dir, bytes }),
            Err(taken) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "there is neither memory nor room on disk for a part of an upload; try again, or \
                     raise total_window_mib or spool_limit_mib: part=`{bytes}` spooled=`{taken}` \
                     spool_limit=`{}`",
                    dir.limit
                ),
            )),
        }
    }
}

/// Bytes of a spool.
#[derive(Debug)]
struct Room {
    dir: Arc<Dir>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.dir.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What the parts of one transfer are made of. Clones are the same.
#[derive(Clone, Debug)]
pub struct Parts {
    memory: Memory,
    share: Share,
    spool: Spool,
}

impl Parts {
    /// Parts in memory that `share` is lent, else in `spool`.
    #[must_use]
    pub fn new(memory: &Memory, share: Share, spool: &Spool) -> Self {
        Self { memory: memory.clone(), share, spool: spool.clone() }
    }

    /// A part of at most `capacity` bytes, empty. Waits for nobody's memory.
    ///
    /// # Errors
    /// `Unavailable` if there is neither memory nor room in the spool.
    pub async fn begin(&self, capacity: usize) -> Result<Filling> {
        let bytes = capacity.max(1).next_multiple_of(PAGE);
        if self.memory.lend(&self.share, bytes, For::Growth) {
            let (memory, share) = (self.memory.clone(), self.share.clone());
            let mut lent = Lent { memory, share, bytes, map: None };
            lent.map = Some(self.memory.map(bytes)?);
            return Ok(Filling { place: Place::Memory(lent), len: 0, capacity });
        }
        let room = self.spool.take(capacity as u64)?;
        let dir = Arc::clone(&room.dir);
        let file = dir.lane.run("open a spooled part", {
            let path = dir.path.clone();
            move || unnamed(&path)
        });
        let file = Arc::new(Spooled { file: file.await?, room });
        Ok(Filling { place: Place::Spool(file), len: 0, capacity })
    }
}

/// A file in `dir` that has no name.
fn unnamed(dir: &Path) -> Result<fs::File> {
    use rustix::fs::{Mode, OFlags};
    let fail = |error| Error::io("spool a part in", dir.display(), error);
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // A filesystem without such files: one that loses its name at once.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            static MADE: AtomicU64 = AtomicU64::new(0);
            let count = MADE.fetch_add(1, Ordering::Relaxed);
            let name = dir.join(format!("part-{}-{count}", std::process::id()));
            let mut options = fs::File::options();
            let made = options.read(true).write(true).create_new(true).open(&name).map_err(fail)?;
            match fs::remove_file(&name) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(fail(error)),
                _ => Ok(made),
            }
        }
        Err(errno) => Err(fail(errno.into())),
    }
}

/// Memory that counts as lent, with what is mapped of it.
struct Lent {
    memory: Memory,
    share: Share,
    bytes: usize,
    map: Option<MmapMut>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.memory.unmap(map);
        }
        self.memory.take_back(&self.share, self.bytes);
    }
}

/// A file of the spool.
#[derive(Debug)]
struct Spooled {
    file: fs::File,
    room: Room,
}

enum Place {
    Memory(Lent),
    Spool(Arc<Spooled>),
}

/// A part that is being filled.
pub struct Filling {
    place: Place,
    len: usize,
    capacity: usize,
}

impl Filling {
    /// Bytes that it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it still has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len)
    }

    /// Copies as much of `bytes` as there is room for, and says how much that was.
    ///
    /// # Errors
    /// The spool cannot be written: `Full`, `Unavailable`.
    pub async fn push(&mut self, bytes: &Bytes) -> Result<usize> {
        let count = self.room().min(bytes.len());
        match &mut self.place {
            Place::Memory(lent) => {
                let end = self.len.saturating_add(count);
                let room = lent.map.as_deref_mut().and_then(|map| map.get_mut(self.len..end));
                if let (Some(to), Some(from)) = (room, bytes.get(..count)) {
                    to.copy_from_slice(from);
                }
            }
            Place::Spool(file) => {
                let (file, bytes) = (Arc::clone(file), bytes.slice(..count));
                let lane = file.room.dir.lane.clone();
                let write = move || {
                    (&file.file).write_all(&bytes).map_err(|error| {
                        Error::io("spool a part in", file.room.dir.path.display(), error)
                    })
                };
                lane.run("spool a part", write).await?;
            }
        }
        self.len = self.len.saturating_add(count);
        Ok(count)
    }

    /// The part as it is now: it can be read, as often as needed.
    #[must_use]
    pub fn freeze(self) -> Part {
        let len = self.len;
        match self.place {
            Place::Memory(lent) => Part::Memory(Bytes::from_owner(Frozen { lent, len })),
            Place::Spool(file) => Part::Spool(InFile { file, len: len as u64 }),
        }
    }
}

/// The memory of a part that is full.
struct Frozen {
    lent: Lent,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self.lent.map.as_deref().and_then(|map| map.get(..self.len)).unwrap_or_default()
    }
}

/// A part that is to be sent. Clones are the same bytes.
#[derive(Clone, Debug)]
pub enum Part {
    /// In memory.
    Memory(Bytes),
    /// In a file without a name.
    Spool(InFile),
}

impl Part {
    /// Bytes that it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spool(file) => file.len,
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A part in a file without a name, which goes with the last clone.
#[derive(Clone, Debug)]
pub struct InFile {
    file: Arc<Spooled>,
    len: u64,
}

impl InFile {
    /// A path by which the file can be opened as long as this lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        format!("/proc/self/fd/{}", self.file.file.as_raw_fd()).into()
    }

    /// At most `most` of its bytes, from `at` on.
    ///
    /// # Errors
    /// The spool cannot be read: `Unavailable`, `Timeout`.
    pub async fn read(&self, at: u64, most: usize) -> Result<Bytes> {
        use std::os::unix::fs::FileExt as _;
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let (file, count) = (Arc::clone(&self.file), left.min(most));
        let lane = file.room.dir.lane.clone();
        let read = move || {
            let mut bytes = vec![0; count];
            let dir = file.room.dir.path.display();
            let done = file.file.read_exact_at(&mut bytes, at);
            done.map_err(|error| Error::io("read a part spooled in", dir, error))?;
            Ok(bytes.into())
        };
        lane.run("read a spooled part", read).await
    }
}

impl fmt::Debug for Filling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filling").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, time::Duration};

    use super::*;

    const MIB: usize = 1 << 20;

    /// Parts of which so many bytes may be in memory, and so many on disk.
    fn parts(memory: usize, disk: u64) -> (Parts, Memory, Spool, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        let lane = Lane::new("spool", 2, Duration::from_secs(60));
        let (memory, spool) =
            (Memory::new(memory, 1, Duration::ZERO), Spool::new(home.path(), disk, lane));
        (Parts::new(&memory, Share::Put("x".into()), &spool), memory, spool, home)
    }

    async fn filled(parts: &Parts, bytes: &Bytes) -> Part {
        let mut filling = parts.begin(bytes.len()).await.unwrap();
        for piece in bytes.chunks(MIB / 3) {
            let piece = bytes.slice_ref(piece);
            assert_eq!(filling.push(&piece).await.unwrap(), piece.len());
        }
        assert_eq!(filling.room(), 0);
        assert_eq!(filling.push(bytes).await.unwrap(), 0, "there is no room for more");
        filling.freeze()
    }

    fn read(part: &Part) -> Vec<u8> {
        match part {
            Part::Memory(bytes) => bytes.to_vec(),
            Part::Spool(file) => {
                let mut bytes = Vec::new();
                fs::File::open(file.path()).unwrap().read_to_end(&mut bytes).unwrap();
                bytes
            }
        }
    }

    #[tokio::test]
    async fn a_part_is_in_memory_while_there_is_some_and_else_on_disk() {
        let (parts, memory, spool, home) = parts(8 * MIB, 4 << 20);
        let bytes: Bytes = (0..3 * MIB).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        let first = filled(&parts, &bytes).await;
        let second = filled(&parts, &bytes).await;
        assert!(matches!((&first, &second), (Part::Memory(_), Part::Spool(_))));
        assert_eq!((memory.held(), spool.taken()), (3 * MIB, 3 << 20));
        for part in [&first, &second] {
            assert!(
                read(part) == bytes && read(part) == bytes,
                "it can be read as often as needed"
            );
        }
        let none = parts.begin(3 * MIB).await.unwrap_err();
        assert!(none.kind() == Kind::Unavailable && none.to_string().contains("spool_limit_mib"));
        let again = second.clone();
        drop((first, second));
        assert_eq!((memory.held(), spool.taken()), (0, 3 << 20));
        drop(again);
        assert_eq!(spool.taken(), 0);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "it has no name");
    }

    #[tokio::test]
    async fn a_part_that_is_not_filled_gives_back_what_it_took() {
        let (parts, memory, spool, _home) = parts(8 * MIB, 4 << 20);
        let filling = (parts.begin(3 * MIB).await.unwrap(), parts.begin(3 * MIB).await.unwrap());
        assert_eq!((memory.held(), spool.taken()), (3 * MIB, 3 << 20));
        drop(filling);
        assert_eq!((memory.held(), spool.taken()), (0, 0));
        let empty = parts.begin(0).await.unwrap().freeze();
        assert!(empty.is_empty() && read(&empty).is_empty());
    }
}
