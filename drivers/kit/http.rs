//! The client of every driver that speaks plain HTTP: a pool of connections to a backend's servers, and
//! what is done when they do not answer as they should.
//!
//! * [`Request`] is what is sent, [`Answer`] what comes back, [`Client::send`] brings one for the other
//! * `retry`: which requests are sent again, and after which pause; `watch`: when a server is given up
//!
//! **Rule: a body is whole or an error.** It ends where the server said it would, by its length or by the
//! last chunk; a connection that ends earlier is an error and never the end of the bytes.
//!
//! **Rule: a secret is in no text.** What goes into a header by [`Request::secret`], and what
//! [`Request::hiding`] names, is in no `Debug`, no error and no log line, nor is it when the server says it back.
//!
//! # Decisions
//! * Chose: a time for the next byte. Because: an image takes as long as it takes, and a server that is
//!   silent is found all the same. Instead of: a time for the whole request.
//! * Chose: HTTP/1.1 alone. Because: it moves bulk faster, and a connection that stalls stalls one request.
//!   Instead of: HTTP/2.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

pub use reqwest::{
    Method, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{addresses::Guard, options::Secret};
use crate::contract::{Error, Kind, Result};

mod answer;
mod failure;
mod reach;
mod request;
mod retry;
mod watch;

pub use answer::{Answer, Incoming};
pub use request::{Payload, Request};
use watch::Watch;

/// How a backend's servers are reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store, named in errors.
    pub store: String,
    /// Certificates in PEM, trusted beside those of the system's authorities.
    pub ca: Option<PathBuf>,
    /// No certificate is verified.
    pub insecure: bool,
    /// The proxy for a scheme, by the scheme: `http` or `https`. None is taken from the environment.
    pub proxy: BTreeMap<String, Secret>,
    /// How long a connection may take, from the look for the server's address to the end of the TLS handshake.
    pub connect: Duration,
    /// How long the next byte may take, in either direction, and an answer to begin.
    pub progress: Duration,
    /// Requests at a time. One counts from its beginning to the last byte of its answer.
    pub connections: usize,
    /// How often a request is sent again.
    pub retries: usize,
    /// The longest pause before the first other try; it doubles with each.
    pub backoff: Duration,
    /// Which addresses may be connected to; all of them without one.
    pub guard: Option<Guard>,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(store: &str) -> Self {
        Self {
            store: store.to_owned(),
            ca: None,
            insecure: false,
            proxy: BTreeMap::new(),
            connect: Duration::from_secs(10),
            progress: Duration::from_secs(60),
            connections: 64,
            retries: 3,
            backoff: Duration::from_millis(400),
            guard: None,
        }
    }
}

/// A pool of connections. Clones share it.
#[derive(Clone)]
pub struct Client(Arc<Pool>);

struct Pool {
    settings: Settings,
    reach: reach::Reach,
    free: Arc<Semaphore>,
}

impl Client {
    /// A pool without connections; no server is asked.
    ///
    /// # Errors
    /// `Invalid` if the file of certificates or a proxy cannot be used.
    pub fn new(settings: Settings) -> Result<Self> {
        let reach = reach::Reach::new(&settings)?;
        let free = Arc::new(Semaphore::new(settings.connections.max(1)));
        Ok(Self(Arc::new(Pool { settings, reach, free })))
    }

    /// Sends `request` and waits for its answer to begin, whatever its status. An idempotent request is sent
    /// again where the connection or the server failed; the last answer counts.
    ///
    /// # Errors
    /// `Unavailable` if no server can be reached or the connection breaks; `Timeout` if nothing comes in time;
    /// `BackendDenied` if its certificate is not trusted; `Invalid` if it is not to be connected to.
    pub async fn send(&self, request: Request) -> Result<Answer> {
        let Settings { retries, backoff, .. } = self.0.settings;
        let mut tried = 0;
        loop {
            let outcome = self.once(&request).await;
            if tried >= retries || !request.idempotent || !retry::is_worth(&outcome) {
                return outcome;
            }
            let asked = outcome.as_ref().ok().and_then(|answer| retry::after(&answer.headers));
            let pause = retry::pause(tried, backoff, asked);
            tracing::debug!(
                store = %self.0.settings.store, ?request, ?pause, outcome = %retry::told(&outcome),
                "a request is sent again"
            );
            if let Ok(answer) = outcome {
                answer.body.finish().await;
            }
            sleep(pause).await;
            tried = tried.saturating_add(1);
        }
    }

    async fn once(&self, request: &Request) -> Result<Answer> {
        let Pool { settings, reach, .. } = &*self.0;
        let about = failure::About::new(settings, request);
        let http = reach.client(&request.url)?;
        let permit = self.permit().await?;
        let watch = Arc::new(Watch::new(settings.connect.saturating_add(settings.progress)));
        let (sent, wrong) = request.build(&watch, settings.progress)?;
        let answer = tokio::select! {
            answer = http.execute(sent) => answer,
            () = watch.stalled() => return Err(about.late()),
        };
        match answer {
            Ok(answer) => Ok(Answer::new(answer, about, settings.progress, permit)),
            // The bytes to send could not be had: that is not the server's failure.
            Err(error) => Err(wrong.lock().take().unwrap_or_else(|| about.failed(error))),
        }
    }

    /// The right to one request. Bounded: others' answers may be read by somebody who is slow.
    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let Settings { store, progress, connections, .. } = &self.0.settings;
        let free = timeout(*progress, Arc::clone(&self.0.free).acquire_owned()).await;
        free.ok().and_then(|permit| permit.ok()).ok_or_else(|| {
            Error::new(
                Kind::Unavailable,
                format!(
                    "all connections of the store are in use, try later: \
                     connections=`{connections}` store=`{store}`"
                ),
            )
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("store", &self.0.settings.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
