//! Copies from image to image, and the digests that follow a copy inside a backend.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use imaged_drivers::{
    self as drivers, Digests, Driver, Error, ImageId, Kind, Location, Recovered, Result, Span,
};

use super::{
    Put, Store,
    put::{unsure, unwanted},
};
use crate::{
    digest::Algo,
    jobs::Ticket,
    journal::{Claim, Intent, Work},
    metrics::{Outcome, lap},
    point,
    wire::records::{Mode, Receipt},
};

/// How often a delete looks whether our own work with the image has ended.
const TRIES: u32 = 200;
const BETWEEN: Duration = Duration::from_millis(25);

/// Work in the background that does not give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Background {
    Digest(Algo),
    Flatten,
}

impl Background {
    fn name(self) -> &'static str {
        match self {
            Self::Digest(_) => "digest",
            Self::Flatten => "flatten",
        }
    }
}

/// How it has ended.
enum Ended {
    /// With this; a flatten yields no digests.
    Over(Result<Option<Digests>>),
    /// The daemon stops; the next start goes on.
    Stopped(Error),
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
        self.over(outcome, job, result)
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
        self.able(|caps| caps.write, "be written to")?;
        let since = Instant::now();
        let chunk = drivers::window::CHUNK;
        let reader = source.open(from, Span::All, chunk).await?;
        let since = lap(&mut outcome.stages.wait, since);
        if let Some(job) = job {
            job.restart(Some(reader.size));
        }
        let from = reader.source();
        if let Some(receipt) = self.inside(put, from, mode, since, outcome).await? {
            return Ok(receipt);
        }
        self.put_stream(put, reader, job, outcome).await
    }

    /// Makes the image inside the backend, if `mode` wants that and the backend can; what must then be
    /// streamed instead is `None`.
    pub(super) async fn inside(
        self: &Arc<Self>,
        put: &Put,
        from: drivers::Source,
        mode: Mode,
        since: Instant,
        outcome: &mut Outcome,
    ) -> Result<Option<Receipt>> {
        if mode == Mode::Stream {
            return Ok(None);
        }
        let driver = self.driver()?;
        self.wanted(put)?;
        let claim = self.claim(&put.id, put.algo).await?;
        point::pass("copy-claimed");
        let at = from.at.clone();
        let copied = match driver.caps().copy {
            true => driver.copy(from, &put.id).await,
            false => Ok(None),
        };
        lap(&mut outcome.stages.backend, since);
        match copied {
            Ok(Some(copied)) => {
                point::pass("copy-made");
                self.copied(claim, put, copied, mode, outcome).await.map(Some)
            }
            Ok(None) if mode == Mode::Auto => {
                claim.clear().await;
                Ok(None)
            }
            Ok(None) => {
                claim.clear().await;
                Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "this image cannot be copied inside the backend, use mode stream or auto: \
                         location=`{at}` store=`{}`",
                        self.name()
                    ),
                ))
            }
            Err(error) => Err(self.settle(claim, unsure(error, &put.id)).await),
        }
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
        let drivers::Copied { at, size, stored_bytes, digests, shared } = copied;
        outcome.bytes = size;
        // Nobody could end it while it was made.
        if let Err(unwanted) = self.wanted(put) {
            return Err(self.settle(claim, self.undone(&at, unwanted).await).await);
        }
        let digests = digests.filter(|digests| digests.hash_algo == put.algo.name());
        if let (Some(digests), false) = (&digests, shared) {
            claim.clear().await;
            return Ok(self.receipt(&put.id, &at, size, stored_bytes, digests));
        }
        let claim = match claim.turn(Work::Digest).await {
            Ok(claim) => claim,
            // Nobody would compute its digests after a crash: better no image than one without.
            Err(error) => return Err(self.undone(&at, error).await),
        };
        point::pass("copy-turned");
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
        if let Some(digests) = digests {
            return Ok(self.receipt(&put.id, &at, size, stored_bytes, &digests));
        }
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

    /// Computes and keeps the digests of a whole image, shown as the job `id`, then makes the image
    /// independent of what it was copied from.
    ///
    /// # Errors
    /// `NotFound` if the image is gone, `Mismatch` if it was cancelled.
    pub fn digest(
        self: &Arc<Self>,
        claim: Claim,
        image: ImageId,
        algo: Algo,
        id: &str,
    ) -> impl Future<Output = Result<Digests>> + Send + use<> {
        let this = Arc::clone(self);
        let job = this.shared.jobs.begin("digest", id, this.name(), image.as_str(), None);
        async move {
            let work = Background::Digest(algo);
            let result = match this.persist(&job, work, &image).await {
                Ended::Over(result) => result.and_then(|digests| {
                    digests.ok_or_else(|| Error::new(Kind::Internal, "there are no digests"))
                }),
                // The intent stays: the next start goes on.
                Ended::Stopped(error) => {
                    drop(claim);
                    return Err(error);
                }
            };
            let shares = this.driver().is_ok_and(|driver| driver.caps().flatten);
            if result.is_err() || !shares {
                claim.clear().await;
                job.finish(result.as_ref().map(|_| ()));
                return result;
            }
            job.finish(Ok(()));
            this.flatten(claim, &image).await;
            result
        }
    }

    /// Makes an image independent of what it was copied from, as a job of its own.
    async fn flatten(&self, claim: Claim, image: &ImageId) {
        let id = format!("flatten-{}", uuid::Uuid::new_v4());
        let job = self.shared.jobs.begin("flatten", &id, self.name(), image.as_str(), None);
        match self.persist(&job, Background::Flatten, image).await {
            Ended::Over(result) => {
                claim.clear().await;
                job.finish(result.as_ref().map(drop));
            }
            Ended::Stopped(_) => drop(claim),
        }
    }

    async fn flatten_once(&self, image: &ImageId, job: &Ticket) -> Result<()> {
        let driver = self.driver()?;
        let at = driver.locate(image).await?;
        let (shown, ended, stop) = (job.shown(), job.cancelled(), self.shared.stop.clone());
        let progress = move |done, all| {
            shown(done, all);
            !ended.is_cancelled() && !stop.is_cancelled()
        };
        driver.flatten(&at, Arc::new(progress)).await
    }

    /// Tries until it succeeds, is cancelled, or the image is gone.
    async fn persist(&self, job: &Ticket, work: Background, image: &ImageId) -> Ended {
        let cancelled = job.cancelled();
        let mut pause = Duration::from_secs(1);
        loop {
            let mut outcome = Outcome::begin(work.name(), job.id(), self.name(), image);
            let tried = tokio::select! {
                tried = self.once(work, image, job, &mut outcome) => tried,
                () = self.shared.stop.cancelled() => {
                    let why = Error::new(Kind::Unavailable, "the daemon is stopping");
                    return Ended::Stopped(why);
                }
                // A flatten looks itself, and then still has to let go of the image.
                () = cancelled.cancelled(), if work != Background::Flatten => {
                    // Nothing to try again: somebody wanted it ended.
                    return Ended::Over(Err(Error::new(Kind::Mismatch, "the job was cancelled")));
                }
            };
            outcome.end(&self.shared.metrics, tried.as_ref().err());
            let error = match tried {
                Err(error) if error.kind() != Kind::NotFound && !cancelled.is_cancelled() => error,
                ended => return Ended::Over(ended),
            };
            job.wait(&error);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancelled.cancelled() => {}
                // Not worth waiting for at the end; the next start goes on.
                () = self.shared.closing.cancelled() => return Ended::Stopped(error),
            }
            pause = (pause * 2).min(Duration::from_secs(300));
        }
    }

    async fn once(
        &self,
        work: Background,
        image: &ImageId,
        job: &Ticket,
        outcome: &mut Outcome,
    ) -> Result<Option<Digests>> {
        match work {
            Background::Digest(algo) => self.digest_once(image, algo, job, outcome).await.map(Some),
            Background::Flatten => self.flatten_once(image, job).await.map(|()| None),
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
        if let Some(digests) = reader.digests.filter(|digests| digests.hash_algo == algo.name()) {
            job.advance(reader.size);
            return Ok(digests);
        }
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

    /// Deletes an image that our own work in the background kept from going, as `refused` said: that
    /// work is ended first, and taken up again if the image stays all the same.
    pub(super) async fn delete_undisturbed(
        self: &Arc<Self>,
        driver: &dyn Driver,
        at: &Location,
        refused: Error,
    ) -> Result<()> {
        let mut intent = None;
        for candidate in self.shared.journal.digests(self.name()) {
            let Ok(id) = candidate.image.parse::<ImageId>() else { continue };
            if driver.locate(&id).await.is_ok_and(|there| there == *at) {
                intent = Some((candidate, id));
            }
        }
        // Ours may have ended just now.
        let Some((intent, id)) = intent else { return driver.delete(at).await };
        let mut deleted = Err(refused);
        // The digests may be over and the flattening about to begin, or either about to end.
        for _ in 0..TRIES {
            let jobs = &self.shared.jobs;
            for job in jobs.background(self.name(), &intent.image) {
                if jobs.cancel(&job).is_ok() {
                    jobs.get(&job, Duration::from_secs(60)).await?;
                }
            }
            deleted = driver.delete(at).await;
            let in_use = deleted.as_ref().is_err_and(|error| error.kind() == Kind::InUse);
            if !in_use {
                break;
            }
            if self.shared.journal.of(self.name(), &intent.image).is_none() {
                // Ours has ended since that look: whoever has it open now is another.
                deleted = driver.delete(at).await;
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        let stays = deleted.as_ref().is_err_and(|error| error.kind() != Kind::NotFound);
        if stays
            && self.shared.journal.of(self.name(), &intent.image).is_none()
            && let Ok(algo) = intent.hash_algo.parse()
        {
            let claim = self.shared.journal.begin(intent).await?;
            self.follow(claim, id, algo);
        }
        deleted
    }

    /// Computes the digests of an image in the background.
    fn follow(self: &Arc<Self>, claim: Claim, image: ImageId, algo: Algo) {
        let id = format!("digest-{}", uuid::Uuid::new_v4());
        tracing::info!(store = self.name(), image = %image, job = id, "digests are taken up");
        self.shared.tasks.spawn(self.digest(claim, image, algo, &id));
    }

    /// Whether it may be a copy that was made and no more.
    async fn lacks_digests(&self, image: &ImageId) -> bool {
        let Ok(driver) = self.driver() else { return false };
        if !driver.caps().flatten {
            return false;
        }
        match driver.locate(image).await {
            Ok(at) => driver.stat(&at).await.is_ok_and(|stat| stat.digests.is_none()),
            Err(_) => false,
        }
    }

    /// Removes what an unfinished put of `image` has left, or takes up its digests again.
    pub async fn take_up(self: &Arc<Self>, intent: &Intent, claim: Claim) {
        let (Ok(image), Ok(algo)) = (intent.image.parse::<ImageId>(), intent.hash_algo.parse())
        else {
            tracing::error!(?intent, "an intent of the journal makes no sense and is dropped");
            return claim.clear().await;
        };
        if let (Work::Seal, Some(volume)) = (intent.work, &intent.volume) {
            return self.unseal(volume, &image, claim).await;
        }
        if intent.work == Work::Digest {
            return self.follow(claim, image, algo);
        }
        let recovered = match self.driver() {
            Ok(driver) => driver.recover(&image).await,
            Err(error) => Err(error),
        };
        match recovered {
            // A copy that nobody was told of: it may lack its digests, and share what it was made from.
            Ok(Recovered::Whole) if self.lacks_digests(&image).await => {
                match claim.turn(Work::Digest).await {
                    Ok(claim) => self.follow(claim, image, algo),
                    Err(error) => tracing::warn!(
                        store = self.name(), image = %image, error = %error.chain(),
                        "digests cannot be taken up yet"
                    ),
                }
            }
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
