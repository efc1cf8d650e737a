//! Tokens of OpenStack's Keystone, and of the servers that have their own way to give them (TempAuth
//! of Swift, radosgw): asked for once for all who need one, renewed before they expire, and once more
//! when a server refuses one that should still be good.
//!
//! **Rule: of many callers that need a new token at a time, one asks for it, and all are given what it
//! gets, also a refusal.** So a wrong password is tried once, not as often as there are parts in flight,
//! which would lock the account.
//!
//! No secret is in any `Debug`, error or log line: passwords and tokens are [`Secret`]s.
//!
//! # Decisions
//! * Chose: how long a token lives is what Keystone says between `issued_at` and `expires_at`, counted
//!   from when it was asked for. Because: both are told by one clock, so it does not matter what ours
//!   says. Instead of: comparing `expires_at` with the clock of this machine.

mod service;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::DateTime;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    http::{Answer, Client, HeaderName, Method, Request, Url, beneath},
    options::Secret,
};
pub use service::Service;

use crate::contract::{Error, Kind, Result};

/// The header that carries a token.
pub const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// The header of a token that is asked about, or given.
const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

/// Bytes of an answer of Keystone, at most: a catalog of a large cloud has a few hundred KiB.
const ANSWER: usize = 4 << 20;

/// Who asks for tokens, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Where: `http://host:5000/v3`, or where TempAuth listens.
    pub url: Url,
    /// Who.
    pub who: Who,
}

/// Who asks, and how it is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A user, in a project or by a trust.
    Password {
        /// The user.
        user: Name,
        /// Proves it.
        password: Secret,
        /// What the token is for.
        scope: Scope,
    },
    /// An application credential, which has its project in it.
    ApplicationCredential {
        /// Its id.
        id: String,
        /// Proves it.
        secret: Secret,
    },
    /// The bearer of a token that was given to somebody else, who has lent it. It cannot be renewed.
    Bearer(Secret),
    /// A user of a server that gives tokens itself, by `X-Auth-User` and `X-Auth-Key`.
    V1 {
        /// `account:user`.
        user: String,
        /// Proves it.
        key: Secret,
    },
}

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A project.
    Project(Name),
    /// What a user has entrusted to ours: the trust's id.
    Trust(String),
}

/// How a user or a project is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// By its id, which is unique.
    Id(String),
    /// By its name, which is unique in its domain.
    In(Domain, String),
}

/// How a domain is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domain {
    /// By its id.
    Id(String),
    /// By its name.
    Name(String),
}

/// Which endpoint of the catalog is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The type of the service, such as `object-store`.
    pub service: String,
    /// The region; the first one that has such a service if `None`.
    pub region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub interface: String,
    /// This one, whatever the catalog says.
    pub instead: Option<Url>,
}

/// A token, and the endpoint that it is for. Clones are the same.
#[derive(Clone)]
pub struct Token(Arc<Granted>);

struct Granted {
    value: Secret,
    endpoint: Url,
    project: Option<String>,
    user: Option<String>,
    /// When it expires; `None` if nobody said.
    expires: Option<Instant>,
}

impl Token {
    /// What is sent in the header [`TOKEN`].
    #[must_use]
    pub fn value(&self) -> &Secret {
        &self.0.value
    }

    /// Where the service is.
    #[must_use]
    pub fn endpoint(&self) -> &Url {
        &self.0.endpoint
    }

    /// The id of the project that it is for, where Keystone gave it.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.0.project.as_deref()
    }

    /// The id of the user that it was given to, where Keystone gave it.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.0.user.as_deref()
    }

    fn lasts(&self, soon: Duration) -> bool {
        self.0.expires.is_none_or(|at| Instant::now().checked_add(soon).is_none_or(|end| end < at))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("endpoint", &self.0.endpoint.as_str()).finish_non_exhaustive()
    }
}

/// The tokens of one login. Clones share them.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

/// The tokens of every store as it was opened last, by the store and who logs in.
static LATEST: Mutex<BTreeMap<String, Weak<Inner>>> = Mutex::new(BTreeMap::new());

