//! The end of an image's way that one store holds, and what binds those that store it together.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use imaged_drivers::{Digests, Error, Extent, Kind, Result, Upload};
use tokio::sync::{Barrier, mpsc};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use crate::{metrics::Stage, point};

/// What a target is given next; the time went into the digests.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The next bytes, or the next hole.
    Next(Extent, Duration),
    /// All have come, and are as promised.
    End(Arc<Digests>, Duration),
    /// No more will come.
    Failed(Arc<Error>),
}

/// A target, as the stages before it see it.
#[derive(Debug)]
pub(super) struct Line {
    steps: mpsc::Sender<Step>,
    /// Says each time that the target wants another step.
    free: mpsc::Receiver<()>,
}

impl Line {
    /// Waits until the target wants another step, or has ended.
    pub(super) async fn free(&mut self) {
        let _wants = self.free.recv().await;
    }

    /// Waits until the target has ended.
    pub(super) async fn ended(&self) {
        self.steps.closed().await;
    }

    pub(super) fn is_there(&self) -> bool {
        !self.steps.is_closed()
    }

    pub(super) async fn hand_on(&self, step: Step) {
        // A target that has ended is missed when it is asked whether it is free.
        let _sent = self.steps.send(step).await;
    }
}

/// The end of an image's way that one store holds.
#[derive(Debug)]
pub struct Target {
    store: String,
    /// What comes; `None` once it has let go.
    way: Option<Way>,
    together: Option<Arc<Together>>,
    stop: CancellationToken,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Way {
    steps: mpsc::Receiver<Step>,
    free: mpsc::Sender<()>,
}

impl Way {
    /// The next step, when the target has done with the last; `None` if the stages before it have ended.
    async fn next(&mut self) -> Option<Step> {
        self.free.send(()).await.ok()?;
        self.steps.recv().await
    }
}

pub(super) fn new(
    store: &str,
    together: Option<Arc<Together>>,
    stop: CancellationToken,
    cancel: CancellationToken,
) -> (Line, Target) {
    let ((to, steps), (free, is_free)) = (mpsc::channel(1), mpsc::channel(1));
    let way = Some(Way { steps, free });
    let target = Target { store: store.to_owned(), way, together, stop, cancel };
    (Line { steps: to, free: is_free }, target)
}

/// A body that has come whole and is as promised.
#[derive(Debug)]
pub struct Filled {
    /// Its length in bytes.
    pub size: u64,
    /// Its digests.
    pub digests: Arc<Digests>,
}

impl Target {
    /// Takes the body into `upload`, and lets go: nobody waits for what comes after.
    ///
    /// # Errors
    /// Why it has not come whole, or is not wanted any more; abort is the only move left.
    pub async fn fill(&mut self, upload: &mut dyn Upload, account: &mut Account) -> Result<Filled> {
        let (stop, cancel) = (self.stop.clone(), self.cancel.clone());
        let together = self.together.clone();
        let other = async {
            match &together {
                Some(together) => together.failed().await,
                None => std::future::pending().await,
            }
        };
        let filled = tokio::select! {
            filled = self.take(upload, account) => filled,
            () = stop.cancelled() => Err(stopping()),
            () = cancel.cancelled() => Err(unwanted()),
            failed = other => Err(failed),
        };
        self.let_go(filled.as_ref().err());
        filled
    }

    async fn take(&mut self, upload: &mut dyn Upload, account: &mut Account) -> Result<Filled> {
        let mut size: u64 = 0;
        account.skip();
        loop {
            let step = match &mut self.way {
                Some(way) => tokio::select! {
                    biased;
                    failed = upload.failing() => return Err(failed),
                    step = way.next() => step,
                },
                None => None,
            };
            account.lap(Stage::Receive);
            match step {
                Some(Step::Next(extent, digested)) => {
                    account.digested(digested);
                    size += extent.len();
                    account.moved(extent.len());
                    match extent {
                        Extent::Data(chunk) => upload.write(chunk).await?,
                        Extent::Hole(len) => upload.skip(len).await?,
                    }
                    account.lap(Stage::Backend);
                    point::pass("put-written");
                }
                Some(Step::End(digests, digested)) => {
                    account.digested(digested);
                    return Ok(Filled { size, digests });
                }
                Some(Step::Failed(error)) => return Err(own(error)),
                None => return Err(self.cut_off()),
            }
        }
    }

    /// The stages before it have ended, and said nothing.
    fn cut_off(&self) -> Error {
        let failed = self.together.as_ref().and_then(|together| together.failure());
        failed.unwrap_or_else(|| Error::new(Kind::Internal, "the body of this image was lost"))
    }

    /// Takes no more. Where all are to store the image, or none, `error` is the others' end too.
    fn let_go(&mut self, error: Option<&Error>) {
        // In this order: whoever finds the way closed finds why.
        if let (Some(together), Some(error)) = (&self.together, error) {
            together.fail(&self.store, error);
        }
        self.way = None;
    }

    /// The target has ended, with `error` or with a whole image. Where all are to store the image, or
    /// none: waits for the others, and fails if one of them did; the image then has to go again.
    ///
    /// # Errors
    /// Another of them failed.
    pub async fn end(mut self, error: Option<&Error>) -> Result<()> {
        self.let_go(error);
        match &self.together {
            Some(together) => together.meet().await,
            None => Ok(()),
        }
    }
}

/// The error of all targets, as one of them tells it: the last has the cause too.
fn own(error: Arc<Error>) -> Error {
    Arc::try_unwrap(error).unwrap_or_else(|shared| {
        let error = Error::new(shared.kind(), shared.to_string());
        match std::error::Error::source(&*shared) {
            Some(cause) => error.because(cause.to_string()),
            None => error,
        }
    })
}

/// What binds targets of which all store the image, or none does.
#[derive(Debug)]
pub(super) struct Together {
    /// Of the first that failed: its store, and what its caller should do next.
    first: OnceLock<(String, Kind)>,
    failed: CancellationToken,
    /// Where all of them meet when each has committed, or failed and cleaned up.
    met: Barrier,
}

impl Together {
    pub(super) fn new(targets: usize) -> Self {
        Self {
            first: OnceLock::new(),
            failed: CancellationToken::new(),
            met: Barrier::new(targets),
        }
    }

    /// Waits until one has failed.
    async fn failed(&self) -> Error {
        self.failed.cancelled().await;
        self.failure().unwrap_or_else(unwanted)
    }

    /// The error of those that did not fail, if another did.
    fn failure(&self) -> Option<Error> {
        let (store, kind) = self.first.get()?;
        let what = "the image was not stored here because another store failed (all_or_none)";
        Some(Error::new(*kind, format!("{what}: store=`{store}`")))
    }

    fn fail(&self, store: &str, error: &Error) {
        let _other_was_first = self.first.set((store.to_owned(), error.kind()));
        self.failed.cancel();
    }

    /// Waits until every target has committed, or failed and cleaned up. Rule: each comes here once, after
    /// its last call to its backend, and none waits for another before; so all of them meet.
    ///
    /// # Errors
    /// One of them failed.
    async fn meet(&self) -> Result<()> {
        self.met.wait().await;
        self.failure().map_or(Ok(()), Err)
    }
}

/// The refusal of what there is no time for any more.
#[must_use]
pub fn stopping() -> Error {
    Error::new(Kind::Unavailable, "the daemon is stopping, the image was not stored; try again")
}

/// The refusal of what nobody wants any more.
#[must_use]
pub fn unwanted() -> Error {
    Error::new(Kind::Mismatch, "the caller left or cancelled, the image was not stored")
}
