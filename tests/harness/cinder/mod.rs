//! A Cinder whose every exchange, and every step behind its API, can be made to fail, which no real one can
//! be asked for. Its volumes are sparse files in a folder of the test.
//!
//! It keeps the rules that drivers lean on, with Cinder's own words: statuses and who may change them,
//! microversions, attachments and what they reserve, quotas, pages of listings. A Keystone is with it. Work
//! that goes on behind the API ends when somebody looks.
//!
//! ```ignore
//! let cinder = Cinder::nfs(folder);
//! cinder.fail(Rule::new(Fault::CutAfter).on(Call::CreateVolume).every(3));
//! cinder.let_fail(Step::Extend, 1);
//! ```

mod api;
mod attachments;
mod call;
mod cloud;
mod snapshots;
mod tests;
mod types;
mod volumes;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::service::{self, Fake};
pub(crate) use super::service::{Fault, REGION};
pub(crate) use call::Call;
pub(crate) use cloud::{Attachment, Cloud, Disk, Snapshot, Step, Volume, Wrong};
use cloud::{Connect, Ways};

/// The user that is good from the beginning, and the name and the id of the project that it is in.
pub(crate) const USER: &str = "glance";

/// The secret of that user.
pub(crate) const SECRET: &str = "a-secret-that-nobody-may-see";

/// A volume type that is there from the beginning.
pub(crate) const TYPE: &str = "images";

/// The share that the files are said to be on.
pub(crate) const EXPORT: &str = "127.0.0.1:/exports/rig";

/// When something goes wrong.
pub(crate) type Rule = service::Rule<Call>;

/// A server, until this is dropped.
pub(crate) type Cinder = Fake<Cloud>;

impl Cinder {
    /// Its volumes are on an NFS share, of which `folder` is the content.
    pub(crate) fn nfs(folder: &Path) -> Self {
        Self::by(folder, |disk| {
            json!({
                "driver_volume_type": "nfs",
                "export": EXPORT,
                "name": disk.name,
                "options": null,
                "format": "raw",
                "mount_point_base": "/var/lib/cinder/mnt",
            })
        })
    }

    /// The options by which a store logs in.
    pub(crate) fn login(&self) -> String {
        format!(
            "cinder_store_auth_address = {}/v3\ncinder_store_user_name = {USER}\n\
             cinder_store_password = {SECRET}\ncinder_store_project_name = {USER}\n",
            self.url()
        )
    }

    /// Its volumes are files of this host in `folder`.
    pub(crate) fn local(folder: &Path) -> Self {
        Self::by(folder, |disk| json!({"driver_volume_type": "local", "device_path": disk.path}))
    }

    /// Its volumes are files in `folder`, which are attached as `connect` says: `connection_info` with its
    /// `driver_volume_type`, without what Cinder itself adds.
    pub(crate) fn by(folder: &Path, connect: impl Fn(&Disk) -> Value + Send + 'static) -> Self {
        let mut cloud = Cloud::new(folder, Connect(Box::new(connect)));
        for name in ["__DEFAULT__", TYPE] {
            cloud.types.insert(name.into(), false);
        }
        cloud.identity.admitted.insert(format!("{USER} {SECRET}"), USER.into());
        Self::start(cloud)
    }

    /// What is there, after all that is at its end.
    fn cloud<T>(&self, look: impl FnOnce(&mut Cloud) -> T) -> T {
        let mut cloud = self.service();
        cloud.sweep();
        look(&mut cloud)
    }

    /// It has other ways from now on.
    fn ways(&self, change: impl FnOnce(&mut Ways)) {
        change(&mut self.service().ways);
    }

    /// This step of the backend fails so often; `usize::MAX` is always, and 0 is no more.
    pub(crate) fn let_fail(&self, step: Step, times: usize) {
        self.ways(|ways| *ways.fail.entry(step).or_default() = times);
    }

    /// Work that begins from now on is seen to go on so often by those who ask for the volume or the snapshot,
    /// before they see its end. It is 0 in the beginning, when what is to be gone is gone also if nobody asks.
    pub(crate) fn take_polls(&self, polls: usize) {
        self.ways(|ways| ways.polls = polls);
    }

    /// All work that has begun is at its end.
    pub(crate) fn finish(&self) {
        self.service().end(|_| true);
    }

    /// Attachments that are connected from now on lead to a wrong device.
    pub(crate) fn connect_wrongly(&self, wrong: Wrong) {
        self.ways(|ways| ways.wrong = Some(wrong));
    }

    /// And from now on to the right one.
    pub(crate) fn connect_rightly(&self) {
        self.ways(|ways| ways.wrong = None);
    }

    /// So many attachments stay although their end is answered with 200.
    pub(crate) fn linger(&self, times: usize) {
        self.ways(|ways| ways.linger = times);
    }

    /// The project may have so many volumes, of so many GiB together; `u64::MAX` is no limit.
    pub(crate) fn limit(&self, volumes: u64, gib: u64) {
        self.ways(|ways| (ways.most_volumes, ways.most_gib) = (volumes, gib));
    }

