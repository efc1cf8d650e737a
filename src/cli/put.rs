//! `imaged put`

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    thread,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use imaged::client::{Client, Receipt, Results, ToAll};
use tokio::sync::mpsc;

use super::{
    args::Put,
    output::{Done, Failure, bytes, fields, is_closed_stdin, stdin},
    progress::Progress,
    talk::Talk,
};

/// Bytes read at a time from what is not a file: as many as a pipe holds.
const PIECE: usize = 64 << 10;
/// Pieces between the reading thread and the connection.
const BETWEEN: usize = 16;

/// Stores an image.
pub(crate) async fn run(talk: &Talk, args: &Put) -> Done {
    let (to, id, path) = words(args)?;
    let source = Source::of(path)?;
    let known = source.size();
    if let (Some(known), Some(said)) = (known, args.size)
        && known != said
    {
        return Err(Failure::here(
            "Mismatch",
            format!(
                "the file has another length than --size says: file=`{}` length=`{known}` \
                 size=`{said}`",
                path.display()
            ),
        ));
    }
    let size = known.or(args.size);
    let request = Client::new_request_id();
    let client = talk.client.with_request_id(&request);
    let progress = Progress::new(id, size);
    let (algo, ask) = (args.hash_algo, &talk.client);
    match (to, source) {
        (To::One(store), Source::File(file, _)) => {
            let put = client.put_fd(store, id, &file, algo);
            let stored = progress.follow(ask, &request, put).await;
            drop(progress);
            receipt(talk, &stored?)
        }
        (To::One(store), Source::Pipe(source, _)) => {
            let pieces = pieces(source, &progress);
            let stored = client.put_stream(store, id, size, algo, pieces).await;
            drop(progress);
            receipt(talk, &stored?)
        }
        (To::All(to), Source::File(file, _)) => {
            let put = client.put_fd_to_all(to, id, &file, algo);
            let stored = progress.follow(ask, &request, put).await;
            drop(progress);
            results(talk, &stored?)
        }
        (To::All(to), Source::Pipe(source, _)) => {
            let pieces = pieces(source, &progress);
            let stored = client.put_stream_to_all(to, id, size, algo, pieces).await;
            drop(progress);
            results(talk, &stored?)
        }
    }
}

