//! What an image holds, and what it does not.

use bytes::Bytes;

/// A part of an image, as its backend tells it: bytes, or a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes, never none of them.
    Data(Bytes),
    /// So many bytes that read as zeros and take no space, never 0.
    Hole(u64),
}

impl Extent {
    /// How many bytes of the image it is.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(len) => *len,
        }
    }
}
