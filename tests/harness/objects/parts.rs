//! The dialect of S3: multipart uploads.

use std::fmt::Write as _;

use super::{
    s3::{At, element, elements, error, escaped, quoted, range, source, xml},
    space::{Object, Space, Upload},
};
use crate::harness::service::{Answer, Blob, hex, md5_of};

fn no_upload() -> Answer {
    error(404, "NoSuchUpload", "there is no such upload; it may have been ended")
}

/// The upload that a request names.
fn upload_of<'a>(space: &'a mut Space, at: &At<'_>) -> Option<&'a mut Upload> {
    let upload = space.uploads.get_mut(at.head.value("uploadId"))?;
    (upload.bucket == at.bucket && upload.key == at.key).then_some(upload)
}

fn number(at: &At<'_>) -> Option<u32> {
    at.head.value("partNumber").parse().ok().filter(|number| (1..=10_000).contains(number))
}

pub(super) fn create(space: &mut Space, at: &At<'_>) -> Answer {
    let id = space.identity.name("upload");
    let upload = Upload {
        bucket: at.bucket.to_owned(),
        key: at.key.to_owned(),
        headers: at.kept(),
        tags: at.tags(),
        parts: std::collections::BTreeMap::new(),
    };
    space.uploads.insert(id.clone(), upload);
    let content = element("Bucket", at.bucket) + &element("Key", &escaped(at.key));
    xml(200, "InitiateMultipartUploadResult", &(content + &element("UploadId", &id)))
}

pub(super) fn upload(
    space: &mut Space,
    at: &At<'_>,
    body: Blob,
    sums: Vec<(String, String)>,
) -> Answer {
    let largest = space.ways.largest;
    let Some(number) = number(at) else {
        return error(400, "InvalidArgument", "a part has a number from 1 to 10000");
    };
    let Some(upload) = upload_of(space, at) else { return no_upload() };
    if body.len() > largest {
        return error(400, "EntityTooLarge", "it is larger than one request takes");
    }
    let etag = hex(&body.md5());
    let mut answer = Answer::new(200).with("etag", quoted(&etag));
    for (name, value) in sums {
        answer = answer.with(&name, value);
    }
    upload.parts.insert(number, (body, etag));
    answer
}

pub(super) fn copy(space: &mut Space, at: &At<'_>) -> Answer {
    let object = match source(space, at.head) {
        Ok(object) => object,
        Err(refused) => return refused,
    };
    let Some(number) = number(at) else {
        return error(400, "InvalidArgument", "a part has a number from 1 to 10000");
    };
    let size = object.blob.len();
    let span = match at.head.header("x-amz-copy-source-range") {
        None => 0..size,
        Some(text) => match range(text, size) {
            Some(span) => span,
            None => return error(416, "InvalidRange", "the source has no such range"),
        },
    };
    let blob = object.blob.slice(span);
    let etag = hex(&blob.md5());
    let Some(upload) = upload_of(space, at) else { return no_upload() };
    upload.parts.insert(number, (blob, etag.clone()));
    xml(200, "CopyPartResult", &element("ETag", &escaped(&quoted(&etag))))
}

