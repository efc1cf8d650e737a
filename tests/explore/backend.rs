//! A driver over a simulated disk. It blocks nowhere, and all its waiting is virtual.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use imaged_drivers::{
    Body, Capacity, Caps, Claim, Committed, Copied, Copies, Digests, Driver, Error, Hold, ImageId,
    Kind, Listed, Location, NewImage, Pieces, Progress, Reader, Recovered, Result, Source, Span,
    Stat, Upload,
    window::{PAGE, Window},
};
use tokio::task::JoinSet;

use super::disk::{Call, Content, Disk, Grant, Image};

/// The largest window that any transfer of a schedule has, in bytes.
pub(super) const LARGEST_WINDOW: usize = 4 * PAGE;

/// The driver of one store; a reload makes another over the same disk.
pub(super) struct Backend(Arc<Disk>);

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.0.name).finish()
    }
}

/// Opens a driver over `disk`.
pub(super) async fn open(disk: Arc<Disk>) -> Result<Arc<dyn Driver>> {
    disk.call(Call { what: "open the backend", ..Call::default() }, |_| Ok(())).await?;
    Ok(Arc::new(Backend(disk)))
}

/// Where the image `id` of a store is.
pub(super) fn place(store: &str, id: &str) -> Location {
    format!("mem://{store}/{id}").parse().unwrap()
}

impl Backend {
    fn at(&self, id: &ImageId) -> Location {
        place(self.0.name, id.as_str())
    }

    fn id(&self, at: &Location) -> Result<ImageId> {
        let (text, start) = (at.to_string(), format!("mem://{}/", self.0.name));
        match text.strip_prefix(&start) {
            Some(id) => id.parse(),
            None => Err(Error::new(Kind::Invalid, format!("foreign: location=`{at}`"))),
        }
    }

    async fn look<T: Send + 'static>(
        &self,
        what: &'static str,
        id: ImageId,
        look: impl FnOnce(&mut Image) -> T + Send + 'static,
    ) -> Result<T> {
        let call = Call { what, ..Call::default() };
        self.0.call(call, move |content| content.find(&id).map(look)).await
    }
}

impl Content {
    fn find(&mut self, id: &ImageId) -> Result<&mut Image> {
        let missing = || Error::new(Kind::NotFound, format!("no such image: image=`{id}`"));
        self.images.get_mut(id).ok_or_else(missing)
    }
}

#[async_trait]
impl Driver for Backend {
    fn caps(&self) -> Caps {
        Caps {
            write: true,
            delete: true,
            seek: true,
            list: true,
            copy: true,
            descriptor: false,
            volumes: false,
            flatten: self.0.temper.shares,
        }
    }

    fn serves(&self, at: &Location) -> bool {
        self.id(at).is_ok()
    }

    fn reads(&self) -> Option<Pieces> {
        Some(Pieces { chunk: PAGE, in_flight: self.0.temper.in_flight })
    }

    fn copies(&self) -> Option<&dyn Copies> {
        Some(self)
    }

    async fn probe(&self) -> Result<Capacity> {
        let call = Call { what: "probe", ..Call::default() };
        self.0.call(call, |_| Ok(Capacity::default())).await
    }

    fn place(&self, id: &ImageId) -> Option<Location> {
        Some(self.at(id))
    }

