//! The daemon's side of an image that is sent through shared memory: see [`memory`].

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use imaged_drivers::{self as drivers, Error, Kind, Result, memory::Room};
use imaged_ffi_linux::Shared;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, time::timeout};

use super::part::{Part, Record, records};
use crate::wire::memory::{self, SLOT, SLOTS};

/// Memory that is shared with one caller, for one image.
#[derive(Debug)]
pub struct Ring {
    // The pipe goes first: a caller who can still give something back has lost nothing of it.
    returned: pipe::Receiver,
    memory: Shared,
    /// Slots that hold nothing the caller needs.
    free: Vec<u8>,
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
        let memory = Shared::new(memory::BYTES)?;
        let (reader, writer) = io::pipe()?;
        let descriptors = [memory.descriptor()?, writer.into()];
        let returned = pipe::Receiver::from_owned_fd(reader.into())?;
        let free = (0..SLOTS).collect();
        Ok((Self { returned, memory, free, patience, _room: room }, descriptors))
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
                None => records.next().await.transpose()?,
                rest => rest,
            };
            let Some(mut record) = next else { return Ok(None) };
            let (part, is_left) = ring.told(&mut record).await?;
            let rest = is_left.then_some(record);
            Ok(Some((part, (ring, records, rest))))
        });
        parts.boxed()
    }

    /// Has the caller told of what fits into a slot, which is taken from `record`, and says whether
    /// something is left of that.
    async fn told(&mut self, record: &mut Record) -> Result<(Part, bool)> {
        let since = Instant::now();
        let piece = record.bytes.split_to(record.bytes.len().min(SLOT));
        let start = if piece.is_empty() {
            self.is_back().await?;
            0
        } else {
            memory::start(self.slot().await?)
        };
        let waited = since.elapsed();
        // A slot has room for it.
        let _written = self.memory.write(start, &piece);
        let len = piece.len() as u64;
        let bytes = memory::record(record.at, len, start as u64);
        let of_image = std::mem::take(&mut record.hole).saturating_add(len);
        record.at = record.at.saturating_add(len);
        Ok((Part { bytes, of_image, waited }, !record.bytes.is_empty()))
    }

    /// Waits until the caller gives something back, and adds that to what is free.
    async fn wait(&mut self) -> Result<()> {
        let mut slots = [0; SLOTS as usize];
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
            if slot >= SLOTS || self.free.contains(&slot) {
                let text = format!("the caller gave back what it does not have: slot=`{slot}`");
                return Err(Error::new(Kind::Invalid, text));
            }
            self.free.push(slot);
        }
        Ok(())
    }

    /// A slot that holds nothing the caller needs.
    async fn slot(&mut self) -> Result<u8> {
        loop {
            if let Some(slot) = self.free.pop() {
                return Ok(slot);
            }
            self.wait().await?;
        }
    }

    /// Returns when the caller needs nothing of it any more.
    async fn is_back(&mut self) -> Result<()> {
        while self.free.len() < usize::from(SLOTS) {
            self.wait().await?;
        }
        Ok(())
    }
}
