//! Where calls that block wait: a bounded number of threads for one store.
//!
//! # Decisions
//! * Chose: the *closure* holds the place, not the caller who waits for it. Because: a call into a
//!   hung mount or cluster cannot be cancelled; when its caller gives up, its thread is still gone.
//!   Instead of: releasing the place with the caller, which lets a hung store take every thread
//!   of the process.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, TryAcquireError, oneshot};

use crate::{Error, Kind, Result};

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
        let deadline = tokio::time::Instant::now() + self.patience;
        let place = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::Closed) => return Err(self.closed(doing)),
            Err(TryAcquireError::NoPermits) => {
                let wait = Arc::clone(&self.free).acquire_owned();
                match tokio::time::timeout_at(deadline, wait).await {
                    Ok(Ok(place)) => place,
                    Ok(Err(_)) => return Err(self.closed(doing)),
                    Err(_) => {
                        return Err(Error::new(
                            Kind::Unavailable,
                            format!(
                                "the store hangs: all {} of its threads are stuck, cannot {doing}: \
                                 store=`{}`",
                                self.places, self.name
                            ),
                        ));
                    }
                }
            }
        };
        let (answer, answered) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "this is the one place that counts them")]
        let task = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            // The caller may have given up; what `work` made is then dropped here.
            drop(answer.send(result));
        });
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(match task.await {
                Err(broken) => Error::new(
                    Kind::Internal,
                    format!("a thread of the store failed to {doing}: store=`{}`", self.name),
                )
                .because(broken),
                Ok(()) => self.closed(doing),
            }),
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

    fn closed(&self, doing: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            format!("the daemon is stopping, cannot {doing}: store=`{}`", self.name),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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
    async fn a_panic_on_a_thread_is_an_internal_error_and_frees_the_place() {
        let lane = Lane::new("a", 1, Duration::from_secs(5));
        let broken = lane.run::<()>("read", || panic!("planted"));
        assert_eq!(broken.await.unwrap_err().kind(), Kind::Internal);
        assert_eq!(lane.taken(), 0);
    }
}
