//! The socket: who may open it, who is calling, how many at once. It knows connections, not requests.

mod peer;
mod users;

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    path::{Path, PathBuf},
};

use imaged_drivers::{Error, Kind, Result};
pub(crate) use peer::Caller;
pub use peer::{Peer, Roles};
use tokio::net::{UnixListener, UnixStream};
pub(crate) use users::{Full, Place, Users};

use crate::config;

/// A bound socket. While it lives, no other daemon takes its path.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: Option<PathBuf>,
    /// The lock beside it, if the socket is ours.
    _lock: Option<fs::File>,
}

impl Socket {
    /// Takes systemd's socket, or else binds the configured one.
    ///
    /// # Errors
    /// `InUse` if another daemon has it; else what the system says, with the path.
    pub fn open(settings: &config::Daemon) -> Result<Self> {
        let mut passed = listenfd::ListenFd::from_env();
        let listener = passed
            .take_unix_listener(0)
            .map_err(|error| Error::io("use", "the socket that systemd passed", error))?;
        if let Some(listener) = listener {
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

    /// The next caller's connection.
    ///
    /// # Errors
    /// What the system says: out of descriptors, most likely, which come back as connections end.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
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
