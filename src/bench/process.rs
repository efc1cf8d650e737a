//! What a process costs: CPU time and memory, as the kernel counts them.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;

/// Ticks of a second in `/proc/PID/stat`: `USER_HZ`, the same for every machine that Rust's
/// standard library runs on.
const TICKS: f64 = 100.0;

/// How often memory is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// The daemon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pid: i32,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// What it has now.
    pub(super) rss: u64,
    /// The most it ever had.
    pub(super) peak: u64,
}

impl Process {
    /// The daemon behind a socket on which `listener` listens: that process, or the only imaged
    /// there is if systemd listens for it.
    pub(super) fn behind(listener: i32) -> Result<Self, String> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        match name(listener).as_deref() {
            None => {
                return Err(format!(
                    "the daemon's process cannot be seen from here: pid=`{listener}`"
                ));
            }
            Some("systemd") => {}
            Some(_) => return Ok(Self { pid: listener }),
        }
        let all = fs::read_dir("/proc").map_err(|error| format!("no /proc: {error}"))?;
        let pids = all
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != own && name(*pid).as_deref() == Some("imaged"));
        match pids.collect::<Vec<i32>>().as_slice() {
            [pid] => Ok(Self { pid: *pid }),
            several => Err(format!(
                "systemd opened the socket, and {} processes may be the daemon",
                several.len()
            )),
        }
    }

    /// CPU seconds so far, in steps of 10 ms.
    pub(super) fn cpu(self) -> Option<f64> {
        ticks(&fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?)
            .map(|ticks| ticks as f64 / TICKS)
    }

    /// Its memory now.
    pub(super) fn memory(self) -> Option<Memory> {
        memory(&fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?)
    }
}

fn name(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned())
}

/// User and system time in a line of `/proc/PID/stat`; the name in it may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some(user + system)
}

fn memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { rss: field("VmRSS")?, peak: field("VmHWM")? })
}

/// CPU seconds of this process, or of this thread.
pub(super) fn own_cpu(who: UsageWho) -> f64 {
    getrusage(who).map_or(0.0, |usage| {
        let (user, system) = (usage.user_time(), usage.system_time());
        let seconds = (user.tv_sec() + system.tv_sec()) as f64;
        seconds + (user.tv_usec() + system.tv_usec()) as f64 / 1e6
    })
}

/// Memory over time.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    begun: Instant,
    seen: Mutex<Vec<(f64, u64)>>,
}

impl Watch {
    /// Watches `process` until the task is aborted.
    pub(super) fn begin(process: Option<Process>) -> (Self, JoinHandle<()>) {
        let watch = Self(Arc::new(Watched { begun: Instant::now(), seen: Mutex::default() }));
        let this = watch.clone();
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(EVERY);
            while let Some(memory) = process.and_then(Process::memory) {
                let now = this.now();
                this.seen().push((now, memory.rss));
                every.tick().await;
            }
        });
        (watch, task)
    }

    fn seen(&self) -> MutexGuard<'_, Vec<(f64, u64)>> {
        self.0.seen.lock()
    }

    /// Seconds since the beginning.
    pub(super) fn now(&self) -> f64 {
        self.0.begun.elapsed().as_secs_f64()
    }

    /// The most that was seen since `from` seconds.
    pub(super) fn most(&self, from: f64) -> Option<u64> {
        self.seen().iter().rev().take_while(|(at, _)| *at >= from).map(|(_, rss)| *rss).max()
    }

    /// What was seen: seconds and bytes, at most `points` of them, of neighbours the largest.
    pub(super) fn series(&self, points: usize) -> Vec<(f64, u64)> {
        let seen = self.seen();
        let together = seen.len().div_ceil(points.max(1)).max(1);
        seen.chunks(together)
            .filter_map(|near| near.iter().copied().max_by_key(|(_, rss)| *rss))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let rest = "S 1 2 2 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 5 0 12345 1 2";
        assert_eq!(ticks(&format!("42 (imaged) {rest}")), Some(300));
        assert_eq!(ticks(&format!("42 (a b) S 9 (x)) {rest}")), Some(300));
        assert_eq!(ticks("42 (imaged"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\timaged\nVmHWM:\t  2048 kB\nVmRSS:\t     3 kB\nThreads:\t5\n";
        assert_eq!(memory(status), Some(Memory { rss: 3072, peak: 2 << 20 }));
        assert_eq!(memory("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn this_process_can_be_seen() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::behind(own).unwrap();
        assert!(process.cpu().is_some());
        assert!(process.memory().unwrap().rss > 100_000);
        assert!(own_cpu(UsageWho::RUSAGE_SELF) >= own_cpu(UsageWho::RUSAGE_THREAD));
    }

    #[test]
    fn a_long_series_keeps_its_peaks() {
        let seen = (0..1000_u32).map(|n| (f64::from(n), if n == 777 { 9 } else { 1 })).collect();
        let watch = Watch(Arc::new(Watched { begun: Instant::now(), seen: Mutex::new(seen) }));
        let series = watch.series(100);
        assert_eq!(series.len(), 100);
        assert_eq!(series.iter().filter(|(_, rss)| *rss == 9).count(), 1);
        assert_eq!((watch.most(700.0), watch.most(800.0)), (Some(9), Some(1)));
    }
}