pub(super) fn complete(space: &mut Space, at: &At<'_>, body: &Blob) -> Answer {
    let ways = space.ways.clone();
    let taken = space.bucket("", at.bucket).unwrap().objects.contains_key(at.key);
    let Some(upload) = upload_of(space, at) else { return no_upload() };
    if ways.conditional_complete && at.only_if_none() && taken {
        return error(412, "PreconditionFailed", "there is one already");
    }
    let text = body.text().replace("&quot;", "\"").replace("&#34;", "\"");
    let one =
        |part: &str, name| elements(part, name).first().copied().unwrap_or_default().to_owned();
    let listed: Vec<(u32, String)> = elements(&text, "Part")
        .into_iter()
        .map(|part| {
            let number = one(part, "PartNumber").parse().unwrap_or(0);
            (number, one(part, "ETag").trim_matches('"').to_owned())
        })
        .collect();
    if listed.is_empty() {
        return error(400, "MalformedXML", "no part is named");
    }
    if !listed.is_sorted_by(|(a, _), (b, _)| a < b) {
        return error(400, "InvalidPartOrder", "the parts are not in order");
    }
    let mut pieces = Vec::new();
    let mut sums = Vec::new();
    for (nth, (number, etag)) in listed.iter().enumerate() {
        let Some((blob, own)) = upload.parts.get(number).filter(|(_, own)| own == etag) else {
            return error(400, "InvalidPart", &format!("there is no part {number} with this ETag"));
        };
        if nth + 1 < listed.len() && blob.len() < ways.least_part {
            return error(400, "EntityTooSmall", &format!("part {number} is too small"));
        }
        pieces.extend(blob.0.iter().cloned());
        sums.extend(data_encoding::HEXLOWER.decode(own.as_bytes()).unwrap());
    }
    let upload = space.uploads.remove(at.head.value("uploadId")).unwrap();
    let etag = format!("{}-{}", hex(&md5_of(&sums)), listed.len());
    let object = Object {
        blob: Blob(pieces),
        etag: etag.clone(),
        headers: upload.headers,
        tags: upload.tags,
        manifest: None,
        modified: chrono::Utc::now(),
    };
    space.bucket("", at.bucket).unwrap().objects.insert(at.key.to_owned(), object);
    let mut content = element("Bucket", at.bucket) + &element("Key", &escaped(at.key));
    let told = if ways.complete_tells_etag { quoted(&etag) } else { String::new() };
    content += &element("ETag", &escaped(&told));
    xml(200, "CompleteMultipartUploadResult", &content)
}

pub(super) fn abort(space: &mut Space, at: &At<'_>) -> Answer {
    if upload_of(space, at).is_none() {
        return no_upload();
    }
    space.uploads.remove(at.head.value("uploadId"));
    Answer::new(204)
}

pub(super) fn list(space: &mut Space, at: &At<'_>) -> Answer {
    let page = space.ways.page;
    let after = at.head.value("part-number-marker").parse().unwrap_or(0);
    let Some(upload) = upload_of(space, at) else { return no_upload() };
    let mut found = upload.parts.range(after + 1..);
    let shown: Vec<_> = found.by_ref().take(page).collect();
    let more = found.next().is_some();
    let mut content = element("IsTruncated", &more.to_string());
    if let Some((last, _)) = shown.last() {
        content += &element("NextPartNumberMarker", &last.to_string());
    }
    for (number, (blob, etag)) in shown {
        let mut one = element("PartNumber", &number.to_string());
        one += &element("ETag", &escaped(&quoted(etag)));
        one += &element("Size", &blob.len().to_string());
        content += &element("Part", &one);
    }
    xml(200, "ListPartsResult", &content)
}

pub(super) fn list_uploads(space: &mut Space, at: &At<'_>) -> Answer {
    let page = space.ways.page;
    let prefix = at.head.value("prefix");
    let after =
        (at.head.value("key-marker").to_owned(), at.head.value("upload-id-marker").to_owned());
    let mut all: Vec<_> = space
        .uploads
        .iter()
        .filter(|(_, upload)| upload.bucket == at.bucket && upload.key.starts_with(prefix))
        .map(|(id, upload)| (upload.key.clone(), id.clone()))
        .collect();
    all.sort();
    let mut found = all.into_iter().filter(|one| match (after.0.as_str(), after.1.as_str()) {
        ("", _) => true,
        (key, "") => one.0.as_str() > key,
        _ => *one > after,
    });
    let shown: Vec<_> = found.by_ref().take(page).collect();
    let more = found.next().is_some();
    let mut content = element("Bucket", at.bucket) + &element("IsTruncated", &more.to_string());
    if let (true, Some((key, id))) = (more, shown.last()) {
        content += &element("NextKeyMarker", &escaped(key));
        content += &element("NextUploadIdMarker", id);
    }
    for (key, id) in &shown {
        write!(
            content,
            "<Upload><Key>{}</Key><UploadId>{id}</UploadId><Initiated>2026-01-01T00:00:00.000Z\
             </Initiated></Upload>",
            escaped(key)
        )
        .unwrap();
    }
    xml(200, "ListMultipartUploadsResult", &content)
}
