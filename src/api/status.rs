//! Which HTTP status a failure has, and how it is told: `application/problem+json` (RFC 9457).

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use imaged_drivers::{Error, Kind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Body;

/// Seconds after which a caller may try an unavailable store again.
const RETRY_AFTER_S: &str = "10";

/// A failure as callers see it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The title of the status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The kind of failure; stable.
    pub code: String,
    /// A sentence for people; not stable.
    pub detail: String,
    /// The request's id; the log has the cause under it.
    pub request_id: String,
    /// The location concerned, where only a `stat` can tell what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What clean-up could not remove.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

/// The status of a kind.
#[must_use]
pub fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
        Kind::Exists | Kind::InUse => StatusCode::CONFLICT,
        Kind::Precondition => StatusCode::PRECONDITION_FAILED,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Range => StatusCode::RANGE_NOT_SATISFIABLE,
        Kind::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::BackendDenied => StatusCode::BAD_GATEWAY,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Full => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The answer to a request that failed; `allow` is what a caller may do instead.
#[must_use]
pub fn problem(error: &Error, request: &str, allow: Option<&str>) -> Response<Body> {
    let status = status(error.kind());
    let problem = Problem {
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        code: error.kind().code().to_owned(),
        detail: error.to_string(),
        request_id: request.to_owned(),
        location: error.location().map(str::to_owned),
        left: error.left().map(str::to_owned),
    };
    let text = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Body::full(Bytes::from(text)));
    *response.status_mut() = status;
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(CONTENT_TYPE, "application/problem+json");
    if error.kind() == Kind::Unavailable {
        set(RETRY_AFTER, RETRY_AFTER_S);
    }
    if error.kind() == Kind::Unsupported {
        set(ALLOW, allow.unwrap_or_default());
    }
    response
}
