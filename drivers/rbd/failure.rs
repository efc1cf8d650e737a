//! What Ceph's error numbers mean to a caller.

use std::io;

use imaged_ffi::Errno;

use crate::contract::{Error, Kind};

/// The failure of `doing` something to `what`. If no answer came in time it can be tried again.
pub(super) fn failed(doing: &str, what: &str, errno: Errno) -> Error {
    failed_with(kind_of(errno), doing, what, errno)
}

/// The same of what may have been done all the same if no answer came in time: that has to be looked at
/// before it is tried again.
pub(super) fn failed_or_done(doing: &str, what: &str, errno: Errno) -> Error {
    let kind = if errno == Errno::TIMEDOUT { Kind::Timeout } else { kind_of(errno) };
    failed_with(kind, doing, what, errno)
}

fn kind_of(errno: Errno) -> Kind {
    match errno {
        Errno::NOENT => Kind::NotFound,
        Errno::PERM | Errno::ACCES => Kind::BackendDenied,
        Errno::EXIST => Kind::Exists,
        Errno::BUSY | Errno::NOTEMPTY | Errno::ROFS | Errno::STALE => Kind::InUse,
        Errno::NOSPC | Errno::DQUOT => Kind::Full,
        Errno::TIMEDOUT | Errno::SHUTDOWN | Errno::CANCELED | Errno::IO => Kind::Unavailable,
        _ => Kind::Internal,
    }
}

/// What to be shut out is in words.
pub(super) const SHUT_OUT: &str = "the cluster has shut this client out (`ceph osd blocklist ls` shows it); it \
                                   connects anew, try again";

/// The error number that is the cause of `error`, if the cluster has given one.
pub(super) fn errno_of(error: &Error) -> Option<i32> {
    let cause = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    cause.raw_os_error()
}

/// Whether the cluster does not serve the connection any more over which this failed, and never will.
pub(super) fn is_shut_out(error: &Error) -> bool {
    errno_of(error) == Some(Errno::SHUTDOWN.number())
}

fn failed_with(kind: Kind, doing: &str, what: &str, errno: Errno) -> Error {
    let why = match errno {
        Errno::DQUOT => "the pool is full".to_owned(),
        Errno::NOSPC => "the cluster is full".to_owned(),
        Errno::TIMEDOUT => "the cluster does not answer (`ceph health detail` says why)".to_owned(),
        Errno::PERM | Errno::ACCES => {
            "the user's caps do not allow it (`ceph auth get` shows them)".to_owned()
        }
        Errno::SHUTDOWN => SHUT_OUT.to_owned(),
        // librbd says so promptly of what it does under the image's lock.
        Errno::ROFS => {
            "somebody has locked it, see `rbd lock ls`, it is being migrated, or it is not primary here"
                .to_owned()
        }
        Errno::STALE => "somebody removes it".to_owned(),
        errno => errno.to_string().to_lowercase(),
    };
    Error::new(kind, format!("cannot {doing} `{what}`: {why}")).because(io::Error::from(errno))
}
