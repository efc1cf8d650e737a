//! A real Cinder on this machine, whose volumes are in Ceph, in files and behind iSCSI. Each store under test
//! has a project of its own.

use std::time::{Duration, Instant};

use imaged_drivers::ImageId;
use serde_json::{Value, json};

use crate::harness::{
    pause,
    rigs::{CINDER, Facts, Turn},
    service::plain::{Told, ask},
};

/// How long Cinder may take to remove everything.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a project has, in the order in which it can be removed.
const KINDS: [&str; 3] = ["attachments", "snapshots", "volumes"];

/// A project, which is removed with all that is in it when this is dropped.
pub(crate) struct Project {
    /// What the rig tells of itself.
    pub(crate) facts: &'static Facts,
    /// The type of the volumes.
    pub(crate) volume_type: &'static str,
    name: String,
    id: String,
    /// Of the daemon's user, for this project.
    token: String,
    _cluster: Option<Turn>,
}

impl Project {
    /// For volumes in the cluster.
    pub(crate) fn in_ceph() -> Self {
        Self::of("ceph", Some(Turn::together("cluster")))
    }

    /// The same, which can be attached several times.
    pub(crate) fn shared() -> Self {
        Self::of("shared", Some(Turn::together("cluster")))
    }

    /// For volumes that are files in an export.
    pub(crate) fn in_files() -> Self {
        Self::of("files", None)
    }

    /// For volumes that are disks of iSCSI targets.
    pub(crate) fn in_iscsi() -> Self {
        Self::of("iscsi", None)
    }

    fn of(volume_type: &'static str, cluster: Option<Turn>) -> Self {
        let facts = &*CINDER;
        let name = format!("test-{}", uuid::Uuid::new_v4().simple());
        let token = login(facts, &facts["project"]);
        let project = json!({"project": {"name": name, "domain_id": "default"}});
        let made = identity(facts, &token, "POST", "projects", &project).json();
        let id = made["project"]["id"].as_str().unwrap().to_owned();
        for role in facts["roles"].split(',') {
            let path = format!("projects/{id}/users/{}/roles/{role}", facts["user_id"]);
            identity(facts, &token, "PUT", &path, &Value::Null);
        }
        let token = login(facts, &name);
        Self { facts, volume_type, name, id, token, _cluster: cluster }
    }

    /// The options of a store in it.
    pub(crate) fn options(&self) -> String {
        let Self { facts, name, volume_type, .. } = self;
        let way = match *volume_type {
            "files" => format!("imaged_cinder_mounts = {}={}", facts["export"], facts["directory"]),
            "iscsi" => "imaged_cinder_initiator = iqn.2026-01.test.imaged:initiator".to_owned(),
            _ => format!("imaged_cinder_ceph_conf = {}", facts["ceph_conf"]),
        };
        format!(
            "cinder_store_auth_address = {}\ncinder_store_user_name = {}\n\
             cinder_store_password = {}\ncinder_store_project_name = {name}\n\
             cinder_os_region_name = {}\ncinder_volume_type = {volume_type}\n{way}\n",
            facts["auth"], facts["user"], facts["password"], facts["region"]
        )
    }

