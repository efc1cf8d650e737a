//! The end of the process. On `exit` the C++ libraries take down what is global in them, while their
//! threads may still use it: that crashes, about one time in ten while a connection is being shut down,
//! and sometimes when the thread that has shut it down has not quite ended. So the end waits a while for
//! connections, and the process leaves without those destructors.

use std::{
    ffi::{c_int, c_void},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long the end waits. Shutting down a connection takes 10 ms when the cluster answers.
const PATIENCE: Duration = Duration::from_secs(2);

struct Connections {
    /// Handles that are not shut down yet.
    open: usize,
    /// Whether there ever was one.
    made: bool,
    /// Whether the end has waited already.
    waited: bool,
}

static CONNECTIONS: Mutex<Connections> =
    Mutex::new(Connections { open: 0, made: false, waited: false });
static CHANGED: Condvar = Condvar::new();

unsafe extern "C" {
    /// glibc's: calls `function` with the exit code on `exit`, the last registered first.
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), arg: *mut c_void) -> c_int;
    fn _exit(status: c_int) -> !;
}

fn connections() -> MutexGuard<'static, Connections> {
    CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle was made.
pub(crate) fn opened() {
    let mut connections = connections();
    connections.open += 1;
    connections.made = true;
    drop(connections);
    guard();
}

/// A handle has connected, or tried to: what its libraries have registered for the end of the process
/// meanwhile, OpenSSL's clean-up among it, would else come before [`leave`], beside their threads.
pub(crate) fn begun() {
    guard();
}

/// A handle is shut down.
pub(crate) fn closed() {
    connections().open -= 1;
    CHANGED.notify_all();
}

/// Waits until all connections are shut down, a few seconds at most. To be called last in `main`,
/// when nobody uses one any more. Blocks.
pub fn wait_until_closed() {
    if were_any_closed() {
        // What the libraries have registered in the meantime would come first.
        guard();
    }
}

/// Whether there were connections; the first to ask waits until they are shut down.
fn were_any_closed() -> bool {
    let mut connections = connections();
    if !connections.waited {
        let waited =
            CHANGED.wait_timeout_while(connections, PATIENCE, |connections| connections.open > 0);
        (connections, _) = waited.unwrap_or_else(PoisonError::into_inner);
        connections.waited = true;
    }
    connections.made
}

/// Sees to it that the process runs no destructor of a library. If it cannot be registered, the end is
/// as it would be without it.
fn guard() {
    // SAFETY: `leave` can be called at any time, and ignores its argument.
    unsafe { on_exit(leave, std::ptr::null_mut()) };
}

extern "C" fn leave(status: c_int, _arg: *mut c_void) {
    // What looks for leaks does so later, and is used with libraries that have no threads.
    if were_any_closed() && cfg!(not(imaged_leaks)) {
        // SAFETY: ends the process; Rust's own output was flushed before `exit` was called.
        unsafe { _exit(status) };
    }
}
