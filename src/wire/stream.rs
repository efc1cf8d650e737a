//! A unix stream under HTTP that carries file descriptors and watches the clock.
//!
//! A stream has no message boundaries, so descriptors are bound to requests by order: the kernel
//! never delivers one later than the first byte it was sent with, so once a request's head has been
//! read, every descriptor sent with it is here. One that comes later, with a body, is closed.
//!
//! **No descriptor of a caller is closed on a thread of the runtime**, for closing may hang with the
//! filesystem that the caller chose. So every receive has room for all that one message can carry:
//! what finds no room, the kernel closes there and then. And what has not been received when a
//! connection ends, the kernel closes with the socket: so that is closed on the caller's lane too.
//!
//! # Decisions
//! * Chose: room for as many descriptors as one message can carry (253), then our own limit.
//!   Because: a smaller room truncates. Instead of: trusting the truncation flag.
//! * Chose: while too many of a user's descriptors wait to be closed, bytes are looked at before they
//!   are read, and a connection that brings another descriptor ends unread. Because: looking takes
//!   nothing, so nothing has to be closed. Instead of: reading none of that user's connections,
//!   which lets one file that hangs stop a user whose other requests have none.
//! * Chose: the timers of head, idle and stalled connections here. Because: hyper's own head timer
//!   also runs on an idle kept connection. Instead of: one limit for two different things.
//! * Chose: descriptors are looked at, read and closed on a few threads of the caller's user, and
//!   sockets are closed on a few others. Because: any of these calls may hang. Instead of: one lane for all, which
//!   lets a caller without any role stop everybody's uploads by descriptor.

use std::{
    any::Any,
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use imaged_drivers::{DropOnLane, lane::Lane};
use imaged_ffi_linux::Came;
use nix::{libc, setsockopt_impl, sys::socket::setsockopt};
use parking_lot::{Mutex, MutexGuard};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
    sync::watch,
    time::{Instant, Sleep},
};

/// As many bytes are read at a time, at most.
const READ: usize = 128 << 10;

/// As many unclaimed descriptors as a connection may hold.
const UNCLAIMED: usize = 4;

/// As many descriptors as a head may have beside it.
pub const LEAVING: usize = 2;

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

/// A connection's socket, and what is held until it is closed.
#[derive(Debug)]
struct Held {
    // Let go of in this order.
    stream: UnixStream,
    _until_closed: UntilClosed,
}

/// What is dropped when a connection's socket is closed, and not before.
pub type UntilClosed = Box<dyn Any + Send + Sync>;

/// Where what may hang with the descriptors that one user passes is done.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Descriptors are looked at, read and closed here.
    pub descriptors: Lane,
    /// Sockets are closed here, with the descriptors in them that nobody has received. Apart, for a
    /// user whose files hang may have other requests that need none.
    pub sockets: Lane,
}

/// What the service and the stream of one connection tell each other.
#[derive(Clone, Debug)]
pub struct Wire {
    exchange: Arc<Mutex<Exchange>>,
    inner: Weak<DropOnLane<Held>>,
    lane: Lane,
    /// Whether the request that is being served changes something.
    changing: Arc<watch::Sender<bool>>,
}

/// Until this is dropped, the request that is being served changes something.
#[derive(Debug)]
pub struct Changing(Arc<watch::Sender<bool>>);

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// Where a connection is, and the descriptors of the exchange that is under way.
#[derive(Debug)]
struct Exchange {
    phase: Phase,
    /// Came, and no request has claimed them.
    came: VecDeque<OwnedFd>,
    /// Some came for which this process had no number left.
    lost: bool,
    /// To be sent with the next bytes: [`LEAVING`] at most.
    leaving: Vec<OwnedFd>,
    lane: Lane,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        close(&self.lane, self.came.drain(..).chain(self.leaving.drain(..)).collect());
    }
}

/// Closes descriptors, and does not wait for it.
fn close(lane: &Lane, descriptors: Vec<OwnedFd>) {
    if !descriptors.is_empty() {
        lane.discard(descriptors);
    }
}

