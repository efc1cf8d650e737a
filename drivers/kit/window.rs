//! The memory of one transfer.
//!
//! A [`Window`] hands out page-aligned buffers. A filled buffer becomes [`Bytes`], which can be
//! cloned to digests and backend without copying; its memory returns with the last clone. So the
//! window bounds what a slow stage can pile up, and memory stays the same whatever the size of the
//! image.
//!
//! It begins with the minimum, in two small buffers. Each buffer that comes back within a second
//! allows as many bytes more, up to the window's size; each that took longer halves what is allowed.
//! Buffers grow with that, up to a chunk: at least two of them may be out at a time. So a transfer
//! holds about as much as it moves in a second, and a slow one its minimum, whichever of its ends is
//! slow.
//!
//! What another process is to read where it is goes into its memory at once ([`Window::share`]): whoever has that
//! counts it.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _, TryFutureExt as _,
    future::{Either, ok, ready},
    stream::{self, BoxStream},
};
use imaged_ffi_linux::{Shared, Slot};
use memmap2::MmapMut;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::Instant};

pub use super::memory::PAGE;
use super::memory::{For, Memory, Share, map};
use crate::contract::{Extent, Result};

/// Bytes of a chunk: what digests and backends are given at a time, at most.
pub const CHUNK: usize = 4 << 20;

/// A buffer that comes back sooner was put to good use.
const SOON: Duration = Duration::from_secs(1);

#[repr(align(4096))]
struct Zeros([u8; CHUNK]);
static ZEROS: Zeros = Zeros([0; CHUNK]);

/// `len` zeros, at most [`CHUNK`], page-aligned and never copied: what a hole reads as.
#[must_use]
pub fn zeros(len: usize) -> Bytes {
    Bytes::from_static(ZEROS.0.get(..len).unwrap_or(&ZEROS.0))
}

/// The lengths of the pieces of at most [`CHUNK`] bytes that `len` bytes of zeros are cut into, each for
/// [`zeros`].
pub fn zero_pieces(len: u64) -> impl Iterator<Item = usize> + Send {
    let (whole, rest) =
        (len / CHUNK as u64, usize::try_from(len % CHUNK as u64).unwrap_or_default());
    (0..whole).map(|_| CHUNK).chain((rest > 0).then_some(rest))
}

/// The bytes of `extents`, with zeros for holes.
pub(crate) fn filled(
    extents: impl Stream<Item = Result<Extent>>,
) -> impl Stream<Item = Result<Bytes>> {
    extents.flat_map(|extent| match extent {
        Ok(Extent::Data(bytes)) => Either::Left(stream::once(ready(Ok(bytes)))),
        Ok(Extent::Hole(len)) => {
            Either::Right(stream::iter(zero_pieces(len).map(|piece| Ok(zeros(piece)))))
        }
        Err(error) => Either::Left(stream::once(ready(Err(error)))),
    })
}

/// What comes at an offset of an image, and the offset where that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Bytes.
    Data(u64),
    /// Nothing, which reads as zeros.
    Hole(u64),
}

/// The buffers of one transfer. Clones share them.
#[derive(Clone)]
pub struct Window(Arc<Inner>);

struct Inner {
    memory: Memory,
    share: Share,
    /// Bytes of a buffer, at most.
    chunk: usize,
    /// Bytes of all buffers that are out, at most.
    most: usize,
    /// Bytes of the minimum.
    minimum: usize,
    held: Mutex<Held>,
    /// A buffer has come back.
    back: Notify,
    /// Memory to take buffers from that another process sees.
    shared: OnceLock<Shared>,
}

#[derive(Debug, Default)]
struct Held {
    /// Bytes that the memory counts as ours: the minimum from the first buffer on.
    lent: usize,
    /// Bytes of the buffers that are out.
    out: usize,
    /// Bytes that may be out now.
    allowed: usize,
}

impl Memory {
    /// The window of one transfer: buffers of at most `chunk` bytes (a multiple of [`PAGE`], at most
    /// [`CHUNK`]), at most `in_flight` such at a time. Takes no memory before the first buffer is asked for.
    #[must_use]
    pub fn window(&self, share: Share, chunk: usize, in_flight: usize) -> Window {
        let chunk = chunk.clamp(1, CHUNK).next_multiple_of(PAGE);
        let most = chunk.saturating_mul(in_flight.max(1));
        let minimum = self.minimum().min(most);
        let (memory, held, back) = (self.clone(), Mutex::default(), Notify::new());
        let shared = OnceLock::new();
        Window(Arc::new(Inner { memory, share, chunk, most, minimum, held, back, shared }))
    }
}

