//! What is asked of a disk.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    error::{Error, Result},
    room::Part,
};

/// A command, with the memory that C reads or fills for it. Places are counted in blocks.
pub(crate) enum What {
    /// TEST UNIT READY
    Ready,
    /// INQUIRY of a page of vital product data.
    Inquiry(u8, Part),
    /// READ CAPACITY (16)
    Capacity(Part),
    /// READ (16)
    Read(u64, Part),
    /// WRITE (16)
    Write(u64, Bytes),
    /// UNMAP
    Unmap(u64, u32),
    /// WRITE SAME (16): the block, how often, and whether the disk may unmap instead.
    Same(u64, u32, Bytes, bool),
    /// SYNCHRONIZE CACHE (16) of everything.
    Flush,
}

impl What {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ready => "test unit ready",
            Self::Inquiry(..) => "inquiry",
            Self::Capacity(_) => "read capacity",
            Self::Read(..) => "read",
            Self::Write(..) => "write",
            Self::Unmap(..) => "unmap",
            Self::Same(..) => "write zeros",
            Self::Flush => "flush",
        }
    }

    /// What C may still read after it has failed.
    pub(crate) fn sent(&self) -> Option<Bytes> {
        match self {
            Self::Write(_, bytes) | Self::Same(_, _, bytes, _) => Some(bytes.clone()),
            Self::Ready
            | Self::Inquiry(..)
            | Self::Capacity(_)
            | Self::Read(..)
            | Self::Unmap(..)
            | Self::Flush => None,
        }
    }
}

/// Nobody waits longer, whatever he says: an instant has an end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When a wait of so long is over.
pub(crate) fn after(patience: Duration) -> Instant {
    Instant::now() + patience.min(LONGEST)
}

/// One command on its way, and who waits for it.
pub(crate) struct Command {
    pub(crate) what: What,
    /// When the wait for its answer is over, and how long it was then.
    deadline: Instant,
    patience: Duration,
    /// How often it was tried again, for any reason but that the disk is busy.
    pub(crate) again: u32,
    answer: oneshot::Sender<Result<u32>>,
    slot: Option<OwnedSemaphorePermit>,
}

/// The answer of a command: how many bytes it has filled.
pub(crate) type Answer = oneshot::Receiver<Result<u32>>;

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.name())
    }
}

impl Command {
    pub(crate) fn new(
        what: What,
        patience: Duration,
        slot: Option<OwnedSemaphorePermit>,
    ) -> (Self, Answer) {
        let (answer, receiver) = oneshot::channel();
        let deadline = after(patience);
        (Self { what, deadline, patience, again: 0, answer, slot }, receiver)
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the session itself asks.
    pub(crate) fn is_own(&self) -> bool {
        self.slot.is_none()
    }

    pub(crate) fn is_late(&self) -> bool {
        self.deadline <= Instant::now()
    }

    /// That it has not been answered in time.
    pub(crate) fn late(&self) -> Error {
        Error::TimedOut { what: self.what.name(), after: self.patience }
    }

    /// Ends it. Its memory goes first, so that whoever waits is the only one who has it.
    pub(crate) fn end(self, answer: Result<u32>) {
        let Self { what, answer: done, slot: _slot, .. } = self;
        drop(what);
        // Whoever waited may have given up.
        drop(done.send(answer));
    }

    /// Ends it with its session.
    pub(crate) fn end_with(self, why: &Error) {
        let error = if self.is_late() { self.late() } else { why.for_others() };
        self.end(Err(error));
    }
}
