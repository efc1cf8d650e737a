//! A client of the daemon: HTTP/1.1 on its unix socket, with descriptors beside it.
//!
//! Connections are kept: one whose last answer was read to its end serves the next request. Each
//! request that is dropped closes its connection, and the daemon undoes what it was making.
//!
//! # Decisions
//! * Chose: hyper's connection over a stream of our own, and a list of idle connections here.
//!   Because: a descriptor has to leave with the first byte of its request's head and be taken with
//!   that of its answer, so whoever keeps connections must know which stream a request is on; and a
//!   refusal has to be read although the body that it refuses can no longer be written. Instead of: a client
//!   library (reqwest, or hyper-util's), which choose a connection themselves and show no stream.

mod answer;
mod connection;
mod error;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use hyper::{
    HeaderMap, Method, Request,
    header::{
        CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RANGE,
    },
};
use imaged_drivers::Span;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use self::{
    answer::Lease,
    connection::{Outgoing, Pool},
};
pub use self::{
    answer::{Answer, Content, Download, Extents, Got, Listing, Stat},
    connection::Body,
    error::{Error, Result},
};
pub use crate::wire::{
    digests::Promise,
    problem::{InStore, Problem, Results},
    records::{
        Entry, Health, Jobs, Mode, Origin, Receipt, Recovery, Remains, Shown, State, Stores, View,
        Wanted,
    },
};
use crate::{
    digest::Algo,
    wire::{
        headers::{ACCEPT, BODY, IMAGE_SIZE, REQUEST_ID, decoded},
        range,
    },
};

/// What a path's segment or a query's value may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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

/// A form in which an image can be had beside its plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A descriptor of the file that it is in.
    Descriptor,
    /// What it holds, without its holes, through memory that is shared with the daemon: what has come is to be
    /// dropped soon, for fewer than [`SLOTS`](crate::wire::memory::SLOTS) pieces can be held at a time.
    Memory,
    /// What it holds, without its holes.
    Extents,
}

impl Form {
    /// Its name in `Imaged-Accept`.
    fn name(self) -> &'static str {
        match self {
            Self::Descriptor => "fd",
            Self::Memory => "memory",
            Self::Extents => "extents",
        }
    }
}

