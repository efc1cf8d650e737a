//! Checksum and multihash, computed on threads of their own from the bytes that are being stored.
//!
//! Each digest of each upload is a queue of chunks that at most one thread works on at
//! a time, in order. All queues share one pool with as many threads as cores, and a queue gives its
//! thread back after every chunk, so that a stalled upload holds none and many share them fairly.
//! A thread takes along the other queues of its algorithm that wait just then: several abreast cost
//! little more than one, see [`imaged_digest`], and the more there is to do the more wait. Where the
//! processor lets md5 and sha512 of an image be computed in one pass, the two are one queue if the image
//! finds the threads busy.
//!
//! # Decisions
//! * Chose: `imaged_digest` for md5 and sha512, which every image pays for: assembly and OpenSSL for
//!   one image, 1.5 CPU seconds a GiB where sha2 takes 2.1 to 2.3 for sha512 alone, and vectors for
//!   several. Instead of: sha2 and md-5, which a property test holds them against; sha2 serves the
//!   others (its SHA-256 is as fast as any).
//! * Chose: md5 and sha512 of an image that finds two threads idle as two queues, else in one pass.
//!   Because: two threads are a third faster where nobody else needs the second (on two cores 1 GiB
//!   into a directory took 1.75 s, in one pass 2.4 s), one pass costs a fifth less CPU. Instead of: one
//!   pass always, for which a lone upload would wait beside an idle core; or two threads that take each
//!   chunk of a pass together, of which one always waits for the other (1.9 s, and into a pool of a
//!   cluster on the same cores 2.7 s instead of 2.3 s).
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
use imaged_digest::{BlockDigest, Both, Kernel, Md5, Sha512, Stream};
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

/// The digests that an image gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The multihash algorithm.
    pub algo: Algo,
    /// Whether also its md5, Glance's `checksum`.
    pub checksum: bool,
}

impl Choice {
    /// Whether `digests` are all of these.
    #[must_use]
    pub fn is_met_by(self, digests: &Digests) -> bool {
        digests.hash_algo == self.algo.name() && (digests.checksum.is_some() || !self.checksum)
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
    fn update_all<'a>(kernel: Kernel, images: impl Iterator<Item = (&'a mut Self, &'a [u8])>) {
        let (mut md5, mut sha512) = (Vec::new(), Vec::new());
        for (hasher, bytes) in images {
            match &mut hasher.0 {
                Inner::Md5(stream) => md5.push((&mut **stream, bytes)),
                Inner::Sha512(stream) => sha512.push((&mut **stream, bytes)),
                Inner::Other(other) => other.update(bytes),
            }
        }
        Stream::update_all(kernel, &mut md5);
        Stream::update_all(kernel, &mut sha512);
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

/// What one thread computes of an image, over its bytes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    One(Algo),
    /// md5 and sha512, where the kernel has a pass for the two.
    Both,
}

impl Pass {
    const COUNT: usize = Algo::ALL.len() + 1;

    /// What computes `algo`, and md5 beside it if `md5`, while so many threads are idle.
    pub(crate) fn of(algo: Algo, md5: bool, kernel: Kernel, idle: usize) -> Vec<Self> {
        if md5 && algo == Algo::Sha512 && kernel.is_one_pass() && idle < 2 {
            vec![Self::Both]
        } else if md5 && algo != Algo::Md5 {
            vec![Self::One(algo), Self::One(Algo::Md5)]
        } else {
            vec![Self::One(algo)]
        }
    }

    fn index(self) -> usize {
        match self {
            Self::One(algo) => algo as usize,
            Self::Both => Algo::ALL.len(),
        }
    }

    /// How many images a thread takes abreast.
    fn width(self, kernel: Kernel) -> usize {
        if self == Self::Both {
            Both::WIDTH
        } else if self == Self::One(Algo::Md5) {
            Md5::WIDTH
        } else if self == Self::One(Algo::Sha512) && Sha512::least_abreast(kernel) <= Sha512::WIDTH
        {
            Sha512::WIDTH
        } else {
            1
        }
    }

