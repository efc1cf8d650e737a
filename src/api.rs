//! The routes: one match of method and path, one file a verb or resource below.

pub mod body;
mod conditions;
pub mod copy;
mod get;
pub mod jobs;
pub mod openapi;
mod put;
pub mod status;
pub mod stores;

use std::{
    borrow::Cow,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use imaged_drivers::{Error, ImageId, Kind, Location, Result};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use self::{
    body::Body,
    conditions::{Conditions, Verdict},
};
use crate::{
    config::Role,
    daemon::Daemon,
    digest::Algo,
    socket::Peer,
    store::Store,
    wire::{
        headers::{BODY, PROBLEM, REQUEST_ID},
        stream::Wire,
    },
};

/// Which image of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// By its id.
    Id(ImageId),
    /// By its location.
    At(Location),
}

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `GET /v1/stores`
    Stores,
    /// `GET /v1/stores/{store}`
    Store(String),
    /// `GET /v1/stores/{store}/images`
    List(String),
    /// `PUT /v1/stores/{store}/images/{id}`
    Put(String, ImageId, Option<Algo>),
    /// `GET /v1/stores/{store}/images/{id}`
    Get(String, Image),
    /// `HEAD /v1/stores/{store}/images/{id}`
    Head(String, Image),
    /// `DELETE /v1/stores/{store}/images/{id}`
    Delete(String, Image),
    /// `POST /v1/stores/{store}/images/{id}`
    Copy(String, ImageId),
    /// `GET /v1/jobs`
    Jobs,
    /// `GET /v1/jobs/{id}`
    Job(String, Duration),
    /// `DELETE /v1/jobs/{id}`
    CancelJob(String),
    /// `GET /healthz`
    Health,
    /// `GET /readyz`
    Ready,
    /// `GET /metrics`
    Metrics,
    /// `GET /openapi.json`
    OpenApi,
}

impl Action {
    /// The least role that may do it; `None`: whoever may open the socket.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Health | Self::Ready | Self::OpenApi => None,
            Self::Stores
            | Self::Store(_)
            | Self::List(_)
            | Self::Head(..)
            | Self::Jobs
            | Self::Job(..)
            | Self::Metrics => Some(Role::Reader),
            Self::Get(..) | Self::Copy(..) => Some(Role::Service),
            Self::Put(..) | Self::CancelJob(_) => Some(Role::Member),
            Self::Delete(..) => Some(Role::Admin),
        }
    }
}

/// What `method` on `path` with `query` wants. Reads nothing else and does nothing.
///
/// # Errors
/// `NotFound` for a path there is not; `Unsupported` for a method it has not, with the methods it
/// has after the last colon; `Invalid` for a name or query that cannot be.
pub fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Action> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let segments = path.split('/').map(decode).collect::<Result<Vec<_>>>()?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let query = Query::parse(query)?;
    let verb = method.as_str();
    match (verb, segments.as_slice()) {
        ("GET", ["v1", "stores"]) => query.none(Action::Stores),
        ("GET", ["v1", "stores", store]) => query.none(Action::Store((*store).to_owned())),
        ("GET", ["v1", "stores", store, "images"]) => Ok(match query.at()? {
            Some(at) => Action::Get((*store).to_owned(), Image::At(at)),
            None => Action::List((*store).to_owned()),
        }),
        ("HEAD", ["v1", "stores", store, "images"]) => {
            Ok(Action::Head((*store).to_owned(), Image::At(query.needs_at()?)))
        }
        ("DELETE", ["v1", "stores", store, "images"]) => {
            Ok(Action::Delete((*store).to_owned(), Image::At(query.needs_at()?)))
        }
        ("PUT", ["v1", "stores", store, "images", id]) => {
            Ok(Action::Put((*store).to_owned(), id.parse()?, query.only("hash_algo")?))
        }
        ("GET", ["v1", "stores", store, "images", id]) => {
            query.none(Action::Get((*store).to_owned(), Image::Id(id.parse()?)))
        }
        ("HEAD", ["v1", "stores", store, "images", id]) => {
            query.none(Action::Head((*store).to_owned(), Image::Id(id.parse()?)))
        }
        ("DELETE", ["v1", "stores", store, "images", id]) => {
            query.none(Action::Delete((*store).to_owned(), Image::Id(id.parse()?)))
        }
        ("POST", ["v1", "stores", store, "images", id]) => {
            query.none(Action::Copy((*store).to_owned(), id.parse()?))
        }
        ("GET", ["v1", "jobs"]) => query.none(Action::Jobs),
        ("GET", ["v1", "jobs", id]) => {
            let wait = query.only::<u64>("wait")?.unwrap_or(0).min(MAX_WAIT_S);
            Ok(Action::Job((*id).to_owned(), Duration::from_secs(wait)))
        }
        ("DELETE", ["v1", "jobs", id]) => query.none(Action::CancelJob((*id).to_owned())),
        ("GET", ["healthz"]) => query.none(Action::Health),
        ("GET", ["readyz"]) => query.none(Action::Ready),
        ("GET", ["metrics"]) => query.none(Action::Metrics),
        ("GET", ["openapi.json"]) => query.none(Action::OpenApi),
        (_, known) => Err(match methods(known) {
            Some(methods) => Error::new(
                Kind::Unsupported,
                format!("this path has no {}, it has: {methods}", short(verb)),
            ),
            None => Error::new(
                Kind::NotFound,
                format!("no such path, see /openapi.json: path=`/{}`", short(path)),
            ),
        }),
    }
}

