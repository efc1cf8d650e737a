//! Reading an image: what comes, in buffers of the window, over as many connections as it takes.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};

use super::{
    exchange::Servers,
    location::Location,
    object::{self, Validator},
};
use crate::{
    contract::{Error, Kind, Result, Span},
    kit::{
        http::{
            Answer, Incoming, Method,
            header::{IF_RANGE, RANGE},
            pause,
        },
        window::Window,
    },
};

/// An image, or a part of one, on its way here.
pub(super) struct Download {
    pub(super) servers: Servers,
    /// How often it is tried again while no byte comes.
    pub(super) retries: usize,
    /// The location that was asked for, and the one that answered.
    pub(super) asked: Location,
    pub(super) found: Location,
    /// What tells that it is still the same image.
    pub(super) validator: Option<Validator>,
    /// Bytes of the whole image.
    pub(super) size: u64,
    /// The offset of the next byte to come, and of the end.
    pub(super) next: u64,
    pub(super) end: u64,
    pub(super) window: Window,
    /// The answer that is read now.
    pub(super) leg: Option<Leg>,
    /// Bytes that have come, and for which there was no room.
    pub(super) spare: Bytes,
    /// Tries since the last byte.
    pub(super) failures: usize,
}

/// One answer being read.
pub(super) struct Leg {
    body: Incoming,
    /// Bytes before those that are wanted, and the wanted ones.
    skip: u64,
    left: u64,
}

impl Download {
    /// The bytes that are wanted, beginning with those that `answer` brings.
    ///
    /// # Errors
    /// `Unavailable` if it brings others.
    pub(super) fn begin(
        mut self,
        answer: Answer,
        brings: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.leg = Some(self.leg_of(answer, brings)?);
        Ok(stream::try_unfold(self, |mut this| async move {
            Ok(this.chunk().await?.map(|chunk| (chunk, this)))
        })
        .boxed())
    }

    /// What `answer` brings, as far as it is wanted.
    fn leg_of(&self, answer: Answer, brings: Range<u64>) -> Result<Leg> {
        // Servers that do not know ranges send all of it, others may send less than was asked for.
        let from_the_beginning = brings.start == 0 && answer.status == 200;
        if !(brings.start == self.next || from_the_beginning) || brings.end < self.next {
            return Err(answer
                .error(Kind::Unavailable, "the server sends other bytes than it was asked for"));
        }
        let skip = self.next.saturating_sub(brings.start);
        let left = brings.end.min(self.end).saturating_sub(self.next);
        Ok(Leg { body: answer.body, skip, left })
    }

    /// The next buffer of bytes.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let left = self.end.saturating_sub(self.next).saturating_add(self.spare.len() as u64);
        let Ok(want @ 1..) = usize::try_from(left) else {
            // The connection goes with the last byte, not with the stream.
            self.leg = None;
            return Ok(None);
        };
        let at = self.next.saturating_sub(self.spare.len() as u64);
        let mut buffer = self.window.buffer(at, want).await?;
        while !buffer.is_full() {
            let mut bytes = std::mem::take(&mut self.spare);
            if bytes.is_empty() {
                bytes = self.more().await?;
            }
            let taken = buffer.push(&bytes);
            self.spare = bytes.split_off(taken);
        }
        Ok(Some(buffer.freeze()))
    }

    /// The next bytes, from another answer if this one ends too early.
    async fn more(&mut self) -> Result<Bytes> {
        loop {
            let failed = match self.step().await {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => self.go_on().await.err(),
                Err(error) => Some(error),
            };
            let Some(error) = failed else { continue };
            let passes = matches!(error.kind(), Kind::Unavailable | Kind::Timeout);
            if self.validator.is_none() || !passes || self.failures >= self.retries {
                return Err(error);
            }
            self.leg = None;
            tokio::time::sleep(pause(self.failures)).await;
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// What the answer that is read brings next; `None` if it has ended as it said, before what is wanted has.
    async fn step(&mut self) -> Result<Option<Bytes>> {
        let Some(leg) = &mut self.leg else { return Ok(None) };
        if leg.left == 0 {
            return Ok(None);
        }
        while let Some(mut bytes) = leg.body.next().await? {
            let skipped = usize::try_from(leg.skip).unwrap_or(usize::MAX).min(bytes.len());
            drop(bytes.split_to(skipped));
            leg.skip = leg.skip.saturating_sub(skipped as u64);
            // What comes after the wanted bytes is the rest of an image that was sent whole.
            bytes.truncate(usize::try_from(leg.left).unwrap_or(usize::MAX));
            if !bytes.is_empty() {
                leg.left = leg.left.saturating_sub(bytes.len() as u64);
                self.next = self.next.saturating_add(bytes.len() as u64);
                self.failures = 0;
                return Ok(Some(bytes));
            }
        }
        Err(self.error(Kind::Unavailable, "the server sends fewer bytes than it said"))
    }

    /// Asks for the rest, where the last answer came from, and if that fails, where the first question went.
    async fn go_on(&mut self) -> Result<()> {
        let Some(validator) = self.validator.clone() else {
            let what =
                "the server sends the image in pieces, and nothing that tells it from another";
            return Err(self.error(Kind::Unavailable, what));
        };
        let range = object::range(Span::Part(self.next, self.end)).unwrap_or_default();
        let headers = [(RANGE, range.as_str()), (IF_RANGE, validator.text())];
        let mut asked = self.servers.ask(Method::GET, &self.found, &headers).await;
        let failed = asked.as_ref().map_or(true, |(answer, _)| !answer.status.is_success());
        if failed && self.found != self.asked {
            asked = self.servers.ask(Method::GET, &self.asked, &headers).await;
        }
        let (answer, found) = asked?;
        match answer.status.as_u16() {
            200 | 206 => {}
            412 | 416 => return Err(self.changed()),
            _ => return Err(answer.failure("give the rest of the image").await),
        }
        let brings = object::brings(&answer)?;
        if brings.size != Some(self.size) || !validator.is_of(&answer) {
            return Err(self.changed());
        }
        let leg = self.leg_of(answer, brings.range)?;
        (self.found, self.leg) = (found, Some(leg));
        Ok(())
    }

    fn changed(&self) -> Error {
        self.error(
            Kind::Mismatch,
            "the image was changed while it was read, or its server does not say that it was not",
        )
    }

    fn error(&self, kind: Kind, what: &str) -> Error {
        Error::new(kind, format!("{what}: location=`{}`", self.asked))
    }
}

#[cfg(test)]
mod tests;
