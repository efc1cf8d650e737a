//! `imaged bench`: how fast a store is, how fast the machine lets it be, and what it costs.
//!
//! * [`Args`]: what to measure
//! * `pattern`: what the images hold; `load`: the requests, and that nothing is left of them
//! * `process`: CPU time and memory, of the daemon and of this program apart
//! * `ceiling`: the disk, the digests and the socket, each alone, in the same run
//! * [`kernels()`]: what each kernel of the digests costs, without a daemon
//! * [`Report`]: what it amounts to; as text, as JSON, and as a page with plots
//!
//! # Decisions
//! * Chose: one kind of request after the other, puts first. Because: each has figures of its own
//!   that the others do not disturb. Instead of: a mixture, of which no ceiling is known.
//! * Chose: the last stage to stand out is the one of whose ceiling most was reached, with the
//!   cores as one more stage. Because: it needs nothing from the daemon, and compares with
//!   what this machine did in the same minute. Instead of: the daemon's own account of waiting.
//! * Chose: ceilings after the images are gone. Because: the disk has room for them then.

mod args;
mod ceiling;
mod error;
mod html;
mod kernels;
mod load;
mod machine;
mod pattern;
mod plot;
mod process;
mod rate;
mod report;
mod text;
mod words;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use imaged_drivers::clock::unix_seconds;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub use self::{
    args::{Args, Op},
    ceiling::{Ceilings, Digest},
    error::{Error, Result},
    kernels::{Kernels, kernels},
    load::Failure,
    machine::Machine,
    rate::Rate,
    report::{Cpu, Latency, Measured, Place, Point, Report, Rss, Shape, Stage},
};
use self::{
    ceiling::Wanted,
    load::{Load, Phase},
    pattern::Pattern,
    process::{Process, Watch},
};
use crate::client::{Client, Shown};

/// Measures, and writes the page if one is asked for. What is under way is told to `progress`, a
/// line each. SIGINT and SIGTERM end it early and remove the images all the same; a second one
/// gives that up. Needs a runtime with several threads to load the daemon fully.
///
/// # Errors
/// See [`Error`]; a request that fails is counted instead.
pub async fn run(
    args: &Args,
    client: &Client,
    progress: &mut (dyn Write + Send),
) -> Result<Report> {
    args.check()?;
    let shown = client.store(args.store()).await?;
    room(args, &shown)?;
    // Not after minutes of measuring.
    let page = args.report.as_deref().map(Page::open).transpose()?;
    let stop = CancellationToken::new();
    let mut signals = Signals::listen(&stop)?;
    let report = measure(args, client, &shown, &stop, &mut signals, progress).await?;
    if let Some(page) = page {
        page.write(&report)?;
    }
    Ok(report)
}

/// The file of a report, which is as it was until there is a report to write.
struct Page<'a> {
    path: &'a Path,
    file: File,
    new: bool,
}

