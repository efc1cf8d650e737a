//! What is printed, and where: results on standard output, everything else on standard error.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
    process::ExitCode,
};

use imaged::client;
use imaged_ffi_linux::stdio::{stdin_was_closed, stdout_was_closed};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{Value, json};

/// Wrong usage.
const USAGE: u8 = 2;
/// Refused or failed.
const FAILED: u8 = 1;
/// Whoever read standard output has left: what a shell shows of a program that SIGPIPE has ended.
const ENOUGH: u8 = 128 + 13;

/// Why a command did not do what it was to do.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The daemon refused, or could not be spoken with.
    Daemon(client::Error),
    /// Something on this side.
    Here {
        /// The exit code.
        exit: u8,
        /// A stable name.
        code: &'static str,
        /// A sentence that names the thing and the remedy.
        what: String,
    },
    /// The result that was printed says it.
    Told,
    /// Standard output does not take the result, nor a word about that.
    Unprinted(String),
    /// Whoever read standard output has had enough, and knows it.
    Enough,
}

impl Failure {
    /// The command line makes no sense.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Here { exit: USAGE, code: "Usage", what: what.into() }
    }

    /// Something failed; `code` is its stable name.
    pub(crate) fn here(code: &'static str, what: impl Into<String>) -> Self {
        Self::Here { exit: FAILED, code, what: what.into() }
    }

    /// The system refused `doing`.
    pub(crate) fn io(doing: impl std::fmt::Display, error: &io::Error) -> Self {
        Self::here("System", format!("cannot {doing}: {error}"))
    }

    /// What became of writing to standard output.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Enough
        } else {
            Self::Unprinted(format!("cannot write to standard output: {error}"))
        }
    }

    fn exit(&self) -> u8 {
        match self {
            Self::Daemon(error) => error.exit_code(),
            Self::Here { exit, .. } => *exit,
            Self::Told | Self::Unprinted(_) => FAILED,
            Self::Enough => ENOUGH,
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Daemon(error) => error.to_string(),
            Self::Here { what, .. } | Self::Unprinted(what) => what.clone(),
            Self::Told | Self::Enough => String::new(),
        }
    }

    /// What programs are told of it.
    pub(crate) fn error(&self) -> Value {
        let code = match self {
            Self::Daemon(error) => error.code(),
            Self::Here { code, .. } => code,
            Self::Unprinted(_) => "System",
            Self::Told | Self::Enough => "",
        };
        let mut error = json!({"code": code, "message": self.what(), "exit_code": self.exit()});
        if let (Self::Daemon(client::Error::Refused(problem)), Some(error)) =
            (self, error.as_object_mut())
        {
            error.insert("status".to_owned(), problem.status.into());
            error.insert("request_id".to_owned(), problem.request_id.clone().into());
            for (name, value) in [("location", &problem.location), ("left", &problem.left)] {
                if let Some(value) = value {
                    error.insert(name.to_owned(), value.clone().into());
                }
            }
            if !problem.results.is_empty() {
                let results = serde_json::to_value(&problem.results).unwrap_or_default();
                error.insert("results".to_owned(), results);
            }
        }
        error
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::Daemon(error)
    }
}

/// What a command comes to.
pub(crate) type Done = Result<(), Failure>;

/// For whom to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// For programs.
    pub(crate) json: bool,
}

impl Output {
    /// Prints a result: `document` for programs, or what `people` writes.
    pub(crate) fn answer(
        self,
        document: &impl Serialize,
        people: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Done {
        let json = self.json;
        print(|out| {
            if json {
                serde_json::to_writer_pretty(&mut *out, document)?;
                out.write_all(b"\n")
            } else {
                people(out)
            }
        })
    }

    /// Tells people something that is not the result.
    pub(crate) fn say(self, line: &str) {
        // Nobody may be listening.
        drop(writeln!(io::stderr().lock(), "{line}"));
    }

    /// Tells why the command failed, if it did, and gives its exit code.
    pub(crate) fn end(self, done: Done) -> ExitCode {
        let done = match done {
            Ok(()) | Err(Failure::Told) => printed().and(done),
            failed => failed,
        };
        let failure = match done {
            Ok(()) => return ExitCode::SUCCESS,
            Err(failure @ (Failure::Enough | Failure::Told)) => {
                return ExitCode::from(failure.exit());
            }
            Err(failure) => failure,
        };
        let error = || self.answer(&json!({"error": failure.error()}), |_| Ok(()));
        let told = self.json
            && !matches!(failure, Failure::Unprinted(_))
            && error().and_then(|()| printed()).is_ok();
        if !told {
            self.say(&format!("imaged: {}", failure.what()));
            if let Failure::Daemon(client::Error::Refused(problem)) = &failure {
                for one in &problem.results {
                    let why = one.problem.as_ref().map(client::Problem::text).unwrap_or_default();
                    self.say(&format!("  not stored in {}: {why}", one.store));
                }
            }
            if let Failure::Daemon(client::Error::Refused(problem)) = &failure
                && problem.status >= 500
            {
                self.say(&format!("  the daemon's log has more under {}", problem.request_id));
            }
        }
        ExitCode::from(failure.exit())
    }
}

/// Standard output, if there is one: what is written to one that is closed is lost without a word.
pub(crate) fn stdout() -> Result<io::Stdout, Failure> {
    if stdout_was_closed() {
        return Err(Failure::stdout(&Errno::BADF.into()));
    }
    Ok(io::stdout())
}

/// Standard input, if there is one: what is closed reads as if it were empty.
pub(crate) fn stdin() -> io::Result<io::Stdin> {
    if stdin_was_closed() {
        return Err(Errno::BADF.into());
    }
    Ok(io::stdin())
}

/// Whether `path` is a name of standard output, which was closed: something else has come to be there.
pub(crate) fn is_closed_stdout(path: &Path) -> bool {
    stdout_was_closed() && is_stream(path, "stdout", 1)
}

/// The same of standard input.
pub(crate) fn is_closed_stdin(path: &Path) -> bool {
    stdin_was_closed() && is_stream(path, "stdin", 0)
}

fn is_stream(path: &Path, name: &str, number: u8) -> bool {
    let names =
        [format!("/dev/{name}"), format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")];
    names.iter().any(|name| path == Path::new(name))
}

/// Writes to standard output.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Done {
    let mut out = io::BufWriter::new(stdout()?.lock());
    write(&mut out).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))
}

/// Whether what was written to `file` got there, as far as the system tells when a file is closed: what goes
/// to another machine, as over NFS, is sent then at the latest, and may find no room.
pub(crate) fn written(file: &impl AsFd) -> io::Result<()> {
    Ok(nix::unistd::close(file.as_fd().try_clone_to_owned()?)?)
}

/// The same of all that was printed.
fn printed() -> Done {
    if stdout_was_closed() {
        return Ok(());
    }
    written(&io::stdout()).map_err(|error| Failure::stdout(&error))
}

/// Writes `rows` as columns below `head`, the last one as long as it likes.
pub(crate) fn table(out: &mut dyn Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = head.iter().map(|name| name.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut head.iter().copied())?;
    rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
}

/// Writes named values below each other.
pub(crate) fn fields(out: &mut dyn Write, fields: &[(&str, String)]) -> io::Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().try_for_each(|(name, value)| writeln!(out, "  {name:<width$}  {value}"))
}

/// A number of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
