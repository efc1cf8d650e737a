//! The command line, driven as people and scripts drive it, against a real daemon.

mod check;
mod codes;
mod connections;
mod files;
mod images;
mod import;
mod several;

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    thread,
};

use serde_json::Value;

use crate::harness::daemon::{Daemon, IMAGED};

/// Two stores on the disk, which pass descriptors, and one that does not.
const STORES: &str = "\
[DEFAULT]
enabled_backends = fast:file, cheap:file, memory:mem
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {dir}/fast
store_description = The fast one
[cheap]
filesystem_store_datadir = {dir}/cheap
";

fn daemon() -> Daemon {
    Daemon::start(STORES)
}

/// What a command came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    /// The one document on standard output.
    fn json(&self) -> Value {
        assert_eq!(self.err, "", "with --json nothing is told to people");
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Demands that it did what it was to do.
    fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// A command line, without what the environment of the tests may say.
fn command<S: AsRef<OsStr>>(socket: &Path, words: impl IntoIterator<Item = S>) -> Command {
    by(Command::new(IMAGED), socket, words)
}

/// The same by `program`, which runs the command.
fn by<S: AsRef<OsStr>>(
    mut program: Command,
    socket: &Path,
    words: impl IntoIterator<Item = S>,
) -> Command {
    program.args(words).env("IMAGED_SOCKET", socket).env_remove("XDG_RUNTIME_DIR");
    program
}

/// Runs a command to its end; `input` comes through a pipe.
fn feed<S: AsRef<OsStr>>(daemon: &Daemon, words: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
    finish(command(&daemon.socket, words), input)
}

fn finish(mut command: Command, input: &[u8]) -> Ran {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let ran = thread::scope(|scope| {
        // One that refuses does not read all.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let err = String::from_utf8(ran.stderr).unwrap();
    Ran { code: ran.status.code().unwrap(), out: ran.stdout, err }
}

/// Runs a command to its end.
fn run<S: AsRef<OsStr>>(daemon: &Daemon, words: impl IntoIterator<Item = S>) -> Ran {
    feed(daemon, words, b"")
}

/// Splits a command line at its spaces and runs it.
fn line(daemon: &Daemon, line: &str) -> Ran {
    run(daemon, line.split_whitespace())
}

/// How an answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// Nothing can be written.
    Full,
    /// Standard output is closed.
    Closed,
    /// Whoever read it has left.
    Left,
    /// It was taken, and there is no room for it, which is told as late as when a file is closed: as by NFS.
    Late,
}

impl Lost {
    const ALL: [Self; 4] = [Self::Full, Self::Closed, Self::Left, Self::Late];

    /// Runs a command whose answer is lost so, and tells what is left of it.
    fn run(self, mut command: Command) -> Ran {
        match self {
            Self::Full => {
                command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
            }
            Self::Left => {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                command.stdout(writer);
            }
            Self::Closed => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(command.get_program());
                shell.args(command.get_args());
                for (name, value) in command.get_envs() {
                    match value {
                        Some(value) => shell.env(name, value),
                        None => shell.env_remove(name),
                    };
                }
                if let Some(dir) = command.get_current_dir() {
                    shell.current_dir(dir);
                }
                command = shell;
            }
            Self::Late => {
                command.env("LD_PRELOAD", &*CLOSES_LATE).stdout(Stdio::null());
            }
        }
        let ran = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let err = String::from_utf8(ran.stderr).unwrap();
        Ran { code: ran.status.code().unwrap(), out: ran.stdout, err }
    }

    /// That the answer did not get lost without a word. Who has left knows it.
    fn assert_told(self, ran: &Ran, what: &str) {
        assert!(!ran.err.contains("panicked"), "{what}: {self:?}: {ran:?}");
        let left = self == Self::Left && ran.code == 141 && !ran.err.contains("output");
        let told = ran.code != 141 && ran.code != 0 && !ran.err.is_empty();
        assert!(told || left, "{what}: {self:?}: {ran:?}");
    }
}

/// A library that has each file told to lack room when it is closed.
static CLOSES_LATE: LazyLock<PathBuf> = LazyLock::new(|| {
    const CLOSE: &[u8] = b"#include <errno.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
        int close(int file) { syscall(SYS_close, file); errno = EDQUOT; return -1; }\n";
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (whole, own) = (dir.join("late.so"), dir.join(format!("late-{}.so", std::process::id())));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-x", "c", "-", "-o"]).arg(&own).stdin(Stdio::piped());
    let mut cc = cc.spawn().unwrap();
    cc.stdin.take().unwrap().write_all(CLOSE).unwrap();
    assert!(cc.wait().unwrap().success());
    // Other tests, which are other processes, may be at it too.
    fs::rename(own, &whole).unwrap();
    whole
});

/// Bytes that do not repeat soon.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