    /// What Cinder answers to a request for something of this project.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Told {
        let line = format!("{method} /v3/{}/{path}", self.id);
        let version = ("openstack-api-version", "volume 3.54");
        send(&self.facts["url"], &line, &[("x-auth-token", &self.token), version], body)
    }

    /// The same, which must succeed.
    pub(crate) fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let told = self.ask(method, path, body);
        // A second panic would hide the first.
        let well = told.status < 300 || std::thread::panicking();
        assert!(well, "{method} {path}: {}: {}", told.status, told.text());
        serde_json::from_slice(&told.body).unwrap_or(Value::Null)
    }

    /// Makes a volume, of these GiB and as `more` says: from a source, with a name, with metadata. What Cinder
    /// tells of it.
    pub(crate) fn volume(&self, size_gib: u64, more: &Value) -> Value {
        let mut volume = json!({"size": size_gib, "volume_type": self.volume_type});
        volume.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.must("POST", "volumes", &json!({ "volume": volume }));
        self.until(made["volume"]["id"].as_str().unwrap(), "available")
    }

    /// Waits until a volume has this status: what Cinder tells of it.
    pub(crate) fn until(&self, id: &str, status: &str) -> Value {
        self.until_is("volume", id, status)
    }

    fn until_is(&self, kind: &str, id: &str, status: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.must("GET", &format!("{kind}s/{id}"), &Value::Null)[kind].take();
            if told["status"] == status {
                return told;
            }
            let errs = told["status"].as_str().unwrap().starts_with("error");
            assert!(!errs && Instant::now() < deadline, "waited in vain for {status}: {told}");
            pause(Duration::from_millis(50));
        }
    }

    /// Attaches a volume to some other host: the attachment.
    pub(crate) fn attach(&self, volume: &str) -> Value {
        let new = json!({"attachment": {"volume_uuid": volume, "mode": "rw"}});
        let id = self.must("POST", "attachments", &new)["attachment"]["id"].take();
        let path = format!("attachments/{}", id.as_str().unwrap());
        let connector = json!({"host": "other", "initiator": "iqn.2026-01.test.imaged:other",
            "ip": "192.0.2.1", "multipath": false});
        let told = self.must("PUT", &path, &json!({"attachment": {"connector": connector}}));
        self.must("POST", &format!("{path}/action"), &json!({"os-complete": {}}));
        told["attachment"].clone()
    }

    /// All of a kind that there are.
    fn all(&self, kind: &str) -> Vec<Value> {
        let told = self.must("GET", &format!("{kind}/detail"), &Value::Null);
        told[kind].as_array().cloned().unwrap_or_default()
    }

    /// What is there, a line each: volumes beside those of these images; snapshots and attachments of whichever
    /// volume.
    pub(crate) fn left(&self, beside: &[&ImageId]) -> Vec<String> {
        let image =
            |volume: &Value| volume["metadata"]["glance_image_id"].as_str().map(str::to_owned);
        let other = |volume: &Value| {
            image(volume).is_none_or(|image| beside.iter().all(|id| id.as_str() != image))
        };
        let volumes = self.all("volumes").into_iter().filter(other);
        let volumes =
            volumes.map(|volume| format!("volume {} {}", volume["name"], volume["status"]));
        let of = |kind: &'static str| {
            let line = move |one: Value| format!("{kind} {} of {}", one["id"], one["volume_id"]);
            self.all(kind).into_iter().map(line)
        };
        volumes.chain(of("snapshots")).chain(of("attachments")).collect()
    }

    /// Removes everything, whatever its status.
    fn clear(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut left = 0;
            for kind in KINDS {
                for one in self.all(kind) {
                    left += 1;
                    let path = format!("{kind}/{}", one["id"].as_str().unwrap());
                    if one["status"] == "deleting" {
                        continue;
                    }
                    // What cannot go yet is asked again.
                    if kind == "attachments" {
                        self.ask("DELETE", &path, &Value::Null);
                    } else {
                        self.ask(
                            "POST",
                            &format!("{path}/action"),
                            &json!({"os-force_delete": {}}),
                        );
                    }
                }
            }
            if left == 0 {
                return;
            }
            let late = Instant::now() > deadline;
            if late && std::thread::panicking() {
                return;
            }
            assert!(!late, "Cinder does not remove {:?}", self.left(&[]));
            pause(Duration::from_millis(100));
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        self.clear();
        let token = login(self.facts, &self.facts["project"]);
        identity(self.facts, &token, "DELETE", &format!("projects/{}", self.id), &Value::Null);
    }
}

/// A token of the daemon's user for a project.
fn login(facts: &Facts, project: &str) -> String {
    let domain = json!({"name": facts["domain"]});
    let user = json!({"name": facts["user"], "password": facts["password"], "domain": domain});
    let auth = json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": {"name": project, "domain": domain}},
    }});
    identity(facts, "", "POST", "auth/tokens", &auth).headers["x-subject-token"].clone()
}

/// What Keystone answers to a request that must succeed.
fn identity(facts: &Facts, token: &str, method: &str, path: &str, body: &Value) -> Told {
    let host = facts["auth"].strip_suffix("/v3").unwrap();
    let told = send(host, &format!("{method} /v3/{path}"), &[("x-auth-token", token)], body);
    let well = told.status < 300 || std::thread::panicking();
    assert!(well, "{method} {path}: {}: {}", told.status, told.text());
    told
}

fn send(host: &str, line: &str, headers: &[(&str, &str)], body: &Value) -> Told {
    let json = [headers, &[("content-type", "application/json"), ("connection", "close")]].concat();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask(host, line, &json, body.as_bytes()).unwrap_or_else(|| panic!("{line}: no answer"))
}

#[test]
fn what_is_left_in_a_project_is_told_and_goes_with_it() {
    for (make, protocol) in [
        (Project::in_ceph as fn() -> Project, "rbd"),
        (Project::shared, "rbd"),
        (Project::in_files, "nfs"),
        (Project::in_iscsi, "iscsi"),
    ] {
        let project = make();
        assert_eq!(project.left(&[]), [""; 0], "{protocol}");
        let volume = project.volume(1, &json!({"metadata": {"glance_image_id": "x"}}));
        assert_eq!(volume["multiattach"], project.volume_type == "shared");
        let volume = volume["id"].as_str().unwrap();
        let snapshot = json!({"snapshot": {"volume_id": volume}});
        let snapshot = project.must("POST", "snapshots", &snapshot)["snapshot"]["id"].take();
        project.until_is("snapshot", snapshot.as_str().unwrap(), "available");
        let attachment = project.attach(volume);
        assert_eq!(attachment["connection_info"]["driver_volume_type"], protocol);
        let of = format!("of \"{volume}\"");
        let more = [
            format!("snapshots {snapshot} {of}"),
            format!("attachments {} {of}", attachment["id"]),
        ];
        assert_eq!(project.left(&[&"x".parse().unwrap()]), more);
        assert_eq!(project.left(&[]).len(), 3, "{protocol}");
        let path = format!("volumes/detail?all_tenants=1&project_id={}", project.id);
        drop(project);
        let another = make();
        assert_eq!(another.must("GET", &path, &Value::Null), json!({"volumes": []}), "{protocol}");
    }
}
