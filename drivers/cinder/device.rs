//! A volume as this machine reaches it.

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    contract::{Pieces, Result},
    kit::window::{self, Buffer, CHUNK},
};

/// The bytes of an attached volume. Many calls may be under way at a time.
#[async_trait]
pub(super) trait Device: fmt::Debug + Send + Sync + 'static {
    /// How it likes to be read and written.
    fn pieces(&self) -> Pieces;

    /// Whether what was never written to a new volume reads as zeros, as its backend says.
    fn is_zero_when_new(&self) -> bool;

    /// Whether it is a file, which another program may have cut to the length of its image: glance_store opens
    /// the file of a volume in an NFS export with truncation.
    fn may_be_cut(&self) -> bool {
        false
    }

    /// Bytes that it has now: it is looked at anew, for volumes grow.
    async fn size(&self) -> Result<u64>;

    /// Fills `buffer` with what is at `at`. An end that comes before it is full is an error.
    async fn read(&self, at: u64, buffer: Buffer) -> Result<Bytes>;

    /// Writes `bytes` at `at`.
    async fn write(&self, at: u64, bytes: Bytes) -> Result<()>;

    /// Has a range read as zeros: it writes them, where the device knows nothing better.
    async fn zero(&self, range: Range<u64>) -> Result<()> {
        write_zeros(self, range).await
    }

    /// Waits until all that was written is durable.
    async fn flush(&self) -> Result<()>;

    /// Lets go of it, before its attachment ends. Nothing is under way any more.
    ///
    /// # Errors
    /// It may still be in use here.
    async fn close(&self) -> Result<()>;
}

/// Writes zeros to a range.
pub(super) async fn write_zeros<D: Device + ?Sized>(device: &D, range: Range<u64>) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let len = range.end.saturating_sub(at).min(CHUNK as u64);
        device.write(at, window::zeros(usize::try_from(len).unwrap_or(CHUNK))).await?;
        at = at.saturating_add(len);
    }
    Ok(())
}
