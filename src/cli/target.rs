//! Where an image that is read goes: a file that is there only when it is whole, or a stream.

use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, IsTerminal as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use imaged::{client::Promise, digest::Algo};
use imaged_drivers::window::{zero_pieces, zeros};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fstat, linkat},
    io::Errno,
};
use uuid::Uuid;

use super::{
    output::{Failure, is_closed_stdout, stdout, written},
    progress::Meter,
};

/// The granularity in which zeros become holes, in bytes.
const BLOCK: usize = 4096;

/// Where the bytes are to go.
#[derive(Debug)]
pub(crate) enum Target {
    /// Bytes go there as they come.
    Stream(Stream),
    /// A file, which has no name until it is whole.
    File(Part),
}

impl Target {
    /// `file`, or a file named `id` in it if it is a directory. Blocks, where `file` is a FIFO that
    /// nobody reads yet.
    pub(crate) fn create(file: &Path, id: Option<&str>) -> Result<Self, Failure> {
        if is_stdout(file) {
            return Stream::stdout().map(Self::Stream);
        }
        let Ok(found) = fs::metadata(file) else { return Self::new(file, None) };
        if !found.is_dir() {
            return Self::new(file, Some(&found));
        }
        let Some(id) = id else {
            return Err(Failure::usage(format!(
                "name a FILE: a location names none: directory=`{}`",
                file.display()
            )));
        };
        let path = file.join(id);
        let found = fs::metadata(&path).ok();
        Self::new(&path, found.as_ref())
    }

    /// `path`, at which there is what `found` says.
    fn new(path: &Path, found: Option<&Metadata>) -> Result<Self, Failure> {
        let fail = |error: io::Error| {
            Failure::io(format_args!("write the image: file=`{}`", path.display()), &error)
        };
        match found.map(Metadata::file_type) {
            Some(kind) if kind.is_char_device() || kind.is_fifo() => {
                let out = File::options().write(true).open(path).map_err(fail)?;
                Ok(Self::Stream(Stream { out, path: Some(path.to_owned()) }))
            }
            Some(kind) if !kind.is_file() => {
                let what = format!("only a file can be replaced: file=`{}`", path.display());
                Err(Failure::here("Invalid", what))
            }
            _ => behind_links(path)
                .and_then(|path| Part::create(path, found))
                .map(Self::File)
                .map_err(fail),
        }
    }
}

/// Whether `path` is standard output, by whatever name; what takes any bytes and shows none is not.
pub(crate) fn is_stdout(path: &Path) -> bool {
    if path == Path::new("-") || is_closed_stdout(path) {
        return true;
    }
    let (Ok(found), Ok(stdout)) = (fs::metadata(path), fstat(io::stdout())) else { return false };
    let shows = !found.file_type().is_char_device() || io::stdout().is_terminal();
    shows && (found.dev(), found.ino()) == (stdout.st_dev, stdout.st_ino)
}

/// Where the symbolic links at `path` lead, which stay what they are.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(to) = fs::read_link(&path) else { return Ok(path) };
        // The system has an opinion on links that others made in directories that all may write.
        match fs::metadata(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => path = path.with_file_name("").join(to),
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// Symbolic links that may lead from one to the next, as in the system.
const LINKS: usize = 40;

/// Standard output, or what is no regular file.
#[derive(Debug)]
pub(crate) struct Stream {
    out: File,
    /// `None` for standard output.
    pub(crate) path: Option<PathBuf>,
}

impl Stream {
    fn stdout() -> Result<Self, Failure> {
        let out = stdout()?.as_fd().try_clone_to_owned();
        let out = out.map_err(|error| Failure::stdout(&error))?.into();
        Ok(Self { out, path: None })
    }
}

/// A file that is not whole yet. Dropping it removes it.
///
/// # Decisions
/// * Chose: a file without a name (`O_TMPFILE`) in the directory that it goes to. Because: what is
///   killed leaves nothing. Where the filesystem has none, a random name, short enough for any
///   filesystem. Instead of: the file's own name and the process id, which in a container is that of
///   the process before, and which together are too long for a long name.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    /// The name that it has until it has its own.
    staged: Option<PathBuf>,
    path: PathBuf,
}

impl Part {
    /// One that is to be at `path`, in place of what is there as `found` says, with the mode of that.
    fn create(path: PathBuf, found: Option<&Metadata>) -> io::Result<Self> {
        if path.file_name().is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let part = match unnamed(&path) {
            Some(file) => Self { file, staged: None, path },
            None => {
                let staged = hidden(&path);
                let file = File::options().read(true).write(true).create_new(true).open(&staged)?;
                Self { file, staged: Some(staged), path }
            }
        };
        if let Some(found) = found {
            let mode = Permissions::from_mode(found.permissions().mode() & 0o777);
            part.file.set_permissions(mode)?;
        }
        Ok(part)
    }

