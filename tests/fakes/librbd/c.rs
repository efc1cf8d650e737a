//! What passes between C and this library.

use std::ffi::{CStr, CString, c_char, c_int};

use crate::errno::RANGE;

/// A string of the caller's, or NULL.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(*const c_char);

impl Text {
    /// A copy; `None` for NULL.
    pub(crate) fn get(self) -> Option<String> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: whoever calls a C function vouches for its strings, and this is used in no other
        // place than the functions that have it as a parameter.
        let text = unsafe { CStr::from_ptr(self.0) };
        Some(text.to_string_lossy().into_owned())
    }

    /// A copy; empty for NULL.
    pub(crate) fn text(self) -> String {
        self.get().unwrap_or_default()
    }
}

/// Puts a text with its NUL into a buffer of the caller's; `None` if it does not fit.
///
/// # Safety
/// The buffer has `len` bytes.
pub(crate) unsafe fn fill(room: *mut c_char, len: usize, text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.len() >= len {
        return None;
    }
    // SAFETY: there are more than so many bytes, as the caller says.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), room.cast(), bytes.len()) };
    // SAFETY: inside, for the text is shorter than the buffer.
    let end = unsafe { room.add(bytes.len()) };
    // SAFETY: as above.
    unsafe { end.write(0) };
    Some(bytes.len())
}

/// Puts entries into the caller's room, or says how many there are.
///
/// # Safety
/// There is room for `count` entries.
pub(crate) unsafe fn list<S, T: Copy>(
    room: *mut T,
    count: &mut usize,
    found: &[S],
    entry: impl Fn(&S) -> T,
) -> c_int {
    let had = std::mem::replace(count, found.len());
    if had < found.len() {
        return -RANGE;
    }
    for (place, found) in found.iter().enumerate() {
        // SAFETY: one of `count`, as the caller says.
        let place = unsafe { room.add(place) };
        // SAFETY: as above.
        unsafe { place.write(entry(found)) };
    }
    0
}

/// A string for the caller, to be given back.
pub(crate) fn given(text: &str) -> *mut c_char {
    CString::new(text).unwrap_or_default().into_raw()
}

/// Takes a string back.
///
/// # Safety
/// It is NULL, or was made by [`given`] and is taken back once.
pub(crate) unsafe fn taken(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: as the caller says.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Takes back what [`list`] has given, entry by entry.
///
/// # Safety
/// There are `count` entries.
pub(crate) unsafe fn each<T: Copy>(room: *mut T, count: usize, take: impl Fn(T)) {
    for place in 0..count {
        // SAFETY: one of `count`, as the caller says.
        let place = unsafe { room.add(place) };
        // SAFETY: as above.
        take(unsafe { place.read() });
    }
}
