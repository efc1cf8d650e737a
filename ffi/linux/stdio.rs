//! Which standard streams were open when the process began.
//!
//! Rust's runtime opens `/dev/null` in the place of those that were closed, so that no file gets their numbers.
//! What is written there seems to have been taken, and an image that is read there seems to be empty: by then
//! nobody can tell any more. So this looks earlier, when the C library calls what is to run before `main`.

use std::{
    os::fd::{BorrowedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::io::{Errno, fcntl_getfd};

const STDIN: RawFd = 0;
const STDOUT: RawFd = 1;

static STDIN_CLOSED: AtomicBool = AtomicBool::new(false);
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

// SAFETY: the section has pointers to functions that are called once, one after the other, and `look` uses
// nothing that is made in `main` or before it.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look;

extern "C" fn look() {
    STDIN_CLOSED.store(is_closed(STDIN), Ordering::Relaxed);
    STDOUT_CLOSED.store(is_closed(STDOUT), Ordering::Relaxed);
}

fn is_closed(number: RawFd) -> bool {
    // SAFETY: it is asked whether it is open, and for nothing else.
    let stream = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(stream) == Err(Errno::BADF)
}

/// Whether standard input was closed when the process began.
#[must_use]
pub fn stdin_was_closed() -> bool {
    STDIN_CLOSED.load(Ordering::Relaxed)
}

/// Whether standard output was closed when the process began.
#[must_use]
pub fn stdout_was_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}
