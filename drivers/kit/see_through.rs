//! Requests that nobody waits for any more, and that may be carried out all the same.

use tokio::task::JoinError;

use crate::contract::{Error, Kind, Result};

/// Has a task of its own see `work` through, which holds `owner` until then.
pub(crate) async fn see_through<T: Send + 'static>(
    owner: impl Send + 'static,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let seen = tokio::spawn(async move {
        let done = work.await;
        drop(owner);
        done
    });
    seen.await.map_err(lost)?
}

/// What a task is that did not come to its end.
pub(crate) fn lost(broken: JoinError) -> Error {
    Error::new(Kind::Internal, "a request to the server was lost").because(broken)
}
