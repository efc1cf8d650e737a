//! A client of the daemon: HTTP/1.1 on its unix socket, with descriptors beside it.
//!
//! Connections are kept: one whose last answer was read to its end serves the next request. Each
//! request that is dropped closes its connection, and the daemon undoes what it was making.

mod connection;
mod error;

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Body as _, Incoming},
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, HOST,
        HeaderName, HeaderValue, RANGE,
    },
};
use imaged_drivers::Span;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use self::connection::{Connection, Fate, Outgoing, Pool};
pub use self::{
    connection::Body,
    error::{Error, Result},
};
pub use crate::wire::{
    digests::Promise,
    records::{Entry, Health, Jobs, Mode, Origin, Receipt, Shown, State, Stores, View, Wanted},
};
use crate::{
    digest::Algo,
    wire::{
        digests,
        headers::{ACCEPT, BODY, IMAGE_SIZE, PROBLEM, REPR_DIGEST, REQUEST_ID, SIZE},
        range,
    },
};

/// What a path's segment or a query's value may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The largest answer that is taken into memory, in bytes.
const LARGEST: usize = 64 << 20;

/// The socket to try when none is named: `$IMAGED_SOCKET`, else the system's if it is there, else
/// the user's.
#[must_use]
pub fn default_socket() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let system = PathBuf::from("/run/imaged/imaged.sock");
    if let Some(socket) = set("IMAGED_SOCKET") {
        return socket;
    }
    let user = set("XDG_RUNTIME_DIR").filter(|dir| dir.is_absolute());
    match user {
        Some(dir) if !system.exists() => dir.join("imaged.sock"),
        _ => system,
    }
}

/// Which image of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// By its id.
    Id(&'a str),
    /// By its location.
    At(&'a str),
}

impl<'a> From<&'a str> for Which<'a> {
    fn from(id: &'a str) -> Self {
        Self::Id(id)
    }
}

/// A daemon to talk to. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    request_id: Option<Arc<str>>,
}

