//! Dirty pages on their way to the disk, early.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Has what is dirty among `length` bytes from `offset` written to the disk, and does not wait for that;
/// a `length` of 0 is everything from there on. The pages stay in the page cache. A failure to write is not told here but
/// by the next `fsync`, which is needed as ever: this makes nothing durable.
///
/// Implements: `sync_file_range` with `SYNC_FILE_RANGE_WRITE`
///
/// # Errors
/// The range is none, or the file is no regular file.
pub fn start_writeback(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let of = |value: u64| i64::try_from(value).map_err(io::Error::other);
    let (offset, length, file) = (of(offset)?, of(length)?, file.as_fd().as_raw_fd());
    // SAFETY: the call takes no pointers, and the descriptor is borrowed, so it is open.
    let ended = unsafe { libc::sync_file_range(file, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if ended == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_can_be_written_back_and_a_pipe_cannot() {
        let file = std::fs::File::options().read(true).open("/proc/self/exe").unwrap();
        start_writeback(&file, 0, 0).unwrap();
        start_writeback(&file, 4096, 1).unwrap();
        start_writeback(&file, u64::MAX, 1).unwrap_err();
        let (pipe, _writer) = io::pipe().unwrap();
        assert_eq!(start_writeback(&pipe, 0, 0).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
    }
}
