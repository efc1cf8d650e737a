//! Copies from image to image, and the digests that follow a copy inside a backend.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use imaged_drivers::{
    self as drivers, Digests, Error, ImageId, Kind, Location, Recovered, Result, Span,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::{
    Incoming, Put, Receipt, Store,
    put::{unsure, unwanted},
};
use crate::{
    digest::Algo,
    jobs::Ticket,
    journal::{Claim, Intent, Work},
    metrics::{Outcome, lap},
};

/// How to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Inside the backend if it can, else through the daemon.
    #[default]
    Auto,
    /// Inside the backend; digests may follow.
    Clone,
    /// Inside the backend; digests before the answer.
    Copy,
    /// Through the daemon.
    Stream,
}

impl Store {
    /// Makes an image from one of `source`'s.
    ///
    /// # Errors
    /// As a put, and as opening the source.
    pub async fn copy(
        self: Arc<Self>,
        mut put: Put,
        source: Arc<Self>,
        from: Location,
        mode: Mode,
    ) -> Result<Receipt> {
        let job = put.job.take();
        let mut outcome = Outcome::begin("copy", &put.request, self.name(), &put.id);
        let result =
            self.copy_inner(&mut put, &source, &from, mode, job.as_ref(), &mut outcome).await;
        outcome.end(&self.shared.metrics, result.as_ref().err());
        if let Some(job) = job {
            job.finish(result.as_ref().map(|_| ()));
        }
        result
    }

