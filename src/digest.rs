//! Checksum and multihash, computed on threads of their own from the bytes that are being stored.
//!
//! Each digest of each upload is a queue of chunks that at most one thread works on at
//! a time, in order. All queues share one pool with as many threads as cores, and a queue gives its
//! thread back after every chunk, so that a stalled upload holds none and many share them fairly.
//! A thread takes along the other queues of its algorithm that wait just then: several abreast cost
//! little more than one, see [`imaged_digest`], and the more there is to do the more wait. Where the
//! processor lets md5 and sha512 of an image be computed in one pass, the two are one queue.
//!
//! # Decisions
//! * Chose: `imaged_digest` for md5 and sha512, which every image pays for: assembly and OpenSSL for
//!   one image, 1.5 CPU seconds a GiB where sha2 takes 2.1 to 2.3 for sha512 alone, and vectors for
//!   several. Instead of: sha2 and md-5, which a property test holds them against; sha2 serves the
//!   others (its SHA-256 is as fast as any).
//! * Chose: md5 and sha512 of an image in one pass. Because: it takes as long as the slower of the two does on a
//!   thread of its own, and half the CPU of both. Instead of: a thread for each, where a core has nothing to do.
//! * Chose: to take abreast what is waiting, shared with the threads that have nothing to do.
//!   Because: a lone upload must not wait for others, and a core that is idle is quicker than a
//!   share in a vector.

mod algo;
mod pass;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use imaged_digest::Kernel;
use imaged_drivers::{Digests, Error, Kind, Result};
use parking_lot::{Mutex, MutexGuard};
use rayon::ThreadPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use self::algo::{Algo, Choice, Hasher};
pub(crate) use self::pass::{Computing, Found, Pass};

/// Chunks that may wait in a queue. Fewer than a window has, so that a slow digest is seen as such.
const WAITING: usize = 6;

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
        let before = self.0.busy.fetch_add(1, Ordering::Relaxed);
        let threads = self.0.threads.as_ref().map_or(1, ThreadPool::current_num_threads);
        // This one counts with those that have nothing to do.
        let free = threads.saturating_sub(before).max(1);
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

    /// Begins the digests of one image: those of `choice`, and md5 also if `promised`.
    #[must_use]
    pub fn begin(&self, choice: Choice, promised: bool) -> Digesting {
        let (algo, md5) = (choice.algo, choice.checksum || promised);
        let passes = Pass::of(algo, md5, self.0.kernel).into_iter();
        let queues = passes.map(|pass| Queue::new(self, pass.begin())).collect();
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
    pub async fn update(&mut self, chunk: &Bytes) -> Result<()> {
        for queue in &self.queues {
            queue.push(chunk.clone()).await?;
        }
        Ok(())
    }

    /// What all queues have computed, when their last chunk is through.
    async fn ended(&self) -> Result<Vec<Computing>> {
        let ended: Vec<_> = self.queues.iter().map(Queue::end).collect();
        let mut computing = Vec::new();
        for ended in ended {
            computing.push(ended.await.map_err(|gone| lost().because(gone))?);
        }
        Ok(computing)
    }

    /// The digests, when the last chunk is through; with md5 whoever wanted it.
    ///
    /// # Errors
    /// `Internal` if a queue is gone.
    pub async fn finish(self) -> Result<Digests> {
        let found: Found = self.ended().await?.into_iter().flat_map(Computing::finish).collect();
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

/// Bytes of an image, and the room that they have in its queue.
type Chunk = (Bytes, OwnedSemaphorePermit);

struct Work {
    computing: Option<Computing>,
    queue: VecDeque<Chunk>,
    /// Whether a thread has this queue, or will.
    scheduled: bool,
    end: Option<oneshot::Sender<Computing>>,
}

impl Queue {
    fn new(pool: &Pool, computing: Computing) -> Self {
        let pass = computing.pass();
        let work = Work {
            computing: Some(computing),
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

    fn end(&self) -> oneshot::Receiver<Computing> {
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
    fn begin(&self) -> (Option<Computing>, Option<Chunk>) {
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
            let _unheard = end.send(computing);
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
            let mut digesting = pool.begin(Choice { algo, checksum: true }, false);
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
            let mut images: Vec<_> =
                (0_u8..count).map(|_| pool.begin(Choice { algo, checksum: true }, false)).collect();
            let piece = |n: u8| Bytes::from(vec![n; 900 + usize::from(n) * 11]);
            for _ in 0..30 {
                for (n, digesting) in (0_u8..).zip(&mut images) {
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