impl Window {
    /// A window like this one, for the rest of a transfer of which somebody else, such as a call that
    /// hangs, holds what is out of this one; that goes back to the memory when it is let go.
    #[must_use]
    pub fn anew(&self) -> Self {
        let Inner { memory, share, chunk, most, .. } = &*self.0;
        memory.window(share.clone(), *chunk, most / chunk)
    }

    /// Bytes of a buffer, at most.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.0.chunk
    }

    /// Has buffers taken from `memory` that are asked for from now on, a slot each, where that has one for each of
    /// the window and another, which is always left to who else needs any.
    pub fn share(&self, memory: &Shared) {
        let Inner { chunk, most, shared, .. } = &*self.0;
        if memory.slot_bytes() >= *chunk && memory.slots() > most / chunk {
            let _first = shared.set(memory.clone());
        }
    }

    /// An empty buffer for `want` bytes that belong at the offset `at`; it may have room for fewer, and
    /// ends at a multiple of its size, as the blocks of backends do. Waits until one can be had: the
    /// first for the memory of others, the rest for this window's own alone.
    ///
    /// # Errors
    /// `Unavailable` if there is no memory.
    pub async fn buffer(&self, at: u64, want: usize) -> Result<Buffer> {
        let this = &*self.0;
        if let Some(shared) = this.shared.get() {
            let room = to_multiple(at, this.chunk, want);
            return Ok(Buffer::in_slot(shared.slot(1).await, room));
        }
        if this.lock().lent == 0 {
            this.memory.minimum_for(&this.share, this.minimum).await?;
            this.begin();
        }
        loop {
            let mut back = std::pin::pin!(this.back.notified());
            // From here on no buffer that comes back is missed.
            back.as_mut().enable();
            if let Some(room) = this.take(at, want) {
                let (since, bytes) = (Instant::now(), room.next_multiple_of(PAGE));
                let home = Some(Arc::clone(&self.0));
                return match this.memory.map(bytes) {
                    Ok(map) => Ok(Buffer { map: Some(Map::Own(map)), room, len: 0, since, home }),
                    Err(error) => {
                        this.give_back(bytes, since);
                        Err(error)
                    }
                };
            }
            back.await;
        }
    }

    /// The bytes of `range`, in order, read in pieces of which at most `in_flight` are under way: `read`
    /// is given where a piece begins, and a buffer that has room for it and no more.
    ///
    /// A piece is given its buffer before the next one asks for any: so none that comes later can hold
    /// what an earlier one waits for.
    pub fn pieces<F, R>(
        self,
        range: Range<u64>,
        in_flight: usize,
        read: F,
    ) -> impl Stream<Item = Result<Bytes>>
    where
        F: FnMut(u64, Buffer) -> R,
        R: Future<Output = Result<Bytes>>,
    {
        let end = range.end;
        filled(self.extents(range, in_flight, move |_| ok(Run::Data(end)), read))
    }

    /// The same of an image with holes, which take no buffer and no reading. `look` says what comes at an
    /// offset: it is asked at the start, and where what it has told of last ends.
    pub(crate) fn extents<F, R, L, T>(
        self,
        range: Range<u64>,
        in_flight: usize,
        look: L,
        mut read: F,
    ) -> impl Stream<Item = Result<Extent>>
    where
        F: FnMut(u64, Buffer) -> R,
        R: Future<Output = Result<Bytes>>,
        L: Fn(u64) -> T,
        T: Future<Output = Result<Run>>,
    {
        let begin = (self, look, range.start, range.start);
        let parts = stream::try_unfold(begin, move |(window, look, at, mut known)| async move {
            if at >= range.end {
                return Ok(None);
            }
            if at >= known {
                match look(at).await? {
                    // What is told of ends at least a byte further on.
                    Run::Data(end) => known = end.max(at.saturating_add(1)).min(range.end),
                    Run::Hole(end) => {
                        let end = end.max(at.saturating_add(1)).min(range.end);
                        let part = (at, None, end.saturating_sub(at));
                        return Ok(Some((part, (window, look, end, end))));
                    }
                }
            }
            let left = usize::try_from(known.saturating_sub(at)).unwrap_or(usize::MAX);
            let buffer = window.buffer(at, left).await?;
            let len = buffer.capacity() as u64;
            let next = at.saturating_add(len);
            Ok(Some(((at, Some(buffer), len), (window, look, next, known))))
        });
        parts
            .map(move |part| match part {
                Ok((at, Some(buffer), _)) => Either::Left(read(at, buffer).map_ok(Extent::Data)),
                Ok((_, None, len)) => Either::Right(ok(Extent::Hole(len))),
                Err(error) => Either::Right(ready(Err(error))),
            })
            .buffered(in_flight.max(1))
    }
}

