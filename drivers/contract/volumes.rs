//! Volumes in a backend's system, as sources of images.

use std::fmt;

use async_trait::async_trait;

use super::{
    claim::Claim,
    error::Result,
    reader::{Reader, Source},
};
use crate::{Location, Volume, kit::window::Window};

/// The volumes of a backend that reaches some: [`Driver::volumes`](super::Driver::volumes).
#[async_trait]
pub trait Volumes: fmt::Debug + Send + Sync {
    /// The volume that `at` names, if it is one of this backend's system and no image of the store.
    fn volume(&self, at: &Location) -> Option<Volume>;

    /// Fixes what `volume` holds now, so that the image of `claim` can be made from it, by
    /// [`Copies::copy`](super::Copies::copy) or
    /// from the bytes of `open_sealed`. Doing it twice is doing it once more.
    ///
    /// # Errors
    /// `NotFound` if there is no such volume; `BackendDenied` if its system does not let us.
    async fn seal(&self, volume: &Volume, claim: &Claim) -> Result<Source>;

    /// Opens what `seal` gave; bytes that are read later come through `window`.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    async fn open_sealed(&self, sealed: &Source, window: Window) -> Result<Reader>;

    /// Removes what `seal` made for the id of `claim`, whether or not it did. Copies live on.
    ///
    /// # Errors
    /// It is still there; try later.
    async fn unseal(&self, volume: &Volume, claim: &Claim) -> Result<()>;
}
