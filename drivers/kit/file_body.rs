//! An image in an open file, which any driver can hand out: as a stream that skips holes, or as the
//! descriptor.

use std::{
    fmt,
    ops::{Deref, Range},
    os::fd::OwnedFd,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use rustix::fs::{Advice, fadvise};

use super::{
    drop_on_lane::DropOnLane,
    lane::Lane,
    open_file::{Next, OpenFile, Unchanged, fill, next_data},
    window::{self, Buffer, Window},
};
use crate::contract::{Error, Result};

/// Reads under way of one stream: one that is ready to be sent, one being read.
const AHEAD: usize = 2;

/// An open file that several hold: who reads it, and a copy that is made from it.
#[derive(Clone, Debug)]
pub struct SharedFile(Arc<DropOnLane<OpenFile>>);

impl SharedFile {
    /// `file`, to be closed on `lane` when the last holder has let go.
    #[must_use]
    pub fn new(lane: &Lane, file: OpenFile) -> Self {
        Self(Arc::new(DropOnLane::new(lane, file)))
    }
}

impl Deref for SharedFile {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        &self.0
    }
}

/// The bytes of a range of an image in an open file.
pub struct FileBody {
    file: SharedFile,
    range: Range<u64>,
    lane: Lane,
    window: Window,
}

impl FileBody {
    /// The bytes of `range`, read on `lane` into chunks of `window`.
    #[must_use]
    pub fn new(file: OpenFile, range: Range<u64>, lane: Lane, window: Window) -> Self {
        Self { file: SharedFile::new(&lane, file), range, lane, window }
    }

    /// A descriptor of the whole file, read-only, to be read at the offsets of the range.
    ///
    /// # Errors
    /// `Unavailable` if the process has no descriptor left.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        self.file
            .file
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|error| Error::io("duplicate", self.file.path.display(), error))
    }

    /// The open file, as the source of a copy.
    #[must_use]
    pub fn shared(&self) -> SharedFile {
        self.file.clone()
    }

    /// The bytes of the range, in order. Ends in `Mismatch` once the
    /// file's bytes are changed.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        self.stream(Unchanged::Bytes)
    }

    /// The same for a copy: ends in `Mismatch` once anything about the file is changed.
    #[must_use]
    pub fn into_source(self) -> BoxStream<'static, Result<Bytes>> {
        self.stream(Unchanged::Everything)
    }

    fn stream(self, unchanged: Unchanged) -> BoxStream<'static, Result<Bytes>> {
        let Self { file: opened, range, lane, window } = self;
        let _hint = fadvise(&opened.file, range.start, None, Advice::Sequential);
        let (last, closing) = (opened.clone(), lane.clone());
        let pieces = window.pieces(range, AHEAD, move |start, buffer| {
            let (opened, lane) = (opened.clone(), lane.clone());
            read_piece(opened, start, unchanged, lane, buffer)
        });
        if unchanged == Unchanged::Bytes {
            return pieces.boxed();
        }
        // Also of a file that had no byte, and of one that has grown since its last one.
        let end = async move { closing.run("look at", move || last.check(unchanged)).await.err() };
        pieces.chain(stream::once(end).filter_map(async |changed| changed.map(Err))).boxed()
    }
}

impl fmt::Debug for FileBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBody")
            .field("path", &self.file.path)
            .field("range", &self.range)
            .finish()
    }
}

async fn read_piece(
    opened: SharedFile,
    start: u64,
    unchanged: Unchanged,
    lane: Lane,
    mut buffer: Buffer,
) -> Result<Bytes> {
    lane.run("read", move || {
        let len = buffer.capacity();
        if opened.sparse && is_hole(&opened, start, len)? {
            opened.check(unchanged)?;
            return Ok(window::zeros(len));
        }
        let whole = fill(&opened.file, start, &mut buffer)
            .map_err(|error| Error::io("read", opened.path.display(), error.into()))?;
        if !whole {
            return Err(opened.changed());
        }
        opened.check(unchanged)?;
        Ok(buffer.freeze())
    })
    .await
}

/// Whether there is no data in the `len` bytes at `start`.
fn is_hole(opened: &OpenFile, start: u64, len: usize) -> Result<bool> {
    let next = next_data(&opened.file, start, opened.size)
        .map_err(|error| Error::io("look for data in", opened.path.display(), error.into()))?;
    match next {
        Next::Data(at) => Ok(at >= start.saturating_add(len as u64)),
        Next::Hole => Ok(true),
        Next::Short(_) => Err(opened.changed()),
    }
}
