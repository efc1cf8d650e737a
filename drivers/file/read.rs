//! Reading an image's file: as a stream that skips holes, or by handing out the descriptor.

use std::{
    fmt, fs,
    ops::Range,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use rustix::{
    fs::{Advice, SeekFrom, fadvise, seek},
    io::Errno,
};

use super::place::Opened;
use crate::{
    Error, Kind, Result,
    lane::{Aside, Lane},
    window::{self, CHUNK, Window},
};

/// Reads in flight of one stream: one being sent, one being read.
const AHEAD: usize = 2;

/// An open file that a copy is made from.
#[derive(Clone, Debug)]
pub struct Shared(pub(super) Arc<Aside<Opened>>);

/// An image in an open file.
pub struct Body {
    opened: Arc<Aside<Opened>>,
    range: Range<u64>,
    lane: Lane,
    window: Window,
}

impl Body {
    pub(super) fn new(opened: Opened, range: Range<u64>, lane: Lane, window: Window) -> Self {
        Self { opened: Arc::new(Aside::new(&lane, opened)), range, lane, window }
    }

    /// A descriptor of the whole file, read-only, to be read at the offsets of the range.
    ///
    /// # Errors
    /// `Unavailable` if the process has no descriptor left.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.opened
            .file
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|error| Error::io("duplicate", self.opened.path.display(), error))
    }

    /// The open file, as the source of a copy.
    pub(crate) fn shared(&self) -> Shared {
        Shared(Arc::clone(&self.opened))
    }

    /// The bytes of the range, in order, at most two chunks in memory.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        let Self { opened, range, lane, window } = self;
        let _hint = fadvise(&opened.file, range.start, None, Advice::Sequential);
        let chunk = window.chunk().min(CHUNK) as u64;
        let starts = stream::iter(
            std::iter::successors(Some(range.start), move |start| start.checked_add(chunk))
                .take_while(move |start| *start < range.end),
        );
        starts
            .map(move |start| {
                let part = start..range.end.min(start.saturating_add(chunk));
                let (opened, lane, window) = (Arc::clone(&opened), lane.clone(), window.clone());
                async move { read_part(opened, part, lane, window).await }
            })
            .buffered(AHEAD)
            .boxed()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("path", &self.opened.path).field("range", &self.range).finish()
    }
}

async fn read_part(
    opened: Arc<Aside<Opened>>,
    part: Range<u64>,
    lane: Lane,
    from: Window,
) -> Result<Bytes> {
    let mut buffer = from.buffer().await?;
    lane.run("read", move || {
        let len = usize::try_from(part.end - part.start)
            .map_err(|error| Error::new(Kind::Internal, "a chunk exceeds memory").because(error))?;
        if opened.sparse && next_data(&opened.file, part.start)?.is_none_or(|data| data >= part.end)
        {
            return Ok(window::zeros(len));
        }
        let mut at = part.start;
        while at < part.end {
            let left = len.saturating_sub(buffer.len());
            let room = buffer.room().get_mut(..left).unwrap_or_default();
            let got = match opened.file.read_at(room, at) {
                Ok(0) => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!(
                            "the file ended at {at} of {} bytes while it was read: path=`{}`",
                            opened.size,
                            opened.path.display()
                        ),
                    ));
                }
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", opened.path.display(), error)),
            };
            buffer.filled(got);
            at = at.saturating_add(got as u64);
        }
        Ok(buffer.freeze())
    })
    .await
}

/// Where data begins at or after `from`; `None` if the rest is a hole. A filesystem that cannot
/// tell has data everywhere.
pub(super) fn next_data(file: &fs::File, from: u64) -> Result<Option<u64>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(_) => Ok(Some(from)),
    }
}

/// Where the data at `from` ends: the next hole, at the latest the end of the file.
pub(super) fn next_hole(file: &fs::File, from: u64, size: u64) -> u64 {
    seek(file, SeekFrom::Hole(from)).unwrap_or(size).min(size)
}
