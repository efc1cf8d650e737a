//! A unix stream under HTTP that carries file descriptors and watches the clock.
//!
//! A stream has no message boundaries, so descriptors are bound to requests by order: the kernel
//! never delivers one later than the first byte it was sent with, so once a request's head has been
//! read, every descriptor sent with it is here. While a body is read, descriptors are not asked
//! for, and the kernel closes what comes with it.
//!
//! # Decisions
//! * Chose: room for as many descriptors as one message can carry (253), then our own limit.
//!   Because: a smaller room truncates, and what was installed before the truncation must still be
//!   found and closed. Instead of: trusting the truncation flag.
//! * Chose: the timers of head, idle and stalled connections here. Because: hyper's own head timer
//!   also runs on an idle kept connection. Instead of: one limit for two different things.
//! * Chose: descriptors are looked at, read and closed on threads of one bounded lane, whoever sent
//!   them. Because: any of these calls may hang, with the filesystem that the caller chose. Instead
//!   of: closing them where they are dropped, which lets a caller without any role stop the daemon.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use imaged_drivers::lane::Lane;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
    time::{Instant, Sleep},
};

/// As many descriptors as Linux sends with one message.
const SCM_MAX_FD: usize = 253;

/// As many unclaimed descriptors as a connection may hold.
const UNCLAIMED: usize = 4;

/// Calls that touch descriptors of callers.
static DESCRIPTORS: LazyLock<Lane> =
    LazyLock::new(|| Lane::new("descriptors of callers", 64, Duration::from_secs(10)));

/// How often a peer who waits for an answer is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long a connection may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Without a byte moving, inside a body or a response.
    pub stall: Duration,
}

/// Where a connection is between two requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waiting for a request.
    Idle,
    /// In a request's head, since then.
    Head(Instant),
    /// A request is being served.
    Serving,
}

/// What the service and the stream of one connection tell each other.
#[derive(Clone, Debug)]
pub struct Wire {
    state: Arc<Mutex<State>>,
    inner: Weak<UnixStream>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Came, and no request has claimed them.
    came: VecDeque<OwnedFd>,
    /// To be sent with the next bytes.
    leaving: Option<OwnedFd>,
}

impl Drop for State {
    fn drop(&mut self) {
        Wire::close(self.came.drain(..).chain(self.leaving.take()).collect());
    }
}

