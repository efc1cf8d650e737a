//! Where an image that is read goes: a file that is there only when it is whole, or a stream.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, FileTypeExt as _},
    },
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use imaged::{client::Promise, digest::Algo};

use super::{output::Failure, progress::Meter};

/// Zeros, for holes that somebody must see.
const ZEROS: &[u8] = &[0; 64 << 10];

/// The granularity in which zeros become holes, in bytes.
const BLOCK: usize = 4096;

/// Where the bytes are to go.
#[derive(Debug)]
pub(crate) enum Target {
    /// Standard output, or what is no regular file: bytes go there as they come.
    Stream(File),
    /// A file, written beside its name and then renamed to it.
    File(Part),
}

impl Target {
    /// `file`, or a file named `id` in it if it is a directory.
    pub(crate) fn create(file: &Path, id: &str) -> Result<Self, Failure> {
        let fail = |error: io::Error| {
            Failure::io(format_args!("write the image: file=`{}`", file.display()), &error)
        };
        if file == Path::new("-") {
            let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(fail)?;
            return Ok(Self::Stream(stdout.into()));
        }
        let path = match fs::metadata(file) {
            Ok(found) if found.is_dir() => file.join(id),
            Ok(found) if found.file_type().is_char_device() || found.file_type().is_fifo() => {
                return File::options().write(true).open(file).map(Self::Stream).map_err(fail);
            }
            Ok(found) if !found.is_file() => {
                return Err(Failure::here(
                    "Invalid",
                    format!("only a file can be replaced: file=`{}`", file.display()),
                ));
            }
            _ => file.to_owned(),
        };
        Part::create(path).map(Self::File).map_err(fail)
    }
}

/// A file that is not whole yet. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    part: PathBuf,
    path: PathBuf,
    kept: bool,
}

impl Part {
    fn create(path: PathBuf) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".imaged-{}", std::process::id()));
        let part = path.with_file_name(part);
        let file = File::options().read(true).write(true).create_new(true).open(&part)?;
        Ok(Self { file, part, path, kept: false })
    }

    /// Its name when it is whole.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be written.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives the whole file its name, in place of what had it.
    pub(crate) fn keep(mut self) -> io::Result<()> {
        fs::rename(&self.part, &self.path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing better can be done about it here.
            drop(fs::remove_file(&self.part));
        }
    }
}

/// Pieces that may wait for the digest.
const QUEUE: usize = 8;

/// A digest that a thread of its own computes.
struct Digest {
    promise: Promise,
    pieces: SyncSender<Bytes>,
    thread: JoinHandle<String>,
}

impl Digest {
    fn begin(promise: Promise) -> io::Result<Self> {
        let (pieces, come) = sync_channel::<Bytes>(QUEUE);
        let mut hasher = promise.algo.hasher();
        let work = move || {
            come.iter().for_each(|piece| hasher.update(&piece));
            hasher.finish()
        };
        let thread = thread::Builder::new().name("digest".to_owned()).spawn(work)?;
        Ok(Self { promise, pieces, thread })
    }

    /// What was promised, and what was found; `None` if the thread was lost.
    fn end(self) -> Option<(Promise, String)> {
        drop(self.pieces);
        self.thread.join().ok().map(|found| (self.promise, found))
    }
}

/// Takes bytes in their order, with holes, counts them, and computes a digest.
pub(crate) struct Sink {
    out: File,
    /// Whether `out` is a file, which can have holes.
    holes: bool,
    at: u64,
    digest: Option<Digest>,
    meter: Meter,
}

/// The best known digest: of those that are as good as another, the one that is quickest.
pub(crate) fn best(digests: Vec<Promise>) -> Option<Promise> {
    let rank = |promise: &Promise| match promise.algo {
        Algo::Sha256 => 0,
        Algo::Sha512 | Algo::Sha384 | Algo::Sha224 | Algo::Blake2b => 1,
        Algo::Md5 => 2,
        Algo::Sha1 => 3,
    };
    digests.into_iter().min_by_key(rank)
}

impl Sink {
    /// A sink into `out` for bytes that have the digest `known`.
    pub(crate) fn new(
        out: File,
        holes: bool,
        known: Option<Promise>,
        meter: Meter,
    ) -> Result<Self, Failure> {
        let digest = known.map(Digest::begin).transpose();
        let digest = digest.map_err(|error| Failure::io("start a thread", &error))?;
        Ok(Self { out, holes, at: 0, digest, meter })
    }

    /// The file, if bytes may be copied to it without being seen.
    pub(crate) fn blind(&self) -> Option<(&File, u64)> {
        (self.holes && self.digest.is_none()).then_some((&self.out, self.at))
    }

    /// So many bytes have been copied into the file.
    pub(crate) fn copied(&mut self, count: u64) {
        self.at += count;
        self.meter.add(count);
    }

    /// Takes bytes.
    pub(crate) fn data(&mut self, bytes: &Bytes) -> Result<(), Failure> {
        if let Some(digest) = &self.digest {
            // Of a thread that was lost its end will tell.
            let _taken = digest.pieces.send(bytes.clone());
        }
        if self.holes {
            let mut rest: &[u8] = bytes;
            while let Some(first) = rest.chunks(BLOCK).next() {
                let zeros = zero(first);
                let alike = rest.chunks(BLOCK).take_while(|block| zero(block) == zeros);
                let length = alike.map(<[u8]>::len).sum();
                let Some((run, after)) = rest.split_at_checked(length) else { break };
                if !zeros {
                    self.out.write_all_at(run, self.at).map_err(|error| failed(&error))?;
                }
                self.at += run.len() as u64;
                rest = after;
            }
        } else {
            self.out.write_all(bytes).map_err(|error| Failure::stdout(&error))?;
            self.at += bytes.len() as u64;
        }
        self.meter.add(bytes.len() as u64);
        Ok(())
    }

    /// Takes so many zeros.
    pub(crate) fn hole(&mut self, mut count: u64) -> Result<(), Failure> {
        if self.blind().is_some() {
            self.copied(count);
            return Ok(());
        }
        while count > 0 {
            let zeros = count.min(ZEROS.len() as u64);
            let some = ZEROS.get(..usize::try_from(zeros).unwrap_or(0)).unwrap_or(ZEROS);
            self.data(&Bytes::from_static(some))?;
            count -= zeros;
        }
        Ok(())
    }

    /// All that comes has come: it must be `length` bytes, and have the known digest. Gives the
    /// digest by which that is known.
    pub(crate) fn finish(self, length: u64) -> Result<Option<Algo>, Failure> {
        if self.at != length {
            return Err(Failure::here(
                "Mismatch",
                format!(
                    "the image ended early; nothing was kept: bytes=`{}` length=`{length}`",
                    self.at
                ),
            ));
        }
        if self.holes {
            self.out.set_len(length).map_err(|error| failed(&error))?;
        }
        let Some(digest) = self.digest else { return Ok(None) };
        let Some((promise, found)) = digest.end() else {
            return Err(Failure::here("Internal", "the digest was lost; nothing was kept"));
        };
        if found != promise.value {
            return Err(Failure::here(
                "Mismatch",
                format!(
                    "the image is not what was stored: its {} is another: found=`{found}` \
                     stored=`{}`",
                    promise.algo, promise.value
                ),
            ));
        }
        Ok(Some(promise.algo))
    }
}

fn zero(block: &[u8]) -> bool {
    ZEROS.get(..block.len()) == Some(block)
}

fn failed(error: &io::Error) -> Failure {
    Failure::io("write the image", error)
}
