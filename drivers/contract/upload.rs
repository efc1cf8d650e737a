//! Images being written.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::{error::Result, image::Digests};
use crate::Location;

/// An image being written. Ends by value: `commit` or `abort`, once. Dropping it without either is
/// a crash as far as the backend is concerned: `recover` finds what it left.
#[async_trait]
pub trait Upload: Send + fmt::Debug {
    /// Appends `chunk`, never empty. Returns when there is room for more, not when the bytes are
    /// durable: an error may belong to an earlier chunk, and leaves only `abort`. Chunks are
    /// whole pages of at most a window's chunk, but for the last one.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, ...; abort is the only move left.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;

    /// Where the image will be. Names something only once `commit` has returned.
    fn at(&self) -> &Location;

    /// Makes the image durable, then visible, in that order, and keeps `digests` with it.
    /// Every byte reads back as it was written [what-is-read-is-what-was-written].
    ///
    /// # Errors
    /// Nothing is visible and nothing is left, except after `Timeout`, when only `stat` can tell.
    async fn commit(self: Box<Self>, digests: &Digests) -> Result<Committed>;

    /// Removes what was written; the id is free again [an-aborted-upload-leaves-nothing].
    ///
    /// # Errors
    /// Something was left; the error says what.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// What `commit` made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Bytes that take space after zeros were skipped.
    pub stored_bytes: u64,
}
