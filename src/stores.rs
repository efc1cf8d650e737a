//! The stores by name: the default, reloading, health.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use imaged_drivers::{Error, Kind, Result};

use crate::{config, shared::Shared, store::Store};

/// How long it is worth waiting for a store to open before callers are told that it is down.
const SOON: Duration = Duration::from_secs(5);

/// Every configured store, in the order of `enabled_backends`.
#[derive(Clone, Debug)]
pub struct Stores {
    all: Vec<Arc<Store>>,
    default: String,
    /// Those that are configured no longer, as long as something goes on with them.
    gone: Vec<Weak<Store>>,
}

impl Stores {
    /// The stores of `config`; those of `before` whose sections are unchanged go on as they are, and
    /// those whose backend is the same keep it open.
    #[must_use]
    pub fn build(config: &config::Config, before: Option<&Self>, shared: &Arc<Shared>) -> Self {
        let all: Vec<_> = config
            .stores
            .iter()
            .map(|section| {
                let old = before.and_then(|before| before.named(&section.name));
                match old {
                    Some(old) if old.config == *section => Arc::clone(old),
                    Some(old) if old.config.driver == section.driver => {
                        Arc::new(old.with_config(section.clone()))
                    }
                    _ => Arc::new(Store::new(section.clone(), Arc::clone(shared))),
                }
            })
            .collect();
        for (n, store) in all.iter().enumerate() {
            let (before, after) = all.split_at(n);
            store.stands_between(before, after.get(1..).unwrap_or_default());
        }
        let is_gone =
            |old: &Weak<Store>| old.upgrade().is_some_and(|old| config.store(old.name()).is_none());
        let gone = before.map_or_else(Vec::new, |before| {
            let all = before.all.iter().map(Arc::downgrade);
            before.gone.iter().cloned().chain(all).filter(is_gone).collect()
        });
        Self { all, default: config.default.clone(), gone }
    }

    /// The store `name`.
    ///
    /// # Errors
    /// `NotFound`, with the names there are.
    pub fn get(&self, name: &str) -> Result<Arc<Store>> {
        self.named(name).map(Arc::clone).ok_or_else(|| {
            let names: Vec<_> = self.all.iter().map(|store| store.name()).collect();
            Error::new(
                Kind::NotFound,
                format!("no such store, there are {}: store=`{name}`", names.join(", ")),
            )
        })
    }

    fn named(&self, name: &str) -> Option<&Arc<Store>> {
        self.all.iter().find(|store| store.name() == name)
    }

    /// The default store's name.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Store>> {
        self.all.iter()
    }

    /// Tells the stores of `before`, and those that were gone then, which of these have their places now.
    pub fn replace(&self, before: &Self) {
        let gone = before.gone.iter().filter_map(Weak::upgrade);
        for old in before.all.iter().cloned().chain(gone) {
            if let Some(new) = self.named(old.name()).filter(|new| !Arc::ptr_eq(new, &old)) {
                old.replaced_by(new);
            }
        }
    }

    /// Looks at them once; one that does not answer soon is left to a later look.
    pub async fn open_soon(&self) {
        let slow = tokio::time::timeout(SOON, self.check()).await;
        if slow.is_err() {
            let down: Vec<_> =
                self.all.iter().filter(|store| store.health().is_err()).map(|s| s.name()).collect();
            tracing::warn!(stores = down.join(", "), "not open yet, callers are served without");
        }
    }

    /// Opens those that are not, and looks whether the others still can be used; all at once, so
    /// that one that hangs delays no other.
    pub async fn check(&self) {
        join_all(self.all.iter().map(|store| store.check())).await;
    }
}
