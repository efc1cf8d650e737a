//! `imaged bench --digests`: what each kernel of the digests costs on this machine.

use std::{io, time::Duration};

use imaged_digest::Kernel;
use imaged_drivers::lane::Lane;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{ceiling, error::Result, pattern::Pattern, rate::Rate, text::Table, words};
use crate::digest::{Algo, Pass};

/// What one measurement digests: long enough for the clock, short beside what else the machine does.
const BYTES: u64 = 64 << 20;
/// How many times each is measured, in turn with the others, so that what else runs here falls on all
/// of them alike. The one in the middle counts.
const ROUNDS: usize = 9;

/// What every kernel costs.
#[derive(Clone, Debug, Serialize)]
pub struct Kernels {
    /// The kernel that `digest_kernel = auto` chooses here.
    pub auto: &'static str,
    /// Those that this machine has, the slowest first.
    pub kernels: Vec<Measured>,
}

/// What one kernel costs.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub kernel: &'static str,
    /// md5 and sha512 in several ways.
    pub ways: Vec<Way>,
}

/// One way to compute digests.
#[derive(Clone, Debug, Serialize)]
pub struct Way {
    /// The digests.
    pub digests: &'static str,
    /// Images at once.
    pub images: u32,
    /// Threads.
    pub threads: usize,
    /// The median of the rounds.
    #[serde(flatten)]
    pub rate: Rate,
}

/// One way, as it is measured.
struct Wanted {
    kernel: Kernel,
    digests: &'static str,
    images: u32,
    passes: Vec<Pass>,
    rates: Vec<Rate>,
}

impl Wanted {
    fn of(kernel: Kernel) -> impl Iterator<Item = Self> {
        let (md5, sha512) = (Pass::One(Algo::Md5), Pass::One(Algo::Sha512));
        let one = |digests, images, passes: &[Pass]| Self {
            kernel,
            digests,
            images,
            passes: passes.to_vec(),
            rates: Vec::new(),
        };
        let mut all = vec![
            one("md5", 1, &[md5]),
            one("sha512", 1, &[sha512]),
            one("md5 and sha512", 1, &[md5, sha512]),
        ];
        all.extend([1, 2, 3, 4, 8].map(|images| one("md5 and sha512", images, &[Pass::Both])));
        all.into_iter()
    }
}

/// Measures every kernel that this machine has.
///
/// # Errors
/// The system gives no threads.
pub async fn kernels() -> Result<Kernels> {
    measure(BYTES, ROUNDS).await
}

async fn measure(bytes: u64, rounds: usize) -> Result<Kernels> {
    let stop = CancellationToken::new();
    let lane = Lane::new("bench", 4, Duration::from_secs(3600));
    let region = Pattern::dense().region();
    let mut all: Vec<_> = Kernel::all().into_iter().flat_map(Wanted::of).collect();
    for _ in 0..rounds {
        for one in &mut all {
            let (images, kernel, passes) = (one.images, one.kernel, one.passes.clone());
            let digest = ceiling::digest(&lane, &region, bytes, images, kernel, passes, &stop);
            one.rates.push(digest.await?);
        }
    }
    let ways = |kernel: Kernel| {
        let its = all.iter().filter(move |one| one.kernel == kernel);
        its.filter_map(|one| {
            let (digests, images, threads) = (one.digests, one.images, one.passes.len());
            Some(Way { digests, images, threads, rate: median(&one.rates)? })
        })
    };
    let kernels = Kernel::all()
        .into_iter()
        .map(|kernel| Measured { kernel: kernel.name(), ways: ways(kernel).collect() })
        .collect();
    Ok(Kernels { auto: Kernel::best().name(), kernels })
}

/// The one in the middle, by what it cost.
fn median(rates: &[Rate]) -> Option<Rate> {
    let mut rates = rates.to_vec();
    let cpu = |rate: &Rate| rate.cpu_seconds_per_gib.unwrap_or(rate.seconds);
    rates.sort_by(|one, other| cpu(one).total_cmp(&cpu(other)));
    rates.get(rates.len() / 2).copied()
}

impl Kernels {
    /// Prints it for people.
    ///
    /// # Errors
    /// `out` does not take it.
    pub fn print(&self, out: &mut dyn io::Write) -> io::Result<()> {
        writeln!(out, "digest_kernel = auto is {} here; medians of {ROUNDS}\n", self.auto)?;
        let mut table = Table::new(["kernel", "digests", "images", "threads", "MB/s", "CPU s/GiB"]);
        for Measured { kernel, ways } in &self.kernels {
            for Way { digests, images, threads, rate } in ways {
                table.push(vec![
                    (*kernel).to_owned(),
                    (*digests).to_owned(),
                    images.to_string(),
                    threads.to_string(),
                    words::rate(Some(rate.mb_per_s)),
                    words::figure(rate.cpu_seconds_per_gib),
                ]);
            }
        }
        table.print(out)
    }
}

#[cfg(test)]
mod tests {
    use imaged_drivers::window::CHUNK;

    use super::*;

    #[tokio::test]
    async fn every_kernel_is_measured_in_every_way() {
        let found = measure(CHUNK as u64, 1).await.unwrap();
        let names: Vec<_> = found.kernels.iter().map(|one| one.kernel).collect();
        assert_eq!(names, Kernel::all().into_iter().map(Kernel::name).collect::<Vec<_>>());
        let ways = found.kernels.iter().flat_map(|one| &one.ways);
        assert!(ways.clone().all(|way| way.rate.mb_per_s > 0.0), "{found:?}");
        assert_eq!(ways.count(), 8 * names.len());
        let mut out = Vec::new();
        found.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("portable  md5 and sha512       1        2"), "{text}");
    }
}
