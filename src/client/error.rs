//! What can go wrong between a client and the daemon, and the exit code it means.

use std::{fmt, io, path::PathBuf};

use hyper::{Method, StatusCode};
use imaged_drivers::Kind;

use crate::wire::problem::{Problem, status};

/// `Result` with this module's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request did not do what it was to do.
#[derive(Debug)]
pub enum Error {
    /// There is no daemon at the socket, or it may not be opened.
    Unreachable {
        /// The socket that was tried.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon answered, and said no.
    Refused(Box<Problem>),
    /// The conversation ended early, or made no sense. What became of the request is unknown,
    /// except that an image is stored whole or not at all.
    Broken(String),
}

impl Error {
    /// The process exit code: 1 refused or failed, 3 unreachable, 4 not found, 5 already exists.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 3,
            Self::Refused(problem) if problem.code == Kind::NotFound.code() => 4,
            Self::Refused(problem) if problem.code == Kind::Exists.code() => 5,
            Self::Refused(_) | Self::Broken(_) => 1,
        }
    }

    /// The stable name of the failure: the daemon's code, or `Unreachable`, or `Broken`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "Unreachable",
            Self::Refused(problem) => &problem.code,
            Self::Broken(_) => "Broken",
        }
    }

    /// Whether the daemon said that this kind of thing happened.
    #[must_use]
    pub fn is(&self, kind: Kind) -> bool {
        self.code() == kind.code()
    }

    /// What an answer with an error's status says. One to `HEAD` has no body, so `line` has the
    /// sentence.
    pub(super) fn refused(
        method: &Method,
        code: StatusCode,
        request_id: &str,
        line: Option<&str>,
        body: &[u8],
    ) -> Self {
        if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
            return Self::Refused(Box::new(problem));
        }
        // InUse shares its status with Exists and comes after it; no request without a body in
        // its answer can meet either.
        let kind = Kind::ALL.into_iter().find(|kind| status(*kind) == code);
        let title = code.canonical_reason().unwrap_or("refused");
        let detail = match line {
            Some(line) => line.to_owned(),
            None if *method == Method::HEAD => title.to_lowercase(),
            None => format!("the daemon answered without a reason: status=`{code}`"),
        };
        Self::Refused(Box::new(Problem {
            title: title.to_owned(),
            status: code.as_u16(),
            code: kind.map_or("Broken", Kind::code).to_owned(),
            detail,
            request_id: request_id.to_owned(),
            location: None,
            left: None,
            results: Vec::new(),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { socket, source } => {
                let socket = socket.display();
                let kind = source.kind();
                if kind == io::ErrorKind::PermissionDenied {
                    write!(
                        f,
                        "you may not open the daemon's socket: join its group (socket_group), or \
                         name another with --socket: socket=`{socket}`"
                    )
                } else if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                {
                    write!(
                        f,
                        "no daemon listens: start one with `imaged serve`, or name its socket with \
                         --socket or IMAGED_SOCKET: socket=`{socket}`"
                    )
                } else {
                    write!(f, "the daemon cannot be reached: {source}: socket=`{socket}`")
                }
            }
            Self::Refused(problem) => f.write_str(&problem.text()),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source),
            Self::Refused(_) | Self::Broken(_) => None,
        }
    }
}
