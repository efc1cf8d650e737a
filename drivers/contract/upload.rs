//! Images being written.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    claim::Claim,
    error::{Error, Result},
    image::Digests,
};
use crate::{
    Location,
    kit::{
        options::Secret,
        parts::Parts,
        window::{zero_pieces, zeros},
    },
};

/// An image that is to be.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Its id, and the right to make it.
    pub claim: Claim,
    /// Its exact length in bytes, if it is known; never 0 for unknown.
    pub size: Option<u64>,
    /// The digests that its bytes will have, if its caller has promised all of them: for backends that
    /// keep them from the beginning. They are checked before `commit`.
    pub promised: Option<Digests>,
    /// On whose behalf it is made, for backends that ask.
    pub context: Context,
    /// Where parts lie until a server has them, for backends that send images in parts.
    pub parts: Parts,
}

/// On whose behalf a backend is asked.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The caller's own token for the cloud (`X-Auth-Token`). Shown to nobody, kept nowhere.
    pub token: Option<Secret>,
    /// The caller's project, by its id (`X-Project-Id`): whose image it is.
    pub project: Option<String>,
}

/// An image being written. Ends by value: `commit` or `abort`, once. Dropping it without either is
/// a crash as far as the backend is concerned: `recover` finds what it left.
#[async_trait]
pub trait Upload: Send + fmt::Debug {
    /// Appends `chunk`, never empty. Returns when there is room for more, not when the bytes are
    /// durable: an error may belong to an earlier chunk, and leaves only `abort`. Chunks are whole
    /// pages of at most a window's chunk, but for the last one; what is kept of one holds memory of the
    /// window until it is dropped.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, ...; abort is the only move left.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;

    /// Appends `len` zeros, more than none, of which a backend that leaves out zeros writes none
    /// [a-hole-is-zeros-and-takes-no-space-where-zeros-are-left-out].
    ///
    /// # Errors
    /// As [`write`](Self::write).
    async fn skip(&mut self, len: u64) -> Result<()> {
        write_zeros(self, len).await
    }

    /// Waits for a chunk that was taken to fail, also by taking longer than the backend is given; never
    /// returns while all goes well. Whoever waits for the next chunk waits for this too: that one may be
    /// waiting for the memory of those in flight. May be dropped and called again.
    async fn failing(&mut self) -> Error {
        std::future::pending().await
    }

    /// Where the image will be. Names something only once `commit` has returned.
    fn at(&self) -> &Location;

    /// What `recover` needs, beside the claim, to find what this upload leaves if it does not end: such as
    /// the id of a multipart upload. It is kept in the journal before the first byte is written.
    fn token(&self) -> Option<&str> {
        None
    }

    /// Makes the image durable, then visible, in that order, and keeps `digests` with it. Whatever ends
    /// afterwards, the process or the machine, the backend has the image whole when it is opened again
    /// [what-is-committed-outlives-the-process]. Every byte reads back as it was written
    /// [what-is-read-is-what-was-written].
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

/// Appends `len` zeros as bytes: [`Upload::skip`] where a backend keeps them.
///
/// # Errors
/// As [`Upload::write`].
pub async fn write_zeros<U: Upload + ?Sized>(upload: &mut U, len: u64) -> Result<()> {
    for piece in zero_pieces(len) {
        upload.write(zeros(piece)).await?;
    }
    Ok(())
}

/// What `commit` made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Bytes that take space after zeros were skipped.
    pub stored_bytes: u64,
}
