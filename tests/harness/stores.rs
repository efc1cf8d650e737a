//! A store of every kind, each with a daemon of its own around it.

/// A real cluster, or one in memory: each suite has its own.
pub(crate) mod ceph {
    pub(crate) use crate::ceph::*;
}
pub(crate) mod altered;
pub(crate) mod buckets;
mod claims;
pub(crate) mod content;
pub(crate) mod keystone;
mod kinds;
mod lasting;
mod modest;
pub(crate) mod plain;
pub(crate) mod project;
pub(crate) mod swift;
pub(crate) mod volumes;
pub(crate) mod web;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use buckets::Bucket;
use bytes::Bytes;
use ceph::Ceph;
pub(crate) use claims::*;
use futures_util::{StreamExt as _, TryStreamExt as _};
use imaged::{
    config::Config,
    daemon::Daemon,
    digest::{Algo, Choice, Pool},
    shared::{Opener, Shared},
    store::Store,
    transfer::{Frame, ImageBody, Put, Taking},
    wire::records::Receipt,
};
use imaged_drivers::{
    Caps, Committed, Config as Section, Context, Driver, Extent, Hold, ImageId, Kind, Listed,
    Location, Result, Span,
    mem::Mem,
    memory::{Memory, Share},
    window::{CHUNK, PAGE, Window},
};
pub(crate) use kinds::*;
pub(crate) use lasting::Lasting;
use lasting::Made;
pub(crate) use modest::Modest;
use plain::Plain;
use project::Project;
use swift::Swift;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use volumes::Volumes;
use web::Web;

use super::{again, objects::Objects};

/// How long a test waits for what must come, before it says that it did not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `what`, which must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, Box::pin(future)).await {
        Ok(came) => came,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

/// What a test makes of a driver before its store has it.
pub(crate) type Wrap = Arc<dyn Fn(Arc<dyn Driver>) -> Arc<dyn Driver> + Send + Sync>;

/// A daemon with the store under test, `main`, and two to copy from and to.
pub(crate) struct Fixture {
    pub(crate) daemon: Arc<Daemon>,
    /// The store under test.
    pub(crate) store: Arc<Store>,
    /// Its driver.
    pub(crate) driver: Arc<dyn Driver>,
    /// What that driver stands on: the same, or one that can do more.
    beneath: Arc<dyn Driver>,
    /// The same again, if it is memory: to look into.
    memory: Option<Arc<Mem>>,
    pub(crate) lasting: Lasting,
    /// How its section was made.
    made: Made,
    /// The filesystem beneath it, if that is a special one.
    pub(crate) plain: Option<Plain>,
    /// Its directories.
    pub(crate) dirs: Vec<PathBuf>,
    beside: Vec<PathBuf>,
    ids: AtomicUsize,
    state: TempDir,
    /// The cluster beneath it, if there is one.
    pub(crate) ceph: Option<Ceph>,
    /// The bucket that it is, if it is one.
    pub(crate) bucket: Option<Bucket>,
    /// The object server beneath it, if that lives in this process.
    pub(crate) objects: Option<Objects>,
    /// The server that has its images, if others put them there.
    pub(crate) web: Option<Web>,
    /// The Swift beneath it, if there is one.
    pub(crate) swift: Option<Swift>,
    /// The Cinder beneath it, if that lives in this process.
    pub(crate) volumes: Option<Volumes>,
    /// What it is of a real Cinder, if there is one beneath.
    pub(crate) project: Option<Project>,
}

/// The text of a configuration: `main` of `kind` in `dirs`, `beside` in a directory, and `memory`.
pub(crate) fn text(kind: &str, dirs: &[(PathBuf, u32)], more: &str, home: &Path) -> String {
    let mut main = String::new();
    for (dir, priority) in dirs {
        writeln!(main, "filesystem_store_datadirs = {}:{priority}", dir.display()).unwrap();
    }
    let home = home.display();
    format!(
        "[DEFAULT]\nenabled_backends = main:{kind}, beside:file, memory:mem\n\
         [glance_store]\ndefault_backend = main\n\
         [imaged]\nsocket = {home}/socket\nstate_dir = {home}/state\ndigest_threads = 2\n\
         total_window_mib = 64\n\
         [main]\n{main}{more}\n\
         [beside]\nfilesystem_store_datadir = {home}/beside\n\
         [memory]\nmem_capacity = 268435456\n"
    )
}

