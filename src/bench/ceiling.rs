//! What the machine can do, one stage at a time, on the same data, directory and day.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::{fs::FileExt as _, net::UnixStream},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use imaged_digest::Kernel;
use imaged_drivers::{
    lane::Lane,
    window::{Buffer, CHUNK},
};
use nix::sys::resource::UsageWho;
use rustix::{
    fs::{CWD, Mode, OFlags, fcntl_getfl, fcntl_setfl, openat},
    io::Errno,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    error::{Error, Result},
    pattern::Pattern,
    process::own_cpu,
    rate::Rate,
};
use crate::digest::{Algo, Computing, Pass};

/// The most that one stream writes to the disk in a round.
const DISK: u64 = 512 << 20;
/// What one thread digests or sends in a round: enough to last, and no longer.
const MEMORY: (u64, u64) = (16 << 20, 256 << 20);
/// What needs only memory is measured so many times, and the best counts: what else runs here
/// lowers no ceiling. The disk is measured once: to write a file again is something else.
const ROUNDS: usize = 3;

/// What each stage can do alone.
#[derive(Clone, Debug, Serialize)]
pub struct Ceilings {
    /// Streams at once of the disk and the socket: as many as images.
    pub streams: u32,
    /// Raw writes of 4 MiB and an fsync, in the store's directory.
    pub disk_write: Option<Rate>,
    /// Raw reads of the same.
    pub disk_read: Option<Rate>,
    /// Why the disk was not measured, or in what way.
    pub disk_note: Option<String>,
    /// Each digest alone, on one thread that takes as many images abreast.
    pub digests: Vec<Digest>,
    /// All digests of one image at once: in one pass, or a thread each.
    pub digests_at_once: Rate,
    /// Whether that was one pass, on one thread: see `imaged bench --digests`.
    pub one_pass: bool,
    /// The kernel of the digests: the fastest that this machine has.
    pub kernel: &'static str,
    /// A unix socket between two threads, nothing done with the bytes.
    pub socket: Rate,
}

/// One digest alone.
#[derive(Clone, Debug, Serialize)]
pub struct Digest {
    /// Its name.
    pub algo: String,
    /// How fast it is.
    #[serde(flatten)]
    pub rate: Rate,
}

impl Ceilings {
    /// CPU seconds of all digests of one GiB.
    #[must_use]
    pub fn digest_cpu_seconds_per_gib(&self) -> f64 {
        if let Some(cpu) = self.digests_at_once.cpu_seconds_per_gib
            && self.one_pass
            && self.streams == 1
        {
            return cpu;
        }
        self.digests.iter().filter_map(|digest| digest.rate.cpu_seconds_per_gib).sum()
    }
}

/// What to measure ceilings for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) size: u64,
    pub(super) streams: u32,
    pub(super) algo: Algo,
    /// Whether images get an md5 beside that.
    pub(super) md5: bool,
    /// The store's directory, or why there is none.
    pub(super) dir: std::result::Result<&'a Path, String>,
    /// Bytes free in it.
    pub(super) free: Option<u64>,
    pub(super) pattern: &'a Pattern,
    pub(super) stop: &'a CancellationToken,
}

/// Measures them all. Takes some seconds.
pub(super) async fn measure(wanted: &Wanted<'_>) -> Result<Ceilings> {
    let lane = Lane::new("bench", 4, Duration::from_secs(3600));
    let region = wanted.pattern.region();
    let bytes = wanted.size.clamp(MEMORY.0, MEMORY.1) / CHUNK as u64 * CHUNK as u64;
    let mut algos = vec![wanted.algo];
    if wanted.md5 && wanted.algo != Algo::Md5 {
        algos.insert(0, Algo::Md5);
    }
    let kernel = Kernel::best();
    let digest = async |images, passes: &[Pass]| {
        let once = async || {
            digest(&lane, &region, bytes, images, kernel, passes.to_vec(), wanted.stop).await
        };
        best(once).await
    };
    let mut digests = Vec::new();
    for algo in &algos {
        let rate = digest(wanted.streams, &[Pass::One(*algo)]).await?;
        digests.push(Digest { algo: algo.name().to_owned(), rate });
    }
    // As the daemon does it.
    let passes = Pass::of(wanted.algo, wanted.md5, kernel);
    let one_pass = passes == [Pass::Both];
    let digests_at_once = digest(1, &passes).await?;
    let socket = best(async || socket(&lane, &region, bytes, wanted).await).await?;
    let (mut disk_write, mut disk_read, mut disk_note) = (None, None, None);
    match raw(&lane, &region, wanted).await {
        Ok(raw) => {
            (disk_write, disk_read) = (Some(raw.write), Some(raw.read));
            if !raw.direct {
                disk_note = Some("the filesystem has no O_DIRECT: through the page cache".into());
            }
        }
        Err(reason) => disk_note = Some(reason),
    }
    let streams = wanted.streams;
    Ok(Ceilings {
        streams,
        disk_write,
        disk_read,
        disk_note,
        digests,
        digests_at_once,
        one_pass,
        kernel: kernel.name(),
        socket,
    })
}

