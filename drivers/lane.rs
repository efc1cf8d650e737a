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

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot},
    time::{Instant, timeout_at},
};

use crate::{Error, Kind, Result};

/// How much longer the caller waits than the queue does.
const GRACE: Duration = Duration::from_millis(20);

/// The threads of one store, at most `places` at a time.
#[derive(Clone, Debug)]
pub struct Lane {
    name: Arc<str>,
    places: usize,
    free: Arc<Semaphore>,
    patience: Duration,
}

impl Lane {
    /// A lane for the store `name`; `patience` bounds the wait for a place and for the answer
    /// together.
    #[must_use]
    pub fn new(name: &str, places: usize, patience: Duration) -> Self {
        Self { name: name.into(), places, free: Arc::new(Semaphore::new(places)), patience }
    }

    /// Runs `work` on a thread where it may block.
    ///
    /// # Errors
    /// `Unavailable` if no place came free in time; `Timeout` if `work` did not return in time: it
    /// goes on, keeps its place, and its result is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = Instant::now() + self.patience;
        let (answer, answered) = oneshot::channel();
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
        match timeout_at(deadline + GRACE, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::new(
                Kind::Internal,
                format!("a thread of the store failed to {doing}: store=`{}`", self.name),
            )),
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!(
                    "no answer from the store within {} s, trying to {doing}: store=`{}`",
                    self.patience.as_secs(),
                    self.name
                ),
            )),
        }
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
    #[expect(clippy::disallowed_methods, reason = "this is the one place that counts them")]
    let _goes_on = tokio::task::spawn_blocking(move || {
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
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_hung_store_fills_its_own_lane_and_no_other() {
        let hung = Lane::new("hung", 2, Duration::from_millis(50));
        let well = Lane::new("well", 2, Duration::from_secs(5));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
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
}