/// What was opened for the store under test.
#[derive(Default)]
struct Opened {
    driver: OnceLock<Arc<dyn Driver>>,
    memory: OnceLock<Arc<Mem>>,
}

/// Opens the stores of a fixture. What is in memory is opened once, so that the next one finds the same.
fn opener(opened: &Arc<Opened>, wrap: Wrap) -> Opener {
    let opened = Arc::clone(opened);
    Opener::new(move |section, name, host| {
        let (opened, wrap) = (Arc::clone(&opened), Arc::clone(&wrap));
        async move {
            let driver: Arc<dyn Driver> = if let (Section::Mem(config), "main") = (&section, &*name)
            {
                let memory = || Arc::new(Mem::new(config, &name));
                Arc::clone(opened.memory.get_or_init(memory)) as _
            } else {
                imaged_drivers::open(&section, &name, &host).await?
            };
            if name != "main" {
                return Ok(driver);
            }
            opened.driver.get_or_init(|| Arc::clone(&driver));
            Ok(wrap(driver))
        }
    })
}

impl Fixture {
    /// `home` outlives the fixture: a copy of its state directory can be taken up by another.
    pub(crate) async fn new(
        kind: &str,
        dirs: &[(PathBuf, u32)],
        more: &str,
        plain: Option<Plain>,
        home: TempDir,
    ) -> Self {
        let wrapped: Wrap = Arc::new(|driver| driver);
        Self::wrapped(kind, dirs, more, plain, home, wrapped).await
    }

