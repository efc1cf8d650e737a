//! The pool, and one request through it: again, where another try may have another outcome.

use std::{fmt, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{
    answer::Answer, failure::About, reach::Reach, request::Request, retry, settings::Settings,
    watch::Watch,
};
use crate::contract::{Error, Kind, Result};

/// A pool of connections. Clones share it.
#[derive(Clone)]
pub struct Client(Arc<Pool>);

struct Pool {
    settings: Settings,
    reach: Reach,
    free: Arc<Semaphore>,
}

impl Client {
    /// A pool without connections; no server is asked.
    ///
    /// # Errors
    /// `Invalid` if the file of certificates or a proxy cannot be used.
    pub fn new(settings: Settings) -> Result<Self> {
        let reach = Reach::new(&settings)?;
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
        let Request { method, url, hidden, .. } = request;
        let about = About::new(&settings.store, method, url, hidden);
        let http = reach.client(url)?;
        let permit = self.permit().await?;
        let watch = Arc::new(Watch::new(settings.connect.saturating_add(settings.progress)));
        let (sent, wrong) = request.build(&watch, settings.progress)?;
        let answer = tokio::select! {
            answer = http.execute(sent) => answer,
            () = watch.stalled() => return Err(about.late()),
        };
        match answer {
            Ok(answer) => {
                let answer = Answer::new(answer, about, settings.progress, permit);
                match request.whole {
                    Some(limit) if answer.status.is_success() => answer.read(limit).await,
                    _ => Ok(answer),
                }
            }
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
