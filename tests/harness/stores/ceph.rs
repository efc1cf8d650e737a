//! A real Ceph cluster on this machine, started once by the script that people use too.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// The pool that the store under test has to itself.
pub(crate) const POOL: &str = "images";

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
    /// The cluster, with an empty pool.
    pub(crate) async fn up() -> Self {
        let this = Self { _turn: Arc::clone(&TURN).lock_owned().await };
        // What a test that failed has left.
        for image in this.images() {
            this.rbd(&["snap", "unprotect", &format!("{POOL}/{image}@snap")]);
            this.rbd(&["snap", "purge", &format!("{POOL}/{image}")]);
            this.rbd(&["rm", &format!("{POOL}/{image}")]);
        }
        this.rbd(&["trash", "purge", POOL]);
        assert!(this.is_empty(), "the pool cannot be emptied: {:?}", this.images());
        this
    }

    /// The options of a store in the pool.
    pub(crate) fn options(&self) -> String {
        format!(
            "rbd_store_ceph_conf = {}\nrbd_store_user = glance\nrbd_store_pool = {POOL}\n\
             rados_connect_timeout = 20\n",
            self.conf().display()
        )
    }

    pub(crate) fn conf(&self) -> PathBuf {
        DIR.join("ceph.conf")
    }

    /// What the `rbd` command says to these words, as Glance's user.
    pub(crate) fn rbd(&self, words: &[&str]) -> String {
        rbd(&self.conf(), words)
    }

    /// The names of all images, whole or not.
    pub(crate) fn images(&self) -> Vec<String> {
        self.rbd(&["ls", POOL]).lines().map(str::to_owned).collect()
    }

    /// Whether no image is there, nor in the trash.
    pub(crate) fn is_empty(&self) -> bool {
        self.images().is_empty() && self.rbd(&["trash", "ls", POOL]).is_empty()
    }
}

fn rbd(conf: &Path, words: &[&str]) -> String {
    let mut rbd = Command::new("rbd");
    rbd.arg("-c").arg(conf).args(["-n", "client.glance"]).args(words);
    let said = rbd.output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}
