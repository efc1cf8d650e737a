//! What can go wrong, named by what the caller should do next.
//!
//! Two failures share a [`Kind`] when the caller would do the same thing about them. `Kind` is
//! exhaustive on purpose: a new one does not compile until the daemon has chosen its HTTP status.

use std::{fmt, io};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of failure; each line ends in the caller's next move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The request makes no sense as it is: change it.
    Invalid,
    /// This daemon refused the peer: ask the operator for a role.
    Denied,
    /// There is no such image, store or job: stop.
    NotFound,
    /// This store cannot do that: use another store.
    Unsupported,
    /// The id is taken: use another id.
    Exists,
    /// Clones or readers hold the image: release them, then try again.
    InUse,
    /// A condition of the request does not hold: look again, then decide.
    Precondition,
    /// The image or request is larger than allowed: send less.
    TooLarge,
    /// The range starts past the end: ask within the size.
    Range,
    /// The bytes were not the promised ones: send the promised bytes.
    Mismatch,
    /// A defect of imaged: report it.
    Internal,
    /// The backend refused our credentials or permissions: the operator mends them.
    BackendDenied,
    /// The backend is away: try later.
    Unavailable,
    /// No answer in time: look (`stat`), then decide.
    Timeout,
    /// The backend is full: free space.
    Full,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 15] = [
        Self::Invalid,
        Self::Denied,
        Self::NotFound,
        Self::Unsupported,
        Self::Exists,
        Self::InUse,
        Self::Precondition,
        Self::TooLarge,
        Self::Range,
        Self::Mismatch,
        Self::Internal,
        Self::BackendDenied,
        Self::Unavailable,
        Self::Timeout,
        Self::Full,
    ];

    /// The stable name that callers compare with.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Denied => "Denied",
            Self::NotFound => "NotFound",
            Self::Unsupported => "Unsupported",
            Self::Exists => "Exists",
            Self::InUse => "InUse",
            Self::Precondition => "Precondition",
            Self::TooLarge => "TooLarge",
            Self::Range => "Range",
            Self::Mismatch => "Mismatch",
            Self::Internal => "Internal",
            Self::BackendDenied => "BackendDenied",
            Self::Unavailable => "Unavailable",
            Self::Timeout => "Timeout",
            Self::Full => "Full",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// One failure: its kind for the caller, a sentence for people, the cause for the log.
///
/// `Display` prints the sentence alone and never repeats the cause; [`Error::chain`] has both.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    what: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    left: Option<String>,
    at: Option<String>,
}

impl Error {
    /// A failure of `kind`; `what` is lowercase, without a full stop, values last as ``key=`value` ``.
    /// What it holds of callers' text cannot begin a new line: control characters are escaped.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        let mut what = what.into();
        if what.contains(char::is_control) {
            let escaped = |c: char| c.escape_default().collect::<String>();
            let plain = |c: char| c.to_string();
            what =
                what.chars().map(|c| if c.is_control() { escaped(c) } else { plain(c) }).collect();
        }
        Self(Box::new(Inner { kind, what, source: None, left: None, at: None }))
    }

    /// The same failure with its cause, which goes to the log and to no caller.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same failure, after which clean-up could not remove `left`.
    #[must_use]
    pub fn leaving(mut self, left: impl fmt::Display) -> Self {
        self.0.left = Some(left.to_string());
        self
    }

    /// The same failure, after which what it left was removed.
    #[must_use]
    pub fn leaving_nothing(mut self) -> Self {
        self.0.left = None;
        self
    }

    /// The same failure, after which clean-up ended like this: where that failed, its failure is the cause, and
    /// what it left is left.
    #[must_use]
    pub fn after_clearing(self, cleared: Result<()>) -> Self {
        let Err(left) = cleared else { return self };
        self.because(left.chain()).leaving(left.left().unwrap_or_default())
    }

    /// The same failure, concerning the image at `at` (masked text of a location).
    #[must_use]
    pub fn at(mut self, at: impl fmt::Display) -> Self {
        self.0.at = Some(at.to_string());
        self
    }

    /// This failure in the place of `other`, which is its cause: what that leaves, and where, stays.
    #[must_use]
    pub fn instead_of(mut self, other: Self) -> Self {
        self.0.left = other.0.left.clone();
        self.0.at = other.0.at.clone();
        self.because(other.chain())
    }

    /// What the system said when `doing` something to `what`, such as `write` and a path.
    #[must_use]
    pub fn io(doing: &str, what: impl fmt::Display, error: io::Error) -> Self {
        Self::new(kind_of(&error), format!("cannot {doing} `{what}`: {}", reason(&error)))
            .because(error)
    }

    /// What the caller should do next.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What clean-up could not remove, if anything.
    #[must_use]
    pub fn left(&self) -> Option<&str> {
        self.0.left.as_deref()
    }

    /// The location concerned, if the failure leaves a question about one.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.0.at.as_deref()
    }

    /// The sentence and every cause below it, for the log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.0.what.clone();
        if let Some(left) = &self.0.left {
            text.push_str(" (left behind: ");
            text.push_str(left);
            text.push(')');
        }
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

