//! A disk, as its users have it.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{AcquireError, Semaphore, oneshot};

use crate::{
    command::{Answer, Command, What},
    connect::{Settings, Target},
    error::{Error, Result},
    pages::{Capacity, Identity, Limits},
    room::Room,
    serve::{self, Ask, Asker, Found, Shared},
};

/// Commands that one session may have in flight. More wait for their turn.
pub const SLOTS: usize = 64;

/// Bytes of one read or write on the wire. What is longer is split, and its parts are in flight together.
pub const LARGEST: u32 = 1 << 20;

/// Bytes that one command is to unmap, and to fill with zeros, at most: it is to be done in time.
const UNMAPPED: u64 = 1 << 30;
const ZEROED: u64 = 32 << 20;

/// A disk that is connected. Dropped, it does what was asked for, logs out and disconnects, in the
/// background; see [`Session::close`].
///
/// Places are in bytes, and have to be whole blocks: [`Capacity::block`].
pub struct Session {
    asker: Asker,
    slots: Arc<Semaphore>,
    found: Found,
    blocks: AtomicU64,
    settings: Settings,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("target", &self.found.target).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects by the first of these ways that goes, trying one after the other, and looks at the disk.
    ///
    /// # Errors
    /// If no way goes, the error that says most: `LoginRefused`, `NoSuchTarget`, `Unreachable`.
    /// `Sense` with the code 0x2500 if the target has no such LUN. `Invalid` if a name is too long.
    pub async fn connect(targets: &[Target], settings: &Settings) -> Result<Self> {
        let (asks, asked) = mpsc::channel();
        let shared = Shared::new()?;
        // From here on, to drop this future is to have the thread end.
        let asker = Asker::new(asks, Arc::clone(&shared));
        let (found, finding) = oneshot::channel();
        let (targets, theirs) = (targets.to_vec(), settings.clone());
        let run = move || serve::run(targets, &theirs, asked, &shared, found);
        thread::Builder::new()
            .name("iscsi".to_owned())
            .spawn(run)
            .map_err(|error| Error::lost(format!("no thread can begin: {error}")))?;
        let found = finding.await.unwrap_or_else(|_gone| Err(asker.over()))?;
        let blocks = AtomicU64::new(found.capacity.blocks);
        let slots = Arc::new(Semaphore::new(SLOTS));
        Ok(Self { asker, slots, found, blocks, settings: settings.clone() })
    }