/// The same stream, which lets go of what it reads from with its last item, and not when it is dropped.
pub(crate) fn ends_with_the_last<T: Send + 'static>(
    items: impl Stream<Item = T> + Send + 'static,
) -> BoxStream<'static, T> {
    stream::unfold(Some(items.boxed()), |items| async move {
        let mut items = items?;
        items.next().await.map(|item| (item, Some(items)))
    })
    .boxed()
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }

    /// Notes the minimum that was lent, unless another call was faster and it goes back.
    fn begin(&self) {
        let mut held = self.lock();
        if held.lent == 0 {
            held.lent = self.minimum;
            held.allowed = self.minimum;
        } else {
            self.memory.take_back(&self.share, self.minimum);
        }
    }

    /// Bytes for a buffer, if one can be had now.
    fn take(&self, at: u64, want: usize) -> Option<usize> {
        let mut held = self.lock();
        let small = (self.minimum / 2 / PAGE * PAGE).max(PAGE);
        let room = to_multiple(at, half(held.allowed).clamp(small, self.chunk.max(small)), want);
        let out = held.out.saturating_add(room.next_multiple_of(PAGE));
        if out <= held.allowed {
            let more = out.saturating_sub(held.lent);
            if more == 0 || self.memory.lend(&self.share, more, For::Growth) {
                held.lent = held.lent.saturating_add(more);
                held.out = out;
                return Some(room);
            }
        }
        let room = to_multiple(at, small, want);
        let out = held.out.saturating_add(room.next_multiple_of(PAGE));
        (out <= self.minimum).then(|| {
            held.out = out;
            room
        })
    }

    fn give_back(&self, room: usize, since: Instant) {
        let mut held = self.lock();
        held.out = held.out.saturating_sub(room);
        held.allowed = match since.elapsed() < SOON {
            true => held.allowed.saturating_add(room).min(self.most),
            false => (held.allowed / 2).max(self.minimum),
        };
        let keep = held.out.max(self.minimum);
        let over = held.lent.saturating_sub(keep);
        if over > 0 {
            held.lent = keep;
            self.memory.take_back(&self.share, over);
        }
        drop(held);
        self.back.notify_waiters();
    }
}

/// Bytes from `at` to the next multiple of `size`, at most `want` and at least one.
fn to_multiple(at: u64, size: usize, want: usize) -> usize {
    let past = usize::try_from(at % size.max(1) as u64).unwrap_or_default();
    size.saturating_sub(past).min(want).max(1)
}

/// The largest power of two that is no more than half of `bytes`, so that buffers of different
/// transfers have the same few sizes.
fn half(bytes: usize) -> usize {
    (bytes / 2).checked_ilog2().map_or(0, |log| 1 << log)
}

impl Drop for Inner {
    fn drop(&mut self) {
        let lent = self.lock().lent;
        if lent > 0 {
            self.memory.take_back(&self.share, lent);
        }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("share", &self.0.share)
            .field("chunk", &self.0.chunk)
            .field("most", &self.0.most)
            .finish_non_exhaustive()
    }
}

/// Where the bytes of a buffer are.
enum Map {
    Own(MmapMut),
    /// In memory that another process sees.
    Slot(Slot),
}

impl Map {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(map) => map,
            Self::Slot(slot) => slot,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(map) => map,
            Self::Slot(slot) => slot,
        }
    }
}

/// One page-aligned buffer being filled.
pub struct Buffer {
    map: Option<Map>,
    /// Bytes that it may be filled with.
    room: usize,
    len: usize,
    since: Instant,
    /// `None`: of no transfer.
    home: Option<Arc<Inner>>,
}

