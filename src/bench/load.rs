//! The load itself: so many images, so many at once, one kind of request after the other; and that
//! nothing is left of it.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use imaged_drivers::{Extent, Kind, Span, lane::Lane};
use nix::sys::resource::UsageWho;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    args::{Args, Op},
    ceiling::unnamed,
    error::{Error, Result},
    pattern::Pattern,
    process::{Process, Watch, own_cpu},
};
use crate::client::{self, Client, Content, Form};

/// Failures that are told; all are counted.
const TOLD: usize = 10;
/// How long a put that nobody waits for any more may take to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes read at once from a descriptor.
const READ: usize = 1 << 20;

/// One request that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// What was tried.
    pub op: Op,
    /// The image's id.
    pub image: String,
    /// The stable name of the failure.
    pub code: String,
    /// What was said.
    pub message: String,
}

/// What came of all requests of one kind.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Of those that succeeded, in microseconds.
    pub(super) micros: Histogram<u64>,
    /// Bytes of images, zeros too.
    pub(super) bytes: u64,
    pub(super) errors: u64,
    pub(super) failures: Vec<Failure>,
}

impl Tally {
    fn new() -> Result<Self> {
        let micros = Histogram::new_with_bounds(1, 24 * 3600 * 1_000_000, 3)
            .map_err(|error| Error::Local(error.to_string()))?;
        Ok(Self { micros, bytes: 0, errors: 0, failures: Vec::new() })
    }

    fn add(&mut self, other: Self) -> Result<()> {
        self.micros.add(&other.micros).map_err(|error| Error::Local(error.to_string()))?;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.failures.extend(other.failures);
        self.failures.truncate(TOLD);
        Ok(())
    }
}

/// One kind of request, measured.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) op: Op,
    pub(super) tally: Tally,
    /// From when to when, in seconds since the beginning of the run.
    pub(super) span: (f64, f64),
    pub(super) daemon_cpu: Option<f64>,
    pub(super) client_cpu: f64,
    pub(super) rss_before: Option<u64>,
    pub(super) rss_peak: Option<u64>,
}

/// What the daemon may have of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Absent,
    /// A put whose outcome is not known.
    Unknown,
    Stored,
}

#[derive(Debug)]
struct Image {
    id: String,
    pattern: Pattern,
    presence: Mutex<Presence>,
}

impl Image {
    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock()
    }
}

/// The images and how to treat them.
#[derive(Debug)]
pub(super) struct Load {
    client: Client,
    args: Args,
    images: Vec<Image>,
    /// What is passed by descriptor; all images are the same then.
    source: Option<Arc<File>>,
    lane: Lane,
    stop: CancellationToken,
    /// The algorithm that the daemon used, and whether it computed an md5 too.
    digests: Mutex<Option<(String, bool)>>,
    /// Whether a descriptor was asked for and did not come.
    streamed: AtomicBool,
    /// Whether extents were asked for and plain bytes came.
    filled: AtomicBool,
}

