//! Volumes that are files or block devices here: in a mounted export, or where the system shows them.

use std::{
    fs,
    ops::Range,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, fdatasync, seek},
    io::{Errno, pwrite},
};

use super::device::{Device, write_zeros};
use crate::{
    contract::{Error, Kind, Pieces, Result},
    kit::{
        DropOnLane,
        lane::Lane,
        open_file::fill,
        window::{Buffer, CHUNK},
    },
};

/// A volume that is open as a file.
#[derive(Debug)]
pub(super) struct Disk {
    /// Until it is closed.
    file: Mutex<Option<Arc<DropOnLane<fs::File>>>>,
    path: PathBuf,
    lane: Lane,
    is_file: bool,
    /// Whether nobody has ever written to what was not written here.
    new: bool,
}

impl Disk {
    /// Opens what is at `path`: a regular file or a block device. `new`: nobody has written to it.
    pub(super) async fn open(lane: &Lane, path: &Path, write: bool, new: bool) -> Result<Self> {
        let (path, shared) = (path.to_owned(), lane.clone());
        lane.run("open a volume", move || {
            let fail = |error| Error::io("open the volume", path.display(), error);
            let mut options = fs::OpenOptions::new();
            let file = options.read(true).write(write).open(&path).map_err(fail)?;
            let kind = file.metadata().map_err(fail)?.file_type();
            if !kind.is_file() && !kind.is_block_device() {
                let what = "what should be a volume is neither a file nor a block device";
                let path = path.display();
                return Err(Error::new(Kind::Unavailable, format!("{what}: path=`{path}`")));
            }
            let file = Mutex::new(Some(Arc::new(DropOnLane::new(&shared, file))));
            let is_file = kind.is_file();
            Ok(Self { file, path, lane: shared, is_file, new: new && is_file })
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&fs::File) -> Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let (file, path) = (self.file.lock().clone(), self.path.clone());
        let file =
            file.ok_or_else(|| Error::new(Kind::Internal, "a volume is used after its end"))?;
        self.lane
            .run(doing, move || {
                work(&file).map_err(|errno| Error::io(doing, path.display(), errno.into()))
            })
            .await
    }
}

fn write_all(file: &fs::File, bytes: &[u8], at: u64) -> Result<(), Errno> {
    let (mut rest, mut at) = (bytes, at);
    while !rest.is_empty() {
        match pwrite(file, rest, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                rest = rest.get(count..).unwrap_or_default();
                at = at.saturating_add(count as u64);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[async_trait]
impl Device for Disk {
    fn pieces(&self) -> Pieces {
        Pieces { chunk: CHUNK, in_flight: 4 }
    }

    fn is_zero_when_new(&self) -> bool {
        self.new
    }

    fn may_be_cut(&self) -> bool {
        self.is_file
    }

    async fn size(&self) -> Result<u64> {
        // The end of a block device is told by no call of stat.
        self.run("look at a volume", |file| seek(file, SeekFrom::End(0))).await
    }

    async fn read(&self, at: u64, mut buffer: Buffer) -> Result<Bytes> {
        let path = self.path.clone();
        let read = self.run("read a volume", move |file| {
            let whole = fill(file, at, &mut buffer)?;
            Ok(whole.then(|| buffer.freeze()))
        });
        read.await?.ok_or_else(|| {
            let path = path.display();
            Error::new(Kind::Unavailable, format!("the volume ends early: path=`{path}` at=`{at}`"))
        })
    }

    async fn write(&self, at: u64, bytes: Bytes) -> Result<()> {
        self.run("write a volume", move |file| write_all(file, &bytes, at)).await
    }

    async fn zero(&self, range: Range<u64>) -> Result<()> {
        if self.is_file {
            let (start, len) = (range.start, range.end.saturating_sub(range.start));
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let punch = move |file: &fs::File| Ok(fallocate(file, how, start, len).is_ok());
            if self.run("write zeros to a volume", punch).await? {
                return Ok(());
            }
        }
        write_zeros(self, range).await
    }

    async fn flush(&self) -> Result<()> {
        self.run("sync a volume", |file| fdatasync(file)).await
    }

    async fn close(&self) -> Result<()> {
        let file = self.file.lock().take();
        // Nothing is under way, so this is its last holder.
        let close = move || {
            drop(file);
            Ok(())
        };
        self.lane.run("close a volume", close).await
    }
}
