//! The dialect of Swift: objects that stand for their segments.

use serde_json::{Value, json};

use super::{
    space::{Manifest, Object, Segment, Space},
    swift::{At, listed, refusal},
};
use crate::harness::service::{Answer, Blob, hex, md5_of};

/// The object that a static manifest makes, if all that it says of its segments is true.
pub(super) fn manifest(space: &mut Space, at: &At<'_>, body: &Blob) -> Result<Object, Answer> {
    let Ok(Value::Array(lines)) = serde_json::from_str(&body.text()) else {
        return Err(refusal(400));
    };
    let mut segments = Vec::new();
    for line in lines {
        let path = line["path"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
        let (container, name) = path.split_once('/').unwrap_or_default();
        let found =
            space.bucket(&at.account, container).and_then(|bucket| bucket.objects.get(name));
        let Some(object) = found else { return Err(refusal(400)) };
        let size = object.blob.len();
        let etag_differs = line["etag"].as_str().is_some_and(|etag| etag != object.etag);
        let size_differs = line["size_bytes"].as_u64().is_some_and(|bytes| bytes != size);
        if etag_differs || size_differs || size == 0 {
            return Err(refusal(400));
        }
        segments.push(Segment {
            container: container.to_owned(),
            name: name.to_owned(),
            etag: object.etag.clone(),
            bytes: size,
        });
    }
    if segments.is_empty() || segments.len() > 1000 {
        return Err(refusal(400));
    }
    let etags: String = segments.iter().map(|segment| segment.etag.as_str()).collect();
    let mut object = Object::new(Blob::default(), std::collections::BTreeMap::new());
    object.etag = hex(&md5_of(etags.as_bytes()));
    object.manifest = Some(Manifest::Static(segments));
    Ok(object)
}

/// The bytes of an object and of all that it stands for, and their ETags.
pub(super) fn whole(space: &mut Space, account: &str, object: &Object) -> (Blob, Vec<String>) {
    let unlisted = space.ways.unlisted;
    let parts: Vec<Object> = match &object.manifest {
        None => return (object.blob.clone(), vec![object.etag.clone()]),
        Some(Manifest::Dynamic(named)) => {
            let (container, prefix) = named.split_once('/').unwrap_or((named, ""));
            let Some(bucket) = space.bucket(account, container) else {
                return (Blob::default(), Vec::new());
            };
            let found = listed(bucket, unlisted).into_iter();
            let found = found
                .filter(|(name, object)| name.starts_with(prefix) && object.manifest.is_none());
            found.map(|(_, object)| object.clone()).collect()
        }
        Some(Manifest::Static(segments)) => {
            let found = segments.iter().filter_map(|segment| {
                let bucket = space.bucket(account, &segment.container)?;
                bucket.objects.get(&segment.name).cloned()
            });
            found.collect()
        }
    };
    let etags = parts.iter().map(|part| part.etag.clone()).collect();
    (Blob(parts.into_iter().flat_map(|part| part.blob.0).collect()), etags)
}

/// A static manifest, as it was put if `raw`.
pub(super) fn told(segments: &[Segment], raw: bool) -> Answer {
    let lines = segments.iter().map(|segment| {
        let path = format!("/{}/{}", segment.container, segment.name);
        if raw {
            json!({"path": path, "etag": segment.etag, "size_bytes": segment.bytes})
        } else {
            json!({"name": path, "hash": segment.etag, "bytes": segment.bytes})
        }
    });
    Answer::new(200)
        .with("content-type", "application/json")
        .with("x-static-large-object", "True")
        .body(Value::from_iter(lines).to_string())
}

/// Deletes what these paths name, and says how that went.
pub(super) fn delete_all(space: &mut Space, account: &str, paths: &[String]) -> Answer {
    let (mut deleted, mut missing) = (0, 0);
    for path in paths {
        let (container, name) = path.split_once('/').unwrap_or((path, ""));
        let bucket = space.bucket(account, container);
        match bucket.and_then(|bucket| bucket.objects.remove(name)) {
            Some(_) => deleted += 1,
            None => missing += 1,
        }
    }
    let told = json!({
        "Number Deleted": deleted,
        "Number Not Found": missing,
        "Response Status": "200 OK",
        "Response Body": "",
        "Errors": [],
    });
    Answer::new(200).with("content-type", "application/json").body(told.to_string())
}
