//! The section `[imaged]`: the daemon itself.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use imaged_digest::Kernel;
use imaged_drivers::options::Options;

use super::{places::Places, roles::Grant};

/// The daemon's own settings. Each field names its option in `[imaged]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// `socket`: where to listen, unless systemd passes the socket.
    pub socket: PathBuf,
    /// `socket_mode`: the mode of the socket; connecting takes the right to write.
    pub socket_mode: u32,
    /// `socket_group`: the group of the socket, by name or number.
    pub socket_group: Option<String>,
    /// `roles`: who may do what, beside root and the daemon's own user.
    pub roles: Vec<Grant>,
    /// `state_dir`: what outlives the process.
    pub state_dir: PathBuf,
    /// `connection_limit`: connections at a time.
    pub connection_limit: usize,
    /// `connection_limit_per_user`: connections of one user at a time; half of all if unset.
    pub connection_limit_per_user: usize,
    /// `header_timeout_s`: for the head of a request to arrive.
    pub header_timeout: Duration,
    /// `idle_timeout_s`: for the next request on a kept connection.
    pub idle_timeout: Duration,
    /// `stall_timeout_s`: for a body in which no byte moves, whichever side is to blame.
    pub stall_timeout: Duration,
    /// `drain_timeout_s`: for transfers to end when the daemon stops.
    pub drain_timeout: Duration,
    /// `put_window_mib`: memory of one upload, in bytes.
    pub put_window: usize,
    /// `get_window_kib`: memory of one download, in bytes.
    pub get_window: usize,
    /// `total_window_mib`: memory of all transfers together, in bytes.
    pub total_window: usize,
    /// `spool_limit_mib`: parts of uploads on disk, of all together, in bytes.
    pub spool_limit: u64,
    /// `digest_threads`: threads that digests run on; 0 is one for each core.
    pub digest_threads: usize,
    /// `digest_kernel`: the instructions that digests use, or `auto`.
    pub digest_kernel: String,
    /// `hash_algo`: the digest of an upload that asks for none.
    pub hash_algo: String,
    /// `checksum`: whether images get their md5, too.
    pub checksum: bool,
    /// `log_format`: how a line of the log looks.
    pub log_format: LogFormat,
    /// `log_level`: the least that is logged.
    pub log_level: tracing::Level,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The digests that an upload may ask for beside md5, by their names in Python's hashlib.
pub const HASHES: [&str; 7] = ["sha512", "sha384", "sha256", "sha224", "sha1", "blake2b", "md5"];

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

impl Default for Daemon {
    fn default() -> Self {
        Self::at(Places::here())
    }
}

impl Daemon {
    /// The defaults, in these places.
    pub(super) fn at(places: Places) -> Self {
        Self {
            socket: places.socket,
            socket_mode: 0o660,
            socket_group: None,
            roles: Vec::new(),
            state_dir: places.state,
            connection_limit: 1024,
            connection_limit_per_user: 512,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            put_window: 64 * MIB,
            get_window: 512 * KIB,
            total_window: 1024 * MIB,
            spool_limit: 4096 << 20,
            digest_threads: 0,
            digest_kernel: "auto".to_owned(),
            hash_algo: "sha512".to_owned(),
            checksum: true,
            log_format: LogFormat::Pretty,
            log_level: tracing::Level::INFO,
        }
    }

