//! Claims that nobody else knows of, and what is made and cleared away under them: for calls to a driver alone.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use imaged_drivers::{
    Claim, Context, Driver, ImageId, Kind, NewImage, Recovered, Result,
    lane::Lane,
    memory::{Memory, Share},
    parts::{Parts, Spool},
};

use super::soon;
use crate::harness::again;

/// A claim on `id` that nobody else knows of: for calls to a driver alone.
pub(crate) fn claim(id: &ImageId) -> Claim {
    Claim::new(id.clone(), &uuid::Uuid::new_v4().simple().to_string(), Arc::new(()))
}

/// An image that is to be, under a claim that nobody else knows of.
pub(crate) fn new_image(id: &ImageId, size: Option<u64>) -> NewImage {
    image_of(claim(id), size)
}

/// An image that is to be, under `claim`.
pub(crate) fn image_of(claim: Claim, size: Option<u64>) -> NewImage {
    NewImage { claim, size, promised: None, context: Context::default(), parts: parts() }
}

/// Parts in memory of their own, or on disk.
pub(crate) fn parts() -> Parts {
    let lane = Lane::new("spool", 2, Duration::from_secs(60));
    let memory = Memory::new(256 << 20, 1, Duration::from_secs(60));
    Parts::new(
        &memory,
        Share::Put("test".into()),
        &Spool::new(&std::env::temp_dir(), 1 << 30, lane),
    )
}

/// A claim that is let go of when the last call under it has returned.
pub(crate) struct Held {
    pub(crate) claim: Claim,
    calls: Weak<()>,
}

impl Held {
    pub(crate) fn new(id: &ImageId) -> Self {
        let owner = Arc::new(());
        let calls = Arc::downgrade(&owner);
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        Self { claim: Claim::new(id.clone(), &nonce, owner), calls }
    }

    /// Begins an upload under it.
    pub(crate) async fn create(
        &self,
        driver: &dyn Driver,
        size: Option<u64>,
    ) -> Result<Box<dyn imaged_drivers::Upload>> {
        let claim = self.claim.clone();
        driver.create(&image_of(claim, size)).await
    }

    /// Whether a call under this claim has not returned.
    pub(crate) fn is_out(&self) -> bool {
        self.calls.strong_count() > 1
    }

    /// Clears away what an upload under it has left, as soon as no call of that is out.
    pub(crate) async fn recovered(&self, driver: &dyn Driver) -> Recovered {
        soon("an upload to be over", async {
            while self.is_out() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        recovered_under(driver, &self.claim).await
    }
}

/// Clears away what an upload has left, as soon as its backend lets that go.
pub(crate) async fn recovered(driver: &dyn Driver, id: &ImageId) -> Recovered {
    recovered_under(driver, &claim(id)).await
}

async fn recovered_under(driver: &dyn Driver, claim: &Claim) -> Recovered {
    soon("an upload to be over", async {
        loop {
            match driver.recover(claim, None).await {
                Err(error) if error.kind() == Kind::Unavailable => again().await,
                recovered => return recovered.unwrap(),
            }
        }
    })
    .await
}