    pub(crate) fn begin(self) -> Computing {
        match self {
            Self::One(algo) => Computing::One(algo, algo.hasher()),
            Self::Both => Computing::Both(Box::default()),
        }
    }
}

/// What a pass has computed so far.
pub(crate) enum Computing {
    One(Algo, Hasher),
    Both(Box<Both>),
}

impl Computing {
    /// Takes the next bytes of several images, abreast where that pays; all of one pass.
    pub(crate) fn update_all<'a>(
        kernel: Kernel,
        images: impl Iterator<Item = (&'a mut Self, &'a [u8])>,
    ) {
        let (mut one, mut both) = (Vec::new(), Vec::new());
        for (computing, bytes) in images {
            match computing {
                Self::One(_, hasher) => one.push((hasher, bytes)),
                Self::Both(streams) => both.push((&mut **streams, bytes)),
            }
        }
        Hasher::update_all(kernel, one.into_iter());
        Both::update_all(kernel, &mut both);
    }

    pub(crate) fn finish(self) -> Found {
        match self {
            Self::One(algo, hasher) => vec![(algo, hasher.finish())],
            Self::Both(both) => {
                let (md5, sha512) = both.finish();
                vec![(Algo::Md5, HEXLOWER.encode(&md5)), (Algo::Sha512, HEXLOWER.encode(&sha512))]
            }
        }
    }
}

/// Digests by their algorithms.
pub(crate) type Found = Vec<(Algo, String)>;

/// The threads that digests run on.
#[derive(Clone)]
pub struct Pool(Arc<Threads>);

struct Threads {
    /// `None`: the blocking threads of the runtime.
    threads: Option<ThreadPool>,
    kernel: Kernel,
    /// Threads at work.
    busy: AtomicUsize,
    /// Queues that wait for a thread, of each pass.
    ready: [Mutex<VecDeque<Queue>>; Pass::COUNT],
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of `threads`, or of one a core if 0, whose digests use `kernel`: see
    /// [`Kernel`].
    ///
    /// # Errors
    /// The machine lacks the kernel, or the system gives no threads.
    pub fn new(threads: usize, kernel: &str) -> Result<Self> {
        let kernel = self::kernel(kernel)?;
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("digest-{n}"))
            .build()
            .map(|threads| Self::with(Some(threads), kernel))
            .map_err(|error| {
                Error::new(Kind::Unavailable, "cannot start the digest threads").because(error)
            })
    }

    /// A pool that works on the blocking threads of whichever tokio runtime asks: for tests whose clock
    /// is paused, because that clock stands still while such a thread works, and knows no others.
    #[must_use]
    pub fn of_runtime() -> Self {
        Self::with(None, Kernel::best())
    }

    fn with(threads: Option<ThreadPool>, kernel: Kernel) -> Self {
        let (busy, ready) = (AtomicUsize::new(0), Default::default());
        Self(Arc::new(Threads { threads, kernel, busy, ready }))
    }

    /// The name of the kernel that its digests use.
    #[must_use]
    pub fn kernel(&self) -> &'static str {
        self.0.kernel.name()
    }

    fn ready(&self, pass: Pass) -> Option<MutexGuard<'_, VecDeque<Queue>>> {
        let ready = self.0.ready.get(pass.index())?;
        Some(ready.lock())
    }

    /// Has a thread work on this queue, and on others that are ready by then.
    fn schedule(&self, queue: Queue) {
        let pass = queue.pass;
        if let Some(mut ready) = self.ready(pass) {
            ready.push_back(queue);
        }
        let pool = self.clone();
        let step = move || pool.step(pass);
        match &self.0.threads {
            Some(threads) => threads.spawn_fifo(step),
            #[expect(clippy::disallowed_methods, reason = "one a queue, and only in tests")]
            None => drop(tokio::task::spawn_blocking(step)),
        }
    }

    /// Works on a chunk of each queue that is ready, as many as go abreast. There may be none left:
    /// every queue comes with a step, and a step takes several.
    fn step(&self, pass: Pass) {
        // The one that begins here counts with those that have nothing to do.
        let before = self.0.busy.fetch_add(1, Ordering::Relaxed);
        let free = self.idle(before).max(1);
        let queues: Vec<Queue> = self.ready(pass).map_or_else(Vec::new, |mut ready| {
            let count = ready.len().div_ceil(free).min(pass.width(self.0.kernel));
            ready.drain(..count).collect()
        });
        let mut begun: Vec<_> = queues.iter().map(Queue::begin).collect();
        Computing::update_all(
            self.0.kernel,
            begun
                .iter_mut()
                .filter_map(|(computing, next)| Some((computing.as_mut()?, &next.as_ref()?.0[..]))),
        );
        for (queue, (computing, next)) in queues.iter().zip(begun) {
            drop(next);
            queue.end_step(computing);
        }
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// The threads that have nothing to do while `busy` are at work.
    fn idle(&self, busy: usize) -> usize {
        let threads = self.0.threads.as_ref().map_or(1, ThreadPool::current_num_threads);
        threads.saturating_sub(busy)
    }

    /// Begins the digests of one image: those of `choice`, and md5 also if `promised`.
    #[must_use]
    pub fn begin(&self, choice: Choice, promised: bool) -> Digesting {
        let (algo, md5) = (choice.algo, choice.checksum || promised);
        let idle = self.idle(self.0.busy.load(Ordering::Relaxed));
        let passes = Pass::of(algo, md5, self.0.kernel, idle).into_iter();
        let queues = passes.map(|pass| Queue::new(self, pass)).collect();
        Digesting { queues, algo, md5 }
    }
}

