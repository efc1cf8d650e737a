//! Operations in flight, and the threads that bring them home.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{aio::Op, lock};

/// Threads of one cluster that call back.
const THREADS: usize = 2;

/// The order in which operations land.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were begun.
    #[default]
    First,
    /// The last one first.
    Last,
    /// Any, the same ones for the same seed.
    Shuffled(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) held: bool,
    pub(crate) order: Order,
    pub(crate) delay: Duration,
}

#[derive(Default)]
struct Flights {
    rules: Rules,
    waiting: VecDeque<(Flight, Op)>,
    /// Those that call back right now.
    landing: Vec<Flight>,
    next: u64,
    threads: usize,
    closed: bool,
    peak: (usize, usize),
}

/// An operation in flight.
#[derive(Clone, Copy, Debug)]
struct Flight {
    number: u64,
    /// Of which handle.
    handle: u64,
    /// Bytes that it writes.
    bytes: usize,
    /// Waits for those that were begun before.
    last: bool,
    due: Instant,
    /// It has called back, or is about to.
    answered: bool,
}

pub(crate) struct Queue {
    flights: Mutex<Flights>,
    changed: Condvar,
}

impl Flights {
    /// What may land now; otherwise the time at which that changes without anybody's help.
    fn next(&mut self, now: Instant) -> Result<(Flight, Op), Option<Instant>> {
        if self.rules.held {
            return Err(None);
        }
        let ready: Vec<usize> = self
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, (flight, op))| {
                flight.due <= now && !(flight.last && self.is_behind(flight)) && !op.is_blocked()
            })
            .map(|(place, _)| place)
            .collect();
        let chosen = match self.rules.order {
            Order::First => ready.first(),
            Order::Last => ready.last(),
            Order::Shuffled(ref mut seed) => {
                *seed =
                    seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let any = usize::try_from(*seed >> 33).unwrap_or(0);
                ready.get(any.checked_rem(ready.len()).unwrap_or(0))
            }
        };
        let found = chosen.and_then(|place| self.waiting.remove(*place));
        found.ok_or_else(|| {
            self.waiting.iter().map(|(flight, _)| flight.due).filter(|due| *due > now).min()
        })
    }

    /// Whether something of the same handle was begun before it.
    fn is_behind(&self, flight: &Flight) -> bool {
        let waiting = self.waiting.iter().map(|(other, _)| other);
        waiting
            .chain(&self.landing)
            .any(|other| other.handle == flight.handle && other.number < flight.number)
    }

    fn of(&self, handle: u64) -> usize {
        let waiting = self.waiting.iter().map(|(flight, _)| flight);
        waiting.chain(&self.landing).filter(|flight| flight.handle == handle).count()
    }
}

impl Queue {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { flights: Mutex::default(), changed: Condvar::new() })
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.flights).rules);
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        lock(&self.flights).closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn waiting(&self) -> usize {
        let flights = lock(&self.flights);
        flights.waiting.len() + flights.landing.len()
    }

    pub(crate) fn peak(&self) -> (usize, usize) {
        std::mem::take(&mut lock(&self.flights).peak)
    }

    pub(crate) fn push(self: &Arc<Self>, handle: u64, op: Op) {
        let mut flights = lock(&self.flights);
        flights.next += 1;
        let flight = Flight {
            number: flights.next,
            handle,
            bytes: op.bytes(),
            last: op.waits(),
            due: Instant::now() + flights.rules.delay,
            answered: false,
        };
        flights.waiting.push_back((flight, op));
        let bytes = flights.waiting.iter().map(|(flight, _)| flight.bytes).sum();
        let (most, most_bytes) = flights.peak;
        flights.peak = (most.max(flights.waiting.len()), most_bytes.max(bytes));
        while flights.threads < THREADS {
            flights.threads += 1;
            let this = Arc::clone(self);
            thread::Builder::new()
                .name("fake-librbd".to_owned())
                .spawn(move || this.run())
                .expect("a test has threads");
        }
        drop(flights);
        self.changed.notify_all();
    }

    /// How many operations of a handle have not called back.
    pub(crate) fn unanswered(&self, handle: u64) -> usize {
        let flights = lock(&self.flights);
        let waiting = flights.waiting.iter().map(|(flight, _)| flight);
        let all = waiting.chain(&flights.landing);
        all.filter(|flight| flight.handle == handle && !flight.answered).count()
    }

    /// Something has changed that operations may wait for.
    pub(crate) fn look(&self) {
        drop(lock(&self.flights));
        self.changed.notify_all();
    }

    /// Waits until all operations of a handle have returned from their callbacks.
    pub(crate) fn wait_for(&self, handle: u64) {
        let flights = lock(&self.flights);
        drop(
            self.changed
                .wait_while(flights, |flights| flights.of(handle) > 0)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn run(&self) {
        let mut flights = lock(&self.flights);
        loop {
            let now = Instant::now();
            match flights.next(now) {
                Ok((flight, op)) => {
                    flights.landing.push(flight);
                    drop(flights);
                    op.land(|| {
                        let mut flights = lock(&self.flights);
                        let ours = |landing: &&mut Flight| landing.number == flight.number;
                        if let Some(landing) = flights.landing.iter_mut().find(ours) {
                            landing.answered = true;
                        }
                    });
                    flights = lock(&self.flights);
                    flights.landing.retain(|landing| landing.number != flight.number);
                    self.changed.notify_all();
                }
                Err(_) if flights.closed && flights.waiting.is_empty() => return,
                Err(Some(due)) => {
                    let wait =
                        self.changed.wait_timeout(flights, due.saturating_duration_since(now));
                    flights = wait.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(None) => {
                    flights = self.changed.wait(flights).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}
