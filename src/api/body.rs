//! Bodies of responses, and the guard that tells the wire when one is over.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use imaged_drivers::{self as drivers, Error, Kind, Result};

use super::{
    part::{Part, Record, records, stopped},
    ring::Ring,
};
use crate::{
    daemon::Daemon,
    metrics::Stage,
    transfer::Account,
    wire::{extents, stream::Wire},
};

/// The body of a response.
#[derive(Debug)]
pub struct Body {
    content: Content,
    finish: Option<Arc<Finish>>,
}

#[derive(Debug)]
enum Content {
    /// All of it; `None` when it has been sent.
    Full(Option<Bytes>),
    /// An image.
    Image(Box<Sending>),
    /// A listing: of no known length.
    Lines(Lines),
}

struct Lines(BoxStream<'static, Result<Bytes>>);

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

impl Body {
    /// A body of these bytes.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self { content: Content::Full(Some(bytes)), finish: None }
    }

    /// A body without bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { content: Content::Full(None), finish: None }
    }

    /// A body of lines that come as they come.
    #[must_use]
    pub fn lines(lines: BoxStream<'static, Result<Bytes>>) -> Self {
        Self { content: Content::Lines(Lines(lines)), finish: None }
    }

    /// An image being sent.
    #[must_use]
    pub fn image(sending: Sending) -> Self {
        Self { content: Content::Image(Box::new(sending)), finish: None }
    }

    /// The exchange is not finished before this body is over.
    pub(super) fn finishes(&mut self, finish: Arc<Finish>) {
        self.finish = Some(finish);
    }
}

/// When all that hold it are gone, the exchange is finished.
#[derive(Debug)]
pub(super) struct Finish(Wire);

impl Finish {
    /// Of the exchange on `wire`.
    pub(super) fn of(wire: &Wire) -> Self {
        Self(wire.clone())
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finished();
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        match &mut self.content {
            Content::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Image(sending) => {
                sending.poll(cx).map(|next| next.map(|r| r.map(Frame::data)))
            }
            Content::Lines(Lines(lines)) => {
                lines.as_mut().poll_next(cx).map(|next| next.map(|r| r.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_none(),
            Content::Image(sending) => sending.is_over(),
            Content::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Image(sending) => {
                sending.length().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Content::Lines(_) => SizeHint::default(),
        }
    }
}

/// In which form an image is sent.
#[derive(Debug)]
pub enum Form {
    /// Its bytes.
    Plain,
    /// What it holds, without its holes: see [`extents`].
    Extents,
    /// The same, through memory: see [`memory`](crate::wire::memory).
    Memory(Ring),
}

/// The body of an image of which `range` is sent, as [`extents`] has it.
fn as_extents(content: drivers::Body, range: Range<u64>) -> BoxStream<'static, Result<Part>> {
    let parts = records(content, range).map_ok(|Record { hole, at, bytes }| {
        let head = extents::head(at, bytes.len() as u64);
        let head = Part { of_image: hole, ..head.into() };
        let bytes = (!bytes.is_empty()).then(|| Part::from(bytes));
        stream::iter([Some(head), bytes].into_iter().flatten().map(Ok))
    });
    parts.try_flatten().boxed()
}

/// An image on its way to a caller, until its one line in the log.
///
/// A failure after the head cuts the connection short of Content-Length, or of the last chunk and the last
/// record: a short body is the error.
pub struct Sending {
    parts: BoxStream<'static, Result<Part>>,
    /// Whether it is sent as records, of which the last ends it.
    records: bool,
    /// Bytes of the image that are still to come.
    left: u64,
    /// The last record has come.
    ended: bool,
    account: Option<Account>,
    daemon: Arc<Daemon>,
    /// Whether the next piece has been asked for.
    asked: bool,
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Sending {
    /// `range` of an image, which is what `content` has, in the form `form`, accounted to `account`.
    #[must_use]
    pub fn new(
        form: Form,
        content: drivers::Body,
        range: Range<u64>,
        mut account: Account,
        daemon: Arc<Daemon>,
    ) -> Self {
        account.skip();
        let left = range.end.saturating_sub(range.start);
        let (records, parts) = match form {
            Form::Plain => (false, content.into_stream().map_ok(Part::from).boxed()),
            Form::Extents => (true, as_extents(content, range)),
            Form::Memory(ring) => (true, ring.send(content, range)),
        };
        let (account, asked, ended) = (Some(account), false, false);
        Self { parts, records, left, ended, account, daemon, asked }
    }

    fn is_over(&self) -> bool {
        if self.records { self.ended } else { self.left == 0 }
    }

    /// Bytes of the body that are still to come, if that is known.
    fn length(&self) -> Option<u64> {
        (!self.records).then_some(self.left)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.is_over() {
            return Poll::Ready(None);
        }
        if self.daemon.shared.stop.is_cancelled() {
            let stopping = Error::new(Kind::Unavailable, "the daemon is stopping");
            self.end(Some(&stopping));
            return Poll::Ready(Some(Err(stopping)));
        }
        if let Some(account) = &mut self.account
            && !self.asked
        {
            account.lap(Stage::Receive);
            self.asked = true;
        }
        let next = ready!(self.parts.as_mut().poll_next(cx));
        if let Some(account) = &mut self.account {
            account.lap(Stage::Backend);
            self.asked = false;
        }
        let result = match next {
            Some(Ok(Part { bytes, of_image, waited })) if of_image <= self.left => {
                self.left -= of_image;
                if let Some(account) = &mut self.account {
                    account.waited(waited);
                    account.moved(of_image);
                }
                Ok(bytes)
            }
            Some(Ok(_)) => {
                Err(Error::new(Kind::Internal, "the store sent more than was asked for"))
            }
            Some(Err(error)) => Err(error),
            None if self.records && self.left == 0 => {
                self.ended = true;
                return Poll::Ready(None);
            }
            None => Err(stopped()),
        };
        if let Err(error) = &result {
            self.end(Some(error));
        }
        Poll::Ready(Some(result))
    }

    fn end(&mut self, error: Option<&Error>) {
        if let Some(account) = self.account.take() {
            account.end(&self.daemon.shared.metrics, error);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(account) = &mut self.account {
            account.lap(Stage::Receive);
        }
        let left = Error::new(Kind::Mismatch, "the caller left before the end of the image");
        self.end((self.left > 0).then_some(&left));
    }
}