    async fn locate(&self, id: &ImageId) -> Result<Location> {
        self.look("locate", id.clone(), |_| ()).await.map(|()| self.at(id))
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        let claim = &image.claim;
        self.0.nothing_is_out(claim.id(), "a create");
        let (id, nonce) = (claim.id().clone(), claim.nonce().to_owned());
        let call = Call { what: "create", claim: Some(claim), ..Call::default() };
        let create = move |content: &mut Content| {
            if content.images.contains_key(&id) {
                return Err(Error::new(Kind::Exists, format!("there is one: id=`{id}`")));
            }
            content.staged.insert(nonce, Vec::new());
            Ok(())
        };
        self.0.call(call, create).await?;
        let (disk, grant) = (Arc::clone(&self.0), self.0.grant(LARGEST_WINDOW));
        let (at, claim) = (self.at(claim.id()), claim.clone());
        let behind = usize::try_from(self.0.random().below(5)).unwrap();
        let (flying, failed) = (JoinSet::new(), None);
        Ok(Box::new(Writing { disk, at, claim, grant, behind, flying, failed, size: 0 }))
    }

    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader> {
        let image = self.look("open", self.id(at)?, |image| image.clone()).await?;
        let range = span.of(image.bytes.len() as u64)?;
        let in_flight = self.0.temper.in_flight;
        // From here on it may hold memory.
        let grant = self.0.grant(LARGEST_WINDOW);
        let (disk, bytes) = (Arc::clone(&self.0), image.bytes.clone());
        let pieces = window.pieces(range.clone(), in_flight, move |at, mut buffer| {
            let from = usize::try_from(at).unwrap();
            let piece = bytes.slice(from..from + buffer.capacity());
            let (disk, grant) = (Arc::clone(&disk), Some(grant.clone()));
            async move {
                let read = move |_: &mut Content| {
                    buffer.push(&piece);
                    Ok(buffer.freeze())
                };
                disk.call(Call { what: "read", grant, ..Call::default() }, read).await
            }
        });
        Ok(Reader {
            at: at.clone(),
            version: None,
            size: image.bytes.len() as u64,
            range,
            digests: image.digests,
            body: Body::Stream(pieces.boxed()),
        })
    }

    async fn stat(&self, at: &Location) -> Result<Stat> {
        let stat = |image: &mut Image| Stat {
            size: image.bytes.len() as u64,
            digests: image.digests.clone(),
            version: None,
        };
        self.look("stat", self.id(at)?, stat).await
    }

    async fn delete(&self, at: &Location, hold: Hold) -> Result<()> {
        let id = self.id(at)?;
        let call = Call { what: "delete", ..Call::default() };
        let delete = move |content: &mut Content| {
            let _until_done = hold;
            content.find(&id)?;
            content.images.remove(&id);
            Ok(())
        };
        self.0.call(call, delete).await
    }

    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()> {
        let (id, digests) = (self.id(at)?, digests.clone());
        let record = move |content: &mut Content| {
            content.find(&id)?.digests = Some(digests);
            Ok(())
        };
        self.0.call(Call { what: "record", claim: Some(claim), ..Call::default() }, record).await
    }

    async fn recover(&self, claim: &Claim, _token: Option<&str>) -> Result<Recovered> {
        self.0.nothing_is_out(claim.id(), "a recovery");
        let (id, nonce) = (claim.id().clone(), claim.nonce().to_owned());
        let recover = move |content: &mut Content| {
            Ok(match (content.staged.remove(&nonce), content.images.contains_key(&id)) {
                (Some(_), _) => Recovered::Removed(vec![nonce]),
                (None, true) => Recovered::Whole,
                (None, false) => Recovered::Nothing,
            })
        };
        self.0.call(Call { what: "recover", claim: Some(claim), ..Call::default() }, recover).await
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        let content = self.0.content();
        let listed = content.images.iter().map(|(id, image)| {
            Ok(Listed {
                id: id.clone(),
                at: self.at(id),
                size: image.bytes.len() as u64,
                odd: None,
            })
        });
        stream::iter(listed.collect::<Vec<_>>()).boxed()
    }
}

