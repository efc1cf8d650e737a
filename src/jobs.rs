//! Work that goes on without its caller, or that a caller wants to watch: uploads by descriptor,
//! copies, digests that follow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use imaged_drivers::{Error, Kind, Result, clock::unix_seconds};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::wire::records::{State, View};

/// How many finished jobs are remembered.
const REMEMBERED: usize = 1000;

#[derive(Clone, Debug)]
struct Standing {
    state: State,
    error: Option<String>,
}

#[derive(Debug)]
struct Job {
    id: String,
    kind: &'static str,
    store: String,
    image: String,
    begun: u64,
    total: AtomicU64,
    done: AtomicU64,
    standing: watch::Sender<Standing>,
    cancel: CancellationToken,
}

const UNKNOWN: u64 = u64::MAX;

impl Job {
    fn view(&self) -> View {
        let Standing { state, error } = self.standing.borrow().clone();
        let total = self.total.load(Ordering::Relaxed);
        View {
            id: self.id.clone(),
            kind: self.kind.to_owned(),
            store: self.store.clone(),
            image: self.image.clone(),
            state,
            done: self.done.load(Ordering::Relaxed),
            total: (total != UNKNOWN).then_some(total),
            error,
            begun: self.begun,
        }
    }
}

/// All jobs of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Jobs(Arc<Mutex<Vec<Arc<Job>>>>);

impl Jobs {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.0.lock()
    }

    /// A job that begins now. It ends when the ticket is finished, or failed if it is dropped.
    #[must_use]
    pub fn begin(
        &self,
        kind: &'static str,
        id: &str,
        store: &str,
        image: &str,
        total: Option<u64>,
    ) -> Ticket {
        let begun = unix_seconds();
        let mut all = self.all();
        // The oldest finished ones are forgotten, and a finished namesake. One that still runs keeps
        // its id, which is the caller's and need not be unique.
        all.retain(|old| old.id != id || !old.standing.borrow().state.over());
        let in_use = |id: &str| all.iter().any(|old| old.id == id);
        let unique = (2_u32..).map(|n| format!("{id}-{n}"));
        let id = std::iter::once(id.to_owned()).chain(unique).find(|id| !in_use(id));
        let job = Arc::new(Job {
            id: id.unwrap_or_default(),
            kind,
            store: store.to_owned(),
            image: image.to_owned(),
            begun,
            total: AtomicU64::new(total.unwrap_or(UNKNOWN)),
            done: AtomicU64::new(0),
            standing: watch::Sender::new(Standing { state: State::Running, error: None }),
            cancel: CancellationToken::new(),
        });
        if all.len() >= REMEMBERED
            && let Some(oldest) = all.iter().position(|old| old.standing.borrow().state.over())
        {
            all.remove(oldest);
        }
        all.push(Arc::clone(&job));
        Ticket(job)
    }

    /// Every job, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<View> {
        self.all().iter().map(|job| job.view()).collect()
    }

    /// How many are not over.
    #[must_use]
    pub fn running(&self) -> usize {
        self.all().iter().filter(|job| !job.standing.borrow().state.over()).count()
    }

    /// One job; waits up to `wait` for it to be over.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, id: &str, wait: Duration) -> Result<View> {
        let job = self.find(id)?;
        let mut standing = job.standing.subscribe();
        let over = standing.wait_for(|standing| standing.state.over());
        // Either way the view says how it stands.
        let _in_time = tokio::time::timeout(wait, over).await.is_ok();
        Ok(job.view())
    }

    /// Ends a job; what it was making is undone, except that digests only come later.
    ///
    /// # Errors
    /// `NotFound`; `InUse` if it is over.
    pub fn cancel(&self, id: &str) -> Result<()> {
        let job = self.find(id)?;
        if job.standing.borrow().state.over() {
            return Err(Error::new(Kind::InUse, format!("the job is over: job=`{id}`")));
        }
        job.cancel.cancel();
        Ok(())
    }

    /// The ids of what goes on in the background with an image.
    #[must_use]
    pub fn background(&self, store: &str, image: &str) -> Vec<String> {
        let goes_on = |job: &&Arc<Job>| {
            job.store == store
                && job.image == image
                && matches!(job.kind, "digest" | "flatten")
                && !job.standing.borrow().state.over()
        };
        self.all().iter().filter(goes_on).map(|job| job.id.clone()).collect()
    }

    fn find(&self, id: &str) -> Result<Arc<Job>> {
        let all = self.all();
        let found = all.iter().rev().find(|job| job.id == id).map(Arc::clone);
        drop(all);
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("no such job: job=`{id}`")))
    }
}