impl Wire {
    /// Where to touch a descriptor that came from the caller.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Closes descriptors, and does not wait for it.
    pub fn close(&self, descriptors: Vec<OwnedFd>) {
        close(&self.lane, descriptors);
    }

    /// Whether the peer may pass descriptors: one who may not is refused by the kernel when it tries,
    /// where the kernel can (Linux 6.16).
    pub fn admit_descriptors(&self, admit: bool) {
        let Some(inner) = self.inner.upgrade() else { return };
        if let Err(error) = setsockopt(&inner.stream, PassRights, &admit) {
            tracing::debug!(%error, "this kernel lets every caller pass descriptors");
        }
    }

    fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock()
    }

    /// A head has been read: gives the descriptors that came with it, and whether more came than
    /// this process had numbers for. Those that come from here to [`Wire::finished`] are closed.
    #[must_use]
    pub fn claim(&self) -> (Vec<OwnedFd>, bool) {
        let mut exchange = self.exchange();
        exchange.phase = Phase::Serving;
        let lost = std::mem::take(&mut exchange.lost);
        (exchange.came.drain(..).collect(), lost)
    }

    /// The message is over; the next bytes are another's head.
    pub fn finished(&self) {
        self.exchange().phase = Phase::Idle;
    }

    /// Sends `descriptors`, [`LEAVING`] at most, with the next bytes, which must be a head.
    pub fn send(&self, descriptors: impl Into<Vec<OwnedFd>>) {
        let others = std::mem::replace(&mut self.exchange().leaving, descriptors.into());
        self.close(others);
    }

    /// The request that is being served changes something: its caller is to hear what became of it.
    #[must_use]
    pub fn change(&self) -> Changing {
        self.changing.send_replace(true);
        Changing(Arc::clone(&self.changing))
    }

    /// Returns when no request that changes something is being served.
    pub async fn unchanging(&self) {
        let mut changing = self.changing.subscribe();
        // Its sender is ours, and so is there.
        let _ended = changing.wait_for(|changing| !changing).await.is_ok();
    }

    /// Whether the peer has closed its end altogether. One that has only finished writing is
    /// still there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Some(inner) = self.inner.upgrade() else { return true };
        let mut polled = [PollFd::new(&inner.stream, PollFlags::empty())];
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

/// `SO_PASSRIGHTS`: whether what is sent to a socket may bring descriptors. Linux has it since 6.16;
/// older ones say that they do not know it.
#[derive(Clone, Copy, Debug)]
struct PassRights;

const SO_PASSRIGHTS: libc::c_int = 83;

setsockopt_impl!(
    PassRights,
    libc::SOL_SOCKET,
    SO_PASSRIGHTS,
    bool,
    nix::sys::socket::sockopt::SetBool
);

/// The stream under one connection.
#[derive(Debug)]
pub struct Stream {
    inner: Arc<DropOnLane<Held>>,
    wire: Wire,
    limits: Option<Limits>,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// A client's stream over `stream`, and the wire for those who speak over it. It has patience.
    #[must_use]
    pub fn of_client(stream: UnixStream) -> (Self, Wire) {
        let lane = |what| Lane::new(what, 16, Duration::from_secs(10));
        let lanes = Lanes { descriptors: lane("descriptors"), sockets: lane("sockets") };
        Self::new(stream, lanes, None, Box::new(()))
    }

    /// The daemon's stream over `stream`, of a caller whose user has these `lanes`.
    #[must_use]
    pub fn of_daemon(
        stream: UnixStream,
        lanes: Lanes,
        limits: Limits,
        until_closed: UntilClosed,
    ) -> (Self, Wire) {
        Self::new(stream, lanes, Some(limits), until_closed)
    }