impl Client {
    /// A client of the daemon at `socket`. Connects when the first request needs it.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { pool: Arc::new(Pool::new(socket.into())), request_id: None }
    }

    /// The same client, whose requests have this id: one plain word, and the id of the job that
    /// the request is.
    #[must_use]
    pub fn with_request_id(&self, id: &str) -> Self {
        Self { pool: Arc::clone(&self.pool), request_id: Some(id.into()) }
    }

    /// A request id that nobody else has.
    #[must_use]
    pub fn new_request_id() -> String {
        format!("req-{}", uuid::Uuid::new_v4())
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.pool.socket()
    }

    /// The daemon's process id, as the kernel tells: of who listens, so of systemd if it passed
    /// the socket.
    ///
    /// # Errors
    /// `Unreachable`; `Broken` if the kernel does not tell.
    pub async fn peer_pid(&self) -> Result<i32> {
        let (connection, _) = self.pool.take().await?;
        let pid = connection.peer;
        self.pool.keep(connection);
        pid.ok_or_else(|| Error::Broken("the kernel does not tell who listens".to_owned()))
    }

    /// Sends any request; an answer that refuses is an answer.
    ///
    /// # Errors
    /// `Unreachable`, `Broken`.
    pub async fn request(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Answer> {
        self.send(method, target, headers, body, None).await
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        mut headers: HeaderMap,
        body: Body,
        descriptor: Option<&File>,
    ) -> Result<Answer> {
        let request_id = match &self.request_id {
            Some(id) => id.to_string(),
            None => Self::new_request_id(),
        };
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        set(&mut headers, REQUEST_ID, &request_id)?;
        let harmless = (method == Method::GET || method == Method::HEAD) && body.is_empty();
        let (mut body, mut fate) = Outgoing::new(body);
        loop {
            let (mut connection, kept) = self.pool.take().await?;
            if let Some(file) = descriptor {
                let file = file.try_clone().map_err(|error| {
                    Error::Broken(format!("the file's descriptor cannot be sent: {error}"))
                })?;
                connection.wire.send(file.into());
            }
            let mut request = Request::builder()
                .method(method.clone())
                .uri(target)
                .body(body)
                .map_err(|error| Error::Broken(format!("no such request can be: {error}")))?;
            *request.headers_mut() = headers.clone();
            let mut broken = match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    let lease =
                        Lease { pool: Arc::clone(&self.pool), connection: Some(connection), fate };
                    return Ok(Answer::new(method, request_id, response, lease));
                }
                Err(broken) => broken,
            };
            // A kept connection may have been closed by the daemon a moment before. What was not
            // sent is sent again on another, and so is what does no harm twice.
            match broken.take_message() {
                Some(unsent) if kept => body = unsent.into_body(),
                None if kept && harmless => (body, fate) = Outgoing::new(Body::empty()),
                _ => {
                    return Err(Error::Broken(match fate.failure() {
                        Some(error) => format!("the image cannot be read: {error}"),
                        None => format!(
                            "the daemon closed the connection without an answer: {}: \
                             request=`{request_id}`",
                            broken.into_error()
                        ),
                    }));
                }
            }
        }
    }

    async fn plain(&self, method: Method, target: &str) -> Result<Answer> {
        let answer = self.request(method, target, HeaderMap::new(), Body::empty()).await?;
        answer.accepted().await
    }

    async fn read<T: DeserializeOwned>(&self, target: &str) -> Result<T> {
        self.plain(Method::GET, target).await?.json().await
    }

    /// Whether the daemon lives.
    ///
    /// # Errors
    /// It does not.
    pub async fn health(&self) -> Result<()> {
        self.plain(Method::GET, "/healthz").await?.bytes().await.map(drop)
    }

    /// Every store, without capacities.
    ///
    /// # Errors
    /// Any.
    pub async fn stores(&self) -> Result<Vec<Shown>> {
        self.read::<Stores>("/v1/stores").await.map(|all| all.stores)
    }

    /// One store, looked at now, with its capacity.
    ///
    /// # Errors
    /// Any.
    pub async fn store(&self, store: &str) -> Result<Shown> {
        self.read(&format!("/v1/stores/{}", plain(store))).await
    }

    /// Stores what `file` holds, from its offset; the daemon reads it by its descriptor.
    ///
    /// # Errors
    /// Any.
    pub async fn put_fd(
        &self,
        store: &str,
        id: &str,
        file: &File,
        algo: Option<Algo>,
    ) -> Result<Receipt> {
        let mut headers = HeaderMap::new();
        headers.insert(BODY, HeaderValue::from_static("fd"));
        let target = put_target(store, id, algo);
        let answer = self.send(Method::PUT, &target, headers, Body::empty(), Some(file)).await?;
        answer.accepted().await?.json().await
    }

    /// Stores what `bytes` gives. If it gives an error or another length than `size`, or if this
    /// call is dropped, nothing is stored.
    ///
    /// # Errors
    /// Any; a refusal is told as soon as it comes, however much was still to be sent.
    pub async fn put_stream(
        &self,
        store: &str,
        id: &str,
        size: Option<u64>,
        algo: Option<Algo>,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Receipt> {
        let mut headers = HeaderMap::new();
        if let Some(size) = size {
            set(&mut headers, IMAGE_SIZE, &size.to_string())?;
        }
        let target = put_target(store, id, algo);
        let body = Body::stream(bytes.boxed());
        let answer = self.send(Method::PUT, &target, headers, body, None).await?;
        answer.accepted().await?.json().await
    }

    /// The bytes of an image, whole or part; by a descriptor if `accept_fd` and the store can.
    ///
    /// # Errors
    /// Any.
    pub async fn get(
        &self,
        store: &str,
        image: impl Into<Which<'_>>,
        span: Span,
        accept_fd: bool,
    ) -> Result<Got> {
        let mut headers = HeaderMap::new();
        if let Some(part) = range::write(span) {
            set(&mut headers, RANGE, &part)?;
        }
        if accept_fd {
            headers.insert(ACCEPT, HeaderValue::from_static("fd"));
        }
        let target = image_target(store, image.into());
        let answer = self.request(Method::GET, &target, headers, Body::empty()).await?;
        Got::new(answer.accepted().await?)
    }

    /// What is known of an image.
    ///
    /// # Errors
    /// Any.
    pub async fn stat(&self, store: &str, image: impl Into<Which<'_>>) -> Result<Stat> {
        let answer = self.plain(Method::HEAD, &image_target(store, image.into())).await?;
        Ok(Stat {
            size: answer.number(&CONTENT_LENGTH)?,
            location: answer.text(&CONTENT_LOCATION).map(str::to_owned),
            digests: answer.digests(),
        })
    }

    /// Removes an image.
    ///
    /// # Errors
    /// Any.
    pub async fn delete(&self, store: &str, image: impl Into<Which<'_>>) -> Result<()> {
        self.plain(Method::DELETE, &image_target(store, image.into())).await.map(drop)
    }

    /// The images of a store, as they come.
    ///
    /// # Errors
    /// Any.
    pub async fn list(&self, store: &str) -> Result<Listing> {
        let target = format!("/v1/stores/{}/images", plain(store));
        let answer = self.plain(Method::GET, &target).await?;
        Ok(Listing { lines: answer.download(), rest: Vec::new(), at: 0 })
    }

    /// Makes an image from a source that is there already.
    ///
    /// # Errors
    /// Any.
    pub async fn copy(&self, store: &str, id: &str, wanted: &Wanted) -> Result<Receipt> {
        let body = serde_json::to_vec(wanted)
            .map_err(|error| Error::Broken(format!("no such request can be: {error}")))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let target = image_target(store, Which::Id(id));
        let answer = self.request(Method::POST, &target, headers, Body::whole(body.into())).await?;
        answer.accepted().await?.json().await
    }

    /// All jobs, oldest first.
    ///
    /// # Errors
    /// Any.
    pub async fn jobs(&self) -> Result<Vec<View>> {
        self.read::<Jobs>("/v1/jobs").await.map(|all| all.jobs)
    }

    /// One job, after waiting up to `wait` for its end.
    ///
    /// # Errors
    /// Any.
    pub async fn job(&self, id: &str, wait: Duration) -> Result<View> {
        self.read(&format!("/v1/jobs/{}?wait={}", plain(id), wait.as_secs())).await
    }

    /// Ends a job.
    ///
    /// # Errors
    /// Any.
    pub async fn cancel_job(&self, id: &str) -> Result<()> {
        self.plain(Method::DELETE, &format!("/v1/jobs/{}", plain(id))).await.map(drop)
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<()> {
    let value = HeaderValue::from_str(value).map_err(|error| {
        Error::Broken(format!("no such header can be: {error}: {name}=`{value}`"))
    })?;
    headers.insert(name, value);
    Ok(())
}

fn plain(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

fn image_target(store: &str, image: Which<'_>) -> String {
    match image {
        Which::Id(id) => format!("/v1/stores/{}/images/{}", plain(store), plain(id)),
        Which::At(at) => format!("/v1/stores/{}/images?at={}", plain(store), plain(at)),
    }
}

fn put_target(store: &str, id: &str, algo: Option<Algo>) -> String {
    let target = image_target(store, Which::Id(id));
    match algo {
        Some(algo) => format!("{target}?hash_algo={algo}"),
        None => target,
    }
}

/// The right to one connection for one request; kept for the next when the answer is over.
#[derive(Debug)]
struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    fate: Arc<Fate>,
}

impl Lease {
    /// The answer has been read to its end.
    fn end(&mut self) {
        // One whose request was answered before it was sent whole cannot be used again.
        if let Some(connection) = self.connection.take().filter(|_| self.fate.is_sent()) {
            connection.wire.finished();
            self.pool.keep(connection);
        }
    }
}

/// An answer whose head has come.
#[derive(Debug)]
pub struct Answer {
    method: Method,
    request_id: String,
    head: hyper::http::response::Parts,
    download: Download,
    descriptors: Vec<OwnedFd>,
}

impl Answer {
    fn new(
        method: Method,
        request_id: String,
        response: hyper::Response<Incoming>,
        mut lease: Lease,
    ) -> Self {
        let descriptors =
            lease.connection.as_ref().map_or_else(Vec::new, |connection| connection.wire.claim().0);
        let (head, incoming) = response.into_parts();
        let closes = head.headers.get(CONNECTION).is_some_and(|value| value == "close");
        if incoming.is_end_stream() && !closes {
            lease.end();
        }
        let download = Download { incoming, lease, closes };
        Self { method, request_id, head, download, descriptors }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The id of the request.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The descriptors that came with it; taken once.
    pub fn descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    fn text(&self, name: &HeaderName) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn number(&self, name: &HeaderName) -> Result<u64> {
        self.text(name)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::Broken(format!("the answer has no size: header=`{name}`")))
    }

    /// The digests in `Repr-Digest`.
    fn digests(&self) -> Vec<Promise> {
        let field = self.text(&REPR_DIGEST).unwrap_or_default();
        digests::read(field).filter_map(|(_, told)| told).collect()
    }

    /// The same answer, unless it refuses.
    ///
    /// # Errors
    /// `Refused`; `Broken` if its body does not come.
    pub async fn accepted(self) -> Result<Self> {
        if self.head.status.is_success() {
            return Ok(self);
        }
        let (method, status, id) = (self.method.clone(), self.head.status, self.request_id.clone());
        let line = self.text(&PROBLEM).map(str::to_owned);
        let body = self.bytes().await?;
        Err(Error::refused(&method, status, &id, line.as_deref(), &body))
    }

    /// Its whole body, of 64 MiB at most.
    ///
    /// # Errors
    /// `Broken`.
    pub async fn bytes(self) -> Result<Bytes> {
        let mut download = self.download;
        let mut all = Vec::new();
        while let Some(chunk) = download.chunk().await? {
            if all.len() + chunk.len() > LARGEST {
                return Err(Error::Broken("the answer is longer than any should be".to_owned()));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    /// Its body, as JSON.
    ///
    /// # Errors
    /// `Broken`.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.bytes().await?)
            .map_err(|error| Error::Broken(format!("the daemon's answer cannot be read: {error}")))
    }

    /// Its body, as it comes.
    #[must_use]
    pub fn download(self) -> Download {
        self.download
    }
}

/// A body being read.
#[derive(Debug)]
pub struct Download {
    incoming: Incoming,
    lease: Lease,
    closes: bool,
}

impl Download {
    /// The next bytes, never none of them; `None` at the end.
    ///
    /// # Errors
    /// `Broken`: it ended before it was whole.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| {
                Error::Broken(format!("the daemon stopped in the middle of its answer: {error}"))
            })?;
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                return Ok(Some(bytes));
            }
        }
        if !self.closes {
            self.lease.end();
        }
        Ok(None)
    }
}

