//! What is counted.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// What a transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client's bytes, or the client to take ours.
    Receive,
    /// The digests.
    Digest,
    /// The backend.
    Backend,
    /// Memory.
    Wait,
}

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

    /// The time of one stage.
    pub fn of(&mut self, stage: Stage) -> &mut Duration {
        match stage {
            Stage::Receive => &mut self.receive,
            Stage::Digest => &mut self.digest,
            Stage::Backend => &mut self.backend,
            Stage::Wait => &mut self.wait,
        }
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

/// The outcome of what did not fail.
pub const DONE: &str = "done";

/// An operation that is over, as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// `put`, `get`, `stat`, `delete`, `copy`, `digest`, `flatten`.
    pub op: &'static str,
    /// The store's name.
    pub store: &'a str,
    /// [`DONE`], or the error's code.
    pub outcome: &'static str,
    /// Bytes moved.
    pub bytes: u64,
    /// Where the time went, of operations that move bytes.
    pub stages: Option<&'a Stages>,
    /// From its beginning to its end.
    pub seconds: f64,
}

impl Operation<'_> {
    /// Bytes a second; 0 if no time has passed.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people and histograms")]
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 / self.seconds } else { 0.0 }
    }
}

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
        let mut metrics = Self {
            registry: Registry::with_prefix("imaged"),
            seconds: Family::new_with_constructor(|| {
                Histogram::new([
                    0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
                    100.0, 300.0, 1000.0, 3000.0,
                ])
            }),
            rates: Family::new_with_constructor(|| {
                Histogram::new([1e6, 3e6, 1e7, 3e7, 1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9, 6.4e9])
            }),
            bytes: Family::default(),
            stages: Family::default(),
            up: Family::default(),
            busy: Family::default(),
            connections: Gauge::default(),
            refused: Counter::default(),
            bad_reloads: Counter::default(),
            window_bytes: Gauge::default(),
            journal: Gauge::default(),
            jobs: Gauge::default(),
        };
        metrics.register_operations();
        metrics.register_daemon();
        metrics
    }

    /// What is counted of each operation, in the order in which it is shown.
    fn register_operations(&mut self) {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "request",
            "Time from the request to its end, by outcome (done, or the error's code)",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "transfer_rate_bytes_per_second",
            "Rate of whole transfers of at least 1 MiB",
            self.rates.clone(),
        );
        registry.register_with_unit("transfer", "Bytes moved", Unit::Bytes, self.bytes.clone());
        registry.register_with_unit(
            "stage",
            "Time transfers spent waiting for each stage",
            Unit::Seconds,
            self.stages.clone(),
        );
    }

    /// How the stores and the daemon are, in the order in which it is shown.
    fn register_daemon(&mut self) {
        let registry = &mut self.registry;
        registry.register("store_up", "1 if the store can be used", self.up.clone());
        registry.register(
            "store_busy_threads",
            "Threads at work or stuck in a store",
            self.busy.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_refused",
            "Connections over the limit",
            self.refused.clone(),
        );
        registry.register("reloads_failed", "Configurations refused", self.bad_reloads.clone());
        registry.register_with_unit(
            "windows",
            "Memory reserved by transfers",
            Unit::Bytes,
            self.window_bytes.clone(),
        );
        registry.register("journal_entries", "Intents in the journal", self.journal.clone());
        registry.register("jobs_running", "Jobs at work", self.jobs.clone());
    }

    /// Counts an operation that is over.
    pub fn count(&self, over: &Operation<'_>) {
        let Operation { op, store, outcome, bytes, stages, seconds } = *over;
        let label = Ended { op, store: store.to_owned(), outcome };
        self.seconds.get_or_create(&label).observe(seconds);
        if let Some(stages) = stages {
            self.bytes.get_or_create(&label).inc_by(bytes);
            for (stage, time) in stages.named() {
                let staged = Staged { op, store: store.to_owned(), stage };
                self.stages.get_or_create(&staged).inc_by(time.as_secs_f64());
            }
        }
        if outcome == DONE && bytes >= 1 << 20 {
            self.rates.get_or_create(&label).observe(over.rate());
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
}
