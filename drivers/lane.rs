//! Where calls that block wait: a bounded number of threads for one store.
//!
//! # Decisions
//! * Chose: the *closure* holds the place, not the caller who waits for it. Because: a call into a
//!   hung mount or cluster cannot be cancelled; when its caller gives up, its thread is still gone.
//!   Instead of: releasing the place with the caller, which lets a hung store take every thread
//!   of the process.
//! * Chose: a task of its own waits for a place. Because: places are given in turn, and one given to a
//!   future that nobody polls, such as the read-ahead of a caller who has stopped reading, would be
//!   lost to all others. Instead of: waiting in the caller's future.
//! * Chose: what is dropped aside takes no place, and has a few threads of its own. Because: it would
//!   wait for a store that is busy, and a place is the right to begin something. It is bounded all
//!   the same: what finds no thread waits in a queue, and a lane in which too many drops wait begins
//!   nothing more. Instead of: dropping it where it happens to be, which blocks a worker if closing
//!   a file hangs; or a thread for each, of which one hung mount would take a thousand.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot},
    time::{Instant, timeout_at},
};

use crate::{Error, Kind, Result};

/// How much longer the caller waits than the queue does.
const GRACE: Duration = Duration::from_millis(20);

/// As many drops may wait in one lane before it begins nothing more. More than any daemon in health
/// has at one time.
const DROPS: usize = 1024;

/// As many threads of one lane drop at a time.
const DROPPERS: usize = 16;

/// Whether a call that takes long goes on: it says so from time to time, from any thread.
#[derive(Clone, Debug)]
pub struct Going(Arc<Mutex<Instant>>);

impl Going {
    /// A call that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// It goes on.
    pub fn on(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// Whether this thread is a lane's, and so may block.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a thread where it may block. Whoever calls this counts.
fn aside(work: impl FnOnce() + Send + 'static) {
    /// Threads are given back, also by a panic.
    struct Here;
    impl Drop for Here {
        fn drop(&mut self) {
            ASIDE.set(false);
        }
    }
    #[expect(clippy::disallowed_methods, reason = "those who call this count")]
    let _goes_on = tokio::task::spawn_blocking(move || {
        ASIDE.set(true);
        let _here = Here;
        work();
    });
}

/// Whether a drop may block here: on a lane's thread, or where there is no other to be had.
fn may_block() -> bool {
    ASIDE.try_with(Cell::get).unwrap_or(true) || Handle::try_current().is_err()
}

/// The threads of one store, at most `places` at a time.
#[derive(Clone, Debug)]
pub struct Lane {
    name: Arc<str>,
    places: usize,
    free: Arc<Semaphore>,
    drops: Arc<Drops>,
    most_drops: usize,
    patience: Duration,
}

impl Lane {
    /// A lane for the store `name`; `patience` bounds the wait for a place and for the answer
    /// together.
    #[must_use]
    pub fn new(name: &str, places: usize, patience: Duration) -> Self {
        let (free, drops) = (Arc::new(Semaphore::new(places)), Arc::default());
        Self { name: name.into(), places, free, drops, most_drops: DROPS, patience }
    }

    /// The same lane, which begins nothing more while `most` drops or more wait or hang.
    #[must_use]
    pub fn with_drops(self, most: usize) -> Self {
        Self { most_drops: most, ..self }
    }

    /// Runs `work` on a thread where it may block.
    ///
    /// # Errors
    /// `Unavailable` if no place came free in time, or too many drops hang; `Timeout` if `work` did not return in time: it
    /// goes on, keeps its place, and its result is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.wait_for(doing, None, work).await
    }

    /// The same of work that takes as long as it goes on: it is given up only when it has not said so
    /// for as long as the lane's patience.
    ///
    /// # Errors
    /// As [`Lane::run`].
    pub async fn run_long<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Going) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let going = Going::begin();
        let told = going.clone();
        let work = move || {
            told.on();
            work(&told)
        };
        self.wait_for(doing, Some(going), work).await
    }

    async fn wait_for<T: Send + 'static>(
        &self,
        doing: &'static str,
        going: Option<Going>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.is_clogged() {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the store hangs: {} of its files cannot be closed, cannot {doing}: \
                     store=`{}`",
                    self.most_drops, self.name
                ),
            ));
        }
        let mut deadline = Instant::now() + self.patience;
        let (answer, mut answered) = oneshot::channel();
        match Arc::clone(&self.free).try_acquire_owned() {
            Ok(place) => begin(place, work, answer),
            Err(TryAcquireError::Closed) => return Err(self.closed(doing)),
            Err(TryAcquireError::NoPermits) => {
                let (turn, full) = (Arc::clone(&self.free).acquire_owned(), self.full(doing));
                tokio::spawn(async move {
                    let mut answer = answer;
                    tokio::select! {
                        // Nobody waits any more, so nothing is begun.
                        () = answer.closed() => {}
                        place = timeout_at(deadline, turn) => match place {
                            Ok(Ok(place)) => begin(place, work, answer),
                            Ok(Err(_)) | Err(_) => drop(answer.send(Err(full))),
                        }
                    }
                });
            }
        }
        // A moment longer than the wait for a place, which has its own answer.
        let answered = loop {
            match timeout_at(deadline + GRACE, &mut answered).await {
                Ok(answered) => break answered,
                Err(_) => {
                    let later = going.as_ref().map(|going| going.last() + self.patience);
                    match later.filter(|later| *later > deadline) {
                        Some(later) => deadline = later,
                        None => return Err(self.late(doing)),
                    }
                }
            }
        };
        answered.unwrap_or_else(|_lost| {
            Err(Error::new(
                Kind::Internal,
                format!("a thread of the store failed to {doing}: store=`{}`", self.name),
            ))
        })
    }

    fn late(&self, doing: &str) -> Error {
        Error::new(
            Kind::Timeout,
            format!(
                "no answer from the store within {} s, trying to {doing}: store=`{}`",
                self.patience.as_secs(),
                self.name
            ),
        )
    }

    /// Drops `value` on a thread where that may block, and does not wait for it.
    pub fn discard<T: Send + 'static>(&self, value: T) {
        if may_block() {
            drop(value);
        } else {
            self.drop_aside(move || drop(value));
        }
    }

    fn drop_aside(&self, drops: impl FnOnce() + Send + 'static) {
        self.drops.push(Box::new(drops));
    }

    /// Whether so many drops hang that nothing is begun any more.
    #[must_use]
    pub fn is_clogged(&self) -> bool {
        self.drops.count() >= self.most_drops
    }

    /// Whether nothing runs here and nothing waits to be dropped.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.taken() == 0 && self.drops.count() == 0
    }

    /// How many places are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.places.saturating_sub(self.free.available_permits())
    }

    fn full(&self, doing: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            format!(
                "the store hangs: all {} of its threads are stuck, cannot {doing}: store=`{}`",
                self.places, self.name
            ),
        )
    }

    fn closed(&self, doing: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            format!("the daemon is stopping, cannot {doing}: store=`{}`", self.name),
        )
    }
}