    /// The way by which it was reached.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.found.target
    }

    /// Which disk it is: to be compared with what is expected before any byte of it is used.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.found.identity
    }

    /// What it takes in one command.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.found.limits
    }

    /// How large it was when it was looked at last.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity { blocks: self.blocks.load(Ordering::Relaxed), ..self.found.capacity }
    }

    /// Whether the session is over, so that nothing is answered any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.asker.is_over()
    }

    /// Looks at the disk anew: whether it is the one that was connected, and how large it is now.
    ///
    /// Not every target says that it has put another disk in the place of one that is in use. Whoever has
    /// to be sure asks before he relies on what was read or written. What is asked for meanwhile waits.
    ///
    /// # Errors
    /// `Lost` if it is another disk: then the session is over. Otherwise as [`Session::read`].
    pub async fn look(&self) -> Result<Capacity> {
        let (looker, looked) = oneshot::channel();
        self.asker.ask(Ask::Look(looker))?;
        let capacity = looked.await.unwrap_or_else(|_gone| Err(self.asker.over()))?;
        self.blocks.store(capacity.blocks, Ordering::Relaxed);
        Ok(capacity)
    }

    /// Reads `len` bytes from `at`; never fewer.
    ///
    /// # Errors
    /// `Invalid` if it is not whole blocks of this disk; `Sense` or `Refused` if the disk fails; `TimedOut`
    /// or `Lost` if the session is over.
    pub async fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        self.read_into(at, BytesMut::zeroed(len)).await.map(BytesMut::freeze)
    }

    /// Fills all of `room` from `at`, without a copy. Dropped, the room is freed when C is done with it.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub async fn read_into<R>(&self, at: u64, mut room: R) -> Result<R>
    where
        R: AsMut<[u8]> + Send + 'static,
    {
        let first = self.blocks_of(at, room.as_mut().len() as u64)?.start;
        let largest = self.largest();
        let (room, parts) = Room::split(room, largest);
        let each = u64::from(largest / self.found.capacity.block);
        let mut answers = Vec::with_capacity(parts.len());
        for (lba, part) in (first..).step_by(usize::try_from(each).unwrap_or(1)).zip(parts) {
            answers.push(self.begin(What::Read(lba, part)).await?);
        }
        self.all_landed(answers).await?;
        room.whole().ok_or_else(|| Error::lost("memory was not given back"))
    }

    /// Writes all of `bytes` at `at`. It is durable after the next [`Session::flush`].
    ///
    /// # Errors
    /// As [`Session::read`]; `Invalid` too if the session is not for writing. What was written of it is not
    /// known then.
    pub async fn write(&self, at: u64, mut bytes: Bytes) -> Result<()> {
        self.may_write()?;
        let mut lba = self.blocks_of(at, bytes.len() as u64)?.start;
        let largest = self.largest();
        let each = u64::from(largest / self.found.capacity.block);
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(largest as usize));
            answers.push(self.begin(What::Write(lba, part)).await?);
            lba += each;
        }
        self.all_landed(answers).await
    }

    /// Gives a range back to the backend. It reads as zeros then if [`Capacity::zeros`] says so.
    ///
    /// # Errors
    /// As [`Session::write`]; `Invalid` too if the disk has no UNMAP.
    pub async fn unmap(&self, range: Range<u64>) -> Result<()> {
        self.may_write()?;
        if !self.found.limits.has_unmap {
            return Err(Error::Invalid("the disk has no UNMAP".to_owned()));
        }
        let limit = self.found.limits.unmap.map_or(u64::MAX, u64::from);
        self.in_turn(range, limit, UNMAPPED, What::Unmap).await
    }

    /// Makes a range zeros, without sending them. A disk that is thin gives it back, if it can and reads
    /// it as zeros then.
    ///
    /// # Errors
    /// As [`Session::write`]; `Sense` with the code 0x2000 if the disk has no WRITE SAME (16).
    pub async fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        self.may_write()?;
        let block = Bytes::from(vec![0; self.found.capacity.block as usize]);
        let unmap = self.found.capacity.zeros && self.found.limits.same_unmaps;
        let limit = self.found.limits.same.unwrap_or(u64::MAX);
        let most = if unmap { UNMAPPED } else { ZEROED };
        let same = |lba, blocks| What::Same(lba, blocks, block.clone(), unmap);
        self.in_turn(range, limit, most, same).await
    }

    /// Waits until everything that was written before, and answered, is durable.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub async fn flush(&self) -> Result<()> {
        let answer = self.begin(What::Flush).await?;
        self.landed(answer).await.map(drop)
    }

    /// Lets nothing begin any more, waits for what has begun, logs out and disconnects. It ends even if the
    /// target does not answer.
    ///
    /// # Errors
    /// The session was over before, or the target did not let it log out; it is disconnected all the same.
    pub async fn close(&self) -> Result<()> {
        let (closer, closed) = oneshot::channel();
        self.asker.ask(Ask::Close(Some(closer)))?;
        closed.await.unwrap_or_else(|_gone| Err(self.asker.over()))
    }

    /// Bytes of one command: as many as are useful, and no more than the disk takes.
    fn largest(&self) -> u32 {
        let block = self.found.capacity.block;
        let limit =
            self.found.limits.transfer.map_or(u32::MAX, |blocks| blocks.saturating_mul(block));
        // Both are whole blocks, which have 64 KiB at most.
        LARGEST.min(limit)
    }

    fn may_write(&self) -> Result<()> {
        if self.settings.writable {
            return Ok(());
        }
        Err(Error::Invalid("the disk was connected for reading only".to_owned()))
    }

    /// The blocks of so many bytes.
    fn blocks_of(&self, at: u64, len: u64) -> Result<Range<u64>> {
        let Capacity { blocks, block, .. } = self.capacity();
        let block = u64::from(block);
        let end = at.checked_add(len).filter(|end| *end <= blocks.saturating_mul(block));
        let end = end.ok_or_else(|| {
            Error::Invalid(format!("{len} bytes at {at} are not on a disk of {blocks} blocks"))
        })?;
        if !at.is_multiple_of(block) || !end.is_multiple_of(block) {
            return Err(Error::Invalid(format!(
                "{len} bytes at {at} are not whole blocks of {block}"
            )));
        }
        Ok(at / block..end / block)
    }

    /// A range by commands of `limit` blocks and `most` bytes at most.
    async fn in_turn(
        &self,
        range: Range<u64>,
        limit: u64,
        most: u64,
        what: impl Fn(u64, u32) -> What,
    ) -> Result<()> {
        let Range { start, end } = range;
        let Range { mut start, end } = self.blocks_of(start, end.saturating_sub(start))?;
        let each = limit.min(most / u64::from(self.found.capacity.block)).max(1);
        let mut answers = Vec::new();
        while start < end {
            let blocks = each.min(end - start);
            let count = u32::try_from(blocks).unwrap_or(u32::MAX);
            answers.push(self.begin(what(start, count)).await?);
            start += u64::from(count);
        }
        self.all_landed(answers).await
    }

    async fn begin(&self, what: What) -> Result<Answer> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.map_err(|_closed: AcquireError| self.asker.over())?;
        let (command, answer) = Command::new(what, self.settings.command, Some(slot));
        self.asker.ask(Ask::Command(command))?;
        Ok(answer)
    }

    async fn landed(&self, answer: Answer) -> Result<u32> {
        answer.await.unwrap_or_else(|_gone| Err(self.asker.over()))
    }

    async fn all_landed(&self, answers: Vec<Answer>) -> Result<()> {
        for answer in answers {
            self.landed(answer).await?;
        }
        Ok(())
    }
}
