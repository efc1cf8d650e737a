//! Put, get, stat, delete and copy as every store does them: size, digests, deadline, journal, and
//! all or nothing. Here what a store is, and whether it is up; what is done with
//! its images has a file each.

mod background;
mod copy;
mod delete;
mod put;
mod read;
mod recover;
mod volume;

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

pub use copy::copy_to_all;
pub use delete::Judge;
use futures_util::{StreamExt as _, stream};
use imaged_drivers::{
    self as drivers, Capacity, Caps, Common, Digests, Driver, Error, ImageId, Kind, Location,
    Result, Site,
};
use parking_lot::Mutex;
pub use put::put_to_all;

use crate::{config, ids::Begun, journal::Intent, shared::Shared, wire::records::Receipt};

/// So many things that the journal has left over are taken up at a time.
const RECOVERIES: usize = 8;

/// A configured place for images.
pub struct Store {
    /// Its section of the configuration.
    pub config: config::Store,
    shared: Arc<Shared>,
    /// Set once, when the backend could be opened.
    driver: OnceLock<Arc<dyn Driver>>,
    health: Mutex<Result<Capacity, String>>,
    /// Held while the backend is opened or probed.
    looking: tokio::sync::Mutex<()>,
    /// How many looks have ended.
    looks: AtomicU64,
    /// The stores of the same configuration, those before it and those after it.
    siblings: Mutex<[Vec<Weak<Self>>; 2]>,
    /// Why it cannot be used beside those before it.
    barred: Mutex<Option<String>>,
    /// What of the others is good to know.
    told: Mutex<Vec<String>>,
    /// What a reload has put in its place.
    successor: OnceLock<Arc<Self>>,
    /// Held while [`Store::look_after`] brings old deletes to their end: one at a time does.
    purging: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.config.name).finish_non_exhaustive()
    }
}

impl Store {
    /// A store that has not been opened.
    #[must_use]
    pub fn new(config: config::Store, shared: Arc<Shared>) -> Self {
        let health = Mutex::new(Err("the store has not been opened yet".to_owned()));
        Self {
            config,
            shared,
            driver: OnceLock::new(),
            health,
            looking: tokio::sync::Mutex::default(),
            looks: AtomicU64::default(),
            siblings: Mutex::default(),
            barred: Mutex::default(),
            told: Mutex::default(),
            successor: OnceLock::new(),
            purging: tokio::sync::Mutex::default(),
        }
    }

    /// A store over a backend that is open already, whatever its section says of one: for drivers
    /// that no section can name, such as those of tests.
    #[must_use]
    pub fn with_driver(
        config: config::Store,
        shared: Arc<Shared>,
        driver: Arc<dyn Driver>,
    ) -> Self {
        Self { driver: OnceLock::from(driver), ..Self::new(config, shared) }
    }

    /// The same backend under another section, which differs only in what is ours.
    #[must_use]
    pub fn with_config(&self, config: config::Store) -> Self {
        let (driver, health) = (self.driver.clone(), Mutex::new(self.health()));
        Self { driver, health, ..Self::new(config, Arc::clone(&self.shared)) }
    }

    /// Tells it which stores there are beside it: those of the same configuration that come before it,
    /// and those after it.
    pub fn stands_between(&self, before: &[Arc<Self>], after: &[Arc<Self>]) {
        *self.siblings.lock() = [before, after].map(|all| all.iter().map(Arc::downgrade).collect());
    }

    /// Looks whether it has a place in common with a store before it. Of two that would have each other's
    /// images the later one cannot be used.
    fn compare(&self) {
        let Some(driver) = self.driver.get() else { return };
        let (sites, [before, _]) = (driver.sites(), self.siblings.lock().clone());
        let (mut barred, mut told) = (None, Vec::new());
        for other in before.iter().filter_map(Weak::upgrade) {
            let Some(theirs) = other.driver.get().map(|driver| driver.sites()) else { continue };
            match Site::common(&sites, &theirs, other.name()) {
                Some(Common::Refused(why)) => barred = barred.or(Some(why)),
                Some(Common::Told(what)) => told.push(what),
                None => {}
            }
        }
        let before = std::mem::replace(&mut *self.barred.lock(), barred.clone());
        match &barred {
            Some(reason) if before != barred => {
                tracing::error!(store = self.name(), reason, "store is down");
            }
            None if before.is_some() => tracing::info!(store = self.name(), "store is up"),
            _ => {}
        }
        let before = std::mem::replace(&mut *self.told.lock(), told.clone());
        for note in told.iter().filter(|note| !before.contains(note)) {
            tracing::warn!(store = self.name(), note, "a store that can be used");
        }
    }

