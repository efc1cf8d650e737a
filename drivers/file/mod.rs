//! Images as plain files, one a file, laid out as glance_store's filesystem driver does.
//!
//! # Location
//! `file://` and the absolute path `<datadir>/<id>`. `filesystem://` is read too. Nothing outside
//! the configured directories can be opened or removed: paths are resolved by `openat2` with
//! `RESOLVE_BENEATH`.
//! # Commit point
//! `linkat` of an unnamed file (`O_TMPFILE`) after its fsync, then fsync of the directory. Where
//! the filesystem has no unnamed files (NFS), a staged file takes their place.
//! # Residue
//! None; with staged files `.imaged-<id>-<instance>.part` after a crash, removed by `recover`.
//! # Blocking
//! Everything; all calls run on the store's own lane, and files that are let go of elsewhere are closed
//! aside.
//! # Limits
//! Digests are kept in an extended attribute; a filesystem without such attributes forgets them. Where files are staged, ids have at most 233 bytes.
//!
//! # Decisions
//! * Chose: a missing directory is an error. Because: most often it is a mount that is not there,
//!   and what is written beneath it would fill the root disk and vanish with the mount. Instead
//!   of: creating it, as glance_store does.
//! * Chose: an id that exists in any of the directories is taken, also at the commit. Because: it
//!   could not be told apart afterwards. Instead of: looking only into the directory chosen for
//!   writing. Where there are several, commits of one store take turns at looking and naming; of
//!   two daemons that share them, both could name an id at the same instant.
//! * Chose: an id is not recovered while any call for it has not returned. Because: a commit that
//!   hung may name its image after `recover` has found nothing, or link what a later upload has
//!   staged by then. Instead of: trusting what the directory shows.

mod config;
mod location;
mod making;
mod place;
mod read;
mod upload;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
pub use config::{Config, Datadir};
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
pub use location::Location;
use place::{Dir, Entry};
pub use read::{Body, Shared};
use rustix::fs::{AtFlags, StatVfs};
use serde::Deserialize;

use crate::{
    Capacity, Caps, Copied, Digests, Driver, Error, ImageId, Kind, Listed, Properties, Reader,
    Recovered, Result, Source, Span, Stat, Upload, foreign,
    lane::{Aside, Lane},
    missing,
    window::Window,
};

/// One file store.
#[derive(Clone, Debug)]
pub struct File(Arc<Store>);

#[derive(Debug)]
struct Store {
    name: String,
    instance: String,
    config: Config,
    mounts: Vec<Mount>,
    lane: Lane,
    /// Held while a file gets its name, where there are several directories.
    naming: Mutex<()>,
    making: making::Ids,
}

/// An entry of `filesystem_store_metadata_file`.
#[derive(Debug, Deserialize)]
struct Mount {
    mountpoint: String,
    #[serde(flatten)]
    rest: Properties,
}

