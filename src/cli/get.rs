//! `imaged get`

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
};

use bytes::Bytes;
use imaged::{
    client::{Content, Download, Got, Which},
    digest::Algo,
};
use imaged_drivers::Span;
use rustix::{
    fs::{SeekFrom, copy_file_range, seek},
    io::Errno,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::{
    args::Get,
    output::{Done, Failure, bytes},
    progress::Progress,
    talk::{Talk, which},
    target::{Sink, Target, best},
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
    let file = match (&args.file, image) {
        (Some(file), _) => file.clone(),
        (None, Which::Id(id)) => PathBuf::from(id),
        (None, Which::At(_)) => {
            return Err(Failure::usage(
                "name a FILE: a location names none, or - for standard output",
            ));
        }
    };
    if talk.output.json && file == Path::new("-") {
        return Err(Failure::usage("with --json, name a FILE: standard output has the JSON"));
    }
    let span = args.range.unwrap_or(Span::All);
    let got = talk.client.get(&args.store, image, span, true).await?;
    let Got { size, range, digests, content } = got;
    let target = Target::create(&file, &args.id)?;
    let out = match &target {
        Target::Stream(stream) => stream.try_clone(),
        Target::File(part) => part.file(),
    };
    let out = out.map_err(|error| Failure::io("write the image", &error))?;
    let length = range.end.saturating_sub(range.start);
    let progress = Progress::new(&args.id, Some(length));
    let known = if span == Span::All { best(digests) } else { None };
    let holes = matches!(target, Target::File(_));
    let sink = Sink::new(out, holes, known, progress.meter())?;
    let verified = transfer(content, range.clone(), sink).await;
    drop(progress);
    let verified = verified?;
    let path = match target {
        Target::Stream(_) if file == Path::new("-") => return Ok(()),
        Target::Stream(_) => file.display().to_string(),
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
            None if span == Span::All => ", not verified: no digest is known".to_owned(),
            None => format!(" of {}, from offset {}", bytes(size), range.start),
        };
        writeln!(out, "{path}: {}{verified}", bytes(length))
    })
}

/// What the connection tells the writing thread.
enum Piece {
    Bytes(Bytes),
    End,
}

/// Moves the bytes into `sink`, on a thread of its own, and gives what [`Sink::finish`] does.
async fn transfer(
    content: Content,
    range: Range<u64>,
    mut sink: Sink,
) -> Result<Option<Algo>, Failure> {
    let length = range.end.saturating_sub(range.start);
    let (ended, end) = oneshot::channel();
    let (pieces, mut come) = mpsc::channel(BETWEEN);
    let (file, download) = match content {
        Content::Descriptor(descriptor) => (Some(File::from(descriptor)), None),
        Content::Stream(download) => (None, Some(download)),
    };
    let work = move || {
        match file {
            Some(file) => copy(&file, range, &mut sink)?,
            None => loop {
                match come.blocking_recv() {
                    Some(Piece::Bytes(bytes)) => sink.data(&bytes)?,
                    Some(Piece::End) => break,
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
    end.await.unwrap_or_else(|_| Err(Failure::here("Internal", "the writing thread was lost")))
}

async fn feed(mut download: Download, pieces: mpsc::Sender<Piece>) -> Result<(), Failure> {
    while let Some(bytes) = download.chunk().await? {
        if pieces.send(Piece::Bytes(bytes)).await.is_err() {
            // The thread has failed, and tells why.
            return Ok(());
        }
    }
    drop(pieces.send(Piece::End).await);
    Ok(())
}

/// Copies a range of `file`, its holes as holes.
fn copy(file: &File, range: Range<u64>, sink: &mut Sink) -> Done {
    let mut at = range.start;
    while at < range.end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(range.end),
            Err(Errno::NXIO) => range.end,
            // A filesystem that does not know its holes has none.
            Err(_) => at,
        };
        sink.hole(data - at)?;
        let end = match seek(file, SeekFrom::Hole(data)) {
            Ok(end) if end > data => end.min(range.end),
            _ => range.end,
        };
        at = data;
        while at < end {
            at += match inside(file, at, end, sink) {
                Some(copied) => copied,
                None => read(file, at, end, sink)?,
            };
        }
    }
    Ok(())
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
        return Err(Failure::here("Mismatch", format!("the image ends early: end=`{at}`")));
    }
    room.truncate(got);
    sink.data(&room.into())?;
    Ok(got as u64)
}
