//! The contract, kept by calls to the [`Store`] on its lane.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use parking_lot::Mutex;

use super::{
    config::{Config, Datadir},
    directory::Directory,
    location::Location,
    note::Note,
    removing::Removing,
    store::{Listing, Store},
    upload,
};
use crate::{
    contract::{
        Body, Capacity, Caps, Claim, Copied, Copies, Digests, Driver, Hold, Host, ImageId, Listed,
        NewImage, Part, Properties, Reader, Recovered, Result, Site, Source, Span, Stat, Upload,
    },
    kit::{DropOnLane, file_body::FileBody, lane::Lane, refusals::missing, window::Window},
};

/// Opens the store `name`; see [`crate::open`].
///
/// # Errors
/// As [`File::open`].
pub async fn open(config: &Config, name: &str, host: &Host) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(File::open(config, name, &host.instance).await?))
}

/// One file store.
#[derive(Clone, Debug)]
pub struct File(Arc<Store>);

impl File {
    /// Opens the store `name`; see [`crate::open`]. It is open when images can be read.
    ///
    /// # Errors
    /// What is wrong with its directories, with the remedy, if none of them can be read.
    pub async fn open(config: &Config, name: &str, instance: &str) -> Result<Self> {
        let lane = Lane::new(name, config.threads, config.timeout);
        let dir = |dir: &Datadir| Directory::new(dir.path.clone(), Some(dir.priority));
        let also = |path: &PathBuf| Directory::new(path.clone(), None);
        let store = Store {
            name: name.to_owned(),
            instance: instance.to_owned(),
            config: config.clone(),
            data: config.datadirs.iter().map(dir).collect(),
            also: config.also_directories.iter().map(also).collect(),
            mounts: Mutex::default(),
            unread: Note::default(),
            refused: Note::default(),
            lane: lane.clone(),
            naming: Mutex::new(()),
            removing: Removing::default(),
        };
        let open = move || {
            store.survey()?;
            Ok(Self(Arc::new(store)))
        };
        lane.run("open the store", open).await
    }

    async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.0);
        self.0.lane.run(doing, move || work(&store)).await
    }
}

#[async_trait]
impl Driver for File {
    fn caps(&self) -> Caps {
        Caps {
            write: true,
            delete: true,
            seek: true,
            list: true,
            copy: true,
            descriptor: true,
            volumes: false,
            flatten: false,
        }
    }

    fn serves(&self, at: &crate::Location) -> bool {
        self.0.serves(at)
    }

    fn properties(&self) -> Properties {
        let config = &self.0.config;
        let mut facts = Properties::new();
        if let Some(first) = config.datadirs.first() {
            facts.insert("data_dir".into(), first.path.display().to_string().into());
        }
        let entry = |dir: &Directory| {
            let usable = dir.usable();
            let mut entry = serde_json::json!({
                "path": dir.path.display().to_string(),
                "also": dir.priority.is_none(),
                "state": usable.word(),
            });
            if let (Some(reason), Some(entry)) = (usable.reason(), entry.as_object_mut()) {
                entry.insert("reason".into(), reason.into());
            }
            entry
        };
        let directories: Vec<_> = self.0.data.iter().chain(&self.0.also).map(entry).collect();
        facts.insert("directories".into(), directories.into());
        facts.insert("chunk_size".into(), config.chunk_size.into());
        facts.insert("thin_provisioning".into(), config.thin.into());
        facts
    }

    fn metadata(&self, at: &crate::Location) -> Properties {
        let crate::Location::File(at) = at else { return Properties::new() };
        let mounts = self.0.mounts.lock();
        let Some(mount) = mounts.iter().find(|mount| at.path().starts_with(&mount.mountpoint))
        else {
            return Properties::new();
        };
        let mut facts = mount.rest.clone();
        facts.insert("mountpoint".into(), mount.mountpoint.clone().into());
        facts
    }

    fn busy(&self) -> usize {
        self.0.lane.busy()
    }

    fn copies(&self) -> Option<&dyn Copies> {
        Some(self)
    }

    async fn probe(&self) -> Result<Capacity> {
        self.run("look at the store", |store| store.survey()).await
    }

    fn parts(&self) -> Vec<Part> {
        self.0.parts()
    }

    fn sites(&self) -> Vec<Site> {
        self.0.data.iter().filter_map(Directory::site).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.0.notes()
    }

    fn reading_only(&self) -> Option<String> {
        self.0.reading_only()
    }

    async fn locate(&self, id: &ImageId) -> Result<crate::Location> {
        let id = id.clone();
        self.run("look for an image", move |store| match store.find(&id)? {
            Some(dir) => Ok(crate::Location::File(Location::new(&dir.path, id.as_str()))),
            None => Err(missing(&id, &store.name)),
        })
        .await
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        let NewImage { claim, size, .. } = image.clone();
        let target = self
            .run("create an image", move |store| {
                Ok(DropOnLane::new(&store.lane, upload::Target::create(store, claim, size)?))
            })
            .await?;
        Ok(Box::new(upload::Writing::new(self.0.lane.clone(), target)))
    }