impl Buffer {
    /// A buffer for `bytes` that no memory counts: for measuring and for tests.
    ///
    /// # Errors
    /// `Unavailable` if the system has no memory.
    pub fn uncounted(bytes: usize) -> Result<Self> {
        let map = map(bytes.max(1).next_multiple_of(PAGE))?;
        Ok(Self::of_nobody(Map::Own(map), bytes))
    }

    /// A buffer for `bytes`, at most those of a slot, which counts with the memory that it is of.
    #[must_use]
    pub fn in_slot(slot: Slot, bytes: usize) -> Self {
        let bytes = bytes.min(slot.len());
        Self::of_nobody(Map::Slot(slot), bytes)
    }

    fn of_nobody(map: Map, room: usize) -> Self {
        Self { map: Some(map), room, len: 0, since: Instant::now(), home: None }
    }

    /// Bytes that it has room for in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.room
    }

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
        let map = self.map.as_mut().map(Map::bytes_mut);
        map.and_then(|map| map.get_mut(self.len..self.room)).unwrap_or_default()
    }

    /// Counts `count` more bytes of [`Buffer::room`] as filled, at most all of it.
    pub fn filled(&mut self, count: usize) {
        self.len = self.len.saturating_add(count).min(self.capacity());
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
        self.len == self.capacity()
    }

    /// The filled part, shareable; the memory goes back to the window with the last clone.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// What is still to be filled, as [`Buffer::room`].
impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.room()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        let map = self.map.as_ref().map(Map::bytes);
        map.and_then(|map| map.get(..self.len)).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(Map::Own(map)), Some(home)) = (self.map.take(), &self.home) {
            home.give_back(map.len(), self.since);
            home.memory.unmap(map);
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
    use futures_util::TryStreamExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    fn window(memory: &Memory, chunk: usize, in_flight: usize) -> Window {
        memory.window(Share::Put("x".into()), chunk, in_flight)
    }

    /// What is at an offset.
    fn byte(at: u64) -> u8 {
        u8::try_from(at % 251).unwrap()
    }

    /// Whether `waiting` ends without anything else happening.
    async fn at_once<T>(waiting: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(1), waiting).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_holds_nothing_before_its_first_buffer_and_then_its_minimum() {
        let memory = Memory::new(64 * MIB, 64, SOON);
        let window = window(&memory, CHUNK, 16);
        assert_eq!(memory.held(), 0);
        let first = window.buffer(0, CHUNK).await.unwrap();
        assert_eq!((first.capacity(), memory.held()), (MIB / 4, MIB / 2));
        let second = window.buffer(0, CHUNK).await.unwrap();
        assert_eq!((second.capacity(), memory.held()), (MIB / 4, MIB / 2));
        assert!(at_once(window.buffer(0, 1)).await.is_none(), "it waits for its own");
        let bytes = first.freeze();
        let clone = bytes.clone();
        drop(bytes);
        assert!(at_once(window.buffer(0, 1)).await.is_none(), "a clone is still alive");
        drop(clone);
        let third = window.buffer(0, 1).await.unwrap();
        assert_eq!(third.capacity(), 1);
        drop((window, second));
        assert_eq!(memory.held(), MIB / 2, "a buffer that is out holds its window");
        drop(third);
        assert_eq!(memory.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_small_takes_no_more_than_it_needs() {
        let memory = Memory::new(64 * MIB, 64, SOON);
        let one = window(&memory, 5, 16).buffer(0, 5).await.unwrap();
        assert_eq!(one.capacity(), 5);
        assert!(memory.held() <= 16 * PAGE);
        let one = window(&memory, 5, 1).buffer(0, 5).await.unwrap();
        assert_eq!(one.as_ref().as_ptr().align_offset(PAGE), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_whose_buffers_come_back_soon_grows_to_its_size_and_no_further() {
        let memory = Memory::new(1024 * MIB, 64, SOON);
        let window = window(&memory, CHUNK, 4);
        for _ in 0..50 {
            drop(window.buffer(0, CHUNK).await.unwrap());
        }
        let mut out = Vec::new();
        while let Some(buffer) = at_once(window.buffer(0, CHUNK)).await {
            out.push(buffer.unwrap());
        }
        assert_eq!(out.iter().map(Buffer::capacity).sum::<usize>(), 4 * CHUNK);
        assert_eq!(memory.held(), 4 * CHUNK);
        out.truncate(1);
        assert_eq!(memory.held(), CHUNK, "what is not used is lent no longer");
        drop(out);
        assert_eq!(memory.held(), MIB / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_whose_buffers_come_back_late_shrinks_to_its_minimum() {
        let memory = Memory::new(1024 * MIB, 64, SOON);
        let window = window(&memory, CHUNK, 16);
        for _ in 0..20 {
            drop(window.buffer(0, CHUNK).await.unwrap());
        }
        for _ in 0..10 {
            let slow = window.buffer(0, CHUNK).await.unwrap();
            tokio::time::advance(2 * SOON).await;
            drop(slow);
        }
        let _first = window.buffer(0, CHUNK).await.unwrap();
        let _second = window.buffer(0, CHUNK).await.unwrap();
        assert!(at_once(window.buffer(0, CHUNK)).await.is_none());
        assert_eq!(memory.held(), MIB / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_goes_on_with_its_own_when_others_have_the_rest() {
        let memory = Memory::new(8 * MIB, 8, SOON);
        let window = window(&memory, CHUNK, 16);
        for _ in 0..10 {
            drop(window.buffer(0, CHUNK).await.unwrap());
        }
        assert!(memory.lend(&Share::Get("others".into()), 7 * MIB, For::Minimum));
        for _ in 0..10 {
            let buffer = at_once(window.buffer(0, CHUNK)).await.expect("its own").unwrap();
            assert_eq!(buffer.capacity(), memory.minimum() / 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_shared_is_read_into_where_it_is_large_enough_and_one_slot_is_left() {
        let memory = Memory::new(64 * MIB, 64, SOON);
        let window = window(&memory, CHUNK, 2);
        for (slots, bytes) in [(2, CHUNK), (9, CHUNK / 2)] {
            let small = Shared::new(slots, bytes).unwrap();
            window.share(&small);
            let own = window.buffer(0, 1).await.unwrap();
            assert_eq!((small.place(own.as_ref()), memory.held()), (None, MIB / 2));
        }
        drop(window);
        let window = self::window(&memory, CHUNK, 2);
        let shared = Shared::new(3, CHUNK).unwrap();
        window.share(&shared);
        let first = window.buffer(5, 2 * CHUNK).await.unwrap();
        let mut second = window.buffer(0, 3).await.unwrap();
        assert_eq!((first.capacity(), second.capacity()), (CHUNK - 5, 3));
        assert!(at_once(window.buffer(0, 1)).await.is_none(), "the last slot is another's");
        assert_eq!(memory.held(), 0, "who has it counts it");
        second.push(b"abcd");
        let bytes = second.freeze();
        assert_eq!((&bytes[..], shared.place(&bytes)), (&b"abc"[..], Some(CHUNK)));
        drop(first);
        assert!(at_once(window.buffer(0, 1)).await.is_some());
        drop((bytes, shared));
        assert!(at_once(window.buffer(0, 1)).await.is_some(), "the window has it still");
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_come_in_order_however_they_end_and_however_little_memory_there_is() {
        for (total, chunk) in [(16 * PAGE, CHUNK), (64 * MIB, CHUNK), (64 * MIB, PAGE)] {
            let memory = Memory::new(total, 2, SOON);
            let window = window(&memory, chunk, 4);
            let mut turn = 0_u64;
            let pieces = window.pieces(7..(3 * MIB as u64), 4, |at, mut buffer| {
                turn += 1;
                // Later ones are ready sooner.
                let pause = Duration::from_millis(5 - turn % 5);
                async move {
                    tokio::time::sleep(pause).await;
                    let bytes = (at..).map(byte).take(buffer.capacity()).collect::<Vec<_>>();
                    assert_eq!(buffer.push(&bytes), buffer.capacity());
                    Ok(buffer.freeze())
                }
            });
            let read = pieces.try_fold(7_u64, async |at, bytes| {
                assert!(bytes.iter().zip(at..).all(|(found, at)| *found == byte(at)), "{at}");
                Ok(at + bytes.len() as u64)
            });
            assert_eq!(read.await.unwrap(), 3 * MIB as u64);
            assert_eq!(memory.held(), 0);
        }
    }
}
