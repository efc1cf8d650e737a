//! Removing images, also those that our own work in the background still holds open.

use std::{sync::Arc, time::Duration};

use imaged_drivers::{Digests, Driver, Error, Hold, ImageId, Kind, Location, Result};

use super::Store;
use crate::{
    journal::{Intent, Work},
    transfer::Account,
};

/// How often a delete looks whether our own work with the image has ended.
const TRIES: u32 = 200;
const BETWEEN: Duration = Duration::from_millis(25);
/// How often it tries once that has: what it had open is closed a moment later.
const CLOSING: u32 = 40;

/// Whether an image that has these digests may go.
pub type Judge<'a> = &'a (dyn Fn(Option<&Digests>) -> Result<()> + Send + Sync);

impl Store {
    /// Removes an image.
    ///
    /// # Errors
    /// See [`Driver::delete`]; `Unsupported` if the store is read-only.
    pub async fn delete(self: &Arc<Self>, at: &Location, request: &str) -> Result<()> {
        self.delete_if(at, request, None, None).await
    }

    /// Removes an image if `judge` has nothing against that, and `maker`, if one is named, has had it made and
    /// is the one who may take it back.
    ///
    /// # Errors
    /// As [`Store::delete`]; `Denied` if another has had it made; what `judge` says.
    pub async fn delete_if(
        self: &Arc<Self>,
        at: &Location,
        request: &str,
        maker: Option<u32>,
        judge: Option<Judge<'_>>,
    ) -> Result<()> {
        // Before it looks whether the image is being made: whoever makes one looks in the other order.
        let hold = self.shared.ids.hold(self.name(), at);
        let account = Account::begin("delete", request, self.name(), at);
        let result = match self.able(|caps| caps.delete, "delete images") {
            Ok(driver) if self.is_being_made(&*driver, at) => Err(Error::new(
                Kind::NotFound,
                format!("no such image, it is being made: image=`{at}` store=`{}`", self.name()),
            )),
            Ok(driver) => match self.may_go(&*driver, at, maker, judge).await {
                Ok(()) => self.delete_followed(&*driver, at, hold.clone()).await,
                Err(refused) => Err(refused),
            },
            Err(error) => Err(error),
        };
        if result.is_ok() {
            // Nor does the note of the next image of this name go: the hold is there still.
            self.shared.ids.made().gone(self.name(), at).await;
        }
        drop(hold);
        account.end(&self.shared.metrics, result.as_ref().err());
        result
    }

    /// Refuses a `maker` who has not had this very image made, and what `judge` refuses. The hold keeps another
    /// image from coming to be there meanwhile.
    async fn may_go(
        &self,
        driver: &dyn Driver,
        at: &Location,
        maker: Option<u32>,
        judge: Option<Judge<'_>>,
    ) -> Result<()> {
        if maker.is_none() && judge.is_none() {
            return Ok(());
        }
        let stat = driver.stat(at).await?;
        if let Some(maker) = maker {
            self.may_take_back(at, maker, stat.version.as_deref())?;
        }
        judge.map_or(Ok(()), |judge| judge(stat.digests.as_ref()))
    }

    fn may_take_back(&self, at: &Location, maker: u32, version: Option<&str>) -> Result<()> {
        let noted = self.shared.ids.made().version(maker, self.name(), at);
        if noted.is_some() && noted.as_deref() == version {
            return Ok(());
        }
        Err(Error::new(
            Kind::Denied,
            format!(
                "this user has not had this image made of a volume within the last hour: image=`{at}` \
                 store=`{}`",
                self.name()
            ),
        ))
    }