    /// What is good to know of it although it can be used.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.driver.get().map(|driver| driver.notes()).unwrap_or_default();
        notes.extend(self.told.lock().iter().cloned());
        notes
    }

    /// A reload puts `next` in its place. Transfers under way go on with this one; work in the
    /// background, which tries until it succeeds, goes on with `next`: this one may never be open.
    pub fn replaced_by(&self, next: &Arc<Self>) {
        // Whichever came first has its place, and is replaced in its turn.
        let _replaced_already = self.successor.set(Arc::clone(next)).is_err();
    }

    /// The last that is open of this store and those that have taken its place.
    fn newest(&self) -> &Self {
        let (mut store, mut open) = (self, self);
        while let Some(next) = store.successor.get() {
            store = next;
            if next.driver.get().is_some() {
                open = next;
            }
        }
        open
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Looks at it, takes up what is left over in the journal, and brings to their end the deletes that
    /// had to wait. None of the three waits for another: any of them may take long.
    pub async fn look_after(self: &Arc<Self>, left: Vec<(Intent, Begun)>) {
        let is_open = self.driver.get().is_some();
        if !is_open {
            self.check().await;
        }
        let looked = async {
            if is_open {
                self.check().await;
            }
        };
        let recovered = stream::iter(left).for_each_concurrent(RECOVERIES, |(intent, begun)| {
            let this = Arc::clone(self);
            async move { this.take_up(&intent, begun).await }
        });
        tokio::join!(looked, recovered, self.purge());
    }

    /// Opens the backend, or looks whether it still can be used. Who calls this while another call looks
    /// shares what that one finds.
    pub async fn check(&self) {
        let before = self.looks.load(Ordering::Acquire);
        let _looking = self.looking.lock().await;
        if self.looks.load(Ordering::Acquire) != before {
            return;
        }
        let looked = match self.driver.get() {
            Some(driver) => driver.probe().await,
            None => self.open_backend().await,
        };
        let found = looked.map_err(|error| error.to_string());
        let mut health = self.health.lock();
        match (&*health, &found) {
            (Err(_), Ok(_)) => tracing::info!(store = self.name(), "store is up"),
            (Ok(_), Err(reason)) => tracing::error!(store = self.name(), reason, "store is down"),
            (Err(old), Err(reason)) if old != reason => {
                tracing::error!(store = self.name(), reason, "store is down");
            }
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
        }
        *health = found;
        drop(health);
        self.compare();
        let [_, after] = self.siblings.lock().clone();
        after.iter().filter_map(Weak::upgrade).for_each(|later| later.compare());
        self.looks.fetch_add(1, Ordering::Release);
    }

    /// Why nothing can be written although images can be read, and nobody has asked for that; `None` if
    /// all can be done, or nothing.
    #[must_use]
    pub fn reading_only(&self) -> Option<String> {
        if self.config.read_only || self.health().is_err() {
            return None;
        }
        self.driver.get()?.reading_only()
    }

    async fn open_backend(&self) -> Result<Capacity> {
        let Some(section) = &self.config.driver else {
            return Err(Error::new(
                Kind::Unavailable,
                format!("this imaged has no driver for stores of type `{}`", self.config.kind),
            ));
        };
        let (backends, host) = (&self.shared.backends, self.shared.ids.host());
        let opened = backends.open(section, self.name(), host).await?;
        let capacity = opened.probe().await?;
        // Two looks at once may both open it; the first stays.
        self.driver.get_or_init(|| opened);
        Ok(capacity)
    }

    /// Whether it can be used, with its capacity, or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn health(&self) -> Result<Capacity, String> {
        let barred = self.barred.lock().clone();
        barred.map_or_else(|| self.health.lock().clone(), Err)
    }

    /// The backend.
    ///
    /// # Errors
    /// `Unavailable` if it never could be opened, or has a place that another store has.
    pub fn driver(&self) -> Result<Arc<dyn Driver>> {
        let driver = self.driver.get().filter(|_| self.barred.lock().is_none());
        driver.map(Arc::clone).ok_or_else(|| {
            let reason = self.health().err().unwrap_or_default();
            Error::new(
                Kind::Unavailable,
                format!("the store is down: {reason}: store=`{}`", self.name()),
            )
        })
    }

    /// What it can do: what the backend can, less what the configuration forbids.
    #[must_use]
    pub fn caps(&self) -> Option<Caps> {
        let mut caps = self.driver.get()?.caps();
        if self.config.read_only {
            caps = Caps { write: false, delete: false, copy: false, ..caps };
        }
        Some(caps)
    }

    /// Refuses unless `can` holds of what the store can do.
    fn able(&self, can: impl FnOnce(Caps) -> bool, doing: &str) -> Result<Arc<dyn Driver>> {
        let driver = self.driver()?;
        if self.caps().is_some_and(can) {
            return Ok(driver);
        }
        let why = if self.config.read_only { " (imaged_read_only)" } else { "" };
        Err(Error::new(
            Kind::Unsupported,
            format!("this store cannot {doing}{why}: store=`{}`", self.name()),
        ))
    }

    fn receipt(
        &self,
        id: &ImageId,
        at: &Location,
        size: u64,
        stored_bytes: u64,
        digests: &Digests,
    ) -> Receipt {
        Receipt {
            store: self.name().to_owned(),
            id: id.to_string(),
            location: at.to_string(),
            size,
            checksum: digests.checksum.clone(),
            hash_algo: digests.hash_algo.clone(),
            hash_value: Some(digests.hash_value.clone()),
            metadata: self.metadata(at),
            stored_bytes,
            digest_job: None,
        }
    }

    fn metadata(&self, at: &Location) -> drivers::Properties {
        let mut metadata =
            self.driver().map_or_else(|_| drivers::Properties::new(), |driver| driver.metadata(at));
        metadata.insert("store".to_owned(), self.name().into());
        metadata
    }
}
