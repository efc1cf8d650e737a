//! An image in an open file, which any driver can hand out: as a stream that skips holes, or as the
//! descriptor.

use std::{
    fmt,
    ops::{Deref, Range},
    os::fd::OwnedFd,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryFutureExt as _, stream, stream::BoxStream};
use rustix::fs::{Advice, fadvise};

use super::{
    drop_on_lane::DropOnLane,
    lane::Lane,
    open_file::{Next, OpenFile, Unchanged, fill, next_data, next_hole},
    window::{Buffer, CHUNK, Run, Window, filled},
    zeros::{block_end, block_start},
};
use crate::contract::{Error, Extent, Result};

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

    /// Whether the file takes less space than it is long.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.file.sparse
    }

    /// The bytes of the range, in order. Ends in `Mismatch` once the
    /// file's bytes are changed.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        // Also while a long hole is passed on.
        filled(self.extents(Unchanged::Bytes, CHUNK as u64)).boxed()
    }

    /// What the range holds, in order. Ends in `Mismatch`, at its end at the latest, if the file's bytes
    /// are changed.
    #[must_use]
    pub fn into_extents(self) -> BoxStream<'static, Result<Extent>> {
        self.extents(Unchanged::Bytes, u64::MAX)
    }

    /// The same for a copy: ends in `Mismatch` if anything about the file is changed.
    #[must_use]
    pub fn into_source(self) -> BoxStream<'static, Result<Extent>> {
        self.extents(Unchanged::Everything, u64::MAX)
    }

    /// The file is looked at again at least after every `longest` bytes of a hole.
    fn extents(self, unchanged: Unchanged, longest: u64) -> BoxStream<'static, Result<Extent>> {
        let Self { file: opened, range, lane, window } = self;
        let _hint = fadvise(&opened.file, range.start, None, Advice::Sequential);
        let (last, closing) = (opened.clone(), lane.clone());
        let (looked, its_lane) = (opened.clone(), lane.clone());
        let look = move |at| {
            let look = look(looked.clone(), at, unchanged, its_lane.clone());
            look.map_ok(move |run| match run {
                Run::Hole(end) => Run::Hole(end.min(at.saturating_add(longest))),
                data @ Run::Data(_) => data,
            })
        };
        let extents = window.extents(range, AHEAD, look, move |start, buffer| {
            let (opened, lane) = (opened.clone(), lane.clone());
            read_piece(opened, start, unchanged, lane, buffer)
        });
        // Also of a file that had no byte, and of one that has grown since its last one.
        let end = async move { closing.run("look at", move || last.check(unchanged)).await.err() };
        extents.chain(stream::once(end).filter_map(async |changed| changed.map(Err))).boxed()
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

/// What comes at `at`: only a file with holes is asked.
async fn look(opened: SharedFile, at: u64, unchanged: Unchanged, lane: Lane) -> Result<Run> {
    if !opened.sparse {
        return Ok(Run::Data(opened.size));
    }
    lane.run("look for holes", move || {
        let run = run(&opened, at)?;
        opened.check(unchanged)?;
        Ok(run)
    })
    .await
}

/// The same. Holes are whole blocks of [`BLOCK`](super::zeros::BLOCK), so that a file of many small ones
/// is not read in as many pieces. Blocks.
fn run(opened: &OpenFile, at: u64) -> Result<Run> {
    let data_after = |from| match next_data(&opened.file, from, opened.size) {
        Ok(Next::Data(data)) => Ok(Some(data)),
        Ok(Next::Hole) => Ok(None),
        Ok(Next::Short(_)) => Err(opened.changed()),
        Err(errno) => Err(Error::io("look for data in", opened.path.display(), errno.into())),
    };
    let mut data = match data_after(at)? {
        None => return Ok(Run::Hole(opened.size)),
        Some(data) if block_start(data) > at => return Ok(Run::Hole(block_start(data))),
        Some(data) => data,
    };
    // As far as one piece may go.
    let enough = at.saturating_add(CHUNK as u64).min(opened.size);
    loop {
        let end = block_end(next_hole(&opened.file, data, opened.size));
        match data_after(end)? {
            Some(next) if end < enough && block_start(next) <= end => data = next,
            _ => return Ok(Run::Data(end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt as _};

    use super::{super::zeros::BLOCK, *};

    /// A file of `size` bytes with a byte at each of `at`.
    fn file(at: &[u64], size: u64) -> OpenFile {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for at in at {
            file.write_all_at(b"x", *at).unwrap();
        }
        let stat = rustix::fs::fstat(&file).unwrap();
        OpenFile::new(file, "image".into(), &stat)
    }

    /// All that it is told of.
    fn runs(opened: &OpenFile) -> Vec<Run> {
        let (mut at, mut runs) = (0, Vec::new());
        while at < opened.size {
            let run = run(opened, at).unwrap();
            let (Run::Data(end) | Run::Hole(end)) = run;
            assert!(end > at, "{run:?}");
            runs.push(run);
            at = end;
        }
        runs
    }

    #[test]
    fn holes_are_whole_blocks_and_the_end_may_be_anywhere() {
        let block = BLOCK as u64;
        assert_eq!(runs(&file(&[], 10 * block + 7)), [Run::Hole(10 * block + 7)]);
        assert_eq!(
            runs(&file(&[3 * block + 9, 10 * block + 6], 10 * block + 7)),
            [
                Run::Hole(3 * block),
                Run::Data(4 * block),
                Run::Hole(10 * block),
                Run::Data(11 * block)
            ]
        );
        // One page of each of many blocks: read as one.
        let pages: Vec<_> = (0..8).map(|n| n * block + 8192).collect();
        assert_eq!(
            runs(&file(&pages, 9 * block + 1)),
            [Run::Data(8 * block), Run::Hole(9 * block + 1)]
        );
    }

    #[test]
    fn a_look_goes_no_further_than_a_piece() {
        let size = 64 << 20;
        let pages: Vec<_> = (0..size / 8192).map(|n| n * 8192).collect();
        let opened = file(&pages, size);
        let first = run(&opened, 0).unwrap();
        assert!(matches!(first, Run::Data(end) if end >= CHUNK as u64), "{first:?}");
    }

    #[test]
    fn a_file_that_was_cut_has_no_hole_at_its_end() {
        let opened = file(&[0], 10 << 20);
        fs::File::set_len(&opened.file, 4096).unwrap();
        let error = run(&opened, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Mismatch);
    }
}