    /// **Rule: when a delete has returned, the id is free of our own work with the image that was there.** Digests
    /// that are to be tried again in some minutes would keep it till then.
    async fn delete_followed(
        self: &Arc<Self>,
        driver: &dyn Driver,
        at: &Location,
        hold: Hold,
    ) -> Result<()> {
        // Where it was cannot be looked up afterwards.
        let follows = self.follows(driver, at).await;
        let deleted = match driver.delete(at, hold.clone()).await {
            Err(error) if error.kind() == Kind::InUse => {
                self.delete_undisturbed(driver, at, hold, error, follows.clone()).await
            }
            deleted => deleted,
        };
        let is_gone =
            deleted.as_ref().map_or_else(|error| error.kind() == Kind::NotFound, |()| true);
        if let Some(intent) = follows.filter(|_| is_gone) {
            self.end_work(&intent.image).await;
        }
        deleted
    }

    /// Our own work in the background with the very image at `at`: one of the same name elsewhere keeps its own.
    async fn follows(&self, driver: &dyn Driver, at: &Location) -> Option<Intent> {
        for intent in self.shared.ids.at_work(self.name(), Work::Digest) {
            let id = &intent.image;
            // Where the id says where an image is, it is also its name.
            if driver.place(id).is_some() && id.as_str() != at.image() {
                continue;
            }
            match driver.locate(id).await {
                Ok(there) if there == *at => return Some(intent),
                // It will not answer for the others either, and a delete is not to wait for each.
                Err(error) if error.kind() != Kind::NotFound => return None,
                _ => {}
            }
        }
        None
    }

    /// Ends our work with an image, and waits for a while until it has let go of the id. The delete's hold keeps new
    /// work of this id from being ended as well.
    async fn end_work(&self, image: &ImageId) {
        // The digests may be over and the flattening about to begin, or either about to end.
        for _ in 0..TRIES {
            let jobs = &self.shared.jobs;
            for job in jobs.background(self.name(), image.as_str()) {
                if jobs.cancel(&job).is_ok() {
                    // One that is forgotten by then is over as well.
                    let _over = jobs.get(&job, Duration::from_secs(60)).await;
                }
            }
            if self.shared.ids.of(self.name(), image).is_none() {
                return;
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Whether an image that will be at `at` is being made, so that there is none yet.
    fn is_being_made(&self, driver: &dyn Driver, at: &Location) -> bool {
        let made = self.shared.ids.at_work(self.name(), Work::Put);
        // Those whose place is not known from the id alone have no name before they are whole.
        made.iter().any(|intent| driver.place(&intent.image).is_some_and(|place| place == *at))
    }

    /// Brings to their end the deletes that had to wait, unless another round is at it.
    pub(super) async fn purge(&self) {
        let Ok(_alone) = self.purging.try_lock() else { return };
        let Ok(driver) = self.driver() else { return };
        if self.config.read_only {
            return;
        }
        if let Err(error) = driver.purge().await {
            let error = error.chain();
            tracing::warn!(
                store = self.name(),
                error,
                "old deletes cannot be brought to their end"
            );
        }
    }

    /// Deletes an image that our own work in the background kept from going, as `refused` said: that
    /// work is ended first, and taken up again if the image stays all the same. `before`: that work, if it was seen
    /// before the delete.
    async fn delete_undisturbed(
        self: &Arc<Self>,
        driver: &dyn Driver,
        at: &Location,
        hold: Hold,
        refused: Error,
        before: Option<Intent>,
    ) -> Result<()> {
        // Ours may have ended, or begun, just now.
        let Some(intent) = self.follows(driver, at).await.or(before) else {
            return driver.delete(at, hold).await;
        };
        self.end_work(&intent.image).await;
        let mut deleted = Err(refused);
        for _ in 0..CLOSING {
            deleted = driver.delete(at, hold.clone()).await;
            if !deleted.as_ref().is_err_and(|error| error.kind() == Kind::InUse) {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        let stays = deleted.as_ref().is_err_and(|error| error.kind() != Kind::NotFound);
        if stays && self.shared.ids.of(self.name(), &intent.image).is_none() {
            let choice = intent.choice();
            let begun = self.shared.ids.begin(intent).await?;
            self.follow(begun, choice);
        }
        deleted
    }
}
