//! In the place of a real cluster: one in memory, for each fixture its own.

use imaged_fake_librbd::{Cluster, Open};

use crate::harness::stores::{Fixture, soon};

/// The pool that the store under test has to itself.
pub(crate) const POOL: &str = "images";

/// Whether the cluster lives in this process, and no other can reach it.
pub(crate) const IN_THIS_PROCESS: bool = true;

/// A cluster, until this is dropped.
pub(crate) struct Ceph {
    pub(crate) fake: Cluster,
}

impl Ceph {
    /// A cluster with an empty pool.
    pub(crate) fn up() -> Self {
        Self { fake: Cluster::new(&[POOL, "volumes"]) }
    }

    /// The options of a store in the pool.
    pub(crate) fn options(&self) -> String {
        format!(
            "rbd_store_ceph_conf = {}\nrbd_store_user = glance\nrbd_store_pool = {POOL}\n\
             rados_connect_timeout = 20\n",
            self.fake.conf()
        )
    }

    /// The names of all images, whole or not.
    pub(crate) fn images(&self) -> Vec<String> {
        self.fake.images(POOL)
    }

    /// What the trash of the pool holds, a line each.
    pub(crate) fn trash(&self) -> Vec<String> {
        vec!["an image in the trash".to_owned(); self.fake.trashed(POOL)]
    }

    /// Whether no handle of an image is open, and nothing in flight.
    pub(crate) fn is_idle(&self) -> bool {
        let Open { images, operations, .. } = self.fake.open();
        images == 0 && operations == 0
    }
}

/// The cluster of a store.
pub(crate) fn fake(f: &Fixture) -> &Cluster {
    &f.ceph.as_ref().unwrap().fake
}

/// Another daemon with the same store.
pub(crate) async fn another(f: &Fixture) -> Fixture {
    let ceph = Ceph { fake: fake(f).clone() };
    let home = tempfile::tempdir().unwrap();
    let mut other = Fixture::new("rbd", &[], &ceph.options(), None, home).await;
    other.ceph = Some(ceph);
    other
}

/// A store whose patience with one answer is a second.
pub(crate) async fn hasty() -> Fixture {
    let ceph = Ceph::up();
    let options = ceph.options().replace("timeout = 20", "timeout = 1");
    let home = tempfile::tempdir().unwrap();
    let mut f = Fixture::new("rbd", &[], &options, None, home).await;
    f.ceph = Some(ceph);
    f
}

/// Waits until a C function is called.
pub(crate) async fn called(f: &Fixture, name: &str) {
    while fake(f).count(name) == 0 {
        tokio::task::yield_now().await;
    }
}

/// Waits until nothing is under way, and all handles are closed.
pub(crate) async fn closed(f: &Fixture) {
    soon("all handles to be closed", async {
        while f.driver.busy() > 0 || !f.ceph.as_ref().unwrap().is_idle() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

impl Drop for Ceph {
    fn drop(&mut self) {
        self.fake.let_go();
        if !std::thread::panicking() {
            assert_eq!(self.fake.breaches(), [""; 0], "librbd was used as it must not be");
        }
    }
}
