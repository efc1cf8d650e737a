//! The headers that HTTP itself does not define.

use std::borrow::Cow;

use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What a header cannot hold as it is (beside all that is not ASCII), and the sign of the encoding.
const TEXT: &AsciiSet = &CONTROLS.add(b'%');
/// The same where blanks at the ends belong to the value.
const LOCATION: &AsciiSet = &TEXT.add(b' ');

/// Any text as the value of a header: percent-encoded, so that [`decoded`] gives exactly it.
#[must_use]
pub fn text(value: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&utf8_percent_encode(value, TEXT).to_string()).ok()
}

/// A location as the value of a header, which has no blanks then.
#[must_use]
pub fn location(value: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&utf8_percent_encode(value, LOCATION).to_string()).ok()
}

/// What [`text`] or [`location`] has written.
#[must_use]
pub fn decoded(value: &str) -> Cow<'_, str> {
    percent_decode_str(value).decode_utf8_lossy()
}

/// Says where a body is: `fd`, in a descriptor beside the bytes.
pub const BODY: HeaderName = HeaderName::from_static("imaged-body");
/// Says in which forms a caller can take an image beside its plain bytes, with commas between: `fd`, a
/// descriptor; `extents`, see [`extents`](super::extents).
pub const ACCEPT: HeaderName = HeaderName::from_static("imaged-accept");
/// Says how many bytes an image has that is not in the body.
pub const SIZE: HeaderName = HeaderName::from_static("imaged-size");
/// A request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// By which Glance's callers tell how many bytes a chunked body has.
pub const IMAGE_SIZE: HeaderName = HeaderName::from_static("x-openstack-image-size");
/// Tells why in the answer to a HEAD, which has no body.
pub const PROBLEM: HeaderName = HeaderName::from_static("imaged-problem");
/// The digests of the whole image (RFC 9530), see [`digests`](super::digests).
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The digests of the content as it is sent (RFC 9530).
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// The digests of the whole image by the name that they had before (RFC 3230).
pub const DIGEST: HeaderName = HeaderName::from_static("digest");
/// The md5 of the content as it is sent (RFC 1864), in base64.
pub const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// The caller's own token for the cloud, for backends that ask on whose behalf they are used.
pub const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// The project that a request is made for, by its id.
pub const PROJECT_ID: HeaderName = HeaderName::from_static("x-project-id");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back() {
        for value in ["", "file:///srv/Bilder-ü/a b", " 100% ", "%C3%BC", "a\r\nb: c\0", "日本"]
        {
            for written in [text(value), location(value)] {
                let written = written.unwrap();
                let written = written.to_str().unwrap();
                assert!(written.is_ascii());
                assert_eq!(decoded(written), value);
            }
            assert!(!location(value).unwrap().to_str().unwrap().contains(' '));
        }
        assert_eq!(location("file:///srv/a/b").unwrap(), "file:///srv/a/b");
    }
}
