//! What Swift's answers mean to a caller.

use crate::{
    contract::{Error, Kind},
    kit::http::{Answer, StatusCode},
};

/// The failure of `doing` something, where the status means what it mostly does.
pub(super) async fn of(answer: Answer, doing: &str) -> Error {
    let status = answer.status.as_u16();
    let failure = answer.failure(doing).await;
    let kind = match status {
        401 | 403 => Kind::BackendDenied,
        // An account or a container at its quota, a disk that is full.
        413 | 507 => Kind::Full,
        // That there is no such image is said by who looked for one.
        404 | 409 | 412 | 422 => Kind::Unavailable,
        // Slower down, says a Swift that limits rates.
        498 => Kind::Unavailable,
        _ if failure.kind() == Kind::Timeout => Kind::Unavailable,
        _ => failure.kind(),
    };
    Error::new(kind, failure.to_string())
}

/// Whether another try may come out otherwise.
pub(super) fn passes(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 422 | 429 | 498 | 499 | 500 | 502 | 503 | 504)
}

/// Whether an error is of a server that does not answer, and may do so in a while.
pub(super) fn is_away(error: &Error) -> bool {
    error.kind() == Kind::Unavailable
}
