//! Volumes: their beginning, their growth and their end, and what is kept with them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    api::{Asked, Done, Refused, invalid, invalid_volume, no_volume, truth},
    cloud::{Cloud, Step, Then, Volume, new_id},
    types,
};
use crate::harness::service::Answer;

/// What an ordinary deletion takes.
const DELETABLE: [&str; 5] =
    ["available", "error", "error_restoring", "error_extending", "error_managing"];

/// A time as Cinder writes it.
pub(super) fn time(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// The volume that a request is for.
fn found<'a>(cloud: &'a mut Cloud, asked: &Asked<'_>) -> Result<&'a mut Volume, Refused> {
    cloud.volume(asked.id()).ok_or_else(|| no_volume(asked.id()))
}

/// Metadata of a request: texts by short names.
pub(super) fn metadata(value: &Value) -> Result<BTreeMap<String, String>, Refused> {
    if value.is_null() {
        return Ok(BTreeMap::new());
    }
    let pair = |(name, value): (&String, &Value)| {
        let value = value.as_str().filter(|text| text.len() <= 255)?;
        (1..=255).contains(&name.len()).then(|| (name.clone(), value.to_owned()))
    };
    let pairs = value.as_object().and_then(|pairs| pairs.iter().map(pair).collect());
    pairs.ok_or_else(|| invalid("Invalid input for field/attribute metadata."))
}

pub(super) fn create(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let given = &asked.body["volume"];
    let text = |name: &str| given[name].as_str().map(str::to_owned);
    let named = text("volume_type").unwrap_or_else(|| "__DEFAULT__".into());
    let volume_type = types::named(cloud, &named)?;
    let (source, snapshot) = (text("source_volid"), text("snapshot_id"));
    // What it is made from: how large that is, and where its bytes are.
    let origin = match (&source, &snapshot) {
        (Some(id), _) => Some(source_volume(cloud, id)?),
        (None, Some(id)) => Some(source_snapshot(cloud, id)?),
        (None, None) => None,
    };
    let size = given["size"].as_u64().or_else(|| given["size"].as_str()?.parse().ok());
    let least = origin.as_ref().map(|(size, _)| *size);
    let size = size.or(least).filter(|size| *size > 0).ok_or_else(|| {
        let size = &given["size"];
        let why = format!("Volume size '{size}' must be an integer and greater than 0");
        invalid(&format!("Invalid input received: {why}"))
    })?;
    if let Some(least) = least.filter(|least| size < *least) {
        let of = if source.is_some() { "original volume size " } else { "the snapshot size" };
        return Err(invalid(&format!(
            "Invalid input received: Volume size '{size}'GB cannot be smaller than {of} {least}GB."
        )));
    }
    let metadata = metadata(&given["metadata"])?;
    types::within_quota(cloud, 1, size)?;
    let fails = cloud.fails(if origin.is_some() { Step::Clone } else { Step::Create });
    let then = Then::Is(if fails { "error" } else { "available" });
    let volume = Volume {
        id: new_id(),
        name: text("name").unwrap_or_default(),
        size,
        status: "creating".into(),
        metadata,
        readonly: None,
        bootable: false,
        multiattach: cloud.types[&volume_type],
        encrypted: false,
        volume_type,
        project: asked.project.to_owned(),
        source,
        snapshot,
        created: chrono::Utc::now(),
        work: cloud.work(then),
    };
    let told = view(cloud, &volume, asked);
    // Its bytes are those of this moment, whenever it becomes available.
    cloud.add(volume, origin.as_ref().map(|(_, path)| path.as_path()));
    Ok(Answer::new(202).json(&json!({"volume": told})))
}

fn source_volume(cloud: &mut Cloud, id: &str) -> Result<(u64, std::path::PathBuf), Refused> {
    let volume = cloud.volume(id).cloned().ok_or_else(|| no_volume(id))?;
    if !["available", "in-use"].contains(&volume.status.as_str()) {
        let why = "Originating volume status must be one of 'available, in-use' values";
        return Err(invalid_volume(why));
    }
    Ok((volume.size, cloud.disk(&volume).path))
}

fn source_snapshot(cloud: &Cloud, id: &str) -> Result<(u64, std::path::PathBuf), Refused> {
    let found = cloud.snapshots.iter().find(|snapshot| snapshot.id == id);
    let why = || format!("Snapshot {id} could not be found.");
    let snapshot = found.ok_or_else(|| Refused(404, why()))?;
    if snapshot.status != "available" {
        let why = "Originating snapshot status must be one of 'available' values";
        return Err(invalid(&format!("Invalid snapshot: {why}")));
    }
    Ok((snapshot.size, cloud.snapshot_file(id)))
}

/// A volume as it is told.
fn view(cloud: &Cloud, volume: &Volume, asked: &Asked<'_>) -> Value {
    let mut metadata = volume.metadata.clone();
    if let Some(readonly) = volume.readonly {
        metadata.insert("readonly".into(), if readonly { "True" } else { "False" }.into());
    }
    let attached = cloud.attached(&volume.id).filter(|one| one.status == "attached");
    let attachments = attached.map(|attachment| {
        json!({
            "id": volume.id,
            "attachment_id": attachment.id,
            "volume_id": volume.id,
            "server_id": attachment.instance,
            "host_name": attachment.connector["host"],
            "device": attachment.connector["mountpoint"],
            "attached_at": attachment.since.map(time),
        })
    });
    let at = format!("http://{}/v3/{}/volumes/{}", asked.address, asked.project, volume.id);
    let mut told = json!({
        "id": volume.id,
        "status": volume.status,
        "size": volume.size,
        "availability_zone": "nova",
        "created_at": time(volume.created),
        "updated_at": null,
        "name": volume.name,
        "description": null,
        "volume_type": volume.volume_type,
        "snapshot_id": volume.snapshot,
        "source_volid": volume.source,
        "metadata": metadata,
        "links": [{"rel": "self", "href": at}],
        "user_id": "user",
        "bootable": volume.bootable.to_string(),
        "encrypted": volume.encrypted,
        "replication_status": null,
        "consistencygroup_id": null,
        "multiattach": volume.multiattach,
        "attachments": Value::from_iter(attachments),
        "migration_status": null,
        "os-vol-tenant-attr:tenant_id": volume.project,
        "os-vol-host-attr:host": "rig@files#files",
    });
    if asked.minor >= 63 {
        told["volume_type_id"] = types::type_id(&volume.volume_type).into();
    }
    told
}

pub(super) fn show(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    cloud.look_at_volume(asked.id());
    let volume = found(cloud, asked)?.clone();
    Ok(Answer::new(200).json(&json!({"volume": view(cloud, &volume, asked)})))
}

/// The next page of `kind`: where it begins, and what is on it.
pub(super) fn page<'a, T>(
    cloud: &Cloud,
    asked: &Asked<'_>,
    kind: &str,
    found: &'a [T],
    id: impl Fn(&T) -> &str,
) -> Result<(&'a [T], Vec<Value>), Refused> {
    let head = asked.head;
    let limit = head.value("limit").parse().unwrap_or(usize::MAX).min(cloud.ways.page);
    let marker = head.value("marker");
    let start = match found.iter().position(|one| id(one) == marker) {
        Some(at) => at + 1,
        None if marker.is_empty() => 0,
        None => return Err(Refused(404, format!("Volume {marker} could not be found."))),
    };
    let rest = &found[start..];
    let page = &rest[..rest.len().min(limit)];
    // A page that is full may be the last one, which nobody knows.
    let last = page.last().filter(|_| page.len() == limit);
    let next = last.map(|last| {
        let asked_for = head.query.iter().filter(|(name, _)| *name != "marker");
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let query = asked_for.map(|(name, value)| format!("{}={}&", encode(name), encode(value)));
        let query: String = query.collect();
        let (at, project) = (asked.address, asked.project);
        let href = format!("http://{at}/v3/{project}/{kind}?{query}marker={}", id(last));
        json!({"rel": "next", "href": href})
    });
    Ok((page, next.into_iter().collect()))
}

