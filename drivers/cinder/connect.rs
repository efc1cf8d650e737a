//! The ways to a volume from this machine, by the protocol that Cinder names.

#[cfg(feature = "ceph")]
use std::collections::BTreeMap;
use std::{path::PathBuf, sync::Arc};

#[cfg(feature = "ceph")]
use parking_lot::Mutex;
use serde_json::{Value, json};

#[cfg(feature = "iscsi")]
use super::iscsi::OverIscsi;
use super::{
    api::Mode, config::Config, connection::Connection, device::Device, disk::Disk, export,
    location, program::Program, volume::Volume,
};
use crate::{
    contract::{Error, Kind, Result},
    kit::lane::Lane,
};

/// Calls that block, at a time.
const PLACES: usize = 16;

/// A volume that is connected.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) device: Arc<dyn Device>,
    /// Where the program that connected it has put it.
    path: Option<PathBuf>,
}

/// The ways that one store has.
#[derive(Debug)]
pub(super) struct Connections {
    store: String,
    config: Config,
    pub(super) lane: Lane,
    program: Option<Program>,
    /// What the program has told of this machine.
    told: tokio::sync::Mutex<Option<Value>>,
    /// The name by which iSCSI targets know this process, and not the kernel.
    initiator: Option<String>,
    #[cfg(feature = "ceph")]
    pools: Mutex<BTreeMap<(String, String, String), crate::rbd::disk::Pool>>,
}

impl Connections {
    pub(super) fn new(store: &str, config: &Config) -> Self {
        let lane = Lane::new(store, PLACES, config.timeout);
        let command = config.reach.connector.as_deref();
        let program = command.map(|command| Program::new(store, command, config.timeout));
        let reach = &config.reach;
        let own = cfg!(feature = "iscsi") || reach.initiator.is_some();
        Self {
            store: store.to_owned(),
            config: config.clone(),
            lane,
            program,
            told: Default::default(),
            initiator: own.then(|| reach.initiator()),
            #[cfg(feature = "ceph")]
            pools: Mutex::default(),
        }
    }

    /// What Cinder is told of this machine.
    pub(super) async fn connector(&self) -> Result<Value> {
        let reach = &self.config.reach;
        let mut connector = json!({
            "host": reach.host,
            "ip": "127.0.0.1",
            "os_type": "linux",
            "platform": std::env::consts::ARCH,
            "multipath": reach.multipath,
            "mountpoint": "glance_store",
            "do_local_attach": false,
        });
        let told = self.told().await?;
        if let Some(fields) = connector.as_object_mut() {
            if let Value::Object(told) = told {
                fields.extend(told);
            }
            // What an operator has written is believed first.
            fields.insert("host".into(), json!(reach.host));
            if let Some(initiator) = &self.initiator {
                fields.insert("initiator".into(), json!(initiator));
            }
        }
        Ok(connector)
    }

    /// What the program tells of this machine: it is asked once, and again after [`Self::forget_connector`].
    async fn told(&self) -> Result<Value> {
        let Some(program) = &self.program else { return Ok(Value::Null) };
        let reach = &self.config.reach;
        // One asks, and the others wait for what it is told.
        let mut known = self.told.lock().await;
        if let Some(told) = &*known {
            return Ok(told.clone());
        }
        let told = program.properties(reach.multipath, reach.enforce_multipath).await?;
        Ok(known.insert(told).clone())
    }

    /// An attachment failed: what was told of this machine may hold no more.
    pub(super) async fn forget_connector(&self) {
        *self.told.lock().await = None;
    }

    /// Connects a volume. `new`: nobody has ever written to it.
    pub(super) async fn connect(
        &self,
        connection: &Connection,
        volume: &Volume,
        mode: Mode,
        new: bool,
    ) -> Result<Connected> {
        let write = mode == Mode::Write;
        let device: Arc<dyn Device> = match connection.protocol() {
            #[cfg(feature = "ceph")]
            "rbd" => Arc::new(self.in_ceph(connection, new).await?),
            _ if connection.is_in_export() && self.is_mounted(connection).await? => {
                let path = export::path(&self.lane, &self.config.reach, connection).await?;
                Arc::new(Disk::open(&self.lane, &path, write, new).await?)
            }
            #[cfg(feature = "iscsi")]
            "iscsi" => {
                let initiator = self.initiator.as_deref().unwrap_or_default();
                Arc::new(OverIscsi::open(connection, &self.config, initiator, write).await?)
            }
            "local" => {
                let path = PathBuf::from(connection.needed("device_path")?);
                Arc::new(Disk::open(&self.lane, &path, write, new).await?)
            }
            other => return self.by_program(connection, volume, mode, other).await,
        };
        Ok(Connected { device, path: None })
    }

    /// Whether the export of a volume is where this reaches it by itself; without a program it has to be.
    async fn is_mounted(&self, connection: &Connection) -> Result<bool> {
        if self.program.is_none() {
            return Ok(true);
        }
        export::is_mounted(&self.lane, &self.config.reach, connection).await
    }

