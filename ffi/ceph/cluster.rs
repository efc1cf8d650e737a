//! A connection to a Ceph cluster.

use std::{fmt, sync::Arc, thread};

use ceph::rados;

use crate::{
    errno::{Result, check},
    exit,
    text::{c, owned, until_nul},
};

/// A handle that is not connected yet: the time to set options.
pub struct Connecting(Raw);

/// A connection. Clones share it; it is shut down with the last of them, and with the last pool and
/// image that came from it.
#[derive(Clone)]
pub struct Cluster(Arc<Raw>);

/// Space of a cluster, in bytes, before replication is taken into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterStat {
    /// All of it.
    pub total: u64,
    /// Taken.
    pub used: u64,
    /// Not taken.
    pub available: u64,
}

struct Raw(rados::rados_t);

// SAFETY: a `rados_t` is used from any thread; librados locks inside.
unsafe impl Send for Raw {}
// SAFETY: as above, also from several at once.
unsafe impl Sync for Raw {}

impl Drop for Raw {
    fn drop(&mut self) {
        struct Last(rados::rados_t);
        // SAFETY: this thread has given it up.
        unsafe impl Send for Last {}
        impl Last {
            fn shutdown(self) {
                // SAFETY: made by `rados_create`, and this is its only shutdown: nothing that was made
                // from it is left, for all of that holds the `Arc` whose last one is being dropped.
                unsafe { rados::rados_shutdown(self.0) };
                exit::closed();
            }
        }
        let last = Last(self.0);
        // It waits for the cluster, which the thread that drops this may not.
        let shut = move || last.shutdown();
        // Without threads the handle is leaked, which harms less than waiting.
        drop(thread::Builder::new().name("rados-shutdown".to_owned()).spawn(shut));
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connecting")
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}

impl Connecting {
    /// A handle for the cephx user `client.<user>`, with the options of the file `conf`, or of the
    /// file that librados finds if that is empty. What it would print goes nowhere.
    ///
    /// Implements: `int rados_create(rados_t *, const char *const id)`,
    /// `int rados_conf_read_file(rados_t, const char *)`
    ///
    /// # Errors
    /// `NOENT` if there is no such file; `INVAL` if it cannot be read.
    pub fn new(user: &str, conf: &str) -> Result<Self> {
        let (user, file) = (c(user)?, c(conf)?);
        let mut raw = std::ptr::null_mut();
        // SAFETY: both pointers are valid for the call, and C copies the name.
        check(unsafe { rados::rados_create(&raw mut raw, user.as_ptr()) })?;
        exit::opened();
        let this = Self(Raw(raw));
        let file = if conf.is_empty() { std::ptr::null() } else { file.as_ptr() };
        // SAFETY: the handle is not connected; the path is valid or NULL, which means: search.
        check(unsafe { rados::rados_conf_read_file(raw, file) })?;
        for (option, value) in
            [("err_to_stderr", "false"), ("log_to_stderr", "false"), ("log_file", "")]
        {
            this.set(option, value)?;
        }
        Ok(this)
    }

    /// Sets an option of ceph.conf.
    ///
    /// Implements: `int rados_conf_set(rados_t, const char *option, const char *value)`
    ///
    /// # Errors
    /// `NOENT` if there is no such option; `INVAL` if it cannot have this value.
    pub fn set(&self, option: &str, value: &str) -> Result<()> {
        let (option, value) = (c(option)?, c(value)?);
        // SAFETY: both strings are valid for the call, and C copies them.
        check(unsafe { rados::rados_conf_set(self.0.0, option.as_ptr(), value.as_ptr()) })?;
        Ok(())
    }

