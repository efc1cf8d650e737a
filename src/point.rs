//! Named points of a put and of a copy, at which a test can kill the daemon. Only in builds with debug
//! assertions; elsewhere a point is nothing.

/// Every point, in the order they are passed.
pub const POINTS: [&str; 7] = [
    "put-claimed",
    "put-created",
    "put-written",
    "put-ended",
    "put-digested",
    "put-committed",
    "put-cleared",
];

/// Every point of an image's making from a volume inside the backend, in the order they are passed.
pub const VOLUME_POINTS: [&str; 6] =
    ["volume-claimed", "volume-sealed", "copy-claimed", "copy-made", "copy-noted", "copy-turned"];

pub use imaged_drivers::point::{CINDER_POINTS, DELETE_POINTS, TURN_POINTS, pass};
