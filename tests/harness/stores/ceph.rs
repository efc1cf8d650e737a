//! A real Ceph cluster on this machine, started once by the script that people use too.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::{
    pause,
    rigs::{CEPH, CEPH_2, Turn, place, run},
};

/// The pool that the store under test has to itself.
pub(crate) const POOL: &str = "images";

/// Whether the cluster lives in this process, and no other can reach it.
pub(crate) const IN_THIS_PROCESS: bool = false;

/// Where Cinder would have its volumes, and clones are.
pub(crate) const VOLUMES: &str = "volumes";

/// What a rados object of an image begins its name with.
const PARTS: [&str; 4] = ["rbd_id.", "rbd_header.", "rbd_object_map.", "rbd_data."];

fn is_part(object: &str) -> bool {
    PARTS.iter().any(|part| object.starts_with(part))
}

/// How long a watch may outlive its client, and what waits for it with it.
const PATIENCE: Duration = Duration::from_secs(90);

fn ci_ceph(words: &[&str], dir: &Path, more: &[&str]) {
    run(Command::new("ci/ceph").args(words).arg(dir).args(more));
}

/// The right to a cluster, one test at a time, until this is dropped.
pub(crate) struct Ceph {
    dir: PathBuf,
    /// Whether it ends with this.
    own: bool,
    /// The cluster, which others use by other pools.
    cluster: Turn,
    _pools: Turn,
}

/// A daemon of the cluster that was stopped; it goes on when this is dropped.
pub(crate) struct Stopped<'a> {
    ceph: &'a Ceph,
    daemon: &'static str,
}

/// What the trash notes, or noted, of an image.
pub(crate) struct Noted<'a> {
    ceph: &'a Ceph,
    key: String,
    file: PathBuf,
}

impl Noted<'_> {
    /// Has it noted, whatever is there now.
    pub(crate) fn again(self) {
        let file = self.file.to_str().unwrap();
        self.ceph.rados(&["setomapval", "rbd_trash", &self.key, "--input-file", file]);
        std::fs::remove_file(&self.file).unwrap();
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        ci_ceph(&[self.daemon, "cont"], &self.ceph.dir, &[]);
    }
}

impl Ceph {
    /// A cluster, with an empty pool.
    pub(crate) fn up() -> Self {
        // In this order: who has the pools may wait for everybody else to leave the cluster.
        // First the one that nobody uses by other pools.
        let (which, pools) = Turn::alone_with_one(&["pools-2", "pools"]);
        let (name, dir) =
            if which == "pools" { ("cluster", &CEPH) } else { ("cluster-2", &CEPH_2) };
        let cluster = Turn::together(name);
        let this = Self { dir: dir.to_path_buf(), own: false, cluster, _pools: pools };
        this.empty();
        this
    }

    /// A cluster of this test's own, whose OSD keeps what it has when it is killed.
    pub(crate) fn lasting() -> Self {
        let pools = Turn::alone("lasting");
        let cluster = Turn::together("cluster-lasting");
        let dir = place("ceph-lasting");
        ci_ceph(&["up"], &dir, &["--store", "bluestore", "--size", "2048"]);
        Self { dir, own: true, cluster, _pools: pools }
    }

    /// Removes what a test that failed has left.
    fn empty(&self) {
        // Nearly always that is nothing, which two commands tell.
        if self.is_bare(POOL) && self.is_bare(VOLUMES) {
            return;
        }
        self.until("the pools to be emptied", |this| {
            let empty = || this.is_empty_pool(POOL) && this.is_empty_pool(VOLUMES);
            if empty() {
                return true;
            }
            // Either pool may have clones of what is in the other.
            for pool in [VOLUMES, POOL, VOLUMES] {
                for image in this.images_in(pool) {
                    this.rbd(&["snap", "unprotect", &format!("{pool}/{image}@snap")]);
                    this.rbd(&["snap", "purge", &format!("{pool}/{image}")]);
                    this.rbd(&["rm", &format!("{pool}/{image}")]);
                }
                for line in this.rbd(&["trash", "ls", "--all", pool]).lines() {
                    let id = line.split(' ').next().unwrap_or_default();
                    let of = ["--pool", pool, "--image-id", id];
                    this.rbd(&[&["snap", "unprotect", "--snap", "snap"][..], &of].concat());
                    this.rbd(&[&["snap", "purge", "--no-progress"][..], &of].concat());
                    this.rbd(&["trash", "rm", "--force", &format!("{pool}/{id}")]);
                }
            }
            empty()
        });
        // So that what is left at the end is this test's.
        self.until("removed snapshots to be trimmed", |this| {
            let parts = this.parts(POOL);
            for part in parts.iter().filter(|part| this.is_there(POOL, part)) {
                this.say("rados", "client.admin", &["-p", POOL, "rm", part]);
            }
            parts.is_empty()
        });
    }

