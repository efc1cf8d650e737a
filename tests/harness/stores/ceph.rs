//! A real Ceph cluster on this machine, started once by the script that people use too.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// The pool that the store under test has to itself.
pub(crate) const POOL: &str = "images";

/// Where Cinder would have its volumes, and clones are.
pub(crate) const VOLUMES: &str = "volumes";

/// The cluster's directory. It stays up for the next test; `ci/check` takes it down at its end.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = std::path::absolute(crate::harness::rigs().join("ceph")).unwrap();
    let up = Command::new("ci/ceph").arg("up").arg(&dir).output().unwrap();
    assert!(up.status.success(), "ci/ceph: {}", String::from_utf8_lossy(&up.stderr));
    dir
});

static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

/// The right to the pool, one test at a time, until this is dropped.
pub(crate) struct Ceph {
    _turn: OwnedMutexGuard<()>,
}

impl Ceph {
    /// The cluster, with empty pools.
    pub(crate) async fn up() -> Self {
        Self::emptied(Arc::clone(&TURN).lock_owned().await)
    }

    /// The same, for tests without a runtime.
    pub(crate) fn up_blocking() -> Self {
        Self::emptied(Arc::clone(&TURN).blocking_lock_owned())
    }

    /// Removes what a test that failed has left.
    fn emptied(turn: OwnedMutexGuard<()>) -> Self {
        let this = Self { _turn: turn };
        // A daemon that was killed watches its images for half a minute more, which keeps them.
        let deadline = Instant::now() + Duration::from_secs(40);
        while !(this.is_empty(POOL) && this.is_empty(VOLUMES)) {
            let left = [this.images(POOL), this.images(VOLUMES)];
            assert!(Instant::now() < deadline, "the pools cannot be emptied: {left:?}");
            // Either pool may have clones of what is in the other.
            for pool in [VOLUMES, POOL, VOLUMES] {
                for image in this.images(pool) {
                    this.rbd(&["snap", "unprotect", &format!("{pool}/{image}@snap")]);
                    this.rbd(&["snap", "purge", &format!("{pool}/{image}")]);
                    this.rbd(&["rm", &format!("{pool}/{image}")]);
                }
                this.rbd(&["trash", "purge", pool]);
            }
        }
        this
    }

    /// The options of a store in the pool.
    pub(crate) fn options(&self) -> String {
        self.options_of(POOL, "glance")
    }

    /// The options of a store in any pool, for any user.
    pub(crate) fn options_of(&self, pool: &str, user: &str) -> String {
        format!(
            "rbd_store_ceph_conf = {}\nrbd_store_user = {user}\nrbd_store_pool = {pool}\n\
             rados_connect_timeout = 20\n",
            self.conf().display()
        )
    }

    /// The cluster's id.
    pub(crate) fn fsid(&self) -> String {
        self.admin("ceph", &["fsid"])
    }

    /// Makes another pool, empty, which only the administrator may use.
    pub(crate) fn make_pool(&self, pool: &str) {
        self.remove_pool(pool);
        self.admin("ceph", &["osd", "pool", "create", pool, "8"]);
        self.admin("rbd", &["pool", "init", pool]);
    }

    pub(crate) fn remove_pool(&self, pool: &str) {
        self.admin("ceph", &["osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it"]);
    }

    /// Clones an image of the pool, in this format, to the volume `name`.
    pub(crate) fn clone_of(&self, image: &str, name: &str, format: u8) {
        let format = format!("--rbd-default-clone-format={format}");
        let (from, to) = (format!("{POOL}/{image}@snap"), format!("{VOLUMES}/{name}"));
        self.rbd(&["clone", &format, &from, &to]);
        assert!(!self.rbd(&["info", &to]).is_empty(), "{image} was not cloned");
    }

    /// What a command of Ceph's says to these words, as its administrator.
    fn admin(&self, program: &str, words: &[&str]) -> String {
        said(program, "client.admin", &self.conf(), words)
    }

    pub(crate) fn conf(&self) -> PathBuf {
        DIR.join("ceph.conf")
    }

    /// What the `rbd` command says to these words, as Glance's user.
    pub(crate) fn rbd(&self, words: &[&str]) -> String {
        said("rbd", "client.glance", &self.conf(), words)
    }

    /// Makes a volume that holds `bytes`.
    pub(crate) fn volume(&self, name: &str, bytes: &[u8]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        self.rbd(&["import", &file.path().display().to_string(), &format!("{VOLUMES}/{name}")]);
    }

    /// What the cluster's administrator says to these words.
    pub(crate) fn ceph(&self, words: &[&str]) -> String {
        self.admin("ceph", words)
    }

    /// The names of all images of a pool, whole or not.
    pub(crate) fn images(&self, pool: &str) -> Vec<String> {
        self.rbd(&["ls", pool]).lines().map(str::to_owned).collect()
    }

    /// What the cluster tells of an image, or of its snapshot as `IMAGE@SNAPSHOT`.
    pub(crate) fn info(&self, image: &str) -> serde_json::Value {
        let said = self.rbd(&["info", "--format", "json", &format!("{POOL}/{image}")]);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{image}: {error}: {said}"))
    }

    /// Whether no image is there, nor in the trash.
    pub(crate) fn is_empty(&self, pool: &str) -> bool {
        self.images(pool).is_empty() && self.rbd(&["trash", "ls", pool]).is_empty()
    }
}

fn said(program: &str, user: &str, conf: &Path, words: &[&str]) -> String {
    let mut command = Command::new(program);
    command.arg("-c").arg(conf).args(["-n", user]).args(words);
    let said = command.output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}
