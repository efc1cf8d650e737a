//! An image that comes as a descriptor: a regular file from its current offset, or a pipe.
//!
//! # Decisions
//! * Chose: at the end of a pipe of unknown size, ask the kernel whether the caller is exiting.
//!   Because: it marks a process before it closes its descriptors one after the other, in no order
//!   that can be relied upon, so the connection may hang up long after the pipe has ended. Instead
//!   of: waiting a moment for the hang-up.

use std::{
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use imaged_drivers::{
    Error, Kind, Result,
    lane::Aside,
    window::{self, Buffer, CHUNK, Window},
};
use rustix::{
    fs::{FileType, Mode, OFlags, SeekFrom, fcntl_getfl, fstat, open, seek, tell},
    io::{Errno, pread},
};
use tokio::{net::unix::pipe, sync::mpsc};

use super::deliver;
use crate::{socket::Wire, store::Frame};

/// What a caller passed. All that touches it runs on the lane of the wire: it may be of a
/// filesystem that hangs.
pub(super) enum Source {
    /// A file, from the first offset up to the second.
    File(Arc<Aside<OwnedFd>>, u64, u64),
    /// A pipe, until its end.
    Pipe(Arc<Aside<OwnedFd>>),
}

impl Source {
    /// Looks at a descriptor.
    pub(super) async fn new(descriptor: OwnedFd) -> Result<Self> {
        // Let go of here and not on the lane: nobody needs to wait until it is closed.
        let descriptor = Arc::new(Aside::new(Wire::lane(), descriptor));
        let looked = Arc::clone(&descriptor);
        Wire::lane().run("look at the descriptor", move || Self::look(&looked)).await
    }

    fn look(descriptor: &Arc<Aside<OwnedFd>>) -> Result<Self> {
        let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("the descriptor {why}")));
        let fail = |error: Errno| Error::io("look at", "the descriptor", error.into());
        let flags = fcntl_getfl(descriptor).map_err(fail)?;
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
            return refuse("is not open for reading");
        }
        let stat = fstat(descriptor).map_err(fail)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile {
            let from = tell(descriptor).map_err(fail)?;
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            if from > size {
                return refuse("stands past the end of its file");
            }
            return Ok(Self::File(own(descriptor), from, size));
        }
        if kind == FileType::Fifo {
            return Ok(Self::Pipe(Arc::clone(descriptor)));
        }
        refuse("is neither a regular file nor a pipe")
    }

    /// How many bytes will come, where that is known.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::File(_, from, to) => Some(to - from),
            Self::Pipe(_) => None,
        }
    }

    /// Moves the bytes into chunks.
    pub(super) async fn send(
        self,
        frames: &mpsc::Sender<Frame>,
        window: &Window,
        stall: Duration,
    ) -> Result<()> {
        match self {
            Self::File(file, from, to) => send_file(file, from, to, frames, window).await,
            Self::Pipe(pipe) => send_pipe(pipe, frames, window, stall).await,
        }
    }
}

/// The process of a caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pid: i32,
    /// When it started: numbers are given again.
    started: u64,
}

impl Process {
    /// The process `pid`, if `/proc` shows it.
    pub(super) fn of(pid: i32) -> Option<Self> {
        // Numbers mean nothing in a `/proc` of other processes than ours.
        let ours = fs::read_link("/proc/self").ok()?;
        if ours.to_str()?.parse() != Ok(std::process::id()) {
            return None;
        }
        Some(Self { pid, started: Task::read(&format!("/proc/{pid}/stat"))?.started })
    }

    /// Whether it is gone, or all of it is on its way out.
    pub(super) fn is_leaving(self) -> bool {
        let pid = self.pid;
        match Task::read(&format!("/proc/{pid}/stat")) {
            Some(first) if first.started == self.started => {
                // The first thread may end before the others.
                first.leaving && threads(pid).all(|path| Task::is_leaving(&path))
            }
            _ => true,
        }
    }
}

/// The `stat` files of a process's threads.
fn threads(pid: i32) -> impl Iterator<Item = String> {
    let found = fs::read_dir(format!("/proc/{pid}/task"));
    let names = found.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.map(move |thread| format!("/proc/{pid}/task/{}/stat", thread.display()))
}

/// A thread, as the kernel shows it.
struct Task {
    leaving: bool,
    started: u64,
}

impl Task {
    fn read(path: &str) -> Option<Self> {
        /// The kernel's mark of a thread that exits; set before its descriptors are closed.
        const EXITING: u64 = 0x4;
        let bytes = fs::read(path).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        // The name, in brackets, may hold anything; after it come fields 3 and following.
        let (_, rest) = text.rsplit_once(')')?;
        let field = |number: usize| rest.split_whitespace().nth(number - 3);
        let flags: u64 = field(9)?.parse().ok()?;
        let dead = matches!(field(3)?, "Z" | "X" | "x");
        Some(Self { leaving: dead || flags & EXITING != 0, started: field(22)?.parse().ok()? })
    }

