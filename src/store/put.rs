//! A put runs on a task of its own: a caller that goes away stops the bytes, not the cleaning up.
//! The end of a body is a message ([`Frame::End`]); a channel that closes without it is a caller
//! who left, never the end of an image.

use std::{fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use imaged_drivers::{
    Committed, Digests, Error, ImageId, Kind, Location, NewImage, Reader, Result, Upload, Volume,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Store;
use crate::{
    digest::{Algo, Digesting},
    ids::Begun,
    jobs::Ticket,
    journal::{Intent, Work},
    metrics::{Outcome, lap},
    point,
    wire::{digests::Promise, records::Receipt},
};

/// A piece of a body on its way to a store.
#[derive(Debug)]
pub enum Frame {
    /// The next bytes, never empty.
    Data(Bytes),
    /// The body is over and whole.
    End,
    /// The body failed.
    Failed(Error),
}

impl Frame {
    /// Hands it to the store.
    ///
    /// # Errors
    /// The store wants no more; its own error says why.
    pub async fn send(self, frames: &mpsc::Sender<Self>) -> Result<()> {
        frames.send(self).await.map_err(|gone| {
            Error::new(Kind::Internal, "the store ended before the body").because(gone.to_string())
        })
    }
}

/// Where a put's bytes come from.
pub enum Incoming {
    /// A caller, who may go away.
    Caller(mpsc::Receiver<Frame>),
    /// Another image; whole when the stream ends without an error.
    Image(BoxStream<'static, Result<Bytes>>),
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incoming")
    }
}

impl Incoming {
    async fn next(&mut self) -> Frame {
        match self {
            Self::Caller(frames) => frames.recv().await.unwrap_or_else(|| {
                Frame::Failed(Error::new(
                    Kind::Mismatch,
                    "the caller left before the end of the image",
                ))
            }),
            Self::Image(stream) => match stream.next().await {
                Some(Ok(bytes)) => Frame::Data(bytes),
                Some(Err(error)) => Frame::Failed(error),
                None => Frame::End,
            },
        }
    }
}

/// What to put.
#[derive(Debug)]
pub struct Put {
    /// The image's id.
    pub id: ImageId,
    /// Its length in bytes, if known; never 0 for unknown.
    pub size: Option<u64>,
    /// The multihash algorithm.
    pub algo: Algo,
    /// Digests that the bytes must have.
    pub promises: Vec<Promise>,
    /// The request's id.
    pub request: String,
    /// The job that shows the progress, if one does.
    pub job: Option<Ticket>,
    /// Fires when nobody wants the image any more; up to the commit it is then undone.
    pub cancel: CancellationToken,
}

impl Put {
    /// The digests that the image will have, if all of them are promised.
    fn promised(&self) -> Option<Digests> {
        let of = |algo| {
            let promise = self.promises.iter().find(|promise| promise.algo == algo)?;
            Some(promise.value.clone())
        };
        Some(Digests {
            checksum: of(Algo::Md5)?,
            hash_algo: self.algo.name().to_owned(),
            hash_value: of(self.algo)?,
        })
    }
}

impl Store {
    /// Stores `body` as an image, all or nothing. `ready` fires when the backend is prepared and
    /// bytes are wanted; it is dropped if the put is refused before that.
    ///
    /// # Errors
    /// Nothing is stored and the id is free, except as the error says.
    pub async fn put(
        self: Arc<Self>,
        mut put: Put,
        body: Incoming,
        ready: oneshot::Sender<()>,
    ) -> Result<Receipt> {
        let job = put.job.take();
        let mut outcome = Outcome::begin("put", &put.request, self.name(), &put.id);
        let result = self.put_inner(&put, body, ready, job.as_ref(), &mut outcome).await;
        self.over(outcome, job, result)
    }

    /// Tells the metrics, the log and whoever watches the job how it has ended.
    pub(super) fn over(
        &self,
        outcome: Outcome,
        job: Option<Ticket>,
        result: Result<Receipt>,
    ) -> Result<Receipt> {
        outcome.end(&self.shared.metrics, result.as_ref().err());
        if let Some(job) = job {
            job.finish(result.as_ref().map(|_| ()));
        }
        result
    }

    /// Stores what another store reads.
    pub(super) async fn put_stream(
        &self,
        put: &mut Put,
        from: Reader,
        job: Option<&Ticket>,
        outcome: &mut Outcome,
    ) -> Result<Receipt> {
        put.size = Some(from.size);
        let body = Incoming::Image(from.body.into_source());
        let (ready, _readied) = oneshot::channel();
        self.put_inner(put, body, ready, job, outcome).await
    }

    pub(super) async fn put_inner(
        &self,
        put: &Put,
        body: Incoming,
        ready: oneshot::Sender<()>,
        job: Option<&Ticket>,
        outcome: &mut Outcome,
    ) -> Result<Receipt> {
        let driver = self.able(|caps| caps.write, "be written to")?;
        let since = Instant::now();
        let begun = self.claim(&put.id, put.algo).await?;
        point::pass("put-claimed");
        let claim = begun.claim().clone();
        let created =
            driver.create(&NewImage { claim, size: put.size, promised: put.promised() }).await;
        let upload = match created {
            Ok(upload) => upload,
            Err(error) => return Err(self.release_claim(begun, unsure(error, &put.id)).await),
        };
        if let Some(token) = upload.token()
            && let Err(error) = begun.keep_token(token).await
        {
            let aborted = undone(upload, error).await;
            return Err(self.release_claim(begun, aborted).await);
        }
        point::pass("put-created");
        lap(&mut outcome.stages.backend, since);
        // The caller may be gone already; the body then says so.
        let _heard = ready.send(());
        let written = self.write(put, body, upload, job, outcome).await;
        let (at, size, committed, digests) = match written {
            Ok(written) => written,
            Err(error) => return Err(self.release_claim(begun, error).await),
        };
        point::pass("put-committed");
        begun.end().await;
        point::pass("put-cleared");
        let stored_bytes = committed.stored_bytes;
        Ok(self.receipt(&put.id, &at, size, stored_bytes, &digests))
    }

    pub(super) async fn claim(&self, id: &ImageId, algo: Algo) -> Result<Begun> {
        self.shared.ids.begin(self.intent(Work::Put, id, algo, None)).await
    }

    pub(super) fn intent(
        &self,
        work: Work,
        id: &ImageId,
        algo: Algo,
        volume: Option<Volume>,
    ) -> Intent {
        Intent {
            work,
            store: self.name().to_owned(),
            image: id.to_string(),
            hash_algo: algo.name().to_owned(),
            volume,
            token: None,
        }
    }

    /// A put has failed: frees the id, unless something may be left; then the journal keeps the intent.
    pub(super) async fn release_claim(&self, begun: Begun, error: Error) -> Error {
        if error.left().is_none() && error.location().is_none() {
            begun.end().await;
        }
        error
    }

    /// Writes a body into `upload` and ends it, by commit or by abort.
    async fn write(
        &self,
        put: &Put,
        body: Incoming,
        mut upload: Box<dyn Upload>,
        job: Option<&Ticket>,
        outcome: &mut Outcome,
    ) -> Result<(Location, u64, Committed, Digests)> {
        let at = upload.at().clone();
        let digesting = self.shared.digests.begin(put.algo);
        let filled = tokio::select! {
            filled = fill(put, body, upload.as_mut(), digesting, job, outcome) => filled,
            () = self.shared.stop.cancelled() => Err(stopping()),
            () = put.cancel.cancelled() => Err(unwanted()),
        };
        let since = Instant::now();
        let digests = match filled {
            Ok(digests) => digests,
            Err(error) => {
                let error = undone(upload, error).await;
                lap(&mut outcome.stages.backend, since);
                return Err(error);
            }
        };
        let committed = upload.commit(&digests).await.map_err(|error| unsure(error, &at))?;
        lap(&mut outcome.stages.backend, since);
        Ok((at, outcome.bytes, committed, digests))
    }

    /// Refuses what nobody wants any more, or what there is no time for.
    pub(super) fn wanted(&self, put: &Put) -> Result<()> {
        if put.cancel.is_cancelled() {
            return Err(unwanted());
        }
        if self.shared.stop.is_cancelled() {
            return Err(stopping());
        }
        Ok(())
    }
}

/// Removes what there is of an upload because of `error`, which says so if something is left.
async fn undone(upload: Box<dyn Upload>, error: Error) -> Error {
    let at = upload.at().clone();
    match upload.abort().await {
        Ok(()) => error,
        Err(left) => {
            let what = left.left().map_or_else(|| at.to_string(), str::to_owned);
            tracing::error!(left = %what, error = %left.chain(), "cannot clean up");
            error.leaving(what)
        }
    }
}

/// What did not answer in time may still come to be: the error says where, and so the journal keeps
/// the intent.
pub(super) fn unsure(error: Error, at: impl fmt::Display) -> Error {
    if error.kind() == Kind::Timeout && error.location().is_none() {
        return error.at(at);
    }
    error
}

fn stopping() -> Error {
    Error::new(Kind::Unavailable, "the daemon is stopping, the image was not stored; try again")
}

pub(super) fn unwanted() -> Error {
    Error::new(Kind::Mismatch, "the caller left or cancelled, the image was not stored")
}

/// Moves a body into `upload` and through the digests, and checks what was promised of it.
async fn fill(
    put: &Put,
    mut body: Incoming,
    upload: &mut dyn Upload,
    digesting: Digesting,
    job: Option<&Ticket>,
    outcome: &mut Outcome,
) -> Result<Digests> {
    let mut since = Instant::now();
    loop {
        let frame = body.next().await;
        since = lap(&mut outcome.stages.receive, since);
        let chunk = match frame {
            Frame::Data(chunk) => chunk,
            Frame::End => break,
            Frame::Failed(error) => return Err(error),
        };
        let size = outcome.bytes + chunk.len() as u64;
        if let Some(promised) = put.size.filter(|promised| size > *promised) {
            return Err(Error::new(
                Kind::Mismatch,
                format!("the body is longer than promised: promised=`{promised}` came=`{size}`"),
            ));
        }
        digesting.update(&chunk).await?;
        since = lap(&mut outcome.stages.digest, since);
        outcome.bytes = size;
        if let Some(job) = job {
            job.advance(chunk.len() as u64);
        }
        upload.write(chunk).await?;
        since = lap(&mut outcome.stages.backend, since);
        point::pass("put-written");
    }
    point::pass("put-ended");
    let size = outcome.bytes;
    if let Some(promised) = put.size.filter(|promised| *promised != size) {
        return Err(Error::new(
            Kind::Mismatch,
            format!("the body is shorter than promised: promised=`{promised}` came=`{size}`"),
        ));
    }
    let digests = digesting.finish().await?;
    lap(&mut outcome.stages.digest, since);
    for promise in &put.promises {
        let found = if promise.algo == Algo::Md5 { &digests.checksum } else { &digests.hash_value };
        if *found != promise.value {
            return Err(Error::new(
                Kind::Mismatch,
                format!(
                    "the bytes have another digest than promised: algorithm=`{}` promised=`{}` \
                     found=`{found}`",
                    promise.algo, promise.value
                ),
            ));
        }
    }
    point::pass("put-digested");
    Ok(digests)
}