impl File {
    /// Opens the store `name`; see [`crate::open`].
    ///
    /// # Errors
    /// What is wrong with its directories, with the remedy.
    pub async fn open(config: &Config, name: &str, instance: &str) -> Result<Self> {
        let lane = Lane::new(name, config.threads, config.timeout);
        let metadata_file = config.metadata_file.clone();
        let dirs = config.datadirs.clone();
        let mode = config.file_perm;
        let mounts = lane
            .run("open the store", move || {
                survey(&dirs)?;
                if let Some(mode) = mode {
                    for dir in &dirs {
                        place::let_through(&dir.path, mode)?;
                    }
                }
                metadata_file.as_deref().map_or(Ok(Vec::new()), read_mounts)
            })
            .await?;
        Ok(Self(Arc::new(Store {
            name: name.to_owned(),
            instance: instance.to_owned(),
            config: config.clone(),
            mounts,
            lane,
            naming: Mutex::new(()),
            making: making::Ids::default(),
        })))
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

impl Store {
    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.config.datadirs.iter().map(|dir| dir.path.as_path())
    }

    /// The open directory and name of `at`, proven to be beneath one of ours.
    fn entry(&self, at: &crate::Location) -> Result<Entry> {
        let crate::Location::File(file) = at else { return Err(foreign(at, &self.name)) };
        for dir in self.dirs() {
            if let Ok(rest) = file.path().strip_prefix(dir) {
                return Entry::beneath(
                    Dir::open(dir)?,
                    rest,
                    || foreign(at, &self.name),
                    || missing(at, &self.name),
                );
            }
        }
        Err(foreign(at, &self.name))
    }

    /// The directory that holds `id`, if one does.
    fn find(&self, id: &ImageId) -> Result<Option<&Path>> {
        for path in self.dirs() {
            if Dir::open(path)?.has(id.as_str())? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Where to write `size` bytes: the directories of highest priority that have room, and of
    /// those the one with most.
    fn choose(&self, size: Option<u64>) -> Result<&Path> {
        if let [only] = self.config.datadirs.as_slice() {
            return Ok(&only.path);
        }
        let mut best: Option<(u32, u64, &Path)> = None;
        for dir in &self.config.datadirs {
            let free = free(&Dir::open(&dir.path)?.space()?);
            if free == 0 || free < size.unwrap_or(0) {
                continue;
            }
            if best.is_none_or(|(priority, most, _)| (dir.priority, free) > (priority, most)) {
                best = Some((dir.priority, free, &dir.path));
            }
        }
        best.map(|(_, _, path)| path).ok_or_else(|| {
            Error::new(
                Kind::Full,
                format!(
                    "none of the store's directories has room; free space or add one: size=`{}` \
                     store=`{}`",
                    size.unwrap_or(0),
                    self.name
                ),
            )
        })
    }

    fn part(&self, id: &ImageId) -> String {
        format!("{}{id}-{}.part", place::STAGED, self.instance)
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
        let crate::Location::File(at) = at else { return false };
        self.0.dirs().any(|dir| at.is_below(dir))
    }

    fn properties(&self) -> Properties {
        let config = &self.0.config;
        let mut facts = Properties::new();
        if let Some(first) = config.datadirs.first() {
            facts.insert("data_dir".into(), first.path.display().to_string().into());
        }
        facts.insert("chunk_size".into(), config.chunk_size.into());
        facts.insert("thin_provisioning".into(), config.thin.into());
        facts
    }

    fn metadata(&self, at: &crate::Location) -> Properties {
        let crate::Location::File(at) = at else { return Properties::new() };
        let Some(mount) =
            self.0.mounts.iter().find(|mount| at.path().starts_with(&mount.mountpoint))
        else {
            return Properties::new();
        };
        let mut facts = mount.rest.clone();
        facts.insert("mountpoint".into(), mount.mountpoint.clone().into());
        facts
    }

    fn busy(&self) -> usize {
        self.0.lane.taken()
    }

    async fn probe(&self) -> Result<Capacity> {
        self.run("look at the store", |store| survey(&store.config.datadirs)).await
    }

    async fn locate(&self, id: &ImageId) -> Result<crate::Location> {
        let id = id.clone();
        self.run("look for an image", move |store| match store.find(&id)? {
            Some(dir) => Ok(crate::Location::File(Location::new(dir, id.as_str()))),
            None => Err(missing(&id, &store.name)),
        })
        .await
    }

    async fn create(&self, id: &ImageId, size: Option<u64>) -> Result<Box<dyn Upload>> {
        let making = self.0.making.make(id);
        let target = self
            .run("create an image", move |store| {
                Ok(Aside::new(&store.lane, upload::Target::create(store, making, size)?))
            })
            .await?;
        Ok(Box::new(upload::Writing::new(self.0.lane.clone(), target, self.0.config.thin)))
    }

    async fn open(&self, at: &crate::Location, span: Span, window: Window) -> Result<Reader> {
        let (at, lane) = (at.clone(), self.0.lane.clone());
        self.run("open an image", move |store| {
            let opened = store.entry(&at)?.open()?;
            let range = span.of(opened.size)?;
            let digests = opened.digests();
            let size = opened.size;
            let body = Body::new(opened, range.clone(), lane, window);
            Ok(Reader { size, range, digests, body: crate::Body::File(body) })
        })
        .await
    }

    async fn stat(&self, at: &crate::Location) -> Result<Stat> {
        let at = at.clone();
        self.run("look at an image", move |store| {
            let opened = store.entry(&at)?.open()?;
            Ok(Stat { size: opened.size, digests: opened.digests() })
        })
        .await
    }

    async fn delete(&self, at: &crate::Location) -> Result<()> {
        let at = at.clone();
        self.run("delete an image", move |store| store.entry(&at)?.remove()).await
    }

    async fn copy(&self, from: Source, id: &ImageId) -> Result<Option<Copied>> {
        let Some(Shared(source)) = from.file else { return Ok(None) };
        let (making, size) = (self.0.making.make(id), from.size);
        let begin = move |store: &Arc<Store>| {
            let target = upload::Target::create(store, making, Some(size))?;
            let same = source.same_filesystem(&target)?;
            Ok((Aside::new(&store.lane, target), source, same))
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

    async fn record(&self, at: &crate::Location, digests: &Digests) -> Result<()> {
        let (at, digests) = (at.clone(), digests.clone());
        self.run("keep digests", move |store| store.entry(&at)?.open()?.record(&digests)).await
    }

    async fn recover(&self, id: &ImageId) -> Result<Recovered> {
        // What has not returned may still name the image, after we have said that there is none.
        let Some(making) = self.0.making.make_alone(id) else {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "an earlier call for this id has not returned yet: id=`{id}` store=`{}`",
                    self.0.name
                ),
            ));
        };
        self.run("clear away an unfinished upload", move |store| {
            let id = making.id();
            let mut removed = Vec::new();
            let part = store.part(id);
            for path in store.dirs() {
                let dir = Dir::open(path)?;
                if dir.remove(&part)? {
                    dir.sync()?;
                    removed.push(path.join(&part).display().to_string());
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
        let dirs: Vec<_> = self.0.dirs().map(Path::to_owned).collect();
        stream::iter(dirs)
            .then(move |path| {
                let this = this.clone();
                async move {
                    this.run("list images", move |_| Dir::open(&path)?.images()).await.map(
                        |found| {
                            stream::iter(found.into_iter().map(move |(id, at, size)| {
                                Ok(Listed { id, at: crate::Location::File(at), size })
                            }))
                        },
                    )
                }
            })
            .try_flatten()
            .boxed()
    }
}

/// Looks at every directory, so that all that is wrong is said at once.
fn survey(dirs: &[Datadir]) -> Result<Capacity> {
    let (mut total, mut available) = (0_u64, 0_u64);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut kind = Kind::Unavailable;
    for dir in dirs {
        match Dir::open(&dir.path).and_then(|open| {
            open.writable()?;
            Ok((open.device()?, open.space()?))
        }) {
            Ok((device, space)) => {
                if seen.insert(device) {
                    total = total.saturating_add(space.f_blocks.saturating_mul(space.f_frsize));
                    available = available.saturating_add(free(&space));
                }
            }
            Err(error) => {
                kind = error.kind();
                wrong.push(error.to_string());
            }
        }
    }
    if !wrong.is_empty() {
        let kind = if kind == Kind::NotFound { Kind::Unavailable } else { kind };
        return Err(Error::new(kind, wrong.join("; ")));
    }
    let used = total.saturating_sub(available);
    Ok(Capacity { total: Some(total), used: Some(used), available: Some(available), trash: None })
}

fn free(space: &StatVfs) -> u64 {
    space.f_bavail.saturating_mul(space.f_frsize)
}

fn read_mounts(path: &Path) -> Result<Vec<Mount>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        Many(Vec<Mount>),
        One(Mount),
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::io("read filesystem_store_metadata_file", path.display(), error))?;
    match serde_json::from_str(&text) {
        Ok(OneOrMany::Many(mounts)) => Ok(mounts),
        Ok(OneOrMany::One(mount)) => Ok(vec![mount]),
        Err(error) => Err(Error::new(
            Kind::Unavailable,
            format!(
                "filesystem_store_metadata_file is no JSON object or list of objects with \
                 `mountpoint`: path=`{}`",
                path.display()
            ),
        )
        .because(error)),
    }
}

/// `ENOENT` is an answer here, not a failure; so is `ENAMETOOLONG`, for there can be no such file.
fn absent<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(error),
    }
}

const PLAIN: AtFlags = AtFlags::SYMLINK_NOFOLLOW;
