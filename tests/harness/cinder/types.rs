//! Volume types, and limits.

use serde_json::{Value, json};

use super::{
    api::{Asked, Done, Refused},
    cloud::Cloud,
};
use crate::harness::service::{Answer, md5_of};

/// What stands for a type beside its name.
pub(super) fn type_id(name: &str) -> String {
    uuid::Uuid::from_slice(&md5_of(name.as_bytes())).unwrap().to_string()
}

/// The name of the type that is called by its name or its id.
pub(super) fn named(cloud: &Cloud, called: &str) -> Result<String, Refused> {
    let found = cloud.types.keys().find(|name| *name == called || type_id(name) == called);
    let why = || format!("Volume type with name {called} could not be found.");
    found.cloned().ok_or_else(|| Refused(404, why()))
}

fn view(cloud: &Cloud, name: &str) -> Value {
    let specs = if cloud.types[name] { json!({"multiattach": "<is> True"}) } else { json!({}) };
    json!({
        "id": type_id(name),
        "name": name,
        "is_public": true,
        "os-volume-type-access:is_public": true,
        "qos_specs_id": null,
        "description": null,
        "extra_specs": specs,
    })
}

/// By its id alone, as Cinder has it, or all.
pub(super) fn types(cloud: &Cloud, asked: &Asked<'_>) -> Done {
    if asked.id().is_empty() {
        let views = cloud.types.keys().map(|name| view(cloud, name));
        return Ok(Answer::new(200).json(&json!({"volume_types": Value::from_iter(views)})));
    }
    let id = asked.id();
    let found = if id == "default" { Some("__DEFAULT__".to_owned()) } else { by_id(cloud, id) };
    let found = found.filter(|name| cloud.types.contains_key(name));
    let why = || format!("Volume type {id} could not be found.");
    let name = found.ok_or_else(|| Refused(404, why()))?;
    Ok(Answer::new(200).json(&json!({"volume_type": view(cloud, &name)})))
}

fn by_id(cloud: &Cloud, id: &str) -> Option<String> {
    cloud.types.keys().find(|name| type_id(name) == id).cloned()
}

pub(super) fn limits(cloud: &Cloud) -> Done {
    let limit = |most: u64| if most == u64::MAX { json!(-1) } else { json!(most) };
    let used: u64 = cloud.volumes.iter().map(|volume| volume.size).sum();
    Ok(Answer::new(200).json(&json!({"limits": {"rate": [], "absolute": {
        "maxTotalVolumes": limit(cloud.ways.most_volumes),
        "maxTotalVolumeGigabytes": limit(cloud.ways.most_gib),
        "maxTotalSnapshots": -1,
        "maxTotalBackups": 10,
        "maxTotalBackupGigabytes": 1000,
        "totalVolumesUsed": cloud.volumes.len(),
        "totalGigabytesUsed": used,
        "totalSnapshotsUsed": cloud.snapshots.len(),
        "totalBackupsUsed": 0,
        "totalBackupGigabytesUsed": 0,
    }}})))
}

/// Whether so many more volumes, of so many GiB together, are allowed.
pub(super) fn within_quota(cloud: &Cloud, volumes: usize, gib: u64) -> Result<(), Refused> {
    let (most, quota) = (cloud.ways.most_volumes, cloud.ways.most_gib);
    let used: u64 = cloud.volumes.iter().map(|volume| volume.size).sum();
    if used.saturating_add(gib) > quota {
        let why = format!(
            "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed \
             gigabytes quota. Requested {gib}G, quota is {quota}G and {used}G has been consumed."
        );
        return Err(Refused(413, why));
    }
    if (cloud.volumes.len() + volumes) as u64 > most {
        let why = format!(
            "VolumeLimitExceeded: Maximum number of volumes allowed ({most}) exceeded for quota \
             'volumes'."
        );
        return Err(Refused(413, why));
    }
    Ok(())
}
