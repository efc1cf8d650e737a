//! Images in this process's memory: the smallest driver that keeps the contract. Copy it to begin
//! a new one.
//!
//! # Location
//! `mem://<store>/<id>`
//! # Commit point
//! Insertion into the map of images, under its lock.
//! # Residue
//! None: it dies with the process.
//! # Blocking
//! Nothing blocks.
//! # Limits
//! The memory of the process; `mem_capacity` bounds it. For trials and tests only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};

use crate::{
    contract::{
        Body, Capacity, Caps, Committed, Copied, Digests, Driver, Error, ImageId, Kind, Listed,
        Reader, Recovered, Result, Source, Span, Stat, Upload,
    },
    kit::{
        options::Options,
        refusals::{already_exists, foreign, missing},
        window::Window,
    },
};

/// The options of a `mem` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes that all images together may take.
    pub capacity: u64,
}

impl Config {
    /// Reads a `mem` section.
    pub fn read(options: &mut Options) -> Option<Self> {
        let capacity = options.int("mem_capacity", 1..=u64::MAX).unwrap_or(1 << 30);
        Some(Self { capacity })
    }
}

/// `mem://<store>/<id>`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    store: String,
    id: ImageId,
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("mem://").and_then(|rest| rest.split_once('/')) {
            Some((store, id)) if !store.is_empty() => {
                Ok(Self { store: store.to_owned(), id: id.parse()? })
            }
            _ => Err(Error::new(
                Kind::Invalid,
                format!("a mem location is mem://STORE/ID: location=`{text}`"),
            )),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mem://{}/{}", self.store, self.id)
    }
}

/// One store in memory.
#[derive(Debug)]
pub struct Mem {
    name: String,
    capacity: u64,
    images: Arc<Mutex<Images>>,
}

#[derive(Debug, Default)]
struct Images {
    whole: BTreeMap<ImageId, Image>,
    begun: BTreeSet<ImageId>,
    used: u64,
}

#[derive(Clone, Debug)]
struct Image {
    bytes: Bytes,
    digests: Option<Digests>,
}

impl Mem {
    /// An empty store.
    #[must_use]
    pub fn new(config: &Config, name: &str) -> Self {
        Self { name: name.to_owned(), capacity: config.capacity, images: Arc::default() }
    }

    fn at(&self, id: &ImageId) -> crate::Location {
        crate::Location::Mem(Location { store: self.name.clone(), id: id.clone() })
    }

    fn find(&self, at: &crate::Location) -> Result<(ImageId, Image)> {
        match at {
            crate::Location::Mem(at) if at.store == self.name => {
                let images = lock(&self.images);
                let image = images.whole.get(&at.id).ok_or_else(|| missing(&at.id, &self.name))?;
                Ok((at.id.clone(), image.clone()))
            }
            crate::Location::Mem(_) | crate::Location::File(_) | crate::Location::Rbd(_) => {
                Err(foreign(at, &self.name))
            }
        }
    }
}

