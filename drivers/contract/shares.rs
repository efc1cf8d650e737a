//! Letting others reach an image at its backend.

use std::fmt;

use async_trait::async_trait;

use super::error::Result;
use crate::Location;

/// Who may reach an image at its backend beside its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether everybody may read it.
    pub public: bool,
    /// Projects, by their ids, that may read it.
    pub read: Vec<String>,
    /// Projects, by their ids, that may write it.
    pub write: Vec<String>,
}

/// A backend that has an owner for each image, who may let others reach it.
#[async_trait]
pub trait Shares: Send + Sync + fmt::Debug {
    /// Lets these and nobody else reach `at`, whoever could before, and reads back that it is so.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a foreign location, or a project whose name would mean more than one
    /// project; `BackendDenied`.
    async fn share(&self, at: &Location, access: &Access) -> Result<()>;
}
