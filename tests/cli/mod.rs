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
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
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
    let mut command = Command::new(IMAGED);
    command.args(words).env("IMAGED_SOCKET", socket).env_remove("XDG_RUNTIME_DIR");
    command
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
