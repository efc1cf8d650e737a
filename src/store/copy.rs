//! Copies from image to image: inside the backend if it can, else through the daemon.

use std::sync::Arc;

use imaged_drivers::{
    self as drivers, Claim, Error, Hold, Kind, Location, Result, Span, memory::Share,
};
use tokio::sync::oneshot;

use super::{
    Store,
    put::{finish, put_to_all, unsure},
};
use crate::{
    ids::Begun,
    jobs::Ticket,
    journal::Work,
    metrics::Stage,
    point,
    transfer::{Account, ImageBody, Put},
    wire::records::{Mode, Receipt},
};

/// Makes an image in each of `stores` from one of `source`'s, in one pass, as [`put_to_all`] stores a
/// caller's.
///
/// # Errors
/// The source cannot be read; nothing is stored then.
pub async fn copy_to_all(
    stores: Vec<Arc<Store>>,
    all_or_none: bool,
    mut put: Put,
    source: Arc<Store>,
    from: Location,
) -> Result<Vec<Result<Receipt>>> {
    let names = stores.iter().map(|store| store.name()).collect::<Vec<_>>().join("+");
    let share = Share::Copy(source.name().into(), names.into());
    let reader = match source.open(&from, Span::All, drivers::window::CHUNK, share).await {
        Ok(reader) => reader,
        Err(error) => {
            if let Some(job) = put.job.take() {
                job.finish(Err(&error));
            }
            return Err(error);
        }
    };
    put.size = Some(reader.size);
    let body = ImageBody::copied(reader.body);
    let (ready, _readied) = oneshot::channel();
    Ok(put_to_all(stores, all_or_none, put, body, ready).await)
}

/// Whether a refusal of the backend to make an image inside itself says that it has made none, and that
/// its bytes may come another way.
fn calls_for_stream(refused: &Error) -> bool {
    refused.left().is_none() && matches!(refused.kind(), Kind::Unsupported | Kind::BackendDenied)
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
        let account = Account::begin("copy", &put.request, self.name(), &put.id);
        let mut account = account.shown_by(job.as_ref().map(Ticket::progress));
        let result = self.copy_inner(&mut put, &source, &from, mode, &mut account).await;
        account.end(&self.shared.metrics, result.as_ref().err());
        finish(job, result)
    }

    async fn copy_inner(
        self: &Arc<Self>,
        put: &mut Put,
        source: &Arc<Self>,
        from: &Location,
        mode: Mode,
        account: &mut Account,
    ) -> Result<Receipt> {
        self.able(|caps| caps.write, "be written to")?;
        account.skip();
        let chunk = drivers::window::CHUNK;
        let reader = source.open(from, Span::All, chunk, source.share_to(self)).await?;
        account.lap(Stage::Wait);
        account.expect(reader.size);
        let from = reader.source();
        if let Some(receipt) = self.inside(put, from, mode, account).await? {
            return Ok(receipt);
        }
        self.put_stream(put, reader, account).await
    }

    /// Makes the image inside the backend, if `mode` wants that and the backend can; what must then be
    /// streamed instead is `None`.
    pub(super) async fn inside(
        self: &Arc<Self>,
        put: &Put,
        from: drivers::Source,
        mode: Mode,
        account: &mut Account,
    ) -> Result<Option<Receipt>> {
        if mode == Mode::Stream {
            return Ok(None);
        }
        let driver = self.driver()?;
        self.wanted(put)?;
        let begun = self.claim(put).await?;
        point::pass("copy-claimed");
        let at = from.at.clone();
        let copied = match driver.copies() {
            Some(copies) => copies.copy(from, begun.claim()).await,
            None => Ok(None),
        };
        account.lap(Stage::Backend);
        match copied {
            Ok(Some(copied)) => {
                point::pass("copy-made");
                self.copied(begun, put, copied, mode, account).await.map(Some)
            }
            Ok(None) if mode == Mode::Auto => {
                begun.end().await;
                Ok(None)
            }
            // Nothing was made, and the source's own store may read what this one may not.
            Err(error) if mode == Mode::Auto && calls_for_stream(&error) => {
                tracing::info!(
                    store = self.name(), image = %put.id, error = %error.chain(),
                    "the image cannot be made inside the backend, and is streamed"
                );
                begun.end().await;
                Ok(None)
            }
            Ok(None) => {
                begun.end().await;
                Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "this image cannot be copied inside the backend, use mode stream or auto: \
                         location=`{at}` store=`{}`",
                        self.name()
                    ),
                ))
            }
            Err(error) => Err(self.release_claim(begun, unsure(error, &put.id)).await),
        }
    }

    /// A copy inside the backend is there: gives it its digests, now or by a job.
    async fn copied(
        self: &Arc<Self>,
        begun: Begun,
        put: &Put,
        copied: drivers::Copied,
        mode: Mode,
        account: &mut Account,
    ) -> Result<Receipt> {
        let drivers::Copied { at, size, stored_bytes, digests, shared } = copied;
        account.passed_by(size);
        // Nobody could end it while it was made.
        let noted = match self.wanted(put) {
            Ok(()) => self.note_made(&begun, &at).await,
            unwanted => unwanted,
        };
        if let Err(error) = noted {
            return Err(self.undo(begun, &at, error).await);
        }
        point::pass("copy-noted");
        let digests = digests.filter(|digests| put.choice.is_met_by(digests));
        if let (Some(digests), false) = (&digests, shared) {
            begun.end().await;
            return Ok(self.receipt(&put.id, &at, size, stored_bytes, digests));
        }
        if let Err(error) = begun.turn(Work::Digest).await {
            // Nobody would compute its digests after a crash: better no image than one without.
            return Err(self.undo(begun, &at, error).await);
        }
        point::pass("copy-turned");
        let job = format!("digest-{}", uuid::Uuid::new_v4());
        let undoes = (mode == Mode::Copy).then(|| at.clone());
        let digesting = self.digest_or_undo(begun, put.choice, &job, undoes);
        if mode == Mode::Copy {
            tokio::pin!(digesting);
            let digested = tokio::select! {
                digested = digesting.as_mut() => digested,
                () = put.cancel.cancelled() => {
                    // It may just have ended by itself.
                    let _over = self.shared.jobs.cancel(&job);
                    digesting.await
                }
            };
            return digested
                .map(|digests| self.receipt(&put.id, &at, size, stored_bytes, &digests));
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
            hash_algo: put.choice.algo.name().to_owned(),
            hash_value: None,
            metadata: self.metadata(&at),
            stored_bytes,
            digest_job: Some(job),
        })
    }

    /// Removes a whole image that nobody is to have, because of `error`, which says so if it is left; then
    /// the journal keeps that it has to go.
    pub(super) async fn undo(&self, begun: Begun, at: &Location, error: Error) -> Error {
        let Err(left) = self.remove_unwanted(at, begun.claim()).await else {
            begun.end().await;
            return error;
        };
        if let Err(unwritten) = begun.turn(Work::Undo).await {
            tracing::error!(
                store = self.name(), left = %at, error = %unwritten.chain(),
                "an image that is not wanted is left, and the journal does not say so"
            );
        }
        error.because(left).leaving(at)
    }

    /// Removes a whole image; one that is gone already is no error.
    pub(super) async fn remove_unwanted(&self, at: &Location, claim: &Claim) -> Result<()> {
        match self.newest().driver()?.delete(at, Hold::of(claim)).await {
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            _ => {}
        }
        self.shared.ids.made().gone(self.name(), at).await;
        Ok(())
    }
}