/// The methods of a path, for `Allow`.
fn methods(segments: &[&str]) -> Option<&'static str> {
    match segments {
        ["v1", "stores" | "jobs"] | ["v1", "stores", _] => Some("GET"),
        ["v1", "stores", _, "images"] => Some("GET, HEAD, DELETE"),
        ["v1", "stores", _, "images", _] => Some("GET, HEAD, PUT, POST, DELETE"),
        ["v1", "jobs", _] => Some("GET, DELETE"),
        ["healthz" | "readyz" | "metrics" | "openapi.json"] => Some("GET"),
        _ => None,
    }
}

/// The longest that one request may wait for a job, in seconds.
const MAX_WAIT_S: u64 = 60;

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

fn decode(text: &str) -> Result<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().map_err(|error| {
        Error::new(Kind::Invalid, "the request's path or query is not UTF-8").because(error)
    })
}

/// The parameters of a query, each at most once.
struct Query<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Query<'a> {
    fn parse(query: Option<&'a str>) -> Result<Self> {
        let mut found: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if found.iter().any(|(other, _)| *other == name) {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("a query parameter is given twice: parameter=`{}`", short(name)),
                ));
            }
            found.push((name, decode(value)?));
        }
        Ok(Self(found))
    }

    /// The value of the one parameter there may be.
    fn only<T: FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        if let Some((other, _)) = self.0.iter().find(|(other, _)| *other != name) {
            let known = if name.is_empty() { String::new() } else { format!(", only {name}") };
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "this request takes no such parameter{known}: parameter=`{}`",
                    short(other)
                ),
            ));
        }
        let Some((_, value)) = self.0.first() else { return Ok(None) };
        value.parse().map(Some).map_err(|error| {
            Error::new(
                Kind::Invalid,
                format!("a query parameter cannot be read: {error}: {name}=`{}`", short(value)),
            )
        })
    }

    fn none(&self, action: Action) -> Result<Action> {
        self.only::<String>("").map(|_| action)
    }

    fn at(&self) -> Result<Option<Location>> {
        self.only("at")
    }

    fn needs_at(&self) -> Result<Location> {
        self.at()?.ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "name the image: /images/ID, or /images?at=LOCATION percent-encoded",
            )
        })
    }
}

/// One request being served.
#[derive(Debug)]
pub struct Call {
    daemon: Arc<Daemon>,
    wire: Wire,
    request: String,
    headers: HeaderMap,
    /// Descriptors that came with the head; what is not taken is closed with the call.
    descriptors: Mutex<Vec<std::os::fd::OwnedFd>>,
    /// More came than this process had numbers for.
    lost: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        let left = self.descriptors.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.wire.close(std::mem::take(left));
    }
}

impl Call {
    fn store(&self, name: &str) -> Result<Arc<Store>> {
        self.daemon.stores().get(name)
    }

    /// The text of a header, if it is there once and is text.
    fn header(&self, name: &HeaderName) -> Result<Option<&str>> {
        let mut values = self.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        match (value.to_str(), values.next()) {
            (Ok(text), None) => Ok(Some(text.trim())),
            _ => Err(Error::new(
                Kind::Invalid,
                format!("a header is given twice or is no text: header=`{name}`"),
            )),
        }
    }

