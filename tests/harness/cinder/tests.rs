//! The server itself, by plain HTTP.

use std::{os::unix::fs::FileExt as _, path::Path, time::Duration};

use serde_json::{Value, json};

use super::{Call, Cinder, EXPORT, Fault, REGION, Rule, SECRET, Step, TYPE, USER, Wrong};
use crate::harness::service::plain::{self, Told};

/// A server, a token for it, and the folder of its files.
struct Rig {
    cinder: Cinder,
    token: String,
    folder: tempfile::TempDir,
}

impl Rig {
    fn new(start: impl FnOnce(&Path) -> Cinder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cinder = start(folder.path());
        let token = cinder.token(USER);
        Self { cinder, token, folder }
    }

    fn nfs() -> Self {
        Self::new(Cinder::nfs)
    }

    /// By the newest microversion; `None` if the connection ended before the answer.
    fn try_ask(&self, line: &str, body: &Value) -> Option<Told> {
        self.ask_by("volume 3.71", line, body)
    }

    fn ask_by(&self, version: &str, line: &str, body: &Value) -> Option<Told> {
        let (method, rest) = line.split_once(' ').unwrap();
        let headers = [("x-auth-token", self.token.as_str()), ("openstack-api-version", version)];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let line = format!("{method} /v3/{USER}/{rest}");
        plain::ask(&self.cinder.url(), &line, &headers, body.as_bytes())
    }

    /// The status, and what is answered.
    fn ask(&self, line: &str, body: Value) -> (u16, Value) {
        told(&self.try_ask(line, &body).unwrap())
    }

    fn get(&self, line: &str) -> (u16, Value) {
        self.ask(&format!("GET {line}"), Value::Null)
    }

    fn act(&self, volume: &str, action: &str, says: Value) -> u16 {
        self.ask(&format!("POST volumes/{volume}/action"), json!({action: says})).0
    }

    /// A new volume of so many GiB, as it is while it is made: its id.
    fn begun(&self, says: Value) -> String {
        let (status, told) = self.ask("POST volumes", json!({"volume": says}));
        assert_eq!((status, &told["volume"]["status"]), (202, &json!("creating")), "{told}");
        told["volume"]["id"].as_str().unwrap().to_owned()
    }

    fn made(&self, name: &str, gib: u64) -> String {
        let id = self.begun(json!({"name": name, "size": gib, "volume_type": TYPE}));
        assert_eq!(self.status(&id), "available");
        id
    }

    /// What is told of a volume's status.
    fn status(&self, id: &str) -> String {
        let (status, told) = self.get(&format!("volumes/{id}"));
        let text = told["volume"]["status"].as_str().map(str::to_owned);
        text.unwrap_or_else(|| status.to_string())
    }

    fn reserve(&self, volume: &str) -> (u16, Value) {
        self.ask("POST attachments", json!({"attachment": {"volume_uuid": volume, "mode": "rw"}}))
    }

    fn connect(&self, attachment: &str) -> (u16, Value) {
        let says = json!({"attachment": {"connector": {"host": "here", "mountpoint": "imaged"}}});
        self.ask(&format!("PUT attachments/{attachment}"), says)
    }

    /// The id of a complete attachment.
    fn attached(&self, volume: &str) -> String {
        let id = self.reserve(volume).1["attachment"]["id"].as_str().unwrap().to_owned();
        assert_eq!(self.connect(&id).0, 200);
        let line = format!("POST attachments/{id}/action");
        assert_eq!(self.ask(&line, json!({"os-complete": null})).0, 204);
        id
    }

    fn delete(&self, what: &str) -> u16 {
        self.ask(&format!("DELETE {what}"), Value::Null).0
    }
}

