//! What to measure, as the command line says it.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::error::{Error, Result};
use crate::digest::Algo;

/// Bytes of the smallest block that is zeros or not.
const LEAST_BLOCK: u64 = 4 << 10;

/// Throughput, latency, CPU and memory of a store, against what the machine could do.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The store to measure
    #[arg(required_unless_present = "digests")]
    pub store: Option<String>,
    /// Measure what md5 and sha512 cost with each digest_kernel that this machine has, and no store
    #[arg(long, conflicts_with = "store")]
    pub digests: bool,
    /// Size of each image, as 512MiB or 2GiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    pub size: u64,
    /// How many images
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// How many at once
    #[arg(long, value_name = "J", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub jobs: u32,
    /// What to measure; images are always put first and deleted last
    #[arg(long, value_delimiter = ',', default_values_t = Op::ALL)]
    pub ops: Vec<Op>,
    /// How many times each image is looked at
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub stats: u32,
    /// The share of blocks that are zeros, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub zeros: f64,
    /// Size of such a block: a store knows of holes as large as its objects or its filesystem's blocks
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = size, requires = "zeros")]
    pub block: u64,
    /// Pass file descriptors instead of the bytes
    #[arg(long)]
    pub descriptor: bool,
    /// Read what images hold, and nothing of their holes, where the store knows of any
    #[arg(long)]
    pub extents: bool,
    /// Where to keep the file that --descriptor passes [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", requires = "descriptor")]
    pub scratch: Option<PathBuf>,
    /// The multihash algorithm [default: the daemon's]
    #[arg(long, value_name = "ALGO")]
    pub hash_algo: Option<Algo>,
    /// Write a page with plots into this file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

impl Args {
    /// Refuses what cannot be measured.
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.zeros) {
            return Err(Error::Usage(format!("--zeros is a share, 0 to 1: `{}`", self.zeros)));
        }
        if self.size == 0 {
            return Err(Error::Usage("--size is at least 1".to_owned()));
        }
        if self.block < LEAST_BLOCK {
            return Err(Error::Usage(format!("--block is at least 4KiB: `{}`", self.block)));
        }
        Ok(())
    }

    /// The store to measure.
    pub(super) fn store(&self) -> &str {
        self.store.as_deref().unwrap_or_default()
    }

    /// Whether `op` is to be measured.
    #[must_use]
    pub fn measures(&self, op: Op) -> bool {
        self.ops.contains(&op)
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Storing images.
    Put,
    /// Reading them whole.
    Get,
    /// Looking at them.
    Stat,
    /// Removing them.
    Delete,
}

impl Op {
    /// Every one, in the order in which they run.
    pub const ALL: [Self; 4] = [Self::Put, Self::Get, Self::Stat, Self::Delete];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Stat => "stat",
            Self::Delete => "delete",
        }
    }

    /// Whether it moves the bytes of images.
    #[must_use]
    pub fn moves(self) -> bool {
        matches!(self, Self::Put | Self::Get)
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A number of bytes: `4096`, `64KiB`, `1.5GiB`, `10GB`; `K`, `M`, `G` and `T` alone are binary.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        other => return Err(format!("unknown unit `{other}`, use KiB, MiB, GiB or TiB")),
    };
    let refuse = || format!("no number of bytes: `{text}`");
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_not_a_number| refuse())?;
    let mut bytes = whole.checked_mul(unit).ok_or_else(refuse)?;
    if !part.is_empty() {
        let places = u32::try_from(part.len()).map_err(|_too_many| refuse())?;
        let scale = 10_u64.checked_pow(places).ok_or_else(refuse)?;
        let part: u64 = part.parse().map_err(|_not_a_number| refuse())?;
        let more = u128::from(part) * u128::from(unit) / u128::from(scale);
        bytes =
            u64::try_from(more).ok().and_then(|more| bytes.checked_add(more)).ok_or_else(refuse)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["bench"], line].concat()).map(|line| line.args)
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64KiB", 65536),
            ("1GiB", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("10MB", 10_000_000),
            ("2 m", 2 << 20),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GiB", "1XB", "1..2M", "-1", "99999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_store_is_enough() {
        let args = parse(&["fast"]).unwrap();
        assert_eq!((args.size, args.count, args.jobs), (1 << 30, 4, 1));
        assert_eq!(args.ops, Op::ALL);
        assert_eq!((args.block, args.extents), (64 << 10, false));
        args.check().unwrap();
    }

    #[test]
    fn ops_are_a_list_and_shares_are_shares() {
        let args = parse(&["fast", "--ops", "stat,put", "--hash-algo", "sha256"]).unwrap();
        assert_eq!(args.ops, [Op::Stat, Op::Put]);
        assert_eq!(args.hash_algo, Some(Algo::Sha256));
        assert!(parse(&["fast", "--zeros", "1.5"]).unwrap().check().is_err());
        assert!(parse(&["fast", "--zeros", "0.5", "--block", "1KiB"]).unwrap().check().is_err());
        let sparse = parse(&["fast", "--zeros", "0.95", "--block", "1MiB", "--extents"]).unwrap();
        assert_eq!((sparse.block, sparse.extents), (1 << 20, true));
        assert!(parse(&["fast", "--block", "1MiB"]).is_err());
        assert!(parse(&["fast", "--ops", "copy"]).is_err());
        assert!(parse(&["fast", "--count", "0"]).is_err());
    }
}
