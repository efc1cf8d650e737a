//! The stores by name: the default, reloading, health.

use std::sync::Arc;

use futures_util::future::join_all;
use imaged_drivers::{Error, Kind, Result};

use crate::{config, daemon::Shared, store::Store};

/// Every configured store, in the order of `enabled_backends`.
#[derive(Clone, Debug)]
pub struct Stores {
    all: Vec<Arc<Store>>,
    default: String,
}

impl Stores {
    /// The stores of `config`; those of `before` whose sections are unchanged go on as they are.
    #[must_use]
    pub fn build(config: &config::Config, before: Option<&Self>, shared: &Arc<Shared>) -> Self {
        let all = config
            .stores
            .iter()
            .map(|section| {
                before
                    .and_then(|before| before.all.iter().find(|old| old.config == *section))
                    .map_or_else(
                        || Arc::new(Store::new(section.clone(), Arc::clone(shared))),
                        Arc::clone,
                    )
            })
            .collect();
        Self { all, default: config.default.clone() }
    }

    /// The store `name`.
    ///
    /// # Errors
    /// `NotFound`, with the names there are.
    pub fn get(&self, name: &str) -> Result<Arc<Store>> {
        self.all.iter().find(|store| store.name() == name).map(Arc::clone).ok_or_else(|| {
            let names: Vec<_> = self.all.iter().map(|store| store.name()).collect();
            Error::new(
                Kind::NotFound,
                format!("no such store, there are {}: store=`{name}`", names.join(", ")),
            )
        })
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

    /// Opens those that are not, and looks whether the others still can be used; all at once, so
    /// that one that hangs delays no other.
    pub async fn check(&self) {
        join_all(self.all.iter().map(|store| store.check())).await;
    }
}
