//! Why nothing could be measured.

use std::fmt;

use crate::client;

/// `Result` with this module's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing could be measured. A request that fails is no such error: it is counted.
#[derive(Debug)]
pub enum Error {
    /// The daemon cannot be reached or refuses.
    Client(client::Error),
    /// This cannot be asked for.
    Usage(String),
    /// Something on this side failed.
    Local(String),
    /// A signal came; the images with these ids could not be removed.
    Interrupted(Vec<String>),
}

impl Error {
    /// The process exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Usage(_) => 2,
            Self::Local(_) | Self::Interrupted(_) => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Usage(what) | Self::Local(what) => f.write_str(what),
            Self::Interrupted(left) if left.is_empty() => {
                f.write_str("interrupted; no image is left")
            }
            Self::Interrupted(left) => {
                write!(f, "interrupted; these images may be left: {}", left.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            Self::Usage(_) | Self::Local(_) | Self::Interrupted(_) => None,
        }
    }
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        Self::Client(error)
    }
}