    /// The same, in which the driver under test is what `wrap` makes of the one of that kind.
    pub(crate) async fn wrapped(
        kind: &str,
        dirs: &[(PathBuf, u32)],
        more: &str,
        plain: Option<Plain>,
        home: TempDir,
        wrap: Wrap,
    ) -> Self {
        fs::create_dir_all(home.path().join("beside")).unwrap();
        let (config, _) = Config::parse(&text(kind, dirs, more, home.path()), "test").unwrap();
        let opened = Arc::new(Opened::default());
        let opener = opener(&opened, wrap);
        let pool = Pool::new(config.daemon.digest_threads, &config.daemon.digest_kernel).unwrap();
        let shared = Shared::over(&config.daemon, opener, pool).unwrap();
        let daemon = Daemon::over(&config, shared);
        daemon.round().await;
        let store = daemon.stores().get("main").unwrap();
        let driver = store.driver().unwrap();
        Self {
            store,
            driver,
            beneath: Arc::clone(opened.driver.get().unwrap()),
            memory: opened.memory.get().cloned(),
            lasting: if kind == "mem" { Lasting::DiesWithTheProcess } else { Lasting::Lasts },
            made: Made { kind: kind.to_owned(), dirs: dirs.to_vec(), more: more.to_owned() },
            plain,
            dirs: dirs.iter().map(|(dir, _)| dir.clone()).collect(),
            beside: vec![home.path().join("beside")],
            ids: AtomicUsize::new(0),
            daemon,
            state: home,
            ceph: None,
            bucket: None,
            objects: None,
            web: None,
            swift: None,
            volumes: None,
            project: None,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.daemon.shared
    }

    /// Where this daemon keeps what outlives it.
    pub(crate) fn home(&self) -> &Path {
        self.state.path()
    }

    pub(crate) fn store_named(&self, name: &str) -> Arc<Store> {
        self.daemon.stores().get(name).unwrap()
    }

    /// An id that was not given before.
    pub(crate) fn id(&self) -> ImageId {
        let n = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("image-{n}").parse().unwrap()
    }

    /// What the driver under test can do.
    pub(crate) fn caps(&self) -> Caps {
        self.driver.caps()
    }

    /// The driver under test if it can do what is wanted, or else what it stands on.
    fn able(&self, can: bool) -> &dyn Driver {
        if can { &*self.driver } else { &*self.beneath }
    }

    /// Puts `bytes` there through a driver alone, in aligned chunks.
    pub(crate) async fn place(&self, id: &ImageId, bytes: &Bytes) -> Location {
        if let Some(web) = &self.web {
            return web.put(id.as_str(), bytes);
        }
        let driver = self.able(self.caps().write);
        write_image(driver, id, Some(bytes.len() as u64), aligned_chunks(bytes)).await.unwrap().0
    }

    /// Removes an image that is there, when no work in the background has it open any more.
    pub(crate) async fn remove(&self, at: &Location) {
        if let Some(web) = &self.web {
            return web.remove(at);
        }
        let Caps { write, delete, .. } = self.caps();
        let driver = self.able(write || delete);
        soon("nobody to have the image open", delete_when_free(driver, at)).await;
    }

    /// Everything that the store holds.
    pub(crate) async fn list(&self) -> Vec<Listed> {
        if let Some(web) = &self.web {
            return web.list();
        }
        let driver = self.able(self.caps().list);
        let mut listed: Vec<_> = driver.list().try_collect().await.unwrap();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        listed
    }

    /// Gives what a failed put may have left to whoever clears it away.
    pub(crate) async fn settle(&self) {
        self.daemon.round().await;
    }

    /// Does so until nothing is kept in the journal.
    pub(crate) async fn settled(&self) {
        soon("the journal to be empty", async {
            while !self.shared().ids.is_empty() {
                self.settle().await;
                again().await;
            }
        })
        .await;
    }

    /// The least bytes at a time by which an image is read: of a bucket each is a request of its own.
    pub(crate) fn finest(&self) -> usize {
        if self.bucket.is_some() { 64 * PAGE } else { PAGE }
    }

    /// What lies in the backend beside these whole images, hidden or not: as the backend tells, which is
    /// looked into past the driver.
    pub(crate) async fn left(&self, beside: &[&ImageId]) -> Vec<String> {
        let mut there = if let Some(web) = &self.web {
            names(web.dir.path())
        } else if let Some(ceph) = &self.ceph {
            // What was deleted while a job had it open goes with the next purge, and what it was cloned
            // from with the one after that.
            for _ in 0..3 {
                self.driver.purge().await.unwrap();
            }
            [ceph.images(), ceph.trash()].concat()
        } else if let Some(bucket) = &self.bucket {
            bucket.left().await
        } else if let Some(objects) = &self.objects {
            objects.left()
        } else if let Some(swift) = &self.swift {
            swift.left(beside)
        } else if let Some(volumes) = &self.volumes {
            // Attachments stay for a moment after their last reader.
            imaged_drivers::let_go().await;
            volumes.left(beside)
        } else if let Some(project) = &self.project {
            project.left(beside)
        } else if let Some(memory) = &self.memory {
            let whole: Vec<Listed> = memory.list().try_collect().await.unwrap();
            let begun = vec!["an upload that has not ended".to_owned(); memory.uploads()];
            whole.into_iter().map(|image| image.id.to_string()).chain(begun).collect()
        } else if !self.dirs.is_empty() {
            self.dirs.iter().flat_map(|dir| names(dir)).collect()
        } else {
            panic!("say here how a test looks into a backend of the type `{}`", self.made.kind);
        };
        there.retain(|name| beside.iter().all(|id| id.as_str() != name));
        there
    }

    /// Nothing is in the store, no file in its directories, none open, no memory taken, and
    /// nothing in the journal.
    pub(crate) async fn assert_empty(&self) {
        let shared = self.shared();
        // Digests of a copy, or its flattening, may still follow it.
        soon("all jobs to end", async {
            while shared.jobs.running() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(self.list().await, [], "images are left");
        for dir in &self.beside {
            assert_eq!(names(dir), [""; 0], "files are left in {}", dir.display());
        }
        assert_eq!(self.left(&[]).await, [""; 0], "something is left in the backend");
        if self.memory.is_some() {
            assert_eq!(self.driver.probe().await.unwrap().used, Some(0), "memory is taken");
        }
        let journal = self.state.path().join("state/journal");
        assert!(shared.ids.is_empty(), "a claim is left");
        assert_eq!(names(&journal), [""; 0], "an intent is left");
        soon("all memory to come back", async {
            while shared.memory.held() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        soon("all files to be closed", async {
            while self.open_files() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// How many files beneath its directories this process has open.
    fn open_files(&self) -> usize {
        let open = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| entry.ok().and_then(open))
            .filter(|path| self.dirs.iter().any(|dir| path.starts_with(dir) && path != dir))
            .count()
    }

    /// Whether a copy from the store `source` can stay inside the backend.
    pub(crate) fn shares_backend_with(&self, source: &str) -> bool {
        let device = |dir: &PathBuf| fs::metadata(dir).unwrap().dev();
        // The directory that is filled first is the last one here.
        match (source, self.dirs.last()) {
            _ if !self.caps().copy => false,
            ("main", _) => true,
            ("beside", Some(dir)) => device(dir) == device(&self.beside[0]),
            _ => false,
        }
    }
}

/// The names in a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.unwrap().file_name().into_string().expect("a name in UTF-8")
    };
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// The chunks of an image as the daemon would make them.
pub(crate) fn aligned_chunks(bytes: &Bytes) -> Vec<Bytes> {
    content::aligned(bytes, CHUNK)
}

/// Writes an image through a driver; on failure it is aborted.
pub(crate) async fn write_image(
    driver: &dyn Driver,
    id: &ImageId,
    size: Option<u64>,
    chunks: Vec<Bytes>,
) -> Result<(Location, Committed)> {
    let whole: Vec<u8> = chunks.concat();
    let mut upload = driver.create(&new_image(id, size)).await?;
    let at = upload.at().clone();
    for chunk in chunks {
        if let Err(error) = upload.write(chunk).await {
            upload.abort().await.unwrap();
            return Err(error);
        }
    }
    let committed = upload.commit(&content::digests(&whole, Algo::Sha256)).await?;
    Ok((at, committed))
}

/// Memory of its own, for two chunks.
pub(crate) fn window(chunk: usize) -> Window {
    Memory::new(8 * chunk, 1, Duration::from_secs(60)).window(Share::Get("test".into()), chunk, 2)
}

/// Reads an image, or a part of it, through its driver.
pub(crate) async fn read(driver: &dyn Driver, at: &Location, span: Span) -> Result<Bytes> {
    let reader = driver.open(at, span, window(CHUNK)).await?;
    drained(reader.body.into_stream()).await.map(Bytes::from)
}

/// That an image reads as `bytes` and nothing else.
pub(crate) async fn assert_reads(driver: &dyn Driver, at: &Location, bytes: &Bytes, what: &str) {
    let found = read(driver, at, Span::All).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_same(&found, bytes, what);
}

/// Compares images without printing them.
pub(crate) fn assert_same(found: &[u8], wanted: &[u8], what: &str) {
    if found != wanted {
        let pairs = || found.iter().zip(wanted);
        let first = pairs().position(|(found, wanted)| found != wanted);
        let last = pairs().rposition(|(found, wanted)| found != wanted);
        let zeros = pairs().filter(|(found, wanted)| found != wanted && **found == 0).count();
        let others = pairs().filter(|(found, wanted)| found != wanted).count() - zeros;
        panic!(
            "{what}: {} bytes instead of {}; of those from {first:?} to {last:?} {zeros} are 0 and \
             {others} are others",
            found.len(),
            wanted.len()
        );
    }
}

/// A put of an image of `size`.
pub(crate) fn order(id: &ImageId, size: Option<u64>) -> Put {
    Put {
        id: id.clone(),
        size,
        choice: Choice { algo: Algo::Sha256, checksum: true },
        promises: Vec::new(),
        context: Context::default(),
        request: format!("put-{id}"),
        job: None,
        cancel: CancellationToken::new(),
        maker: None,
    }
}

/// A put under way.
pub(crate) struct Running {
    pub(crate) frames: mpsc::Sender<Frame>,
    pub(crate) ready: oneshot::Receiver<Taking>,
    pub(crate) task: JoinHandle<Result<Receipt>>,
}

/// Begins a put on a task of its own, as a request does.
pub(crate) fn begin(store: &Arc<Store>, put: Put) -> Running {
    let (frames, body) = mpsc::channel(2);
    let (readying, ready) = oneshot::channel();
    let stored = Arc::clone(store).put(put, ImageBody::Caller(body), readying);
    Running { frames, ready, task: tokio::spawn(stored) }
}

impl Running {
    /// Gives it chunks; it may have ended before it takes them all.
    pub(crate) async fn give(&self, chunks: &[Bytes]) {
        for chunk in chunks {
            if self.frames.send(Frame::Data(chunk.clone())).await.is_err() {
                return;
            }
        }
    }

    /// Gives it its last frame, and what came of it.
    pub(crate) async fn end(self, last: Frame) -> Result<Receipt> {
        let Self { frames, task, .. } = self;
        // It may have failed already; then that is its answer.
        let _heard = frames.send(last).await;
        drop(frames);
        soon("a put to end", task).await.unwrap()
    }

    /// The caller goes away without a word; what came of it.
    pub(crate) async fn leave(self) -> Result<Receipt> {
        let Self { frames, task, .. } = self;
        drop(frames);
        soon("a put to end", task).await.unwrap()
    }
}

/// Puts a whole image through a store.
pub(crate) async fn put(store: &Arc<Store>, put: Put, bytes: &Bytes) -> Result<Receipt> {
    let running = begin(store, put);
    running.give(&aligned_chunks(bytes)).await;
    running.end(Frame::End).await
}

/// That `id` is free: an image can be put there, and is gone again.
pub(crate) async fn assert_free(fixture: &Fixture, id: &ImageId, what: &str) {
    let missing = fixture.driver.locate(id).await.expect_err(what);
    assert_eq!(missing.kind(), Kind::NotFound, "{what}");
    if !fixture.caps().write {
        return; // nothing more can be seen
    }
    let bytes = content::image(content::Look::Mixed, 70_000, 99);
    let put = put(&fixture.store, order(id, None), &bytes).await;
    let receipt = put.unwrap_or_else(|error| panic!("{what}: the id is not free: {error:?}"));
    let at: Location = receipt.location.parse().unwrap();
    assert_reads(&*fixture.driver, &at, &bytes, what).await;
    fixture.remove(&at).await;
}

/// Deletes an image as soon as nobody has it open.
pub(crate) async fn delete_when_free(driver: &dyn Driver, at: &Location) {
    loop {
        match driver.delete(at, Hold::default()).await {
            Err(error) if error.kind() == Kind::InUse => again().await,
            deleted => return deleted.unwrap(),
        }
    }
}

/// Waits until no thread is stuck in the store any more.
pub(crate) async fn idle(store: &Arc<Store>) {
    let driver = store.driver().unwrap();
    soon("the stuck threads to return", async {
        while driver.busy() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What extents have left, with zeros for holes, and how many of the bytes were holes.
pub(crate) async fn filled(
    mut extents: futures_util::stream::BoxStream<'static, Result<Extent>>,
) -> Result<(Vec<u8>, u64)> {
    let (mut bytes, mut holes) = (Vec::new(), 0);
    while let Some(extent) = extents.next().await {
        match extent? {
            Extent::Data(data) => {
                assert!(!data.is_empty());
                bytes.extend_from_slice(&data);
            }
            Extent::Hole(len) => {
                assert!(len > 0);
                holes += len;
                bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 0);
            }
        }
    }
    Ok((bytes, holes))
}

/// What a stream has left, without holding on to its chunks: there are only so many.
pub(crate) async fn drained(
    mut stream: futures_util::stream::BoxStream<'static, Result<Bytes>>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}
