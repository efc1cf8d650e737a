//! Which images this process is making.

use std::sync::Arc;

use super::store::{Store, lock};

/// An id that this process is making an image of, or the name of another call of which there is one at a
/// time; given up when dropped.
#[derive(Debug)]
pub(super) struct Making {
    store: Arc<Store>,
    name: String,
}

impl Making {
    pub(super) fn begin(store: &Arc<Store>, name: &str) -> Option<Self> {
        let new = lock(&store.making).insert(name.to_owned());
        new.then(|| Self { store: Arc::clone(store), name: name.to_owned() })
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.store.making).remove(&self.name);
    }
}

/// Whether this process is making an image of this name, or a call for one has not returned.
pub(super) fn is_making(store: &Store, name: &str) -> bool {
    lock(&store.making).contains(name)
}
