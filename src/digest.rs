//! Checksum and multihash, computed on threads of their own from the bytes that are being stored.
//!
//! Each digest of each upload is a queue of chunks that at most one thread works on at
//! a time, in order. All queues share one pool with as many threads as cores, and a queue gives its
//! thread back after every chunk, so that a stalled upload holds none and many share them fairly.
//! A thread takes along the other queues of its algorithm that wait just then: several abreast cost
//! little more than one, see [`imaged_digest`], and the more there is to do the more wait.
//!
//! # Decisions
//! * Chose: `imaged_digest` for md5 and sha512, which every image pays for: assembly and OpenSSL for
//!   one image, 1.5 CPU seconds a GiB where sha2 takes 2.1 to 2.3 for sha512 alone, and vectors for
//!   several. Instead of: sha2 and md-5, which a property test holds them against; sha2 serves the
//!   others (its SHA-256 is as fast as any).
//! * Chose: to take abreast what is waiting, shared with the threads that have nothing to do.
//!   Because: a lone upload must not wait for others, and a core that is idle is quicker than a
//!   share in a vector.

use std::{
    collections::VecDeque,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use imaged_digest::{BlockDigest, Md5, Sha512, Stream};
use imaged_drivers::{Digests, Error, Kind, Result};
use parking_lot::{Mutex, MutexGuard};
use rayon::ThreadPool;
use sha2::digest::DynDigest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Chunks that may wait in a queue. Fewer than a window has, so that a slow digest is seen as such.
const WAITING: usize = 6;

/// A multihash algorithm, by its name in Python's hashlib.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algo {
    /// MD5
    Md5,
    /// SHA-1
    Sha1,
    /// SHA-224
    Sha224,
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512, Glance's default
    #[default]
    Sha512,
    /// BLAKE2b with 64 bytes of output
    Blake2b,
}

impl Algo {
    /// Every algorithm.
    pub const ALL: [Self; 7] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Blake2b,
    ];

    /// Its name in Python's hashlib.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Blake2b => "blake2b",
        }
    }

    /// Its name in `Repr-Digest` (RFC 9530), where it has one.
    #[must_use]
    pub fn field_name(self) -> Option<&'static str> {
        match self {
            Self::Md5 => Some("md5"),
            Self::Sha1 => Some("sha"),
            Self::Sha256 => Some("sha-256"),
            Self::Sha512 => Some("sha-512"),
            Self::Sha224 | Self::Sha384 | Self::Blake2b => None,
        }
    }

    /// A digest of no bytes yet.
    #[must_use]
    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Self::Md5 => Inner::Md5(Box::default()),
            Self::Sha1 => Inner::Other(Box::<sha1::Sha1>::default()),
            Self::Sha224 => Inner::Other(Box::<sha2::Sha224>::default()),
            Self::Sha256 => Inner::Other(Box::<sha2::Sha256>::default()),
            Self::Sha384 => Inner::Other(Box::<sha2::Sha384>::default()),
            Self::Sha512 => Inner::Sha512(Box::default()),
            Self::Blake2b => Inner::Other(Box::<blake2::Blake2b512>::default()),
        })
    }

    /// How many images a thread takes abreast.
    fn width(self) -> usize {
        match self {
            Self::Md5 => Md5::WIDTH,
            Self::Sha512 if Sha512::least_abreast() <= Sha512::WIDTH => Sha512::WIDTH,
            Self::Sha512 => 1,
            Self::Sha1 | Self::Sha224 | Self::Sha256 | Self::Sha384 | Self::Blake2b => 1,
        }
    }
}

impl FromStr for Algo {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|algo| algo.name() == text).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!(
                    "unknown hash algorithm, use one of {}: hash_algo=`{}`",
                    Self::ALL.map(Self::name).join(", "),
                    text.chars().take(40).collect::<String>()
                ),
            )
        })
    }
}

impl fmt::Display for Algo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest being computed, on the caller's thread.
pub struct Hasher(Inner);