/// The fastest of some rounds.
async fn best(once: impl AsyncFn() -> Result<Rate>) -> Result<Rate> {
    let mut best = once().await?;
    for _ in 1..ROUNDS {
        let rate = once().await?;
        if rate.mb_per_s > best.mb_per_s {
            best = rate;
        }
    }
    Ok(best)
}

/// Runs `work` once for each of `shares`, on a thread each, and measures until the last is done.
async fn at_once<T: Send + 'static>(
    lane: &Lane,
    bytes: u64,
    shares: Vec<T>,
    work: impl Fn(T) -> io::Result<()> + Send + Sync + 'static,
) -> Result<Rate> {
    let measured = lane.run("measure", move || {
        let since = Instant::now();
        let cpu: io::Result<f64> = thread::scope(|scope| {
            let threads: Vec<_> = shares
                .into_iter()
                .map(|share| {
                    let work = &work;
                    scope.spawn(move || {
                        let before = own_cpu(UsageWho::RUSAGE_THREAD);
                        work(share)?;
                        Ok(own_cpu(UsageWho::RUSAGE_THREAD) - before)
                    })
                })
                .collect();
            let lost = |_panicked| Err(io::Error::other("a thread was lost"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).sum()
        });
        Ok(cpu.map(|cpu| (since.elapsed().as_secs_f64(), cpu)))
    });
    let (seconds, cpu) = measured
        .await
        .map_err(|error| Error::Local(error.to_string()))?
        .map_err(|error| Error::Local(error.to_string()))?;
    Ok(Rate::new(bytes, seconds, Some(cpu)))
}

fn stopped(stop: &CancellationToken) -> io::Result<()> {
    if stop.is_cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// `bytes` of `region`, a chunk at a time.
fn chunks(region: &Bytes, bytes: u64) -> impl Iterator<Item = &[u8]> {
    let count = usize::try_from(bytes / CHUNK as u64).unwrap_or(usize::MAX);
    region.chunks_exact(CHUNK).cycle().take(count)
}

/// Digests `images` of `bytes` together, but of a chunk at least each; a thread for each pass.
pub(super) async fn digest(
    lane: &Lane,
    region: &Bytes,
    bytes: u64,
    images: u32,
    kernel: Kernel,
    passes: Vec<Pass>,
    stop: &CancellationToken,
) -> Result<Rate> {
    let (region, stop) = (region.clone(), stop.clone());
    let bytes = (bytes / u64::from(images)).max(CHUNK as u64) / CHUNK as u64 * CHUNK as u64;
    at_once(lane, bytes * u64::from(images), passes, move |pass| {
        let mut all: Vec<_> = (0..images).map(|_| pass.begin()).collect();
        for chunk in chunks(&region, bytes) {
            stopped(&stop)?;
            Computing::update_all(kernel, all.iter_mut().map(|one| (one, chunk)));
        }
        for one in all {
            // Looked at, so that it is computed.
            std::hint::black_box(one.finish());
        }
        Ok(())
    })
    .await
}

async fn socket(lane: &Lane, region: &Bytes, bytes: u64, wanted: &Wanted<'_>) -> Result<Rate> {
    enum End {
        Writes(UnixStream),
        Reads(UnixStream),
    }
    let mut ends = Vec::new();
    for _ in 0..wanted.streams {
        let (writes, reads) = UnixStream::pair().map_err(local("make a socket"))?;
        ends.extend([End::Writes(writes), End::Reads(reads)]);
    }
    let (region, stop) = (region.clone(), wanted.stop.clone());
    let total = bytes * u64::from(wanted.streams);
    at_once(lane, total, ends, move |end| match end {
        End::Writes(mut socket) => {
            for chunk in chunks(&region, bytes) {
                stopped(&stop)?;
                socket.write_all(chunk)?;
            }
            Ok(())
        }
        End::Reads(mut socket) => {
            let mut buffer = vec![0; 1 << 20];
            while socket.read(&mut buffer)? > 0 {}
            Ok(())
        }
    })
    .await
}

fn local(doing: &str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Local(format!("cannot {doing}: {error}"))
}

struct Raw {
    write: Rate,
    read: Rate,
    direct: bool,
}

/// Writes and reads a file without a name for each stream; or why not.
async fn raw(lane: &Lane, region: &Bytes, wanted: &Wanted<'_>) -> std::result::Result<Raw, String> {
    let dir = wanted.dir.clone()?;
    let each = (wanted.size.min(DISK) / CHUNK as u64).max(1) * CHUNK as u64;
    let total = each * u64::from(wanted.streams);
    if wanted.free.is_some_and(|free| free / 2 < total) {
        return Err(format!("too little room to write {total} bytes: dir=`{}`", dir.display()));
    }
    let mut files = Vec::new();
    let mut direct = true;
    for _ in 0..wanted.streams {
        let file = unnamed(dir)
            .map_err(|error| format!("cannot write into {}: {error}", dir.display()))?;
        let flags = fcntl_getfl(&file).unwrap_or(OFlags::empty());
        direct &= fcntl_setfl(&file, flags | OFlags::DIRECT).is_ok();
        files.push(Arc::new(file));
    }
    // Page-aligned, as O_DIRECT wants it; one chunk to write, and one to read into for each file.
    let buffer = || Buffer::uncounted(CHUNK).map_err(|error| error.to_string());
    let mut chunk = buffer()?;
    chunk.push(region);
    let (chunk, stop) = (chunk.freeze(), wanted.stop.clone());
    let offsets = move || (0..each).step_by(CHUNK);
    let write = at_once(lane, total, files.clone(), move |file| {
        for at in offsets() {
            stopped(&stop)?;
            file.write_all_at(&chunk, at)?;
        }
        file.sync_all()
    })
    .await
    .map_err(|error| error.to_string())?;
    let mut reads = Vec::new();
    for file in files {
        reads.push((file, buffer()?));
    }
    let stop = wanted.stop.clone();
    let read = at_once(lane, total, reads, move |(file, mut buffer)| {
        for at in offsets() {
            stopped(&stop)?;
            file.read_exact_at(buffer.room(), at)?;
        }
        Ok(())
    })
    .await
    .map_err(|error| error.to_string())?;
    Ok(Raw { write, read, direct })
}

/// A file in `dir` that is gone when it is closed, however this process ends.
pub(super) fn unnamed(dir: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, dir, flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let path = dir.join(format!(".imaged-bench-{}", uuid::Uuid::new_v4()));
            let file =
                fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ceilings(dir: std::result::Result<&Path, String>, free: Option<u64>) -> Ceilings {
        let (pattern, stop) = (Pattern::dense(), CancellationToken::new());
        let (size, streams, algo, md5) = (5 << 20, 2, Algo::Sha256, free.is_none());
        let wanted = Wanted { size, streams, algo, md5, dir, free, pattern: &pattern, stop: &stop };
        measure(&wanted).await.unwrap()
    }

    #[tokio::test]
    async fn every_stage_is_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let found = ceilings(Ok(dir.path()), None).await;
        let disk = [found.disk_write.unwrap(), found.disk_read.unwrap()];
        assert!(disk.iter().all(|rate| rate.bytes == 8 << 20 && rate.mb_per_s > 0.0));
        let names: Vec<_> = found.digests.iter().map(|digest| digest.algo.as_str()).collect();
        assert_eq!(names, ["md5", "sha256"]);
        assert!(found.digests_at_once.mb_per_s > 0.0 && found.socket.bytes == 32 << 20);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_measured_says_why() {
        let found = ceilings(Err("no directory".to_owned()), None).await;
        assert_eq!(
            (found.disk_write.is_none(), found.disk_note.as_deref()),
            (true, Some("no directory"))
        );
        let found = ceilings(Ok(Path::new("/nowhere")), None).await;
        assert!(found.disk_note.unwrap().contains("cannot write into /nowhere"));
        let found = ceilings(Ok(Path::new("/tmp")), Some(1 << 20)).await;
        assert!(found.disk_note.unwrap().contains("too little room"));
        let names: Vec<_> = found.digests.iter().map(|digest| digest.algo.as_str()).collect();
        assert_eq!(names, ["sha256"], "alone where images get no md5");
    }

    #[tokio::test]
    async fn measuring_can_be_stopped() {
        let (pattern, stop) = (Pattern::dense(), CancellationToken::new());
        stop.cancel();
        let (size, streams, algo, md5) = (1 << 40, 1, Algo::Sha512, true);
        let (dir, free) = (Ok(Path::new("/tmp")), None);
        let wanted = Wanted { size, streams, algo, md5, dir, free, pattern: &pattern, stop: &stop };
        assert!(measure(&wanted).await.is_err());
    }
}