    async fn by_program(
        &self,
        connection: &Connection,
        volume: &Volume,
        mode: Mode,
        protocol: &str,
    ) -> Result<Connected> {
        let Some(program) = &self.program else {
            let shown: String = protocol.chars().take(40).collect();
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "volumes of this protocol cannot be reached from here; name a program that can, by \
                     imaged_cinder_connector: protocol=`{shown}` store=`{}`",
                    self.store
                ),
            ));
        };
        let path = program.connect(&volume.id, mode, connection.fields()).await?;
        let write = mode == Mode::Write;
        match Disk::open(&self.lane, &path, write, false).await {
            Ok(disk) => Ok(Connected { device: Arc::new(disk), path: Some(path) }),
            Err(error) => {
                let fields = connection.fields();
                let ended = program.disconnect(&volume.id, fields, Some(&path)).await;
                Err(match ended {
                    Ok(()) => error,
                    Err(left) => error.because(left.chain()).leaving(path.display()),
                })
            }
        }
    }

    /// The volume has grown.
    pub(super) async fn grown(
        &self,
        connected: &Connected,
        connection: &Connection,
        volume: &location::Volume,
    ) -> Result<()> {
        match (&self.program, &connected.path) {
            (Some(program), Some(_)) => program.extend(volume, connection.fields()).await,
            _ => Ok(()),
        }
    }

    /// Lets go of a volume.
    pub(super) async fn disconnect(
        &self,
        connected: &Connected,
        connection: &Connection,
        volume: &location::Volume,
    ) -> Result<()> {
        connected.device.close().await?;
        match (&self.program, &connected.path) {
            (Some(program), Some(path)) => {
                program.disconnect(volume, connection.fields(), Some(path)).await
            }
            _ => Ok(()),
        }
    }

    /// Lets go of a volume that an earlier process had connected.
    pub(super) async fn disconnect_left(
        &self,
        told: Value,
        volume: &location::Volume,
    ) -> Result<()> {
        let (Some(program), Ok(connection)) = (&self.program, Connection::read(told)) else {
            return Ok(());
        };
        // What this process reaches by itself has ended with the process.
        let iscsi = cfg!(feature = "iscsi") && connection.protocol() == "iscsi";
        if iscsi || matches!(connection.protocol(), "rbd" | "local") {
            return Ok(());
        }
        if connection.is_in_export() && self.is_mounted(&connection).await? {
            return Ok(());
        }
        program.disconnect(volume, connection.fields(), None).await
    }
}

#[cfg(feature = "ceph")]
mod ceph {
    //! Volumes in a Ceph cluster.

    use std::path::Path;

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::{Connection, Connections, Device, Error, Kind, Result};
    use crate::{
        contract::Pieces,
        kit::window::{Buffer, CHUNK},
        rbd::disk,
    };

    /// A volume in Ceph.
    #[derive(Debug)]
    pub(super) struct InCeph {
        disk: disk::Disk,
        new: bool,
    }

    impl Connections {
        pub(super) async fn in_ceph(&self, connection: &Connection, new: bool) -> Result<InCeph> {
            let name = connection.needed("name")?;
            let (pool, image) = name.split_once('/').ok_or_else(|| {
                let what = "the volume's name in Ceph is POOL/IMAGE";
                Error::new(Kind::Unavailable, format!("{what}: name=`{name}`"))
            })?;
            let conf = match self.config.reach.ceph_conf.as_str() {
                "" => by_cluster(connection.text("cluster_name")),
                conf => conf.to_owned(),
            };
            let user = self.config.reach.ceph_user.as_deref();
            let user = user.or_else(|| connection.text("auth_username")).unwrap_or("admin");
            let key = (conf.clone(), user.to_owned(), pool.to_owned());
            let pool = {
                let mut pools = self.pools.lock();
                let new = || disk::Pool::new(&self.store, &conf, user, pool, self.config.timeout);
                pools.entry(key).or_insert_with(new).clone()
            };
            Ok(InCeph { disk: pool.open(image).await?, new })
        }
    }

    /// ceph.conf of a cluster, where it has a file of its own; else librados looks for it.
    fn by_cluster(name: Option<&str>) -> String {
        let plain = |name: &&str| !name.is_empty() && !name.contains(['/', '.']);
        let path = name.filter(plain).map(|name| format!("/etc/ceph/{name}.conf"));
        path.filter(|path| Path::new(path).exists()).unwrap_or_default()
    }

    #[async_trait]
    impl Device for InCeph {
        fn pieces(&self) -> Pieces {
            Pieces { chunk: CHUNK, in_flight: 16 }
        }

        fn is_zero_when_new(&self) -> bool {
            self.new
        }

        async fn size(&self) -> Result<u64> {
            self.disk.size().await
        }

        async fn read(&self, at: u64, buffer: Buffer) -> Result<Bytes> {
            self.disk.read(at, buffer).await
        }

        async fn write(&self, at: u64, bytes: Bytes) -> Result<()> {
            self.disk.write(at, bytes).await
        }

        async fn flush(&self) -> Result<()> {
            self.disk.flush().await
        }

        async fn close(&self) -> Result<()> {
            self.disk.close().await
        }
    }
}