/// Several stores that are to have an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToAll<'a> {
    /// Their names, each once.
    pub stores: &'a [String],
    /// Whether none is to have it unless all do.
    pub all_or_none: bool,
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
                connection.wire.send([file.into()]);
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
        self.put_file(&put_target(store, id, algo), file).await
    }

    /// The same in several stores, in one pass.
    ///
    /// # Errors
    /// Any; what became of it in each store is an error only if none has it, and is told in the problem.
    pub async fn put_fd_to_all(
        &self,
        to: ToAll<'_>,
        id: &str,
        file: &File,
        algo: Option<Algo>,
    ) -> Result<Results> {
        self.put_file(&put_to_all_target(to, id, algo), file).await
    }

    async fn put_file<T: DeserializeOwned>(&self, target: &str, file: &File) -> Result<T> {
        let mut headers = HeaderMap::new();
        headers.insert(BODY, HeaderValue::from_static("fd"));
        let answer = self.send(Method::PUT, target, headers, Body::empty(), Some(file)).await?;
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
        self.put_bytes(&put_target(store, id, algo), size, bytes).await
    }

    /// The same in several stores, in one pass.
    ///
    /// # Errors
    /// As [`Client::put_stream`] and [`Client::put_fd_to_all`].
    pub async fn put_stream_to_all(
        &self,
        to: ToAll<'_>,
        id: &str,
        size: Option<u64>,
        algo: Option<Algo>,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Results> {
        self.put_bytes(&put_to_all_target(to, id, algo), size, bytes).await
    }

    async fn put_bytes<T: DeserializeOwned>(
        &self,
        target: &str,
        size: Option<u64>,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<T> {
        let mut headers = HeaderMap::new();
        if let Some(size) = size {
            set(&mut headers, IMAGE_SIZE, &size.to_string())?;
        }
        let body = Body::stream(bytes.boxed());
        let answer = self.send(Method::PUT, target, headers, body, None).await?;
        answer.accepted().await?.json().await
    }

    /// The bytes of an image, whole or part, in one of the forms `accepted` if the store can.
    ///
    /// # Errors
    /// Any.
    pub async fn get(
        &self,
        store: &str,
        image: impl Into<Which<'_>>,
        span: Span,
        accepted: &[Form],
    ) -> Result<Got> {
        let mut headers = HeaderMap::new();
        if let Some(part) = range::write(span) {
            set(&mut headers, RANGE, &part)?;
        }
        let target = image_target(store, image.into());
        let in_the_answer: Vec<_> =
            accepted.iter().copied().filter(|form| *form == Form::Extents).collect();
        for forms in [accepted, &in_the_answer] {
            let mut headers = headers.clone();
            if !forms.is_empty() {
                let names: Vec<_> = forms.iter().map(|form| form.name()).collect();
                set(&mut headers, ACCEPT, &names.join(", "))?;
            }
            let answer = self.request(Method::GET, &target, headers, Body::empty()).await?;
            // What is passed beside an answer does not come everywhere.
            if let Some(got) = Got::new(answer.accepted().await?)? {
                return Ok(got);
            }
        }
        let text = "the answer does not come with the descriptors that it should have";
        Err(Error::Broken(text.to_owned()))
    }

    /// What is known of an image.
    ///
    /// # Errors
    /// Any.
    pub async fn stat(&self, store: &str, image: impl Into<Which<'_>>) -> Result<Stat> {
        let answer = self.plain(Method::HEAD, &image_target(store, image.into())).await?;
        Ok(Stat {
            size: answer.number(&CONTENT_LENGTH)?,
            location: answer.text(&CONTENT_LOCATION).map(|text| decoded(text).into_owned()),
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

    /// Clears away what an upload has left whose daemon is gone for good.
    ///
    /// # Errors
    /// Any; `InUse` while that daemon is alive.
    pub async fn recover(&self, store: &str, id: &str) -> Result<Recovery> {
        let target = format!("{}/recover", image_target(store, Which::Id(id)));
        self.plain(Method::POST, &target).await?.json().await
    }

    /// The images of a store, as they come.
    ///
    /// # Errors
    /// Any.
    pub async fn list(&self, store: &str) -> Result<Listing> {
        let target = format!("/v1/stores/{}/images", plain(store));
        let answer = self.plain(Method::GET, &target).await?;
        Ok(Listing::new(answer.download()))
    }

    /// Makes an image from a source that is there already.
    ///
    /// # Errors
    /// Any.
    pub async fn copy(&self, store: &str, id: &str, wanted: &Wanted) -> Result<Receipt> {
        self.make(&image_target(store, Which::Id(id)), wanted).await
    }

    /// Makes an image in each of `wanted.stores`.
    ///
    /// # Errors
    /// Any; what became of the image in each store is in the answer if one of them has it.
    pub async fn copy_to_all(&self, id: &str, wanted: &Wanted) -> Result<Results> {
        self.make(&format!("/v1/images/{}", plain(id)), wanted).await
    }

    async fn make<T: DeserializeOwned>(&self, target: &str, wanted: &Wanted) -> Result<T> {
        let body = serde_json::to_vec(wanted)
            .map_err(|error| Error::Broken(format!("no such request can be: {error}")))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.request(Method::POST, target, headers, Body::whole(body.into())).await?;
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

fn put_to_all_target(to: ToAll<'_>, id: &str, algo: Option<Algo>) -> String {
    let stores: Vec<_> = to.stores.iter().map(|store| plain(store)).collect();
    let mut target = format!("/v1/images/{}?stores={}", plain(id), stores.join(","));
    if to.all_or_none {
        target.push_str("&all_or_none=true");
    }
    if let Some(algo) = algo {
        target.push_str(&format!("&hash_algo={algo}"));
    }
    target
}
