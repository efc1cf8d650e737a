//! Closures to which librbd reports how far a long call has come.

use std::ffi::{c_int, c_void};

use crate::{errno::Errno, sys};

/// A closure as C takes it. librbd calls it from threads of its own, so it is shared with them and not
/// lent: `Fn` and `Sync`.
pub(crate) fn as_callback<F>(progress: &F) -> (sys::librbd_progress_fn_t, *mut c_void)
where
    F: Fn(u64, u64) -> bool + Sync,
{
    (Some(progressed::<F>), std::ptr::from_ref(progress).cast_mut().cast())
}

/// # Safety
/// `data` is the closure that [`as_callback`] was given, which lives during the call.
unsafe extern "C" fn progressed<F>(done: u64, all: u64, data: *mut c_void) -> c_int
where
    F: Fn(u64, u64) -> bool + Sync,
{
    // SAFETY: as the caller says; nobody has it for himself.
    let progress = unsafe { &*data.cast::<F>() };
    // Any negative number ends it; this one is not mistaken for a failure of the cluster.
    if progress(done, all) { 0 } else { -Errno::CANCELED.number() }
}
