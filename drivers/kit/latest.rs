//! Secrets that a reload may replace while transfers that began with the old ones go on.
//!
//! **Rule: all backends of one place use the secrets with which the place was opened last.** So the old ones
//! can be taken away as soon as a reload has succeeded. Secrets that do not open the place replace nothing.
//!
//! # Decisions
//! * Chose: one list in the process for each driver. Because: a backend that is opened anew knows nothing of
//!   the one before it, whose transfers go on; a few lines here serve every driver. Instead of: handing the
//!   old backend to the new one through the contract, which no other driver would use.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

/// The secrets of one backend.
#[derive(Debug)]
pub(crate) struct Latest<T>(Mutex<(u64, T)>);

impl<T: Clone> Latest<T> {
    /// Secrets that are used by one backend alone until they are [published](Places::publish).
    pub(crate) fn new(secrets: T) -> Arc<Self> {
        Arc::new(Self(Mutex::new((0, secrets))))
    }

    /// The secrets, and how often they were replaced before.
    pub(crate) fn get(&self) -> (u64, T) {
        self.0.lock().clone()
    }

    fn replace(&self, secrets: T) {
        let mut held = self.0.lock();
        *held = (held.0.saturating_add(1), secrets);
    }
}

/// The backends that are in use, by their place.
pub(crate) struct Places<T>(Mutex<BTreeMap<String, Vec<Weak<Latest<T>>>>>);

impl<T: Clone> Places<T> {
    /// No backend.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Has all backends of `place` use `secrets`, which have opened it.
    pub(crate) fn publish(&self, place: &str, secrets: &Arc<Latest<T>>) {
        let mut places = self.0.lock();
        places.retain(|_, backends| backends.iter().any(|backend| backend.strong_count() > 0));
        let backends = places.entry(place.to_owned()).or_default();
        backends.retain(|backend| backend.strong_count() > 0);
        let (_, newest) = secrets.get();
        for backend in backends.iter().filter_map(Weak::upgrade) {
            backend.replace(newest.clone());
        }
        backends.push(Arc::downgrade(secrets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opened_a_place_last_is_used_by_all_of_it_and_by_no_other() {
        let places = Places::new();
        let (old, elsewhere, wrong) = (Latest::new(1), Latest::new(5), Latest::new(9));
        places.publish("here", &old);
        places.publish("there", &elsewhere);
        let new = Latest::new(2);
        places.publish("here", &new);
        assert_eq!((old.get(), new.get(), elsewhere.get()), ((1, 2), (0, 2), (0, 5)));
        drop((old, wrong));
        let newer = Latest::new(3);
        places.publish("here", &newer);
        assert_eq!(new.get(), (1, 3));
        drop((new, newer, elsewhere));
        places.publish("other", &Latest::new(7));
        assert_eq!(places.0.lock().len(), 1, "what is gone is forgotten");
    }
}