    /// The one descriptor that must have come.
    fn descriptor(&self) -> Result<std::os::fd::OwnedFd> {
        if self.lost {
            return Err(Error::new(
                Kind::Unavailable,
                "the daemon has as many open files as it may have, and cannot take a descriptor; \
                 try again, or raise its limit (LimitNOFILE)",
            ));
        }
        let mut came = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
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
}

/// Serves one request. Never fails: a failure is an answer.
pub async fn serve(
    daemon: Arc<Daemon>,
    peer: &Peer,
    wire: Wire,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut descriptors, lost) = wire.claim();
    // One that came with bytes is closed unseen; without them it can only be a forgotten header.
    let unasked = !request.headers().contains_key(BODY);
    let surplus = !descriptors.is_empty() && unasked && request.body().is_end_stream();
    if unasked {
        wire.close(std::mem::take(&mut descriptors));
    }
    let (head, body) = request.into_parts();
    let call = Call {
        daemon,
        wire,
        request: request_id(&head.headers),
        headers: head.headers,
        descriptors: Mutex::new(descriptors),
        lost,
    };
    let routed = route(&head.method, head.uri.path(), head.uri.query());
    let mut allow = routed.is_err().then(|| allow_of(&head.method, head.uri.path())).flatten();
    let mut body = Some(body);
    let result = match routed {
        Ok(_) if surplus => Err(Error::new(
            Kind::Invalid,
            "a descriptor came with a request that does not say `Imaged-Body: fd`",
        )),
        Ok(action) => match peer.may(&action) {
            Ok(()) => {
                allow = allow_by_caps(&call, &action);
                // Whoever only waits for an answer needs none when gone. What changes something
                // ends by itself, or undoes it.
                let waits = matches!(action.role(), None | Some(Role::Reader | Role::Service))
                    && !matches!(action, Action::Copy(..));
                let _changing = (!waits).then(|| call.wire.change());
                tokio::select! {
                    done = act(&call, action, &mut body, peer) => done,
                    () = call.wire.gone(), if waits => {
                        Err(Error::new(Kind::Mismatch, "the caller left before the answer"))
                    }
                    () = call.daemon.shared.stop.cancelled(), if waits => {
                        Err(Error::new(Kind::Unavailable, "the daemon is stopping; try again"))
                    }
                }
            }
            Err(refused) => Err(refused),
        },
        Err(error) => Err(error),
    };
    let mut response = match result {
        Ok(response) => response,
        Err(error) => {
            if matches!(error.kind(), Kind::Denied | Kind::Internal) {
                tracing::warn!(request = call.request, error = %error.chain(), "request refused");
            }
            if let Some(body) = body.filter(|_| !call.headers.contains_key("expect")) {
                linger(body).await;
            }
            let mut response = status::problem(&error, &call.request, allow.as_deref());
            if head.method == Method::HEAD
                && let Ok(value) = HeaderValue::from_str(&error.to_string())
            {
                response.headers_mut().insert(PROBLEM, value);
            }
            response
        }
    };
    if let Ok(value) = HeaderValue::from_str(&call.request) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if surplus || call.daemon.shared.closing.is_cancelled() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(hyper::header::CONNECTION, close);
    }
    response.body_mut().tell(&call.wire);
    response
}

