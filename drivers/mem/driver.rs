//! The contract, kept by a map under a lock.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use parking_lot::Mutex;

use super::{
    config::Config,
    images::{Begun, Image, Images, full},
    location::Location,
    read,
    upload::Writing,
};
use crate::{
    contract::{
        Capacity, Caps, Claim, Copied, Copies, Digests, Driver, Hold, Host, ImageId, Listed,
        NewImage, Reader, Recovered, Result, Source, Span, Stat, Upload,
    },
    kit::{
        refusals::{already_exists, foreign, missing},
        window::Window,
    },
};

/// Opens the store `name`; see [`crate::open`]. Another daemon never sees what is in it.
///
/// # Errors
/// None.
pub async fn open(config: &Config, name: &str, _host: &Host) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(Mem::new(config, name)))
}

/// One store in memory.
#[derive(Debug)]
pub struct Mem {
    name: String,
    capacity: u64,
    images: Arc<Mutex<Images>>,
}

impl Mem {
    /// An empty store.
    #[must_use]
    pub fn new(config: &Config, name: &str) -> Self {
        Self { name: name.to_owned(), capacity: config.capacity, images: Arc::default() }
    }

    /// How many uploads there are that have not ended.
    #[must_use]
    pub fn uploads(&self) -> usize {
        Arc::strong_count(&self.images).saturating_sub(1)
    }

    fn at(&self, id: &ImageId) -> crate::Location {
        crate::Location::Mem(Location { store: self.name.clone(), id: id.clone() })
    }

    fn find(&self, at: &crate::Location) -> Result<(ImageId, Image)> {
        let crate::Location::Mem(mem) = at else { return Err(foreign(at, &self.name)) };
        if mem.store != self.name {
            return Err(foreign(at, &self.name));
        }
        let images = self.images.lock();
        let image = images.whole.get(&mem.id).ok_or_else(|| missing(&mem.id, &self.name))?;
        Ok((mem.id.clone(), image.clone()))
    }
}

#[async_trait]
impl Driver for Mem {
    fn caps(&self) -> Caps {
        Caps {
            write: true,
            delete: true,
            seek: true,
            list: true,
            copy: true,
            descriptor: false,
            volumes: false,
            flatten: false,
        }
    }

    fn serves(&self, at: &crate::Location) -> bool {
        matches!(at, crate::Location::Mem(at) if at.store == self.name)
    }

    fn copies(&self) -> Option<&dyn Copies> {
        Some(self)
    }

    async fn probe(&self) -> Result<Capacity> {
        let used = self.images.lock().used;
        Ok(Capacity {
            total: Some(self.capacity),
            used: Some(used),
            available: Some(self.capacity.saturating_sub(used)),
            trash: None,
        })
    }

    async fn locate(&self, id: &ImageId) -> Result<crate::Location> {
        let at = self.at(id);
        self.find(&at).map(|_| at)
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        let (images, id) = (self.images.lock(), image.claim.id());
        if images.whole.contains_key(id) {
            return Err(already_exists(id, &self.name));
        }
        if images.used.saturating_add(image.size.unwrap_or(0)) > self.capacity {
            return Err(full(&self.name));
        }
        drop(images);
        Ok(Box::new(Writing {
            at: self.at(id),
            claim: image.claim.clone(),
            begun: Begun { images: Arc::clone(&self.images), held: 0 },
            name: self.name.clone(),
            capacity: self.capacity,
            bytes: Vec::new(),
        }))
    }

    async fn open(&self, at: &crate::Location, span: Span, window: Window) -> Result<Reader> {
        let (_, image) = self.find(at)?;
        let (range, body) = read::read(&image, span, window.chunk())?;
        let size = image.bytes.len() as u64;
        Ok(Reader { at: at.clone(), version: None, size, range, digests: image.digests, body })
    }

    async fn stat(&self, at: &crate::Location) -> Result<Stat> {
        let (_, image) = self.find(at)?;
        Ok(Stat { size: image.bytes.len() as u64, digests: image.digests, version: None })
    }

    async fn delete(&self, at: &crate::Location, _hold: Hold) -> Result<()> {
        let (id, _) = self.find(at)?;
        let mut images = self.images.lock();
        let image = images.whole.remove(&id).ok_or_else(|| missing(&id, &self.name))?;
        images.used = images.used.saturating_sub(image.bytes.len() as u64);
        Ok(())
    }

    async fn record(&self, at: &crate::Location, _claim: &Claim, digests: &Digests) -> Result<()> {
        let (id, _) = self.find(at)?;
        let mut images = self.images.lock();
        let image = images.whole.get_mut(&id).ok_or_else(|| missing(&id, &self.name))?;
        image.digests = Some(digests.clone());
        Ok(())
    }

    async fn recover(&self, claim: &Claim, _token: Option<&str>) -> Result<Recovered> {
        let whole = self.images.lock().whole.contains_key(claim.id());
        Ok(if whole { Recovered::Whole } else { Recovered::Nothing })
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let images = self.images.lock();
        let lines: Vec<_> = images
            .whole
            .iter()
            .map(|(id, image)| {
                Ok(Listed {
                    id: id.clone(),
                    at: self.at(id),
                    size: image.bytes.len() as u64,
                    odd: None,
                })
            })
            .collect();
        stream::iter(lines).boxed()
    }
}

#[async_trait]
impl Copies for Mem {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        let id = claim.id();
        let Ok((_, image)) = self.find(&from.at) else { return Ok(None) };
        let size = image.bytes.len() as u64;
        let mut images = self.images.lock();
        if images.whole.contains_key(id) {
            return Err(already_exists(id, &self.name));
        }
        if images.used.saturating_add(size) > self.capacity {
            return Err(full(&self.name));
        }
        images.used += size;
        images.whole.insert(id.clone(), image.clone());
        Ok(Some(Copied {
            at: self.at(id),
            size,
            stored_bytes: 0,
            digests: image.digests,
            shared: false,
        }))
    }
}
