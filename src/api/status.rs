//! The answer to a request that failed.

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use imaged_drivers::{Error, Kind};

use super::body::Body;
use crate::wire::problem::{Problem, status};

/// Seconds after which a caller may try an unavailable store again.
const RETRY_AFTER_S: &str = "10";

/// Why a request is refused, and what it may ask for instead.
pub(super) struct Refused {
    pub(super) error: Error,
    pub(super) allow: Option<String>,
    /// The status, where it is not that of the error's kind.
    pub(super) status: Option<StatusCode>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, allow: None, status: None }
    }
}

/// The answer to a request that failed; `allow` is what a caller may do instead. `status` stands where
/// HTTP has one of its own for what a kind tells in general.
#[must_use]
pub fn problem(
    error: &Error,
    request: &str,
    allow: Option<&str>,
    status: Option<StatusCode>,
) -> Response<Body> {
    let mut problem = problem_of(error, request);
    let Some(status) = status else { return answer(error.kind(), &problem, allow) };
    problem.title = status.canonical_reason().unwrap_or_default().to_owned();
    problem.status = status.as_u16();
    let mut response = answer(error.kind(), &problem, allow);
    *response.status_mut() = status;
    response.headers_mut().remove(ALLOW);
    response
}

/// A failure as callers see it.
#[must_use]
pub fn problem_of(error: &Error, request: &str) -> Problem {
    let status = status(error.kind());
    Problem {
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        code: error.kind().code().to_owned(),
        detail: error.to_string(),
        request_id: request.to_owned(),
        location: error.location().map(str::to_owned),
        left: error.left().map(str::to_owned),
        results: Vec::new(),
    }
}

/// The answer that tells `problem`, of this kind.
#[must_use]
pub fn answer(kind: Kind, problem: &Problem, allow: Option<&str>) -> Response<Body> {
    let text = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = Response::new(Body::full(Bytes::from(text)));
    *response.status_mut() = status(kind);
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(CONTENT_TYPE, "application/problem+json");
    if kind == Kind::Unavailable {
        set(RETRY_AFTER, RETRY_AFTER_S);
    }
    if kind == Kind::Unsupported {
        set(ALLOW, allow.unwrap_or_default());
    }
    response
}
