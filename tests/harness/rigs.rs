//! Servers on this machine, started once by the scripts that people use too. They stay up for the next test;
//! `ci/check` takes them down at its end.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

use super::pause;

/// What a server tells of itself, by the names of its file: addresses, users, keys.
pub(crate) type Facts = BTreeMap<String, String>;

/// Where rigs are made, to be found again: `IMAGED_RIGS`, or beside the build.
pub(crate) fn rigs() -> PathBuf {
    std::env::var_os("IMAGED_RIGS").map_or_else(|| "target/rigs".into(), Into::into)
}

/// SeaweedFS.
pub(crate) static WEED: LazyLock<Facts> = LazyLock::new(|| of_objects("weed"));

/// OpenStack's Swift.
pub(crate) static SWIFT: LazyLock<Facts> = LazyLock::new(|| of_objects("swift"));

/// nginx, with directories that anybody may read.
pub(crate) static NGINX: LazyLock<Facts> = LazyLock::new(|| of_objects("nginx"));

/// The directory of the cluster.
pub(crate) static CEPH: LazyLock<PathBuf> = LazyLock::new(|| cluster("ceph"));

/// That of another one, so that a second test has its pools to itself meanwhile.
pub(crate) static CEPH_2: LazyLock<PathBuf> = LazyLock::new(|| cluster("ceph-2"));

fn cluster(name: &str) -> PathBuf {
    let dir = place(name);
    if !mon_listens(&dir) {
        run(Command::new("ci/ceph").arg("up").arg(&dir));
    }
    dir
}

/// Cinder, with volumes in that cluster and beside it.
pub(crate) static CINDER: LazyLock<Facts> = LazyLock::new(|| {
    let (dir, cluster) = (place("cinder"), &*CEPH);
    let file = dir.join("cinder.env");
    // It may be of a cluster that is no more.
    let conf = fs::read_to_string(cluster.join("ceph.conf")).unwrap();
    let of_it = |facts: &Facts| conf.contains(&format!("fsid = {}", facts["fsid"]));
    listening(&file).filter(of_it).unwrap_or_else(|| {
        run(Command::new("ci/cinder").arg("up").arg(&dir).arg(cluster));
        facts(&file)
    })
});

/// The cluster's gateway, which speaks S3 and Swift.
pub(crate) static GATEWAY: LazyLock<Facts> = LazyLock::new(|| {
    let file = CEPH.join("rgw.env");
    listening(&file).unwrap_or_else(|| {
        run(Command::new("ci/ceph").args(["rgw", "start"]).arg(&*CEPH));
        facts(&file)
    })
});

/// The right to something that tests share, which goes when this is dropped. It holds in all processes, for
/// each test may be one.
pub(crate) struct Turn(File);

impl Turn {
    /// Waits for the right to have it alone.
    pub(crate) fn alone(what: &str) -> Self {
        let turn = Self::open(what);
        turn.0.lock().unwrap();
        turn
    }

    /// Waits for the right to have one of several alone, and says which.
    pub(crate) fn alone_with_one(what: &[&'static str]) -> (&'static str, Self) {
        loop {
            for what in what {
                let turn = Self::open(what);
                if turn.0.try_lock().is_ok() {
                    return (what, turn);
                }
            }
            pause(Duration::from_millis(50));
        }
    }

    /// Waits for the right to have it together with others.
    pub(crate) fn together(what: &str) -> Self {
        let turn = Self::open(what);
        turn.0.lock_shared().unwrap();
        turn
    }

    /// Waits until the others are done, and lets none begin.
    pub(crate) fn become_alone(&self) {
        self.0.lock().unwrap();
    }

    fn open(what: &str) -> Self {
        fs::create_dir_all(rigs()).unwrap();
        Self(File::create(rigs().join(format!("{what}.turn"))).unwrap())
    }
}

/// An object server that one test has to itself, to end it and begin it again.
pub(crate) struct Own {
    dir: TempDir,
    server: &'static str,
    env: Vec<(&'static str, &'static str)>,
}

impl Own {
    /// One of `ci/objects` with these variables in its environment.
    pub(crate) fn start(server: &'static str, env: &[(&'static str, &'static str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shared = match server {
            "weed" => Some(&WEED),
            "swift" => Some(&SWIFT),
            // The system has it.
            _ => None,
        };
        if let Some(shared) = shared {
            let _there = &**shared;
            // The Python of the one that is shared does.
            for entry in fs::read_dir(place("objects")).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                if name == "venv" || name.starts_with(".python-") {
                    std::os::unix::fs::symlink(&path, dir.path().join(name)).unwrap();
                }
            }
        }
        let this = Self { dir, server, env: env.to_vec() };
        this.tell("up");
        this
    }

    fn tell(&self, word: &str) {
        let mut command = Command::new("ci/objects");
        run(command.envs(self.env.iter().copied()).arg(word).arg(self.dir.path()).arg(self.server));
    }

    /// What it tells of itself.
    pub(crate) fn facts(&self) -> Facts {
        facts(&self.dir.path().join(format!("{}.env", self.server)))
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&self) {
        self.tell("kill");
    }

    /// Begins it again, with what was stored.
    pub(crate) fn restart(&self) {
        self.tell("restart");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        run(Command::new("ci/objects").arg("down").arg(self.dir.path()));
    }
}