    /// The options of a store in the pool.
    pub(crate) fn options(&self) -> String {
        self.options_of("glance", POOL, 20)
    }

    /// The same of another user, pool, and patience in seconds.
    pub(crate) fn options_of(&self, user: &str, pool: &str, timeout_s: u32) -> String {
        format!(
            "rbd_store_ceph_conf = {}\nrbd_store_user = {user}\nrbd_store_pool = {pool}\n\
             rados_connect_timeout = {timeout_s}\n",
            self.conf().display()
        )
    }

    /// The cluster's id.
    pub(crate) fn fsid(&self) -> String {
        self.admin(&["fsid"])
    }

    /// Makes another pool, empty, which only the administrator may use.
    pub(crate) fn make_pool(&self, pool: &str) {
        self.remove_pool(pool);
        self.admin(&["osd", "pool", "create", pool, "8"]);
        let (_, error) = self.say("rbd", "client.admin", &["pool", "init", pool]);
        assert_eq!(error, None, "{pool}");
    }

    pub(crate) fn remove_pool(&self, pool: &str) {
        self.try_admin(&["osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it"]);
    }

    /// Clones an image of the pool, in this format, to the volume `name`.
    pub(crate) fn clone_of(&self, image: &str, name: &str, format: u8) {
        let format = format!("--rbd-default-clone-format={format}");
        let (from, to) = (format!("{POOL}/{image}@snap"), format!("{VOLUMES}/{name}"));
        self.rbd_must(&["clone", &format, &from, &to]);
    }

    /// Makes a volume that holds `bytes`.
    pub(crate) fn volume(&self, name: &str, bytes: &[u8]) {
        self.import(&format!("{VOLUMES}/{name}"), bytes, &[]);
    }

    /// Makes an image that holds `bytes`, without a snapshot.
    pub(crate) fn import(&self, to: &str, bytes: &[u8], how: &[&str]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let from = file.path().display().to_string();
        self.rbd_must(&[&["import", "--no-progress"], how, &[&from, to]].concat());
    }

    /// The names of all volumes.
    pub(crate) fn volumes(&self) -> Vec<String> {
        self.images_in(VOLUMES)
    }

    /// What the cluster tells of an image, or of its snapshot as `IMAGE@SNAPSHOT`.
    pub(crate) fn info(&self, image: &str) -> serde_json::Value {
        let said = self.rbd(&["info", "--format", "json", &format!("{POOL}/{image}")]);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{image}: {error}: {said}"))
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.file("ceph.conf")
    }

    /// A file in the cluster's directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What the `rbd` command says to these words, as Glance's user.
    pub(crate) fn rbd(&self, words: &[&str]) -> String {
        self.say("rbd", "client.glance", words).0
    }

    /// The same, which must succeed.
    pub(crate) fn rbd_must(&self, words: &[&str]) -> String {
        let (said, error) = self.say("rbd", "client.glance", words);
        assert_eq!(error, None, "rbd {words:?}");
        said
    }

    /// What the `rbd` command says to these words, as the administrator; it must succeed.
    pub(crate) fn admin_rbd(&self, words: &[&str]) -> String {
        let (said, error) = self.say("rbd", "client.admin", words);
        assert_eq!(error, None, "rbd {words:?}");
        said
    }

    /// The same, whatever comes of it.
    pub(crate) fn try_admin_rbd(&self, words: &[&str]) {
        self.say("rbd", "client.admin", words);
    }

    /// What the `ceph` command says to these words, as the administrator; it must succeed.
    pub(crate) fn admin(&self, words: &[&str]) -> String {
        let (said, error) = self.say("ceph", "client.admin", words);
        assert_eq!(error, None, "ceph {words:?}");
        said
    }

    /// The same, whatever comes of it.
    pub(crate) fn try_admin(&self, words: &[&str]) {
        self.say("ceph", "client.admin", words);
    }

