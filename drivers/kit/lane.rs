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
//! * Chose: what is dropped in the queue (`Drops`) takes no place, and has a few threads of its own. Because: it would
//!   wait for a store that is busy, and a place is the right to begin something. It is bounded all
//!   the same: what finds no thread waits in a queue, and a lane in which too many drops wait begins
//!   nothing more. Instead of: dropping it where it happens to be, which blocks a worker if closing
//!   a file hangs; or a thread for each, of which one hung mount would take a thousand.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot},
    time::{Instant, timeout_at},
};

use super::drops::{Drops, may_block, on_blocking_thread};
use crate::contract::{Error, Kind, Result};

/// How much longer the caller waits than the queue does.
const GRACE: Duration = Duration::from_millis(20);

/// As many drops may wait in one lane before it begins nothing more. More than any daemon in health
/// has at one time.
const DROPS: usize = 1024;

/// Whether a call that takes long goes on: it says so from time to time, from any thread.
#[derive(Clone, Debug)]
pub struct Going(Arc<Mutex<Instant>>);

impl Going {
    /// A call that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Says that it goes on.
    pub fn report(&self) {
        *self.0.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock()
    }
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
        let reports = going.clone();
        let work = move || {
            reports.report();
            work(&reports)
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
                        biased;
                        // Nobody waits any more, so nothing is begun, also if its turn has come.
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
            self.queue_drop(move || drop(value));
        }
    }

    pub(super) fn queue_drop(&self, drops: impl FnOnce() + Send + 'static) {
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
        self.busy() == 0 && self.drops.count() == 0
    }

    /// How many calls hold a place now.
    #[must_use]
    pub fn busy(&self) -> usize {
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
    on_blocking_thread(move || {
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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread::ThreadId};

    use futures_util::FutureExt as _;

    use super::{super::drops::DROPPERS, *};

    #[tokio::test]
    async fn a_hung_store_fills_its_own_lane_and_no_other() {
        let hung = Lane::new("hung", 2, Duration::from_millis(50));
        let well = Lane::new("well", 2, Duration::from_secs(5));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..2 {
            let gate = Arc::clone(&gate);
            let stuck = hung.run("read", move || {
                let _closed = gate.lock().recv();
                Ok(())
            });
            assert_eq!(stuck.await.unwrap_err().kind(), Kind::Timeout);
        }
        assert_eq!(hung.busy(), 2);
        assert_eq!(hung.run("read", || Ok(())).await.unwrap_err().kind(), Kind::Unavailable);
        well.run("read", || Ok(())).await.unwrap();
        drop(release);
        while hung.busy() > 0 {
            tokio::task::yield_now().await;
        }
        hung.run("read", || Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn what_goes_on_is_waited_for_and_what_does_not_is_given_up() {
        let lane = Lane::new("a", 2, Duration::from_secs(1));
        let (to_lane, from_test) = mpsc::channel::<()>();
        let goes_on = lane.run_long("remove", move |going| {
            let mut steps = 0;
            while from_test.recv().is_ok() {
                going.report();
                steps += 1;
            }
            Ok(steps)
        });
        let steps = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                to_lane.send(()).unwrap();
            }
            drop(to_lane);
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
        while lane.busy() == 0 {
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
        assert_eq!(lane.busy(), 0);
    }

    /// Tells on which thread it is dropped.
    struct Told(mpsc::Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(std::thread::current().id()).unwrap();
        }
    }

    /// Is dropped when its gate opens.
    struct Stuck(Arc<Mutex<mpsc::Receiver<()>>>);

    impl Drop for Stuck {
        fn drop(&mut self) {
            let _closed = self.0.lock().recv();
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
        assert_eq!(hung.drops.threads(), DROPPERS, "the others wait in the queue");
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
        let (to_lane, from_test) = mpsc::channel();
        for _ in 0..2 * DROPPERS {
            lane.discard(Broken);
        }
        lane.discard(Told(to_lane));
        lane.run("wait for the last drop", move || Ok(from_test.recv().unwrap())).await.unwrap();
        while !lane.is_idle() {
            tokio::task::yield_now().await;
        }
    }
}