struct Inner {
    client: Client,
    login: Login,
    wanted: Wanted,
    /// A token that expires within this time is renewed.
    soon: Duration,
    current: Mutex<Option<Token>>,
    /// The store that they are of, if it can be opened anew.
    store: Mutex<Option<String>>,
    /// Held by the one that asks.
    asking: tokio::sync::Mutex<Option<Refused>>,
}

/// The last time that no token was to be had.
struct Refused {
    at: Instant,
    kind: Kind,
    what: String,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("login", &self.0.login).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Tokens of `login` for the endpoint that is `wanted`; one that expires within `soon` is renewed.
    /// Asks nobody yet.
    #[must_use]
    pub fn new(client: Client, login: Login, wanted: Wanted, soon: Duration) -> Self {
        let (current, store, asking) = (Mutex::default(), Mutex::default(), Default::default());
        Self(Arc::new(Inner { client, login, wanted, soon, current, store, asking }))
    }

    /// The same as those of `store`, opened anew. **Rule: what is under way with an earlier login of the same
    /// user in the same store goes on with the latest one.** So a password can be changed, and a reload after
    /// it, while images are transferred.
    #[must_use]
    pub fn latest_of(self, store: &str) -> Self {
        let key = self.0.key(store);
        let mut latest = LATEST.lock();
        latest.retain(|_, tokens| tokens.strong_count() > 0);
        latest.insert(key, Arc::downgrade(&self.0));
        drop(latest);
        *self.0.store.lock() = Some(store.to_owned());
        self
    }

    /// Those of the same store and user that were opened later.
    fn successor(&self) -> Option<Self> {
        let key = self.0.key(self.0.store.lock().as_deref()?);
        let latest = LATEST.lock().get(&key).and_then(Weak::upgrade)?;
        (!Arc::ptr_eq(&latest, &self.0)).then_some(Self(latest))
    }

    /// A token that is good for a while.
    ///
    /// # Errors
    /// `BackendDenied` if the login is refused or the catalog has no such endpoint; `Unavailable` if
    /// Keystone does not answer.
    pub async fn token(&self) -> Result<Token> {
        let current = self.0.current.lock().clone();
        match current {
            Some(token) if token.lasts(self.0.soon) => Ok(token),
            old => self.renew(old.as_ref()).await,
        }
    }

    /// The token that was good last, if there was one: nobody is asked.
    #[must_use]
    pub fn known(&self) -> Option<Token> {
        self.0.current.lock().clone()
    }

    /// A token instead of `refused`, which a server did not take: another caller may have asked for it
    /// already.
    ///
    /// # Errors
    /// As [`Tokens::token`]; `BackendDenied` if it was lent, and so there is no other.
    pub async fn instead_of(&self, refused: &Token) -> Result<Token> {
        if let Who::Bearer(_) = self.0.login.who {
            return Err(Error::new(
                Kind::BackendDenied,
                "the caller's token is not taken any more, or lacks the role: ask for a new one",
            ));
        }
        self.renew(Some(refused)).await
    }

    /// One that is not `old`.
    async fn renew(&self, old: Option<&Token>) -> Result<Token> {
        let since = Instant::now();
        let mut asking = self.0.asking.lock().await;
        let current = self.0.current.lock().clone();
        if let Some(token) = current
            && old.is_none_or(|old| !Arc::ptr_eq(&old.0, &token.0))
            && token.lasts(self.0.soon)
        {
            return Ok(token);
        }
        if let Some(refused) = asking.as_ref()
            && refused.at >= since
        {
            return Err(Error::new(refused.kind, refused.what.clone()));
        }
        let asked = match self.successor() {
            // The one that they have may be the one that is not wanted.
            Some(latest) => Box::pin(latest.renew(old)).await,
            None => self.0.ask().await,
        };
        match asked {
            Ok(token) => {
                *asking = None;
                *self.0.current.lock() = Some(token.clone());
                Ok(token)
            }
            Err(error) => {
                let (at, kind, what) = (Instant::now(), error.kind(), error.to_string());
                *asking = Some(Refused { at, kind, what });
                Err(error)
            }
        }
    }
}

