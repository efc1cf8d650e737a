//! One request: its headers, its id, and the descriptors that came with it.

use std::{os::fd::OwnedFd, sync::Arc};

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    body::Incoming,
    header::{HeaderMap, HeaderName},
};
use imaged_drivers::{Context, Error, Kind, Result, options::Secret};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::{
    daemon::Daemon,
    digest::{Algo, Choice},
    store::Store,
    wire::{
        digests::{self, Promise},
        headers::{
            AUTH_TOKEN, CONTENT_DIGEST, CONTENT_MD5, DIGEST, PROJECT_ID, REPR_DIGEST, REQUEST_ID,
        },
        stream::Wire,
    },
};

/// The largest body of a request that is not an image, in bytes.
const LARGEST: usize = 64 << 10;

/// The descriptors that came with a request's head.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) descriptors: Vec<OwnedFd>,
    /// More came than this process had numbers for.
    pub(super) lost: bool,
}

/// One request being served.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) daemon: Arc<Daemon>,
    pub(super) wire: Wire,
    /// The request's id.
    pub(super) request: String,
    pub(super) headers: HeaderMap,
    /// Descriptors that came with the head; what is not taken is closed with the call.
    descriptors: Mutex<Vec<OwnedFd>>,
    /// More came than this process had numbers for.
    lost: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        let left = self.descriptors.get_mut();
        self.wire.close(std::mem::take(left));
    }
}

impl Call {
    /// A call with these `headers`, and the descriptors that came with them.
    pub(super) fn new(daemon: Arc<Daemon>, wire: Wire, headers: HeaderMap, came: Came) -> Self {
        let Came { descriptors, lost } = came;
        let request = request_id(&headers);
        Self { daemon, wire, request, headers, descriptors: Mutex::new(descriptors), lost }
    }

    /// The store `name`, as it is now.
    pub(super) fn store(&self, name: &str) -> Result<Arc<Store>> {
        self.daemon.stores().get(name)
    }

    /// The text of a header, if it is there once and is text.
    pub(super) fn header(&self, name: &HeaderName) -> Result<Option<&str>> {
        text_of(&self.headers, name)
    }

    /// On whose behalf the request is made.
    pub(super) fn context(&self) -> Result<Context> {
        let token = self.header(&AUTH_TOKEN)?.filter(|token| !token.is_empty());
        let project = self.header(&PROJECT_ID)?.filter(|project| !project.is_empty());
        if project.is_some_and(|project| project.len() > 64) {
            return Err(Error::new(
                Kind::Invalid,
                format!("a project's id has at most 64 characters: header=`{PROJECT_ID}`"),
            ));
        }
        Ok(Context {
            token: token.map(|token| Secret::from(token.to_owned())),
            project: project.map(str::to_owned),
        })
    }

    /// The one descriptor that must have come.
    pub(super) fn descriptor(&self) -> Result<OwnedFd> {
        if self.lost {
            return Err(Error::new(
                Kind::Unavailable,
                "the daemon has as many open files as it may have, and cannot take a descriptor; \
                 try again, or raise its limit (LimitNOFILE)",
            ));
        }
        let mut came = self.descriptors.lock();
        let count = came.len();
        // What is not taken stays, to be closed with the call.
        came.pop_if(|_| count == 1).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!(
                    "`Imaged-Body: fd` takes one descriptor, sent by SCM_RIGHTS with the head: \
                     came=`{count}`"
                ),
            )
        })
    }

    /// Reads a body of JSON. It is small, so all of it has as long as the head of a request has.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        body: &mut Option<Incoming>,
        example: &str,
    ) -> Result<T> {
        let Some(body) = body.take() else {
            return Err(Error::new(Kind::Internal, "the request's body was read twice"));
        };
        let mut promised = promises(&self.headers)?;
        let patience = self.daemon.settings().header_timeout;
        let come = tokio::select! {
            come = tokio::time::timeout(patience, Limited::new(body, LARGEST).collect()) => come,
            () = self.daemon.shared.stop.cancelled() => {
                return Err(Error::new(Kind::Unavailable, "the daemon is stopping; try again"));
            }
        };
        let Ok(come) = come else {
            return Err(Error::new(
                Kind::Timeout,
                format!("the body did not come within {} s (header_timeout_s)", patience.as_secs()),
            ));
        };
        let bytes = come.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Error::new(Kind::TooLarge, format!("the request has more than {LARGEST} bytes"))
            } else {
                Error::new(Kind::Mismatch, "the request ended before its body").because(error)
            }
        })?;
        if let Some(trailers) = bytes.trailers() {
            promised.extend(promises(trailers)?);
        }
        let bytes = bytes.to_bytes();
        for (_, promise) in promised {
            promise.holds_of(&bytes)?;
        }
        // A list would be taken for the fields in their order.
        let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
        let read = if is_object {
            serde_json::from_slice(&bytes)
        } else {
            Err(serde::de::Error::custom("it is no object"))
        };
        read.map_err(|error: serde_json::Error| {
            Error::new(Kind::Invalid, format!("the body is JSON such as {example}: {error}"))
        })
    }

    /// The digests that an image of this request gets, whose multihash algorithm is `algo` if it names
    /// one. What the configuration says later changes nothing for it.
    pub(super) fn choice(&self, algo: Option<Algo>) -> Result<Choice> {
        let settings = self.daemon.settings();
        let algo = algo.map_or_else(|| settings.hash_algo.parse(), Ok)?;
        Ok(Choice { algo, checksum: settings.checksum })
    }
}

/// The text of a header, if it is there once and is text.
fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.trim())),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("a header is given twice or is no text: header=`{name}`"),
        )),
    }
}

/// The digests that the caller promises, in the headers or in the trailers of a body, whose bytes are as they
/// are: so what is promised of the content holds of what it represents too.
///
/// # Errors
/// `Invalid` if one cannot be read: what a caller promises is never left unchecked.
pub(super) fn promises(headers: &HeaderMap) -> Result<Vec<(HeaderName, Promise)>> {
    let mut promised = Vec::new();
    let mut add = |name: &HeaderName, member: &str, promise: Option<Promise>| {
        promised.push((name.clone(), promise.ok_or_else(|| unread(name, member))?));
        Ok::<_, Error>(())
    };
    for name in [REPR_DIGEST, CONTENT_DIGEST] {
        for (member, promise) in digests::read(text_of(headers, &name)?.unwrap_or_default()) {
            add(&name, member, promise)?;
        }
    }
    for (member, promise) in digests::read_old(text_of(headers, &DIGEST)?.unwrap_or_default()) {
        add(&DIGEST, member, promise)?;
    }
    if let Some(field) = text_of(headers, &CONTENT_MD5)? {
        add(&CONTENT_MD5, field, digests::read_md5(field))?;
    }
    Ok(promised)
}

fn unread(header: &HeaderName, value: &str) -> Error {
    let form = match header {
        _ if *header == CONTENT_MD5 => "BASE64",
        _ if *header == DIGEST => "MD5=BASE64 or SHA-512=BASE64",
        _ => "md5=:BASE64: or sha-512=:BASE64:",
    };
    Error::new(Kind::Invalid, format!("a digest is promised as {form}: {header}=`{value}`"))
}

/// The request's id: the caller's if it is plain, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= 128 && id.bytes().all(plain))
        .map_or_else(|| format!("req-{}", uuid::Uuid::new_v4()), str::to_owned)
}
