//! What tests stand on: stores of every kind, a real daemon, an object server and a Cinder that fail as they
//! are told, a caller that sees every byte.

pub(crate) mod cinder;
pub(crate) mod daemon;
pub(crate) mod objects;
pub(crate) mod raw;
pub(crate) mod rigs;
pub(crate) mod service;
pub(crate) mod stores;

/// Between two looks at something that is waited for: who looks without a pause takes from the server that is
/// to get there, and from other tests, the processor that they need.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(3);

/// The pause between two such looks in a test that is asynchronous.
pub(crate) async fn again() {
    tokio::time::sleep(AGAIN).await;
}

/// Stops a test that has a thread of its own for so long.
#[expect(clippy::disallowed_methods, reason = "no worker is here to be blocked")]
pub(crate) fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}
