//! Strings on their way to C and back.

use std::ffi::{CStr, CString, c_char};

use crate::errno::{Errno, Result};

/// Text for C. What holds a NUL can name nothing there.
pub(crate) fn c(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_nul| Errno::INVAL)
}

/// A copy of C's text; empty for NULL.
///
/// # Safety
/// `text` is NULL or a string that ends in NUL and lives for the duration of the call.
pub(crate) unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not NULL, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Text up to its NUL in a buffer that C has filled.
pub(crate) fn until_nul(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Calls `fill` with a growing buffer until its answer fits. `fill` returns C's answer and the
/// length that C wants or has written.
pub(crate) fn grow(
    first: usize,
    mut fill: impl FnMut(&mut [u8], &mut usize) -> i32,
) -> Result<Vec<u8>> {
    let mut room = vec![0; first];
    for _ in 0..16 {
        let mut len = room.len();
        match crate::errno::check(fill(&mut room, &mut len)) {
            Ok(_) => {
                room.truncate(len);
                return Ok(room);
            }
            Err(Errno::RANGE) => room.resize(len.max(room.len().saturating_mul(2)), 0),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::RANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_until_the_answer_fits() {
        let mut asked = Vec::new();
        let text = grow(2, |room, len| {
            asked.push(room.len());
            if room.len() < 9 {
                *len = 9;
                return -34;
            }
            room[..5].copy_from_slice(b"hello");
            *len = 5;
            0
        });
        assert_eq!((text.unwrap().as_slice(), asked.as_slice()), (&b"hello"[..], &[2, 9][..]));
        assert_eq!(grow(1, |_, _| -2), Err(Errno::NOENT));
        assert_eq!(until_nul(b"ab\0cd"), "ab");
    }
}
