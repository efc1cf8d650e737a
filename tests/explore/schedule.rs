//! What is done in one exploration, and when: all of it follows from the seed.

use std::{ops::Range, time::Duration};

use imaged::wire::records::Mode;
use imaged_drivers::window::PAGE;

use super::random::Random;

/// The stores, by their numbers.
pub(super) const HANGS: usize = 0;
pub(super) const SLOW: usize = 1;
pub(super) const WELL: usize = 2;
pub(super) const NAMES: [&str; 3] = ["hangs", "slow", "well"];

/// So long operations are begun in one life of the daemon.
const SPAN: Duration = Duration::from_secs(150);

/// One exploration.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) kind: Kind,
    /// Pages of memory for all transfers together.
    pub(super) memory: usize,
    /// The lives of the daemon, one after the other.
    pub(super) lives: Vec<Life>,
}

/// What a schedule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is memory for every window at once.
    Roomy,
    /// There is memory for a few transfers, or for one.
    Tight,
    /// Uploads of slow callers have all the memory that one store and direction can have.
    Crowd,
}

/// From one start to the next.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) acts: Vec<(Duration, Act)>,
    pub(super) ends: Ends,
}

/// How a life of the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// When all that was begun has ended and no store fails any more: the last one does.
    AtRest,
    /// After so long, without a word.
    Crash(Duration),
    /// After so long it is told to end, and gives what is under way a few seconds.
    Drain(Duration),
}

/// One thing that is done.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Put(Upload),
    /// What there is under its name is removed, and then it is put.
    Replace(Upload),
    Get(Download),
    Copy {
        from: Name,
        to: Name,
        mode: Mode,
    },
    Delete(Name),
    /// The configuration is read again: `reopens` says whether the backends are others then, `drops`
    /// whether it is without the store that hangs.
    Reload {
        reopens: bool,
        drops: bool,
    },
    Hang(bool),
    /// Some job that runs is cancelled.
    Cancel,
}

impl Act {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Replace(_) => "replace",
            Self::Get(_) => "get",
            Self::Copy { mode: Mode::Auto, .. } => "copy mode=auto",
            Self::Copy { mode: Mode::Clone, .. } => "copy mode=clone",
            Self::Copy { mode: Mode::Copy, .. } => "copy mode=copy",
            Self::Copy { mode: Mode::Stream, .. } => "copy mode=stream",
            Self::Delete(_) => "delete",
            Self::Reload { .. } => "reload",
            Self::Hang(_) => "hang",
            Self::Cancel => "cancel",
        }
    }
}

/// An image of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) store: usize,
    pub(super) id: &'static str,
}

#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) name: Name,
    /// Bytes.
    pub(super) size: usize,
    /// Whether the size is told beforehand.
    pub(super) known: bool,
    pub(super) promises: bool,
    pub(super) manner: Manner,
    /// Whether it is tried once more if it fails.
    pub(super) again: bool,
    /// Between two pieces.
    pub(super) pause: Duration,
}

/// How an upload's caller behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Ordinary,
    Short,
    Long,
    /// Says that the body has failed.
    Fails,
    /// Leaves without a word, and nobody notices but by the silence.
    Leaves,
    /// Leaves, and that is noticed.
    Cancels,
    PromisesOthers,
}

#[derive(Clone, Debug)]
pub(super) struct Download {
    pub(super) name: Name,
    /// `None`: all of it.
    pub(super) part: Option<Range<u64>>,
    pub(super) pause: Duration,
    /// Leaves after so many pieces.
    pub(super) leaves: Option<u64>,
}

/// There are images of these ids, of three pages each, in every store from the beginning.
pub(super) const THERE: [&str; 2] = ["a", "b"];

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];
const SIZES: [usize; 7] = [0, 9, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 5, 3 * PAGE];

impl Schedule {
    pub(super) fn of(seed: u64) -> Self {
        let mut random = Random::of(seed, 0);
        let kind = random.pick(&[Kind::Roomy, Kind::Roomy, Kind::Tight, Kind::Tight, Kind::Crowd]);
        match kind {
            Kind::Roomy => Self { seed, kind, memory: 600, lives: lives(&mut random) },
            Kind::Tight => {
                let memory = random.pick(&[2, 2, 4, 6, 8, 12, 16]);
                Self { seed, kind, memory, lives: lives(&mut random) }
            }
            Kind::Crowd => {
                let lives = vec![Life { acts: crowd(&mut random), ends: Ends::AtRest }];
                Self { seed, kind, memory: 80, lives }
            }
        }
    }

    /// Whether `act` must not suffer from what the stores that hang or are slow do to others.
    pub(super) fn is_undisturbed(&self, act: &Act) -> bool {
        let well = |name: &Name| name.store == WELL;
        self.kind != Kind::Tight
            && match act {
                Act::Put(upload) | Act::Replace(upload) => {
                    well(&upload.name) && upload.manner == Manner::Ordinary
                }
                Act::Get(download) => well(&download.name),
                Act::Copy { from, to, .. } => well(from) && well(to),
                Act::Delete(name) => well(name),
                Act::Reload { .. } | Act::Hang(_) | Act::Cancel => false,
            }
    }
}

