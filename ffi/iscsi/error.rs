//! What can go wrong with a session.

use std::{fmt, time::Duration};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. No text holds a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nobody answers at the portal as a target would, or the target cannot serve now.
    Unreachable {
        /// `host:port`
        portal: String,
        /// What happened.
        why: String,
    },
    /// The target does not let this initiator in: wrong or missing CHAP, or it is not on its list.
    LoginRefused {
        /// `host:port`
        portal: String,
        /// What the target says.
        why: String,
    },
    /// The portal has no target of this name, or no longer.
    NoSuchTarget {
        /// `host:port`
        portal: String,
        /// The target's name.
        iqn: String,
    },
    /// There was no answer in time. The session is over. Whether the command was carried out is not known,
    /// and it may still be, a little later.
    TimedOut {
        /// What was not answered.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The session is over. Whether the command was carried out is not known, and it may still be, a little
    /// later.
    Lost {
        /// What happened.
        why: String,
    },
    /// The target has refused this command, or could not carry it out; the session goes on.
    Sense(Sense),
    /// The same without sense data, by another status or an answer that is none.
    Refused {
        /// The command.
        what: &'static str,
        /// What the target says.
        why: String,
    },
    /// It was not sent: what is asked for makes no sense for this disk.
    Invalid(String),
}

/// Why a command failed, as the disk says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sense {
    /// The command.
    pub what: &'static str,
    /// The kind of failure, such as 3 for a medium error.
    pub key: u32,
    /// Additional sense code and its qualifier, such as 0x2700 for write protected.
    pub ascq: u32,
    /// Both in words.
    pub text: String,
}

impl Error {
    /// Whether the session is over. Otherwise only this command has failed.
    #[must_use]
    pub fn ends_the_session(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Lost { .. })
    }

    pub(crate) fn lost(why: impl Into<String>) -> Self {
        Self::Lost { why: why.into() }
    }

    /// The same for commands that it only takes along.
    pub(crate) fn for_others(&self) -> Self {
        if matches!(self, Self::TimedOut { .. }) {
            return Self::lost(format!("it was ended: {self}"));
        }
        self.clone()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { portal, why } => {
                write!(f, "no iSCSI target can be reached at {portal}: {why}")
            }
            Self::LoginRefused { portal, why } => {
                write!(f, "the iSCSI target at {portal} refuses the login: {why}")
            }
            Self::NoSuchTarget { portal, iqn } => {
                write!(f, "the iSCSI portal {portal} has no target {iqn}")
            }
            Self::TimedOut { what, after } => {
                write!(f, "the iSCSI target did not answer within {after:?}: {what}")
            }
            Self::Lost { why } => write!(f, "the iSCSI session is over: {why}"),
            Self::Sense(sense) => sense.fmt(f),
            Self::Refused { what, why } => write!(f, "the iSCSI target refuses: {what}: {why}"),
            Self::Invalid(why) => f.write_str(why),
        }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, key, ascq, text } = self;
        write!(f, "the disk fails: {what}: {text} (sense {key:x}/{ascq:04x})")
    }
}

impl std::error::Error for Error {}
