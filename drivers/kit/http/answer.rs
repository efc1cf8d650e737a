//! What comes back.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use reqwest::{
    StatusCode,
    header::{HeaderMap, HeaderName},
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::failure::{About, kind};
use crate::contract::{Error, Kind, Result};

/// Bytes of a server's text that are looked at for an error, and that are read to use a connection again.
const TEXT: usize = 16 << 10;

/// How long a server may take to say what it refuses: what counts is that it does.
const SAID: Duration = Duration::from_secs(2);

/// An answer whose head has come.
pub struct Answer {
    /// How the server took the request.
    pub status: StatusCode,
    /// What it says beside.
    pub headers: HeaderMap,
    /// The bytes that follow.
    pub body: Incoming,
}

impl Answer {
    pub(super) fn new(
        answer: reqwest::Response,
        about: About,
        patience: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = Incoming { answer: Some((answer, permit)), read: None, about, patience };
        Self { status, headers, body }
    }

    /// The same with all of its body read, at most `limit` bytes.
    pub(super) async fn read(self, limit: usize) -> Result<Self> {
        let Self { status, headers, body } = self;
        let (about, patience) = (body.about.clone(), body.patience);
        let read = Some(body.collect(limit).await?);
        let body = Incoming { answer: None, read, about, patience };
        Ok(Self { status, headers, body })
    }

    /// The value of a header, if it is there once and is UTF-8.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = std::str::from_utf8(values.next()?.as_bytes()).ok()?;
        values.next().is_none().then_some(value)
    }

    /// All of the body as text, at most `limit` bytes.
    ///
    /// # Errors
    /// `Unavailable` if it is longer, is no text, or does not come whole.
    pub async fn text(self, limit: usize) -> Result<String> {
        let about = self.body.about.clone();
        let bytes = self.body.collect(limit).await?;
        String::from_utf8(bytes.into()).map_err(|error| {
            about
                .error(Kind::Unavailable, "the server's answer is no text")
                .because(error.utf8_error())
        })
    }

    /// All of the body, read as JSON, at most `limit` bytes.
    ///
    /// # Errors
    /// `Unavailable` if it is longer, is something else, or does not come whole.
    pub async fn json<T: serde::de::DeserializeOwned>(self, limit: usize) -> Result<T> {
        let about = self.body.about.clone();
        let bytes = self.body.collect(limit).await?;
        // What serde says may show a part of the answer: where it stopped is enough.
        serde_json::from_slice(&bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let what = format!(
                "the server's answer is not the JSON that is expected (line {line}, column {column})"
            );
            about.error(Kind::Unavailable, what)
        })
    }

    /// What the server says about its failure: shortened, on one line, without secrets. Empty if it says nothing.
    pub async fn said(&mut self) -> String {
        let mut said = Vec::new();
        let read = async {
            while said.len() < TEXT {
                match self.body.next().await {
                    Ok(Some(bytes)) => said.extend_from_slice(&bytes),
                    Ok(None) | Err(_) => break,
                }
            }
        };
        let _in_time = timeout(SAID, read).await;
        said.truncate(TEXT);
        self.body.about.cleaned(&String::from_utf8_lossy(&said))
    }

    /// This answer as the failure of `doing` something, such as `read an image`: by its status, with what the
    /// server says about it. Where a status means something else to a driver, it judges that one before.
    pub async fn failure(mut self, doing: &str) -> Error {
        let said = self.said().await;
        let said = if said.is_empty() { said } else { format!(" ({said})") };
        let status = self.status.as_u16();
        let what = format!("the server refuses to {doing}, with status {status}{said}");
        self.body.about.error(kind(self.status), what)
    }

    /// `what` about this answer: its server and its store are added.
    pub fn error(&self, kind: Kind, what: impl fmt::Display) -> Error {
        self.body.about.error(kind, what)
    }

    /// Reads what little is left of an answer that nobody wants, so that its connection can be used again.
    pub async fn finish(self) {
        self.body.finish().await;
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The bytes of an answer as they come. Holds one of the pool's connections up to the last of them.
pub struct Incoming {
    answer: Option<(reqwest::Response, OwnedSemaphorePermit)>,
    /// All of them, if they have come already.
    read: Option<Bytes>,
    about: About,
    patience: Duration,
}

impl Incoming {
    /// The next bytes; `None` after the last one that the server said there would be.
    ///
    /// # Errors
    /// `Unavailable` if the connection ends before; `Timeout` if nothing comes in time.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some((answer, _permit)) = &mut self.answer else {
            return Ok(self.read.take().filter(|bytes| !bytes.is_empty()));
        };
        let next = match timeout(self.patience, answer.chunk()).await {
            Ok(Ok(Some(bytes))) => return Ok(Some(bytes)),
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(self.about.failed(error)),
            Err(_elapsed) => Err(self.about.late()),
        };
        self.answer = None;
        next
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, |mut body| async move {
            Ok(body.next().await?.map(|bytes| (bytes, body)))
        })
    }

    async fn collect(mut self, limit: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if all.len().saturating_add(bytes.len()) > limit {
                let what = format!("the server's answer is longer than {limit} bytes");
                return Err(self.about.error(Kind::Unavailable, what));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// As [`Answer::finish`]. A new connection costs less than waiting for long.
    pub(super) async fn finish(mut self) {
        let read = async {
            let mut left = TEXT;
            while let Ok(Some(bytes)) = self.next().await {
                left = left.saturating_sub(bytes.len());
                if left == 0 {
                    return;
                }
            }
        };
        drop(timeout(Duration::from_secs(1), read).await);
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("ended", &self.answer.is_none()).finish_non_exhaustive()
    }
}
