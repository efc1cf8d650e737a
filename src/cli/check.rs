//! `imaged check-config`

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    process::ExitCode,
};

use imaged::check::{Checked, ForCinder, Verdict, masked};
use serde_json::json;

use super::{
    args::Check,
    output::{Done, Failure, Output, print, stdin},
    talk::runtime,
};

/// The longest line that can be a location, in bytes.
const LONGEST: usize = 8192;

/// Reads the configuration, opens each store, and says what is wrong.
pub(crate) fn run(args: &Check) -> ExitCode {
    let output = Output { json: args.json };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return output.end(Err(failure)),
    };
    let mut checked = runtime.block_on(Checked::new(&args.sources.clone().into()));
    let (ended, lacks) = match &args.for_cinder {
        None => (report(args, output, &checked), false),
        Some(pools) => {
            let needed = match runtime.block_on(checked.for_cinder(pools)) {
                Ok(needed) => Some(needed),
                Err(why) => {
                    checked.wrong.push(why);
                    None
                }
            };
            let lacks = needed.as_ref().is_some_and(ForCinder::lacks);
            (tell_needs(output, &checked, needed.as_ref()).map(|()| None), lacks)
        }
    };
    // What the stores have open goes before the threads that it was opened by.
    let problems = lacks || !checked.wrong.is_empty();
    drop(checked);
    // A store that hangs must not hold the exit.
    runtime.shutdown_background();
    match ended {
        Ok(counts) if problems || counts.is_some_and(|counts| counts.refused() > 0) => {
            output.end(Err(Failure::Told))
        }
        ended => output.end(ended.map(drop)),
    }
}

/// Prints what was found of the configuration, and what images of volumes need.
fn tell_needs(output: Output, checked: &Checked, needed: Option<&ForCinder>) -> Done {
    let Checked { fine, wrong, .. } = checked;
    if output.json {
        let all = json!({"fine": fine, "problems": wrong, "for_cinder": needed});
        return print(|out| writeln!(out, "{all}"));
    }
    for line in fine.iter().chain(wrong) {
        output.say(line);
    }
    let lines = needed.map(ForCinder::lines).unwrap_or_default();
    print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}

/// Prints what was found, of the configuration and then of the locations.
fn report(args: &Check, output: Output, checked: &Checked) -> Result<Option<Counts>, Failure> {
    let lines = args.locations.as_deref().map(open);
    if output.json {
        return document(checked, lines);
    }
    for line in checked.fine.iter().chain(&checked.wrong) {
        output.say(line);
    }
    let Some(lines) = lines else { return Ok(None) };
    let counts = judge(checked, lines?, |found| {
        output.say(&found.line());
        Ok(())
    })?;
    output.say(&format!(
        "{} locations: {} could be served, {} could not, {} are no locations",
        counts.served + counts.refused(),
        counts.served,
        counts.unserved,
        counts.bad
    ));
    Ok(Some(counts))
}

/// Prints one JSON document, also where the locations cannot be read.
fn document(
    checked: &Checked,
    lines: Option<Result<Box<dyn BufRead>, Failure>>,
) -> Result<Option<Counts>, Failure> {
    let Checked { fine, wrong, .. } = checked;
    let mut counts = None;
    let mut failed = None;
    print(|out| {
        let (fine, wrong) = (serde_json::to_string(fine)?, serde_json::to_string(wrong)?);
        write!(out, "{{\"fine\":{fine},\"problems\":{wrong}")?;
        if let Some(lines) = lines {
            // One after the other: there may be more than memory has room for.
            write!(out, ",\"locations\":{{\"refused\":[")?;
            let mut gap = "";
            let ended = lines.and_then(|lines| {
                judge(checked, lines, |found| {
                    let written = write!(out, "{gap}{}", found.document());
                    gap = ",\n";
                    written.map_err(|error| Failure::stdout(&error))
                })
            });
            write!(out, "]")?;
            match ended {
                Ok(now) => {
                    let Counts { served, unserved, bad } = now;
                    write!(out, ",\"served\":{served},\"unserved\":{unserved},\"bad\":{bad}}}")?;
                    counts = Some(now);
                }
                Err(failure) => {
                    write!(out, "}},\"error\":{}", failure.error())?;
                    failed = Some(match failure {
                        Failure::Unprinted(_) | Failure::Enough => failure,
                        // The document says why.
                        Failure::Daemon(_) | Failure::Here { .. } | Failure::Told => Failure::Told,
                    });
                }
            }
        }
        writeln!(out, "}}")
    })?;
    failed.map_or(Ok(counts), Err)
}

