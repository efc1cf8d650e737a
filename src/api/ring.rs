//! The daemon's side of an image that is sent through shared memory: see [`memory`].
//!
//! What a backend reads goes into a slot at once, where its driver takes the buffers of its window; other bytes are
//! copied into one.
//!
//! **Rule: who waits for the next bytes hears meanwhile what the caller gives back.** The slot that they are to be
//! read into may be one of those.
//!
//! **Rule: the last slot is for copies alone.** So bytes that are copied never wait for a slot that bytes behind them
//! have.

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes};
use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use imaged_drivers::{self as drivers, Error, Kind, Result, memory::Room, window::Buffer};
use imaged_ffi_linux::{Shared, Slot};
use tokio::{io::AsyncReadExt as _, net::unix::pipe, time::timeout};

use super::part::{Part, Record, records};
use crate::wire::memory::{self, SLOT, SLOTS};

/// Memory that is shared with one caller, for one image.
#[derive(Debug)]
pub struct Ring {
    // The pipe goes first: a caller who can still give something back has lost nothing of it.
    returned: pipe::Receiver,
    /// What the caller was told of in each slot, and has not given back.
    told: Vec<Vec<Bytes>>,
    memory: Shared,
    /// How long a caller may give nothing back.
    patience: Duration,
    _room: Room,
}

impl Ring {
    /// New memory in `room`, and what the caller is passed.
    ///
    /// # Errors
    /// Memory or descriptors have run out.
    pub(super) fn new(room: Room, patience: Duration) -> io::Result<(Self, [OwnedFd; 2])> {
        let memory = Shared::new(usize::from(SLOTS), SLOT)?;
        let (reader, writer) = io::pipe()?;
        let descriptors = [memory.descriptor()?, writer.into()];
        let returned = pipe::Receiver::from_owned_fd(reader.into())?;
        let told = vec![Vec::new(); usize::from(SLOTS)];
        Ok((Self { returned, told, memory, patience, _room: room }, descriptors))
    }

    /// What the caller sees.
    pub(super) fn memory(&self) -> &Shared {
        &self.memory
    }

    /// The body of an image of which `range` is sent, which is what `content` has.
    pub(super) fn send(
        self,
        content: drivers::Body,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Part>> {
        let begin = (self, records(content, range).boxed(), None);
        let parts = stream::try_unfold(begin, |(mut ring, mut records, rest)| async move {
            let next = match rest {
                None => ring.next(&mut records).await?,
                rest => rest,
            };
            let Some(mut record) = next else { return Ok(None) };
            let (part, is_left) = ring.tell(&mut record).await?;
            let rest = is_left.then_some(record);
            Ok(Some((part, (ring, records, rest))))
        });
        parts.boxed()
    }

    /// What comes next of the image.
    async fn next(
        &mut self,
        records: &mut (impl Stream<Item = Result<Record>> + Unpin),
    ) -> Result<Option<Record>> {
        loop {
            tokio::select! {
                next = records.next() => return next.transpose(),
                heard = self.hear(), if !self.all_are_back() => heard?,
            }
        }
    }

    /// Has the caller told of what fits into a slot, which is taken from `record`, and says whether
    /// something is left of that.
    async fn tell(&mut self, record: &mut Record) -> Result<(Part, bool)> {
        let since = Instant::now();
        let piece = if record.bytes.is_empty() {
            while !self.all_are_back() {
                self.hear().await?;
            }
            Bytes::new()
        } else if self.memory.place(&record.bytes).is_some() {
            // It is there, and all of it in one slot.
            std::mem::take(&mut record.bytes)
        } else {
            let mut copied = Buffer::in_slot(self.slot().await?, SLOT);
            let count = copied.push(&record.bytes);
            record.bytes.advance(count);
            copied.freeze()
        };
        let waited = since.elapsed();
        let len = piece.len() as u64;
        let start = self.memory.place(&piece).unwrap_or_default();
        if len > 0
            && let Some(told) = self.told.get_mut(start / SLOT)
        {
            told.push(piece);
        }
        let bytes = memory::record(record.at, len, start as u64);
        let of_image = std::mem::take(&mut record.hole).saturating_add(len);
        record.at = record.at.saturating_add(len);
        Ok((Part { bytes, of_image, waited }, !record.bytes.is_empty()))
    }

    /// Waits until the caller gives something back.
    async fn hear(&mut self) -> Result<()> {
        let mut slots = [0; 64];
        let came = timeout(self.patience, self.returned.read(&mut slots)).await;
        let came = came.map_err(|late| {
            let text = format!("the caller read nothing for {} s", self.patience.as_secs());
            Error::new(Kind::Timeout, text).because(late)
        })?;
        let came = came.map_err(|error| Error::io("hear from", "the caller", error))?;
        if came == 0 {
            let text = "the caller left before the end of the image";
            return Err(Error::new(Kind::Mismatch, text));
        }
        for slot in slots.into_iter().take(came) {
            let told = self.told.get_mut(usize::from(slot)).and_then(Vec::pop);
            if told.is_none() {
                let text = format!("the caller gave back what it does not have: slot=`{slot}`");
                return Err(Error::new(Kind::Invalid, text));
            }
        }
        Ok(())
    }

    /// A slot to copy into.
    async fn slot(&mut self) -> Result<Slot> {
        loop {
            if let Some(slot) = self.memory.take(0) {
                return Ok(slot);
            }
            self.hear().await?;
        }
    }

    /// Whether the caller needs nothing of it any more.
    fn all_are_back(&self) -> bool {
        self.told.iter().all(Vec::is_empty)
    }
}
