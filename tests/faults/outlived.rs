//! What becomes of a transfer that outlives its server, whatever that is.

use crate::harness::{daemon::Daemon, raw::Raw, rigs::Own};

const PATH: &str = "/v1/stores/fast/images/x";

/// Begins a put of an image of this length.
pub(super) fn begin(daemon: &Daemon, length: usize) -> Raw {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("PUT", PATH, &format!("content-length: {length}\r\n"));
    raw
}

/// The put, all of whose bytes were sent, has stored the image, which goes then.
pub(super) fn assert_stored(daemon: &Daemon, mut raw: Raw, image: &[u8]) {
    let answer = raw.answer("PUT");
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(daemon.get("fast", "x").body == image);
    remove(daemon);
}

/// A download goes on when its server is killed after so many bytes and started again; the image goes then.
pub(super) fn download_goes_on(daemon: &Daemon, own: &Own, image: &[u8], after: usize) {
    assert_eq!(daemon.put("fast", "x", image).status, 201);
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", PATH, "");
    raw.wait_for(after);
    own.kill();
    own.restart();
    let answer = raw.answer("GET");
    assert_eq!(answer.status, 200);
    assert!(answer.body == image, "{} of {}", answer.body.len(), image.len());
    remove(daemon);
}

pub(super) fn remove(daemon: &Daemon) {
    assert_eq!(daemon.ask("DELETE", PATH).status, 204);
}