impl Wire {
    /// Where to touch a descriptor that came from a caller.
    #[must_use]
    pub fn lane() -> &'static Lane {
        &DESCRIPTORS
    }

    /// Closes descriptors, and does not wait for it.
    pub fn close(descriptors: Vec<OwnedFd>) {
        if !descriptors.is_empty() {
            DESCRIPTORS.discard(descriptors);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A head has been read: gives the descriptors that came with it. From here to
    /// [`Wire::finished`] no descriptor is taken.
    #[must_use]
    pub fn claim(&self) -> Vec<OwnedFd> {
        let mut state = self.state();
        state.phase = Phase::Serving;
        state.came.drain(..).collect()
    }

    /// The message is over; the next bytes are another's head.
    pub fn finished(&self) {
        self.state().phase = Phase::Idle;
    }

    /// Sends `descriptor` with the next bytes, which must be a head.
    pub fn send(&self, descriptor: OwnedFd) {
        let other = self.state().leaving.replace(descriptor);
        Self::close(other.into_iter().collect());
    }

    /// The number of the process that made the connection, if the kernel tells.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.inner.upgrade()?.peer_cred().ok()?.pid()
    }

    /// Whether the peer has closed its end altogether. One that has only finished writing is
    /// still there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Some(inner) = self.inner.upgrade() else { return true };
        let mut polled = [PollFd::new(&*inner, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_err()
            || polled.iter().any(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR))
    }

    /// Returns when the peer is gone.
    pub async fn gone(&self) {
        while !self.is_gone() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The stream under one connection.
#[derive(Debug)]
pub struct Stream {
    inner: Arc<UnixStream>,
    wire: Wire,
    limits: Option<Limits>,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// A stream over `inner`, and the wire for those who speak over it. A daemon has `limits`; a
    /// client has patience.
    #[must_use]
    pub fn new(inner: UnixStream, limits: Option<Limits>) -> (Self, Wire) {
        let inner = Arc::new(inner);
        let state = State { phase: Phase::Idle, came: VecDeque::new(), leaving: None };
        let wire = Wire { state: Arc::new(Mutex::new(state)), inner: Arc::downgrade(&inner) };
        (Self { inner, wire: wire.clone(), limits, reading: None, writing: None }, wire)
    }

    /// Reads bytes; the kernel closes descriptors that come with them.
    fn poll_plain(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.inner.poll_read_ready(cx))?;
            match self.inner.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other.map(drop)),
            }
        }
    }

    /// Reads bytes and the descriptors that come with them. While too many of other callers cannot
    /// be closed, none are taken.
    fn poll_receive(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.inner.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled_to(buf.remaining().min(16 << 10));
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
            let space = if DESCRIPTORS.is_clogged() { &mut [][..] } else { &mut space[..] };
            let mut control = RecvAncillaryBuffer::new(space);
            let got = self.inner.try_io(Interest::READABLE, || {
                let into = &mut [IoSliceMut::new(room)];
                Ok(recvmsg(self.inner.as_fd(), into, &mut control, RecvFlags::CMSG_CLOEXEC)?)
            });
            let got = match got {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                other => other?,
            };
            let mut state = self.wire.state();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    state.came.extend(descriptors);
                }
            }
            if got.flags.contains(ReturnFlags::CTRUNC) && DESCRIPTORS.is_clogged() {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "a descriptor came while too many others cannot be closed",
                )));
            }
            if state.came.len() > UNCLAIMED {
                Wire::close(state.came.drain(..).collect());
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "more descriptors than a request can claim",
                )));
            }
            if got.bytes > 0 && state.phase == Phase::Idle {
                state.phase = Phase::Head(Instant::now());
            }
            drop(state);
            buf.advance(got.bytes);
            return Poll::Ready(Ok(()));
        }
    }

    /// When a read that has just stopped must go on. While a request is served there is no clock
    /// here: whoever reads its body watches that.
    fn patience(&self) -> Option<Instant> {
        let limits = self.limits?;
        match self.wire.state().phase {
            Phase::Idle => Some(Instant::now() + limits.idle),
            Phase::Head(since) => Some(since + limits.head),
            Phase::Serving => None,
        }
    }
}

/// Pending, unless `deadline` has passed; the first call sets it.
fn wait_until(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: impl FnOnce() -> Instant,
    cx: &mut Context<'_>,
    what: &str,
) -> Poll<io::Error> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline())));
    ready!(timer.as_mut().poll(cx));
    Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what.to_owned()))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let serving = this.wire.state().phase == Phase::Serving;
        let read = if serving { this.poll_plain(cx, buf) } else { this.poll_receive(cx, buf) };
        if read.is_ready() {
            this.reading = None;
            return read;
        }
        let Some(deadline) = this.patience() else {
            this.reading = None;
            return Poll::Pending;
        };
        wait_until(&mut this.reading, || deadline, cx, "the client sent nothing for too long")
            .map(Err)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = if this.wire.state().leaving.is_some() {
            this.poll_send(cx, parts)
        } else {
            this.poll_plain_write(cx, parts)
        };
        if written.is_ready() {
            this.writing = None;
            return written;
        }
        let Some(limits) = this.limits else { return Poll::Pending };
        let deadline = || Instant::now() + limits.stall;
        wait_until(&mut this.writing, deadline, cx, "the client read nothing for too long").map(Err)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&*self.inner, Shutdown::Write)?))
    }
}

impl Stream {
    fn poll_plain_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.inner.poll_write_ready(cx))?;
            match self.inner.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Writes bytes with the descriptor that is leaving.
    fn poll_send(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.inner.poll_write_ready(cx))?;
            let mut state = self.wire.state();
            let Some(descriptor) = &state.leaving else {
                drop(state);
                return self.poll_plain_write(cx, parts);
            };
            let sent = self.inner.try_io(Interest::WRITABLE, || {
                let rights = [descriptor.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&rights));
                Ok(sendmsg(self.inner.as_fd(), parts, &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(count) => {
                    // It went with the first byte.
                    Wire::close(state.leaving.take().into_iter().collect());
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
