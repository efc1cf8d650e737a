//! Attachments: reserved, connected, complete, ended; and what each says of its device.

use std::os::unix::fs::FileExt as _;

use serde_json::{Value, json};

use super::{
    api::{Asked, Done, Refused, invalid, invalid_volume, no_volume, unknown_element},
    cloud::{Attachment, Cloud, Step, Volume, Wrong, new_id},
    volumes::time,
};
use crate::harness::service::Answer;

/// What a request to make one may say.
const GIVEN: [&str; 3] = ["volume_uuid", "instance_uuid", "connector"];

fn summary(attachment: &Attachment) -> Value {
    json!({
        "id": attachment.id,
        "status": attachment.status,
        "instance": attachment.instance,
        "volume_id": attachment.volume,
    })
}

fn view(attachment: &Attachment) -> Value {
    let mut told = summary(attachment);
    told["attached_at"] = attachment.since.map(time).unwrap_or_default().into();
    told["detached_at"] = "".into();
    told["attach_mode"] = attachment.mode.as_str().into();
    told["connection_info"] = attachment.connection.clone();
    told
}

fn one(status: u16, attachment: &Attachment) -> Answer {
    Answer::new(status).json(&json!({"attachment": view(attachment)}))
}

/// The attachment that a request is for.
fn found<'a>(cloud: &'a mut Cloud, id: &str) -> Result<&'a mut Attachment, Refused> {
    let found = cloud.attachments.iter_mut().find(|attachment| attachment.id == id);
    found.ok_or_else(|| {
        let why = "Volume attachment could not be found with filter: attachment_id";
        Refused(404, format!("{why} = {id}."))
    })
}

pub(super) fn create(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let given = &asked.body["attachment"];
    let names = given.as_object().into_iter().flat_map(|given| given.keys());
    let known = |name: &str| GIVEN.contains(&name) || (name == "mode" && asked.minor >= 54);
    if let Some(name) = names.into_iter().find(|name| !known(name)) {
        return Err(unknown_element("attachment", name));
    }
    if !given["mode"].is_null() && !["rw", "ro"].contains(&given["mode"].as_str().unwrap_or("")) {
        return Err(invalid("Invalid input for field/attribute mode."));
    }
    if given.get("instance_uuid").is_some_and(|instance| !instance.is_string()) {
        return Err(invalid("Invalid input for field/attribute instance_uuid."));
    }
    let id = given["volume_uuid"].as_str().unwrap_or_default();
    let instance = given["instance_uuid"].as_str().map(str::to_owned);
    let volume = cloud.volume(id).cloned().ok_or_else(|| no_volume(id))?;
    reserve(cloud, &volume, instance.as_deref())?;
    let attachment = Attachment {
        id: new_id(),
        volume: volume.id.clone(),
        // Whoever set the flag once, to whatever, gets `ro`: Cinder takes the text "False" for true.
        mode: match volume.readonly {
            Some(_) => "ro",
            None => given["mode"].as_str().unwrap_or("null"),
        }
        .to_owned(),
        status: "reserved".into(),
        instance,
        connector: Value::Null,
        connection: json!({}),
        since: None,
    };
    let attachment_id = attachment.id.clone();
    cloud.attachments.push(attachment);
    if given["connector"].is_object() {
        connect(
            cloud,
            &attachment_id,
            &given["connector"],
            "Unable to create attachment for volume",
        )?;
    }
    Ok(one(200, found(cloud, &attachment_id)?))
}

/// A volume has another attachment from now on, if it can have one.
fn reserve(cloud: &mut Cloud, volume: &Volume, instance: Option<&str>) -> Result<(), Refused> {
    let (id, status) = (&volume.id, &volume.status);
    if status.contains("error") {
        return Err(invalid_volume(&format!(
            "Volume attachments can not be created if the volume is in an error state. The Volume \
             {id} currently has a status of: {status} "
        )));
    }
    let statuses = match volume.multiattach {
        true => &["available", "in-use", "downloading"][..],
        false => &["available", "downloading"][..],
    };
    if statuses.contains(&status.as_str()) {
        cloud.volume(id).unwrap().status = "reserved".into();
        return Ok(());
    }
    // An instance that moves has its volume at two places.
    let moves = ["in-use", "reserved"].contains(&status.as_str())
        && instance.is_some()
        && cloud.attached(id).any(|attachment| attachment.instance.as_deref() == instance);
    if moves {
        return Ok(());
    }
    let statuses = statuses.join(" or ");
    Err(invalid_volume(&format!(
        "Volume {id} status must be {statuses} to reserve, but the current status is {status}."
    )))
}