    fn say(&self, program: &str, user: &str, words: &[&str]) -> (String, Option<String>) {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.conf()).args(["-n", user]).args(words);
        // Else images of format 1, such as old clusters have, cannot be made any more.
        command.env("RBD_FORCE_ALLOW_V1", "1");
        let said = command.output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        let out = String::from_utf8(said.stdout).unwrap().trim().to_owned();
        (out, (!said.status.success()).then_some(error))
    }

    /// The names of all images, whole or not.
    pub(crate) fn images(&self) -> Vec<String> {
        self.images_in(POOL)
    }

    /// The same of any pool.
    pub(crate) fn images_in(&self, pool: &str) -> Vec<String> {
        let (said, _) = self.say("rbd", "client.admin", &["ls", pool]);
        said.lines().map(str::to_owned).collect()
    }

    /// What the trash of the pool holds, a line each.
    pub(crate) fn trash(&self) -> Vec<String> {
        self.trash_of(POOL)
    }

    fn trash_of(&self, pool: &str) -> Vec<String> {
        let (said, _) = self.say("rbd", "client.admin", &["trash", "ls", "--all", pool]);
        said.lines().map(str::to_owned).collect()
    }

    /// Whether no image is there, nor in the trash.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty_pool(POOL)
    }

    fn is_empty_pool(&self, pool: &str) -> bool {
        self.images_in(pool).is_empty() && self.trash_of(pool).is_empty()
    }

    /// The parts of images that a pool holds, whether or not an image is there that has them.
    pub(crate) fn parts(&self, pool: &str) -> Vec<String> {
        self.objects(pool).lines().filter(|name| is_part(name)).map(str::to_owned).collect()
    }

    /// Whether a pool holds no object of an image, of either format.
    fn is_bare(&self, pool: &str) -> bool {
        let old = |name: &str| name.ends_with(".rbd") || name.starts_with("rb.");
        !self.objects(pool).lines().any(|name| old(name) || is_part(name))
    }

    fn objects(&self, pool: &str) -> String {
        let (said, error) = self.say("rados", "client.admin", &["-p", pool, "ls"]);
        assert_eq!(error, None);
        said
    }

    /// Has the `rados` command do something in the pool of images; it must succeed.
    pub(crate) fn rados(&self, words: &[&str]) {
        let words = [&["-p", POOL], words].concat();
        assert_eq!(self.say("rados", "client.admin", &words).1, None, "{words:?}");
    }

    /// Leaves an image as a removal does that was broken off half way: in the trash, and noted there
    /// as being removed.
    pub(crate) fn half_remove(&self, image: &str, scratch: &Path) {
        /// Where what is noted of an image says why it is in the trash, and what says so.
        const WHY: (usize, u8) = (6, 3);
        self.rbd_must(&["snap", "unprotect", &format!("{POOL}/{image}@snap")]);
        self.rbd_must(&["snap", "purge", "--no-progress", &format!("{POOL}/{image}")]);
        self.rbd_must(&["trash", "mv", &format!("{POOL}/{image}")]);
        let noted = self.noted(image, scratch);
        let mut bytes = std::fs::read(&noted.file).unwrap();
        assert_eq!(bytes[WHY.0], 0, "moved by a user: {bytes:?}");
        bytes[WHY.0] = WHY.1;
        std::fs::write(&noted.file, bytes).unwrap();
        noted.again();
    }

    /// What the trash notes of an image in it.
    pub(crate) fn noted(&self, image: &str, scratch: &Path) -> Noted<'_> {
        let trash = self.rbd_must(&["trash", "ls", POOL]);
        let id = trash.lines().find(|line| line.ends_with(&format!(" {image}"))).unwrap();
        let key = format!("id_{}", id.split(' ').next().unwrap());
        let file = scratch.join("trashed");
        self.rados(&["getomapval", "rbd_trash", &key, file.to_str().unwrap()]);
        Noted { ceph: self, key, file }
    }

    /// Takes from an image all but its name and its bytes.
    pub(crate) fn remove_header(&self, image: &str) {
        self.rados(&["rm", &self.header(image)]);
    }

    /// The name of an image's header.
    fn header(&self, image: &str) -> String {
        format!("rbd_header.{}", self.info(image)["id"].as_str().unwrap())
    }

    /// Whether an object is there as it is now, and not only as a removed snapshot had it.
    fn is_there(&self, pool: &str, object: &str) -> bool {
        let (said, _) = self.say("rados", "client.admin", &["-p", pool, "listsnaps", object]);
        said.lines().any(|line| line.starts_with("head"))
    }

    /// That nothing of any image is left in the pool of the store under test.
    pub(crate) fn assert_empty(&self) {
        self.assert_empty_pool(POOL);
    }

    /// That nothing of any image is left in a pool.
    pub(crate) fn assert_empty_pool(&self, pool: &str) {
        let images = self.images_in(pool);
        assert!(images.is_empty(), "images are left in the pool {pool}: {images:?}");
        // A delete that was answered may leave it to a later round to give the space back.
        self.until("the trash to be emptied", |this| this.is_empty_pool(pool));
        // Whatever removes an image takes its parts away before its name in the trash. What a snapshot
        // had of them is listed until the OSD comes to trim it.
        self.until("removed snapshots to be trimmed", |this| {
            let parts = this.parts(pool);
            let there = |part: &&String| this.is_there(pool, part);
            let left: Vec<_> = parts.iter().filter(there).collect();
            assert!(left.is_empty(), "parts of images are left in the pool {pool}: {left:?}");
            parts.is_empty()
        });
    }

    /// Stops the OSD, until the answer is dropped: it takes what it is sent and says nothing.
    pub(crate) fn stop_osd(&self) -> Stopped<'_> {
        self.stop("osd")
    }

    /// The same of the mon.
    pub(crate) fn stop_mon(&self) -> Stopped<'_> {
        self.stop("mon")
    }

    fn stop(&self, daemon: &'static str) -> Stopped<'_> {
        self.cluster.become_alone();
        ci_ceph(&[daemon, "stop"], &self.dir, &[]);
        Stopped { ceph: self, daemon }
    }

    /// Ends the OSD by SIGKILL.
    pub(crate) fn kill_osd(&self) {
        self.cluster.become_alone();
        ci_ceph(&["osd", "kill"], &self.dir, &[]);
    }

    /// Starts it again.
    pub(crate) fn start_osd(&self) {
        ci_ceph(&["osd", "start"], &self.dir, &[]);
    }

    /// Waits until something of the cluster is so.
    pub(crate) fn until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}; {}", self.state());
            pause(Duration::from_millis(50));
        }
    }

    /// What the cluster and its pools of images and of volumes are at, for whoever waited in vain.
    fn state(&self) -> String {
        let admin = |program, words: &[&str]| match self.say(program, "client.admin", words) {
            (said, None) => said,
            (said, Some(error)) => format!("{said} {error}"),
        };
        let mut state = format!("{}\n", admin("ceph", &["-s"]));
        // Else all that follows would wait for ever.
        if !state.contains("1 up") {
            return state;
        }
        for pool in [POOL, VOLUMES] {
            let parts = self.parts(pool);
            writeln!(
                state,
                "{pool}: images {:?}, trash {:?}, parts {parts:?}",
                self.images_in(pool),
                self.trash_of(pool)
            )
            .unwrap();
            for part in parts.iter().filter(|part| part.starts_with("rbd_header.")) {
                let watchers = admin("rados", &["-p", pool, "listwatchers", part]);
                let snaps = admin("rados", &["-p", pool, "listsnaps", part]);
                let omap = admin("rados", &["-p", pool, "listomapkeys", part]);
                writeln!(state, "{part}: {watchers}\n{snaps}\n{omap}").unwrap();
            }
        }
        state
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        if self.own {
            ci_ceph(&["down"], &self.dir, &[]);
        }
    }
}