fn told(answer: &Told) -> (u16, Value) {
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

/// What an error says, under the name of its kind.
fn why(answer: &(u16, Value), kind: &str) -> String {
    answer.1[kind]["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_volume_is_made_grows_and_goes() {
    let rig = Rig::nfs();
    let metadata = json!({"image_size": "5", "image_owner": "o"});
    let named = json!({"name": "image-1", "size": 1, "volume_type": TYPE, "metadata": metadata});
    let id = rig.begun(named);
    let early = rig.reserve(&id);
    assert!(why(&early, "badRequest").ends_with("the current status is creating."), "{early:?}");
    let (_, shown) = rig.get(&format!("volumes/{id}"));
    let shown = &shown["volume"];
    assert_eq!((&shown["status"], &shown["size"]), (&json!("available"), &json!(1)));
    assert_eq!((&shown["metadata"], &shown["volume_type"]), (&metadata, &json!(TYPE)));
    let file = rig.cinder.file("image-1");
    assert_eq!(file, rig.folder.path().join(format!("volume-{id}")));
    assert_eq!(file.metadata().unwrap().len(), 1 << 30);

    assert_eq!(rig.act(&id, "os-extend", json!({"new_size": 1})), 400);
    assert_eq!(rig.act(&id, "os-extend", json!({"new_size": 3})), 202);
    assert_eq!(rig.cinder.volume(&id).unwrap().status, "extending");
    assert_eq!(rig.delete(&format!("volumes/{id}")), 400);
    assert_eq!(rig.status(&id), "available");
    assert_eq!(
        (rig.cinder.volume(&id).unwrap().size, file.metadata().unwrap().len()),
        (3, 3 << 30)
    );

    assert_eq!(rig.act(&id, "os-update_readonly_flag", json!({"readonly": true})), 202);
    assert_eq!(rig.act(&id, "os-set_bootable", json!({"bootable": true})), 200);
    let (_, shown) = rig.get(&format!("volumes/{id}"));
    assert_eq!(shown["volume"]["metadata"]["readonly"], "True");
    let volume = rig.cinder.volume("image-1").unwrap();
    assert_eq!((volume.readonly, volume.bootable, volume.multiattach), (Some(true), true, false));
    assert_eq!(volume.metadata.get("image_owner").map(String::as_str), Some("o"));

    let line = format!("volumes/{id}/metadata");
    let put = |method: &str, says: Value| rig.ask(&format!("{method} {line}"), says).1;
    let added = put("POST", json!({"metadata": {"a": "b"}}));
    assert_eq!(added["metadata"]["image_size"], "5");
    assert_eq!(put("PUT", json!({"metadata": {"c": "d"}})), json!({"metadata": {"c": "d"}}));
    let (status, _) = rig.ask(&format!("PUT {line}/e"), json!({"meta": {"e": "f"}}));
    assert_eq!((status, rig.get(&format!("{line}/e")).1), (200, json!({"meta": {"e": "f"}})));
    assert_eq!((rig.delete(&format!("{line}/e")), rig.delete(&format!("{line}/e"))), (200, 404));
    assert_eq!(rig.get(&line).1, json!({"metadata": {"c": "d"}}));

    assert_eq!(rig.cinder.left(&["image-1"]), [""; 0]);
    assert_eq!(rig.cinder.left(&[]).len(), 1);
    assert_eq!(rig.delete(&format!("volumes/{id}")), 202);
    assert_eq!((rig.cinder.left(&[]).len(), file.exists()), (0, false));
    let gone = rig.get(&format!("volumes/{id}"));
    assert_eq!(why(&gone, "itemNotFound"), format!("Volume {id} could not be found."));
}

#[test]
fn attachments_reserve_connect_and_end() {
    let rig = Rig::nfs();
    let volume = rig.made("image-1", 1);
    let (status, made) = rig.reserve(&volume);
    let made = &made["attachment"];
    assert_eq!(
        (status, &made["status"], &made["attach_mode"]),
        (200, &json!("reserved"), &json!("rw"))
    );
    assert_eq!(
        (made["connection_info"].clone(), rig.status(&volume)),
        (json!({}), "reserved".into())
    );
    let second = rig.reserve(&volume);
    let refused = format!(
        "Invalid volume: Volume {volume} status must be available or downloading to reserve, but \
         the current status is reserved."
    );
    assert_eq!((second.0, why(&second, "badRequest")), (400, refused));
    let id = made["id"].as_str().unwrap();
    let info = rig.connect(id).1["attachment"]["connection_info"].clone();
    let name = format!("volume-{volume}");
    for (field, value) in [
        ("driver_volume_type", json!("nfs")),
        ("export", json!(EXPORT)),
        ("name", json!(name)),
        ("options", Value::Null),
        ("format", json!("raw")),
        ("access_mode", json!("rw")),
        ("encrypted", json!(false)),
        ("attachment_id", json!(id)),
    ] {
        assert_eq!(info.get(field), Some(&value), "{field}");
    }
    assert_eq!(rig.status(&volume), "attaching");
    let complete = format!("POST attachments/{id}/action");
    assert_eq!(rig.ask(&complete, json!({"os-complete": {}})), (204, Value::Null));
    let (_, shown) = rig.get(&format!("volumes/{volume}"));
    assert_eq!(shown["volume"]["status"], "in-use");
    let there = &shown["volume"]["attachments"][0];
    assert_eq!((&there["attachment_id"], &there["host_name"]), (&json!(id), &json!("here")));
    assert_eq!(rig.delete(&format!("volumes/{volume}")), 400);
    assert_eq!(rig.act(&volume, "os-force_delete", json!({})), 400);
    assert_eq!(rig.act(&volume, "os-update_readonly_flag", json!({"readonly": true})), 400);
    let (_, listed) = rig.get(&format!("attachments/detail?volume_id={volume}"));
    assert_eq!(listed["attachments"][0]["connection_info"], info);
    assert_eq!(rig.get("attachments?volume_id=none").1, json!({"attachments": []}));
    assert_eq!(rig.get(&format!("attachments/{id}")).1["attachment"]["status"], "attached");
    let seen = &rig.cinder.attachments()[0];
    assert_eq!((seen.connector["host"].clone(), seen.instance.clone()), (json!("here"), None));
    assert_eq!((seen.mode.as_str(), &seen.connection), ("rw", &info));

    rig.cinder.linger(1);
    assert_eq!(rig.delete(&format!("attachments/{id}")), 200);
    assert_eq!((rig.cinder.left(&["image-1"]).len(), rig.status(&volume)), (1, "in-use".into()));
    let last = rig.ask(&format!("DELETE attachments/{id}"), Value::Null);
    assert_eq!(last, (200, json!({"attachments": []})));
    assert_eq!(
        (rig.delete(&format!("attachments/{id}")), rig.status(&volume)),
        (404, "available".into())
    );

    // Whoever ever set the flag gets `ro`, whatever was asked for.
    assert_eq!(rig.act(&volume, "os-update_readonly_flag", json!({"readonly": false})), 202);
    let (_, made) = rig.reserve(&volume);
    assert_eq!(made["attachment"]["attach_mode"], "ro");
}

#[test]
fn a_type_says_who_may_share_a_volume() {
    let rig = Rig::nfs();
    rig.cinder.add_type("shared", true);
    let (_, types) = rig.get("types");
    let id = types["volume_types"].as_array().unwrap().iter().find(|one| one["name"] == "shared");
    let id = id.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        rig.get(&format!("types/{id}")).1["volume_type"]["extra_specs"]["multiattach"],
        "<is> True"
    );
    assert_eq!(rig.get("types/shared").0, 404, "by its id alone");
    assert_eq!(rig.get("types/default").1["volume_type"]["name"], "__DEFAULT__");
    let volume = rig.begun(json!({"name": "image-1", "size": 1, "volume_type": id}));
    assert_eq!(rig.status(&volume), "available");
    let first = rig.attached(&volume);
    let (status, second) = rig.reserve(&volume);
    assert_eq!((status, rig.status(&volume)), (200, "reserved".into()));
    let third = rig.reserve(&volume);
    assert!(
        why(&third, "badRequest").contains("must be available or in-use or downloading to reserve")
    );
    let second = second["attachment"]["id"].as_str().unwrap();
    assert_eq!(rig.delete(&format!("attachments/{second}")), 200);
    assert_eq!(rig.status(&volume), "in-use");
    assert_eq!(rig.delete(&format!("attachments/{first}")), 200);
    rig.cinder.remove_type("shared");
    let says = json!({"volume": {"name": "x", "size": 1, "volume_type": "shared"}});
    let unknown = rig.ask("POST volumes", says);
    assert_eq!(why(&unknown, "itemNotFound"), "Volume type with name shared could not be found.");
}

#[test]
fn copies_are_of_the_moment_at_which_they_were_asked_for() {
    let rig = Rig::nfs();
    let volume = rig.made("image-1", 1);
    let file =
        std::fs::File::options().write(true).read(true).open(rig.cinder.file(&volume)).unwrap();
    file.write_all_at(b"before", 5 << 20).unwrap();
    rig.cinder.take_polls(2);
    let clone = rig.begun(json!({"name": "clone", "size": 2, "source_volid": volume}));
    let (status, made) =
        rig.ask("POST snapshots", json!({"snapshot": {"volume_id": volume, "name": "s"}}));
    assert_eq!(status, 202);
    let snapshot = made["snapshot"]["id"].as_str().unwrap();
    file.write_all_at(b"behind", 5 << 20).unwrap();
    assert_eq!([0; 3].map(|_| rig.status(&clone)), ["creating", "creating", "available"]);
    let early = json!({"volume": {"name": "x", "snapshot_id": snapshot}});
    assert_eq!(rig.ask("POST volumes", early.clone()).0, 400);
    let look = || rig.get(&format!("snapshots/{snapshot}")).1["snapshot"]["status"].clone();
    assert_eq!([0; 3].map(|_| look()), ["creating", "creating", "available"]);
    rig.cinder.take_polls(0);
    let from_snapshot = rig.begun(early["volume"].clone());
    for (id, gib) in [(&clone, 2), (&from_snapshot, 1)] {
        let file = std::fs::File::open(rig.cinder.file(id)).unwrap();
        let mut found = [0; 6];
        file.read_exact_at(&mut found, 5 << 20).unwrap();
        assert_eq!((&found, file.metadata().unwrap().len()), (b"before", gib << 30));
        use std::os::unix::fs::MetadataExt as _;
        assert!(file.metadata().unwrap().blocks() < 8192, "holes stay holes");
    }
    assert_eq!(rig.cinder.volume(&clone).unwrap().source.as_ref(), Some(&volume));
    assert_eq!(rig.get(&format!("volumes/{from_snapshot}")).1["volume"]["snapshot_id"], snapshot);
    let listed = rig.get(&format!("snapshots/detail?volume_id={volume}")).1;
    assert_eq!(listed["snapshots"][0]["size"], 1);
    let seen = &rig.cinder.snapshots()[0];
    let of =
        (&seen.volume, seen.name.as_str(), seen.size, seen.status.as_str(), seen.metadata.len());
    assert_eq!(of, (&volume, "s", 1, "available", 0));
    let small = json!({"volume": {"name": "x", "size": 1, "source_volid": clone}});
    assert!(why(&rig.ask("POST volumes", small), "badRequest").contains("cannot be smaller"));
    assert_eq!(rig.delete(&format!("volumes/{volume}")), 400, "it has a snapshot");
    assert_eq!(rig.delete(&format!("snapshots/{snapshot}")), 202);
    assert_eq!(rig.get(&format!("snapshots/{snapshot}")).0, 404);
    assert_eq!(rig.delete(&format!("volumes/{volume}")), 202);

    // What is to be gone stays for those who look, and can be at its end at once.
    rig.cinder.take_polls(1);
    assert_eq!(rig.delete(&format!("volumes/{clone}")), 202);
    assert_eq!(rig.cinder.left(&[&from_snapshot]).len(), 1);
    assert_eq!([0; 2].map(|_| rig.status(&clone)), ["deleting", "404"]);
    assert_eq!(rig.delete(&format!("volumes/{from_snapshot}?cascade=true")), 202);
    rig.cinder.finish();
    assert_eq!(rig.cinder.left(&[]), [""; 0]);
}

#[test]
fn every_step_of_the_backend_can_fail() {
    let rig = Rig::nfs();
    let cinder = &rig.cinder;
    let source = rig.made("source", 1);
    for (step, says) in [
        (Step::Create, json!({"name": "a", "size": 1})),
        (Step::Clone, json!({"name": "b", "source_volid": source})),
    ] {
        cinder.let_fail(step, 1);
        let id = rig.begun(says);
        assert_eq!(rig.status(&id), "error");
        let refused = why(&rig.reserve(&id), "badRequest");
        assert!(refused.contains("can not be created if the volume is in an error state"));
        assert_eq!(rig.delete(&format!("volumes/{id}")), 202);
    }
    cinder.let_fail(Step::Extend, usize::MAX);
    for _ in 0..2 {
        assert_eq!(rig.act(&source, "os-extend", json!({"new_size": 2})), 202);
        assert_eq!(rig.status(&source), "error_extending");
        assert_eq!(rig.act(&source, "os-reset_status", json!({"status": "available"})), 202);
    }
    cinder.let_fail(Step::Extend, 0);
    cinder.let_fail(Step::Snapshot, 1);
    let (_, made) = rig.ask("POST snapshots", json!({"snapshot": {"volume_id": source}}));
    let snapshot = format!("snapshots/{}", made["snapshot"]["id"].as_str().unwrap());
    assert_eq!(rig.get(&snapshot).1["snapshot"]["status"], "error");
    cinder.let_fail(Step::DeleteSnapshot, 1);
    assert_eq!(rig.delete(&snapshot), 202);
    assert_eq!(rig.get(&snapshot).1["snapshot"]["status"], "error_deleting");
    assert_eq!(rig.delete(&snapshot), 400);
    let id = cinder.place("placed", 1, &[("k", "v")]);
    let attachment = rig.reserve(&id).1["attachment"]["id"].as_str().unwrap().to_owned();
    cinder.let_fail(Step::Attach, 1);
    let failed = rig.connect(&attachment);
    assert!(why(&failed, "computeFault").starts_with("Unable to update attachment"), "{failed:?}");
    assert_eq!(cinder.attachments()[0].status, "error_attaching");
    assert_eq!(rig.status(&id), "reserved");
    cinder.let_fail(Step::Detach, 1);
    assert_eq!(rig.delete(&format!("attachments/{attachment}")), 500);
    assert_eq!(rig.delete(&format!("attachments/{attachment}")), 200);
    cinder.let_fail(Step::Delete, 1);
    assert_eq!(rig.delete(&format!("volumes/{id}")), 202);
    assert_eq!(rig.status(&id), "error_deleting");
    assert_eq!(rig.delete(&format!("volumes/{id}")), 400);
    assert_eq!(rig.delete(&format!("volumes/{id}?force=true")), 202);
    assert_eq!(rig.status(&id), "404");
    cinder.set_status(&source, "error_attaching");
    cinder.remove("source");
    assert_eq!((rig.status(&source), cinder.left(&[])), ("404".into(), Vec::new()));
    // A volume in use grows if the backend can, and the request is new enough.
    let id = rig.made("used", 1);
    let host = cinder.place_attachment(&id, "another");
    let grow = json!({"os-extend": {"new_size": 2}});
    let line = format!("POST volumes/{id}/action");
    assert_eq!(rig.ask_by("volume 3.41", &line, &grow).unwrap().status, 400);
    assert_eq!((rig.ask(&line, grow.clone()).0, rig.status(&id)), (202, "in-use".into()));
    cinder.extend_in_use(false);
    assert_eq!(rig.act(&id, "os-extend", json!({"new_size": 3})), 202);
    assert_eq!(rig.status(&id), "error_extending");
    assert_eq!(rig.connect(&host).0, 409);
    assert_eq!(rig.act(&id, "os-reset_status", json!({"attach_status": "detached"})), 202);
    assert_eq!(rig.get(&format!("attachments/{host}")).0, 404);
}

#[test]
fn an_attachment_can_lead_to_a_wrong_device() {
    let rig = Rig::new(Cinder::local);
    let (id, other) = (rig.made("image-1", 1), rig.cinder.place("other", 1, &[]));
    let info = |wrong: Option<Wrong>| {
        match wrong {
            Some(wrong) => rig.cinder.connect_wrongly(wrong),
            None => rig.cinder.connect_rightly(),
        }
        let attachment = rig.attached(&id);
        let (_, told) = rig.get(&format!("attachments/{attachment}"));
        assert_eq!(rig.delete(&format!("attachments/{attachment}")), 200);
        told["attachment"]["connection_info"].clone()
    };
    let (right, wrong) = (rig.cinder.file(&id), rig.cinder.file(&other));
    assert_eq!(info(Some(Wrong::Volume(other)))["device_path"], json!(wrong));
    assert_eq!(info(Some(Wrong::Field("encrypted", json!(true))))["encrypted"], true);
    assert!(info(Some(Wrong::Lacks("device_path"))).get("device_path").is_none());
    info(Some(Wrong::Qcow2));
    let mut begins = [0; 8];
    std::fs::File::open(&right).unwrap().read_exact_at(&mut begins, 0).unwrap();
    assert_eq!(&begins, b"QFI\xfb\0\0\0\x03");
    info(Some(Wrong::Size(512)));
    assert_eq!(right.metadata().unwrap().len(), 512);
    assert_eq!(info(None)["device_path"], json!(right));

    let secret = rig.cinder.place_encrypted("secret", 1);
    assert_eq!(rig.get(&format!("volumes/{secret}")).1["volume"]["encrypted"], true);
    assert_eq!(rig.get(&format!("volumes/{secret}/encryption")).1["provider"], "luks");
    assert_eq!(rig.get(&format!("volumes/{id}/encryption")).1, json!({}));
    let attachment = rig.attached(&secret);
    let (_, told) = rig.get(&format!("attachments/{attachment}"));
    assert_eq!(told["attachment"]["connection_info"]["encrypted"], true);
}

#[test]
fn disks_are_told_as_the_test_says() {
    let rig = Rig::new(|folder| {
        Cinder::by(folder, |disk| {
            let lun = if disk.name.ends_with(&disk.id) { disk.size >> 30 } else { 0 };
            json!({"driver_volume_type": "iscsi", "target_lun": lun, "serial": disk.path})
        })
    });
    let id = rig.made("image-1", 2);
    let attachment = rig.attached(&id);
    let (_, told) = rig.get(&format!("attachments/{attachment}"));
    let info = &told["attachment"]["connection_info"];
    assert_eq!((&info["target_lun"], &info["driver_volume_type"]), (&json!(2), &json!("iscsi")));
    assert_eq!(info["serial"], json!(rig.cinder.file(&id)));
}

#[test]
fn microversions_are_those_that_are_served() {
    let rig = Rig::nfs();
    let volume = rig.made("image-1", 1);
    let reserve = |version: &str, says: Value| {
        rig.ask_by(version, "POST attachments", &json!({"attachment": says})).unwrap()
    };
    assert_eq!(reserve("volume 3.26", json!({"volume_uuid": volume})).status, 404);
    let refused = reserve("volume 3.53", json!({"volume_uuid": volume, "mode": "rw"}));
    assert!(refused.text().contains("'mode' was unexpected"), "{}", refused.text());
    assert_eq!(reserve("volume 3.72", json!({"volume_uuid": volume})).status, 406);
    let made = reserve("volume latest", json!({"volume_uuid": volume, "instance_uuid": "i"}));
    assert_eq!(made.headers["openstack-api-version"], "volume 3.71");
    let id = made.json()["attachment"]["id"].as_str().unwrap().to_owned();
    let line = format!("POST attachments/{id}/action");
    let complete = |version: &str| rig.ask_by(version, &line, &json!({"os-complete": {}})).unwrap();
    assert_eq!((complete("volume 3.43").status, complete("volume 3.44").status), (404, 204));
    rig.cinder.serve_up_to(53);
    assert_eq!(reserve("volume 3.54", json!({"volume_uuid": volume})).status, 406);
    let versions = plain::ask(&rig.cinder.url(), "GET /", &[], b"").unwrap();
    assert_eq!(
        (versions.status, &versions.json()["versions"][0]["version"]),
        (300, &json!("3.53"))
    );
}

#[test]
fn listings_are_in_pages_and_quotas_are_kept() {
    let rig = Rig::nfs();
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "2")] {
        rig.cinder.place(name, 1, &[("k", value)]);
    }
    let names = |told: &Value| {
        let volumes = told["volumes"].as_array().unwrap().iter();
        volumes.map(|volume| volume["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (_, first) = rig.get("volumes/detail?limit=2");
    assert_eq!(names(&first), ["c", "b"]);
    let next = first["volumes_links"][0]["href"].as_str().unwrap();
    let next = next.split_once(&format!("/v3/{USER}/")).unwrap().1;
    let (_, second) = rig.get(next);
    assert_eq!((names(&second), second.get("volumes_links")), (vec!["a".to_owned()], None));
    let (_, chosen) = rig.get("volumes?metadata=%7B%27k%27%3A+%272%27%7D&name=b");
    assert_eq!(names(&chosen), ["b"]);
    rig.cinder.list_by(1);
    assert_eq!(names(&rig.get("volumes/detail?all_tenants=1").1), ["c"]);
    assert_eq!(rig.get("volumes?marker=none").0, 404);
    rig.cinder.limit(4, 5);
    let make = |gib: u64| {
        let says = json!({"volume": {"name": "d", "size": gib}});
        rig.try_ask("POST volumes", &says).unwrap()
    };
    let refused = make(3);
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (413, "0"));
    let message = why(&told(&refused), "overLimit");
    assert!(message.starts_with("VolumeSizeExceedsAvailableQuota: "), "{message}");
    assert_eq!((make(1).status, make(1).status), (202, 413));
    let limits = rig.get("limits").1["limits"]["absolute"].clone();
    assert_eq!((&limits["maxTotalVolumes"], &limits["totalGigabytesUsed"]), (&json!(4), &json!(4)));
    let volume = rig.cinder.volume("d").unwrap();
    assert_eq!((volume.project.as_str(), volume.volume_type.as_str()), (USER, "__DEFAULT__"));
    assert!(!volume.encrypted);
    assert_eq!(rig.act(&volume.id, "os-nothing", json!({})), 404);
}

#[test]
fn exchanges_fail_as_they_are_told() {
    let rig = Rig::nfs();
    let cinder = &rig.cinder;
    let says = json!({"volume": {"name": "image-1", "size": 1}});
    for status in [401, 404, 409, 413, 500, 503] {
        cinder.fail(Rule::new(Fault::Status(status)).on(Call::CreateVolume).times(1));
        assert_eq!(rig.ask("POST volumes", says.clone()).0, status);
    }
    for cut in [Fault::CutBefore, Fault::CutMiddle] {
        cinder.fail(Rule::new(cut).on(Call::CreateVolume).named("image-1").times(1));
        assert!(rig.try_ask("POST volumes", &says).is_none());
    }
    assert_eq!(cinder.volumes().len(), 0);
    cinder.fail(Rule::new(Fault::CutAfter).on(Call::CreateVolume).times(1));
    assert!(rig.try_ask("POST volumes", &says).is_none());
    assert_eq!(cinder.volumes().len(), 1, "it was done");
    let id = cinder.volume("image-1").unwrap().id;
    assert_eq!(rig.status(&id), "available");
    // Actions are told apart by their bodies.
    cinder.fail(Rule::new(Fault::Status(500)).on(Call::Extend).named(&id).after(1).every(2));
    let extend = |gib: u64| {
        let status = rig.act(&id, "os-extend", json!({"new_size": gib}));
        rig.status(&id);
        status
    };
    assert_eq!([2, 3, 4, 4].map(extend), [202, 202, 500, 202]);
    assert_eq!(rig.act(&id, "os-set_bootable", json!({"bootable": "True"})), 200);
    assert_eq!((cinder.count(Call::Extend), cinder.count(Call::SetBootable)), (4, 1));
    let seen = cinder.seen();
    let last = seen.last().unwrap();
    assert_eq!((last.call, last.key.as_str(), last.fault), (Call::SetBootable, id.as_str(), None));
    assert_eq!(last.body, r#"{"os-set_bootable":{"bootable":"True"}}"#);
    cinder.fail(Rule::new(Fault::Status(401)).on(Call::Token));
    let login = plain::ask(&cinder.url(), "POST /v3/auth/tokens", &[], b"{}").unwrap();
    assert_eq!(login.json()["error"]["title"], "Unauthorized");
}

/// What Keystone says to this identity and scope.
fn by_keystone(cinder: &Cinder, identity: &Value, scope: &Value) -> Told {
    let asked = json!({"auth": {"identity": identity, "scope": scope}}).to_string();
    plain::ask(&cinder.url(), "POST /v3/auth/tokens", &[], asked.as_bytes()).unwrap()
}

#[test]
fn keystone_tells_where_it_is_to_whom_it_knows() {
    let mut rig = Rig::nfs();
    let user = json!({"name": USER, "password": SECRET, "domain": {"id": "default"}});
    let password = json!({"methods": ["password"], "password": {"user": user}});
    let scope = json!({"project": {"name": USER, "domain": {"id": "default"}}});
    let told = by_keystone(&rig.cinder, &password, &scope);
    let catalogue = told.json()["token"]["catalog"].clone();
    for (nth, kind) in [(1, "block-storage"), (2, "volumev3")] {
        let service = &catalogue[nth];
        assert_eq!(service["type"], kind);
        let endpoint = &service["endpoints"][0];
        assert_eq!(endpoint["url"], format!("{}/v3/{USER}", rig.cinder.url()));
        assert_eq!(endpoint["region"], REGION);
    }
    rig.token = told.headers["x-subject-token"].clone();
    assert_eq!(rig.get("limits").0, 200);
    let bearer = [("x-subject-token", rig.token.as_str()), ("x-auth-token", rig.token.as_str())];
    let lent = plain::ask(&rig.cinder.url(), "GET /v3/auth/tokens", &bearer, b"").unwrap();
    assert_eq!((lent.status, &lent.json()["token"]["catalog"]), (200, &catalogue));
    rig.cinder.admit("id secret", USER);
    let given = json!({"id": "id", "secret": "secret"});
    let given = json!({"methods": ["application_credential"], "application_credential": given});
    assert_eq!(by_keystone(&rig.cinder, &given, &Value::Null).status, 201);
    rig.cinder.expire_tokens();
    assert_eq!(rig.get("limits").0, 401);
    rig.cinder.let_tokens_live(Duration::ZERO);
    rig.token = rig.cinder.token(USER);
    assert_eq!(rig.get("limits").0, 401);
    rig.cinder.let_tokens_live(Duration::from_secs(60));
    rig.token = rig.cinder.token("another");
    assert_eq!(rig.get("limits").0, 400, "the project in the path is another one");
    rig.cinder.refuse(&format!("{USER} {SECRET}"));
    assert_eq!(by_keystone(&rig.cinder, &password, &scope).status, 401);
}