fn lock(images: &Mutex<Images>) -> MutexGuard<'_, Images> {
    images.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn probe(&self) -> Result<Capacity> {
        let used = lock(&self.images).used;
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

    async fn create(&self, id: &ImageId, size: Option<u64>) -> Result<Box<dyn Upload>> {
        let mut images = lock(&self.images);
        if images.whole.contains_key(id) || images.begun.contains(id) {
            return Err(already_exists(id, &self.name));
        }
        if images.used.saturating_add(size.unwrap_or(0)) > self.capacity {
            return Err(full(&self.name));
        }
        images.begun.insert(id.clone());
        drop(images);
        Ok(Box::new(Writing {
            at: self.at(id),
            begun: Begun { id: id.clone(), images: Arc::clone(&self.images), held: 0 },
            name: self.name.clone(),
            capacity: self.capacity,
            bytes: Vec::new(),
        }))
    }

    async fn open(&self, at: &crate::Location, span: Span, window: Window) -> Result<Reader> {
        let (_, image) = self.find(at)?;
        let size = image.bytes.len() as u64;
        let range = span.of(size)?;
        let part = slice(&image.bytes, range.start, range.end)?;
        let chunk = window.chunk();
        let pieces = (0..part.len())
            .step_by(chunk)
            .map(move |from| Ok(part.slice(from..part.len().min(from.saturating_add(chunk)))));
        let body = Body::Stream(stream::iter(pieces.collect::<Vec<_>>()).boxed());
        Ok(Reader { at: at.clone(), identity: None, size, range, digests: image.digests, body })
    }

    async fn stat(&self, at: &crate::Location) -> Result<Stat> {
        let (_, image) = self.find(at)?;
        Ok(Stat { size: image.bytes.len() as u64, digests: image.digests })
    }

    async fn delete(&self, at: &crate::Location) -> Result<()> {
        let (id, _) = self.find(at)?;
        let mut images = lock(&self.images);
        let image = images.whole.remove(&id).ok_or_else(|| missing(&id, &self.name))?;
        images.used = images.used.saturating_sub(image.bytes.len() as u64);
        Ok(())
    }

    async fn copy(&self, from: Source, id: &ImageId) -> Result<Option<Copied>> {
        let Ok((_, image)) = self.find(&from.at) else { return Ok(None) };
        let size = image.bytes.len() as u64;
        let mut images = lock(&self.images);
        if images.whole.contains_key(id) || images.begun.contains(id) {
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

    async fn record(&self, at: &crate::Location, digests: &Digests) -> Result<()> {
        let (id, _) = self.find(at)?;
        let mut images = lock(&self.images);
        let image = images.whole.get_mut(&id).ok_or_else(|| missing(&id, &self.name))?;
        image.digests = Some(digests.clone());
        Ok(())
    }

    async fn recover(&self, id: &ImageId) -> Result<Recovered> {
        let whole = lock(&self.images).whole.contains_key(id);
        Ok(if whole { Recovered::Whole } else { Recovered::Nothing })
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let images = lock(&self.images);
        let lines: Vec<_> = images
            .whole
            .iter()
            .map(|(id, image)| {
                Ok(Listed { id: id.clone(), at: self.at(id), size: image.bytes.len() as u64 })
            })
            .collect();
        stream::iter(lines).boxed()
    }
}

fn full(store: &str) -> Error {
    Error::new(
        Kind::Full,
        format!("the store is full; delete images or raise mem_capacity: store=`{store}`"),
    )
}

fn slice(bytes: &Bytes, start: u64, end: u64) -> Result<Bytes> {
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(bytes.slice(start..end)),
        _ => Err(Error::new(Kind::Internal, "an image in memory is larger than memory")),
    }
}

/// The claim on an id and on space, given up when dropped.
#[derive(Debug)]
struct Begun {
    id: ImageId,
    images: Arc<Mutex<Images>>,
    held: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut images = lock(&self.images);
        images.begun.remove(&self.id);
        images.used = images.used.saturating_sub(self.held);
    }
}

struct Writing {
    at: crate::Location,
    begun: Begun,
    name: String,
    capacity: u64,
    bytes: Vec<u8>,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let mut images = lock(&self.begun.images);
        if images.used.saturating_add(chunk.len() as u64) > self.capacity {
            return Err(full(&self.name));
        }
        images.used += chunk.len() as u64;
        self.begun.held += chunk.len() as u64;
        drop(images);
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    fn at(&self) -> &crate::Location {
        &self.at
    }

    async fn commit(mut self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let stored_bytes = bytes.len() as u64;
        let image = Image { bytes, digests: Some(digests.clone()) };
        lock(&self.begun.images).whole.insert(self.begun.id.clone(), image);
        self.begun.held = 0; // the space is the image's now
        Ok(Committed { stored_bytes })
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
