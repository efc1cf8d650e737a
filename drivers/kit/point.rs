//! Named points at which a test can kill the process. Only in builds with debug assertions; elsewhere a
//! point is nothing.

/// Every point of a delete from an rbd store, in the order they are passed; those after `delete-decided`
/// only if it goes, `delete-back` only if it comes back.
pub const DELETE_POINTS: [&str; 5] =
    ["delete-marked", "delete-moved", "delete-decided", "delete-unsnapped", "delete-back"];

/// Every point of a put into a cinder store, in the order they are passed.
pub const CINDER_POINTS: [&str; 7] = [
    "cinder-made",
    "cinder-reserved",
    "cinder-noted",
    "cinder-attached",
    "cinder-detached",
    "cinder-readonly",
    "cinder-published",
];

/// Every point at which a sealed volume becomes an image of a cinder store.
pub const TURN_POINTS: [&str; 3] = ["cinder-renamed", "cinder-turning", "cinder-turned"];

/// Dies here by SIGKILL if `IMAGED_KILL_AT` names this point.
pub fn pass(name: &'static str) {
    if cfg!(debug_assertions) && std::env::var_os("IMAGED_KILL_AT").is_some_and(|at| at == name) {
        let this = nix::unistd::Pid::this();
        let _fatal = nix::sys::signal::kill(this, nix::sys::signal::Signal::SIGKILL);
    }
}
