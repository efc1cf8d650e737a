//! What there is: volumes, snapshots and attachments, with their bytes as sparse files, and what is to go
//! wrong behind the API.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{SeekFrom, seek};
use serde_json::Value;

use crate::harness::service::Identity;

/// A unit of Cinder's sizes.
pub(super) const GIB: u64 = 1 << 30;

/// What an attachment leads to.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Of the volume.
    pub(crate) id: String,
    /// Of the file: `volume-ID`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// In bytes.
    pub(crate) size: u64,
}

/// How a disk is told to whoever attaches it: the flat `connection_info` of its protocol.
pub(super) struct Connect(pub(super) Box<dyn Fn(&Disk) -> Value + Send>);

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connect")
    }
}

/// What can fail in the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The volume ends in `error`.
    Create,
    /// The same, of one that is made from a volume or a snapshot.
    Clone,
    /// The volume ends in `error_extending`.
    Extend,
    /// The volume ends in `error_deleting`.
    Delete,
    /// The update of an attachment is 500, and its status `error_attaching`.
    Attach,
    /// The end of an attachment is 500, and it stays.
    Detach,
    /// The snapshot ends in `error`.
    Snapshot,
    /// The snapshot ends in `error_deleting`.
    DeleteSnapshot,
}

/// A wrong device behind an attachment.
#[derive(Clone, Debug)]
pub(crate) enum Wrong {
    /// That of the volume with this id.
    Volume(String),
    /// The file has so many bytes.
    Size(u64),
    /// The file begins as a qcow2 image does.
    Qcow2,
    /// `connection_info` says this.
    Field(&'static str, Value),
    /// `connection_info` does not say this.
    Lacks(&'static str),
}

/// What follows when work ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Is(&'static str),
    /// It has so many GiB, and is as its attachments say.
    Extended(u64),
    Gone,
}

/// Work that goes on behind the API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// How often it is seen to go on.
    pub(super) polls: usize,
    pub(super) then: Then,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) name: String,
    /// In GiB.
    pub(crate) size: u64,
    pub(crate) status: String,
    pub(crate) metadata: BTreeMap<String, String>,
    /// As it was set last.
    pub(crate) readonly: Option<bool>,
    pub(crate) bootable: bool,
    pub(crate) multiattach: bool,
    pub(crate) encrypted: bool,
    pub(crate) volume_type: String,
    pub(crate) project: String,
    /// The volume that it was made from.
    pub(crate) source: Option<String>,
    pub(super) snapshot: Option<String>,
    pub(super) created: chrono::DateTime<chrono::Utc>,
    pub(super) work: Option<Work>,
}

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    /// What it is of.
    pub(crate) volume: String,
    pub(crate) name: String,
    /// In GiB.
    pub(crate) size: u64,
    pub(crate) status: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(super) created: chrono::DateTime<chrono::Utc>,
    pub(super) work: Option<Work>,
}

#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) id: String,
    pub(crate) volume: String,
    /// `rw`, `ro`, or `null` where nobody said.
    pub(crate) mode: String,
    pub(crate) status: String,
    pub(crate) instance: Option<String>,
    /// Of the host; null before it is known.
    pub(crate) connector: Value,
    /// `connection_info`.
    pub(crate) connection: Value,
    pub(super) since: Option<chrono::DateTime<chrono::Utc>>,
}

/// What clouds differ in, and what goes wrong in this one.
#[derive(Debug)]
pub(super) struct Ways {
    /// How often each step is still to fail.
    pub(super) fail: BTreeMap<Step, usize>,
    pub(super) wrong: Option<Wrong>,
    /// Attachments that stay when they are ended.
    pub(super) linger: usize,
    pub(super) polls: usize,
    pub(super) most_volumes: u64,
    pub(super) most_gib: u64,
    /// The greatest microversion, as N in 3.N.
    pub(super) minor: u32,
    pub(super) extends_in_use: bool,
    /// Lines of a page of a listing, at most.
    pub(super) page: usize,
}