/// The kernel of this name; `auto` is the fastest that the machine has.
///
/// # Errors
/// The machine lacks it.
pub(crate) fn kernel(name: &str) -> Result<Kernel> {
    name.parse().map_err(|there: String| {
        Error::new(
            Kind::Unsupported,
            format!(
                "this machine lacks the digest_kernel, use auto or one of {there}: \
                 digest_kernel=`{name}`"
            ),
        )
    })
}

/// The digests of one image, under way.
#[derive(Debug)]
pub struct Digesting {
    queues: Vec<Queue>,
    algo: Algo,
    md5: bool,
}

impl Digesting {
    /// Takes the next chunk, waiting while too many are queued.
    ///
    /// # Errors
    /// `Internal` if a queue is gone.
    pub async fn update(&self, chunk: &Bytes) -> Result<()> {
        for queue in &self.queues {
            queue.push(chunk.clone()).await?;
        }
        Ok(())
    }

    /// The digests, when the last chunk is through; with md5 whoever wanted it.
    ///
    /// # Errors
    /// `Internal` if a queue is gone.
    pub async fn finish(self) -> Result<Digests> {
        let ended: Vec<_> = self.queues.iter().map(Queue::end).collect();
        let mut found = Found::new();
        for ended in ended {
            found.extend(ended.await.map_err(|gone| lost().because(gone))?);
        }
        let of = |algo| {
            let found = found.iter().find(|(of, _)| *of == algo);
            found.map(|(_, value)| value.clone())
        };
        let (checksum, hash_value) =
            (of(Algo::Md5).filter(|_| self.md5), of(self.algo).ok_or_else(lost)?);
        Ok(Digests { checksum, hash_algo: self.algo.name().to_owned(), hash_value })
    }
}

fn lost() -> Error {
    Error::new(Kind::Internal, "a digest was lost")
}

/// One pass over one image.
#[derive(Clone)]
struct Queue {
    pass: Pass,
    work: Arc<Mutex<Work>>,
    room: Arc<Semaphore>,
    pool: Pool,
}

struct Work {
    computing: Option<Computing>,
    queue: VecDeque<(Bytes, OwnedSemaphorePermit)>,
    /// Whether a thread has this queue, or will.
    scheduled: bool,
    end: Option<oneshot::Sender<Found>>,
}

