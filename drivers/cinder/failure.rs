//! What Cinder's answers mean to a caller.

use crate::{
    contract::{Error, Kind},
    kit::http::Answer,
};

/// The failure of `doing` something, where the status means what it mostly does.
pub(super) async fn of(answer: Answer, doing: &str) -> Error {
    let status = answer.status.as_u16();
    let failure = answer.failure(doing).await;
    let kind = match status {
        401 | 403 => Kind::BackendDenied,
        // A quota.
        413 => Kind::Full,
        406 => {
            let what =
                "this Cinder is too old: it must know version 3.54 of its API (Rocky or later)";
            return Error::new(Kind::Unsupported, what).because(failure);
        }
        // Something else holds the volume, or it is in the wrong status for that.
        400 | 409 => Kind::Unavailable,
        _ if failure.kind() == Kind::Timeout => Kind::Unavailable,
        _ => failure.kind(),
    };
    Error::new(kind, failure.to_string())
}

/// Whether a failure leaves open what became of the request.
pub(super) fn is_unsure(error: &Error) -> bool {
    matches!(error.kind(), Kind::Timeout | Kind::Unavailable)
}