impl Inner {
    /// The store, and who logs in, without what proves it. An application credential is replaced whole.
    fn key(&self, store: &str) -> String {
        let who = match &self.login.who {
            Who::Password { user, scope, .. } => format!("{user:?} {scope:?}"),
            Who::V1 { user, .. } => user.clone(),
            Who::ApplicationCredential { .. } | Who::Bearer(_) => String::new(),
        };
        format!("{store} {} {who}", self.login.url)
    }

    async fn ask(&self) -> Result<Token> {
        let Self { login: Login { url, who }, wanted, .. } = self;
        let asked = Instant::now();
        let answer = self.client.send(request(url, who)?.whole(ANSWER)).await?;
        if !answer.status.is_success() {
            return Err(refused(url, matches!(who, Who::Bearer(_)), answer).await);
        }
        let value = match who {
            Who::V1 { .. } => return v1_token(&answer, wanted, asked),
            Who::Bearer(token) => token.clone(),
            Who::Password { .. } | Who::ApplicationCredential { .. } => {
                header(&answer, SUBJECT.as_str()).map(Secret::from).ok_or_else(|| {
                    Error::new(Kind::Unavailable, "Keystone answered without a token")
                })?
            }
        };
        v3_token(value, &answer.json(ANSWER).await?, wanted, asked)
    }
}

fn header(answer: &Answer, name: &str) -> Option<String> {
    answer.headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Where version 3 of the API is, whether or not the address says it.
fn v3(url: &Url) -> Url {
    let last = url.path_segments().and_then(|mut path| path.rfind(|segment| !segment.is_empty()));
    match last {
        Some("v3") => url.clone(),
        Some("v2.0") => {
            let mut url = url.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().pop().push("v3");
            }
            url
        }
        Some(_) | None => beneath(url, ["v3"]),
    }
}

/// How `who` asks for a token. Asking twice gives two, of which one is not used.
fn request(url: &Url, who: &Who) -> Result<Request> {
    const USER: HeaderName = HeaderName::from_static("x-auth-user");
    const KEY: HeaderName = HeaderName::from_static("x-auth-key");
    let tokens = beneath(&v3(url), ["auth", "tokens"]);
    match who {
        Who::V1 { user, key } => {
            Request::new(Method::GET, url.clone()).header(USER, user)?.secret(KEY, key)
        }
        Who::Bearer(token) => {
            Request::new(Method::GET, tokens).secret(TOKEN, token)?.secret(SUBJECT, token)
        }
        Who::Password { password: secret, .. } | Who::ApplicationCredential { secret, .. } => {
            let request = Request::new(Method::POST, tokens).json(&body(who))?;
            Ok(request.hiding(secret).idempotent(true))
        }
    }
}

/// What Keystone is told.
fn body(who: &Who) -> Value {
    match who {
        Who::Password { user, password, scope } => {
            let mut user = name(user);
            if let Some(fields) = user.as_object_mut() {
                fields.insert("password".into(), password.expose().into());
            }
            let identity = json!({"methods": ["password"], "password": {"user": user}});
            let scope = match scope {
                Scope::Project(project) => json!({"project": name(project)}),
                Scope::Trust(id) => json!({"OS-TRUST:trust": {"id": id}}),
            };
            json!({"auth": {"identity": identity, "scope": scope}})
        }
        Who::ApplicationCredential { id, secret } => {
            let credential = json!({"id": id, "secret": secret.expose()});
            let methods = ["application_credential"];
            json!({"auth": {"identity": {"methods": methods, "application_credential": credential}}})
        }
        // These are asked for otherwise.
        Who::Bearer(_) | Who::V1 { .. } => Value::Null,
    }
}

fn name(name: &Name) -> Value {
    match name {
        Name::Id(id) => json!({"id": id}),
        Name::In(Domain::Id(domain), name) => json!({"name": name, "domain": {"id": domain}}),
        Name::In(Domain::Name(domain), name) => json!({"name": name, "domain": {"name": domain}}),
    }
}