    fn new(
        stream: UnixStream,
        lanes: Lanes,
        limits: Option<Limits>,
        until_closed: UntilClosed,
    ) -> (Self, Wire) {
        let inner =
            Arc::new(DropOnLane::new(&lanes.sockets, Held { stream, _until_closed: until_closed }));
        let lane = lanes.descriptors;
        let exchange = Exchange {
            phase: Phase::Idle,
            came: VecDeque::new(),
            lost: false,
            leaving: Vec::new(),
            lane: lane.clone(),
        };
        let exchange = Arc::new(Mutex::new(exchange));
        let changing = Arc::default();
        let wire = Wire { exchange, inner: Arc::downgrade(&inner), lane, changing };
        (Self { inner, wire: wire.clone(), limits, reading: None, writing: None }, wire)
    }

    fn socket(&self) -> &UnixStream {
        &self.inner.stream
    }

    /// Reads bytes and the descriptors that come with them.
    fn poll_receive(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket().poll_read_ready(cx))?;
            let got = self.socket().try_io(Interest::READABLE, || {
                let mut most = buf.remaining().min(READ);
                if self.wire.lane.is_clogged() {
                    most = self.without_descriptors(buf.initialize_unfilled_to(most))?;
                }
                self.receive(buf, most)
            });
            match got {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// How many bytes can be read into `room` before a descriptor comes; an error if one comes with
    /// the first. Takes nothing, so that nothing has to be closed.
    fn without_descriptors(&self, room: &mut [u8]) -> io::Result<usize> {
        let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
        let mut nothing = RecvAncillaryBuffer::new(&mut []);
        let got = recvmsg(self.socket(), &mut [IoSliceMut::new(room)], &mut nothing, flags)?;
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "a descriptor came while too many others of this user cannot be closed",
            ));
        }
        Ok(got.bytes)
    }

    /// Receives up to `most` bytes, and keeps or closes the descriptors that come with them.
    fn receive(&self, buf: &mut ReadBuf<'_>, most: usize) -> io::Result<()> {
        let before = buf.filled().len();
        let Came { descriptors: came, lost } = imaged_ffi_linux::receive(self.socket(), buf, most)?;
        let bytes = buf.filled().len() - before;
        let mut exchange = self.wire.exchange();
        if exchange.phase == Phase::Serving {
            drop(exchange);
            self.wire.close(came);
            return Ok(());
        }
        // There was room for all: this process has as many open files as it may have.
        exchange.lost |= lost;
        exchange.came.extend(came);
        if exchange.came.len() > UNCLAIMED {
            let many = exchange.came.drain(..).collect();
            drop(exchange);
            self.wire.close(many);
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more descriptors than a request can claim",
            ));
        }
        if bytes > 0 && exchange.phase == Phase::Idle {
            exchange.phase = Phase::Head(Instant::now());
        }
        Ok(())
    }

    /// When a read that has just stopped must go on. While a request is served there is no clock
    /// here: whoever reads its body watches that.
    fn patience(&self) -> Option<Instant> {
        let limits = self.limits?;
        match self.wire.exchange().phase {
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
        let read = this.poll_receive(cx, buf);
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
        let written = if this.wire.exchange().leaving.is_empty() {
            this.poll_plain_write(cx, parts)
        } else {
            this.poll_send(cx, parts)
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
        Poll::Ready(Ok(shutdown(self.socket(), Shutdown::Write)?))
    }
}

impl Stream {
    fn poll_plain_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket().poll_write_ready(cx))?;
            match self.socket().try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Writes bytes with the descriptors that are leaving.
    fn poll_send(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket().poll_write_ready(cx))?;
            let mut exchange = self.wire.exchange();
            if exchange.leaving.is_empty() {
                drop(exchange);
                return self.poll_plain_write(cx, parts);
            }
            let sent = self.socket().try_io(Interest::WRITABLE, || {
                let rights: Vec<_> = exchange.leaving.iter().map(|one| one.as_fd()).collect();
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LEAVING))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&rights));
                Ok(sendmsg(self.socket(), parts, &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(count) => {
                    // They went with the first byte.
                    let sent = std::mem::take(&mut exchange.leaving);
                    drop(exchange);
                    self.wire.close(sent);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