/// Where an image is to go.
enum To<'a> {
    /// To the store that comes first.
    One(&'a str),
    /// To the stores of `--store`.
    All(ToAll<'a>),
}

/// What the words of the command mean: STORE ID FILE, or ID FILE if there is a `--store`.
fn words(args: &Put) -> Result<(To<'_>, &str, &Path), Failure> {
    match (args.stores.as_slice(), args.words.as_slice()) {
        ([], [store, id, file]) => Ok((To::One(plain(store)?), plain(id)?, Path::new(file))),
        ([], _) => Err(Failure::usage(
            "name the store, the image's id and the file: imaged put STORE ID FILE, or imaged put \
             --store STORE... ID FILE",
        )),
        (stores, [id, file]) => {
            let to = ToAll { stores, all_or_none: args.all_or_none };
            Ok((To::All(to), plain(id)?, Path::new(file)))
        }
        (_, [store, _, _]) => Err(Failure::usage(format!(
            "with --store the words are ID FILE: leave out the store before them, or write it as \
             --store too: `{}`",
            store.display()
        ))),
        (_, _) => Err(Failure::usage(
            "name the image's id and the file: imaged put --store STORE... ID FILE",
        )),
    }
}

fn plain(word: &OsStr) -> Result<&str, Failure> {
    word.to_str().ok_or_else(|| {
        Failure::usage(format!("a store's name and an id are plain text: `{}`", word.display()))
    })
}

/// Prints what became of an image in each of several stores, of which at least one has it.
pub(crate) fn results(talk: &Talk, results: &Results) -> Done {
    talk.output.answer(results, |out| {
        results
            .results
            .iter()
            .filter_map(|one| one.receipt.as_ref())
            .try_for_each(|receipt| describe(out, receipt))
    })?;
    let mut done = Ok(());
    for one in &results.results {
        if let Some(problem) = &one.problem {
            done = Err(Failure::Told);
            if !talk.output.json {
                talk.output.say(&format!(
                    "imaged: not stored in {}: {}",
                    one.store,
                    problem.text()
                ));
            }
        }
    }
    done
}

/// Prints what was stored.
pub(crate) fn receipt(talk: &Talk, receipt: &Receipt) -> Done {
    talk.output.answer(receipt, |out| describe(out, receipt))
}

fn describe(out: &mut dyn Write, receipt: &Receipt) -> io::Result<()> {
    let Receipt { id, store, size, stored_bytes, .. } = receipt;
    write!(out, "stored {id} in {store}: {}", bytes(*size))?;
    if stored_bytes < size {
        write!(out, ", {} of them not zero", bytes(*stored_bytes))?;
    }
    writeln!(out)?;
    let mut known = vec![("location", receipt.location.clone())];
    known.extend(receipt.checksum.clone().map(|md5| ("md5", md5)));
    if receipt.hash_algo != "md5" {
        known.extend(receipt.hash_value.clone().map(|hash| (receipt.hash_algo.as_str(), hash)));
    }
    known.extend(
        receipt
            .digest_job
            .as_ref()
            .map(|job| ("digests", format!("follow, see imaged jobs {job}"))),
    );
    fields(out, &known)
}

/// Where an image's bytes are.
enum Source {
    /// In a regular file, which the daemon reads; so many from its offset on.
    File(File, u64),
    /// In what we read; so many, if that is known.
    Pipe(Pipe, Option<u64>),
}

/// Something to be read from its beginning to its end.
enum Pipe {
    Open(File),
    /// Opening waits for a writer, and so is done by the thread that reads.
    Named(PathBuf),
}

impl Source {
    fn of(path: &Path) -> Result<Self, Failure> {
        let fail = |error: io::Error| {
            Failure::io(format_args!("read the image: file=`{}`", path.display()), &error)
        };
        let file = if path == Path::new("-") || is_closed_stdin(path) {
            File::from(stdin().map_err(fail)?.as_fd().try_clone_to_owned().map_err(fail)?)
        } else if fs::metadata(path).map_err(fail)?.file_type().is_fifo() {
            return Ok(Self::Pipe(Pipe::Named(path.to_owned()), None));
        } else {
            File::open(path).map_err(fail)?
        };
        let found = file.metadata().map_err(fail)?;
        if found.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        if found.is_file() && tells_its_size(&file, &found).map_err(fail)? {
            let from = (&file).stream_position().map_err(fail)?;
            return Ok(Self::File(file, found.len().saturating_sub(from)));
        }
        let mut size = None;
        if found.file_type().is_block_device() {
            let from = (&file).stream_position().map_err(fail)?;
            let end = (&file).seek(SeekFrom::End(0)).map_err(fail)?;
            (&file).seek(SeekFrom::Start(from)).map_err(fail)?;
            size = Some(end.saturating_sub(from));
        }
        Ok(Self::Pipe(Pipe::Open(file), size))
    }

    fn size(&self) -> Option<u64> {
        match self {
            Self::File(_, size) => Some(*size),
            Self::Pipe(_, size) => *size,
        }
    }
}

/// Whether a regular file holds what it tells. Those of `/proc` say 0 bytes and those of `/sys` a
/// page, whatever they hold; neither takes any space, and neither knows of holes. They are read to
/// their end, as a pipe is.
fn tells_its_size(mut file: &File, found: &fs::Metadata) -> io::Result<bool> {
    if found.blocks() > 0 {
        return Ok(true);
    }
    if found.len() == 0 {
        return Ok(file.read_at(&mut [0; 1], 0)? == 0);
    }
    // A file that is one hole takes no space either.
    let stands = file.stream_position()?;
    let data = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
    file.seek(SeekFrom::Start(stands))?;
    Ok(data != Ok(0))
}

/// What the reading thread says: the next bytes, the end, or why there is none.
type Piece = io::Result<Option<Bytes>>;

/// Reads on a thread of its own. The stream ends only when the source has ended: a failure, or a
/// thread that is lost, is an error in it.
fn pieces(
    source: Pipe,
    progress: &Progress,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let (pieces, read) = mpsc::channel::<Piece>(BETWEEN);
    let unread = pieces.clone();
    let thread = thread::Builder::new().name("read".to_owned()).spawn(move || {
        let end = read_all(source, &pieces).map(|()| None);
        // Nobody listens if the daemon has refused; it has said why.
        drop(pieces.blocking_send(end));
    });
    if let Err(error) = thread {
        drop(unread.try_send(Err(error)));
    }
    let meter = progress.meter();
    stream::unfold(Some(read), move |read| {
        let meter = meter.clone();
        async move {
            let mut read = read?;
            match read.recv().await {
                Some(Ok(Some(bytes))) => {
                    meter.add(bytes.len() as u64);
                    Some((Ok(bytes), Some(read)))
                }
                Some(Ok(None)) => None,
                Some(Err(error)) => Some((Err(error), None)),
                None => Some((Err(io::Error::other("the reading thread was lost")), None)),
            }
        }
    })
}

fn read_all(source: Pipe, pieces: &mpsc::Sender<Piece>) -> io::Result<()> {
    let mut file = match source {
        Pipe::Open(file) => file,
        Pipe::Named(path) => File::open(path)?,
    };
    loop {
        let mut piece = vec![0; PIECE];
        let got = match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        piece.truncate(got);
        if pieces.blocking_send(Ok(Some(piece.into()))).is_err() {
            return Ok(());
        }
    }
}