/// A target of iSCSI that one test has to itself, with the disks that it wants.
pub(crate) struct Disks {
    rig: PathBuf,
    /// Its own server, if it has one.
    own: Option<TempDir>,
    name: String,
    /// The target's name.
    pub(crate) iqn: String,
    /// `portal`, `user`, `password`.
    pub(crate) facts: Facts,
}

impl Disks {
    /// Disks of these sizes as LUN 1, 2, ..., on the server that all tests share.
    pub(crate) fn new(sizes: &[&str]) -> Self {
        let rig = place("iscsi");
        let facts = rig.join("iscsi.env");
        let listens = facts.exists()
            && self::facts(&facts).get("portal").is_some_and(|at| TcpStream::connect(at).is_ok());
        if !listens {
            run(Command::new("ci/iscsi").arg("up").arg(&rig));
        }
        Self::on(rig, None, sizes)
    }

    /// The same on a server of its own, to end it and begin it again.
    pub(crate) fn alone(sizes: &[&str]) -> Self {
        let own = tempfile::tempdir().unwrap();
        run(Command::new("ci/iscsi").arg("up").arg(own.path()));
        Self::on(own.path().to_owned(), Some(own), sizes)
    }

    fn on(rig: PathBuf, own: Option<TempDir>, sizes: &[&str]) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{made}", std::process::id());
        let facts = facts(&rig.join("iscsi.env"));
        let mut this = Self { rig, own, name, iqn: String::new(), facts };
        this.iqn = this.tell("target", sizes);
        this
    }

    /// Has `ci/iscsi` do something with the target; gives what it says.
    pub(crate) fn tell(&self, word: &str, with: &[&str]) -> String {
        let mut command = Command::new("ci/iscsi");
        let said = run(command.arg(word).arg(&self.rig).arg(&self.name).args(with));
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    }

    /// `kill`, `stop`, `cont` or `restart` of the server, which has to be its own.
    pub(crate) fn signal(&self, word: &str) {
        assert!(self.own.is_some(), "others use this server");
        run(Command::new("ci/iscsi").arg(word).arg(&self.rig));
    }

    /// The file behind a LUN.
    pub(crate) fn file(&self, lun: u16) -> PathBuf {
        self.rig.join("targets").join(&self.name).join(lun.to_string())
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        if self.own.is_some() {
            run(Command::new("ci/iscsi").arg("down").arg(&self.rig));
        } else {
            self.tell("remove", &[]);
        }
    }
}

/// Where the rig of this name is.
pub(crate) fn place(name: &str) -> PathBuf {
    std::path::absolute(rigs().join(name)).unwrap()
}

fn of_objects(server: &str) -> Facts {
    let dir = place("objects");
    let file = dir.join(format!("{server}.env"));
    listening(&file).unwrap_or_else(|| {
        run(Command::new("ci/objects").arg("up").arg(&dir).arg(server));
        facts(&file)
    })
}

/// What a server tells that is up already. The scripts look at more, which takes as long as a short test.
fn listening(file: &Path) -> Option<Facts> {
    let known = file.exists().then(|| facts(file))?;
    let address = known.get("url")?.strip_prefix("http://")?;
    TcpStream::connect(address).is_ok().then_some(known)
}

fn mon_listens(cluster: &Path) -> bool {
    let Ok(conf) = fs::read_to_string(cluster.join("ceph.conf")) else { return false };
    let address = conf.split_once("[v2:").and_then(|(_, rest)| rest.split_once(','));
    address.is_some_and(|(address, _)| TcpStream::connect(address).is_ok())
}

/// Reads what a server tells of itself.
fn facts(file: &Path) -> Facts {
    let text = fs::read_to_string(file).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What a program that has to succeed says.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    // A second panic would hide the first.
    let well = output.status.success() || std::thread::panicking();
    assert!(well, "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
