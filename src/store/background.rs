//! Work in the background that does not give up: digests that follow a copy, and making a copy
//! independent of what it was made from.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use imaged_drivers::{
    Claim, Digests, Error, Kind, Location, Result, Span, memory::Share, window::CHUNK,
};

use super::Store;
use crate::{digest::Choice, ids::Begun, jobs::Ticket, metrics::Stage, transfer::Account};

/// Work in the background that does not give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Background {
    Digest(Choice),
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
    /// Computes and keeps the digests of a whole image, shown as the job `id`, then makes the image
    /// independent of what it was copied from.
    ///
    /// # Errors
    /// `NotFound` if the image is gone, `Mismatch` if it was cancelled.
    pub fn digest(
        self: &Arc<Self>,
        begun: Begun,
        choice: Choice,
        id: &str,
    ) -> impl Future<Output = Result<Digests>> + Send + use<> {
        self.digest_or_undo(begun, choice, id, None)
    }

    /// The same; where it fails, the image is removed if `undoes` says where it is.
    pub(super) fn digest_or_undo(
        self: &Arc<Self>,
        begun: Begun,
        choice: Choice,
        id: &str,
        undoes: Option<Location>,
    ) -> impl Future<Output = Result<Digests>> + Send + use<> {
        let this = Arc::clone(self);
        let image = begun.claim().id().as_str();
        let job = this.shared.jobs.begin("digest", id, this.name(), image, None);
        async move {
            let work = Background::Digest(choice);
            let result = match this.retry_until_done(&job, work, begun.claim()).await {
                Ended::Over(result) => result.and_then(|digests| {
                    digests.ok_or_else(|| Error::new(Kind::Internal, "there are no digests"))
                }),
                // The intent stays: the next start goes on.
                Ended::Stopped(error) => {
                    return Err(match undoes {
                        Some(at) => this.undo(begun, &at, error).await,
                        None => error,
                    });
                }
            };
            let shares = this.newest().driver().is_ok_and(|driver| driver.caps().flatten);
            let result = match (result, undoes) {
                (Err(error), Some(at)) => {
                    let error = this.undo(begun, &at, error).await;
                    job.finish(Err(&error));
                    return Err(error);
                }
                (result, _) => result,
            };
            if result.is_err() || !shares {
                begun.end().await;
                job.finish(result.as_ref().map(|_| ()));
                return result;
            }
            job.finish(Ok(()));
            this.shared.ids.made().renew(begun.claim()).await;
            this.flatten(begun).await;
            result
        }
    }

    /// Makes an image independent of what it was copied from, as a job of its own.
    async fn flatten(&self, begun: Begun) {
        let id = format!("flatten-{}", uuid::Uuid::new_v4());
        let image = begun.claim().id().as_str();
        let job = self.shared.jobs.begin("flatten", &id, self.name(), image, None);
        match self.retry_until_done(&job, Background::Flatten, begun.claim()).await {
            Ended::Over(result) => {
                begun.end().await;
                job.finish(result.as_ref().map(drop));
            }
            Ended::Stopped(_) => drop(begun),
        }
    }

    async fn flatten_once(&self, claim: &Claim, job: &Ticket) -> Result<()> {
        let driver = self.driver()?;
        let at = driver.locate(claim.id()).await?;
        let (shown, ended, stop) =
            (job.progress().shown(), job.cancelled(), self.shared.stop.clone());
        let progress = move |done, all| {
            shown(done, all);
            !ended.is_cancelled() && !stop.is_cancelled()
        };
        match driver.copies() {
            Some(copies) => copies.flatten(&at, claim, Arc::new(progress)).await,
            None => Ok(()),
        }
    }

    /// Tries until it succeeds, is cancelled, or the image is gone.
    async fn retry_until_done(&self, job: &Ticket, work: Background, claim: &Claim) -> Ended {
        let cancelled = job.cancelled();
        let mut pause = Duration::from_secs(1);
        loop {
            let account = Account::begin(work.name(), job.id(), self.name(), claim.id());
            let mut account = account.shown_by(Some(job.progress()));
            let tried = tokio::select! {
                tried = self.newest().once(work, claim, job, &mut account) => tried,
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
            account.end(&self.shared.metrics, tried.as_ref().err());
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
        claim: &Claim,
        job: &Ticket,
        account: &mut Account,
    ) -> Result<Option<Digests>> {
        match work {
            Background::Digest(choice) => self.digest_once(claim, choice, account).await.map(Some),
            Background::Flatten => self.flatten_once(claim, job).await.map(|()| None),
        }
    }

    async fn digest_once(
        &self,
        claim: &Claim,
        choice: Choice,
        account: &mut Account,
    ) -> Result<Digests> {
        let driver = self.driver()?;
        let at = driver.locate(claim.id()).await?;
        let share = Share::Background(self.name().into());
        let reader = self.open(&at, Span::All, CHUNK, share).await?;
        account.expect(reader.size);
        if let Some(digests) = reader.digests.filter(|digests| choice.is_met_by(digests)) {
            account.known(reader.size);
            return Ok(digests);
        }
        let mut digesting = self.shared.digests.begin(choice, false);
        let mut stream = reader.body.into_stream();
        account.skip();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            account.lap(Stage::Backend);
            digesting.update(&chunk).await?;
            account.lap(Stage::Digest);
            account.moved(chunk.len() as u64);
        }
        let digests = digesting.finish().await?;
        driver.record(&at, claim, &digests).await?;
        Ok(digests)
    }

    /// Computes the digests of an image in the background.
    pub(super) fn follow(self: &Arc<Self>, begun: Begun, choice: Choice) {
        let id = format!("digest-{}", uuid::Uuid::new_v4());
        tracing::info!(store = self.name(), image = %begun.claim().id(), job = id, "digests are taken up");
        self.shared.tasks.spawn(self.digest(begun, choice, &id));
    }
}
