//! The contract, kept by calls to the [`Store`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use imaged_ffi::{Errno, Image};

use super::{
    abandoned,
    config::{ALSO, Config, Timeout},
    copy, delete,
    failure::failed,
    handles::Snapshot,
    image::{close, failed_at, id_of},
    location::{Location, SNAP, Unsnapped, Volume},
    metadata,
    names::names,
    needs, read,
    seen::Seen,
    store::{Lanes, Store, is_away, on_lane, on_long_lane, run_long_on, run_on},
    trash, upload,
};
use crate::{
    contract::{
        Asker, Capacity, Caps, Claim, Copied, Copies, Digests, Driver, Error, Hold, Host, ImageId,
        Kind, Listed, Need, NewImage, Pieces, Progress, Properties, Reader, Recovered, Result,
        Site, Source, Span, Stat, Upload, Volumes, is_uuid,
    },
    kit::{
        refusals::{foreign, missing, unreached},
        window::Window,
    },
};

/// The option that names the store's own pool.
const POOL: &str = "rbd_store_pool";
/// Answers of the cluster that one call may have to wait for, one after the other.
const ANSWERS: u32 = 6;
/// What takes as long as an image has objects, or has no limit, may take so long.
const LONG: Duration = Duration::from_hours(24);
/// Images that a listing looks at, at a time.
const LOOKS: usize = 8;

/// Opens the store `name`; see [`crate::open`].
///
/// # Errors
/// As [`Rbd::open`].
pub async fn open(config: &Config, name: &str, host: &Host) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(Rbd::open(config, name, &host.instance).await?))
}

/// One rbd store.
#[derive(Clone, Debug)]
pub struct Rbd(Arc<Store>);

impl Rbd {
    /// Opens the store `name`; see [`crate::open`].
    ///
    /// # Errors
    /// Why the cluster or the pool cannot be used, with the remedy.
    pub async fn open(config: &Config, name: &str, instance: &str) -> Result<Self> {
        let patience = match config.timeout {
            Timeout::Default(limit) | Timeout::Fixed(limit) => limit.saturating_mul(ANSWERS),
            Timeout::None => LONG,
        };
        let (of, lanes) = ((name, instance), Lanes::new(name, patience));
        let store = Store::new(config, of, (POOL, &config.pool), lanes).with_also_pools();
        let store = Arc::new(store);
        store.connected().await?;
        Ok(Self(store))
    }

    /// The store in the pool that `at` names: this one, if it names none.
    fn of(&self, at: &crate::Location) -> &Arc<Store> {
        let crate::Location::Rbd(at) = at else { return &self.0 };
        let mut also = self.0.also.iter();
        also.find(|also| at.pool() == Some(&also.pool)).unwrap_or(&self.0)
    }

    /// Looks at the store; within, why the pool that it had is not its pool any more.
    async fn look(&self) -> Result<Result<Capacity>> {
        let (_, pool) = self.0.connected().await?;
        on_lane(&self.0, &pool, "look at the cluster", move |store, pool| {
            let stat = pool.cluster().stat();
            let stat = stat.map_err(|errno| failed("look at", &store.pool, errno))?;
            if let Some(refusal) = store.connection.refusal_by_latest_map(pool)? {
                return Ok(Err(refusal));
            }
            store.probe(pool)?;
            Ok(Ok(Capacity {
                total: Some(stat.total),
                used: Some(stat.used),
                available: Some(stat.available),
                trash: store.trash.lock().filter(|bytes| *bytes > 0),
            }))
        })
        .await
    }
}

#[async_trait]
impl Driver for Rbd {
    fn caps(&self) -> Caps {
        Caps {
            write: true,
            delete: true,
            seek: true,
            list: true,
            copy: true,
            descriptor: false,
            volumes: true,
            flatten: true,
        }
    }

    fn copies(&self) -> Option<&dyn Copies> {
        Some(self)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }

    fn properties(&self) -> Properties {
        let config = &self.0.config;
        let mut facts = Properties::new();
        if let Some(fsid) = self.0.fsid.lock().clone() {
            facts.insert("fsid".into(), fsid.into());
        }
        facts.insert("pool".into(), config.pool.clone().into());
        if !config.also_pools.is_empty() {
            facts.insert("also_pools".into(), config.also_pools.clone().into());
        }
        facts.insert("chunk_size".into(), (1_u64 << config.order).into());
        facts.insert("thin_provisioning".into(), config.thin.into());
        facts
    }

    fn sites(&self) -> Vec<Site> {
        let Some(fsid) = self.0.fsid.lock().clone() else { return Vec::new() };
        let pool = &self.0.config.pool;
        vec![Site {
            what: format!("pool `{pool}`"),
            identity: format!("{fsid}/{pool}"),
            within: Vec::new(),
            // Stores of one pool may differ in the user who reads it, or in how they write.
            exclusive: false,
        }]
    }

