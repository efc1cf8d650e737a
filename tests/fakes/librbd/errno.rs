//! Error numbers of the system, as C would return them but positive.

pub(crate) const PERM: i32 = 1;
pub(crate) const NOENT: i32 = 2;
pub(crate) const ACCES: i32 = 13;
pub(crate) const BUSY: i32 = 16;
pub(crate) const EXIST: i32 = 17;
pub(crate) const INVAL: i32 = 22;
pub(crate) const ROFS: i32 = 30;
pub(crate) const DOM: i32 = 33;
pub(crate) const RANGE: i32 = 34;
pub(crate) const NAMETOOLONG: i32 = 36;
pub(crate) const NOTEMPTY: i32 = 39;
pub(crate) const DQUOT: i32 = 122;
