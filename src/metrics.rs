//! What is counted, and the one line that every transfer ends with in the log.

use std::{
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use imaged_drivers::{Error, Kind};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Where a transfer spends its time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// Waiting for the client's bytes, or for the client to take ours.
    pub receive: Duration,
    /// Waiting for the digests.
    pub digest: Duration,
    /// Waiting for the backend.
    pub backend: Duration,
    /// Waiting for memory.
    pub wait: Duration,
}

impl Stages {
    /// The stage that took most, which is the one that limits.
    #[must_use]
    pub fn limit(&self) -> &'static str {
        let [first, rest @ ..] = self.named();
        rest.into_iter().fold(first, |most, next| if next.1 > most.1 { next } else { most }).0
    }

    fn named(&self) -> [(&'static str, Duration); 4] {
        [
            ("receive", self.receive),
            ("digest", self.digest),
            ("backend", self.backend),
            ("wait", self.wait),
        ]
    }
}

/// Adds the time since `since` to `stage` and gives the time now.
pub(crate) fn lap(stage: &mut Duration, since: Instant) -> Instant {
    let now = Instant::now();
    *stage += now.saturating_duration_since(since);
    now
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    op: &'static str,
    store: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Staged {
    op: &'static str,
    store: String,
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfStore {
    store: String,
}

type Seconds = Family<Ended, Histogram, fn() -> Histogram>;

/// Everything that `/metrics` tells.
pub struct Metrics {
    registry: Registry,
    seconds: Seconds,
    rates: Seconds,
    bytes: Family<Ended, Counter>,
    stages: Family<Staged, Counter<f64, AtomicU64>>,
    up: Family<OfStore, Gauge>,
    busy: Family<OfStore, Gauge>,
    /// Open connections.
    pub connections: Gauge,
    /// Connections turned away because there were too many.
    pub refused: Counter,
    /// Reloads of the configuration that failed.
    pub bad_reloads: Counter,
    window_bytes: Gauge,
    journal: Gauge,
    jobs: Gauge,
}

/// What is only known at the time of asking.
#[derive(Debug, Default)]
pub struct Now {
    /// Bytes in windows.
    pub window_bytes: usize,
    /// Intents in the journal.
    pub journal: usize,
    /// Jobs that run.
    pub jobs: usize,
    /// Name, whether it is up, busy threads.
    pub stores: Vec<(String, bool, usize)>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("imaged");
        let seconds: Seconds = Family::new_with_constructor(|| {
            Histogram::new([
                0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0,
                300.0, 1000.0, 3000.0,
            ])
        });
        let rates: Seconds = Family::new_with_constructor(|| {
            Histogram::new([1e6, 3e6, 1e7, 3e7, 1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9, 6.4e9])
        });
        let (bytes, stages) = (Family::default(), Family::default());
        let (up, busy) = (Family::default(), Family::default());
        let (connections, refused, bad_reloads) =
            (Gauge::default(), Counter::default(), Counter::default());
        let (window_bytes, journal, jobs) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register_with_unit(
            "request",
            "Time from the request to its end, by outcome (done, or the error's code)",
            Unit::Seconds,
            seconds.clone(),
        );
        registry.register(
            "transfer_rate_bytes_per_second",
            "Rate of whole transfers of at least 1 MiB",
            rates.clone(),
        );
        registry.register_with_unit("transfer", "Bytes moved", Unit::Bytes, bytes.clone());
        registry.register_with_unit(
            "stage",
            "Time transfers spent waiting for each stage",
            Unit::Seconds,
            stages.clone(),
        );
        registry.register("store_up", "1 if the store can be used", up.clone());
        registry.register(
            "store_busy_threads",
            "Threads at work or stuck in a store",
            busy.clone(),
        );
        registry.register("connections", "Open connections", connections.clone());
        registry.register("connections_refused", "Connections over the limit", refused.clone());
        registry.register("reloads_failed", "Configurations refused", bad_reloads.clone());
        registry.register_with_unit(
            "windows",
            "Memory reserved by transfers",
            Unit::Bytes,
            window_bytes.clone(),
        );
        registry.register("journal_entries", "Intents in the journal", journal.clone());
        registry.register("jobs_running", "Jobs at work", jobs.clone());
        Self {
            registry,
            seconds,
            rates,
            bytes,
            stages,
            up,
            busy,
            connections,
            refused,
            bad_reloads,
            window_bytes,
            journal,
            jobs,
        }
    }

    /// The Prometheus text of everything, with what is known only `now`.
    #[must_use]
    pub fn text(&self, now: &Now) -> String {
        self.window_bytes.set(count(now.window_bytes));
        self.journal.set(count(now.journal));
        self.jobs.set(count(now.jobs));
        self.up.clear();
        self.busy.clear();
        for (store, up, busy) in &now.stores {
            let of = OfStore { store: store.clone() };
            self.up.get_or_create(&of).set(i64::from(*up));
            self.busy.get_or_create(&of).set(count(*busy));
        }
        let mut text = String::new();
        let _infallible = encode(&mut text, &self.registry);
        text
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// One request on its way to its one line in the log.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `put`, `get`, `stat`, `delete`, `copy`, `digest`.
    pub op: &'static str,
    /// The request's id.
    pub request: String,
    /// The store's name.
    pub store: String,
    /// The image's id or location.
    pub image: String,
    /// Bytes moved so far.
    pub bytes: u64,
    /// Where the time went.
    pub stages: Stages,
    begun: Instant,
}

impl Outcome {
    /// A request that begins now.
    #[must_use]
    pub fn begin(op: &'static str, request: &str, store: &str, image: impl fmt::Display) -> Self {
        Self {
            op,
            request: request.to_owned(),
            store: store.to_owned(),
            image: image.to_string(),
            bytes: 0,
            stages: Stages::default(),
            begun: Instant::now(),
        }
    }

    /// The request is over: counts it and writes its line.
    pub fn end(self, metrics: &Metrics, error: Option<&Error>) {
        let Self { op, request, store, image, bytes, stages, begun } = self;
        let took = begun.elapsed().as_secs_f64();
        let outcome = error.map_or("done", |error| error.kind().code());
        let label = Ended { op, store: store.clone(), outcome };
        metrics.seconds.get_or_create(&label).observe(took);
        let moves = matches!(op, "put" | "get" | "copy" | "digest");
        if moves {
            metrics.bytes.get_or_create(&label).inc_by(bytes);
            for (stage, time) in stages.named() {
                let staged = Staged { op, store: store.clone(), stage };
                metrics.stages.get_or_create(&staged).inc_by(time.as_secs_f64());
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people and histograms")]
        let rate = if took > 0.0 { bytes as f64 / took } else { 0.0 };
        if error.is_none() && bytes >= 1 << 20 {
            metrics.rates.get_or_create(&label).observe(rate);
        }
        let mb_per_s = (rate / 1e4).round() / 100.0;
        let seconds = (took * 1e6).round() / 1e6;
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
                op, request, store, image, bytes, seconds, code = outcome, error = %error.chain(),
                "failed"
            ),
            Some(error) => tracing::info!(
                op, request, store, image, bytes, seconds, code = outcome, error = %error.chain(),
                "refused"
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

    #[test]
    fn the_stage_that_took_most_is_the_limit() {
        let mut stages = Stages::default();
        stages.backend += Duration::from_millis(2);
        stages.digest += Duration::from_millis(3);
        assert_eq!(stages.limit(), "digest");
    }

    #[test]
    fn a_request_is_counted_by_its_outcome() {
        let metrics = Metrics::new();
        let mut outcome = Outcome::begin("put", "r", "fast", "x");
        outcome.bytes = 2 << 20;
        outcome.end(&metrics, None);
        let full = Error::new(Kind::Full, "full");
        Outcome::begin("put", "r", "fast", "y").end(&metrics, Some(&full));
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