fn kind_of(error: &io::Error) -> Kind {
    use nix::errno::Errno as E;
    let Some(code) = error.raw_os_error() else {
        let late = error.kind() == io::ErrorKind::TimedOut;
        return if late { Kind::Timeout } else { Kind::Internal };
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "errno has more names than we have answers")]
    match E::from_raw(code) {
        E::ENOENT | E::ENOTDIR => Kind::NotFound,
        E::EEXIST => Kind::Exists,
        E::ENAMETOOLONG => Kind::Invalid,
        E::ENOSPC | E::EDQUOT | E::EFBIG => Kind::Full,
        E::EACCES | E::EPERM | E::EROFS => Kind::BackendDenied,
        E::EBUSY | E::ETXTBSY => Kind::InUse,
        E::ETIMEDOUT => Kind::Timeout,
        // A device that fails, or a filesystem that finds itself broken: the operator mends it.
        E::EIO
        | E::EUCLEAN
        | E::EBADMSG
        | E::EILSEQ
        | E::ENODATA
        | E::EREMOTEIO
        | E::ENOMEDIUM
        | E::ENXIO
        | E::ENODEV
        | E::ESTALE
        | E::ELOOP
        // There is not enough of something now.
        | E::EMFILE
        | E::ENFILE
        | E::ENOMEM
        | E::ENOBUFS
        | E::ENOLCK
        | E::EAGAIN
        // A server does not answer.
        | E::EHOSTDOWN
        | E::EHOSTUNREACH
        | E::ENETUNREACH
        | E::ENETDOWN
        | E::ECONNRESET
        | E::ECONNABORTED
        | E::ESHUTDOWN
        | E::ENOTCONN
        | E::ECONNREFUSED => Kind::Unavailable,
        _ => Kind::Internal,
    }
}

/// The errno's own words, without the number that `io::Error` appends, and the remedy where the words
/// do not say it.
fn reason(error: &io::Error) -> String {
    use nix::errno::Errno as E;
    let Some(code) = error.raw_os_error().map(E::from_raw) else { return error.to_string() };
    #[expect(clippy::wildcard_enum_match_arm, reason = "most words say enough")]
    let remedy = match code {
        E::EMFILE => ", the daemon has as many as it may: raise its limit, LimitNOFILE of its unit",
        E::ENFILE => ", the system has as many as it may: raise fs.file-max",
        E::EIO | E::EUCLEAN | E::EBADMSG | E::EREMOTEIO => ", the system's log says what is broken",
        E::EROFS => ", mount it for writing",
        _ => "",
    };
    format!("{}{remedy}", code.desc().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_a_missing_file_and_a_dying_disk_ask_for_different_moves() {
        let kind = |errno: nix::errno::Errno| {
            Error::io("write", "/x", io::Error::from_raw_os_error(errno as i32)).kind()
        };
        assert_eq!(kind(nix::errno::Errno::ENOSPC), Kind::Full);
        assert_eq!(kind(nix::errno::Errno::ENOENT), Kind::NotFound);
        assert_eq!(kind(nix::errno::Errno::EIO), Kind::Unavailable);
    }

    #[test]
    fn what_the_operator_can_mend_is_no_defect_and_says_how() {
        use nix::errno::Errno as E;
        let failed = |errno: E| Error::io("read", "/x", io::Error::from_raw_os_error(errno as i32));
        for errno in
            [E::EIO, E::EUCLEAN, E::EBADMSG, E::EMFILE, E::ENFILE, E::ENOMEM, E::ELOOP, E::EAGAIN]
        {
            assert_eq!(failed(errno).kind(), Kind::Unavailable, "{errno}");
        }
        assert_eq!(failed(E::EROFS).kind(), Kind::BackendDenied);
        assert!(failed(E::EMFILE).to_string().contains("LimitNOFILE"));
        assert!(
            failed(E::EIO).to_string().ends_with("i/o error, the system's log says what is broken")
        );
    }

    #[test]
    fn the_sentence_never_repeats_the_cause() {
        let error = Error::new(Kind::Full, "store is full: store=`a`")
            .because(io::Error::other("quota"))
            .leaving("/a/.part");
        assert_eq!(error.to_string(), "store is full: store=`a`");
        assert_eq!(error.chain(), "store is full: store=`a` (left behind: /a/.part): quota");
    }

    #[test]
    fn callers_text_cannot_begin_a_line_of_the_log() {
        let error = Error::new(Kind::NotFound, "no such image: image=`x\nINFO done é`");
        assert_eq!(error.to_string(), "no such image: image=`x\\nINFO done é`");
    }

    #[test]
    fn codes_are_the_names_of_the_kinds() {
        for kind in Kind::ALL {
            assert_eq!(kind.code(), format!("{kind:?}"));
        }
    }
}
