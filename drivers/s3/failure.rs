//! What a server of S3 says, as an [`Error`]: by what the caller should do next.

use std::time::Duration;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use crate::{
    contract::{Error, Kind},
    kit::http::innermost,
};

/// At most so much of what a server says is shown.
const SHOWN: usize = 200;

/// The longest that a server can ask us to wait.
const MOST_ASKED: Duration = Duration::from_secs(20);

/// Whether a request that failed so is sent again, and after how long at least: where the server was not
/// reached, had too much to do, or was in trouble, and where the bytes were spoilt on their way.
pub(super) fn again<E>(error: &SdkError<E, HttpResponse>) -> Option<Duration>
where
    E: ProvideErrorMetadata,
{
    let Some(answer) = error.raw_response() else {
        let sent_again = if let SdkError::DispatchFailure(failure) = error {
            !failure.is_user() && !is_distrust(&reason(error))
        } else {
            matches!(error, SdkError::TimeoutError(_))
        };
        return sent_again.then_some(Duration::ZERO);
    };
    let (kind, _) = answered(answer.status().as_u16(), error.code().unwrap_or_default());
    // A success whose body cannot be read was cut on its way.
    let broken = answer.status().is_success();
    let asked = answer.headers().get("retry-after").and_then(|value| value.parse().ok());
    let asked = asked.map_or(Duration::ZERO, Duration::from_secs);
    let missing = error.code() == Some("NoSuchBucket");
    (broken || kind == Kind::Unavailable && !missing).then_some(asked.min(MOST_ASKED))
}

/// A request that failed: `doing` something to `what`.
pub(super) fn failed<E>(doing: &str, what: &str, error: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    let said = error.message().unwrap_or_default().chars().take(SHOWN).collect::<String>();
    let reason = reason(&error);
    let (kind, why) = match (&error, status) {
        (_, Some(status)) => answered(status, &code),
        _ if is_distrust(&reason) => (
            Kind::BackendDenied,
            "the server's certificate is not trusted; see that s3_store_host is right, and name the \
             file of its authority in s3_store_cacert",
        ),
        (SdkError::TimeoutError(_), None) => (Kind::Timeout, "the server did not answer in time"),
        (SdkError::DispatchFailure(failure), None) if failure.is_timeout() => {
            (Kind::Timeout, "the server did not answer in time")
        }
        (SdkError::DispatchFailure(failure), None) if failure.is_io() => (
            Kind::Unavailable,
            "the server cannot be reached; see that s3_store_host is right and up",
        ),
        (SdkError::DispatchFailure(_), None) => (
            Kind::Unavailable,
            "the server cannot be asked; see s3_store_host, its certificate and the keys",
        ),
        _ => (Kind::Unavailable, "the server's answer cannot be read"),
    };
    let mut told = format!("cannot {doing}, {why}: object=`{what}`");
    if !reason.is_empty() {
        told.push_str(&format!(" reason=`{reason}`"));
    }
    if let Some(status) = status {
        told.push_str(&format!(" status=`{status}`"));
    }
    if !code.is_empty() {
        told.push_str(&format!(" code=`{code}`"));
    }
    if !said.is_empty() {
        told.push_str(&format!(" said=`{said}`"));
    }
    Error::new(kind, told).because(error)
}

/// Why a server could not be asked; empty if it was.
fn reason<E>(error: &SdkError<E, HttpResponse>) -> String {
    let SdkError::DispatchFailure(failure) = error else { return String::new() };
    let reason = failure.as_connector_error().map(|error| innermost(error)).unwrap_or_default();
    // Values stand between backticks.
    reason.replace('`', "'")
}

/// Whether it was not because of its certificate.
fn is_distrust(reason: &str) -> bool {
    reason.contains("certificate")
}

/// What an answer of this status means, and its code where that says more.
fn answered(status: u16, code: &str) -> (Kind, &'static str) {
    match (status, code) {
        (_, "NoSuchBucket") => (
            Kind::Unavailable,
            "there is no such bucket; make it, or set s3_store_create_bucket_on_put",
        ),
        (_, "QuotaExceeded" | "InsufficientCapacity" | "StorageFull") | (507, _) => {
            (Kind::Full, "the server has no room for it")
        }
        (_, "EntityTooLarge") | (413, _) => (Kind::TooLarge, "it is larger than the server takes"),
        (_, "SlowDown" | "RequestTimeout" | "OperationAborted") | (408 | 429, _) => {
            (Kind::Unavailable, "the server has too much to do")
        }
        (_, "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch") => {
            (Kind::Unavailable, "the bytes were changed on their way")
        }
        (_, "RequestTimeTooSkewed") => {
            (Kind::BackendDenied, "this machine's clock and the server's differ; set it right")
        }
        (404, _) => (Kind::NotFound, "there is none"),
        (409 | 412, _) => (Kind::Exists, "there is one already"),
        (416, _) => (Kind::Range, "the range is outside the object"),
        (401 | 403, _) => {
            (Kind::BackendDenied, "the server does not allow it; see the keys and what they may do")
        }
        (400..=499, _) => (Kind::Internal, "the server does not understand it"),
        _ => (Kind::Unavailable, "the server is in trouble"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_to_do_next() {
        for (status, code, kind) in [
            (404, "NoSuchKey", Kind::NotFound),
            (404, "NoSuchBucket", Kind::Unavailable),
            (403, "QuotaExceeded", Kind::Full),
            (403, "InvalidAccessKeyId", Kind::BackendDenied),
            (403, "RequestTimeTooSkewed", Kind::BackendDenied),
            (412, "PreconditionFailed", Kind::Exists),
            (416, "InvalidRange", Kind::Range),
            (429, "", Kind::Unavailable),
            (500, "InternalError", Kind::Unavailable),
            (503, "SlowDown", Kind::Unavailable),
            (507, "", Kind::Full),
        ] {
            assert_eq!(answered(status, code).0, kind, "{status} {code}");
        }
    }
}
