//! Volumes in a backend's system, as sources of images.

use std::{fmt, path::Path};

use async_trait::async_trait;

use super::{
    claim::Claim,
    error::Result,
    reader::{Reader, Source},
};
use crate::{Location, Volume, kit::window::Window};

/// Who makes images of volumes, and of which.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The store that the images go to.
    pub store: &'a str,
    /// Where the daemon listens.
    pub socket: &'a Path,
    /// The pools of Ceph that have volumes, for backends that know such.
    pub pools: &'a [String],
}

/// Something beyond the daemon's own configuration that images of volumes need.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Need {
    /// What it is, for people.
    pub what: String,
    /// The commands, or the lines of a configuration, that give it: as they are to be written.
    pub lines: Vec<String>,
    /// Whether it is given.
    #[serde(flatten)]
    pub standing: Standing,
}

/// Whether something is given, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", content = "why", rename_all = "kebab-case")]
pub enum Standing {
    /// It was looked at, and is.
    Given(String),
    /// It was looked at, and is not.
    Missing(String),
    /// It cannot be looked at from here, or not now.
    NotChecked(String),
}

impl Need {
    /// One that cannot be looked at from here, because of `why`.
    #[must_use]
    pub fn not_checked<L: Into<String>>(
        what: impl Into<String>,
        lines: impl IntoIterator<Item = L>,
        why: &str,
    ) -> Self {
        let lines = lines.into_iter().map(Into::into).collect();
        Self { what: what.into(), lines, standing: Standing::NotChecked(why.to_owned()) }
    }
}

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

    /// What [`Config::needs`](crate::Config::needs) says, each looked at as far as it can be from here. Changes nothing.
    async fn needs(&self, asker: &Asker<'_>) -> Vec<Need>;

    /// Removes what `seal` made for the id of `claim`, whether or not it did. Copies live on.
    ///
    /// # Errors
    /// It is still there; try later.
    async fn unseal(&self, volume: &Volume, claim: &Claim) -> Result<()>;
}