    /// The value of an option.
    ///
    /// Implements: `int rados_conf_get(rados_t, const char *option, char *buf, size_t len)`
    ///
    /// # Errors
    /// `NOENT` if there is no such option.
    pub fn get(&self, option: &str) -> Result<String> {
        let option = c(option)?;
        let mut room = vec![0_u8; 4096];
        // SAFETY: C writes at most `len` bytes into the buffer, which is that long.
        check(unsafe {
            rados::rados_conf_get(self.0.0, option.as_ptr(), room.as_mut_ptr().cast(), room.len())
        })?;
        Ok(until_nul(&room))
    }

    /// Connects. Blocks, for `client_mount_timeout` at most.
    ///
    /// Implements: `int rados_connect(rados_t)`
    ///
    /// # Errors
    /// `TIMEDOUT` if no mon answers; `ACCES` if the key is wrong; `NOENT` without a keyring.
    pub fn connect(self) -> Result<Cluster> {
        // SAFETY: the handle is configured and connected only once, for this consumes it.
        let connected = check(unsafe { rados::rados_connect(self.0.0) });
        exit::begun();
        connected?;
        Ok(Cluster(Arc::new(self.0)))
    }
}

impl Cluster {
    pub(crate) fn raw(&self) -> rados::rados_t {
        self.0.0
    }

    /// The cluster's name for itself, a UUID. Needs no answer.
    ///
    /// Implements: `int rados_cluster_fsid(rados_t, char *buf, size_t len)`
    ///
    /// # Errors
    /// As C says.
    pub fn fsid(&self) -> Result<String> {
        let mut room = [0_u8; 64];
        // SAFETY: C writes at most `len` bytes into the buffer, which is that long.
        check(unsafe {
            rados::rados_cluster_fsid(self.raw(), room.as_mut_ptr().cast(), room.len())
        })?;
        Ok(until_nul(&room))
    }

    /// The number that this connection has in the cluster, and its watches with it. Needs no answer.
    ///
    /// Implements: `uint64_t rados_get_instance_id(rados_t)`
    #[must_use]
    pub fn instance_id(&self) -> u64 {
        // SAFETY: the handle is connected.
        unsafe { rados::rados_get_instance_id(self.raw()) }
    }

    /// Its space. Blocks.
    ///
    /// Implements: `int rados_cluster_stat(rados_t, struct rados_cluster_stat_t *)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn stat(&self) -> Result<ClusterStat> {
        let mut stat = rados::Struct_rados_cluster_stat_t::default();
        // SAFETY: C fills the structure, which is valid for the call.
        check(unsafe { rados::rados_cluster_stat(self.raw(), &raw mut stat) })?;
        let bytes = |kib: u64| kib.saturating_mul(1024);
        Ok(ClusterStat {
            total: bytes(stat.kb),
            used: bytes(stat.kb_used),
            available: bytes(stat.kb_avail),
        })
    }

    /// Waits until what the client knows of the pools is what the cluster knows. Blocks, without a limit
    /// while no mon answers.
    ///
    /// Implements: `int rados_wait_for_latest_osdmap(rados_t)`
    ///
    /// # Errors
    /// As C says.
    pub fn wait_for_latest_osdmap(&self) -> Result<()> {
        // SAFETY: the handle is connected.
        check(unsafe { rados::rados_wait_for_latest_osdmap(self.raw()) })?;
        Ok(())
    }

    /// The name of the pool with this number. Blocks until the maps are there.
    ///
    /// Implements: `int rados_pool_reverse_lookup(rados_t, int64_t id, char *buf, size_t maxlen)`
    ///
    /// # Errors
    /// `NOENT`.
    pub fn pool_name(&self, id: i64) -> Result<String> {
        let mut room = [0_u8; 1024];
        // SAFETY: C writes at most `maxlen` bytes into the buffer, which is that long.
        check(unsafe {
            rados::rados_pool_reverse_lookup(self.raw(), id, room.as_mut_ptr().cast(), room.len())
        })?;
        // SAFETY: C has ended the name with a NUL inside the buffer.
        Ok(unsafe { owned(room.as_ptr().cast()) })
    }
}
