//! How a request says what its body is. What cannot be taken as it is meant is refused before a byte
//! of it is read: an image is never guessed, cut out of a wrapping, or stored in one.

use hyper::{
    StatusCode, Version,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderMap,
        TRANSFER_ENCODING,
    },
    http::uri::Authority,
};
use imaged_drivers::{Error, Kind};

use super::{route::Action, status::Refused};
use crate::wire::{extents, headers::BODY};

/// Refuses a request whose head cannot be taken as it is meant, whatever it asks for.
pub(super) fn check(version: Version, headers: &HeaderMap) -> Result<(), Refused> {
    names_its_host(version, headers)?;
    codings_are_undone(headers)
}

/// Refuses an image whose length nobody says, a part of one, or one in a wrapping.
pub(super) fn check_image(headers: &HeaderMap, action: &Action) -> Result<(), Refused> {
    if !matches!(action, Action::Put(..) | Action::PutToAll(_)) {
        return Ok(());
    }
    let framed = [CONTENT_LENGTH, TRANSFER_ENCODING, BODY];
    if !framed.iter().any(|name| headers.contains_key(name)) {
        return Err(refused(
            StatusCode::LENGTH_REQUIRED,
            Kind::Invalid,
            "nothing says how long the image is: send Content-Length (0 for an empty one), or the \
             body in chunks",
        ));
    }
    whole_and_plain(headers)
}

/// RFC 9112, section 3.2: one `Host`, which can be one, in every request of HTTP/1.1.
fn names_its_host(version: Version, headers: &HeaderMap) -> Result<(), Refused> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, other) = (hosts.next(), hosts.next());
    let can_be = |host: &[u8]| host.is_empty() || Authority::try_from(host).is_ok();
    let what = match host {
        None if version >= Version::HTTP_11 => "a request of HTTP/1.1 has a Host header",
        Some(host) if !can_be(host.as_bytes()) => "the Host header names no host",
        _ if other.is_some() => "a request has one Host header",
        _ => return Ok(()),
    };
    Err(refused(StatusCode::BAD_REQUEST, Kind::Invalid, what))
}

fn codings_are_undone(headers: &HeaderMap) -> Result<(), Refused> {
    let mut codings = headers
        .get_all(TRANSFER_ENCODING)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty());
    let chunked = codings.next().is_none_or(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() {
        return Ok(());
    }
    Err(refused(
        StatusCode::NOT_IMPLEMENTED,
        Kind::Unsupported,
        "the only Transfer-Encoding that is undone is `chunked`, once",
    ))
}

/// Refuses a part of an image, one whose bytes are not as they are, and one wrapped in something.
fn whole_and_plain(headers: &HeaderMap) -> Result<(), Refused> {
    if headers.contains_key(CONTENT_RANGE) {
        let what = "an image is stored whole: leave Content-Range out";
        return Err(refused(StatusCode::BAD_REQUEST, Kind::Invalid, what));
    }
    let coded = headers.get_all(CONTENT_ENCODING).iter();
    if coded.into_iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let what = "an image's bytes are stored as they are: undo the Content-Encoding first";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Kind::Invalid, what));
    }
    if headers.get_all(CONTENT_TYPE).iter().any(|kind| is_wrapping(kind.as_bytes())) {
        let what = "the body is the image alone, and nothing that holds it among other things: send it \
                    as application/octet-stream (curl -T FILE, not -F; Python: data=, not files=)";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Kind::Invalid, what));
    }
    Ok(())
}

/// Whether what has this media type holds other things, as the form does in which a caller may have got an
/// image. What `curl --data-binary` calls a form is sent as it is.
fn is_wrapping(kind: &[u8]) -> bool {
    let kind = kind.trim_ascii().to_ascii_lowercase();
    let wrappings = ["multipart/", "message/", "application/http", extents::MEDIA_TYPE];
    wrappings.iter().any(|wrapping| kind.starts_with(wrapping.as_bytes()))
}

fn refused(status: StatusCode, kind: Kind, what: &'static str) -> Refused {
    Refused { error: Error::new(kind, what), allow: None, status: Some(status) }
}