impl<'a> Page<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let new = !path.exists();
        let file = File::options().write(true).create(true).truncate(false).open(path);
        file.map(|file| Self { path, file, new }).map_err(|error| cannot_write(path, &error))
    }

    fn write(mut self, report: &Report) -> Result<()> {
        self.new = false;
        let written =
            self.file.set_len(0).and_then(|()| self.file.write_all(report.html().as_bytes()));
        written.map_err(|error| cannot_write(self.path, &error))
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if self.new {
            let _left = fs::remove_file(self.path);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::Usage(format!("the report cannot be written: {error}: path=`{}`", path.display()))
}

async fn measure(
    args: &Args,
    client: &Client,
    shown: &Shown,
    stop: &CancellationToken,
    signals: &mut Signals,
    progress: &mut (dyn Write + Send),
) -> Result<Report> {
    let begun_unix_s = unix_seconds();
    let data_dir = shown.properties.get("data_dir").and_then(|dir| dir.as_str()).map(PathBuf::from);
    let machine = Machine::here(data_dir.as_deref());
    let mut notes = Vec::new();
    let process = Process::behind(client.peer_pid().await?)
        .map_err(|note| notes.push(format!("no CPU time and memory of the daemon: {note}")))
        .ok();
    let pattern = Pattern::new(args.zeros, args.block);
    if args.descriptor {
        say(progress, "writing the file whose descriptor is passed");
    }
    let load = Load::new(client, args, &pattern, stop).await?;
    let (watch, watching) = Watch::begin(process);
    let phases = phases(args, &load, process, &watch, progress).await;
    watching.abort();
    // Also after a failure or a signal, but not after a second one.
    let left = tokio::select! {
        left = load.clean() => left,
        () = signals.second() => load.ids(),
    };
    if stop.is_cancelled() {
        return Err(Error::Interrupted(left));
    }
    let phases = phases?;
    say(progress, "measuring what each stage can do alone");
    let digests =
        load.digests().unwrap_or_else(|| (args.hash_algo.unwrap_or_default().to_string(), true));
    let ceilings = ceilings(args, shown, data_dir.as_deref(), &digests, &pattern, stop).await;
    if stop.is_cancelled() {
        return Err(Error::Interrupted(left));
    }
    let ceilings = ceilings?;
    notes.extend(ceilings.disk_note.iter().map(|note| format!("disk: {note}")));
    if load.streamed() {
        notes.push("the store passes no descriptors: images were read by the socket".to_owned());
    }
    if load.filled() {
        notes.push(
            "the store knows of no holes in these images: they were read with their zeros; holes in rbd are \
             whole objects, so try a larger --block"
                .to_owned(),
        );
    }
    let place = Place {
        id: shown.id.clone(),
        kind: shown.kind.clone(),
        data_dir: data_dir.map(|dir| dir.display().to_string()),
    };
    let report = Report::new(args, machine, place, digests, ceilings, &phases);
    let series = watch.series(report::POINTS).into_iter();
    let rss = series.map(|(seconds, bytes)| Point { seconds, bytes }).collect();
    Ok(Report { begun_unix_s, rss, left, notes, ..report })
}

/// What each stage can do alone, with images such as those that were measured.
async fn ceilings(
    args: &Args,
    shown: &Shown,
    data_dir: Option<&Path>,
    (hash_algo, md5): &(String, bool),
    pattern: &Pattern,
    stop: &CancellationToken,
) -> Result<Ceilings> {
    let wanted = Wanted {
        size: args.size,
        streams: args.jobs,
        algo: hash_algo.parse().unwrap_or_default(),
        md5: *md5,
        dir: data_dir
            .ok_or_else(|| format!("a store of type {} has no directory to measure", shown.kind)),
        free: shown.capacity.and_then(|capacity| capacity.available),
        pattern,
        stop,
    };
    ceiling::measure(&wanted).await
}

/// Puts, then whatever is to be measured.
async fn phases(
    args: &Args,
    load: &Arc<Load>,
    process: Option<Process>,
    watch: &Watch,
    progress: &mut (dyn Write + Send),
) -> Result<Vec<Phase>> {
    let mut phases = Vec::new();
    for op in Op::ALL {
        if op != Op::Put && !args.measures(op) {
            continue;
        }
        let (count, size) = (args.count, words::bytes(args.size));
        say(progress, &format!("{op}: {count} of {size}, {} at a time", args.jobs));
        phases.push(load.run(op, process, watch).await?);
    }
    Ok(phases)
}

/// Shows progress. That it cannot be shown ends no measurement.
fn say(progress: &mut (dyn Write + Send), line: &str) {
    let _unshown = writeln!(progress, "{line}");
}

/// Refuses what cannot fit.
fn room(args: &Args, shown: &Shown) -> Result<()> {
    if let Some(reason) = &shown.reason {
        return Err(Error::Local(format!("the store is down: {reason}: store=`{}`", shown.id)));
    }
    let wanted = args.size.saturating_mul(u64::from(args.count)) as f64 * (1.0 - args.zeros);
    match shown.capacity.and_then(|capacity| capacity.available) {
        Some(free) if wanted > free as f64 => Err(Error::Usage(format!(
            "the store has {} left, too little for {} images of {}: use a smaller --count or --size",
            words::bytes(free),
            args.count,
            words::bytes(args.size)
        ))),
        _ => Ok(()),
    }
}

/// SIGINT and SIGTERM: the first stops the load, the second the cleaning.
#[derive(Debug)]
struct Signals {
    again: CancellationToken,
    task: JoinHandle<()>,
}

impl Signals {
    fn listen(stop: &CancellationToken) -> Result<Self> {
        let fail = |error: io::Error| Error::Local(format!("cannot listen to signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        let again = CancellationToken::new();
        let (first, second) = (stop.clone(), again.clone());
        let task = tokio::spawn(async move {
            for token in [first, second] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(Self { again, task })
    }

    async fn second(&mut self) {
        self.again.cancelled().await;
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.task.abort();
    }
}