    fn serves(&self, at: &crate::Location) -> bool {
        let crate::Location::Rbd(at) = at else { return false };
        // Which cluster this is is known since it was opened.
        let fsid = self.0.fsid.lock().clone();
        let pools = || self.0.also.iter().map(|also| &also.pool).chain([&self.0.pool]);
        fsid.is_some_and(|fsid| pools().any(|pool| at.is_in(&fsid, pool)))
    }

    fn busy(&self) -> usize {
        self.0.lane.busy()
    }

    fn reads(&self) -> Option<Pieces> {
        Some(read::READS)
    }

    async fn probe(&self) -> Result<Capacity> {
        self.0.connection.look(&self.0.lane).await?;
        for also in &self.0.also {
            // What is the matter with it is told to who asks for an image there.
            let _looked = also.connection.look(&also.lane).await;
        }
        match self.look().await? {
            // Another pool may have the name now.
            Err(_) => self.look().await?,
            looked => looked,
        }
    }

    async fn purge(&self) -> Result<()> {
        trash::purge(&self.0).await?;
        abandoned::look_around(&self.0).await
    }

    async fn clear_abandoned(&self, id: &ImageId, hold: Hold) -> Result<Recovered> {
        abandoned::clear(&self.0, id.as_str(), Some(hold), None).await
    }

    fn place(&self, id: &ImageId) -> Option<crate::Location> {
        let fsid = self.0.fsid.lock().clone()?;
        Some(crate::Location::Rbd(Location::new(&fsid, &self.0.config.pool, id.as_str())))
    }

    async fn locate(&self, id: &ImageId) -> Result<crate::Location> {
        let (live, pool) = self.0.connected().await?;
        let at = crate::Location::Rbd(Location::new(&live.fsid, pool.name(), id.as_str()));
        let id = id.clone();
        on_lane(&self.0, &pool, "look for an image", move |store, pool| {
            read::look(store, pool, id.as_str(), Unsnapped::No)
        })
        .await?;
        Ok(at)
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        self.0.forget(image.claim.id().as_str());
        upload::create(&self.0, image).await
    }

    async fn open(&self, at: &crate::Location, span: Span, window: Window) -> Result<Reader> {
        let store = self.of(at);
        let (live, pool) = store.connected().await?;
        let (name, unsnapped) = store.image_at(at, &live)?;
        let place = crate::Location::Rbd(Location::new(&live.fsid, pool.name(), &name));
        let (reading, held, range, seen) = {
            let name = name.clone();
            on_lane(store, &pool, "open an image", move |store, pool| {
                let (image, seen) = read::open_whole(store, pool, &name, unsnapped)?;
                let range = match span.of(seen.stat.size) {
                    Ok(range) => range,
                    Err(error) => {
                        close(image, &name);
                        return Err(error);
                    }
                };
                let unwatched = (!seen.watched).then(|| Snapshot {
                    pool: pool.clone(),
                    image: name.clone(),
                    snap: (!seen.at_head()).then(|| SNAP.to_owned()),
                    internal: seen.internal.clone(),
                });
                let (reading, held) = read::reading(store, image, &name, range.clone(), unwatched)?;
                Ok((reading, held, range, seen))
            })
            .await?
        };
        let body = read::body(live, Arc::new(reading), name, range.clone(), held, window);
        // Of a location without a snapshot no clone can be made.
        let at = if seen.at_head() { at.clone() } else { place };
        let Stat { size, digests, version } = seen.stat;
        Ok(Reader { at, version, size, range, digests, body })
    }

    async fn stat(&self, at: &crate::Location) -> Result<Stat> {
        let store = self.of(at);
        let (live, pool) = store.connected().await?;
        let (name, unsnapped) = store.image_at(at, &live)?;
        on_lane(store, &pool, "look at an image", move |store, pool| {
            read::look(store, pool, &name, unsnapped).map(|seen| seen.stat)
        })
        .await
    }

    async fn delete(&self, at: &crate::Location, hold: Hold) -> Result<()> {
        let store = self.of(at);
        let (live, pool) = store.connected().await?;
        let (name, _) = store.image_at(at, &live)?;
        if store.handles.reads(&name) {
            return Err(delete::is_read(&name));
        }
        let deleting = store.handles.begin_delete(&name, store.patience).await?;
        let deleted = on_long_lane(store, &pool, "delete an image", move |store, pool, going| {
            let _until_done = (deleting, hold);
            // Nothing is removed from a pool that was put aside.
            store.connection.holds_now(pool)?;
            delete::delete(store, pool, &name, going)
        });
        // It may have been the last clone of what was deleted before. At the trash of a pool beside the
        // store's own nobody looks in rounds.
        if deleted.await? || store.option == ALSO {
            trash::purge_soon(store);
        }
        Ok(())
    }