/// Metadata that is asked for, as Python writes a dictionary.
fn wanted(text: &str) -> BTreeMap<String, String> {
    serde_json::from_str(&text.replace('\'', "\"")).unwrap_or_default()
}

pub(super) fn list(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let head = asked.head;
    let pairs = wanted(head.value("metadata"));
    let all = asked.wants("all_tenants");
    let chosen = |volume: &&Volume| {
        let is = |name: &str, own: &str| !head.asks(name) || head.value(name) == own;
        (all || volume.project == asked.project)
            && is("name", &volume.name)
            && is("status", &volume.status)
            && pairs.iter().all(|(name, value)| volume.metadata.get(name) == Some(value))
    };
    let ids: Vec<_> = cloud.volumes.iter().map(|volume| volume.id.clone()).collect();
    ids.iter().for_each(|id| cloud.look_at_volume(id));
    // The newest first.
    let volumes: Vec<_> = cloud.volumes.iter().rev().filter(chosen).cloned().collect();
    let detailed = asked.id() == "detail";
    let kind = if detailed { "volumes/detail" } else { "volumes" };
    let (page, next) = page(cloud, asked, kind, &volumes, |volume| &volume.id)?;
    let views = page.iter().map(|volume| {
        let view = view(cloud, volume, asked);
        match detailed {
            true => view,
            false => json!({"id": view["id"], "name": view["name"], "links": view["links"]}),
        }
    });
    let mut told = json!({"volumes": Value::from_iter(views)});
    if !next.is_empty() {
        told["volumes_links"] = next.into();
    }
    Ok(Answer::new(200).json(&told))
}