pub(super) fn update(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let connector = &asked.body["attachment"]["connector"];
    if connector.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(invalid("Invalid input for field/attribute connector."));
    }
    let of = found(cloud, asked.id())?.volume.clone();
    let volume = cloud.volume(&of).cloned().ok_or_else(|| no_volume(&of))?;
    let (id, status) = (&volume.id, &volume.status);
    if status.contains("error") {
        return Err(Refused(
            409,
            format!(
                "Resource conflict: Volume attachments can not be updated if the volume is in an \
                 error state. The Volume {id} currently has a status of: {status} "
            ),
        ));
    }
    let several = cloud.attached(&of).count() > 1 && !volume.multiattach;
    if several && cloud.attached(&of).any(|one| one.connection != json!({})) {
        let why = format!("Resource conflict: duplicate connectors detected on volume {id}");
        return Err(Refused(409, why));
    }
    connect(cloud, asked.id(), connector, "Unable to update attachment")?;
    Ok(one(200, found(cloud, asked.id())?))
}

/// An attachment leads to its device from now on.
fn connect(cloud: &mut Cloud, id: &str, connector: &Value, doing: &str) -> Result<(), Refused> {
    if let Err(refused) = cloud.backend(Step::Attach, doing) {
        found(cloud, id)?.status = "error_attaching".into();
        return Err(refused);
    }
    let of = found(cloud, id)?.volume.clone();
    let volume = cloud.volume(&of).cloned().ok_or_else(|| no_volume(&of))?;
    let connection = connection(cloud, &volume, id, connector);
    cloud.volume(&of).unwrap().status = "attaching".into();
    let attachment = found(cloud, id)?;
    if attachment.mode == "null" {
        attachment.mode = connector["mode"].as_str().unwrap_or("rw").into();
    }
    attachment.connector = connector.clone();
    attachment.connection = connection;
    attachment.status = "attaching".into();
    attachment.since = Some(chrono::Utc::now());
    Ok(())
}

/// `connection_info`, as the API gives it: what the backend says, and beside it what Cinder adds.
fn connection(cloud: &mut Cloud, volume: &Volume, id: &str, connector: &Value) -> Value {
    let wrong = cloud.ways.wrong.clone();
    let shown = match &wrong {
        Some(Wrong::Volume(other)) => cloud.volume(other).cloned().unwrap(),
        _ => volume.clone(),
    };
    let disk = cloud.disk(&shown);
    let mut told = (cloud.connect.0)(&disk);
    let fields = told.as_object_mut().unwrap();
    let access = if volume.readonly == Some(true) { "ro" } else { "rw" };
    let enforced = connector["enforce_multipath"].as_bool().unwrap_or_default();
    for (name, value) in [
        ("qos_specs", Value::Null),
        ("access_mode", access.into()),
        ("encrypted", volume.encrypted.into()),
        ("cacheable", false.into()),
        ("attachment_id", id.into()),
        ("enforce_multipath", enforced.into()),
    ] {
        fields.insert(name.into(), value);
    }
    let write = || std::fs::File::options().write(true).open(&disk.path).unwrap();
    match wrong {
        Some(Wrong::Size(bytes)) => write().set_len(bytes).unwrap(),
        // Version 3, without a backing file, as large as the volume.
        Some(Wrong::Qcow2) => {
            let mut header = b"QFI\xfb\0\0\0\x03".to_vec();
            header.extend([0; 12]);
            header.extend(16_u32.to_be_bytes());
            header.extend(disk.size.to_be_bytes());
            write().write_all_at(&header, 0).unwrap();
        }
        Some(Wrong::Field(name, value)) => {
            fields.insert(name.into(), value);
        }
        Some(Wrong::Lacks(name)) => {
            fields.remove(name);
        }
        Some(Wrong::Volume(_)) | None => {}
    }
    told
}

pub(super) fn complete(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let attachment = found(cloud, asked.id())?;
    attachment.status = "attached".into();
    let of = attachment.volume.clone();
    cloud.volume(&of).ok_or_else(|| no_volume(&of))?.status = "in-use".into();
    Ok(Answer::new(204))
}

pub(super) fn show(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    Ok(one(200, found(cloud, asked.id())?))
}

pub(super) fn list(cloud: &Cloud, asked: &Asked<'_>) -> Answer {
    let head = asked.head;
    let chosen = |attachment: &&Attachment| {
        let is = |name: &str, own: &str| !head.asks(name) || head.value(name) == own;
        is("volume_id", &attachment.volume)
            && is("status", &attachment.status)
            && is("instance_id", attachment.instance.as_deref().unwrap_or_default())
    };
    let told = if asked.id() == "detail" { view } else { summary };
    let found = cloud.attachments.iter().rev().filter(chosen).map(told);
    Answer::new(200).json(&json!({"attachments": Value::from_iter(found)}))
}

pub(super) fn delete(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let of = found(cloud, asked.id())?.volume.clone();
    cloud.backend(Step::Detach, "Terminate volume connection failed")?;
    if cloud.ways.linger > 0 {
        cloud.ways.linger -= 1;
    } else {
        cloud.attachments.retain(|attachment| attachment.id != asked.id());
        let in_use = cloud.attached(&of).next().is_some();
        if let Some(volume) = cloud.volume(&of) {
            volume.status = if in_use { "in-use" } else { "available" }.into();
        }
    }
    let left = Value::from_iter(cloud.attached(&of).map(summary));
    Ok(Answer::new(200).json(&json!({"attachments": left})))
}
