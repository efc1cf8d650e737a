//! A real daemon, started from the binary on a socket of its own.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{
    AGAIN, pause,
    raw::{Answer, Raw},
};

/// The binary under test.
pub(crate) const IMAGED: &str = env!("CARGO_BIN_EXE_imaged");

/// The binary, to which the system refuses `calls` with `errno`, as filters of containers do;
/// `tests/faults/refuse.py` names the calls.
pub(crate) fn refusing(errno: &str, calls: &str) -> Command {
    let mut command = Command::new("python3");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/refuse.py");
    command.args([script, errno, calls, IMAGED]);
    command
}

/// A daemon under test. Dropping it kills it.
pub(crate) struct Daemon {
    /// Where everything of it is: `conf`, `log`, `socket`, `state/` and what the test makes.
    pub(crate) dir: TempDir,
    pub(crate) socket: PathBuf,
    child: Child,
}

/// Two file stores, `fast` (the default) and `cheap`, and `small`, a store in memory of 8 MiB.
pub(crate) const STORES: &str = "\
[DEFAULT]
enabled_backends = fast:file, cheap:file, small:mem
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
[cheap]
filesystem_store_datadir = {dir}/cheap
[small]
mem_capacity = 8388608
";

/// As `STORES` without the one in memory, and of a second's patience with the store that may hang.
pub(crate) const HANGING: &str = "\
[DEFAULT]
enabled_backends = fast:file, cheap:file
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
filesystem_store_timeout = 1
[cheap]
filesystem_store_datadir = {dir}/cheap
";

impl Daemon {
    /// Starts one with this configuration, in which `{dir}` stands for its directory and
    /// `[imaged]` comes last; directories `fast` and `cheap` are there.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_in(Self::home(), config, &[])
    }

    /// A directory for one, with directories for two stores.
    pub(crate) fn home() -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for store in ["fast", "cheap"] {
            fs::create_dir(dir.path().join(store)).unwrap();
        }
        dir
    }

    /// Starts one in a directory that is there already, with these variables.
    pub(crate) fn start_in(dir: TempDir, config: &str, env: &[(&str, &str)]) -> Self {
        let path = dir.path().display().to_string();
        let ours = if config.contains("[imaged]") { "" } else { "[imaged]\n" };
        let text = format!("{config}\n{ours}state_dir = {{dir}}/state\n").replace("{dir}", &path);
        fs::write(dir.path().join("conf"), text).unwrap();
        let mut command = Command::new(IMAGED);
        command.envs(env.iter().copied());
        Self::start_by(dir, command)
    }

    /// Starts one by `command`, in a directory that has its `conf` already.
    pub(crate) fn start_by(dir: TempDir, command: Command) -> Self {
        let socket = dir.path().join("socket");
        let child = spawn(dir.path(), command);
        let mut daemon = Self { dir, socket, child };
        daemon.wait_until_ready();
        daemon
    }

    /// Starts it again after its end, in the same directory.
    pub(crate) fn restart(mut self, env: &[(&str, &str)]) -> Self {
        self.child.wait().unwrap();
        let mut command = Command::new(IMAGED);
        command.envs(env.iter().copied());
        self.child = spawn(self.dir.path(), command);
        self.wait_until_ready();
        self
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended: {status}\n{}", self.log());
            }
            if UnixStream::connect(&self.socket).is_ok() && self.ask("GET", "/readyz").status == 200
            {
                return;
            }
            assert!(Instant::now() < deadline, "the daemon is not ready\n{}", self.log());
            pause(AGAIN);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the log has `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        self.wait_until(text, |daemon| daemon.log().contains(text));
    }

    /// Waits until something is so.
    pub(crate) fn wait_until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !so(self) {
            assert!(Instant::now() < deadline, "waited for: {what}\n{}", self.log());
            pause(AGAIN);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it by SIGTERM.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> Answer {
        Raw::ask(&self.socket, method, path, b"")
    }

    pub(crate) fn put(&self, store: &str, id: &str, body: &[u8]) -> Answer {
        Raw::ask(&self.socket, "PUT", &format!("/v1/stores/{store}/images/{id}"), body)
    }

    pub(crate) fn get(&self, store: &str, id: &str) -> Answer {
        self.ask("GET", &format!("/v1/stores/{store}/images/{id}"))
    }

    /// Waits until nothing is under way and nothing is left to resolve.
    pub(crate) fn wait_until_idle(&self) {
        self.wait_until("the journal is empty", Self::is_idle);
    }

    /// Bytes of memory that transfers hold.
    pub(crate) fn held_memory(&self) -> u64 {
        let metrics = String::from_utf8(self.ask("GET", "/metrics").body).unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("imaged_windows_bytes "));
        line.unwrap().parse().unwrap()
    }

    /// Whether no id is held. The file of an intent goes before the id is free.
    pub(crate) fn is_idle(&self) -> bool {
        let metrics = self.ask("GET", "/metrics").body;
        metrics.windows(26).any(|line| line == b"\nimaged_journal_entries 0\n")
    }

    /// Names of the files in a directory of the daemon's.
    pub(crate) fn files(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Fails unless no store holds anything and the journal is empty.
    pub(crate) fn assert_empty(&self) {
        for dir in ["fast", "cheap", "state/journal"] {
            assert_eq!(self.files(dir), Vec::<String>::new(), "{dir}\n{}", self.log());
        }
    }
}

fn spawn(dir: &Path, mut command: Command) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    command
        .arg("serve")
        .arg("--config-file")
        .arg(dir.join("conf"))
        .arg("--socket")
        .arg(dir.join("socket"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// Bytes that do not repeat, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
