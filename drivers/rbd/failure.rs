//! What Ceph's error numbers mean to a caller.

use std::io;

use imaged_ffi::Errno;

use crate::contract::{Error, Kind};

/// What it means that no answer came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// Nothing has changed: try again later.
    Away,
    /// It may have happened all the same: look.
    Unsure,
}

/// The failure of `doing` something to `what`.
pub(super) fn failed(doing: &str, what: &str, errno: Errno, late: Late) -> Error {
    let kind = match errno {
        Errno::NOENT => Kind::NotFound,
        Errno::PERM | Errno::ACCES => Kind::BackendDenied,
        Errno::EXIST => Kind::Exists,
        Errno::BUSY | Errno::NOTEMPTY | Errno::ROFS => Kind::InUse,
        Errno::NOSPC | Errno::DQUOT => Kind::Full,
        Errno::TIMEDOUT if late == Late::Unsure => Kind::Timeout,
        Errno::TIMEDOUT | Errno::SHUTDOWN | Errno::IO => Kind::Unavailable,
        _ => Kind::Internal,
    };
    let why = match errno {
        Errno::DQUOT => "the pool is full".to_owned(),
        Errno::NOSPC => "the cluster is full".to_owned(),
        Errno::TIMEDOUT => "the cluster does not answer".to_owned(),
        // librbd says so promptly of what it does under the image's lock.
        Errno::ROFS => {
            "somebody has locked it, see `rbd lock ls`, or it is being migrated".to_owned()
        }
        errno => errno.to_string().to_lowercase(),
    };
    Error::new(kind, format!("cannot {doing} `{what}`: {why}")).because(io::Error::from(errno))
}
