//! The ownership of an id, as a driver holds it.

use std::{any::Any, fmt, sync::Arc};

use super::image::ImageId;

/// The ownership of an id, while an image of it is made or cleared away. Cheap to clone.
///
/// Rule: whatever a call sets going that may outlast it, such as a closure on a lane, holds a clone
/// until it has ended. The id is free when the last clone is gone, and not before.
#[derive(Clone)]
pub struct Claim {
    id: ImageId,
    nonce: Arc<str>,
    _owner: Owner,
}

impl Claim {
    /// The claim on `id`, for work that `nonce` tells from all other; `owner` is dropped with its last
    /// clone.
    #[must_use]
    pub fn new(id: ImageId, nonce: &str, owner: Owner) -> Self {
        Self { id, nonce: nonce.into(), _owner: owner }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &ImageId {
        &self.id
    }

    /// What tells this work from every other with the same id: letters and digits, at most 36. The same
    /// again when what it left is cleared away, also by the next process.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}

/// Keeps a place from being taken anew while something of it is being removed. Cheap to clone.
///
/// Rule: whatever a delete sets going that may outlast it holds a clone until it has ended. So a delete
/// that is late never meets the next image of that place.
#[derive(Clone, Default)]
pub struct Hold(#[expect(dead_code, reason = "only its end matters")] Option<Owner>);

type Owner = Arc<dyn Any + Send + Sync>;

impl Hold {
    /// A hold that lasts until `owner` is dropped with its last clone.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self(Some(owner))
    }

    /// A hold on the place of a claim's image, which is that claim.
    #[must_use]
    pub fn of(claim: &Claim) -> Self {
        Self::new(Arc::new(claim.clone()))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}
