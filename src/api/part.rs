//! Parts of the body of an image.

use std::time::Duration;

use bytes::Bytes;
use imaged_drivers::{Error, Kind};

/// Some bytes of a body, and how many of the image they bring.
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) of_image: u64,
    /// How long the caller was waited for, so that they could be sent.
    pub(super) waited: Duration,
}

impl From<Bytes> for Part {
    fn from(bytes: Bytes) -> Self {
        Self { of_image: bytes.len() as u64, bytes, waited: Duration::ZERO }
    }
}

/// The failure of a backend whose images end early.
pub(super) fn stopped() -> Error {
    Error::new(Kind::Unavailable, "the store stopped before the end")
}
