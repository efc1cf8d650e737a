//! Connections: accepted or turned away, served to their end, and ended when the daemon stops.

use std::{os::fd::AsFd as _, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use imaged_drivers::{Error, Kind};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{io::AsyncWriteExt as _, net::UnixStream};
use tokio_util::sync::CancellationToken;

use super::status;
use crate::{
    daemon::Daemon,
    socket::{Caller, Full, Place, Socket, Users},
    wire::stream::{Lanes, Limits, Stream, Wire},
};

/// Serves callers of `socket` until the daemon closes, then stops listening. Connections go on as
/// tasks of the daemon.
pub async fn serve(socket: Socket, daemon: &Arc<Daemon>) {
    let settings = daemon.settings();
    let users = Users::new(settings.connection_limit, settings.connection_limit_per_user);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = daemon.shared.closing.cancelled() => break,
        };
        match accepted {
            Ok(stream) => receive(daemon, &users, stream),
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    socket.close();
}

/// Gives a new connection to a task of its own, or turns it away.
fn receive(daemon: &Arc<Daemon>, users: &Users, stream: UnixStream) {
    widen(&stream);
    let uid = match stream.peer_cred() {
        Ok(peer) => peer.uid(),
        Err(error) => {
            tracing::warn!(%error, "a caller cannot be identified");
            // As one who is nobody's user.
            u32::MAX
        }
    };
    let (lanes, place) = users.admit(uid);
    let daemon = Arc::clone(daemon);
    match place {
        Ok(place) => {
            let tasks = daemon.shared.tasks.clone();
            tasks.spawn(async move {
                daemon.shared.metrics.connections.inc();
                converse(&daemon, stream, lanes, place).await;
                daemon.shared.metrics.connections.dec();
            });
        }
        Err(full) => {
            daemon.shared.metrics.refused.inc();
            tokio::spawn(turn_away(stream, lanes, full));
        }
    }
}

/// The most that one connection reads ahead, and so the longest head of a request, in bytes. It is
/// the only memory of a transfer that no window counts: a larger one is no faster, as measured.
const BUFFER: usize = 16 << 10;

/// Serves one connection to its end.
async fn converse(daemon: &Arc<Daemon>, stream: UnixStream, lanes: Lanes, place: Place) {
    let settings = daemon.settings();
    let ids = stream.peer_cred().ok().map(|peer| (peer.uid(), peer.gid()));
    let limits = Limits {
        head: settings.header_timeout,
        idle: settings.idle_timeout,
        stall: settings.stall_timeout,
    };
    let (stream, wire) = Stream::of_daemon(stream, lanes, limits, Box::new(place));
    let caller = Arc::new(Caller::new(ids, &wire));
    // Before anything is read: whoever may pass no descriptors is to be kept from it soon.
    caller.look_up(&settings).await;
    let (serving, writing) = (Arc::clone(daemon), wire.clone());
    let service = service_fn(move |request| {
        let (daemon, caller, wire) = (Arc::clone(&serving), Arc::clone(&caller), wire.clone());
        async move {
            let peer = caller.look_up(&daemon.settings()).await;
            Ok::<_, std::convert::Infallible>(super::serve(daemon, &peer, wire, request).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The stream has limits of its own for the head and for idling.
        .header_read_timeout(None)
        .half_close(true)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = daemon.shared.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = cut(&daemon.shared.stop, &writing) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Returns when a connection may be cut: the daemon stops, what was being changed has been undone or
/// finished, and its caller had a moment to read so.
async fn cut(stop: &CancellationToken, wire: &Wire) {
    stop.cancelled().await;
    let _answered = tokio::time::timeout(LAST_WORDS, wire.unchanging()).await.is_ok();
    tokio::time::sleep(FAREWELL).await;
}

/// How long an aborted change may take to be undone and answered, at the very end.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// How long a caller then has to read its answer.
const FAREWELL: Duration = Duration::from_millis(500);

/// Bytes of an answer that the system holds until its reader comes. By default they are a fifth of
/// that, and reader and daemon wait for each other: a download costs a fourth more time, and each
/// side a sixth more CPU seconds. Taken only while it is needed.
const HELD: usize = 1 << 20;

fn widen(stream: &UnixStream) {
    // As much as net.core.wmem_max allows; with less it is slower, and right.
    if let Err(error) = set_socket_send_buffer_size(stream, HELD) {
        tracing::debug!(%error, "the socket keeps its size");
    }
}

/// Tells a caller that there are too many.
async fn turn_away(mut stream: UnixStream, lanes: Lanes, full: Full) {
    let detail = match full {
        Full::All => "too many connections; raise connection_limit or try again",
        Full::User => {
            "too many connections of this user; raise connection_limit_per_user or try again"
        }
    };
    let problem = status::problem_of(&Error::new(Kind::Unavailable, detail), "-");
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let sent = tokio::time::timeout(Duration::from_secs(1), async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    });
    if !matches!(sent.await, Ok(Ok(()))) {
        tracing::debug!(fd = ?stream.as_fd(), "a caller too many did not listen");
    }
    // With all that it sent and nobody read.
    lanes.sockets.discard(stream);
}
