//! What C returns when it fails.

use std::{fmt, io};

/// `Result` with [`Errno`].
pub type Result<T, E = Errno> = std::result::Result<T, E>;

/// A positive error number of the system.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// `EPERM`: the user's caps do not allow it.
    pub const PERM: Self = Self(1);
    /// `ENOENT`: there is none.
    pub const NOENT: Self = Self(2);
    /// `EIO`
    pub const IO: Self = Self(5);
    /// `EACCES`: the key is not the user's.
    pub const ACCES: Self = Self(13);
    /// `EBUSY`: protected, or watched.
    pub const BUSY: Self = Self(16);
    /// `EEXIST`: there is one already.
    pub const EXIST: Self = Self(17);
    /// `EINVAL`
    pub const INVAL: Self = Self(22);
    /// `ENOSPC`: the cluster is full.
    pub const NOSPC: Self = Self(28);
    /// `EROFS`
    pub const ROFS: Self = Self(30);
    /// `EDOM`: a number is out of range.
    pub const DOM: Self = Self(33);
    /// `ERANGE`: the buffer is too small.
    pub const RANGE: Self = Self(34);
    /// `ENOSYS`: it lacks the feature that this takes.
    pub const NOSYS: Self = Self(38);
    /// `ENOTEMPTY`: it has snapshots.
    pub const NOTEMPTY: Self = Self(39);
    /// `EOPNOTSUPP`: images of this kind cannot do that.
    pub const OPNOTSUPP: Self = Self(95);
    /// `ESHUTDOWN`: the cluster has shut this client out.
    pub const SHUTDOWN: Self = Self(108);
    /// `ETIMEDOUT`: no answer in time.
    pub const TIMEDOUT: Self = Self(110);
    /// `ESTALE`: it was removed while it was looked at.
    pub const STALE: Self = Self(116);
    /// `EDQUOT`: the pool is full.
    pub const DQUOT: Self = Self(122);
    /// `ECANCELED`: this side has ended it. No answer of the cluster.
    pub const CANCELED: Self = Self(125);

    /// The number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// A C function's answer: negative is an error number, anything else a success.
pub(crate) fn check(answer: i32) -> Result<u32> {
    u32::try_from(answer).map_err(|_negative| Errno(answer.saturating_neg()))
}

/// The same of `ssize_t`.
pub(crate) fn check_len(answer: isize) -> Result<usize> {
    usize::try_from(answer)
        .map_err(|_negative| Errno(i32::try_from(answer.saturating_neg()).unwrap_or(Errno::IO.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_answers_are_errors_and_others_are_not() {
        assert_eq!(check(0), Ok(0));
        assert_eq!(check(36), Ok(36));
        assert_eq!(check(-2), Err(Errno::NOENT));
        assert_eq!(check_len(-110), Err(Errno::TIMEDOUT));
        assert_eq!(check_len(1 << 40), Ok(1 << 40));
        assert!(Errno::DQUOT.to_string().to_lowercase().contains("quota"));
    }
}