#[derive(Debug)]
pub(crate) struct Cloud {
    pub(super) identity: Identity,
    pub(super) folder: PathBuf,
    pub(super) connect: Connect,
    pub(super) ways: Ways,
    /// The names of volume types, and whether their volumes can be attached several times.
    pub(super) types: BTreeMap<String, bool>,
    /// The oldest first, as all of these.
    pub(super) volumes: Vec<Volume>,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) attachments: Vec<Attachment>,
}

pub(super) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl Cloud {
    pub(super) fn new(folder: &Path, connect: Connect) -> Self {
        let ways = Ways {
            fail: BTreeMap::new(),
            wrong: None,
            linger: 0,
            polls: 0,
            most_volumes: u64::MAX,
            most_gib: u64::MAX,
            minor: 71,
            extends_in_use: true,
            page: 1000,
        };
        Self {
            identity: Identity::default(),
            folder: folder.to_owned(),
            connect,
            ways,
            types: BTreeMap::new(),
            volumes: Vec::new(),
            snapshots: Vec::new(),
            attachments: Vec::new(),
        }
    }

    /// Whether this step fails now.
    pub(super) fn fails(&mut self, step: Step) -> bool {
        let left = self.ways.fail.entry(step).or_default();
        let fails = *left > 0;
        if *left != usize::MAX {
            *left = left.saturating_sub(1);
        }
        fails
    }

    /// Work that begins now.
    pub(super) fn work(&self, then: Then) -> Option<Work> {
        Some(Work { polls: self.ways.polls, then })
    }

    pub(super) fn volume(&mut self, id: &str) -> Option<&mut Volume> {
        self.volumes.iter_mut().find(|volume| volume.id == id)
    }

    pub(super) fn attached(&self, volume: &str) -> impl Iterator<Item = &Attachment> {
        self.attachments.iter().filter(move |attachment| attachment.volume == volume)
    }

    pub(super) fn disk(&self, volume: &Volume) -> Disk {
        let name = format!("volume-{}", volume.id);
        let (path, size) = (self.folder.join(&name), volume.size * GIB);
        Disk { id: volume.id.clone(), name, path, size }
    }

    pub(super) fn snapshot_file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("snapshot-{id}"))
    }

    /// A volume is there from now on, with the bytes of `source`, or zeros.
    pub(super) fn add(&mut self, volume: Volume, source: Option<&Path>) {
        let disk = self.disk(&volume);
        let file = File::create_new(&disk.path).unwrap();
        if let Some(source) = source {
            copy(source, &file);
        }
        file.set_len(disk.size).unwrap();
        self.volumes.push(volume);
    }

    /// A look at a volume, which sees its work end, or go on.
    pub(super) fn look_at_volume(&mut self, id: &str) {
        let Some(volume) = self.volume(id) else { return };
        match &mut volume.work {
            Some(work) if work.polls > 0 => work.polls -= 1,
            Some(_) => self.end_volume_work(id),
            None => {}
        }
    }

    pub(super) fn look_at_snapshot(&mut self, id: &str) {
        let found = self.snapshots.iter_mut().find(|snapshot| snapshot.id == id);
        match found.map(|snapshot| &mut snapshot.work) {
            Some(Some(work)) if work.polls > 0 => work.polls -= 1,
            Some(Some(_)) => self.end_snapshot_work(id),
            Some(None) | None => {}
        }
    }

    fn end_volume_work(&mut self, id: &str) {
        let in_use = self.attached(id).next().is_some();
        let Some(volume) = self.volume(id) else { return };
        let Some(work) = volume.work.take() else { return };
        match work.then {
            Then::Is(status) => status.clone_into(&mut volume.status),
            Then::Extended(size) => {
                volume.size = size;
                (if in_use { "in-use" } else { "available" }).clone_into(&mut volume.status);
                let volume = volume.clone();
                let file = File::options().write(true).open(self.disk(&volume).path).unwrap();
                file.set_len(size * GIB).unwrap();
            }
            Then::Gone => self.forget(id),
        }
    }

    fn end_snapshot_work(&mut self, id: &str) {
        let Some(at) = self.snapshots.iter().position(|snapshot| snapshot.id == id) else { return };
        match self.snapshots[at].work.take().map(|work| work.then) {
            Some(Then::Is(status)) => status.clone_into(&mut self.snapshots[at].status),
            Some(Then::Gone) => {
                self.snapshots.remove(at);
                remove(&self.snapshot_file(id));
            }
            Some(Then::Extended(_)) | None => {}
        }
    }

    /// Ends the work that is at its end and needs nobody's look: what is to be gone is.
    pub(super) fn sweep(&mut self) {
        self.end(|work| work.polls == 0 && matches!(work.then, Then::Gone));
    }

    /// Ends the work that is chosen.
    pub(super) fn end(&mut self, chosen: impl Fn(Work) -> bool) {
        let due = |work: Option<Work>| work.is_some_and(&chosen);
        let volumes = self.volumes.iter().filter(|volume| due(volume.work));
        let volumes: Vec<_> = volumes.map(|volume| volume.id.clone()).collect();
        let snapshots = self.snapshots.iter().filter(|snapshot| due(snapshot.work));
        let snapshots: Vec<_> = snapshots.map(|snapshot| snapshot.id.clone()).collect();
        snapshots.iter().for_each(|id| self.end_snapshot_work(id));
        volumes.iter().for_each(|id| self.end_volume_work(id));
    }

    /// A volume is not there any more, with all that is of it.
    pub(super) fn forget(&mut self, id: &str) {
        let Some(volume) = self.volume(id).cloned() else { return };
        remove(&self.disk(&volume).path);
        self.volumes.retain(|volume| volume.id != id);
        self.attachments.retain(|attachment| attachment.volume != id);
        let (of_it, others) = self.snapshots.drain(..).partition(|snapshot| snapshot.volume == id);
        self.snapshots = others;
        let of_it: Vec<Snapshot> = of_it;
        of_it.iter().for_each(|snapshot| remove(&self.snapshot_file(&snapshot.id)));
    }

    /// Everything that is there, a line each, beside the volumes with these ids or names.
    pub(super) fn left(&self, known: &[&str]) -> Vec<String> {
        let beside = |volume: &Volume| {
            known.contains(&volume.id.as_str()) || known.contains(&volume.name.as_str())
        };
        let volumes = self.volumes.iter().filter(|volume| !beside(volume));
        let volumes = volumes
            .map(|volume| format!("the volume {}, {}: {}", volume.id, volume.name, volume.status));
        let snapshots = self.snapshots.iter().map(|snapshot| {
            format!("the snapshot {} of {}: {}", snapshot.id, snapshot.volume, snapshot.status)
        });
        let attachments = self.attachments.iter().map(|attachment| {
            format!(
                "the attachment {} of {}: {}",
                attachment.id, attachment.volume, attachment.status
            )
        });
        let volume_files = self.volumes.iter().map(|volume| self.disk(volume).path);
        let of_snapshots = self.snapshots.iter().map(|snapshot| self.snapshot_file(&snapshot.id));
        let files: Vec<_> = volume_files.chain(of_snapshots).collect();
        let there = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("volume-") || name.starts_with("snapshot-")
        };
        let there = there.filter(ours).filter(|path| !files.contains(path));
        let there = there.map(|path| format!("the file {}", path.display()));
        volumes.chain(snapshots).chain(attachments).chain(there).collect()
    }
}

fn remove(path: &Path) {
    // One that failed to be made has no file.
    let _gone = std::fs::remove_file(path);
}

/// Copies what is not a hole.
pub(super) fn copy(from: &Path, to: &File) {
    let from = File::open(from).unwrap();
    let length = from.metadata().unwrap().len();
    to.set_len(length).unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while let Ok(start) = seek(&from, SeekFrom::Data(at)) {
        let end = seek(&from, SeekFrom::Hole(start)).unwrap();
        at = start;
        while at < end {
            let size = usize::try_from(end - at).unwrap().min(piece.len());
            from.read_exact_at(&mut piece[..size], at).unwrap();
            to.write_all_at(&piece[..size], at).unwrap();
            at += size as u64;
        }
    }
}