impl Load {
    pub(super) async fn new(
        client: &Client,
        args: &Args,
        pattern: &Pattern,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>> {
        let jobs = usize::try_from(args.jobs).unwrap_or(1);
        let lane = Lane::new("bench", jobs, Duration::from_secs(24 * 3600));
        let images = (0..args.count)
            .map(|_| {
                let uuid = uuid::Uuid::new_v4();
                let seed = if args.descriptor { 0 } else { uuid.as_u64_pair().1 };
                let (id, pattern) = (format!("bench-{uuid}"), pattern.seeded(seed));
                Image { id, pattern, presence: Mutex::new(Presence::Absent) }
            })
            .collect();
        let mut load = Self {
            client: client.clone(),
            args: args.clone(),
            images,
            source: None,
            lane,
            stop: stop.clone(),
            digests: Mutex::default(),
            streamed: AtomicBool::new(false),
            filled: AtomicBool::new(false),
        };
        if args.descriptor {
            load.source = Some(Arc::new(load.scratch().await?));
        }
        Ok(Arc::new(load))
    }

    /// A file without a name that holds one image, on disk, so that its writeback disturbs nothing.
    async fn scratch(&self) -> Result<File> {
        let dir = self.args.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let (size, pattern) = (self.args.size, self.images.first().map(|one| one.pattern.clone()));
        let stop = self.stop.clone();
        let written = self.lane.run("write a file to pass", move || {
            let write = || {
                let file = unnamed(&dir)?;
                let mut at = 0;
                for piece in pattern.into_iter().flat_map(|pattern| pattern.pieces(size)) {
                    if stop.is_cancelled() {
                        break;
                    }
                    file.write_all_at(&piece, at)?;
                    at += piece.len() as u64;
                }
                file.sync_all()?;
                Ok(file)
            };
            write().map_err(|error| {
                imaged_drivers::Error::io("write a file to pass into", dir.display(), error)
            })
        });
        written.await.map_err(|error| Error::Local(error.to_string()))
    }

    /// The algorithm that the daemon used, and whether it computed an md5 too, if an image was stored.
    pub(super) fn digests(&self) -> Option<(String, bool)> {
        self.digests.lock().clone()
    }

    /// Whether a descriptor was asked for and bytes came.
    pub(super) fn streamed(&self) -> bool {
        self.streamed.load(Ordering::Relaxed)
    }

    /// Whether extents were asked for and plain bytes came.
    pub(super) fn filled(&self) -> bool {
        self.filled.load(Ordering::Relaxed)
    }

    /// Sends all requests of one kind and measures them.
    pub(super) async fn run(
        self: &Arc<Self>,
        op: Op,
        process: Option<Process>,
        watch: &Watch,
    ) -> Result<Phase> {
        let stored = |image: &Image| *image.presence() == Presence::Stored;
        let rounds = if op == Op::Stat { self.args.stats } else { 1 };
        let these = (0..self.images.len())
            .filter(|n| op == Op::Put || self.images.get(*n).is_some_and(stored));
        let these: Vec<usize> = these.collect();
        let items: Arc<[usize]> = (0..rounds).flat_map(|_| these.iter().copied()).collect();
        let next = Arc::new(AtomicUsize::new(0));
        let before = process.and_then(Process::memory);
        let cpu = process.and_then(Process::cpu);
        let (own, from) = (own_cpu(UsageWho::RUSAGE_SELF), watch.now());
        let mut workers = JoinSet::new();
        for _ in 0..self.args.jobs {
            let (load, items, next) = (Arc::clone(self), Arc::clone(&items), Arc::clone(&next));
            workers.spawn(async move { load.work(op, &items, &next).await });
        }
        let mut tally = Tally::new()?;
        while let Some(one) = workers.join_next().await {
            tally.add(one.map_err(|error| Error::Local(format!("a task was lost: {error}")))??)?;
        }
        let until = watch.now();
        let after = process.and_then(Process::memory);
        // The kernel's own mark is exact, but never falls.
        let rss_peak = match (before, after) {
            (Some(before), Some(after)) if after.peak > before.peak => Some(after.peak),
            (Some(before), Some(after)) => {
                watch.most(from).into_iter().chain([before.rss, after.rss]).max()
            }
            _ => None,
        };
        Ok(Phase {
            op,
            tally,
            span: (from, until),
            daemon_cpu: process.and_then(Process::cpu).zip(cpu).map(|(now, then)| now - then),
            client_cpu: own_cpu(UsageWho::RUSAGE_SELF) - own,
            rss_before: before.map(|memory| memory.rss),
            rss_peak,
        })
    }

    /// Takes one image after the other until there are none.
    async fn work(&self, op: Op, items: &[usize], next: &AtomicUsize) -> Result<Tally> {
        let mut tally = Tally::new()?;
        while let Some(image) = items
            .get(next.fetch_add(1, Ordering::Relaxed))
            .and_then(|image| self.images.get(*image))
        {
            let since = Instant::now();
            let done = tokio::select! {
                done = self.once(op, image) => done,
                () = self.stop.cancelled() => break,
            };
            let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            match done {
                Ok(bytes) => {
                    tally.micros.saturating_record(took.max(1));
                    tally.bytes += bytes;
                }
                Err((code, message)) => {
                    tally.errors += 1;
                    if tally.failures.len() < TOLD {
                        let image = image.id.clone();
                        tally.failures.push(Failure { op, image, code, message });
                    }
                }
            }
        }
        Ok(tally)
    }

    /// One request; gives the bytes that were moved, or the code and words of its failure.
    async fn once(&self, op: Op, image: &Image) -> std::result::Result<u64, (String, String)> {
        let store = self.args.store();
        let failed = |error: client::Error| (error.code().to_owned(), error.to_string());
        match op {
            Op::Put => self.put(image).await.map_err(failed),
            Op::Get => self.get(image).await.map_err(failed),
            Op::Stat => {
                let found = self.client.stat(store, image.id.as_str()).await.map_err(failed)?;
                self.same_size(found.size).map(|()| 0).map_err(failed)
            }
            Op::Delete => {
                self.client.delete(store, image.id.as_str()).await.map_err(failed)?;
                *image.presence() = Presence::Absent;
                Ok(0)
            }
        }
    }

    fn same_size(&self, size: u64) -> client::Result<()> {
        if size == self.args.size {
            return Ok(());
        }
        let ours = self.args.size;
        Err(client::Error::Broken(format!("the daemon has `{size}` bytes, not the `{ours}` sent")))
    }

    async fn put(&self, image: &Image) -> client::Result<u64> {
        let Args { size, hash_algo, .. } = &self.args;
        let store = self.args.store();
        *image.presence() = Presence::Unknown;
        let receipt = match &self.source {
            Some(source) => self.client.put_fd(store, &image.id, source, *hash_algo).await,
            None => {
                let body = image.pattern.clone().body(*size);
                self.client.put_stream(store, &image.id, Some(*size), *hash_algo, body).await
            }
        };
        match receipt {
            Ok(receipt) => {
                *image.presence() = Presence::Stored;
                let mut digests = self.digests.lock();
                digests.get_or_insert((receipt.hash_algo, receipt.checksum.is_some()));
                self.same_size(receipt.size).map(|()| *size)
            }
            Err(error) => {
                if let client::Error::Refused(problem) = &error
                    && problem.location.is_none()
                {
                    *image.presence() = Presence::Absent;
                }
                Err(error)
            }
        }
    }

    async fn get(&self, image: &Image) -> client::Result<u64> {
        let Args { descriptor, extents, .. } = self.args;
        let asked = [(descriptor, Form::Descriptor), (extents, Form::Extents)];
        let forms: Vec<_> =
            asked.into_iter().filter_map(|(asked, form)| asked.then_some(form)).collect();
        let got = self.client.get(self.args.store(), image.id.as_str(), Span::All, &forms).await?;
        self.same_size(got.size)?;
        let wrong =
            |at: u64| client::Error::Broken(format!("other bytes came back: offset=`{at}`"));
        match got.content {
            Content::Stream(mut download) => {
                self.streamed.fetch_or(descriptor, Ordering::Relaxed);
                self.filled.fetch_or(extents, Ordering::Relaxed);
                let mut at = 0;
                while let Some(bytes) = download.chunk().await? {
                    if !image.pattern.resembles(at, &bytes) {
                        return Err(wrong(at));
                    }
                    at += bytes.len() as u64;
                }
                self.same_size(at)?;
            }
            Content::Extents(mut found) => {
                self.streamed.fetch_or(descriptor, Ordering::Relaxed);
                let mut at = 0;
                while let Some(extent) = found.next().await? {
                    let alike = match &extent {
                        Extent::Data(bytes) => image.pattern.resembles(at, bytes),
                        Extent::Hole(len) => image.pattern.is_hole(at, *len),
                    };
                    if !alike {
                        return Err(wrong(at));
                    }
                    at += extent.len();
                }
                self.same_size(at)?;
            }
            Content::Descriptor(descriptor) => {
                let (file, pattern) = (File::from(descriptor), image.pattern.clone());
                let (size, stop) = (got.size, self.stop.clone());
                let read = self.lane.run("read an image", move || {
                    let mut buffer = vec![0; READ];
                    let mut at = 0;
                    while at < size && !stop.is_cancelled() {
                        let left = usize::try_from(size - at).unwrap_or(READ).min(READ);
                        let room = buffer.get_mut(..left).unwrap_or_default();
                        file.read_exact_at(room, at).map_err(|error| {
                            imaged_drivers::Error::io("read", "the descriptor", error)
                        })?;
                        if !pattern.resembles(at, room) {
                            return Ok(Some(at));
                        }
                        at += room.len() as u64;
                    }
                    Ok(None)
                });
                match read.await {
                    Ok(None) => {}
                    Ok(Some(at)) => return Err(wrong(at)),
                    Err(error) => return Err(client::Error::Broken(error.to_string())),
                }
            }
        }
        Ok(got.size)
    }

    /// The ids of the images that may be there.
    pub(super) fn ids(&self) -> Vec<String> {
        let there = self.images.iter().filter(|image| *image.presence() != Presence::Absent);
        there.map(|image| image.id.clone()).collect()
    }

    /// Removes every image that may be there; gives the ids of those that may still be.
    pub(super) async fn clean(&self) -> Vec<String> {
        let mut left = Vec::new();
        for image in &self.images {
            let state = *image.presence();
            let gone = match state {
                Presence::Absent => true,
                Presence::Stored => self.remove(&image.id).await.is_ok(),
                Presence::Unknown => self.remove_when_over(&image.id).await,
            };
            if !gone {
                left.push(image.id.clone());
            }
        }
        left
    }

    /// Whether it was there.
    async fn remove(&self, id: &str) -> client::Result<bool> {
        match self.client.delete(self.args.store(), id).await {
            Ok(()) => Ok(true),
            Err(error) if error.is(Kind::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until a put whose outcome is not known is over, and removes what it stored. An id has one
    /// owner: when an image without bytes can have it, no other put of it is under way.
    async fn remove_when_over(&self, id: &str) -> bool {
        let until = Instant::now() + PATIENCE;
        let store = self.args.store();
        while Instant::now() < until {
            match self.remove(id).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
            let empty = futures_util::stream::empty();
            match self.client.put_stream(store, id, Some(0), None, empty).await {
                Ok(_) => return self.remove(id).await.is_ok(),
                Err(error) if error.is(Kind::Exists) => {}
                Err(_) => return false,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }
}