/// Somebody who has an image open, as a hypervisor has its disk.
pub(crate) struct Opener(Child);

const OPENER: &str = r#"
import sys, rados, rbd
_, conf, pool, image = sys.argv
with rados.Rados(conffile=conf, name="client.glance") as cluster:
    with cluster.open_ioctx(pool) as ioctx, rbd.Image(ioctx, image) as image:
        print("open", flush=True)
        sys.stdin.read()
"#;

impl Opener {
    /// Opens an image of the pool.
    pub(crate) fn open(ceph: &Ceph, image: &str) -> Self {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", OPENER]).args([ceph.conf().to_str().unwrap(), POOL, image]);
        Self::begin(python, "open\n")
    }

    /// Holds an image of the pool as the kernel's driver does (krbd, `rbd map`), which knows nothing of librbd:
    /// by a watch on the object that is its header, and by that alone.
    pub(crate) fn map(ceph: &Ceph, image: &str) -> Self {
        let header = ceph.header(image);
        let mut rados = Command::new("rados");
        rados.arg("-c").arg(ceph.conf()).args(["-n", "client.glance", "-p", POOL]);
        rados.args(["watch", &header]);
        Self::begin(rados, "press enter to exit...\n")
    }

    /// Who says so when it has the image, and has it until its input ends.
    fn begin(mut command: Command, says: &str) -> Self {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, says);
        Self(child)
    }

    pub(crate) fn close(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }

    /// By SIGKILL: what it had open stays watched for a while.
    pub(crate) fn die(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
