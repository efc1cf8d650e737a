//! What a request wants, by its method, path and query; and which peer may want it.

use std::{borrow::Cow, str::FromStr, time::Duration};

use hyper::Method;
use imaged_drivers::{Error, ImageId, Kind, Location, Result};
use percent_encoding::percent_decode_str;

use crate::{config::Role, digest::Algo, socket::Peer};

/// Which image of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// By its id.
    Id(ImageId),
    /// By its location.
    At(Location),
}

/// An image that goes to several stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToAll {
    /// The stores, each once.
    pub stores: Vec<String>,
    /// Whether none is to have it unless all do.
    pub all_or_none: bool,
    /// The image's id.
    pub id: ImageId,
    /// The multihash algorithm, if one is asked for.
    pub algo: Option<Algo>,
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
    /// `PUT /v1/images/{id}?stores=a,b`
    PutToAll(ToAll),
    /// `GET /v1/stores/{store}/images/{id}`
    Get(String, Image),
    /// `HEAD /v1/stores/{store}/images/{id}`
    Head(String, Image),
    /// `DELETE /v1/stores/{store}/images/{id}`
    Delete(String, Image),
    /// `POST /v1/stores/{store}/images/{id}/recover`
    Recover(String, ImageId),
    /// `PUT /v1/stores/{store}/images/{id}/acl`
    Share(String, Image),
    /// `POST /v1/stores/{store}/images/{id}`
    Copy(String, ImageId),
    /// `POST /v1/images/{id}`
    CopyToAll(ImageId),
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
            Self::Get(..) | Self::Copy(..) | Self::CopyToAll(_) => Some(Role::Service),
            Self::Put(..) | Self::PutToAll(_) | Self::CancelJob(_) => Some(Role::Member),
            Self::Delete(..) | Self::Share(..) | Self::Recover(..) => Some(Role::Admin),
        }
    }

    /// Refuses what the role of `peer` does not allow.
    ///
    /// # Errors
    /// As [`Peer::needs`].
    pub fn allowed_to(&self, peer: &Peer) -> Result<()> {
        // Who makes images of volumes may take them back: which those are is looked at when they are.
        let takes_back = matches!(self, Self::Delete(..) | Self::CancelJob(_));
        if takes_back && peer.needs(Role::Service).is_ok() {
            return Ok(());
        }
        self.role().map_or(Ok(()), |least| peer.needs(least))
    }

    /// Whether a caller who is gone needs no answer, so that nothing has to be finished or undone.
    pub(super) fn only_looks(&self) -> bool {
        matches!(self.role(), None | Some(Role::Reader | Role::Service))
            && !matches!(self, Self::Copy(..) | Self::CopyToAll(_))
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
        ("POST", ["v1", "stores", store, "images", id, "recover"]) => {
            query.none(Action::Recover((*store).to_owned(), id.parse()?))
        }
        ("PUT", ["v1", "stores", store, "images", id, "acl"]) => {
            query.none(Action::Share((*store).to_owned(), Image::Id(id.parse()?)))
        }
        ("PUT", ["v1", "stores", store, "acl"]) => {
            Ok(Action::Share((*store).to_owned(), Image::At(query.needs_at()?)))
        }
        ("PUT", ["v1", "images", id]) => Ok(Action::PutToAll(ToAll {
            stores: query.stores()?,
            all_or_none: query.one("all_or_none")?.unwrap_or(false),
            id: id.parse()?,
            algo: query.one("hash_algo")?,
        })),
        ("POST", ["v1", "images", id]) => query.none(Action::CopyToAll(id.parse()?)),
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
        (_, segments) => Err(no_such(verb, path, segments)),
    }
}

/// The refusal of a path that there is not, or of a method that it has not.
fn no_such(verb: &str, path: &str, segments: &[&str]) -> Error {
    match methods(segments) {
        Some(methods) => Error::new(
            Kind::Unsupported,
            format!("this path has no {}, it has: {methods}", short(verb)),
        ),
        None => Error::new(
            Kind::NotFound,
            format!("no such path, see /openapi.json: path=`/{}`", short(path)),
        ),
    }
}

/// The methods of a path, for `Allow`.
fn methods(segments: &[&str]) -> Option<&'static str> {
    match segments {
        ["v1", "stores" | "jobs"] | ["v1", "stores", _] => Some("GET"),
        ["v1", "stores", _, "images"] => Some("GET, HEAD, DELETE"),
        ["v1", "stores", _, "images", _] => Some("GET, HEAD, PUT, POST, DELETE"),
        ["v1", "stores", _, "images", _, "acl"] | ["v1", "stores", _, "acl"] => Some("PUT"),
        ["v1", "stores", _, "images", _, "recover"] => Some("POST"),
        ["v1", "images", _] => Some("PUT, POST"),
        ["v1", "jobs", _] => Some("GET, DELETE"),
        ["healthz" | "readyz" | "metrics" | "openapi.json"] => Some("GET"),
        _ => None,
    }
}

