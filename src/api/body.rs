//! Bodies of responses, and the guard that tells the wire when one is over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use imaged_drivers::{Error, Kind, Result};

use crate::{daemon::Daemon, metrics::Stage, transfer::Account, wire::stream::Wire};

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
            Content::Image(sending) => sending.left == 0,
            Content::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Image(sending) => SizeHint::with_exact(sending.left),
            Content::Lines(_) => SizeHint::default(),
        }
    }
}

/// An image on its way to a caller, until its one line in the log.
///
/// A failure after the head cuts the connection short of Content-Length: a short body is the error.
pub struct Sending {
    stream: BoxStream<'static, Result<Bytes>>,
    left: u64,
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
    /// `length` bytes from `stream`, accounted to `account`.
    #[must_use]
    pub fn new(
        stream: BoxStream<'static, Result<Bytes>>,
        length: u64,
        mut account: Account,
        daemon: Arc<Daemon>,
    ) -> Self {
        account.skip();
        Self { stream, left: length, account: Some(account), daemon, asked: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.left == 0 {
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
        let next = ready!(self.stream.as_mut().poll_next(cx));
        if let Some(account) = &mut self.account {
            account.lap(Stage::Backend);
            self.asked = false;
        }
        let result = match next {
            Some(Ok(bytes)) if bytes.len() as u64 <= self.left => {
                self.left -= bytes.len() as u64;
                if let Some(account) = &mut self.account {
                    account.moved(bytes.len() as u64);
                }
                Ok(bytes)
            }
            Some(Ok(_)) => {
                Err(Error::new(Kind::Internal, "the store sent more than was asked for"))
            }
            Some(Err(error)) => Err(error),
            None => Err(Error::new(Kind::Unavailable, "the store stopped before the end")),
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
