//! What was measured, and what it amounts to. Its names in JSON are stable.

use serde::Serialize;

use super::{
    args::{Args, Op},
    ceiling::Ceilings,
    load::{Failure, Phase},
    machine::Machine,
    rate::{GIB, Rate, per_gib, ratio},
};

/// Points of memory over time that are kept.
pub(super) const POINTS: usize = 600;
/// A stage used less than this limits nothing.
const LIMITING: f64 = 0.5;
/// Where the curve of latencies is looked at, as quantiles.
const QUANTILES: [f64; 17] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995,
    0.9999,
];

/// One run of the benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of imaged that measured.
    pub imaged: String,
    /// The exact command.
    pub command: Vec<String>,
    /// When it began, in seconds since 1970.
    pub begun_unix_s: u64,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured.
    pub store: Place,
    /// How it was loaded.
    pub load: Shape,
    /// Each kind of request.
    pub ops: Vec<Measured>,
    /// What the machine can do.
    pub ceilings: Ceilings,
    /// The daemon's memory over time.
    pub rss: Vec<Point>,
    /// Failures, the first ten of each kind.
    pub failures: Vec<Failure>,
    /// Images that could not be removed.
    pub left: Vec<String>,
    /// What to know when reading the figures.
    pub notes: Vec<String>,
}

impl Report {
    /// What `phases` amount to, those that were to be measured; the others were only needed for them.
    pub(super) fn new(
        args: &Args,
        machine: Machine,
        store: Place,
        digests: (String, bool),
        ceilings: Ceilings,
        phases: &[Phase],
    ) -> Self {
        let load = Shape::new(args, digests);
        let measured = phases.iter().filter(|phase| args.measures(phase.op));
        let ops = measured.map(|phase| Measured::new(phase, &load, &ceilings, machine.cores));
        Self {
            imaged: env!("CARGO_PKG_VERSION").to_owned(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            begun_unix_s: 0,
            ops: ops.collect(),
            failures: phases.iter().flat_map(|phase| phase.tally.failures.clone()).collect(),
            machine,
            store,
            load,
            ceilings,
            rss: Vec::new(),
            left: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// The store that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// Its name.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its directory, if it has one.
    pub data_dir: Option<String>,
}

/// How the store was loaded.
#[derive(Clone, Debug, Serialize)]
pub struct Shape {
    /// Bytes of an image.
    pub size: u64,
    /// Images.
    pub count: u32,
    /// Images at once.
    pub jobs: u32,
    /// How many times each was looked at.
    pub stats: u32,
    /// The share of blocks that are zeros.
    pub zeros: f64,
    /// Bytes of such a block.
    pub block: u64,
    /// Whether descriptors were passed instead of bytes.
    pub descriptor: bool,
    /// Whether images were asked for without their holes.
    pub extents: bool,
    /// The multihash algorithm.
    pub hash_algo: String,
    /// Whether images got an md5 too, as `checksum` says.
    pub md5: bool,
}

impl Shape {
    fn new(args: &Args, (hash_algo, md5): (String, bool)) -> Self {
        let Args { size, count, jobs, stats, zeros, block, descriptor, extents, .. } = *args;
        Self { size, count, jobs, stats, zeros, block, descriptor, extents, hash_algo, md5 }
    }
}

/// The daemon's memory at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Seconds since the run began.
    pub seconds: f64,
    /// Its resident set.
    pub bytes: u64,
}

/// One kind of request, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which.
    pub op: Op,
    /// How many succeeded.
    pub requests: u64,
    /// How many failed.
    pub errors: u64,
    /// Bytes of images that were moved, zeros too.
    pub bytes: u64,
    /// From the first request to the end of the last.
    pub seconds: f64,
    /// All of them together; none if no bytes are moved.
    pub mb_per_s: Option<f64>,
    /// All of them together.
    pub requests_per_s: f64,
    /// From the request to the end of its answer.
    pub latency_ms: Latency,
    /// CPU time.
    pub cpu: Cpu,
    /// The daemon's memory.
    pub rss: Rss,
    /// What share of each stage's ceiling was reached.
    pub stages: Vec<Stage>,
    /// The stage of which most was reached, if that is at least half.
    pub limit: Option<&'static str>,
    /// When it began, in seconds since the run began.
    pub begun_s: f64,
}

/// Latencies in milliseconds, of requests that succeeded.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// The fastest.
    pub min: f64,
    /// The middle one.
    pub p50: f64,
    /// Nine of ten are faster.
    pub p90: f64,
    /// 99 of 100 are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
    /// Quantile and milliseconds, as far as so many requests tell.
    pub curve: Vec<(f64, f64)>,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    /// Of the daemon, where its process can be seen.
    pub daemon_seconds: Option<f64>,
    /// Of this program.
    pub client_seconds: f64,
    /// Of the daemon.
    pub daemon_seconds_per_gib: Option<f64>,
    /// Of this program.
    pub client_seconds_per_gib: Option<f64>,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rss {
    /// Before the first request.
    pub before_bytes: Option<u64>,
    /// The most during them.
    pub peak_bytes: Option<u64>,
}

/// One stage's ceiling and what was reached of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// `digest`, `disk`, `socket` or `cores`.
    pub stage: &'static str,
    /// What it can do alone; `cores`: if none had been idle.
    pub mb_per_s: f64,
    /// What was reached of that.
    pub share: f64,
}