pub(super) fn delete(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let force = asked.minor >= 23 && asked.wants("force");
    end(cloud, asked, force, asked.wants("cascade"))
}

pub(super) fn force_delete(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    end(cloud, asked, true, false)
}

fn end(cloud: &mut Cloud, asked: &Asked<'_>, force: bool, cascade: bool) -> Done {
    let volume = found(cloud, asked)?.clone();
    let attached = cloud.attached(&volume.id).any(|one| one.status == "attached");
    let held = cloud.snapshots.iter().any(|snapshot| snapshot.volume == volume.id) && !cascade;
    let deletable = force || DELETABLE.contains(&volume.status.as_str());
    if attached || held || !deletable {
        let status = if force {
            String::new()
        } else {
            format!("status must be {} and", DELETABLE.join(" or "))
        };
        return Err(invalid_volume(&format!(
            "Volume {status} must not be migrating, attached, belong to a group, have snapshots, \
             awaiting a transfer, or be disassociated from snapshots after volume transfer."
        )));
    }
    let fails = cloud.fails(Step::Delete);
    let work = cloud.work(if fails { Then::Is("error_deleting") } else { Then::Gone });
    let volume = found(cloud, asked)?;
    volume.status = "deleting".into();
    volume.work = work;
    Ok(Answer::new(202))
}

/// What an action says.
fn argument(asked: &Asked<'_>, action: &str, name: &str) -> Value {
    asked.body[action][name].clone()
}

pub(super) fn extend(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let size = argument(asked, "os-extend", "new_size");
    let size = size.as_u64().or_else(|| size.as_str()?.parse().ok()).unwrap_or_default();
    let volume = found(cloud, asked)?.clone();
    let (id, now, status) = (&volume.id, volume.size, &volume.status);
    if size <= now {
        return Err(invalid(&format!(
            "Invalid input received: New size for extend must be greater than current size. \
             (current: {now}, extended: {size})."
        )));
    }
    let in_use = asked.minor >= 42 && status == "in-use";
    let expected = if in_use { "in-use" } else { "available" };
    if status != expected {
        return Err(invalid_volume(&format!(
            "Volume {id} status must be '{{'status': '{expected}'}}' to extend, currently {status}."
        )));
    }
    types::within_quota(cloud, 0, size - now)?;
    let fails = cloud.fails(Step::Extend) || (in_use && !cloud.ways.extends_in_use);
    let then = if fails { Then::Is("error_extending") } else { Then::Extended(size) };
    let work = cloud.work(then);
    let volume = found(cloud, asked)?;
    volume.status = "extending".into();
    volume.work = work;
    Ok(Answer::new(202))
}

