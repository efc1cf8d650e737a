//! What is left of a store when the process that wrote into it is gone.

use std::{fs, path::PathBuf, process::Command, sync::Arc};

use imaged_drivers::{Driver, mem};

use super::{Fixture, text};
use crate::harness::daemon::{Daemon, IMAGED};

/// How far what a store holds outlives the process that put it: so it is made here, and no driver is
/// asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// Not at all: it is memory of that process.
    DiesWithTheProcess,
    /// The backend itself lives in this process, in which another driver can open it.
    InThisProcess,
    /// Any process can open the backend again.
    Lasts,
}

/// How the section of a store was made.
pub(super) struct Made {
    pub(super) kind: String,
    pub(super) dirs: Vec<(PathBuf, u32)>,
    pub(super) more: String,
}

impl Fixture {
    /// Another daemon over the same backend, with this in its environment: a process, to be killed.
    pub(crate) fn process(&self, env: &[(&str, &str)]) -> Daemon {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("beside")).unwrap();
        let Made { kind, dirs, more } = &self.made;
        fs::write(home.path().join("conf"), text(kind, dirs, more, home.path())).unwrap();
        let mut command = Command::new(IMAGED);
        command.envs(env.iter().copied());
        Daemon::start_by(home, command)
    }

    /// The power fails, where the filesystem beneath can tell what it has made last: the rest is gone.
    pub(crate) fn lose_power(&self) {
        if let Some(plain) = &self.plain {
            plain.lose();
        }
    }

    /// Opens the backend anew, as the next process would.
    pub(crate) async fn reopened(&self) -> Arc<dyn Driver> {
        let section = self.store.config.driver.clone().unwrap();
        // The next process on the same machine would end what the one that was killed had attached.
        if let Some(volumes) = &self.volumes {
            volumes.cinder.detach_all();
        }
        let dies = self.lasting == Lasting::DiesWithTheProcess;
        if let (true, imaged_drivers::Config::Mem(config)) = (dies, &section) {
            return Arc::new(mem::Mem::new(config, "main")); // the next process has its own
        }
        self.shared()
            .backends
            .open(&section, "main", &imaged_drivers::Host::named("another"))
            .await
            .unwrap()
    }
}
