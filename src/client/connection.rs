//! Connections to the daemon: opened, kept, reused; and what goes out on them.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use hyper::{
    body::{Body as HttpBody, Frame, SizeHint},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    task::JoinHandle,
};

use super::error::{Error, Result};
use crate::wire::stream::{Stream, Wire};

/// The connections to one daemon.
#[derive(Debug)]
pub(super) struct Pool {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock()
    }

    /// A connection, and whether it is one that was kept.
    pub(super) async fn take(&self) -> Result<(Connection, bool)> {
        loop {
            let kept = self.idle().pop();
            let Some(mut kept) = kept else { break };
            if kept.sender.ready().await.is_ok() {
                return Ok((kept, true));
            }
        }
        Ok((Connection::open(&self.socket).await?, false))
    }

    pub(super) fn keep(&self, connection: Connection) {
        self.idle().push(connection);
    }
}

/// One connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Outgoing>,
    pub(super) wire: Wire,
    /// The daemon's process, as the kernel tells.
    pub(super) peer: Option<i32>,
    task: JoinHandle<()>,
}

impl Connection {
    async fn open(socket: &Path) -> Result<Self> {
        let fail = |source| Error::Unreachable { socket: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).await.map_err(fail)?;
        let peer = stream.peer_cred().map_err(fail)?.pid();
        let (stream, wire) = Stream::of_client(stream);
        let stream = TokioIo::new(Listening { inner: stream, deaf: false });
        let (sender, connection) = http1::handshake(stream)
            .await
            .map_err(|error| Error::Broken(format!("the connection broke: {error}")))?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer is told.
            drop(connection.await);
        });
        Ok(Self { sender, wire, peer, task })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A stream whose reader still hears the peer's last words when the peer has stopped reading: a
/// write that fails because the peer closed waits, and the read beside it has the answer or the end.
struct Listening {
    inner: Stream,
    deaf: bool,
}

impl Listening {
    fn heed(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.deaf = true;
                Poll::Pending
            }
            Poll::Ready(_) | Poll::Pending => written,
        }
    }
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.heed(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The body of a request.
pub struct Body(Content);

enum Content {
    Whole(Bytes),
    Stream(BoxStream<'static, io::Result<Bytes>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Content::Whole(bytes) => write!(f, "Body of {} bytes", bytes.len()),
            Content::Stream(_) => f.write_str("Body that is streamed"),
        }
    }
}

impl Body {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self(Content::Whole(Bytes::new()))
    }

    /// These bytes.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self(Content::Whole(bytes))
    }

    /// Bytes as they come; an error ends the request, and nothing is done.
    #[must_use]
    pub fn stream(stream: BoxStream<'static, io::Result<Bytes>>) -> Self {
        Self(Content::Stream(stream))
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.0, Content::Whole(bytes) if bytes.is_empty())
    }
}

/// What became of a body.
#[derive(Debug, Default)]
pub(super) struct Fate {
    sent: AtomicBool,
    failed: Mutex<Option<io::Error>>,
}

impl Fate {
    /// Whether all of it has been handed over.
    pub(super) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }

    /// Why its source failed.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.failed.lock().take()
    }
}

/// A body on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Body,
    fate: Arc<Fate>,
}

impl Outgoing {
    pub(super) fn new(body: Body) -> (Self, Arc<Fate>) {
        let fate = Arc::new(Fate::default());
        fate.sent.store(body.is_empty(), Ordering::Release);
        (Self { body, fate: Arc::clone(&fate) }, fate)
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.body.0 {
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.fate.sent.store(true, Ordering::Release);
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            Content::Stream(stream) => stream.as_mut().poll_next(cx),
        };
        match next {
            Poll::Ready(None) => {
                self.fate.sent.store(true, Ordering::Release);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Some(Err(error))) => {
                let kind = error.kind();
                *self.fate.failed.lock() = Some(error);
                Poll::Ready(Some(Err(kind.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body.0 {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}