/// The bytes of an image.
#[derive(Debug)]
pub struct Got {
    /// The length of the whole image.
    pub size: u64,
    /// Which bytes these are.
    pub range: Range<u64>,
    /// The known digests of the whole image.
    pub digests: Vec<Promise>,
    /// The bytes.
    pub content: Content,
}

/// The bytes of an image, in one of two forms.
#[derive(Debug)]
pub enum Content {
    /// A file that holds the whole image from offset 0; read it by offset, of which only
    /// [`Got::range`] was asked for.
    Descriptor(OwnedFd),
    /// The bytes asked for.
    Stream(Download),
}

impl Got {
    fn new(mut answer: Answer) -> Result<Self> {
        let digests = answer.digests();
        let part = answer.text(&CONTENT_RANGE).map(|text| {
            range::read_content(text)
                .ok_or_else(|| Error::Broken(format!("the answer has a strange range: `{text}`")))
        });
        let part = part.transpose()?;
        if answer.text(&BODY) == Some("fd") {
            let size = answer.number(&SIZE)?;
            let descriptor = answer.descriptors().pop().ok_or_else(|| {
                Error::Broken("the answer should come with a descriptor, and none came".to_owned())
            })?;
            let range = part.map_or(0..size, |(range, _)| range);
            return Ok(Self { size, range, digests, content: Content::Descriptor(descriptor) });
        }
        let (range, size) = match part {
            Some(part) => part,
            None => {
                let size = answer.number(&CONTENT_LENGTH)?;
                (0..size, size)
            }
        };
        Ok(Self { size, range, digests, content: Content::Stream(answer.download()) })
    }
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub size: u64,
    /// Where it is.
    pub location: Option<String>,
    /// Its known digests.
    pub digests: Vec<Promise>,
}

/// The images of a store, as they come.
#[derive(Debug)]
pub struct Listing {
    lines: Download,
    rest: Vec<u8>,
    at: usize,
}

impl Listing {
    /// The next image; `None` at the end.
    ///
    /// # Errors
    /// `Broken`: the listing ended before it was whole.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let rest = self.rest.get(self.at..).unwrap_or_default();
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let entry = serde_json::from_slice(rest.get(..length).unwrap_or_default())
                    .map_err(|error| Error::Broken(format!("a line cannot be read: {error}")))?;
                self.at += length + 1;
                return Ok(Some(entry));
            }
            self.rest.drain(..self.at);
            self.at = 0;
            match self.lines.chunk().await? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None if self.rest.is_empty() => return Ok(None),
                None => return Err(Error::Broken("the listing ends within a line".to_owned())),
            }
        }
    }
}