fn lives(random: &mut Random) -> Vec<Life> {
    let mut lives = Vec::new();
    while random.happens(350) && lives.len() < 3 {
        let after = Duration::from_millis(random.between(1, 90_000));
        let ends = random.pick(&[Ends::Crash(after), Ends::Crash(after), Ends::Drain(after)]);
        lives.push(Life { acts: acts(random), ends });
    }
    lives.push(Life { acts: acts(random), ends: Ends::AtRest });
    lives
}

fn acts(random: &mut Random) -> Vec<(Duration, Act)> {
    let end = u64::try_from(SPAN.as_millis()).unwrap();
    // Many at once, or over a while.
    let span = random.pick(&[end / 100, end / 4, end]);
    let count = random.between(4, 30);
    (0..count).map(|_| (Duration::from_millis(random.below(span)), act(random))).collect()
}

fn act(random: &mut Random) -> Act {
    match random.below(100) {
        0..25 => Act::Put(upload(random)),
        25..35 => Act::Replace(upload(random)),
        35..52 => Act::Get(download(random)),
        52..75 => {
            let from = name(random);
            // Most are made where the source is: only those can be made inside the backend.
            let to =
                Name { store: random.pick(&[from.store, from.store, HANGS, WELL]), ..name(random) };
            let mode =
                random.pick(&[Mode::Auto, Mode::Clone, Mode::Copy, Mode::Copy, Mode::Stream]);
            Act::Copy { from, to, mode }
        }
        75..83 => Act::Delete(name(random)),
        83..88 => Act::Reload { reopens: random.happens(750), drops: random.happens(250) },
        88..91 => Act::Hang(true),
        91..96 => Act::Hang(false),
        _ => Act::Cancel,
    }
}

fn name(random: &mut Random) -> Name {
    Name { store: random.pick(&[HANGS, HANGS, SLOW, WELL]), id: random.pick(&IDS) }
}

fn upload(random: &mut Random) -> Upload {
    let manner = match random.below(100) {
        0..70 => Manner::Ordinary,
        70..76 => Manner::Short,
        76..82 => Manner::Long,
        82..88 => Manner::Fails,
        88..91 => Manner::Leaves,
        91..94 => Manner::Cancels,
        _ => Manner::PromisesOthers,
    };
    Upload {
        name: name(random),
        size: random.pick(&SIZES),
        known: matches!(manner, Manner::Short | Manner::Long) || random.happens(500),
        promises: random.happens(300),
        manner,
        again: random.happens(400),
        pause: pause(random),
    }
}

fn download(random: &mut Random) -> Download {
    let from = random.below(4 * PAGE as u64);
    Download {
        name: name(random),
        part: random.happens(400).then(|| from..from + random.between(1, 3 * PAGE as u64)),
        pause: pause(random),
        leaves: random.happens(200).then(|| random.below(3)),
    }
}

fn pause(random: &mut Random) -> Duration {
    Duration::from_millis(random.pick(&[0, 0, 0, 20, 2_000, 10_000]))
}

/// A crowd of uploads that drip, and a few callers of the healthy store, one after the other.
fn crowd(random: &mut Random) -> Vec<(Duration, Act)> {
    const CROWD: [&str; 45] = [
        "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "d0", "d1", "d2", "d3", "d4",
        "d5", "d6", "d7", "d8", "d9", "e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9",
        "f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "g0", "g1", "g2", "g3", "g4",
    ];
    let at = Duration::from_millis;
    let store = random.pick(&[HANGS, SLOW]);
    let ordinary = |name, size| Upload {
        name,
        size,
        known: true,
        promises: false,
        manner: Manner::Ordinary,
        again: false,
        pause: Duration::ZERO,
    };
    let well = |id| Name { store: WELL, id };
    let mut acts = Vec::new();
    for id in CROWD {
        let pause = at(random.between(5_000, 20_000));
        let drips = Upload { pause, ..ordinary(Name { store, id }, 3 * PAGE) };
        acts.push((at(random.between(1_000, 3_000)), Act::Put(drips)));
    }
    if store == HANGS && random.happens(500) {
        acts.push((at(random.between(1_000, 10_000)), Act::Hang(true)));
    }
    for turn in 2..12 {
        let act = match random.below(4) {
            0 => Act::Put(ordinary(well(random.pick(&IDS)), random.pick(&SIZES))),
            1 => Act::Copy { from: well("a"), to: well(random.pick(&IDS)), mode: Mode::Copy },
            _ => {
                let (pause, leaves) = (Duration::ZERO, None);
                Act::Get(Download { name: well("a"), part: None, pause, leaves })
            }
        };
        acts.push((at(turn * 6_000), act));
    }
    acts
}
