//! Snapshots of volumes.

use serde_json::{Value, json};

use super::{
    api::{Asked, Done, Refused, invalid_volume, no_volume, truth},
    cloud::{Cloud, Snapshot, Step, Then, copy, new_id},
    volumes::{metadata, page, time},
};
use crate::harness::service::Answer;

fn view(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id,
        "created_at": time(snapshot.created),
        "updated_at": null,
        "name": snapshot.name,
        "description": null,
        "volume_id": snapshot.volume,
        "status": snapshot.status,
        "size": snapshot.size,
        "metadata": snapshot.metadata,
    })
}

/// The snapshot that a request is for.
fn found<'a>(cloud: &'a mut Cloud, asked: &Asked<'_>) -> Result<&'a mut Snapshot, Refused> {
    let found = cloud.snapshots.iter_mut().find(|snapshot| snapshot.id == asked.id());
    found.ok_or_else(|| Refused(404, format!("Snapshot {} could not be found.", asked.id())))
}

pub(super) fn create(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let given = &asked.body["snapshot"];
    let id = given["volume_id"].as_str().unwrap_or_default();
    let volume = cloud.volume(id).cloned().ok_or_else(|| no_volume(id))?;
    let in_use_too = asked.minor >= 66 || truth(&given["force"]) == Some(true);
    let (statuses, told) = match in_use_too {
        true => (&["available", "in-use"][..], "available, in-use"),
        false => (&["available"][..], "available"),
    };
    let status = &volume.status;
    if !statuses.contains(&status.as_str()) {
        return Err(invalid_volume(&format!(
            "Volume {id} status must be {told}, but current status is: {status}."
        )));
    }
    let then = if cloud.fails(Step::Snapshot) { "error" } else { "available" };
    let snapshot = Snapshot {
        id: new_id(),
        volume: volume.id.clone(),
        name: given["name"].as_str().unwrap_or_default().to_owned(),
        size: volume.size,
        status: "creating".into(),
        metadata: metadata(&given["metadata"])?,
        created: chrono::Utc::now(),
        work: cloud.work(Then::Is(then)),
    };
    // Its bytes are those of this moment, whenever it becomes available.
    let file = std::fs::File::create_new(cloud.snapshot_file(&snapshot.id)).unwrap();
    copy(&cloud.disk(&volume).path, &file);
    let told = view(&snapshot);
    cloud.snapshots.push(snapshot);
    Ok(Answer::new(202).json(&json!({"snapshot": told})))
}

pub(super) fn show(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    cloud.look_at_snapshot(asked.id());
    let told = view(found(cloud, asked)?);
    Ok(Answer::new(200).json(&json!({"snapshot": told})))
}

pub(super) fn list(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let head = asked.head;
    let ids: Vec<_> = cloud.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
    ids.iter().for_each(|id| cloud.look_at_snapshot(id));
    let chosen = |snapshot: &&Snapshot| {
        let is = |name: &str, own: &str| !head.asks(name) || head.value(name) == own;
        is("name", &snapshot.name) && is("volume_id", &snapshot.volume)
    };
    let snapshots: Vec<_> = cloud.snapshots.iter().rev().filter(chosen).cloned().collect();
    let kind = if asked.id() == "detail" { "snapshots/detail" } else { "snapshots" };
    let (page, next) = page(cloud, asked, kind, &snapshots, |snapshot| &snapshot.id)?;
    let mut told = json!({"snapshots": Value::from_iter(page.iter().map(view))});
    if !next.is_empty() {
        told["snapshots_links"] = next.into();
    }
    Ok(Answer::new(200).json(&told))
}

pub(super) fn delete(cloud: &mut Cloud, asked: &Asked<'_>) -> Done {
    let status = found(cloud, asked)?.status.clone();
    if !["available", "error"].contains(&status.as_str()) {
        let why = "Snapshot status must be available or error and must not be part of a group.";
        return Err(Refused(400, format!("Invalid snapshot: {why}")));
    }
    let fails = cloud.fails(Step::DeleteSnapshot);
    let work = cloud.work(if fails { Then::Is("error_deleting") } else { Then::Gone });
    let snapshot = found(cloud, asked)?;
    snapshot.status = "deleting".into();
    snapshot.work = work;
    Ok(Answer::new(202))
}