/// The right to report on one job.
#[derive(Debug)]
pub struct Ticket(Arc<Job>);

impl Ticket {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// What shows how far the job is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.0))
    }

    /// It failed and will be tried again.
    pub fn wait(&self, error: &Error) {
        let error = Some(error.to_string());
        self.0.standing.send_replace(Standing { state: State::Waiting, error });
    }

    /// Fires when a caller wants it to end.
    #[must_use]
    pub fn cancelled(&self) -> CancellationToken {
        self.0.cancel.clone()
    }

    /// It is over.
    pub fn finish(self, result: Result<(), &Error>) {
        let standing = match result {
            Ok(()) => Standing { state: State::Done, error: None },
            Err(error) => {
                let cancelled = self.0.cancel.is_cancelled();
                let state = if cancelled { State::Cancelled } else { State::Failed };
                Standing { state, error: Some(error.to_string()) }
            }
        };
        self.0.standing.send_replace(standing);
    }
}

/// Shows how far a job is.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Job>);

impl Progress {
    /// So many bytes in all are done, at least: who is behind another changes nothing.
    pub fn reached(&self, bytes: u64) {
        self.0.done.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Shows how much is done, and of how much; for calls that tell it themselves.
    pub fn shown(&self) -> impl Fn(u64, u64) + Send + Sync + use<> {
        let job = Arc::clone(&self.0);
        move |done, total| {
            job.done.store(done, Ordering::Relaxed);
            job.total.store(total, Ordering::Relaxed);
        }
    }

    /// It begins again, or knows its size now.
    pub fn restart(&self, total: Option<u64>) {
        self.0.done.store(0, Ordering::Relaxed);
        self.0.total.store(total.unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.0.standing.send_replace(Standing { state: State::Running, error: None });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.standing.send_if_modified(|standing| {
            let lost = !standing.state.over();
            if lost {
                let error = Some("the task was lost".to_owned());
                *standing = Standing { state: State::Failed, error };
            }
            lost
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_is_seen_until_it_is_over_and_after() {
        let jobs = Jobs::default();
        let ticket = jobs.begin("copy", "r1", "a", "x", Some(10));
        ticket.progress().reached(4);
        let seen = jobs.get("r1", Duration::ZERO).await.unwrap();
        assert_eq!((seen.state, seen.done, seen.total), (State::Running, 4, Some(10)));
        let waiting = tokio::spawn({
            let jobs = jobs.clone();
            async move { jobs.get("r1", Duration::from_secs(10)).await }
        });
        ticket.finish(Ok(()));
        assert_eq!(waiting.await.unwrap().unwrap().state, State::Done);
        assert_eq!(jobs.cancel("r1").unwrap_err().kind(), Kind::InUse);
        assert_eq!(jobs.get("r2", Duration::ZERO).await.unwrap_err().kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn two_jobs_at_once_of_one_request_have_names_of_their_own() {
        let jobs = Jobs::default();
        let first = jobs.begin("copy", "r", "a", "x", None);
        let second = jobs.begin("copy", "r", "b", "x", None);
        assert_eq!((first.id(), second.id()), ("r", "r-2"));
        jobs.cancel("r-2").unwrap();
        assert!(second.cancelled().is_cancelled() && !first.cancelled().is_cancelled());
        first.finish(Ok(()));
        assert_eq!(jobs.begin("copy", "r", "a", "x", None).id(), "r");
    }

    #[tokio::test]
    async fn a_lost_ticket_is_a_failed_job() {
        let jobs = Jobs::default();
        drop(jobs.begin("copy", "r1", "a", "x", None));
        assert_eq!(jobs.get("r1", Duration::ZERO).await.unwrap().state, State::Failed);
        assert_eq!(jobs.running(), 0);
    }
}
