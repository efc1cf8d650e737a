//! Answers that several resources give.

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use imaged_drivers::{Error, Kind, Result};
use serde::Serialize;

use super::body::Body;

/// The answer to a caller who has what it asks for already.
pub(super) fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>> {
    let text = serde_json::to_vec(value).map_err(|error| {
        Error::new(Kind::Internal, "the answer cannot be written as JSON").because(error)
    })?;
    let mut response = Response::new(Body::full(Bytes::from(text)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// The answer to a request that is done and has nothing to tell.
pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
