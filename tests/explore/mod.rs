//! Random schedules over the real store layer: put, get, copy, delete, reload, hang, cancel and crash,
//! in virtual time, over backends that are late, fail and hang. All of a schedule follows from its
//! seed; a run of the same seed differs only in which of two things comes first that happen at the same
//! virtual moment.
//!
//! * `IMAGED_SEED=N`: runs that seed alone, and prints its schedule
//! * `IMAGED_EXPLORE=SECONDS`: goes on with other seeds for so long (`ci/explore`)

mod backend;
mod callers;
mod disk;
mod history;
pub(crate) mod random;
mod schedule;
mod world;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use schedule::Schedule;
use world::Tally;

/// Seeds that the gate runs.
const SEEDS: u64 = 2_000;

/// What has to come to pass in the gate: an exploration that never gets there shows nothing.
const COMES_TO_PASS: [&str; 12] = [
    "put done",
    "put Timeout",
    "put Mismatch",
    "put Unavailable",
    "put Exists",
    "get done",
    "copy mode=auto done",
    "copy mode=clone done",
    "copy mode=copy done",
    "copy mode=stream done",
    "delete done",
    "delete Timeout",
];

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn every_operation_ends_and_no_schedule_leaves_or_loses_anything() {
    if let Some(seed) = number("IMAGED_SEED") {
        eprintln!("{:#?}", Schedule::of(seed));
        eprintln!("{:#?}", passes(seed));
        return;
    }
    let begun = Instant::now();
    let (first, seeds, time) = match number("IMAGED_EXPLORE") {
        None => (0, SEEDS, Duration::MAX),
        Some(seconds) => {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
            (u64::try_from(now).unwrap() << 16, u64::MAX, Duration::from_secs(seconds))
        }
    };
    let next = AtomicU64::new(0);
    let explore = || {
        let mut all = Tally::new();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= seeds || begun.elapsed() > time {
                break all;
            }
            for (what, count) in passes(first.wrapping_add(nth)) {
                *all.entry(what).or_default() += count;
            }
        }
    };
    let mut all = Tally::new();
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(explore)).collect();
        for thread in threads {
            for (what, count) in thread.join().expect("see the seed above") {
                *all.entry(what).or_default() += count;
            }
        }
    });
    let (seeds, took) = (next.into_inner().min(seeds), begun.elapsed().as_secs_f64());
    eprintln!("explored {seeds} seeds in {took:.0} s, {:.0} a second", seeds as f64 / took);
    eprintln!("{all:#?}");
    for what in COMES_TO_PASS {
        assert!(all.contains_key(what), "never came to pass: {what}");
    }
}

/// Gives what came to pass; fails if a schedule does, and says how to run it again.
fn passes(seed: u64) -> Tally {
    let ran = catch_unwind(AssertUnwindSafe(|| world::explore(seed)));
    let (found, tally) =
        ran.unwrap_or_else(|_| (vec!["it panicked, see above".to_owned()], Tally::new()));
    assert!(
        found.is_empty(),
        "seed {seed}:\n  {}\nrun it again: IMAGED_SEED={seed} cargo test --test suite explore",
        found.join("\n  ")
    );
    tally
}