/// Runs `work` on a thread where it may block; the place is free when it has returned.
fn begin<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    answer: oneshot::Sender<Result<T>>,
) {
    aside(move || {
        // A panic drops `answer`, and the place with it.
        let place = place;
        let result = work();
        if answer.is_closed() {
            // Nobody waits: what `work` made is dropped here, which may block too.
            drop(result);
            drop(place);
        } else {
            drop(place);
            drop(answer.send(result));
        }
    });
}

/// What is to be dropped, in turn, and the threads that are at it.
#[derive(Default)]
struct Drops(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Box<dyn FnOnce() + Send>>,
    threads: usize,
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drops").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Drops {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait or are under way.
    fn count(&self) -> usize {
        let waiting = self.waiting();
        waiting.queue.len().saturating_add(waiting.threads)
    }

    fn push(self: &Arc<Self>, drops: Box<dyn FnOnce() + Send>) {
        let mut waiting = self.waiting();
        waiting.queue.push_back(drops);
        if waiting.threads >= DROPPERS {
            return;
        }
        waiting.threads += 1;
        drop(waiting);
        Dropper::begin(self);
    }
}

/// One thread that drops what waits, until nothing does.
struct Dropper {
    drops: Arc<Drops>,
    runs: bool,
}

impl Dropper {
    fn begin(drops: &Arc<Drops>) {
        let mut thread = Self { drops: Arc::clone(drops), runs: false };
        aside(move || {
            thread.runs = true;
            while let Some(drops) = thread.next() {
                drops();
            }
        });
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        self.drops.waiting().queue.pop_front()
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        let mut waiting = self.drops.waiting();
        waiting.threads = waiting.threads.saturating_sub(1);
        // It may have ended by a panic, or have missed what came after its last look. One that never
        // ran belongs to a runtime that has ended.
        let again = self.runs && !waiting.queue.is_empty();
        waiting.threads += usize::from(again);
        drop(waiting);
        if again {
            Self::begin(&self.drops);
        }
    }
}

