//! An image that comes as a descriptor: a regular file from its current offset, or a pipe.

use std::{
    fs::File,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::Arc,
    time::Duration,
};

use imaged_drivers::{
    Error, Kind, Result,
    lane::Lane,
    window::{self, CHUNK, Window},
};
use rustix::{
    fs::{FileType, OFlags, SeekFrom, fcntl_getfl, fstat, seek, tell},
    io::Errno,
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe, sync::mpsc};

use super::deliver;
use crate::store::Frame;

/// Reads of passed files at a time, of one request; the file may be on a mount that hangs.
const READS: usize = 1;

/// What a caller passed.
pub(super) enum Source {
    /// A file, from the first offset up to the second.
    File(Arc<File>, u64, u64),
    /// A pipe, until its end.
    Pipe(pipe::Receiver),
}

impl Source {
    /// Looks at a descriptor.
    pub(super) fn new(descriptor: OwnedFd) -> Result<Self> {
        let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("the descriptor {why}")));
        let fail = |error: Errno| Error::io("look at", "the descriptor", error.into());
        let flags = fcntl_getfl(&descriptor).map_err(fail)?;
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
            return refuse("is not open for reading");
        }
        let stat = fstat(&descriptor).map_err(fail)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile {
            let from = tell(&descriptor).map_err(fail)?;
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            if from > size {
                return refuse("stands past the end of its file");
            }
            return Ok(Self::File(Arc::new(own(descriptor)), from, size));
        }
        if kind == FileType::Fifo {
            return pipe::Receiver::from_owned_fd(descriptor)
                .map(Self::Pipe)
                .map_err(|error| Error::io("read", "the pipe", error));
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
            Self::File(file, from, to) => send_file(file, from, to, frames, window, stall).await,
            Self::Pipe(pipe) => send_pipe(pipe, frames, window, stall).await,
        }
    }
}

/// The same file by an open description of our own, so that looking for holes does not move the
/// caller's offset. Where that cannot be had, the caller's will do.
fn own(descriptor: OwnedFd) -> File {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    File::open(path).unwrap_or_else(|_| File::from(descriptor))
}

async fn send_file(
    file: Arc<File>,
    mut at: u64,
    end: u64,
    frames: &mpsc::Sender<Frame>,
    window: &Window,
    stall: Duration,
) -> Result<()> {
    let lane = Lane::new("descriptor", READS, stall);
    let chunk = window.chunk() as u64;
    while at < end {
        let len = usize::try_from((end - at).min(chunk)).unwrap_or(CHUNK);
        let (file, mut buffer) = (Arc::clone(&file), window.buffer().await?);
        let bytes = lane
            .run("read the passed file", move || {
                let hole = match seek(&*file, SeekFrom::Data(at)) {
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
                    match file.read_at(room, from) {
                        Ok(0) => {
                            return Err(Error::new(
                                Kind::Mismatch,
                                format!("the passed file shrank while it was read: end=`{from}`"),
                            ));
                        }
                        Ok(got) => buffer.filled(got),
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(Error::io("read", "the passed file", error)),
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

async fn send_pipe(
    mut pipe: pipe::Receiver,
    frames: &mpsc::Sender<Frame>,
    window: &Window,
    stall: Duration,
) -> Result<()> {
    loop {
        let mut buffer = window.buffer().await?;
        while !buffer.is_full() {
            let read = tokio::time::timeout(stall, pipe.read(buffer.room())).await;
            let got = match read {
                Ok(Ok(0)) => break,
                Ok(Ok(got)) => got,
                Ok(Err(error)) => return Err(Error::io("read", "the pipe", error)),
                Err(late) => {
                    return Err(Error::new(
                        Kind::Timeout,
                        format!("no byte came through the pipe for {} s", stall.as_secs()),
                    )
                    .because(late));
                }
            };
            buffer.filled(got);
        }
        let last = !buffer.is_full();
        if !buffer.is_empty() {
            deliver(frames, buffer.freeze()).await?;
        }
        if last {
            return Ok(());
        }
    }
}