/// How many locations there were of each kind.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    served: u64,
    unserved: u64,
    bad: u64,
}

impl Counts {
    fn refused(self) -> u64 {
        self.unserved + self.bad
    }
}

/// A line that no store could serve.
struct Refused {
    number: u64,
    /// Without secrets.
    text: String,
    bad: bool,
    why: String,
}

impl Refused {
    fn line(&self) -> String {
        format!("line {}: {}: location=`{}`", self.number, self.why, self.text)
    }

    fn document(&self) -> serde_json::Value {
        let state = if self.bad { "bad" } else { "unserved" };
        json!({"line": self.number, "location": self.text, "state": state, "reason": self.why})
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    let fail = |error| Failure::io(format_args!("read `{}`", path.display()), &error);
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(stdin().map_err(fail)?)));
    }
    let file = File::open(path);
    Ok(Box::new(BufReader::new(file.map_err(fail)?)))
}

/// Judges each line, and tells of those that no store could serve. Holds one line at a time.
fn judge(
    checked: &Checked,
    mut lines: Box<dyn BufRead>,
    mut report: impl FnMut(Refused) -> Done,
) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    let mut number = 0_u64;
    loop {
        let read = next_line(&mut *lines);
        let Some((line, whole)) =
            read.map_err(|error| Failure::io("read the locations", &error))?
        else {
            return Ok(counts);
        };
        number += 1;
        let text = String::from_utf8_lossy(&line);
        // Editors write a byte order mark, and do not show it.
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() && whole {
            continue;
        }
        let verdict = match (whole, std::str::from_utf8(&line)) {
            (false, _) => Verdict::Bad(format!("is longer than {LONGEST} bytes")),
            (true, Err(_)) => Verdict::Bad("is no UTF-8 text".to_owned()),
            (true, Ok(_)) => checked.judge(text),
        };
        let (bad, why) = match verdict {
            Verdict::Served => {
                counts.served += 1;
                continue;
            }
            Verdict::Unserved(why) => {
                counts.unserved += 1;
                (false, why)
            }
            Verdict::Bad(why) => {
                counts.bad += 1;
                (true, why)
            }
        };
        let shown: String = masked(text).chars().take(LONGEST).flat_map(plain).collect();
        report(Refused { number, text: shown, bad, why })?;
    }
}

/// A character as a line of output may hold it.
fn plain(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// The next line without its end, and whether it is all of it: of one that is too long only the
/// beginning is kept.
fn next_line(from: &mut dyn BufRead) -> io::Result<Option<(Vec<u8>, bool)>> {
    let (mut line, mut whole, mut any) = (Vec::new(), true, false);
    loop {
        let some = match from.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            some => some?,
        };
        if some.is_empty() {
            return Ok(any.then_some((line, whole)));
        }
        any = true;
        let end = some.iter().position(|byte| *byte == b'\n');
        let (part, used) = match end {
            Some(end) => (some.get(..end).unwrap_or_default(), end + 1),
            None => (some, some.len()),
        };
        let room = LONGEST.saturating_sub(line.len());
        whole &= part.len() <= room;
        line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        from.consume(used);
        if end.is_some() {
            return Ok(Some((line, whole)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_whatever_their_length() {
        let long = "x".repeat(LONGEST + 1);
        let text = format!("a\n\n{long}\n{}\nb", "y".repeat(LONGEST));
        // Whatever comes at a time.
        for room in [1, 7, 4096, 1 << 20] {
            let mut from = BufReader::with_capacity(room, text.as_bytes());
            let mut read = Vec::new();
            while let Some((line, whole)) = next_line(&mut from).unwrap() {
                read.push((line.len(), whole));
            }
            assert_eq!(
                read,
                [(1, true), (0, true), (LONGEST, false), (LONGEST, true), (1, true)],
                "{room}"
            );
        }
    }
}