    fn is_leaving(path: &str) -> bool {
        Self::read(path).is_none_or(|task| task.leaving)
    }
}

/// The same file by an open description of our own, so that looking for holes does not move the
/// caller's offset. Where that cannot be had, the caller's will do.
fn own(descriptor: &Arc<Aside<OwnedFd>>) -> Arc<Aside<OwnedFd>> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    match open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(ours) => Arc::new(Aside::new(Wire::lane(), ours)),
        Err(_) => Arc::clone(descriptor),
    }
}

async fn send_file(
    file: Arc<Aside<OwnedFd>>,
    mut at: u64,
    end: u64,
    frames: &mpsc::Sender<Frame>,
    window: &Window,
) -> Result<()> {
    let chunk = window.chunk() as u64;
    while at < end {
        let len = usize::try_from((end - at).min(chunk)).unwrap_or(CHUNK);
        let (file, mut buffer) = (Arc::clone(&file), window.buffer().await?);
        let bytes = Wire::lane()
            .run("read the passed file", move || {
                let hole = match seek(&file, SeekFrom::Data(at)) {
                    Ok(data) => data >= at.saturating_add(len as u64),
                    Err(error) => error == Errno::NXIO,
                };
                if hole {
                    return Ok(window::zeros(len));
                }
                while buffer.len() < len {
                    let left = len - buffer.len();
                    let from = at.saturating_add(buffer.len() as u64);
                    let room = buffer.room().get_mut(..left).unwrap_or_default();
                    match pread(&file, room, from) {
                        Ok(0) => {
                            return Err(Error::new(
                                Kind::Mismatch,
                                format!("the passed file shrank while it was read: end=`{from}`"),
                            ));
                        }
                        Ok(got) => buffer.filled(got),
                        Err(Errno::INTR) => {}
                        Err(error) => {
                            return Err(Error::io("read", "the passed file", error.into()));
                        }
                    }
                }
                Ok(buffer.freeze())
            })
            .await?;
        at = at.saturating_add(len as u64);
        deliver(frames, bytes).await?;
    }
    Ok(())
}

/// The same pipe by an open description of our own, whose reads do not wait: the caller's is left
/// as it is. Where that cannot be had, as from another user, the caller's will do.
fn own_pipe(descriptor: &Aside<OwnedFd>) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).or_else(|_| descriptor.try_clone())
}

async fn send_pipe(
    pipe: Arc<Aside<OwnedFd>>,
    frames: &mpsc::Sender<Frame>,
    window: &Window,
    stall: Duration,
) -> Result<()> {
    let fail = |error| Error::io("read", "the pipe", error);
    let ours = move || {
        let pipe = own_pipe(&pipe).and_then(pipe::Receiver::from_owned_fd).map_err(fail)?;
        Ok(Arc::new(Aside::new(Wire::lane(), pipe)))
    };
    let pipe = Wire::lane().run("read the pipe", ours).await?;
    let mut state = Pipe::Waits;
    while state != Pipe::Ended {
        let mut buffer = window.buffer().await?;
        state = Pipe::Waits;
        while state == Pipe::Waits {
            match tokio::time::timeout(stall, pipe.readable()).await {
                Ok(ready) => ready.map_err(fail)?,
                Err(late) => {
                    return Err(Error::new(
                        Kind::Timeout,
                        format!("no byte came through the pipe for {} s", stall.as_secs()),
                    )
                    .because(late));
                }
            }
            let pipe = Arc::clone(&pipe);
            let filled = Wire::lane().run("read the pipe", move || fill(&pipe, buffer));
            (buffer, state) = filled.await?;
        }
        if !buffer.is_empty() {
            deliver(frames, buffer.freeze()).await?;
        }
    }
    Ok(())
}

/// Where a pipe is after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pipe {
    /// It holds no byte now.
    Waits,
    /// It may hold more than there was room for.
    Flows,
    /// No byte will come.
    Ended,
}

/// Reads what a pipe holds into `buffer`.
fn fill(pipe: &pipe::Receiver, mut buffer: Buffer) -> Result<(Buffer, Pipe)> {
    while !buffer.is_full() {
        match pipe.try_read(buffer.room()) {
            Ok(0) => return Ok((buffer, Pipe::Ended)),
            Ok(got) => buffer.filled(got),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Ok((buffer, Pipe::Waits));
            }
            Err(error) => return Err(Error::io("read", "the pipe", error)),
        }
    }
    Ok((buffer, Pipe::Flows))
}