impl Report {
    /// How many requests failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.ops.iter().map(|op| op.errors).sum()
    }

    /// Whether nothing failed and nothing is left.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures.is_empty() && self.left.is_empty()
    }

    /// What was measured of `op`.
    #[must_use]
    pub fn of(&self, op: Op) -> Option<&Measured> {
        self.ops.iter().find(|measured| measured.op == op)
    }
}

impl Measured {
    pub(super) fn new(phase: &Phase, shape: &Shape, ceilings: &Ceilings, cores: u32) -> Self {
        let Phase { op, tally, span, daemon_cpu, client_cpu, rss_before, rss_peak } = phase;
        let (bytes, requests) = (tally.bytes, tally.micros.len());
        let seconds = span.1 - span.0;
        let gib = |cpu: f64| (bytes > 0).then(|| per_gib(cpu, bytes));
        let moved = (op.moves() && bytes > 0).then(|| Rate::new(bytes, seconds, None).mb_per_s);
        let cpu = Cpu {
            daemon_seconds: *daemon_cpu,
            client_seconds: *client_cpu,
            daemon_seconds_per_gib: daemon_cpu.and_then(gib),
            client_seconds_per_gib: gib(*client_cpu),
        };
        let stages = moved.map_or_else(Vec::new, |rate| {
            let used = daemon_cpu.map(|daemon| daemon + client_cpu);
            stages(*op, rate, used.and_then(gib), shape, ceilings, cores)
        });
        Self {
            op: *op,
            requests,
            errors: tally.errors,
            bytes,
            seconds,
            mb_per_s: moved,
            requests_per_s: ratio(requests as f64, seconds),
            latency_ms: Latency::new(&tally.micros),
            cpu,
            rss: Rss { before_bytes: *rss_before, peak_bytes: *rss_peak },
            limit: limit(&stages),
            stages,
            begun_s: span.0,
        }
    }
}

impl Latency {
    fn new(micros: &hdrhistogram::Histogram<u64>) -> Self {
        let ms = |micros: u64| micros as f64 / 1e3;
        let at = |quantile| ms(micros.value_at_quantile(quantile));
        let count = micros.len() as f64;
        let shown = QUANTILES.into_iter().filter(|quantile| (1.0 - quantile) * count > 1.0);
        let mut curve: Vec<_> = shown.map(|quantile| (quantile, at(quantile))).collect();
        if count > 0.0 {
            curve.push((1.0 - 1.0 / count, ms(micros.max())));
        }
        Self {
            min: ms(if micros.is_empty() { 0 } else { micros.min() }),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: ms(micros.max()),
            curve,
        }
    }
}

/// What `rate` is of each stage's ceiling, in MB/s.
fn stages(
    op: Op,
    rate: f64,
    cpu_per_gib: Option<f64>,
    shape: &Shape,
    ceilings: &Ceilings,
    cores: u32,
) -> Vec<Stage> {
    let (cores, data) = (f64::from(cores), 1.0 - shape.zeros);
    let disk = match op {
        Op::Put => ceilings.disk_write,
        Op::Get => ceilings.disk_read,
        Op::Stat | Op::Delete => None,
    };
    let mut all = Vec::new();
    if op == Op::Put {
        all.push(("digest", digests(ceilings, shape.jobs, cores)));
    }
    if let Some(disk) = disk
        && data > 0.0
    {
        // Zeros are not on the disk.
        all.push(("disk", disk.mb_per_s / data));
    }
    if !shape.descriptor {
        // Nor are holes on the socket, where they are left out.
        let sent = if op == Op::Get && shape.extents { data } else { 1.0 };
        if sent > 0.0 {
            all.push(("socket", ceilings.socket.mb_per_s / sent));
        }
    }
    if let Some(cpu) = cpu_per_gib.filter(|cpu| *cpu > 0.0) {
        all.push(("cores", cores / cpu * GIB / 1e6));
    }
    let share = |(stage, mb_per_s)| Stage { stage, mb_per_s, share: ratio(rate, mb_per_s) };
    all.into_iter().map(share).collect()
}

