//! The socket: who may open it, who is calling, how many at once. It knows connections, not requests.

mod peer;
mod users;

use std::{
    fs,
    future::poll_fn,
    io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

use imaged_drivers::{Error, Kind, Result};
pub(crate) use peer::Caller;
pub use peer::{Peer, Roles};
use rustix::net::sockopt::socket_acceptconn;
use tokio::net::{UnixListener, UnixStream};
pub(crate) use users::{Full, Place, Users};

use crate::config;

/// One or several bound sockets. While it lives, no other daemon takes the path of one that is ours.
#[derive(Debug)]
pub struct Socket {
    /// At least one.
    listeners: Vec<UnixListener>,
    /// Which of them is asked first: none is to wait for another that is busy.
    turn: AtomicUsize,
    path: Option<PathBuf>,
    /// The lock beside it, if the socket is ours.
    _lock: Option<fs::File>,
}

impl Socket {
    /// Takes systemd's sockets, or else binds the configured one.
    ///
    /// # Errors
    /// `InUse` if another daemon has it; `Invalid` if systemd passed what nobody can connect to; else
    /// what the system says, with the path.
    pub fn open(settings: &config::Daemon) -> Result<Self> {
        let mut passed = listenfd::ListenFd::from_env();
        let mut listeners = Vec::new();
        for number in 0..passed.len() {
            let taken = passed.take_unix_listener(number);
            let taken = taken.map_err(|error| {
                unfit(number, "no stream socket of Unix: take its line out of the unit")
                    .because(error)
            })?;
            if let Some(listener) = taken {
                if !socket_acceptconn(&listener).unwrap_or(true) {
                    return Err(unfit(number, "a connection: set Accept=no in its unit"));
                }
                listeners.push(adopt(listener)?);
            }
        }
        if listeners.is_empty() {
            return Self::bind(settings);
        }
        let socket = Self { listeners, turn: AtomicUsize::new(0), path: None, _lock: None };
        if !socket.paths().any(|path| path == settings.socket) {
            tracing::warn!(
                configured = %settings.socket.display(),
                "systemd has passed other sockets, so the configured one is not made"
            );
        }
        Ok(socket)
    }

    /// Where it listens; a socket may have no path.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let addresses = self.listeners.iter().filter_map(|listener| listener.local_addr().ok());
        addresses.filter_map(|address| address.as_pathname().map(Path::to_owned))
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
        let listeners = vec![adopt(listener)?];
        Ok(Self { listeners, turn: AtomicUsize::new(0), path, _lock: Some(lock) })
    }

    /// The next caller's connection.
    ///
    /// # Errors
    /// What the system says: out of descriptors, most likely, which come back as connections end.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        poll_fn(|context| {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.listeners.len();
            let (after, before) = self.listeners.split_at(first);
            for listener in after.iter().chain(before) {
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted.map(|(stream, _)| stream));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Stops listening, and removes the socket if it is ours.
    pub fn close(self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, socket = %path.display(), "cannot remove the socket");
        }
    }
}

/// The refusal of a socket that systemd passed, counted from 0.
fn unfit(number: usize, what: &str) -> Error {
    let nth = number.saturating_add(1);
    Error::new(Kind::Invalid, format!("of the sockets that systemd passed, number {nth} is {what}"))
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
fn lock(socket: &Path) -> Result<fs::File> {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let file = fs::File::create(&path)
        .map_err(|error| Error::io("create the lock of the socket", path.display(), error))?;
    file.try_lock().map_err(|error| {
        Error::new(
            Kind::InUse,
            format!("another imaged serves this socket: socket=`{}`", socket.display()),
        )
        .because(error)
    })?;
    Ok(file)
}

fn is_socket(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    meta.file_type().is_socket()
}
