//! The headers that HTTP itself does not define.

use hyper::header::HeaderName;

/// Says where a body is: `fd`, in a descriptor beside the bytes.
pub const BODY: HeaderName = HeaderName::from_static("imaged-body");
/// Says that a caller can take a descriptor: `fd`.
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
/// The md5 of the content as it is sent (RFC 1864), in base64.
pub const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// The caller's own token for the cloud, for backends that ask on whose behalf they are used.
pub const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// The project that a request is made for, by its id.
pub const PROJECT_ID: HeaderName = HeaderName::from_static("x-project-id");