pub(super) fn set_readonly(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let flag = truth(&argument(asked, "os-update_readonly_flag", "readonly"))
        .ok_or_else(|| invalid("Invalid input for field/attribute readonly."))?;
    let volume = found(cloud, asked)?;
    let (id, status) = (&volume.id, &volume.status);
    if status != "available" {
        return Err(invalid_volume(&format!(
            "Volume {id} status must be available to update readonly flag, but current status is: \
             {status}."
        )));
    }
    volume.readonly = Some(flag);
    Ok(Answer::new(202))
}

pub(super) fn reset_status(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let attached = cloud.attached(asked.id()).next().is_some();
    let volume = found(cloud, asked)?;
    if let Some(status) = argument(asked, "os-reset_status", "status").as_str() {
        let status = status.to_lowercase();
        if status == "in-use" && !attached {
            let why = "Cannot reset-state to in-use because volume does not have any attachments.";
            return Err(invalid(why));
        }
        if status == "deleting" {
            return Err(invalid("Cannot reset-state to deleting"));
        }
        volume.status = status;
        volume.work = None;
    }
    if argument(asked, "os-reset_status", "attach_status") == "detached" {
        cloud.attachments.retain(|attachment| attachment.volume != asked.id());
    }
    Ok(Answer::new(202))
}

pub(super) fn set_bootable(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let flag = truth(&argument(asked, "os-set_bootable", "bootable"))
        .ok_or_else(|| invalid("Invalid input for field/attribute bootable."))?;
    found(cloud, asked)?.bootable = flag;
    Ok(Answer::new(200))
}

/// The name of one of a volume's metadata, in the path.
fn key<'a>(asked: &'a Asked<'_>) -> Option<&'a str> {
    asked.head.path.get(5).map(String::as_str).filter(|key| !key.is_empty())
}

fn no_metadata(id: &str, key: &str) -> Refused {
    Refused(404, format!("Volume {id} has no metadata with key {key}."))
}

pub(super) fn get_metadata(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let kept = &found(cloud, asked)?.metadata;
    let Some(key) = key(asked) else {
        return Ok(Answer::new(200).json(&json!({"metadata": kept})));
    };
    let value = kept.get(key).ok_or_else(|| no_metadata(asked.id(), key))?;
    Ok(Answer::new(200).json(&json!({"meta": {key: value}})))
}

/// Its name; all else that Cinder lets be changed is not asked for.
pub(super) fn update(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let volume = found(cloud, asked)?;
    if let Some(name) = asked.body["volume"]["name"].as_str() {
        volume.name = name.to_owned();
    }
    show(cloud, asked)
}

pub(super) fn put_metadata(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let volume = found(cloud, asked)?;
    if let Some(key) = key(asked) {
        let given = metadata(&asked.body["meta"])?;
        if given.len() != 1 || !given.contains_key(key) {
            return Err(invalid("Request body and URI mismatch"));
        }
        volume.metadata.extend(given);
        return Ok(Answer::new(200).json(&json!({"meta": asked.body["meta"]})));
    }
    let given = metadata(&asked.body["metadata"])?;
    if asked.head.method == hyper::Method::PUT {
        volume.metadata.clear();
    }
    volume.metadata.extend(given);
    Ok(Answer::new(200).json(&json!({"metadata": volume.metadata})))
}

pub(super) fn delete_metadata(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let key = key(asked).unwrap_or_default();
    let volume = found(cloud, asked)?;
    volume.metadata.remove(key).ok_or_else(|| no_metadata(asked.id(), key))?;
    Ok(Answer::new(200))
}

pub(super) fn encryption(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let told = match found(cloud, asked)?.encrypted {
        true => json!({
            "provider": "luks",
            "cipher": "aes-xts-plain64",
            "key_size": 256,
            "control_location": "front-end",
            "encryption_key_id": new_id(),
        }),
        false => json!({}),
    };
    Ok(Answer::new(200).json(&told))
}
