//! Web servers over a directory, into which a test puts images as their owner would.

use std::{
    fs,
    io::ErrorKind,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use imaged_drivers::{ImageId, Listed, Location};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::harness::rigs::{Facts, NGINX};

/// Bytes that are sent at a time.
const PIECE: usize = 256 << 10;

/// Images in a directory, and the URL below which a server has them.
pub(crate) struct Web {
    pub(crate) dir: TempDir,
    pub(crate) url: String,
    made: AtomicU64,
}

impl Web {
    /// A server in this process, as long as the runtime lives.
    pub(crate) async fn here() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/images/", listener.local_addr().unwrap());
        let path = dir.path().to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, path.clone()));
            }
        });
        Self { dir, url, made: AtomicU64::new(0) }
    }

    /// A directory of its own in the nginx of the rig.
    pub(crate) fn in_nginx() -> Self {
        Self::served_by(&NGINX)
    }

    /// A directory of its own in this nginx.
    pub(crate) fn served_by(nginx: &Facts) -> Self {
        let dir = tempfile::tempdir_in(&nginx["www"]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let url = format!("{}/f/{name}/", nginx["url"]);
        Self { dir, url, made: AtomicU64::new(0) }
    }

    /// What the section of a store has to say, so that it finds the images by their ids.
    pub(crate) fn options(&self) -> String {
        format!("imaged_http_base_url = {}\nimaged_http_allow = 127.0.0.1\n", self.url)
    }

    /// Puts an image there, whole at once, and younger by a second than the last one: servers tell images
    /// apart by the second.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Location {
        let hidden = self.dir.path().join(".new");
        fs::write(&hidden, bytes).unwrap();
        let nth = self.made.fetch_add(1, Ordering::Relaxed);
        let when = SystemTime::now() - Duration::from_secs(1 << 20) + Duration::from_secs(nth);
        fs::File::options().write(true).open(&hidden).unwrap().set_modified(when).unwrap();
        fs::rename(&hidden, self.dir.path().join(name)).unwrap();
        self.at(name)
    }

    pub(crate) fn at(&self, name: &str) -> Location {
        format!("{}{name}", self.url).parse().unwrap()
    }

    pub(crate) fn remove(&self, at: &Location) {
        fs::remove_file(self.dir.path().join(at.image())).unwrap();
    }

    pub(crate) fn list(&self) -> Vec<Listed> {
        let listed = |name: String| {
            let size = fs::metadata(self.dir.path().join(&name)).unwrap().len();
            Listed { at: self.at(&name), size, id: name.parse::<ImageId>().unwrap(), odd: None }
        };
        super::names(self.dir.path()).into_iter().map(listed).collect()
    }
}

async fn serve(mut stream: TcpStream, dir: PathBuf) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
        if answer(&mut stream, &head, &dir).await.is_err() {
            return;
        }
    }
}

/// Answers one request without a body, as RFC 9110 has it.
async fn answer(stream: &mut TcpStream, head: &str, dir: &Path) -> std::io::Result<()> {
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let name = path.strip_prefix("/images/").unwrap_or_default();
    let file = match fs::File::open(dir.join(name)) {
        Ok(file) if !name.is_empty() => file,
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{path}: {error}"),
        _ => return stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").await,
    };
    let about = file.metadata()?;
    let size = about.len();
    let etag = format!("\"{:x}-{:x}-{size:x}\"", about.ino(), about.mtime());
    let same = header("if-range").is_none_or(|known| known == etag);
    let asked = header("range").filter(|_| same).map(|text| wanted(text, size));
    let (status, told, range) = match asked {
        None => ("200 OK", String::new(), 0..size),
        Some(range) if range.is_empty() => {
            ("416 No", format!("Content-Range: bytes */{size}\r\n"), 0..0)
        }
        Some(range) => {
            let told = format!("Content-Range: bytes {}-{}/{size}\r\n", range.start, range.end - 1);
            ("206 Partial Content", told, range)
        }
    };
    let length = range.end - range.start;
    let head =
        format!("HTTP/1.1 {status}\r\n{told}ETag: {etag}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    if method == "HEAD" {
        return Ok(());
    }
    let mut at = range.start;
    while at < range.end {
        let mut piece = vec![0; PIECE.min(usize::try_from(range.end - at).unwrap())];
        file.read_exact_at(&mut piece, at)?;
        stream.write_all(&piece).await?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// The bytes that `bytes=...` wants of so many; empty if there are none.
fn wanted(text: &str, size: u64) -> Range<u64> {
    let (from, to) = text.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let [from, to] = [from, to].map(|text| text.parse::<u64>().ok());
    match (from, to) {
        (Some(from), to) => from.min(size)..to.map_or(size, |to| size.min(to + 1)),
        (None, Some(count)) => size.saturating_sub(count)..size,
        (None, None) => panic!("{text}"),
    }
}
