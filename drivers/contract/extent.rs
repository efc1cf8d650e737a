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