/// Why there is no token.
async fn refused(url: &Url, lent: bool, mut answer: Answer) -> Error {
    let status = answer.status;
    let said = answer.said().await;
    let (kind, why) = match status.as_u16() {
        401 | 403 | 404 if lent => {
            (Kind::BackendDenied, "the caller's token is not good: ask for a new one")
        }
        401 | 403 => (
            Kind::BackendDenied,
            "the login is refused: check user, project, domains and password or credential",
        ),
        404 => (Kind::Unavailable, "there is no such API: check the authentication address"),
        400..500 => (Kind::BackendDenied, "the login is not understood"),
        _ => (Kind::Unavailable, "no token is to be had"),
    };
    Error::new(kind, format!("{why}: auth=`{url}` status=`{}` said=`{said}`", status.as_u16()))
}

/// The token of an answer of version 1.
fn v1_token(answer: &Answer, wanted: &Wanted, asked: Instant) -> Result<Token> {
    let lacks = |what: &str| Error::new(Kind::Unavailable, format!("the login gave no {what}"));
    let token = header(answer, "x-auth-token").or_else(|| header(answer, "x-storage-token"));
    let told = header(answer, "x-storage-url").and_then(|url| url.parse().ok());
    let lives = header(answer, "x-auth-token-expires").and_then(|text| text.parse().ok());
    Ok(Token(Arc::new(Granted {
        value: token.ok_or_else(|| lacks("X-Auth-Token"))?.into(),
        endpoint: wanted.instead.clone().or(told).ok_or_else(|| lacks("X-Storage-Url"))?,
        project: None,
        user: None,
        expires: lives.and_then(|seconds| asked.checked_add(Duration::from_secs(seconds))),
    })))
}

/// The token of an answer of version 3.
fn v3_token(value: Secret, answer: &Value, wanted: &Wanted, asked: Instant) -> Result<Token> {
    let token = answer.get("token").unwrap_or(&Value::Null);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let moment = |name: &str| token.get(name).and_then(Value::as_str).and_then(seconds);
    let lives = match (moment("issued_at"), moment("expires_at")) {
        (Some(from), Some(to)) => u64::try_from(to.saturating_sub(from)).ok(),
        _ => None,
    };
    let endpoint = match &wanted.instead {
        Some(url) => url.clone(),
        None => endpoint(token.get("catalog"), wanted)?,
    };
    Ok(Token(Arc::new(Granted {
        value,
        endpoint,
        project: text(token.pointer("/project/id")),
        user: text(token.pointer("/user/id")),
        expires: lives.and_then(|seconds| asked.checked_add(Duration::from_secs(seconds))),
    })))
}

/// The endpoint that is wanted.
fn endpoint(catalog: Option<&Value>, wanted: &Wanted) -> Result<Url> {
    let none = Vec::new();
    let array = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
    let services = catalog.and_then(Value::as_array).unwrap_or(&none);
    let text = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (mut others, mut found) = (Vec::new(), None);
    for service in services.iter().filter(|service| text(service, "type") == wanted.service) {
        for endpoint in array(service.get("endpoints")).unwrap_or_default() {
            let (id, region) = (text(&endpoint, "region_id"), text(&endpoint, "region"));
            let interface = text(&endpoint, "interface");
            let here =
                wanted.region.as_ref().is_none_or(|wanted| *wanted == id || *wanted == region);
            if here && interface == wanted.interface && found.is_none() {
                found = Some(text(&endpoint, "url"));
            }
            others.push(format!("{interface} in {}", if id.is_empty() { region } else { id }));
        }
    }
    let what = format!(
        "service=`{}` interface=`{}` region=`{}`",
        wanted.service,
        wanted.interface,
        wanted.region.as_deref().unwrap_or("any")
    );
    let Some(url) = found else {
        others.truncate(10);
        let has = if others.is_empty() { "no such service".into() } else { others.join(", ") };
        return Err(Error::new(
            Kind::BackendDenied,
            format!("the catalog has no such endpoint: {what} has=`{has}`"),
        ));
    };
    url.parse::<Url>().map_err(|error| {
        Error::new(Kind::BackendDenied, format!("the catalog's endpoint is no URL: {what}"))
            .because(error)
    })
}

/// A moment such as `2026-11-26T18:08:41.000000Z`, in seconds since 1970.
fn seconds(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp())
}

#[cfg(test)]
mod tests;
