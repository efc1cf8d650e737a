//! Calls about one object of a backend, one after the other.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// So many that few wait for others by chance.
const COUNT: usize = 64;

/// Where calls about one object meet. Clones are the same.
#[derive(Clone)]
pub(crate) struct Turns(Arc<[Arc<Mutex<()>>; COUNT]>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Arc::default())))
    }
}

impl Turns {
    /// Waits until no other call has the turn of this object.
    pub(crate) async fn of(&self, object: &impl Hash) -> OwnedMutexGuard<()> {
        let mut hasher = DefaultHasher::new();
        object.hash(&mut hasher);
        let nth = usize::try_from(hasher.finish() % COUNT as u64).unwrap_or_default();
        // There is one for each remainder.
        self.0.get(nth).map(Arc::clone).unwrap_or_default().lock_owned().await
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}
