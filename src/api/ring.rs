//! The daemon's side of an image that is sent through shared memory: see [`memory`].

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use imaged_drivers::{self as drivers, Error, Extent, Kind, Result, memory::Room, window::thinned};
use imaged_ffi_linux::Shared;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, time::timeout};

use super::part::{Part, stopped};
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
        let (at, end) = (range.start, range.end);
        let extents = thinned(content.into_extents(), at).boxed();
        let sending = Through { ring: self, extents, at, end, hole: 0, rest: Bytes::new() };
        stream::try_unfold(Some(sending), |sending| async move {
            match sending {
                Some(sending) => sending.next().await.map(Some),
                None => Ok(None),
            }
        })
        .boxed()
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

/// An image on its way through memory.
struct Through {
    ring: Ring,
    extents: BoxStream<'static, Result<Extent>>,
    /// Where in the image what comes next is, and where what was asked for ends.
    at: u64,
    end: u64,
    /// Bytes of holes that no part has counted.
    hole: u64,
    /// What has come and was not sent.
    rest: Bytes,
}

impl Through {
    /// The next record, and what is to follow it.
    async fn next(mut self) -> Result<(Part, Option<Self>)> {
        while self.rest.is_empty() {
            match self.extents.next().await.transpose()? {
                Some(Extent::Data(bytes)) => self.rest = bytes,
                Some(Extent::Hole(len)) => {
                    self.at = self.at.saturating_add(len);
                    self.hole = self.hole.saturating_add(len);
                }
                None if self.at < self.end => return Err(stopped()),
                None => {
                    let since = Instant::now();
                    self.ring.is_back().await?;
                    let bytes = memory::record(self.at, 0, 0);
                    let waited = since.elapsed();
                    return Ok((Part { bytes, of_image: self.hole, waited }, None));
                }
            }
        }
        let since = Instant::now();
        let slot = self.ring.slot().await?;
        let waited = since.elapsed();
        let piece = self.rest.split_to(self.rest.len().min(SLOT));
        let (start, len) = (memory::start(slot), piece.len() as u64);
        // A slot has room for it.
        let _written = self.ring.memory.write(start, &piece);
        let bytes = memory::record(self.at, len, start as u64);
        let of_image = std::mem::take(&mut self.hole).saturating_add(len);
        self.at = self.at.saturating_add(len);
        Ok((Part { bytes, of_image, waited }, Some(self)))
    }
}
