//! A put runs on a task of its own: a caller that goes away stops the bytes, not the cleaning up.

use std::{fmt, sync::Arc};

use futures_util::future::join_all;
use imaged_drivers::{
    Claim, Committed, Digests, Error, ImageId, Kind, Location, NewImage, Pieces, Reader, Result,
    Upload, Volume, memory::Share, refusals::already_exists,
};
use tokio::sync::oneshot;

use super::Store;
use crate::{
    digest::Choice,
    ids::Begun,
    jobs::Ticket,
    journal::{Intent, Work},
    metrics::Stage,
    point,
    transfer::{Account, Filled, ImageBody, Put, Taking, Target, Transfer, stopping, unwanted},
    wire::records::Receipt,
};

/// Stores `body` as an image in each of `stores`, in one pass: all or nothing in each, and each ends for
/// itself. With `all_or_none` the failure of one undoes the others, also those that had committed; until
/// then those can be read. Gives what each came to, in their order. `ready` fires when the backends are
/// prepared and bytes are wanted; it is dropped if none is to be had of any.
///
/// A crash ends what was under way in each store as it ends a put there: what had committed stays, also
/// with `all_or_none`, for its caller was told of neither.
pub async fn put_to_all(
    stores: Vec<Arc<Store>>,
    all_or_none: bool,
    mut put: Put,
    body: ImageBody,
    ready: oneshot::Sender<Taking>,
) -> Vec<Result<Receipt>> {
    let Some(shared) = stores.first().map(|store| Arc::clone(&store.shared)) else {
        return Vec::new();
    };
    let job = put.job.take();
    let mut transfer = Transfer::new(&put, &shared.stop);
    if all_or_none {
        transfer = transfer.all_or_none(stores.len());
    }
    let mut parts = Vec::new();
    for store in &stores {
        let target = transfer.target(store.name());
        let account = Account::begin("put", &put.request, store.name(), &put.id);
        let mut account = account.shown_by(job.as_ref().map(Ticket::progress));
        let (put, metrics) = (&put, &shared.metrics);
        parts.push(async move {
            let result = store.take_part(put, target, &mut account).await;
            account.end(metrics, result.as_ref().err());
            result
        });
    }
    let digesting = put.begin_digests(&shared.digests);
    let results = transfer.run(body, digesting, ready, join_all(parts)).await;
    if let Some(job) = job {
        job.finish(results.iter().find_map(|result| result.as_ref().err()).map_or(Ok(()), Err));
    }
    results
}

/// Tells whoever watches the job how it has ended.
pub(super) fn finish(job: Option<Ticket>, result: Result<Receipt>) -> Result<Receipt> {
    if let Some(job) = job {
        job.finish(result.as_ref().map(|_| ()));
    }
    result
}