/// What a path can do instead, for `Allow`.
pub(super) fn allow_of(method: &Method, path: &str) -> Option<String> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    methods(&segments).filter(|methods| !methods.contains(method.as_str())).map(str::to_owned)
}

/// The stores that an image is to go to, if each has a name and is there once; `remedy` says how they are
/// written.
pub(super) fn each_once(stores: Vec<String>, remedy: &str) -> Result<Vec<String>> {
    let refuse = |what: &str| Err(Error::new(Kind::Invalid, format!("{what}: {remedy}")));
    if stores.is_empty() {
        return refuse("no store is named");
    }
    for (place, name) in stores.iter().enumerate() {
        if name.is_empty() {
            return refuse("a store in the list has no name");
        }
        if stores.iter().take(place).any(|other| other == name) {
            return refuse(&format!("the store `{}` is named twice", short(name)));
        }
    }
    Ok(stores)
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

    /// Refuses parameters that are not among `known`.
    fn known(&self, known: &[&str]) -> Result<()> {
        let Some((other, _)) = self.0.iter().find(|(name, _)| !known.contains(name)) else {
            return Ok(());
        };
        let only =
            if known.is_empty() { String::new() } else { format!(", only {}", known.join(", ")) };
        Err(Error::new(
            Kind::Invalid,
            format!("this request takes no such parameter{only}: parameter=`{}`", short(other)),
        ))
    }

    /// The value of one parameter.
    fn one<T: FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let Some((_, value)) = self.0.iter().find(|(other, _)| *other == name) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|error| {
            // A location that cannot be read may hold a secret all the same; what is wrong, its driver says.
            let value = if name == "at" { "..." } else { &short(value) };
            let what = format!("a query parameter cannot be read: {error}: {name}=`{value}`");
            Error::new(Kind::Invalid, what)
        })
    }

    /// The value of the one parameter there may be.
    fn only<T: FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.known(&[name])?;
        self.one(name)
    }

    /// The names in `stores=a,b`, each once.
    fn stores(&self) -> Result<Vec<String>> {
        self.known(&["stores", "all_or_none", "hash_algo"])?;
        let list = self.one::<String>("stores")?.unwrap_or_default();
        let names = list.split(',').filter(|_| !list.is_empty()).map(str::to_owned);
        each_once(names.collect(), "write ?stores=A,B, each store once")
    }

    fn none(&self, action: Action) -> Result<Action> {
        self.known(&[]).map(|()| action)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::ROUTES;

    #[test]
    fn every_documented_route_is_routed_and_needs_the_documented_role() {
        for line in ROUTES {
            let path = line.path.replace("{store}", "a").replace("{id}", "b");
            let method: Method = line.method.parse().unwrap();
            let query = match (line.method, line.path) {
                ("PUT", "/v1/images/{id}") => Some("stores=a,b"),
                _ => line.at.then_some("at=mem%3A%2F%2Fa%2Fb"),
            };
            let action = route(&method, &path, query).unwrap();
            assert_eq!(action.role(), line.role, "{} {}", line.method, line.path);
        }
    }

    #[test]
    fn the_stores_of_one_body_are_a_list() {
        let query = Some("all_or_none=true&stores=a,b%20c&hash_algo=sha256");
        let wanted = ToAll {
            stores: vec!["a".to_owned(), "b c".to_owned()],
            all_or_none: true,
            id: "x".parse().unwrap(),
            algo: Some(Algo::Sha256),
        };
        let found = route(&Method::PUT, "/v1/images/x", query).unwrap();
        assert_eq!(found, Action::PutToAll(wanted));
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
        for bad in [
            "",
            "stores",
            "stores=",
            "stores=a,",
            "stores=,a",
            "stores=a,b,a",
            "stores=a&stores=b",
            "stores=a%2Ca",
            "stores=a&all_or_none",
            "stores=a&all_or_none=1",
            "stores=a&store=b",
            "stores=a&hash_algo=crc32",
        ] {
            assert_eq!(kind(Method::PUT, "/v1/images/x", Some(bad)), Kind::Invalid, "{bad}");
        }
        assert_eq!(kind(Method::PUT, "/v1/images/x", None), Kind::Invalid);
        assert_eq!(kind(Method::PUT, "/v1/images/..", Some("stores=a")), Kind::Invalid);
        assert_eq!(kind(Method::GET, "/v1/images/x", None), Kind::Unsupported);
        assert_eq!(kind(Method::GET, "/v1/stores/a/images", Some("att=x")), Kind::Invalid);
        assert_eq!(kind(Method::GET, "/v1/jobs/x", Some("wait=1&wait=2")), Kind::Invalid);
    }
}
