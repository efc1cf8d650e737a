//! Images from volumes: sealed, made inside the backend or streamed, and unsealed again.

use std::sync::Arc;

use imaged_drivers::{Driver, Error, Kind, Result, Source, Volume, Volumes, window::CHUNK};

use super::{Store, put::finish};
use crate::{
    ids::Begun,
    jobs::Ticket,
    journal::Work,
    metrics::Stage,
    point,
    transfer::{Account, Put},
    wire::records::{Mode, Receipt},
};

/// Whether a failure to seal says that nothing was done.
fn refused(kind: Kind) -> bool {
    matches!(kind, Kind::NotFound | Kind::BackendDenied | Kind::Invalid | Kind::Unsupported)
}

impl Store {
    /// Makes an image from a volume that the store `via` reaches.
    ///
    /// # Errors
    /// As a put, and as sealing the volume.
    pub async fn copy_volume(
        self: Arc<Self>,
        mut put: Put,
        via: Arc<Self>,
        volume: Volume,
        mode: Mode,
    ) -> Result<Receipt> {
        let job = put.job.take();
        let account = Account::begin("copy", &put.request, self.name(), &put.id);
        let mut account = account.shown_by(job.as_ref().map(Ticket::progress));
        let result = self.sealed(&mut put, &via, &volume, mode, &mut account).await;
        account.end(&self.shared.metrics, result.as_ref().err());
        finish(job, result)
    }

    /// Seals the volume for as long as the image is made from it.
    async fn sealed(
        self: &Arc<Self>,
        put: &mut Put,
        via: &Self,
        volume: &Volume,
        mode: Mode,
        account: &mut Account,
    ) -> Result<Receipt> {
        self.able(|caps| caps.write, "be written to")?;
        let backend = via.able(|caps| caps.volumes, "reach volumes")?;
        let volumes = backend.volumes().ok_or_else(|| via.no_volumes(volume))?;
        self.wanted(put)?;
        let intent = via.intent(Work::Seal, &put.id, put.choice, Some(volume.clone()));
        let begun = self.shared.ids.begin(intent).await?;
        point::pass("volume-claimed");
        account.skip();
        let made = match volumes.seal(volume, begun.claim()).await {
            Ok(source) => {
                point::pass("volume-sealed");
                account.lap(Stage::Wait);
                self.from_sealed(put, (via, &*backend, volumes), source, mode, account).await
            }
            Err(error) if refused(error.kind()) && error.left().is_none() => {
                begun.end().await;
                return Err(error);
            }
            Err(error) => {
                let unsealed = via.unseal(volume, begun).await;
                return Err(error.leaving_nothing().after_clearing(unsealed));
            }
        };
        let _told = via.unseal(volume, begun).await;
        made
    }

    async fn from_sealed(
        self: &Arc<Self>,
        put: &mut Put,
        (via, backend, volumes): (&Self, &dyn Driver, &dyn Volumes),
        source: Source,
        mode: Mode,
        account: &mut Account,
    ) -> Result<Receipt> {
        account.skip();
        account.expect(source.size);
        if let Some(receipt) = self.inside(put, source.clone(), mode, account).await? {
            return Ok(receipt);
        }
        let window = via.window(backend, CHUNK, via.share_to(self));
        let reader = volumes.open_sealed(&source, window).await?;
        self.put_stream(put, reader, account).await
    }

    /// Removes the seal of a volume; if it cannot be removed now, the intent stays for later.
    ///
    /// # Errors
    /// Why it cannot, which the log has too.
    pub(super) async fn unseal(&self, volume: &Volume, begun: Begun) -> Result<()> {
        let unsealed = match self.driver() {
            Ok(driver) => match driver.volumes() {
                Some(volumes) => volumes.unseal(volume, begun.claim()).await,
                None => Err(self.no_volumes(volume)),
            },
            Err(down) => Err(down),
        };
        match &unsealed {
            Ok(()) => begun.end().await,
            // The user may have lost the right to it for ever.
            Err(error) => tracing::warn!(
                store = self.name(), volume = %volume, image = %begun.claim().id(), error = %error.chain(),
                "a volume cannot be unsealed yet"
            ),
        }
        unsealed
    }

    /// The refusal of a source that no store reaches.
    #[must_use]
    pub fn no_volumes(&self, volume: &Volume) -> Error {
        let (whose, kind, option) = match volume {
            Volume::Rbd(_) => ("in Ceph", "rbd in that cluster", "rbd_volume"),
            Volume::Cinder(_) => ("of Cinder", "cinder", "cinder_volume"),
        };
        Error::new(
            Kind::Unsupported,
            format!(
                "no store here reaches volumes {whose}; add one of type {kind}, or name it as the \
                 source's store: {option}=`{volume}` store=`{}`",
                self.name()
            ),
        )
    }
}