/// How fast the digests of `jobs` images at once can be: each image's as fast as its slower one,
/// and all together as fast as the cores, which take several abreast.
fn digests(ceilings: &Ceilings, jobs: u32, cores: f64) -> f64 {
    let lanes = f64::from(jobs) * ceilings.digests_at_once.mb_per_s;
    let cpu = ceilings.digest_cpu_seconds_per_gib();
    if cpu > 0.0 && jobs > 1 { lanes.min(cores / cpu * GIB / 1e6) } else { lanes }
}

fn limit(stages: &[Stage]) -> Option<&'static str> {
    let most = stages.iter().max_by(|a, b| a.share.total_cmp(&b.share))?;
    (most.share >= LIMITING).then_some(most.stage)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::ceiling::Digest;

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < other.abs() / 1000.0
    }

    /// 1 GiB in so many seconds, with so many of CPU.
    fn rate(seconds: f64, cpu: f64) -> Rate {
        Rate::new(1 << 30, seconds, Some(cpu))
    }

    fn ceilings() -> Ceilings {
        let digest =
            |algo: &str, seconds| Digest { algo: algo.to_owned(), rate: rate(seconds, seconds) };
        Ceilings {
            streams: 1,
            disk_write: Some(rate(1.0, 0.1)),
            disk_read: Some(rate(0.5, 0.1)),
            disk_note: None,
            digests: vec![digest("md5", 1.5), digest("sha512", 1.5)],
            digests_at_once: rate(1.6, 3.1),
            one_pass: false,
            kernel: "portable",
            socket: rate(0.3, 0.4),
        }
    }

    fn shape(jobs: u32, zeros: f64, descriptor: bool) -> Shape {
        let hash_algo = "sha512".to_owned();
        let (size, block) = (1 << 30, 64 << 10);
        Shape {
            size,
            count: 4,
            jobs,
            stats: 200,
            zeros,
            block,
            descriptor,
            extents: false,
            hash_algo,
            md5: true,
        }
    }

    fn phase(op: Op, seconds: f64) -> Phase {
        let micros = hdrhistogram::Histogram::new_with_bounds(1, 1 << 40, 3).unwrap();
        let mut tally =
            crate::bench::load::Tally { micros, bytes: 4 << 30, errors: 1, failures: Vec::new() };
        for micros in [10_000, 20_000, 30_000, 40_000] {
            tally.micros.record(micros).unwrap();
        }
        let (rss_before, rss_peak) = (Some(10 << 20), Some(90 << 20));
        let span = (1.0, 1.0 + seconds);
        Phase { op, tally, span, daemon_cpu: Some(14.0), client_cpu: 1.0, rss_before, rss_peak }
    }

    /// A whole report, for what shows it.
    pub(in crate::bench) fn report() -> Report {
        let (shape, ceilings) = (shape(1, 0.0, false), ceilings());
        let ops = [Op::Put, Op::Get]
            .map(|op| Measured::new(&phase(op, 8.0), &shape, &ceilings, 2))
            .to_vec();
        Report {
            imaged: "0.1.0".to_owned(),
            command: vec!["imaged".to_owned(), "bench".to_owned(), "a <b>".to_owned()],
            begun_unix_s: 0,
            machine: Machine::here(None),
            store: Place { id: "fast".into(), kind: "file".into(), data_dir: Some("/srv".into()) },
            load: shape,
            ops,
            ceilings,
            rss: vec![
                Point { seconds: 0.0, bytes: 10 << 20 },
                Point { seconds: 4.0, bytes: 90 << 20 },
            ],
            failures: vec![Failure {
                op: Op::Get,
                image: "bench-1".into(),
                code: "Broken".into(),
                message: "it <broke>".into(),
            }],
            left: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn rates_are_millions_a_second_and_costs_are_per_gib() {
        let rate = Rate::new(2 << 30, 4.0, Some(3.0));
        assert!(near(rate.mb_per_s, 536.87), "{rate:?}");
        assert_eq!(rate.cpu_seconds_per_gib, Some(1.5));
        assert_eq!(Rate::new(0, 0.0, Some(1.0)).mb_per_s, 0.0);
        assert_eq!(Rate::new(0, 0.0, Some(1.0)).cpu_seconds_per_gib, None);
    }

    #[test]
    fn the_stage_of_which_most_is_reached_limits() {
        let found = Measured::new(&phase(Op::Put, 8.0), &shape(1, 0.0, false), &ceilings(), 2);
        let share = |stage| found.stages.iter().find(|one| one.stage == stage).unwrap().share;
        assert!(near(found.mb_per_s.unwrap(), 536.87));
        assert!(near(share("digest"), 0.8) && near(share("disk"), 0.5), "{:?}", found.stages);
        assert!(near(share("socket"), 0.15));
        // 15 s of CPU in 8 s of two cores.
        assert!(near(share("cores"), 15.0 / 16.0));
        assert_eq!(found.limit, Some("cores"));
        assert!(near(found.cpu.daemon_seconds_per_gib.unwrap(), 3.5));
        assert_eq!((found.requests, found.errors), (4, 1));
    }

    #[test]
    fn nothing_limits_what_waits() {
        let found = Measured::new(&phase(Op::Get, 800.0), &shape(1, 0.0, false), &ceilings(), 2);
        assert_eq!(found.limit, None);
        assert!(found.stages.iter().all(|one| one.stage != "digest"));
    }

    #[test]
    fn zeros_are_not_on_the_disk_and_descriptors_not_on_the_socket() {
        let found = Measured::new(&phase(Op::Get, 8.0), &shape(1, 0.75, true), &ceilings(), 2);
        let names: Vec<_> = found.stages.iter().map(|one| one.stage).collect();
        assert_eq!(names, ["disk", "cores"]);
        assert!(near(found.stages[0].mb_per_s, 2147.48 * 4.0));
    }

    #[test]
    fn holes_are_not_on_the_socket_where_they_are_left_out() {
        let shape = Shape { extents: true, ..shape(1, 0.75, false) };
        let of = |op| {
            let found = Measured::new(&phase(op, 8.0), &shape, &ceilings(), 2);
            found.stages.iter().find(|one| one.stage == "socket").unwrap().mb_per_s
        };
        assert!(near(of(Op::Get), 4.0 * of(Op::Put)), "{} {}", of(Op::Get), of(Op::Put));
    }

    #[test]
    fn digests_of_several_images_share_the_cores() {
        let one = 671.09;
        assert!(near(digests(&ceilings(), 1, 2.0), one));
        assert!(near(digests(&ceilings(), 4, 2.0), 1073.74 / 1.5));
        assert!(near(digests(&ceilings(), 4, 64.0), 4.0 * one));
    }

    #[test]
    fn the_curve_goes_as_far_as_the_requests_tell() {
        let found = Measured::new(&phase(Op::Put, 8.0), &shape(1, 0.0, false), &ceilings(), 2);
        let latency = found.latency_ms;
        assert!(near(latency.p50, 20.0) && near(latency.max, 40.0), "{latency:?}");
        let (quantile, ms) = *latency.curve.last().unwrap();
        assert!(quantile == 0.75 && near(ms, 40.0));
        assert!(latency.curve.windows(2).all(|two| two[0].0 < two[1].0), "{:?}", latency.curve);
    }

    #[test]
    fn names_in_json_are_stable() {
        let json = serde_json::to_value(report()).unwrap();
        for pointer in [
            "/imaged",
            "/command/2",
            "/begun_unix_s",
            "/machine/cores",
            "/machine/kernel",
            "/store/type",
            "/store/data_dir",
            "/load/hash_algo",
            "/load/block",
            "/load/extents",
            "/load/md5",
            "/ops/0/op",
            "/ops/0/mb_per_s",
            "/ops/0/requests_per_s",
            "/ops/0/latency_ms/p50",
            "/ops/0/latency_ms/curve/0/1",
            "/ops/0/cpu/daemon_seconds_per_gib",
            "/ops/0/cpu/client_seconds_per_gib",
            "/ops/0/rss/before_bytes",
            "/ops/0/rss/peak_bytes",
            "/ops/0/stages/0/share",
            "/ops/0/limit",
            "/ceilings/disk_write/mb_per_s",
            "/ceilings/digests/0/algo",
            "/ceilings/digests/0/mb_per_s",
            "/ceilings/digests_at_once/mb_per_s",
            "/ceilings/socket/cpu_seconds_per_gib",
            "/rss/0/bytes",
            "/failures/0/code",
        ] {
            assert!(json.pointer(pointer).is_some_and(|value| !value.is_null()), "{pointer}");
        }
    }
}
