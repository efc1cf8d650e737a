//! The memory that one transfer may hold, and the total that all may hold together.
//!
//! A [`Window`] hands out page-aligned buffers of one chunk each, a fixed number at a time. A
//! filled buffer becomes [`Bytes`], which can be cloned to digests and backend without copying; its
//! memory returns to the window when the last clone is dropped. So the window bounds what a slow
//! stage can pile up, and memory stays the same whatever the size of the image.
//!
//! A part of the [`Budget`] is kept for readers: uploads whose callers are slow hold much memory for
//! long, and nobody is to wait behind them who only wants to read.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use memmap2::MmapMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::contract::{Error, Kind, Result};

/// Bytes of a page; every chunk is a multiple of it, and every buffer starts on one.
pub const PAGE: usize = 4096;

/// Bytes of a chunk: what digests and backends are given at a time.
pub const CHUNK: usize = 4 << 20;

#[repr(align(4096))]
struct Zeros([u8; CHUNK]);
static ZEROS: Zeros = Zeros([0; CHUNK]);

/// `len` zeros, at most [`CHUNK`], page-aligned and never copied: what a hole reads as.
#[must_use]
pub fn zeros(len: usize) -> Bytes {
    Bytes::from_static(ZEROS.0.get(..len).unwrap_or(&ZEROS.0))
}

/// How long a transfer waits for memory, unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// The share of a budget that uploads never take: one of so many.
const KEPT: u32 = 8;

/// The memory that all transfers together may hold, in bytes.
#[derive(Clone, Debug)]
pub struct Budget {
    pages: Arc<Semaphore>,
    total: u32,
    uploads: Arc<Semaphore>,
    for_uploads: u32,
    patience: Duration,
}

impl Budget {
    /// A budget of `bytes`, rounded down to pages.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        let for_uploads = total - total / KEPT;
        Self {
            pages: Arc::new(Semaphore::new(total as usize)),
            total,
            uploads: Arc::new(Semaphore::new(for_uploads as usize)),
            for_uploads,
            patience: PATIENCE,
        }
    }

    /// The same budget, for which transfers wait so long.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Takes a window for an upload: `chunks` buffers of `chunk` bytes, or as many as uploads may
    /// have, waiting until there is room.
    ///
    /// # Errors
    /// As [`Budget::window`].
    pub async fn upload_window(&self, chunk: usize, chunks: usize) -> Result<Window> {
        let most = self.for_uploads as usize * PAGE / chunk.max(1);
        let chunks = chunks.min(most.max(1));
        let pages = u32::try_from(chunk / PAGE * chunks).unwrap_or(u32::MAX);
        if pages > self.for_uploads {
            return Err(self.too_large(chunk, chunks));
        }
        let share = self.waited(Arc::clone(&self.uploads), pages).await?;
        self.granted(chunk, chunks, Some(share)).await
    }

    /// Takes a window of `chunks` buffers of `chunk` bytes, waiting until the budget has room.
    ///
    /// # Errors
    /// `Internal` if `chunk` is no multiple of [`PAGE`], or the window is larger than the budget;
    /// `Unavailable` if no room came free in time.
    pub async fn window(&self, chunk: usize, chunks: usize) -> Result<Window> {
        self.granted(chunk, chunks, None).await
    }

    async fn granted(
        &self,
        chunk: usize,
        chunks: usize,
        share: Option<OwnedSemaphorePermit>,
    ) -> Result<Window> {
        let pages = u32::try_from(chunk / PAGE * chunks).unwrap_or(u32::MAX);
        if chunk == 0 || !chunk.is_multiple_of(PAGE) || chunks == 0 || pages > self.total {
            return Err(self.too_large(chunk, chunks));
        }
        let grant = self.waited(Arc::clone(&self.pages), pages).await?;
        Ok(Window(Arc::new(Shared {
            chunk,
            chunks,
            room: Arc::new(Semaphore::new(chunks)),
            free: Mutex::new(Vec::with_capacity(chunks)),
            _grant: grant,
            _share: share,
        })))
    }

    async fn waited(&self, of: Arc<Semaphore>, pages: u32) -> Result<OwnedSemaphorePermit> {
        match tokio::time::timeout(self.patience, of.acquire_many_owned(pages)).await {
            Ok(granted) => granted.map_err(|closed| {
                Error::new(Kind::Unavailable, "the daemon is stopping").because(closed)
            }),
            Err(late) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "other transfers have all the memory, and none came free within {} s; try \
                     again, or raise total_window_mib",
                    self.patience.as_secs()
                ),
            )
            .because(late)),
        }
    }

    fn too_large(&self, chunk: usize, chunks: usize) -> Error {
        Error::new(
            Kind::Internal,
            format!(
                "a window of {chunks} chunks of {chunk} bytes does not fit the total of {} bytes",
                self.total as usize * PAGE
            ),
        )
    }

    /// Bytes that windows hold now.
    #[must_use]
    pub fn taken(&self) -> usize {
        (self.total as usize).saturating_sub(self.pages.available_permits()) * PAGE
    }
}

