//! `imaged get`

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, path::PathBuf, thread};

use imaged::{
    client::{self, Content, Form, Got, Which},
    digest::Algo,
};
use imaged_drivers::{
    Extent, Span,
    open_file::{Next, Version, next_data, next_hole},
};
use rustix::fs::copy_file_range;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{
    args::Get,
    output::{Done, Failure, bytes},
    progress::Progress,
    talk::{Talk, which},
    target::{Sink, Target, best, is_stdout},
};

/// Bytes read from a descriptor at a time.
const PIECE: usize = 1 << 20;
/// Bytes copied inside the kernel at a time.
const STRIDE: u64 = 64 << 20;
/// Pieces between the connection and the writing thread.
const BETWEEN: usize = 8;

/// Reads an image.
pub(crate) async fn run(talk: &Talk, args: &Get) -> Done {
    let image = which(&args.id);
    let id = match image {
        Which::Id(id) => Some(id.to_owned()),
        Which::At(_) => None,
    };
    let Some(file) = args.file.clone().or_else(|| id.as_ref().map(PathBuf::from)) else {
        return Err(Failure::usage("name a FILE: a location names none, or - for standard output"));
    };
    if talk.output.json && is_stdout(&file) {
        return Err(Failure::usage("with --json, name a FILE: standard output has the JSON"));
    }
    let span = args.range.unwrap_or(Span::All);
    let forms = [Form::Descriptor, Form::Memory, Form::Extents];
    let got = talk.client.get(&args.store, image, span, &forms).await?;
    let Got { size, range, digests, content } = got;
    // Not here, where a FIFO that nobody reads would keep signals from being heard.
    #[expect(clippy::disallowed_methods, reason = "once, in a process that ends afterwards")]
    let target = tokio::task::spawn_blocking(move || Target::create(&file, id.as_deref())).await;
    let target = target.unwrap_or_else(|_| Err(lost()))?;
    let length = range.end.saturating_sub(range.start);
    let progress = Progress::new(&args.id, Some(length));
    let known = if span == Span::All && !args.no_verify { best(digests) } else { None };
    let sink = Sink::new(&target, known, progress.meter())?;
    let verified = transfer(content, size, range.clone(), sink).await;
    drop(progress);
    let verified = verified?;
    let path = match target {
        Target::Stream(stream) => match stream.path {
            Some(path) => path.display().to_string(),
            None => return Ok(()),
        },
        Target::File(part) => {
            let path = part.path().display().to_string();
            let fail = |error| Failure::io(format_args!("give `{path}` its name"), &error);
            part.keep().map_err(fail)?;
            path
        }
    };
    let document = json!({
        "store": args.store, "image": args.id, "file": path, "size": size,
        "range": {"start": range.start, "end": range.end},
        "verified": verified.map(Algo::name),
    });
    talk.output.answer(&document, |out| {
        let verified = match verified {
            Some(algo) => format!(", {algo} verified"),
            None if span == Span::All && args.no_verify => ", not verified".to_owned(),
            None if span == Span::All => ", not verified: no digest is known".to_owned(),
            None => format!(" of {}, from offset {}", bytes(size), range.start),
        };
        writeln!(out, "{path}: {}{verified}", bytes(length))
    })
}

/// What comes over the connection.
enum Download {
    Bytes(client::Download),
    Extents(client::Extents),
}

impl Download {
    async fn next(&mut self) -> client::Result<Option<Extent>> {
        match self {
            Self::Bytes(download) => Ok(download.chunk().await?.map(Extent::Data)),
            Self::Extents(extents) => extents.next().await,
        }
    }
}

