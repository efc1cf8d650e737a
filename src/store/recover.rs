//! What a put, a copy or a seal has left that did not come to its end.

use std::sync::Arc;

use imaged_drivers::{Error, Hold, ImageId, Kind, Recovered, Result};

use super::Store;
use crate::{
    ids::Begun,
    journal::{Intent, Work},
    wire::records::Unread,
};

impl Store {
    /// What of the journal concerns this store, or may concern it, and cannot be read.
    #[must_use]
    pub fn unread_intents(&self) -> Vec<Unread> {
        self.shared.ids.unread(self.name())
    }

    /// Whether it may be a copy that was made and no more.
    async fn lacks_digests(&self, image: &ImageId) -> bool {
        let Ok(driver) = self.driver() else { return false };
        let caps = driver.caps();
        if !caps.flatten && !caps.volumes {
            return false;
        }
        match driver.locate(image).await {
            Ok(at) => driver.stat(&at).await.is_ok_and(|stat| stat.digests.is_none()),
            Err(_) => false,
        }
    }

    /// Removes a whole image that nobody is to have.
    async fn undo_again(&self, image: &ImageId, begun: Begun) {
        let removed = async {
            match self.driver()?.locate(image).await {
                Ok(at) => self.remove_unwanted(&at, begun.claim()).await,
                Err(gone) if gone.kind() == Kind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        };
        match removed.await {
            Ok(()) => {
                tracing::info!(store = self.name(), image = %image, "an image that was not wanted is removed");
                begun.end().await;
            }
            Err(error) => tracing::warn!(
                store = self.name(), image = %image, error = %error.chain(),
                "an image that is not wanted cannot be removed yet"
            ),
        }
    }

    /// A whole image was found: notes it for who has had it made, if it is the one of that work.
    async fn note_found(&self, begun: &Begun) -> Result<()> {
        if !self.shared.ids.made().has(begun.claim()) {
            return Ok(());
        }
        let driver = self.driver()?;
        let at = driver.locate(begun.claim().id()).await?;
        if driver.is_made_by(&at, begun.claim()).await? {
            self.note_made(begun, &at).await?;
        }
        Ok(())
    }

    /// Removes what an upload of `image` has left that another daemon began and cannot end.
    ///
    /// # Errors
    /// `InUse` while its daemon is alive, or if this one is at work with the image; `Unsupported` where that
    /// cannot be told, or if the store is read-only.
    pub async fn recover(&self, image: &ImageId, request: &str) -> Result<Recovered> {
        let driver = self.able(|caps| caps.write, "be written to")?;
        let at = driver.place(image);
        let hold = at.map_or_else(Hold::default, |at| self.shared.ids.hold(self.name(), &at));
        // After the hold: whoever makes an image looks in the other order.
        if let Some(intent) = self.shared.ids.of(self.name(), image) {
            return Err(Error::new(
                Kind::InUse,
                format!(
                    "this daemon is at work with the image, and ends it or clears it away by itself: \
                     id=`{image}` store=`{}` work=`{:?}`",
                    self.name(),
                    intent.work
                ),
            ));
        }
        let recovered = driver.clear_abandoned(image, hold).await;
        let found = recovered.as_ref().map_or_else(Error::chain, |found| format!("{found:?}"));
        tracing::info!(request, store = self.name(), image = %image, found, "an upload is recovered by hand");
        recovered
    }

    /// Removes what an unfinished put of `image` has left, or takes up its digests again.
    pub async fn take_up(self: &Arc<Self>, intent: &Intent, begun: Begun) {
        let (image, choice) = (&intent.image, intent.choice());
        if let (Work::Seal, Some(volume)) = (intent.work, &intent.volume) {
            let _told = self.unseal(volume, begun).await;
            return;
        }
        if intent.work == Work::Digest {
            return self.follow(begun, choice);
        }
        if intent.work == Work::Undo {
            return self.undo_again(image, begun).await;
        }
        let recovered = match self.driver() {
            Ok(driver) => driver.recover(begun.claim(), intent.token.as_deref()).await,
            Err(error) => Err(error),
        };
        let recovered = match recovered {
            Ok(Recovered::Whole) => self.note_found(&begun).await.map(|()| Recovered::Whole),
            recovered => recovered,
        };
        match recovered {
            // A copy that nobody was told of: it may lack its digests, and share what it was made from.
            Ok(Recovered::Whole) if self.lacks_digests(image).await => {
                match begun.turn(Work::Digest).await {
                    Ok(()) => self.follow(begun, choice),
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
                begun.end().await;
            }
            // Dropped, it leaves the intent for the next round.
            Err(error) => tracing::warn!(
                store = self.name(), image = %image, error = %error.chain(),
                "an unfinished put cannot be resolved yet"
            ),
        }
    }
}