    async fn open(&self, at: &crate::Location, span: Span, window: Window) -> Result<Reader> {
        let (at, lane) = (at.clone(), self.0.lane.clone());
        self.run("open an image", move |store| {
            let opened = store.entry(&at)?.open()?;
            let digests = opened.digests();
            let size = opened.file.size;
            let range = span.of(size)?;
            let body = Body::File(FileBody::new(opened.file, range.clone(), lane, window));
            Ok(Reader { at, version: None, size, range, digests, body })
        })
        .await
    }

    async fn stat(&self, at: &crate::Location) -> Result<Stat> {
        let at = at.clone();
        self.run("look at an image", move |store| {
            let opened = store.entry(&at)?.open()?;
            Ok(Stat { size: opened.file.size, digests: opened.digests(), version: None })
        })
        .await
    }

    async fn delete(&self, at: &crate::Location, hold: Hold) -> Result<()> {
        let at = at.clone();
        let remove = move |store: &Arc<Store>| {
            let _until_done = hold;
            store.remove(&at)
        };
        self.run("delete an image", remove).await
    }

    async fn record(&self, at: &crate::Location, claim: &Claim, digests: &Digests) -> Result<()> {
        let (at, claim, digests) = (at.clone(), claim.clone(), digests.clone());
        self.run("keep digests", move |store| {
            let _until_done = claim;
            store.entry(&at)?.open()?.record(&digests)
        })
        .await
    }

    async fn recover(&self, claim: &Claim, _token: Option<&str>) -> Result<Recovered> {
        let claim = claim.clone();
        self.run("clear away an unfinished upload", move |store| {
            let id = claim.id();
            let mut removed = Vec::new();
            for dir in &store.data {
                let open = dir.open()?;
                for part in store.parts_of(&claim) {
                    // Looked for first: where nothing can be written, nothing was left either.
                    if open.has(&part)? && open.remove(&part)? {
                        open.sync()?;
                        removed.push(dir.path.join(&part).display().to_string());
                    }
                }
            }
            Ok(match (store.find(id)?, removed.is_empty()) {
                (Some(_), _) => Recovered::Whole,
                (None, true) => Recovered::Nothing,
                (None, false) => Recovered::Removed(removed),
            })
        })
        .await
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let this = self.clone();
        // What can be listed comes first, and then why it is not all.
        let failed = Arc::new(Mutex::new(Vec::new()));
        let failures = Arc::clone(&failed);
        let listed = stream::iter(0..self.0.data.len()).map(move |number| {
            let failures = Arc::clone(&failures);
            let pages = pages(this.clone(), number);
            pages.filter_map(move |page| {
                let page = page.map_err(|error| failures.lock().push(error));
                async move { page.ok().map(stream::iter) }
            })
        });
        let wrong = stream::once(async move {
            let failed = std::mem::take(&mut *failed.lock());
            stream::iter(failed)
        });
        listed.flatten().flatten().map(Ok).chain(wrong.flatten().map(Err)).boxed()
    }
}

/// The images of one directory, a page at a time, until it fails or ends.
fn pages(of: File, number: usize) -> impl Stream<Item = Result<Vec<Listed>>> {
    let lane = of.0.lane.clone();
    stream::try_unfold(None, move |listing: Option<Arc<DropOnLane<Listing>>>| {
        let (of, lane) = (of.clone(), lane.clone());
        async move {
            let begin = move |store: &Arc<Store>| {
                let Some(dir) = store.data.get(number) else { return Ok(None) };
                Ok(Some(Arc::new(DropOnLane::new(&lane, store.listing(dir)?))))
            };
            let listing = match listing {
                Some(listing) => listing,
                None => match of.run("list images", begin).await? {
                    Some(listing) => listing,
                    None => return Ok(None),
                },
            };
            let more = Arc::clone(&listing);
            let page = of.run("list images", move |store| store.images(&more)).await?;
            Ok((!page.is_empty()).then_some((page, Some(listing))))
        }
    })
}

#[async_trait]
impl Copies for File {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        let Some(source) = from.file else { return Ok(None) };
        let (claim, size) = (claim.clone(), from.size);
        let begin = move |store: &Arc<Store>| {
            let target = upload::Target::create(store, claim, Some(size))?;
            let same = target.is_beside(&source)?;
            Ok((DropOnLane::new(&store.lane, target), source, same))
        };
        let (target, source, same) = self.run("create an image", begin).await?;
        if !same {
            self.run("abandon a copy", move |_| target.abort()).await?;
            return Ok(None);
        }
        let at = target.at().clone();
        let digests = from.digests;
        let stored_bytes = upload::copy(&self.0.lane, target, source, digests.clone()).await?;
        Ok(stored_bytes.map(|stored_bytes| Copied {
            at,
            size,
            stored_bytes,
            digests,
            shared: false,
        }))
    }
}