    /// Reads the section; what is unset or wrong keeps its default.
    pub(super) fn read(options: &mut Options, places: Places) -> Self {
        let default = Self::at(places);
        let connection_limit =
            count(options, "connection_limit", 1, 1 << 20).unwrap_or(default.connection_limit);
        let daemon = Self {
            socket: options.path("socket").unwrap_or(default.socket),
            socket_mode: socket_mode(options).unwrap_or(default.socket_mode),
            socket_group: options.str("socket_group"),
            roles: roles(options),
            state_dir: options.path("state_dir").unwrap_or(default.state_dir),
            connection_limit,
            connection_limit_per_user: count(options, "connection_limit_per_user", 1, 1 << 20)
                .unwrap_or(connection_limit.div_ceil(2)),
            header_timeout: options
                .seconds("header_timeout_s", 1)
                .unwrap_or(default.header_timeout),
            idle_timeout: options.seconds("idle_timeout_s", 1).unwrap_or(default.idle_timeout),
            stall_timeout: options.seconds("stall_timeout_s", 1).unwrap_or(default.stall_timeout),
            drain_timeout: options.seconds("drain_timeout_s", 0).unwrap_or(default.drain_timeout),
            put_window: count(options, "put_window_mib", 1, 1 << 20)
                .map_or(default.put_window, |mib| mib * MIB),
            get_window: count(options, "get_window_kib", 64, 1 << 20)
                .map_or(default.get_window, |kib| kib * KIB),
            total_window: count(options, "total_window_mib", 16, 1 << 20)
                .map_or(default.total_window, |mib| mib * MIB),
            spool_limit: options
                .int("spool_limit_mib", 0..=1 << 40)
                .map_or(default.spool_limit, |mib| mib << 20),
            digest_threads: count(options, "digest_threads", 0, 1024)
                .unwrap_or(default.digest_threads),
            digest_kernel: options
                .choice("digest_kernel", &[&["auto"][..], &Kernel::NAMES].concat())
                .map_or(default.digest_kernel, str::to_owned),
            hash_algo: options
                .choice("hash_algo", &HASHES)
                .map_or(default.hash_algo, str::to_owned),
            checksum: options.choice("checksum", &["md5", "none"]) != Some("none"),
            log_format: match options.choice("log_format", &["pretty", "json"]) {
                Some("json") => LogFormat::Json,
                _ => LogFormat::Pretty,
            },
            log_level: options
                .choice("log_level", &LEVELS)
                .and_then(|level| level.parse().ok())
                .unwrap_or(default.log_level),
        };
        daemon.check(options);
        daemon
    }

    /// What no option can know of another.
    fn check(&self, options: &mut Options) {
        let total = self.total_window / MIB;
        let fits = |window: usize| window <= self.total_window;
        let what = format!(
            "does not fit total_window_mib, which is {total}: lower it, or raise total_window_mib"
        );
        if !fits(self.put_window) {
            options.fail("put_window_mib", what.clone());
        }
        if !fits(self.get_window) {
            options.fail("get_window_kib", what);
        }
        let page = imaged_drivers::window::PAGE;
        if !self.get_window.is_multiple_of(page) {
            options.fail(
                "get_window_kib",
                format!(
                    "must be a multiple of {}, the size of a page: use {}",
                    page / KIB,
                    self.get_window.next_multiple_of(page) / KIB
                ),
            );
        }
    }
}

/// The names of all options of `[imaged]`.
pub(super) fn names() -> BTreeSet<String> {
    let mut options = Options::default();
    Daemon::read(&mut options, Places::here());
    options.known().clone()
}

fn socket_mode(options: &mut Options) -> Option<u32> {
    let mode = options.mode("socket_mode")?;
    if mode & 0o200 != 0 && mode <= 0o777 {
        return Some(mode);
    }
    options.fail(
        "socket_mode",
        "must be a mode that lets its owner write, up to 0777: its owner could not connect",
    );
    None
}

/// The grants; who is named twice would have two roles.
fn roles(options: &mut Options) -> Vec<Grant> {
    let mut grants = Vec::<Grant>::new();
    for entry in options.list("roles") {
        match entry.parse::<Grant>() {
            Ok(grant) if grants.iter().any(|other| other.who == grant.who) => {
                options.fail("roles", format!("`{}` is given twice: keep one role", grant.who));
            }
            Ok(grant) => grants.push(grant),
            Err(what) => options.fail("roles", what),
        }
    }
    grants
}