/// A value that is dropped where that may block, wherever it is let go of: an open file, whose
/// closing may hang.
pub struct Aside<T: Send + Sync + 'static> {
    // Let go of in this order.
    value: Arc<T>,
    let_go: Option<mpsc::Sender<()>>,
    lane: Lane,
}

impl<T: Send + Sync + 'static> Aside<T> {
    /// `value`, to be dropped by [`Lane::discard`].
    #[must_use]
    pub fn new(lane: &Lane, value: T) -> Self {
        Self { value: Arc::new(value), let_go: None, lane: lane.clone() }
    }
}

impl<T: Send + Sync + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        if may_block() {
            return;
        }
        let (let_go, ours) = mpsc::channel::<()>();
        self.let_go = Some(let_go);
        let value = Arc::clone(&self.value);
        self.lane.drop_aside(move || {
            // When the other holder has let go, this one is the last.
            let _let_go = ours.recv().is_err();
            drop(value);
        });
    }
}

impl<T: Send + Sync + 'static> Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: AsFd + Send + Sync + 'static> AsFd for Aside<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.value.as_fd()
    }
}

impl<T: AsRawFd + Send + Sync + 'static> AsRawFd for Aside<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.value.as_raw_fd()
    }
}

impl<T: fmt::Debug + Send + Sync + 'static> fmt::Debug for Aside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, thread::ThreadId};

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_hung_store_fills_its_own_lane_and_no_other() {
        let hung = Lane::new("hung", 2, Duration::from_millis(50));
        let well = Lane::new("well", 2, Duration::from_secs(5));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..2 {
            let gate = Arc::clone(&gate);
            let stuck = hung.run("read", move || {
                let _closed = gate.lock().unwrap().recv();
                Ok(())
            });
            assert_eq!(stuck.await.unwrap_err().kind(), Kind::Timeout);
        }
        assert_eq!(hung.taken(), 2);
        assert_eq!(hung.run("read", || Ok(())).await.unwrap_err().kind(), Kind::Unavailable);
        well.run("read", || Ok(())).await.unwrap();
        drop(release);
        while hung.taken() > 0 {
            tokio::task::yield_now().await;
        }
        hung.run("read", || Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn what_goes_on_is_waited_for_and_what_does_not_is_given_up() {
        let lane = Lane::new("a", 2, Duration::from_millis(200));
        let (tell, told) = mpsc::channel::<()>();
        let goes_on = lane.run_long("remove", move |going| {
            let mut steps = 0;
            while told.recv().is_ok() {
                going.on();
                steps += 1;
            }
            Ok(steps)
        });
        let steps = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                tell.send(()).unwrap();
            }
            drop(tell);
        };
        let (done, ()) = tokio::join!(goes_on, steps);
        assert_eq!(done.unwrap(), 10, "longer than the lane's patience");
        let (release, gate) = mpsc::channel::<()>();
        let stuck = lane.run_long("remove", move |_| Ok(gate.recv().is_err()));
        assert_eq!(stuck.await.unwrap_err().kind(), Kind::Timeout);
        drop(release);
    }

    #[tokio::test]
    async fn a_place_is_not_lost_to_a_caller_who_does_not_look() {
        let lane = Lane::new("a", 1, Duration::from_secs(5));
        let (release, gate) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let lane = lane.clone();
            async move { lane.run("read", move || Ok(gate.recv().is_err())).await }
        });
        while lane.taken() == 0 {
            tokio::task::yield_now().await;
        }
        let mut idle = std::pin::pin!(lane.run("read ahead", || Ok(())));
        assert!(idle.as_mut().now_or_never().is_none(), "in the queue from here on");
        let next = tokio::spawn({
            let lane = lane.clone();
            async move { lane.run("read", || Ok(())).await }
        });
        tokio::task::yield_now().await;
        drop(release);
        assert!(first.await.unwrap().unwrap());
        next.await.unwrap().unwrap();
        idle.await.unwrap();
    }

    #[tokio::test]
    async fn who_gave_up_in_the_queue_begins_nothing() {
        let lane = Lane::new("a", 1, Duration::from_secs(5));
        let (release, gate) = mpsc::channel::<()>();
        let mut first = std::pin::pin!(lane.run("read", move || Ok(gate.recv().is_err())));
        assert!(first.as_mut().now_or_never().is_none());
        let (began, begun) = mpsc::channel();
        {
            let mut gone = std::pin::pin!(lane.run("read", move || Ok(began.send(()).is_ok())));
            assert!(gone.as_mut().now_or_never().is_none());
        }
        drop(release);
        assert!(first.await.unwrap());
        lane.run("read", || Ok(())).await.unwrap();
        assert!(begun.recv().is_err(), "dropped unused");
    }

    #[tokio::test]
    async fn a_panic_on_a_thread_is_an_internal_error_and_frees_the_place() {
        let lane = Lane::new("a", 1, Duration::from_secs(5));
        let broken = lane.run::<()>("read", || panic!("planted"));
        assert_eq!(broken.await.unwrap_err().kind(), Kind::Internal);
        assert_eq!(lane.taken(), 0);
    }

    /// Tells on which thread it is dropped.
    struct Told(mpsc::Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(std::thread::current().id()).unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_let_go_of_anywhere_is_dropped_where_that_may_block() {
        let lane = Lane::new("a", 1, Duration::from_secs(5));
        let (tell, told) = mpsc::channel();
        let told = Arc::new(Mutex::new(told));
        let here = std::thread::current().id();
        let hear = || {
            let told = Arc::clone(&told);
            lane.run("hear", move || Ok(told.lock().unwrap().recv().unwrap()))
        };
        drop(Aside::new(&lane, Told(tell.clone())));
        assert_ne!(hear().await.unwrap(), here, "not by a worker");
        lane.discard(Told(tell.clone()));
        assert_ne!(hear().await.unwrap(), here, "not by a worker");
        let (inside, told_inside) = mpsc::channel();
        let value = Aside::new(&lane, Told(inside));
        let on = lane.run("drop", move || {
            drop(value);
            Ok(std::thread::current().id())
        });
        let on = on.await.unwrap();
        assert_eq!(told_inside.try_recv().unwrap(), on, "at once where that may block");
        // Without a runtime there is no other thread.
        let value = Aside::new(&lane, Told(tell));
        let outside = std::thread::spawn(move || {
            drop(value);
            std::thread::current().id()
        });
        let outside = outside.join().unwrap();
        assert_eq!(hear().await.unwrap(), outside);
    }

    /// Is dropped when its gate opens.
    struct Stuck(Arc<Mutex<mpsc::Receiver<()>>>);

    impl Drop for Stuck {
        fn drop(&mut self) {
            let _closed = self.0.lock().unwrap().recv();
        }
    }

    #[tokio::test]
    async fn a_lane_whose_drops_hang_begins_nothing_more_and_others_do() {
        const MOST: usize = 3 * DROPPERS;
        let hung = Lane::new("hung", 2, Duration::from_secs(5)).with_drops(MOST);
        let well = Lane::new("well", 2, Duration::from_secs(5));
        let (release, gate) = mpsc::channel();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 1..MOST {
            hung.discard(Stuck(Arc::clone(&gate)));
        }
        hung.run("read", || Ok(())).await.unwrap();
        hung.discard(Stuck(Arc::clone(&gate)));
        assert_eq!(hung.drops.waiting().threads, DROPPERS, "the others wait in the queue");
        assert_eq!(hung.run("read", || Ok(())).await.unwrap_err().kind(), Kind::Unavailable);
        well.run("read", || Ok(())).await.unwrap();
        drop(release);
        while !hung.is_idle() {
            tokio::task::yield_now().await;
        }
        hung.run("read", || Ok(())).await.unwrap();
    }

    /// Panics when it is dropped.
    struct Broken;

    impl Drop for Broken {
        fn drop(&mut self) {
            panic!("planted");
        }
    }

    #[tokio::test]
    async fn a_drop_that_panics_keeps_no_other_from_being_dropped() {
        let lane = Lane::new("a", 1, Duration::from_secs(5));
        let (tell, told) = mpsc::channel();
        for _ in 0..2 * DROPPERS {
            lane.discard(Broken);
        }
        lane.discard(Told(tell));
        lane.run("hear", move || Ok(told.recv().unwrap())).await.unwrap();
        while !lane.is_idle() {
            tokio::task::yield_now().await;
        }
    }
}