impl Queue {
    fn new(pool: &Pool, pass: Pass) -> Self {
        let work = Work {
            computing: Some(pass.begin()),
            queue: VecDeque::with_capacity(WAITING),
            scheduled: false,
            end: None,
        };
        Self {
            pass,
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

    fn end(&self) -> oneshot::Receiver<Found> {
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
    fn begin(&self) -> (Option<Computing>, Option<(Bytes, OwnedSemaphorePermit)>) {
        let mut work = self.work();
        (work.computing.take(), work.queue.pop_front())
    }

    /// Queues up again if there is more.
    fn end_step(&self, computing: Option<Computing>) {
        let mut work = self.work();
        work.computing = computing;
        work.scheduled = false;
        if !work.queue.is_empty() {
            self.schedule(&mut work);
        } else if let Some(end) = work.end.take()
            && let Some(computing) = work.computing.take()
        {
            // Whoever waited may be gone; then nobody needs the digest.
            let _unheard = end.send(computing.finish());
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
        for kernel in Kernel::all() {
            every_algorithm(&Pool::new(2, kernel.name()).unwrap()).await;
        }
    }

    async fn every_algorithm(pool: &Pool) {
        for (algo, start) in [
            (Algo::Md5, "900150983cd24fb0"),
            (Algo::Sha1, "a9993e364706816a"),
            (Algo::Sha224, "23097d223405d822"),
            (Algo::Sha256, "ba7816bf8f01cfea"),
            (Algo::Sha384, "cb00753f45a35e8b"),
            (Algo::Sha512, "ddaf35a193617aba"),
            (Algo::Blake2b, "ba80a53f981c4d0d"),
        ] {
            let digesting = pool.begin(Choice { algo, checksum: true }, false);
            digesting.update(&Bytes::from_static(b"a")).await.unwrap();
            digesting.update(&Bytes::from_static(b"bc")).await.unwrap();
            let digests = digesting.finish().await.unwrap();
            assert_eq!(digests.checksum.unwrap(), "900150983cd24fb0d6963f7d28e17f72");
            assert!(digests.hash_value.starts_with(start), "{algo}: {}", digests.hash_value);
            assert_eq!(digests.hash_algo.parse::<Algo>().unwrap(), algo);
        }
    }

    #[tokio::test]
    async fn many_images_at_once_do_not_mix() {
        let some = [(1, Algo::Sha256, 20), (1, Algo::Sha512, 20), (3, Algo::Sha512, 20)];
        // Few enough for a pass on a thread, and for a thread for each digest.
        let few = [(1, Algo::Sha512, 2), (4, Algo::Sha512, 1), (4, Algo::Sha512, 2)];
        let kernels = Kernel::all();
        for (kernel, (threads, algo, count)) in
            kernels.iter().flat_map(|kernel| some.iter().chain(&few).map(move |one| (kernel, *one)))
        {
            let pool = Pool::new(threads, kernel.name()).unwrap();
            let images: Vec<_> =
                (0_u8..count).map(|_| pool.begin(Choice { algo, checksum: true }, false)).collect();
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
                assert_eq!(digests.checksum.unwrap(), md5.finish());
                assert_eq!(digests.hash_value, other.finish());
            }
        }
    }
    #[test]
    fn a_kernel_that_the_machine_lacks_is_refused_with_those_that_it_has() {
        let error = Pool::new(1, "sse9").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let there: Vec<_> = Kernel::all().into_iter().map(Kernel::name).collect();
        let text = format!("use auto or one of {}: digest_kernel=`sse9`", there.join(", "));
        assert!(error.to_string().contains(&text), "{error}");
        assert_eq!(Pool::new(1, "auto").unwrap().kernel(), Kernel::best().name());
    }
    #[tokio::test]
    async fn md5_is_computed_only_if_it_is_wanted_or_promised() {
        for kernel in Kernel::all() {
            let pool = Pool::new(2, kernel.name()).unwrap();
            for (algo, checksum, promised, found) in [
                (Algo::Sha512, false, false, false),
                (Algo::Sha512, false, true, true),
                (Algo::Sha256, false, false, false),
                (Algo::Sha256, true, false, true),
                (Algo::Md5, false, false, false),
                (Algo::Md5, true, false, true),
            ] {
                let choice = Choice { algo, checksum };
                let digests = pool.begin(choice, promised).finish().await.unwrap();
                assert_eq!(digests.checksum.is_some(), found, "{kernel}: {choice:?} {promised}");
                assert_eq!(digests.hash_value, algo.hasher().finish(), "{kernel}: {choice:?}");
                assert!(choice.is_met_by(&digests), "{kernel}: {choice:?}");
            }
        }
    }
}
