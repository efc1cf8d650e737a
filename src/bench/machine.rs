//! The machine that was measured.

use std::{fs, path::Path};

use chrono::DateTime;
use imaged_drivers::meminfo;
use serde::Serialize;

/// What has to be known of the machine beside every figure.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cores: u32,
    /// The CPU's model.
    pub model: String,
    /// The kernel's release.
    pub kernel: String,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Type and device of the filesystem of the store, if it is a directory here.
    pub filesystem: Option<String>,
    /// Processes that wanted a CPU in the last minute before the run, on average.
    pub load_before: Option<f64>,
}

impl Machine {
    /// This one, with the filesystem of `dir`.
    pub(super) fn here(dir: Option<&Path>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            model: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: meminfo::bytes("MemTotal"),
            filesystem: dir
                .and_then(|dir| fs::canonicalize(dir).ok())
                .and_then(|dir| filesystem(&read("/proc/self/mounts"), &dir)),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok()),
        }
    }
}

fn field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

/// The mount that holds `dir`: the last of those with the longest path.
fn filesystem(mounts: &str, dir: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
        let at = at.replace("\\040", " ");
        dir.starts_with(&at).then(|| (at.len(), format!("{kind} on {device}")))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, found)| found)
}

/// Seconds since 1970 as a date, `2026-01-31 12:34:56 UTC`.
pub(super) fn utc(seconds: u64) -> String {
    let date = i64::try_from(seconds).ok().and_then(DateTime::from_timestamp_secs);
    date.map_or_else(
        || format!("{seconds} s after 1970"),
        |date| date.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filesystem_is_that_of_the_nearest_mount() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /srv tmpfs rw 0 0\n/dev/vdb /srv/a\\040b xfs rw 0 0\n/dev/vdc /srvx btrfs rw 0 0\n";
        let of = |dir: &str| filesystem(mounts, Path::new(dir)).unwrap();
        assert_eq!(of("/home"), "ext4 on /dev/vda");
        assert_eq!(of("/srv/images"), "tmpfs on tmpfs");
        assert_eq!(of("/srv/a b/c"), "xfs on /dev/vdb");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_767_225_599), "2025-12-31 23:59:59 UTC");
        assert_eq!(utc(u64::MAX), "18446744073709551615 s after 1970", "no calendar has it");
    }

    #[test]
    fn this_machine_has_a_name_and_cores() {
        let machine = Machine::here(Some(Path::new("/")));
        assert!(machine.cores > 0);
        assert!(!machine.kernel.is_empty());
        assert!(machine.filesystem.is_some());
    }
}
