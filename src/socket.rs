//! The socket: who may open it, who is calling, how many at once, and how it ends.

mod peer;
mod users;

use std::{
    fs, io,
    os::{
        fd::AsFd as _,
        unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use imaged_drivers::{Error, Kind, Result};
use nix::fcntl::{Flock, FlockArg};
use peer::Caller;
pub use peer::{Peer, Roles};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;
use users::{Full, Place, Users};

use crate::{
    api, config,
    daemon::Daemon,
    wire::stream::{Lanes, Limits, Stream, Wire},
};

/// A bound socket. While it lives, no other daemon takes its path.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: Option<PathBuf>,
    _lock: Option<Flock<fs::File>>,
}

impl Socket {
    /// Takes systemd's socket, or else binds the configured one.
    ///
    /// # Errors
    /// `InUse` if another daemon has it; else what the system says, with the path.
    pub fn open(settings: &config::Daemon) -> Result<Self> {
        let mut passed = listenfd::ListenFd::from_env();
        let taken = passed
            .take_unix_listener(0)
            .map_err(|error| Error::io("use", "the socket that systemd passed", error))?;
        if let Some(listener) = taken {
            return Ok(Self { listener: adopt(listener)?, path: None, _lock: None });
        }
        Self::bind(settings)
    }

    fn bind(settings: &config::Daemon) -> Result<Self> {
        let path = settings.socket.as_path();
        let fail = |doing: &str| {
            let path = path.display().to_string();
            let doing = doing.to_owned();
            move |error: io::Error| Error::io(&doing, path, error)
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(fail("create the directory of socket"))?;
        }
        let lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if is_socket(&found) => {
                fs::remove_file(path).map_err(fail("remove the stale socket"))?;
            }
            Ok(_) => {
                return Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "there is something else where the socket should be: socket=`{}`",
                        path.display()
                    ),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail("look at socket")(error)),
        }
        let group = group_of(settings)?;
        let listener = StdListener::bind(path).map_err(fail("bind socket"))?;
        if let Some(gid) = group {
            std::os::unix::fs::chown(path, None, Some(gid))
                .map_err(fail("give socket_group the socket"))?;
        }
        let mode = fs::Permissions::from_mode(settings.socket_mode);
        fs::set_permissions(path, mode).map_err(fail("set socket_mode of"))?;
        let path = Some(path.to_owned());
        Ok(Self { listener: adopt(listener)?, path, _lock: Some(lock) })
    }

    /// Serves callers until the daemon closes, then stops listening. Connections go on as tasks of
    /// the daemon.
    pub async fn serve(self, daemon: &Arc<Daemon>) {
        let settings = daemon.settings();
        let users = Users::new(settings.connection_limit, settings.connection_limit_per_user);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = daemon.shared.closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => receive(daemon, &users, stream),
                Err(error) => {
                    // Out of descriptors, most likely: they come back as connections end.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, socket = %path.display(), "cannot remove the socket");
        }
    }
}

/// Gives a new connection to a task of its own, or turns it away.
fn receive(daemon: &Arc<Daemon>, users: &Users, stream: UnixStream) {
    widen(&stream);
    let uid = match stream.peer_cred() {
        Ok(told) => told.uid(),
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

fn adopt(listener: StdListener) -> Result<UnixListener> {
    listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .map_err(|error| Error::io("use", "the socket", error))
}

/// The number of `socket_group`, if it is set.
///
/// # Errors
/// `Invalid` if there is no such group; `Unavailable` if nobody can be asked.
pub fn group_of(settings: &config::Daemon) -> Result<Option<u32>> {
    let Some(group) = &settings.socket_group else { return Ok(None) };
    peer::group(group)?.map(Some).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!("there is no such group, make it or name another: socket_group=`{group}`"),
        )
    })
}

/// Locks `<socket>.lock` for the life of the daemon: only its holder may remove a stale socket.
fn lock(socket: &Path) -> Result<Flock<fs::File>> {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let file = fs::File::create(&path)
        .map_err(|error| Error::io("create the lock of the socket", path.display(), error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        Error::new(
            Kind::InUse,
            format!("another imaged serves this socket: socket=`{}`", socket.display()),
        )
        .because(error)
    })
}

fn is_socket(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    meta.file_type().is_socket()
}

/// The most that one connection reads ahead, and so the longest head of a request, in bytes. It is
/// the only memory of a transfer that no window counts: a larger one is no faster, as measured.
const BUFFER: usize = 16 << 10;

/// Serves one connection to its end.
async fn converse(daemon: &Arc<Daemon>, stream: UnixStream, lanes: Lanes, place: Place) {
    let settings = daemon.settings();
    let ids = stream.peer_cred().ok().map(|told| (told.uid(), told.gid()));
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
            Ok::<_, std::convert::Infallible>(api::serve(daemon, &peer, wire, request).await)
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
    let body = format!(
        "{{\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"Unavailable\",\
         \"detail\":\"{detail}\",\"request_id\":\"-\"}}"
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let told = tokio::time::timeout(Duration::from_secs(1), async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    });
    if !matches!(told.await, Ok(Ok(()))) {
        tracing::debug!(fd = ?stream.as_fd(), "a caller too many did not listen");
    }
    // With all that it sent and nobody read.
    lanes.sockets.discard(stream);
}
