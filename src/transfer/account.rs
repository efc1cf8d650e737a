//! What an operation on an image has done, and where its time went.

use std::{
    fmt,
    time::{Duration, Instant},
};

use imaged_drivers::{Error, Kind};

use crate::{
    jobs::Progress,
    metrics::{DONE, Metrics, Operation, Stage, Stages},
};

/// The account of one operation on one image: it counts bytes and time, tells the job that shows
/// them, and ends with one line in the log. An image that goes to several stores has one for each.
#[derive(Debug)]
pub struct Account {
    op: &'static str,
    request: String,
    store: String,
    image: String,
    bytes: u64,
    stages: Stages,
    begun: Instant,
    /// When the last stage was over.
    since: Instant,
    job: Option<Progress>,
}

impl Account {
    /// An operation that begins now: `put`, `get`, `stat`, `delete`, `copy`, `digest` or `flatten` of
    /// an image, by its id or location.
    #[must_use]
    pub fn begin(op: &'static str, request: &str, store: &str, image: impl fmt::Display) -> Self {
        let now = Instant::now();
        Self {
            op,
            request: request.to_owned(),
            store: store.to_owned(),
            image: image.to_string(),
            bytes: 0,
            stages: Stages::default(),
            begun: now,
            since: now,
            job: None,
        }
    }

    /// The same, which `job` shows if there is one.
    #[must_use]
    pub fn shown_by(self, job: Option<Progress>) -> Self {
        Self { job, ..self }
    }

    /// So many bytes are to be moved.
    pub fn expect(&self, bytes: u64) {
        if let Some(job) = &self.job {
            job.restart(Some(bytes));
        }
    }

    /// So many bytes more have been moved.
    pub fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.show(self.bytes);
    }

    /// So many bytes need not be moved: what they would have told is known.
    pub fn known(&self, bytes: u64) {
        self.show(bytes);
    }

    fn show(&self, bytes: u64) {
        if let Some(job) = &self.job {
            job.reached(bytes);
        }
    }

    /// The image has so many bytes, which did not pass through here.
    pub fn passed_by(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// `stage` has taken the time since the stage before.
    pub fn lap(&mut self, stage: Stage) {
        let now = Instant::now();
        *self.stages.of(stage) += now.saturating_duration_since(self.since);
        self.since = now;
    }

    /// The time since the stage before belongs to none.
    pub fn skip(&mut self) {
        self.since = Instant::now();
    }

    /// `time` of what seemed to be spent waiting for the backend was spent waiting for the caller.
    pub fn waited(&mut self, time: Duration) {
        self.stages.receive += time;
        self.stages.backend = self.stages.backend.saturating_sub(time);
    }

    /// `time` of what seemed to be spent waiting for the caller was spent on digests.
    pub(super) fn digested(&mut self, time: Duration) {
        self.stages.digest += time;
        self.stages.receive = self.stages.receive.saturating_sub(time);
    }

    /// The operation is over: counts it, and writes its line.
    pub fn end(self, metrics: &Metrics, error: Option<&Error>) {
        let Self { op, request, store, image, bytes, stages, begun, .. } = self;
        let moves = matches!(op, "put" | "get" | "copy" | "digest");
        let over = Operation {
            op,
            store: &store,
            outcome: error.map_or(DONE, |error| error.kind().code()),
            bytes,
            stages: moves.then_some(&stages),
            seconds: begun.elapsed().as_secs_f64(),
        };
        metrics.count(&over);
        let mb_per_s = (over.rate() / 1e4).round() / 100.0;
        let seconds = (over.seconds * 1e6).round() / 1e6;
        match error {
            None if moves => tracing::info!(
                op,
                request,
                store,
                image,
                bytes,
                seconds,
                mb_per_s,
                limit = stages.limit(),
                "done"
            ),
            None => tracing::info!(op, request, store, image, seconds, "done"),
            Some(error) if grave(error.kind()) => tracing::error!(
                op, request, store, image, bytes, seconds, code = over.outcome,
                error = %error.chain(), "failed"
            ),
            Some(error) => tracing::info!(
                op, request, store, image, bytes, seconds, code = over.outcome,
                error = %error.chain(), "refused"
            ),
        }
    }
}

/// Whether an operator should look.
fn grave(kind: Kind) -> bool {
    match kind {
        Kind::Internal | Kind::BackendDenied | Kind::Unavailable | Kind::Timeout | Kind::Full => {
            true
        }
        Kind::Invalid
        | Kind::Denied
        | Kind::NotFound
        | Kind::Unsupported
        | Kind::Exists
        | Kind::InUse
        | Kind::Precondition
        | Kind::TooLarge
        | Kind::Range
        | Kind::Mismatch => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Now;

    #[test]
    fn a_request_is_counted_by_its_outcome() {
        let metrics = Metrics::new();
        let mut account = Account::begin("put", "r", "fast", "x");
        account.moved(2 << 20);
        account.end(&metrics, None);
        let full = Error::new(Kind::Full, "full");
        Account::begin("put", "r", "fast", "y").end(&metrics, Some(&full));
        let text = metrics.text(&Now { stores: vec![("fast".into(), true, 3)], ..Now::default() });
        for line in [
            "imaged_request_seconds_count{op=\"put\",store=\"fast\",outcome=\"done\"} 1",
            "imaged_request_seconds_count{op=\"put\",store=\"fast\",outcome=\"Full\"} 1",
            "imaged_transfer_bytes_total{op=\"put\",store=\"fast\",outcome=\"done\"} 2097152",
            "imaged_store_up{store=\"fast\"} 1",
            "imaged_store_busy_threads{store=\"fast\"} 3",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