    async fn record(&self, at: &crate::Location, claim: &Claim, digests: &Digests) -> Result<()> {
        let (live, pool) = self.0.connected().await?;
        let (name, unsnapped) = self.0.image_at(at, &live)?;
        let (claim, digests) = (claim.clone(), digests.clone());
        on_lane(&self.0, &pool, "keep digests", move |store, pool| {
            let _until_done = claim;
            let size = read::look(store, pool, &name, unsnapped)?.stat.size;
            let image = Image::open(pool, &name, None).map_err(|errno| match errno {
                Errno::NOENT => missing(&name, &store.name),
                errno => failed("keep the digests of", &name, errno),
            })?;
            let stored = id_of(&image, &name)
                .and_then(|id| metadata::store_digests(&image, &id, size, &digests))
                .map_err(|errno| match errno {
                    Errno::NOENT => missing(&name, &store.name),
                    errno => failed_at(&image, "keep the digests of", &name, errno),
                });
            close(image, &name);
            store.forget(&name);
            stored
        })
        .await
    }

    async fn recover(&self, claim: &Claim, _token: Option<&str>) -> Result<Recovered> {
        let (_, pool) = self.0.connected().await?;
        let claim = claim.clone();
        let deleting = self.0.handles.begin_delete(claim.id().as_str(), self.0.patience).await?;
        on_long_lane(
            &self.0,
            &pool,
            "clear away an unfinished upload",
            move |store, pool, going| {
                let _until_done = deleting;
                let recovered = delete::recover(store, pool, claim.id().as_str(), going)?;
                // In a pool that is gone there is nothing; what was left may come back with it.
                store.connection.holds(pool)?;
                Ok(recovered)
            },
        )
        .await
    }

    async fn is_made_by(&self, at: &crate::Location, claim: &Claim) -> Result<bool> {
        let (live, pool) = self.0.connected().await?;
        let (name, _) = self.0.image_at(at, &live)?;
        let claim = claim.clone();
        on_lane(&self.0, &pool, "look at an image", move |store, pool| {
            let _until_done = claim;
            let fail = |errno| failed("look at", &name, errno);
            let image = Image::open(pool, &name, None).map_err(fail)?;
            let marked = id_of(&image, &name).and_then(|id| metadata::upload_mark(&image, &id));
            close(image, &name);
            // Since that work began no other of this daemon could make one of this name.
            Ok(marked.map_err(fail)?.is_some_and(|mark| mark.instance == store.instance))
        })
        .await
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let this = self.clone();
        let listed = async move {
            let (live, pool) = this.0.connected().await?;
            let names = names(Arc::clone(&this.0), pool.clone());
            let ids = names.try_filter_map(async |name| Ok(name.parse::<ImageId>().ok()));
            let looks = ids.map_ok(move |id| {
                let (this, live, pool) = (this.clone(), Arc::clone(&live), pool.clone());
                async move {
                    let name = id.as_str().to_owned();
                    let at = Location::new(&live.fsid, pool.name(), &name);
                    let unsnapped =
                        if is_uuid(&name) { Unsnapped::IfIdle } else { Unsnapped::Never };
                    let looked = on_lane(&this.0, &pool, "look at an image", move |store, pool| {
                        read::look(store, pool, &name, unsnapped)
                    });
                    match looked.await {
                        Ok(seen) => {
                            let at = if seen.at_head() { Location::old(id.as_str()) } else { at };
                            let at = crate::Location::Rbd(at);
                            let Seen { stat: Stat { size, .. }, odd, .. } = seen;
                            Ok(Some(Listed { id, at, size, odd: odd.map(|odd| odd.to_string()) }))
                        }
                        // Being made, or gone meanwhile.
                        Err(error) if error.kind() == Kind::NotFound => Ok(None),
                        // Of a cluster that does not answer nobody is told that images are gone.
                        Err(error) if is_away(&error) => Err(error),
                        Err(error) => {
                            let error = error.chain();
                            tracing::warn!(image = %id, error, "left out of the list");
                            Ok(None)
                        }
                    }
                }
            });
            Ok::<_, Error>(
                looks.try_buffer_unordered(LOOKS).try_filter_map(async |found| Ok(found)),
            )
        };
        stream::once(listed).try_flatten().boxed()
    }
}