/// An image that is whole in its store.
struct Stored {
    begun: Begun,
    at: Location,
    size: u64,
    committed: Committed,
    digests: Arc<Digests>,
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
        body: ImageBody,
        ready: oneshot::Sender<Taking>,
    ) -> Result<Receipt> {
        let job = put.job.take();
        let account = Account::begin("put", &put.request, self.name(), &put.id);
        let mut account = account.shown_by(job.as_ref().map(Ticket::progress));
        let result = self.put_alone(&put, body, ready, &mut account).await;
        account.end(&self.shared.metrics, result.as_ref().err());
        finish(job, result)
    }

    /// Bytes that an image of `size` may hold on its way here: as the backend likes it, at most `most`.
    #[must_use]
    pub fn put_window(&self, size: Option<u64>, most: usize) -> usize {
        let liked = self.driver().ok().and_then(|driver| driver.writes(size));
        liked.map_or(most, |Pieces { chunk, in_flight }| chunk.saturating_mul(in_flight).min(most))
    }

    /// Stores what another store reads.
    pub(super) async fn put_stream(
        &self,
        put: &mut Put,
        from: Reader,
        account: &mut Account,
    ) -> Result<Receipt> {
        put.size = Some(from.size);
        let body = ImageBody::copied(from.body);
        let (ready, _readied) = oneshot::channel();
        self.put_alone(put, body, ready, account).await
    }

    async fn put_alone(
        &self,
        put: &Put,
        body: ImageBody,
        ready: oneshot::Sender<Taking>,
        account: &mut Account,
    ) -> Result<Receipt> {
        let mut transfer = Transfer::new(put, &self.shared.stop);
        let target = transfer.target(self.name());
        let digesting = put.begin_digests(&self.shared.digests);
        transfer.run(body, digesting, ready, self.take_part(put, target, account)).await
    }

    /// Stores the image that comes by `target`, and undoes that if it is to be stored in all targets or
    /// none, and another failed.
    async fn take_part(
        &self,
        put: &Put,
        mut target: Target,
        account: &mut Account,
    ) -> Result<Receipt> {
        let stored = self.store_image(put, &mut target, account).await;
        let others = target.end(stored.as_ref().err()).await;
        let Stored { begun, at, size, committed, digests } = stored?;
        let noted = match others {
            Ok(()) => self.note_made(&begun, &at).await,
            failed => failed,
        };
        if let Err(error) = noted {
            // The claim is still ours: nobody else's image of this id can be there.
            return Err(self.undo(begun, &at, error).await);
        }
        begun.end().await;
        point::pass("put-cleared");
        Ok(self.receipt(&put.id, &at, size, committed.stored_bytes, &digests))
    }

    /// Stores the image that comes by `target`.
    async fn store_image(
        &self,
        put: &Put,
        target: &mut Target,
        account: &mut Account,
    ) -> Result<Stored> {
        let driver = self.able(|caps| caps.write, "be written to")?;
        account.skip();
        let begun = self.claim(put).await?;
        point::pass("put-claimed");
        let claim = begun.claim().clone();
        let (promised, context) = (put.promised(), put.context.clone());
        let parts = self.shared.parts(Share::Put(self.name().into()));
        let image = NewImage { claim, size: put.size, promised, context, parts };
        let created = driver.create(&image).await;
        let upload = match created {
            Ok(upload) => upload,
            Err(error) => return Err(self.release_claim(begun, unsure(error, &put.id)).await),
        };
        if let Some(token) = upload.token()
            && let Err(error) = begun.keep_token(token).await
        {
            let aborted = aborted(upload, error).await;
            return Err(self.release_claim(begun, aborted).await);
        }
        point::pass("put-created");
        account.lap(Stage::Backend);
        let at = upload.at().clone();
        match write(target, upload, account).await {
            Ok((Filled { size, digests }, committed)) => {
                point::pass("put-committed");
                Ok(Stored { begun, at, size, committed, digests })
            }
            Err(error) => Err(self.release_claim(begun, error).await),
        }
    }

    /// Claims the id, and notes who is to be able to take the image back.
    pub(super) async fn claim(&self, put: &Put) -> Result<Begun> {
        let begun =
            self.shared.ids.begin(self.intent(Work::Put, &put.id, put.choice, None)).await?;
        if let Some(maker) = put.maker
            && let Err(error) = self.note_maker(maker, begun.claim()).await
        {
            begun.end().await;
            return Err(error);
        }
        Ok(begun)
    }

    /// Notes that `maker` has an image made. There must be none of its id yet, so that what recovery finds was
    /// made since.
    async fn note_maker(&self, maker: u32, claim: &Claim) -> Result<()> {
        match self.driver()?.locate(claim.id()).await {
            Err(error) if error.kind() == Kind::NotFound => {
                self.shared.ids.made().begin(maker, self.name(), claim).await
            }
            Err(error) => Err(error),
            Ok(_) => Err(already_exists(claim.id(), self.name())),
        }
    }

    /// Notes which image was made, for who has had it made to be able to take it back.
    pub(super) async fn note_made(&self, begun: &Begun, at: &Location) -> Result<()> {
        let (made, claim) = (self.shared.ids.made(), begun.claim());
        if !made.has(claim) {
            return Ok(());
        }
        let version = self.driver()?.stat(at).await?.version;
        made.complete(claim, at, version).await
    }

    pub(super) fn intent(
        &self,
        work: Work,
        id: &ImageId,
        choice: Choice,
        volume: Option<Volume>,
    ) -> Intent {
        Intent {
            work,
            store: self.name().to_owned(),
            image: id.clone(),
            hash_algo: choice.algo,
            checksum: choice.checksum,
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

/// Writes what comes by `target` into `upload`, and ends that, by commit or by abort.
async fn write(
    target: &mut Target,
    mut upload: Box<dyn Upload>,
    account: &mut Account,
) -> Result<(Filled, Committed)> {
    let at = upload.at().clone();
    let filled = target.fill(upload.as_mut(), account).await;
    account.skip();
    let filled = match filled {
        Ok(filled) => filled,
        Err(error) => {
            let error = aborted(upload, error).await;
            account.lap(Stage::Backend);
            return Err(error);
        }
    };
    let committed = upload.commit(&filled.digests).await.map_err(|error| unsure(error, &at))?;
    account.lap(Stage::Backend);
    Ok((filled, committed))
}

/// Removes what there is of an upload because of `error`, which says so if something is left.
async fn aborted(upload: Box<dyn Upload>, error: Error) -> Error {
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
