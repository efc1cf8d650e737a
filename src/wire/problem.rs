//! Which HTTP status a failure has, and how it is told: `application/problem+json` (RFC 9457).

use hyper::StatusCode;
use imaged_drivers::Kind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::records::Receipt;

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
    /// Of an image that was to go to several stores, and is in none: what became of it in each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub results: Vec<InStore>,
}

impl Problem {
    /// It in a sentence, with what it left behind.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.left {
            Some(left) => format!("{}; it left behind: {left}", self.detail),
            None => self.detail.clone(),
        }
    }
}

/// `PUT /v1/images/{id}?stores=a,b`
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Results {
    /// In the order of the stores in the request.
    pub results: Vec<InStore>,
}

/// What became of an image in one of several stores: it has a receipt or a problem.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InStore {
    /// The store's name.
    pub store: String,
    /// What was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// Why nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub problem: Option<Problem>,
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
