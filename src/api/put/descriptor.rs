//! An image that comes as a descriptor of a regular file, from its current offset to its end.
//!
//! **What is stored is the file as it was when it was passed**: its size and times are compared at the
//! end with those at the start, and a file that has changed meanwhile is refused. So neither the end
//! of a file nor a hole in it can be mistaken for what a change has made of it.
//!
//! # Decisions
//! * Chose: the time of change (`ctime`) beside size and time of writing. Because: whoever writes may
//!   set the latter back, not the former. It also changes when the file gets another mode or name,
//!   which then looks like a change of its bytes. Instead of: trusting the time of writing.
//! * Chose: regular files only. Because: whether the reads of a pipe wait is a setting of the pipe that
//!   its owner shares and can change at any time, and so can hold a thread for ever. The bytes of a
//!   pipe come as the body of the request.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use imaged_drivers::{
    DropOnLane, Error, Kind, Result,
    lane::Lane,
    open_file::{Version, fill},
    window::Buffer,
};
use rustix::{
    fs::{FileType, Mode, OFlags, SeekFrom, fcntl_getfl, fstat, open, seek, tell},
    io::{Errno, pread},
};
use tokio::sync::mpsc;

use super::supply::Supply;
use crate::transfer::Frame;

/// A file that a caller passed. All that touches it runs on the caller's lane: it may be of a
/// filesystem that hangs.
pub(super) struct Source {
    file: Arc<Passed>,
    lane: Lane,
    /// Where its first byte for us is.
    from: u64,
    /// What it was when it came.
    was: Version,
}

/// A passed file, opened anew where that can be had.
struct Passed {
    descriptor: Arc<DropOnLane<OwnedFd>>,
    /// Its offset is ours: looking for holes moves nobody else's.
    own: bool,
}

impl Source {
    /// Looks at a descriptor.
    pub(super) async fn new(descriptor: OwnedFd, lane: &Lane) -> Result<Self> {
        // Let go of here and not on the lane: nobody needs to wait until it is closed.
        let descriptor = Arc::new(DropOnLane::new(lane, descriptor));
        let (passed, its_lane) = (Arc::clone(&descriptor), lane.clone());
        let looked = on_lane(lane, "look at the passed file", move || look(&passed, &its_lane));
        let (file, from, was) = looked.await?;
        Ok(Self { file: Arc::new(file), lane: lane.clone(), from, was })
    }

    /// How many bytes will come.
    pub(super) fn size(&self) -> u64 {
        self.was.size.saturating_sub(self.from)
    }

    /// Moves the bytes into chunks.
    pub(super) async fn send(
        self,
        frames: &mpsc::Sender<Frame>,
        supply: &mut Supply,
    ) -> Result<()> {
        let (mut at, end) = (self.from, self.was.size);
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let (file, buffer) =
                (Arc::clone(&self.file), supply.buffer(at - self.from, left).await?);
            let len = buffer.capacity();
            let read = move || file.read(at, buffer);
            let read = on_lane(&self.lane, "read the passed file", read).await?;
            at = at.saturating_add(len as u64);
            read.map_or(Frame::Hole(len), Frame::Data).send(frames).await?;
        }
        let (file, was) = (Arc::clone(&self.file), self.was);
        on_lane(&self.lane, "look at the passed file again", move || file.is_still(was)).await
    }
}

/// Runs `work` on the lane of the caller. That the file does not answer is the caller's to mend, and
/// nothing has been stored.
async fn on_lane<T: Send + 'static>(
    lane: &Lane,
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    lane.run(doing, work).await.map_err(|error| {
        if error.kind() == Kind::Timeout {
            source_failed(format!("cannot {doing}: it does not answer")).because(error)
        } else if error.kind() == Kind::Unavailable {
            let what = format!("cannot {doing}: too many that this user has passed do not answer");
            Error::new(Kind::Unavailable, what).because(error)
        } else {
            error
        }
    })
}

/// The source of the image failed, not the store: its owner mends it and sends the image again.
fn source_failed(what: String) -> Error {
    Error::new(Kind::Mismatch, what)
}

fn failed(doing: &str) -> impl Fn(Errno) -> Error {
    let doing = doing.to_owned();
    move |errno| {
        let error = std::io::Error::from(errno);
        source_failed(format!("cannot {doing} the passed file: {error}")).because(error)
    }
}

/// The file behind a descriptor, where it stands, and what it is now.
fn look(descriptor: &Arc<DropOnLane<OwnedFd>>, lane: &Lane) -> Result<(Passed, u64, Version)> {
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("the descriptor {why}")));
    let flags = fcntl_getfl(descriptor).map_err(failed("look at"))?;
    if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
        return refuse("is not open for reading");
    }
    let stat = fstat(descriptor).map_err(failed("look at"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refuse("is of no regular file: send the bytes as the body");
    }
    let from = tell(descriptor).map_err(failed("look at"))?;
    let file = Passed::open(descriptor, lane);
    if !file.own && flags.contains(OFlags::DIRECT) {
        return refuse(
            "is open with O_DIRECT, and the daemon may not open its file anew: pass one without \
             O_DIRECT, or send the bytes as the body",
        );
    }
    let was = file.version()?;
    if from > was.size {
        return refuse("stands past the end of its file");
    }
    Ok((file, from, was))
}

impl Passed {
    /// The same file by an open description of our own. Where that cannot be had, as of another
    /// user's file, the caller's will do.
    fn open(descriptor: &Arc<DropOnLane<OwnedFd>>, lane: &Lane) -> Self {
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        match open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(ours) => Self { descriptor: Arc::new(DropOnLane::new(lane, ours)), own: true },
            Err(_) => Self { descriptor: Arc::clone(descriptor), own: false },
        }
    }

    fn version(&self) -> Result<Version> {
        Version::of(&*self.descriptor).map_err(failed("look at"))
    }

    /// As many bytes from `at` on as `buffer` has room for; `None` if they are a hole.
    fn read(&self, at: u64, mut buffer: Buffer) -> Result<Option<Bytes>> {
        if self.is_hole(at, buffer.capacity()) {
            return Ok(None);
        }
        if !fill(&*self.descriptor, at, &mut buffer).map_err(failed("read"))? {
            let end = at.saturating_add(buffer.len() as u64);
            return Err(source_failed(format!(
                "the passed file ended early while it was read: end=`{end}`"
            )));
        }
        Ok(Some(buffer.freeze()))
    }

    /// Whether `len` bytes from `at` on are a hole, or past the end of a file that was cut: which of
    /// the two [`Passed::is_still`] tells.
    fn is_hole(&self, at: u64, len: usize) -> bool {
        self.own
            && match seek(&*self.descriptor, SeekFrom::Data(at)) {
                Ok(data) => data >= at.saturating_add(len as u64),
                Err(errno) => errno == Errno::NXIO,
            }
    }

    /// Refuses a file that is not as it `was`, or that holds more than it tells.
    fn is_still(&self, was: Version) -> Result<()> {
        let now = self.version()?;
        if now != was {
            return Err(source_failed(format!(
                "the passed file was changed while it was read: its size was `{}` and is `{}`",
                was.size, now.size
            )));
        }
        let more = loop {
            match pread(&*self.descriptor, &mut [0; 1], was.size) {
                Err(Errno::INTR) => {}
                other => break other.map_err(failed("read"))?,
            }
        };
        if more > 0 {
            return Err(source_failed(format!(
                "the passed file holds more than the `{}` bytes that it tells of, as files of /proc \
                 do: send the bytes as the body",
                was.size
            )));
        }
        Ok(())
    }
}