#[async_trait]
impl Copies for Rbd {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        let (live, pool) = self.0.connected().await?;
        let crate::Location::Rbd(at) = &from.at else { return Ok(None) };
        // One that names no place could be looked up only in this pool, where it may be another.
        let Some((parent, snap)) = at.place_in(&live.fsid) else { return Ok(None) };
        let claim = claim.clone();
        self.0.forget(claim.id().as_str());
        let parent = copy::Parent {
            pool: parent.to_owned(),
            image: at.image().to_owned(),
            snap: snap.to_owned(),
            version: from.version,
            size: from.size,
            digests: from.digests,
        };
        let copied = run_long_on(
            &self.0.long_lane,
            (&self.0, &pool),
            "clone an image",
            move |store, pool, going| copy::clone(store, (&live, pool), &claim, parent, going),
        );
        copied.await
    }

    async fn flatten(&self, at: &crate::Location, claim: &Claim, progress: Progress) -> Result<()> {
        let (live, pool) = self.0.connected().await?;
        let (name, _) = self.0.image_at(at, &live)?;
        if !self.0.config.flatten {
            return Ok(());
        }
        let claim = claim.clone();
        run_long_on(
            &self.0.flatten_lane,
            (&self.0, &pool),
            "flatten an image",
            move |store, pool, going| {
                let _until_done = claim;
                copy::flatten(store, pool, &name, &progress, going)
            },
        )
        .await?;
        // What it was cloned from may have waited for this.
        trash::purge_soon(&self.0);
        Ok(())
    }
}

#[async_trait]
impl Volumes for Rbd {
    fn volume(&self, at: &crate::Location) -> Option<crate::Volume> {
        let image = self.serves(at);
        let crate::Location::Rbd(at) = at else { return None };
        let fsid = self.0.fsid.lock().clone()?;
        let (pool, snap) = at.place_in(&fsid)?;
        (!image).then(|| {
            crate::Volume::Rbd(Volume {
                pool: pool.to_owned(),
                image: at.image().to_owned(),
                snap: Some(snap.to_owned()),
            })
        })
    }

    async fn seal(&self, volume: &crate::Volume, claim: &Claim) -> Result<Source> {
        let (live, pool) = self.0.connected().await?;
        let crate::Volume::Rbd(volume) = volume.clone() else {
            return Err(unreached(volume, "rbd", &self.0.name));
        };
        let claim = claim.clone();
        let sealed = run_on(&self.0.lane, (&self.0, &pool), "seal a volume", move |store, _| {
            copy::seal(store, &live, &volume, claim.id().as_str())
        });
        sealed.await
    }

    async fn open_sealed(&self, sealed: &Source, window: Window) -> Result<Reader> {
        let (live, own_pool) = self.0.connected().await?;
        let crate::Location::Rbd(at) = &sealed.at else {
            return Err(foreign(&sealed.at, &self.0.name));
        };
        let Some((pool, snap)) = at.place_in(&live.fsid) else {
            return Err(foreign(&sealed.at, &self.0.name));
        };
        let (pool, image, snap) = (pool.to_owned(), at.image().to_owned(), snap.to_owned());
        let Source { at, version, size, .. } = sealed.clone();
        // No image has such a name.
        let name = format!("{pool}/{image}");
        let (reading, held) = {
            let (name, version, live) = (name.clone(), version.clone(), Arc::clone(&live));
            run_on(&self.0.lane, (&self.0, &own_pool), "open a volume", move |store, _| {
                let pool = copy::open_pool(&live, &pool)?;
                let (opened, watched) = copy::open_sealed(store, &pool, &image, &snap)?;
                let opened = copy::that_very(opened, (&image, &name), version.as_deref())?;
                let unwatched = version.filter(|_| !watched).map(|internal| Snapshot {
                    pool,
                    image,
                    snap: Some(snap),
                    internal,
                });
                read::reading(store, opened, &name, 0..size, unwatched)
            })
            .await?
        };
        let body = read::body(live, Arc::new(reading), name, 0..size, held, window);
        Ok(Reader { at, version, size, range: 0..size, digests: None, body })
    }

    async fn needs(&self, asker: &Asker<'_>) -> Vec<Need> {
        needs::needs(&self.0, asker).await
    }

    async fn unseal(&self, volume: &crate::Volume, claim: &Claim) -> Result<()> {
        let (live, pool) = self.0.connected().await?;
        let crate::Volume::Rbd(volume) = volume.clone() else {
            return Err(unreached(volume, "rbd", &self.0.name));
        };
        let claim = claim.clone();
        run_on(&self.0.lane, (&self.0, &pool), "unseal a volume", move |store, _| {
            copy::unseal(store, &live, &volume, claim.id().as_str())
        })
        .await
    }
}