enum Inner {
    Md5(Box<Stream<Md5>>),
    Sha512(Box<Stream<Sha512>>),
    Other(Box<dyn DynDigest + Send>),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Md5(md5) => md5.update(bytes),
            Inner::Sha512(sha512) => sha512.update(bytes),
            Inner::Other(other) => other.update(bytes),
        }
    }

    /// Takes the next bytes of several images, abreast if they have the same algorithm.
    pub fn update_all<'a>(images: impl Iterator<Item = (&'a mut Self, &'a [u8])>) {
        let (mut md5, mut sha512) = (Vec::new(), Vec::new());
        for (hasher, bytes) in images {
            match &mut hasher.0 {
                Inner::Md5(stream) => md5.push((&mut **stream, bytes)),
                Inner::Sha512(stream) => sha512.push((&mut **stream, bytes)),
                Inner::Other(other) => other.update(bytes),
            }
        }
        Stream::update_all(&mut md5);
        Stream::update_all(&mut sha512);
    }

    /// The digest of all bytes taken, in lowercase hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        match self.0 {
            Inner::Md5(md5) => HEXLOWER.encode(&md5.finish()),
            Inner::Sha512(sha512) => HEXLOWER.encode(&sha512.finish()),
            Inner::Other(other) => HEXLOWER.encode(&other.finalize()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

/// The threads that digests run on.
#[derive(Clone)]
pub struct Pool(Arc<Threads>);

struct Threads {
    /// `None`: the blocking threads of the runtime.
    threads: Option<ThreadPool>,
    /// Threads at work.
    busy: AtomicUsize,
    /// Queues that wait for a thread, of each algorithm.
    ready: [Mutex<VecDeque<Queue>>; Algo::ALL.len()],
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads`, or of one a core if 0.
    ///
    /// # Errors
    /// The system gives no threads.
    pub fn new(threads: usize) -> Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("digest-{n}"))
            .build()
            .map(|threads| Self::with(Some(threads)))
            .map_err(|error| {
                Error::new(Kind::Unavailable, "cannot start the digest threads").because(error)
            })
    }

    /// A pool that works on the blocking threads of whichever tokio runtime asks: for tests whose clock
    /// is paused, because that clock stands still while such a thread works, and knows no others.
    #[must_use]
    pub fn of_runtime() -> Self {
        Self::with(None)
    }

    fn with(threads: Option<ThreadPool>) -> Self {
        let (busy, ready) = (AtomicUsize::new(0), Default::default());
        Self(Arc::new(Threads { threads, busy, ready }))
    }

    fn ready(&self, algo: Algo) -> Option<MutexGuard<'_, VecDeque<Queue>>> {
        let ready = self.0.ready.get(algo as usize)?;
        Some(ready.lock())
    }

    /// Has a thread work on this queue, and on others that are ready by then.
    fn schedule(&self, queue: Queue) {
        let algo = queue.algo;
        if let Some(mut ready) = self.ready(algo) {
            ready.push_back(queue);
        }
        let pool = self.clone();
        let step = move || pool.step(algo);
        match &self.0.threads {
            Some(threads) => threads.spawn_fifo(step),
            #[expect(clippy::disallowed_methods, reason = "one a queue, and only in tests")]
            None => drop(tokio::task::spawn_blocking(step)),
        }
    }

    /// Works on a chunk of each queue that is ready, as many as go abreast. There may be none left:
    /// every queue comes with a step, and a step takes several.
    fn step(&self, algo: Algo) {
        // The one that begins here counts with those that have nothing to do.
        let before = self.0.busy.fetch_add(1, Ordering::Relaxed);
        let threads = self.0.threads.as_ref().map_or(1, ThreadPool::current_num_threads);
        let free = threads.saturating_sub(before).max(1);
        let queues: Vec<Queue> = self.ready(algo).map_or_else(Vec::new, |mut ready| {
            let count = ready.len().div_ceil(free).min(algo.width());
            ready.drain(..count).collect()
        });
        let mut begun: Vec<_> = queues.iter().map(Queue::begin).collect();
        Hasher::update_all(
            begun
                .iter_mut()
                .filter_map(|(hasher, next)| Some((hasher.as_mut()?, &next.as_ref()?.0[..]))),
        );
        for (queue, (hasher, next)) in queues.iter().zip(begun) {
            drop(next);
            queue.end_step(hasher);
        }
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// The queues of one image: md5, and `algo` beside it.
    #[must_use]
    pub fn begin(&self, algo: Algo) -> Digesting {
        let other = (algo != Algo::Md5).then(|| Queue::new(self, algo));
        Digesting { md5: Queue::new(self, Algo::Md5), other, algo }
    }
}

/// The digests of one image, under way.
#[derive(Debug)]
pub struct Digesting {
    md5: Queue,
    other: Option<Queue>,
    algo: Algo,
}

impl Digesting {
    /// Takes the next chunk, waiting while too many are queued.
    ///
    /// # Errors
    /// `Internal` if a queue is gone.
    pub async fn update(&self, chunk: &Bytes) -> Result<()> {
        if let Some(other) = &self.other {
            other.push(chunk.clone()).await?;
        }
        self.md5.push(chunk.clone()).await
    }

    /// The digests, when the last chunk is through.
    ///
    /// # Errors
    /// `Internal` if a queue is gone.
    pub async fn finish(self) -> Result<Digests> {
        let md5 = self.md5.end();
        let other = self.other.as_ref().map(Queue::end);
        let checksum = answer(md5).await?;
        let hash_value = match other {
            Some(other) => answer(other).await?,
            None => checksum.clone(),
        };
        Ok(Digests { checksum, hash_algo: self.algo.name().to_owned(), hash_value })
    }
}

async fn answer(ended: oneshot::Receiver<String>) -> Result<String> {
    ended.await.map_err(|gone| lost().because(gone))
}

fn lost() -> Error {
    Error::new(Kind::Internal, "a digest was lost")
}

/// One digest of one image.
#[derive(Clone)]
struct Queue {
    algo: Algo,
    work: Arc<Mutex<Work>>,
    room: Arc<Semaphore>,
    pool: Pool,
}

struct Work {
    hasher: Option<Hasher>,
    queue: VecDeque<(Bytes, OwnedSemaphorePermit)>,
    /// Whether a thread has this queue, or will.
    scheduled: bool,
    end: Option<oneshot::Sender<String>>,
}

impl Queue {
    fn new(pool: &Pool, algo: Algo) -> Self {
        let work = Work {
            hasher: Some(algo.hasher()),
            queue: VecDeque::with_capacity(WAITING),
            scheduled: false,
            end: None,
        };
        Self {
            algo,
            work: Arc::new(Mutex::new(work)),
            room: Arc::new(Semaphore::new(WAITING)),
            pool: pool.clone(),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock()
    }

    async fn push(&self, chunk: Bytes) -> Result<()> {
        let room = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(|closed| lost().because(closed))?;
        let mut work = self.work();
        work.queue.push_back((chunk, room));
        self.schedule(&mut work);
        Ok(())
    }

    fn end(&self) -> oneshot::Receiver<String> {
        let (end, ended) = oneshot::channel();
        let mut work = self.work();
        work.end = Some(end);
        self.schedule(&mut work);
        ended
    }

    fn schedule(&self, work: &mut Work) {
        if !work.scheduled {
            work.scheduled = true;
            self.pool.schedule(self.clone());
        }
    }

    /// What a thread works on: the digest, and its next chunk, if there is one.
    fn begin(&self) -> (Option<Hasher>, Option<(Bytes, OwnedSemaphorePermit)>) {
        let mut work = self.work();
        (work.hasher.take(), work.queue.pop_front())
    }

    /// Queues up again if there is more.
    fn end_step(&self, hasher: Option<Hasher>) {
        let mut work = self.work();
        work.hasher = hasher;
        work.scheduled = false;
        if !work.queue.is_empty() {
            self.schedule(&mut work);
        } else if let Some(end) = work.end.take()
            && let Some(hasher) = work.hasher.take()
        {
            // Whoever waited may be gone; then nobody needs the digest.
            let _unheard = end.send(hasher.finish());
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_algorithm_gives_the_known_digest_of_abc() {
        let pool = Pool::new(2).unwrap();
        for (algo, start) in [
            (Algo::Md5, "900150983cd24fb0"),
            (Algo::Sha1, "a9993e364706816a"),
            (Algo::Sha224, "23097d223405d822"),
            (Algo::Sha256, "ba7816bf8f01cfea"),
            (Algo::Sha384, "cb00753f45a35e8b"),
            (Algo::Sha512, "ddaf35a193617aba"),
            (Algo::Blake2b, "ba80a53f981c4d0d"),
        ] {
            let digesting = pool.begin(algo);
            digesting.update(&Bytes::from_static(b"a")).await.unwrap();
            digesting.update(&Bytes::from_static(b"bc")).await.unwrap();
            let digests = digesting.finish().await.unwrap();
            assert_eq!(digests.checksum, "900150983cd24fb0d6963f7d28e17f72");
            assert!(digests.hash_value.starts_with(start), "{algo}: {}", digests.hash_value);
            assert_eq!(digests.hash_algo.parse::<Algo>().unwrap(), algo);
        }
    }

    #[tokio::test]
    async fn many_images_at_once_do_not_mix() {
        for (threads, algo) in [(1, Algo::Sha256), (1, Algo::Sha512), (3, Algo::Sha512)] {
            let pool = Pool::new(threads).unwrap();
            let images: Vec<_> = (0_u8..20).map(|_| pool.begin(algo)).collect();
            let piece = |n: u8| Bytes::from(vec![n; 900 + usize::from(n) * 11]);
            for _ in 0..30 {
                for (n, digesting) in (0_u8..).zip(&images) {
                    digesting.update(&piece(n)).await.unwrap();
                }
            }
            for (n, digesting) in (0_u8..).zip(images) {
                let (mut md5, mut other) = (Algo::Md5.hasher(), algo.hasher());
                for _ in 0..30 {
                    md5.update(&piece(n));
                    other.update(&piece(n));
                }
                let digests = digesting.finish().await.unwrap();
                assert_eq!(digests.checksum, md5.finish());
                assert_eq!(digests.hash_value, other.finish());
            }
        }
    }
}