    /// Its name when it is whole.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the whole file its name, in place of what had it.
    pub(crate) fn keep(mut self) -> io::Result<()> {
        if self.staged.is_none() {
            match link(&self.file, &self.path) {
                Err(Errno::EXIST) => {}
                linked => return Ok(linked?),
            }
            // Only a file that has a name can take another's.
            let staged = hidden(&self.path);
            link(&self.file, &staged)?;
            self.staged = Some(staged);
        }
        if let Some(staged) = &self.staged {
            fs::rename(staged, &self.path)?;
            self.staged = None;
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(staged) = &self.staged {
            // Nothing better can be done about it here.
            drop(fs::remove_file(staged));
        }
    }
}

/// A name beside `path` that no other has.
fn hidden(path: &Path) -> PathBuf {
    path.with_file_name(format!(".imaged-{}", Uuid::new_v4().simple()))
}

/// A file without a name in the directory of `path`; `None` where it could not be given one later.
fn unnamed(path: &Path) -> Option<File> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
    let create = || rustix::fs::open(dir, flags, Mode::from_raw_mode(0o666)).map(File::from).ok();
    // One that has had a name and lost it gets none again, so another is tried.
    let (trial, name) = (create()?, hidden(path));
    link(&trial, &name).ok()?;
    fs::remove_file(&name).ok()?;
    create()
}

/// Gives an unnamed file a name that nothing has.
fn link(file: &File, path: &Path) -> rustix::io::Result<()> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)
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
    /// The name of `out`; standard output has none.
    path: Option<PathBuf>,
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
    /// A sink into `target` for bytes that have the digest `known`.
    pub(crate) fn new(
        target: &Target,
        known: Option<Promise>,
        meter: Meter,
    ) -> Result<Self, Failure> {
        let (out, path, holes) = match target {
            Target::Stream(stream) => (&stream.out, stream.path.clone(), false),
            Target::File(part) => (&part.file, Some(part.path.clone()), true),
        };
        let out = out.try_clone().map_err(|error| Failure::io("write the image", &error))?;
        let digest = known.map(Digest::begin).transpose();
        let digest = digest.map_err(|error| Failure::io("start a thread", &error))?;
        Ok(Self { out, path, holes, at: 0, digest, meter })
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
        self.hash(bytes);
        if self.holes {
            let mut rest: &[u8] = bytes;
            while let Some(first) = rest.chunks(BLOCK).next() {
                let zeros = zero(first);
                let alike = rest.chunks(BLOCK).take_while(|block| zero(block) == zeros);
                let length = alike.map(<[u8]>::len).sum();
                let Some((run, after)) = rest.split_at_checked(length) else { break };
                if !zeros {
                    let written = self.out.write_all_at(run, self.at);
                    written.map_err(|error| self.failed(&error))?;
                }
                self.at += run.len() as u64;
                rest = after;
            }
        } else {
            self.out.write_all(bytes).map_err(|error| self.failed(&error))?;
            self.at += bytes.len() as u64;
        }
        self.meter.add(bytes.len() as u64);
        Ok(())
    }

    /// Takes so many zeros.
    pub(crate) fn hole(&mut self, count: u64) -> Result<(), Failure> {
        if self.blind().is_some() {
            self.copied(count);
            return Ok(());
        }
        for piece in zero_pieces(count) {
            let zeros = zeros(piece);
            self.hash(&zeros);
            if !self.holes {
                self.out.write_all(&zeros).map_err(|error| self.failed(&error))?;
            }
            self.copied(piece as u64);
        }
        Ok(())
    }

    fn hash(&self, bytes: &Bytes) {
        if let Some(digest) = &self.digest {
            // Of a thread that was lost its end will tell.
            let _taken = digest.pieces.send(bytes.clone());
        }
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
            self.out.set_len(length).map_err(|error| self.failed(&error))?;
        }
        written(&self.out).map_err(|error| self.failed(&error))?;
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

    /// Why nothing can be written. Whoever reads standard output may have had enough; of a FIFO nobody
    /// else says that the image is not whole.
    fn failed(&self, error: &io::Error) -> Failure {
        match &self.path {
            None => Failure::stdout(error),
            Some(path) if error.kind() == io::ErrorKind::BrokenPipe => Failure::here(
                "System",
                format!("its reader left before the image was whole: file=`{}`", path.display()),
            ),
            Some(path) => {
                Failure::io(format_args!("write the image: file=`{}`", path.display()), error)
            }
        }
    }
}

fn zero(block: &[u8]) -> bool {
    zeros(block.len()) == block
}
