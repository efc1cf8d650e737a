//! What is sent.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::stream::{self, Stream};
use parking_lot::Mutex;
use reqwest::{
    Body, Method, Url,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};

use super::{failure::shown_url, watch::Watch};
use crate::{
    contract::{Error, Kind, Result},
    kit::{options::Secret, parts::Part},
};

/// Bytes that are handed to a connection at a time: each is a step that the watch sees.
const PIECE: usize = 256 << 10;

/// One request. `Debug` shows its method and where it goes, without user, password and query.
#[derive(Clone)]
pub struct Request {
    /// What is to be done.
    pub method: Method,
    /// Where it goes. A user and a password in it are not sent: [`Request::basic`] sends them.
    pub url: Url,
    /// What is said beside.
    pub headers: HeaderMap,
    /// What comes with it.
    pub payload: Payload,
    /// Whether doing it twice is doing it once, so that it may be sent again.
    pub idempotent: bool,
    /// The answer to a success is read whole, at most so many bytes, before it is handed out: one that
    /// breaks off is a failure like others then, after which the request may be sent again.
    pub whole: Option<usize>,
    pub(super) hidden: Vec<Secret>,
}

/// The body of a request: of known length, and at hand until it was answered.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// No bytes.
    #[default]
    Empty,
    /// A part of an image.
    Part(Part),
    /// Bytes in memory that nobody counts: few.
    Bytes(Bytes),
}

impl Payload {
    /// Bytes that it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Part(part) => part.len(),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most [`PIECE`] of its bytes from `at` on.
    async fn piece(&self, at: u64) -> Result<Bytes> {
        match self {
            Self::Empty => Ok(Bytes::new()),
            Self::Part(Part::Memory(bytes)) | Self::Bytes(bytes) => {
                let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start.saturating_add(PIECE).min(bytes.len())))
            }
            Self::Part(Part::Spool(file)) => file.read(at, PIECE).await,
        }
    }
}

impl Request {
    /// A request without headers and body; idempotent if its method is.
    #[must_use]
    pub fn new(method: Method, url: Url) -> Self {
        let idempotent = method.is_idempotent();
        let (headers, payload) = (HeaderMap::new(), Payload::Empty);
        Self { method, url, headers, payload, idempotent, whole: None, hidden: Vec::new() }
    }

    /// The same with this header.
    ///
    /// # Errors
    /// `Invalid` if the value cannot stand in a header.
    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self> {
        self.headers.insert(name.clone(), header_value(&name, value)?);
        Ok(self)
    }

    /// The same with this header, whose value is shown nowhere.
    ///
    /// # Errors
    /// `Invalid` if the value cannot stand in a header.
    pub fn secret(mut self, name: HeaderName, value: &Secret) -> Result<Self> {
        let mut sent = header_value(&name, value.expose())?;
        sent.set_sensitive(true);
        self.headers.insert(name, sent);
        Ok(self.hiding(value))
    }

    /// The same on behalf of this user, by the password.
    ///
    /// # Errors
    /// None.
    pub fn basic(self, user: &Secret, password: &Secret) -> Result<Self> {
        let both = format!("{}:{}", user.expose(), password.expose());
        let coded = Secret::from(BASE64.encode(both.as_bytes()));
        let value = Secret::from(format!("Basic {}", coded.expose()));
        self.hiding(password).hiding(&coded).secret(AUTHORIZATION, &value)
    }

    /// The same, of which `secret` is a part: it is shown nowhere, also when the server says it back.
    #[must_use]
    pub fn hiding(mut self, secret: &Secret) -> Self {
        self.hidden.push(secret.clone());
        self
    }

    /// The same with this body.
    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// The same with `value` as its body, in JSON.
    ///
    /// # Errors
    /// `Internal` if it has no form in JSON.
    pub fn json(mut self, value: &impl serde::Serialize) -> Result<Self> {
        let text = serde_json::to_vec(value).map_err(|error| {
            Error::new(Kind::Internal, "a request has no form in JSON").because(error)
        })?;
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self.payload(Payload::Bytes(text.into())))
    }

    /// The same, which may be sent again or not, whatever its method.
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// The same, whose answer is read whole if it is a success of at most so many bytes.
    #[must_use]
    pub fn whole(mut self, limit: usize) -> Self {
        self.whole = Some(limit);
        self
    }

    /// What reqwest sends, and where an error lies that ended the reading of the body.
    pub(super) fn build(
        &self,
        watch: &Arc<Watch>,
        patience: Duration,
    ) -> Result<(reqwest::Request, Wrong)> {
        let mut url = self.url.clone();
        // Else they would be sent, and stand in the texts of errors.
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| Error::new(Kind::Invalid, "this URL has no server"))?;
        let mut request = reqwest::Request::new(self.method.clone(), url);
        *request.headers_mut() = self.headers.clone();
        let wrong = Wrong::default();
        let bodiless = matches!(self.method, Method::GET | Method::HEAD | Method::DELETE);
        if !(self.payload.is_empty() && bodiless) {
            request.headers_mut().insert(CONTENT_LENGTH, self.payload.len().into());
        }
        if !self.payload.is_empty() {
            let pieces = pieces(self.payload.clone(), Arc::clone(watch), patience, &wrong);
            *request.body_mut() = Some(Body::wrap_stream(pieces));
        }
        Ok((request, wrong))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, shown_url(&self.url))
    }
}

/// Why the bytes to send could not be had.
pub(super) type Wrong = Arc<Mutex<Option<Error>>>;

/// A body that is read as the connection takes it.
fn pieces(
    payload: Payload,
    watch: Arc<Watch>,
    patience: Duration,
    wrong: &Wrong,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let wrong = Arc::clone(wrong);
    stream::try_unfold((payload, 0_u64), move |(payload, at)| {
        let (watch, wrong) = (Arc::clone(&watch), Arc::clone(&wrong));
        async move {
            watch.moved(patience);
            if at >= payload.len() {
                return Ok(None);
            }
            match payload.piece(at).await {
                Ok(piece) => {
                    let next = at.saturating_add(piece.len() as u64);
                    Ok(Some((piece, (payload, next))))
                }
                Err(error) => {
                    *wrong.lock() = Some(error);
                    Err(std::io::Error::other("the bytes to send cannot be read"))
                }
            }
        }
    })
}

fn header_value(name: &HeaderName, value: &str) -> Result<HeaderValue> {
    // The value is not shown: it may be a secret, in the wrong place.
    HeaderValue::from_bytes(value.as_bytes()).map_err(|_invalid| {
        Error::new(
            Kind::Invalid,
            format!("a value has characters that no header can hold: header=`{name}`"),
        )
    })
}