#[async_trait]
impl Copies for Backend {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        let Ok(source) = self.id(&from.at) else { return Ok(None) };
        self.0.nothing_is_out(claim.id(), "a copy");
        let mut random = self.0.random();
        let (known, shared) = (random.happens(400), self.0.temper.shares && random.happens(500));
        let (id, at) = (claim.id().clone(), self.at(claim.id()));
        let copy = move |content: &mut Content| {
            if content.images.contains_key(&id) {
                return Err(Error::new(Kind::Exists, format!("there is one: id=`{id}`")));
            }
            let Image { bytes, digests, .. } = content.find(&source)?.clone();
            let digests = digests.filter(|_| known);
            let size = bytes.len() as u64;
            content.images.insert(id, Image { bytes, digests: digests.clone(), shared });
            Ok(Some(Copied { at, size, stored_bytes: 0, digests, shared }))
        };
        let call = Call { what: "copy", claim: Some(claim), ..Call::default() };
        self.0.call(call, copy).await
    }

    async fn flatten(&self, at: &Location, claim: &Claim, progress: Progress) -> Result<()> {
        let id = self.id(at)?;
        let flatten = move |content: &mut Content| {
            if !progress(1, 2) {
                return Err(Error::new(Kind::Unavailable, "ended"));
            }
            content.find(&id)?.shared = false;
            Ok(())
        };
        self.0.call(Call { what: "flatten", claim: Some(claim), ..Call::default() }, flatten).await
    }
}

/// An image being written.
struct Writing {
    disk: Arc<Disk>,
    at: Location,
    claim: Claim,
    /// For the memory of the chunks that it is given.
    grant: Grant,
    /// How many writes may be in flight when another is taken.
    behind: usize,
    flying: JoinSet<Result<()>>,
    /// What one of those in flight came to, until it is told.
    failed: Option<Error>,
    /// Bytes that were taken.
    size: usize,
}

impl Writing {
    /// Waits until no more than `left` writes are in flight.
    async fn landed(&mut self, left: usize) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)?;
        while self.flying.len() > left {
            self.flying.join_next().await.map_or(Ok(()), |landed| landed.unwrap())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let nonce = self.claim.nonce().to_owned();
        let (from, to) = (self.size, self.size + chunk.len());
        self.size = to;
        let write = move |content: &mut Content| {
            // After an abort there is nothing to write to, and what is written goes nowhere.
            if let Some(staged) = content.staged.get_mut(&nonce) {
                staged.resize(staged.len().max(to), 0);
                staged[from..to].copy_from_slice(&chunk);
            }
            Ok(())
        };
        let (disk, claim, grant) = (Arc::clone(&self.disk), self.claim.clone(), self.grant.clone());
        self.flying.spawn(async move {
            let (claim, grant) = (Some(&claim), Some(grant));
            disk.call(Call { what: "write", claim, grant, failing_clears: false }, write).await
        });
        self.landed(self.behind).await
    }

    async fn failing(&mut self) -> Error {
        match self.landed(0).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    fn at(&self) -> &Location {
        &self.at
    }

    async fn commit(mut self: Box<Self>, digests: &Digests) -> Result<Committed> {
        if let Err(error) = self.landed(0).await {
            // Nothing is left after any other.
            if error.kind() == Kind::Timeout {
                return Err(error);
            }
            return Err(match self.abort().await {
                Ok(()) => error,
                Err(left) => error.leaving(left.to_string()),
            });
        }
        let (disk, claim, digests) = (Arc::clone(&self.disk), self.claim.clone(), digests.clone());
        let commit = move |content: &mut Content| {
            let mut wrong = Vec::new();
            let published = content.publish(&claim, &digests, &mut wrong);
            wrong.into_iter().for_each(|wrong| disk.report(wrong));
            published.map(|stored_bytes| Committed { stored_bytes })
        };
        let (claim, grant) = (Some(&self.claim), Some(self.grant.clone()));
        self.disk.call(Call { what: "commit", claim, grant, failing_clears: true }, commit).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let nonce = self.claim.nonce().to_owned();
        let abort = move |content: &mut Content| {
            content.staged.remove(&nonce);
            Ok(())
        };
        let (claim, grant) = (Some(&self.claim), Some(self.grant.clone()));
        self.disk.call(Call { what: "abort", claim, grant, failing_clears: false }, abort).await
    }
}