/// The buffers of one transfer. Clones share them.
#[derive(Clone)]
pub struct Window(Arc<Shared>);

struct Shared {
    chunk: usize,
    chunks: usize,
    room: Arc<Semaphore>,
    free: Mutex<Vec<MmapMut>>,
    _grant: OwnedSemaphorePermit,
    /// Of what uploads may have, if this is one's.
    _share: Option<OwnedSemaphorePermit>,
}

impl Window {
    /// Bytes of one buffer.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.0.chunk
    }

    /// How many buffers there are. Pieces that are read at once and given in order must be no more:
    /// a later one could hold the buffer that an earlier one waits for.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.0.chunks
    }

    /// An empty buffer, waiting until one is free.
    ///
    /// # Errors
    /// `Unavailable` if the system has no memory.
    pub async fn buffer(&self) -> Result<Buffer> {
        let permit = Arc::clone(&self.0.room).acquire_owned().await.map_err(|closed| {
            Error::new(Kind::Unavailable, "the daemon is stopping").because(closed)
        })?;
        let kept = self.0.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let map = match kept {
            Some(map) => map,
            None => MmapMut::map_anon(self.0.chunk)
                .map_err(|error| Error::io("allocate", "a transfer buffer", error))?,
        };
        Ok(Buffer { map: Some(map), len: 0, home: Arc::clone(&self.0), _permit: permit })
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("chunk", &self.0.chunk).finish_non_exhaustive()
    }
}

/// One page-aligned buffer being filled.
pub struct Buffer {
    map: Option<MmapMut>,
    len: usize,
    home: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Buffer {
    /// Bytes filled so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was filled in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part still to be filled; follow with [`Buffer::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().and_then(|map| map.get_mut(self.len..)).unwrap_or_default()
    }

    /// Counts `count` more bytes of [`Buffer::room`] as filled, at most all of it.
    pub fn filled(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(self.home.chunk);
    }

    /// Copies as much of `bytes` as there is room for, and says how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let count = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.filled(count);
        count
    }

    /// Whether there is no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.home.chunk
    }

    /// The filled part, shareable; the memory goes back to the window with the last clone.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().and_then(|map| map.get(..self.len)).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(map);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_window_gives_no_more_than_its_chunks_until_the_last_clone_is_dropped() {
        let budget = Budget::new(1 << 20);
        let window = budget.window(PAGE, 2).await.unwrap();
        let mut first = window.buffer().await.unwrap();
        assert_eq!(first.push(&[7; PAGE + 1]), PAGE);
        assert!(first.is_full());
        let first = first.freeze();
        assert_eq!(first.as_ptr().align_offset(PAGE), 0);
        let clone = first.clone();
        let _second = window.buffer().await.unwrap();
        drop(first);
        let third = tokio::time::timeout(Duration::from_millis(20), window.buffer()).await;
        assert!(third.is_err(), "a clone is still alive");
        drop(clone);
        window.buffer().await.unwrap();
    }

    #[tokio::test]
    async fn the_budget_counts_windows_and_gets_them_back() {
        let budget = Budget::new(4 * PAGE);
        let window = budget.window(PAGE, 3).await.unwrap();
        assert_eq!(budget.taken(), 3 * PAGE);
        let bytes = window.buffer().await.unwrap().freeze();
        drop(window);
        assert_eq!(budget.taken(), 3 * PAGE, "bytes in flight hold their window");
        drop(bytes);
        assert_eq!(budget.taken(), 0);
        assert_eq!(budget.window(PAGE, 5).await.unwrap_err().kind(), Kind::Internal);
    }

    #[tokio::test]
    async fn uploads_leave_room_for_readers_and_nobody_waits_for_ever() {
        let budget = Budget::new(16 * PAGE).with_patience(Duration::from_millis(20));
        let most = budget.upload_window(PAGE, 99).await.unwrap();
        assert_eq!(budget.taken(), 14 * PAGE, "as much as uploads may have");
        assert_eq!(budget.upload_window(PAGE, 1).await.unwrap_err().kind(), Kind::Unavailable);
        let reader = budget.window(PAGE, 2).await.unwrap();
        assert_eq!(budget.window(PAGE, 1).await.unwrap_err().kind(), Kind::Unavailable);
        drop((most, reader));
        budget.upload_window(PAGE, 14).await.unwrap();
        assert_eq!(budget.taken(), 0);
    }
}