fn count(options: &mut Options, name: &str, least: u64, most: u64) -> Option<usize> {
    options.int(name, least..=most).and_then(|count| usize::try_from(count).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    fn read(pairs: &[(&str, &str)]) -> (Daemon, Vec<String>) {
        let mut options = Options::of("imaged", pairs);
        let daemon = Daemon::read(&mut options, Places::here());
        (daemon, options.finish().problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_section_is_the_default() {
        assert_eq!(read(&[]), (Daemon::default(), vec![]));
    }

    #[test]
    fn every_option_is_read() {
        let (daemon, problems) = read(&[
            ("socket", "/tmp/s"),
            ("socket_mode", "0666"),
            ("socket_group", "glance"),
            ("roles", "glance:admin, %monitor:reader"),
            ("state_dir", "/tmp/state"),
            ("connection_limit", "5"),
            ("connection_limit_per_user", "4"),
            ("header_timeout_s", "1"),
            ("idle_timeout_s", "2"),
            ("stall_timeout_s", "3"),
            ("drain_timeout_s", "0"),
            ("put_window_mib", "6"),
            ("get_window_kib", "128"),
            ("total_window_mib", "16"),
            ("spool_limit_mib", "8"),
            ("digest_threads", "9"),
            ("digest_kernel", "avx2"),
            ("hash_algo", "blake2b"),
            ("checksum", "none"),
            ("log_format", "json"),
            ("log_level", "debug"),
        ]);
        assert_eq!(problems, [""; 0]);
        let roles: Vec<_> = daemon.roles.iter().map(|grant| grant.role).collect();
        assert_eq!(roles, [Role::Admin, Role::Reader]);
        assert_eq!(
            daemon,
            Daemon {
                socket: "/tmp/s".into(),
                socket_mode: 0o666,
                socket_group: Some("glance".into()),
                roles: daemon.roles.clone(),
                state_dir: "/tmp/state".into(),
                connection_limit: 5,
                connection_limit_per_user: 4,
                header_timeout: Duration::from_secs(1),
                idle_timeout: Duration::from_secs(2),
                stall_timeout: Duration::from_secs(3),
                drain_timeout: Duration::ZERO,
                put_window: 6 * MIB,
                get_window: 128 * KIB,
                total_window: 16 * MIB,
                spool_limit: 8 << 20,
                digest_threads: 9,
                digest_kernel: "avx2".into(),
                hash_algo: "blake2b".into(),
                checksum: false,
                log_format: LogFormat::Json,
                log_level: tracing::Level::DEBUG,
            }
        );
    }

    #[test]
    fn wrong_values_and_values_that_do_not_go_together_are_told_with_a_remedy() {
        let (_, problems) = read(&[
            ("socket", "s"),
            ("socket_mode", "0060"),
            ("roles", "glance:admn, a:admin, a:reader"),
            ("header_timeout_s", "0"),
            ("get_window_kib", "66"),
            ("put_window_mib", "64"),
            ("total_window_mib", "32"),
            ("hash_algo", "crc32"),
            ("put_window", "64"),
            ("drain_timeout", "1"),
        ]);
        assert_eq!(
            problems,
            [
                "[imaged] socket: must be an absolute path: value=`s`",
                "[imaged] socket_mode: must be a mode that lets its owner write, up to 0777: its \
                 owner could not connect",
                "[imaged] roles: no such role; did you mean `admin`? role=`admn`",
                "[imaged] roles: `a` is given twice: keep one role",
                "[imaged] header_timeout_s: must be a whole number from 1 to 86400: value=`0`",
                "[imaged] hash_algo: must be one of sha512, sha384, sha256, sha224, sha1, blake2b, \
                 md5: value=`crc32`",
                "[imaged] put_window_mib: does not fit total_window_mib, which is 32: lower it, \
                 or raise total_window_mib",
                "[imaged] get_window_kib: must be a multiple of 4, the size of a page: use 68",
                "[imaged] drain_timeout: no such option; did you mean `drain_timeout_s`?",
                "[imaged] put_window: no such option; did you mean `put_window_mib`?",
            ]
        );
    }
}
