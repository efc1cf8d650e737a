//! Which ids have a file in the making: as long as a call may still name it or remove it, nobody can
//! say what is left of it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::contract::ImageId;

/// The ids of one store, with how many calls or uploads each has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids(Arc<Mutex<BTreeMap<ImageId, usize>>>);

impl Ids {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ImageId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(crate) fn make(&self, id: &ImageId) -> Making {
        let mut ids = self.lock();
        let count = ids.entry(id.clone()).or_default();
        *count = count.saturating_add(1);
        Making { ids: self.clone(), id: id.clone() }
    }

    /// The only one; `None` while there is another.
    pub(crate) fn make_alone(&self, id: &ImageId) -> Option<Making> {
        let mut ids = self.lock();
        if ids.contains_key(id) {
            return None;
        }
        ids.insert(id.clone(), 1);
        Some(Making { ids: self.clone(), id: id.clone() })
    }
}

/// A file in the making, or a call about one. It belongs to what runs on the lane, not to who waits
/// for it: whoever gives up leaves it there.
pub(crate) struct Making {
    ids: Ids,
    id: ImageId,
}

impl Making {
    pub(crate) fn id(&self) -> &ImageId {
        &self.id
    }

    /// Whether there is no other of this id.
    pub(crate) fn is_alone(&self) -> bool {
        self.ids.lock().get(&self.id) == Some(&1)
    }
}

impl fmt::Debug for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut ids = self.ids.lock();
        if let Some(count) = ids.get_mut(&self.id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                ids.remove(&self.id);
            }
        }
    }
}