/// Moves the bytes into `sink`, on a thread of its own, and gives what [`Sink::finish`] does.
async fn transfer(
    content: Content,
    size: u64,
    range: Range<u64>,
    mut sink: Sink,
) -> Result<Option<Algo>, Failure> {
    let length = range.end.saturating_sub(range.start);
    let (ended, end) = oneshot::channel();
    let (pieces, mut come) = mpsc::channel(BETWEEN);
    let (file, download) = match content {
        Content::Descriptor(descriptor) => (Some(File::from(descriptor)), None),
        Content::Stream(download) => (None, Some(Download::Bytes(download))),
        Content::Extents(extents) => (None, Some(Download::Extents(extents))),
    };
    let work = move || {
        match file {
            Some(file) => copy(&file, size, range, &mut sink)?,
            None => loop {
                match come.blocking_recv() {
                    Some(Some(Extent::Data(bytes))) => sink.data(&bytes)?,
                    Some(Some(Extent::Hole(len))) => sink.hole(len)?,
                    Some(None) => break,
                    // Whoever fed this knows why.
                    None => return Err(Failure::here("Broken", "the image did not come whole")),
                }
            },
        }
        sink.finish(length)
    };
    let spawned = thread::Builder::new().name("write".to_owned()).spawn(move || {
        // Nobody waits after a signal.
        drop(ended.send(work()));
    });
    spawned.map_err(|error| Failure::io("start a thread", &error))?;
    if let Some(download) = download {
        feed(download, pieces).await?;
    }
    end.await.unwrap_or_else(|_| Err(lost()))
}

/// The refusal where a thread ended without a word.
fn lost() -> Failure {
    Failure::here("Internal", "the writing thread was lost")
}

/// Hands what comes to the writing thread, and `None` when all has come.
async fn feed(mut download: Download, pieces: mpsc::Sender<Option<Extent>>) -> Result<(), Failure> {
    loop {
        let next = download.next().await?;
        let over = next.is_none();
        // A thread that takes no more has failed, and tells why.
        if pieces.send(next).await.is_err() || over {
            return Ok(());
        }
    }
}

/// Copies a range of `file`, whose image has `size` bytes, its holes as holes.
fn copy(file: &File, size: u64, range: Range<u64>, sink: &mut Sink) -> Done {
    let look =
        || Version::of(file).map_err(|error| Failure::io("look at the image", &error.into()));
    let before = look()?;
    if before.size != size {
        return Err(changed());
    }
    let mut at = range.start;
    while at < range.end {
        let next = next_data(file, at, size);
        let data = match next.map_err(|error| Failure::io("read the image", &error.into()))? {
            Next::Data(data) => data.min(range.end),
            Next::Hole => range.end,
            Next::Short(_) => return Err(changed()),
        };
        sink.hole(data - at)?;
        let end = next_hole(file, data, range.end);
        at = data;
        while at < end {
            at += match inside(file, at, end, sink) {
                Some(copied) => copied,
                None => read(file, at, end, sink)?,
            };
        }
    }
    // All of it has been read by now, so a later change is none of these bytes.
    if look()?.reads_like(&before) { Ok(()) } else { Err(changed()) }
}

/// The refusal of an image that was changed under its reader.
fn changed() -> Failure {
    Failure::here("Mismatch", "the image was changed while it was read; what was read is not whole")
}

/// Copies inside the kernel, which may share the blocks; `None` if that cannot be done here.
fn inside(file: &File, at: u64, end: u64, sink: &mut Sink) -> Option<u64> {
    let (out, to) = sink.blind()?;
    let (mut from, mut to) = (at, to);
    let count = usize::try_from((end - at).min(STRIDE)).ok()?;
    let copied = copy_file_range(file, Some(&mut from), out, Some(&mut to), count).ok()?;
    let copied = u64::try_from(copied).ok().filter(|copied| *copied > 0)?;
    sink.copied(copied);
    Some(copied)
}

/// Reads some bytes into `sink`.
fn read(file: &File, at: u64, end: u64, sink: &mut Sink) -> Result<u64, Failure> {
    let most = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
    let mut room = vec![0; most];
    let got = loop {
        match file.read_at(&mut room, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other.map_err(|error| Failure::io("read the image", &error))?,
        }
    };
    if got == 0 {
        return Err(changed());
    }
    room.truncate(got);
    sink.data(&room.into())?;
    Ok(got as u64)
}