async fn act(
    call: &Call,
    action: Action,
    body: &mut Option<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>> {
    let conditions = Conditions::read(&call.headers)?;
    // Those about an image judge the conditions against it, before they touch it.
    let response = match action {
        Action::Put(store, id, algo) => {
            get::may_be_made(call, &store, &id, &conditions).await?;
            return put::put(call, &store, id, algo, body).await;
        }
        Action::Copy(store, id) => {
            get::may_be_made(call, &store, &id, &conditions).await?;
            return copy::copy(call, &store, id, body, peer).await;
        }
        Action::Get(store, image) => return get::get(call, &store, image, &conditions).await,
        Action::Head(store, image) => return get::head(call, &store, image, &conditions).await,
        Action::Delete(store, image) => {
            return get::delete(call, &store, image, &conditions).await;
        }
        Action::CancelJob(id) => return jobs::cancel(call, &id, &conditions).await,
        Action::Stores => stores::list(call),
        Action::Store(store) => stores::one(call, &store).await,
        Action::List(store) => stores::images(call, &store).await,
        Action::Jobs => jobs::list(call),
        Action::Job(id, wait) => jobs::one(call, &id, wait).await,
        Action::Health => json(StatusCode::OK, &serde_json::json!({"status": "up"})),
        Action::Ready => stores::ready(call),
        Action::Metrics => stores::metrics(call),
        Action::OpenApi => json(StatusCode::OK, &openapi::document()),
    }?;
    // What is no image has no ETag, and looking at it has changed nothing.
    Ok(match conditions.judge_read(None)? {
        Verdict::NotModified => not_modified(),
        Verdict::Holds => response,
    })
}

/// The answer to a caller who has what it asks for already.
fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// What a path or store can do instead, for `Allow`.
fn allow_of(method: &Method, path: &str) -> Option<String> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    methods(&segments).filter(|methods| !methods.contains(method.as_str())).map(str::to_owned)
}

/// The methods that a store's images have, by what the store can do.
fn allow_by_caps(call: &Call, action: &Action) -> Option<String> {
    let (Action::Put(store, ..) | Action::Copy(store, ..) | Action::Delete(store, _)) = action
    else {
        return None;
    };
    let caps = call.store(store).ok()?.caps()?;
    let mut methods = vec!["GET", "HEAD"];
    methods.extend(caps.write.then_some("PUT"));
    methods.extend(caps.write.then_some("POST"));
    methods.extend(caps.delete.then_some("DELETE"));
    Some(methods.join(", "))
}

/// Reads a little of a body that nobody wants, so that a caller who is still writing it gets to
/// read the refusal. A large body, or a slow one, is cut off.
async fn linger(mut body: Incoming) {
    use http_body_util::BodyExt as _;
    let mut left: usize = 1 << 20;
    let drain = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = match frame.data_ref().and_then(|data| left.checked_sub(data.len())) {
                Some(left) => left,
                None => break,
            };
        }
    };
    let _cut_off = tokio::time::timeout(Duration::from_secs(1), drain).await.is_err();
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

/// The multihash algorithm of a request that names none.
fn default_algo(call: &Call) -> Result<Algo> {
    call.daemon.settings().hash_algo.parse()
}

/// An answer in JSON.
fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>> {
    let text = serde_json::to_vec(value).map_err(|error| {
        Error::new(Kind::Internal, "the answer cannot be written as JSON").because(error)
    })?;
    let mut response = Response::new(Body::full(Bytes::from(text)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_route_is_routed_and_needs_the_documented_role() {
        for line in openapi::ROUTES {
            let path = line.path.replace("{store}", "a").replace("{id}", "b");
            let method: Method = line.method.parse().unwrap();
            let query = line.at.then_some("at=mem%3A%2F%2Fa%2Fb");
            let action = route(&method, &path, query).unwrap();
            assert_eq!(action.role(), line.role, "{} {}", line.method, line.path);
        }
    }

    #[test]
    fn bad_requests_say_what_is_wrong() {
        let kind = |method: Method, path: &str, query: Option<&str>| {
            route(&method, path, query).unwrap_err().kind()
        };
        assert_eq!(kind(Method::GET, "/v2/stores", None), Kind::NotFound);
        assert_eq!(kind(Method::PATCH, "/v1/stores", None), Kind::Unsupported);
        assert_eq!(kind(Method::PUT, "/v1/stores/a/images/..", None), Kind::Invalid);
        assert_eq!(kind(Method::PUT, "/v1/stores/a/images/%2e%2e%2fx", None), Kind::Invalid);
        assert_eq!(kind(Method::PUT, "/v1/stores/a/images/%ff", None), Kind::Invalid);
        let algo = Some("hash_algo=crc32");
        assert_eq!(kind(Method::PUT, "/v1/stores/a/images/x", algo), Kind::Invalid);
        assert_eq!(kind(Method::HEAD, "/v1/stores/a/images", None), Kind::Invalid);
        assert_eq!(kind(Method::GET, "/v1/stores/a/images", Some("att=x")), Kind::Invalid);
        assert_eq!(kind(Method::GET, "/v1/jobs/x", Some("wait=1&wait=2")), Kind::Invalid);
    }
}
