//! Images made inside a backend from other images.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{claim::Claim, error::Result, image::Digests, reader::Source};
use crate::Location;

/// The copies of a backend that can make them: [`Driver::copies`](super::Driver::copies).
#[async_trait]
pub trait Copies: fmt::Debug + Send + Sync {
    /// Makes the image of `claim` from `from` inside the backend; no byte passes through this process.
    /// The copy lives on when its source is gone [a-copy-is-independent]. `None`: this pair
    /// cannot, the caller streams instead.
    ///
    /// # Errors
    /// As `create` and `open`.
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>>;

    /// Makes the image hold all of its bytes itself, where it still shares some with what it was
    /// copied from; no byte changes. Does nothing where it shares none.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` if `progress` ended it: it can be begun again.
    async fn flatten(&self, _at: &Location, _claim: &Claim, _progress: Progress) -> Result<()> {
        Ok(())
    }
}

/// Is told how much of a long call is done and of how much, in whatever counts there; answers whether
/// it is to go on.
pub type Progress = Arc<dyn Fn(u64, u64) -> bool + Send + Sync>;

/// What `copy` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Where the copy is.
    pub at: Location,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes that take space, not counting those shared with the source.
    pub stored_bytes: u64,
    /// Its digests, if the source's were known.
    pub digests: Option<Digests>,
    /// Whether it shares bytes with its source until `flatten`.
    pub shared: bool,
}