    /// 3.`minor` is the greatest microversion.
    pub(crate) fn serve_up_to(&self, minor: u32) {
        self.ways(|ways| ways.minor = minor);
    }

    /// Whether the backend extends a volume that is attached, or lets it end in `error_extending`.
    pub(crate) fn extend_in_use(&self, can: bool) {
        self.ways(|ways| ways.extends_in_use = can);
    }

    /// A page of a listing has at most so many lines.
    pub(crate) fn list_by(&self, page: usize) {
        self.ways(|ways| ways.page = page);
    }

    /// There is such a type, whose volumes can be attached once, or several times.
    pub(crate) fn add_type(&self, name: &str, multiattach: bool) {
        self.service().types.insert(name.to_owned(), multiattach);
    }

    /// There is no such type any more.
    pub(crate) fn remove_type(&self, name: &str) {
        self.service().types.remove(name);
    }

    /// A volume is not there any more, with its file, its attachments and its snapshots: by its id or name.
    pub(crate) fn remove(&self, volume: &str) {
        let id = self.volume(volume).unwrap().id;
        self.service().forget(&id);
    }

    /// Whoever had attached something is gone, and Cinder was told so.
    pub(crate) fn detach_all(&self) {
        self.cloud(|cloud| cloud.attachments.clear());
        for volume in self.volumes() {
            if matches!(volume.status.as_str(), "in-use" | "attaching" | "reserved") {
                self.set_status(&volume.id, "available");
            }
        }
    }

    /// The status of a volume is this: by its id or name.
    pub(crate) fn set_status(&self, volume: &str, status: &str) {
        let id = self.volume(volume).unwrap().id;
        self.cloud(|cloud| status.clone_into(&mut cloud.volume(&id).unwrap().status));
    }

    /// Puts an available volume of the user's project there, past everybody; its id.
    pub(crate) fn place(&self, name: &str, gib: u64, metadata: &[(&str, &str)]) -> String {
        self.place_with(name, gib, metadata, false)
    }

    /// The same, with a key of its own.
    pub(crate) fn place_encrypted(&self, name: &str, gib: u64) -> String {
        self.place_with(name, gib, &[], true)
    }

    fn place_with(
        &self,
        name: &str,
        gib: u64,
        metadata: &[(&str, &str)],
        encrypted: bool,
    ) -> String {
        let id = cloud::new_id();
        let metadata =
            metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let volume = Volume {
            id: id.clone(),
            name: name.to_owned(),
            size: gib,
            status: "available".into(),
            metadata: metadata.collect(),
            readonly: None,
            bootable: false,
            multiattach: false,
            encrypted,
            volume_type: TYPE.into(),
            project: USER.into(),
            source: None,
            snapshot: None,
            created: chrono::Utc::now(),
            work: None,
        };
        self.service().add(volume, None);
        id
    }

    /// An attachment of a volume to a host, which has been there: its id.
    pub(crate) fn place_attachment(&self, volume: &str, host: &str) -> String {
        let id = self.place_reserved(volume);
        let mut cloud = self.service();
        let attachment = cloud.attachments.last_mut().unwrap();
        attachment.status = "attached".into();
        attachment.connector = json!({"host": host, "ip": "192.0.2.1"});
        attachment.connection = json!({"driver_volume_type": "nfs", "attachment_id": id});
        attachment.since = Some(chrono::Utc::now());
        drop(cloud);
        self.set_status(volume, "in-use");
        id
    }

    /// An attachment of a volume that somebody has asked for, and no more yet: its id.
    pub(crate) fn place_reserved(&self, volume: &str) -> String {
        let id = cloud::new_id();
        let attachment = Attachment {
            id: id.clone(),
            volume: volume.to_owned(),
            mode: "rw".into(),
            status: "reserved".into(),
            instance: None,
            connector: Value::Null,
            connection: json!({}),
            since: None,
        };
        self.service().attachments.push(attachment);
        id
    }

    pub(crate) fn volumes(&self) -> Vec<Volume> {
        self.cloud(|cloud| cloud.volumes.clone())
    }

    /// The volume with this id or name.
    pub(crate) fn volume(&self, called: &str) -> Option<Volume> {
        self.volumes().into_iter().find(|volume| volume.id == called || volume.name == called)
    }

    pub(crate) fn attachments(&self) -> Vec<Attachment> {
        self.cloud(|cloud| cloud.attachments.clone())
    }

    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.cloud(|cloud| cloud.snapshots.clone())
    }

    /// The file of the volume with this id or name.
    pub(crate) fn file(&self, volume: &str) -> PathBuf {
        let volume = self.volume(volume).unwrap();
        self.cloud(|cloud| cloud.disk(&volume).path)
    }

    /// Everything that is there, a line each: volumes beside those with the given ids or names, snapshots and
    /// attachments of whichever volume, and files that are of none.
    pub(crate) fn left(&self, beside: &[&str]) -> Vec<String> {
        self.cloud(|cloud| cloud.left(beside))
    }
}