    async fn copy_inner(
        self: &Arc<Self>,
        put: &mut Put,
        source: &Arc<Self>,
        from: &Location,
        mode: Mode,
        job: Option<&Ticket>,
        outcome: &mut Outcome,
    ) -> Result<Receipt> {
        let driver = self.able(|caps| caps.write, "be written to")?;
        let since = Instant::now();
        let chunk = drivers::window::CHUNK;
        let reader = source.open(from, Span::All, chunk).await?;
        let since = lap(&mut outcome.stages.wait, since);
        if let Some(job) = job {
            job.restart(Some(reader.size));
        }
        if mode != Mode::Stream {
            self.wanted(put)?;
            let claim = self.claim(&put.id, put.algo).await?;
            let copied = match driver.caps().copy {
                true => driver.copy(reader.source(from), &put.id).await,
                false => Ok(None),
            };
            lap(&mut outcome.stages.backend, since);
            match copied {
                Ok(Some(copied)) => {
                    return self.copied(claim, put, copied, mode, outcome).await;
                }
                Ok(None) => claim.clear().await,
                Err(error) => return Err(self.settle(claim, unsure(error, &put.id)).await),
            }
            if mode != Mode::Auto {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "this image cannot be copied inside the backend, use mode stream or auto: \
                         location=`{from}` store=`{}`",
                        self.name()
                    ),
                ));
            }
        }
        put.size = Some(reader.size);
        let body = Incoming::Image(reader.body.into_stream());
        let (ready, _readied) = oneshot::channel();
        self.put_inner(put, body, ready, job, outcome).await
    }

    /// A copy inside the backend is there: gives it its digests, now or by a job.
    async fn copied(
        self: &Arc<Self>,
        claim: Claim,
        put: &Put,
        copied: drivers::Copied,
        mode: Mode,
        outcome: &mut Outcome,
    ) -> Result<Receipt> {
        let drivers::Copied { at, size, stored_bytes, digests } = copied;
        outcome.bytes = size;
        // Nobody could end it while it was made.
        if let Err(unwanted) = self.wanted(put) {
            return Err(self.settle(claim, self.undone(&at, unwanted).await).await);
        }
        if let Some(digests) = digests
            && digests.hash_algo == put.algo.name()
        {
            claim.clear().await;
            return Ok(self.receipt(&put.id, &at, size, stored_bytes, &digests));
        }
        let claim = match claim.turn(Work::Digest).await {
            Ok(claim) => claim,
            // Nobody would compute its digests after a crash: better no image than one without.
            Err(error) => return Err(self.undone(&at, error).await),
        };
        let job = format!("digest-{}", uuid::Uuid::new_v4());
        let digesting = self.digest(claim, put.id.clone(), put.algo, &job);
        if mode == Mode::Copy {
            tokio::pin!(digesting);
            let digested = tokio::select! {
                digested = digesting.as_mut() => digested,
                () = put.cancel.cancelled() => {
                    // It may just have ended by itself.
                    let _over = self.shared.jobs.cancel(&job);
                    digesting.await.and(Err(unwanted()))
                }
            };
            return match digested {
                Ok(digests) => Ok(self.receipt(&put.id, &at, size, stored_bytes, &digests)),
                Err(error) => Err(self.undone(&at, error).await),
            };
        }
        self.shared.tasks.spawn(digesting);
        Ok(Receipt {
            store: self.name().to_owned(),
            id: put.id.to_string(),
            location: at.to_string(),
            size,
            checksum: None,
            hash_algo: put.algo.name().to_owned(),
            hash_value: None,
            metadata: self.metadata(&at),
            stored_bytes,
            digest_job: Some(job),
        })
    }

    /// Removes a copy because of `error`, which says so if it is left.
    async fn undone(&self, at: &Location, error: Error) -> Error {
        let deleted = match self.driver() {
            Ok(driver) => driver.delete(at).await,
            Err(down) => Err(down),
        };
        match deleted {
            Ok(()) => error,
            // Somebody else was faster.
            Err(gone) if gone.kind() == Kind::NotFound => error,
            Err(left) => error.because(left).leaving(at),
        }
    }

    /// Computes and keeps the digests of a whole image, trying again until it succeeds, is
    /// cancelled, or the image is gone. Shown as the job `id`.
    ///
    /// # Errors
    /// `NotFound` if the image is gone, `Unavailable` if it was cancelled.
    pub fn digest(
        self: &Arc<Self>,
        claim: Claim,
        image: ImageId,
        algo: Algo,
        id: &str,
    ) -> impl Future<Output = Result<Digests>> + Send + use<> {
        let this = Arc::clone(self);
        let job = this.shared.jobs.begin("digest", id, this.name(), image.as_str(), None);
        let request = id.to_owned();
        async move {
            let cancelled = job.cancelled();
            let mut pause = Duration::from_secs(1);
            let result = loop {
                let mut outcome = Outcome::begin("digest", &request, this.name(), &image);
                let tried = tokio::select! {
                    tried = this.digest_once(&image, algo, &job, &mut outcome) => tried,
                    () = this.shared.stop.cancelled() => {
                        // The intent stays: the next start goes on.
                        drop(claim);
                        return Err(Error::new(Kind::Unavailable, "the daemon is stopping"));
                    }
                    () = cancelled.cancelled() => {
                        break Err(Error::new(Kind::Unavailable, "the job was cancelled"));
                    }
                };
                outcome.end(&this.shared.metrics, tried.as_ref().err());
                match tried {
                    Err(error) if error.kind() != Kind::NotFound => {
                        job.wait(&error);
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = cancelled.cancelled() => {}
                            () = this.shared.closing.cancelled() => {
                                // Not worth waiting for at the end; the next start goes on.
                                drop(claim);
                                return Err(error);
                            }
                        }
                        pause = (pause * 2).min(Duration::from_secs(300));
                    }
                    ended => break ended,
                }
            };
            claim.clear().await;
            job.finish(result.as_ref().map(|_| ()));
            result
        }
    }

    async fn digest_once(
        &self,
        image: &ImageId,
        algo: Algo,
        job: &Ticket,
        outcome: &mut Outcome,
    ) -> Result<Digests> {
        let driver = self.driver()?;
        let at = driver.locate(image).await?;
        let reader = self.open(&at, Span::All, drivers::window::CHUNK).await?;
        job.restart(Some(reader.size));
        let lanes = self.shared.digests.lanes(algo);
        let mut stream = reader.body.into_stream();
        let mut since = Instant::now();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            since = lap(&mut outcome.stages.backend, since);
            lanes.update(&chunk).await?;
            since = lap(&mut outcome.stages.digest, since);
            outcome.bytes += chunk.len() as u64;
            job.advance(chunk.len() as u64);
        }
        let digests = lanes.finish().await?;
        driver.record(&at, &digests).await?;
        Ok(digests)
    }

    /// Removes what an unfinished put of `image` has left, or takes up its digests again.
    pub async fn take_up(self: &Arc<Self>, intent: &Intent, claim: Claim) {
        let (Ok(image), Ok(algo)) = (intent.image.parse::<ImageId>(), intent.hash_algo.parse())
        else {
            tracing::error!(?intent, "an intent of the journal makes no sense and is dropped");
            return claim.clear().await;
        };
        if intent.work == Work::Digest {
            let id = format!("digest-{}", uuid::Uuid::new_v4());
            tracing::info!(store = self.name(), image = %image, job = id, "digests are taken up");
            self.shared.tasks.spawn(self.digest(claim, image, algo, &id));
            return;
        }
        let recovered = match self.driver() {
            Ok(driver) => driver.recover(&image).await,
            Err(error) => Err(error),
        };
        match recovered {
            Ok(found) => {
                let found = match found {
                    Recovered::Nothing => "nothing was left".to_owned(),
                    Recovered::Whole => "the image is whole and stays".to_owned(),
                    Recovered::Removed(what) => format!("removed {}", what.join(", ")),
                };
                tracing::info!(store = self.name(), image = %image, found, "an unfinished put is resolved");
                claim.clear().await;
            }
            // Dropping the claim leaves the intent for the next round.
            Err(error) => tracing::warn!(
                store = self.name(), image = %image, error = %error.chain(),
                "an unfinished put cannot be resolved yet"
            ),
        }
    }
}
