//! The dialect of S3: requests for a bucket, and for objects in one piece. Signatures are not verified, but
//! for the access key in them.

use std::fmt::Write as _;

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::{
    Call,
    checksums::unwrapped,
    parts,
    space::{Bucket, Object, Space},
};
use crate::harness::service::{Answer, Blob, Head};

/// What is kept with an object, by the beginnings of the names.
const KEPT: [&str; 8] = [
    "x-amz-meta-",
    "x-amz-checksum-",
    "content-type",
    "content-disposition",
    "content-language",
    "cache-control",
    "expires",
    "x-amz-storage-class",
];

/// The bucket and the object that a request names, in its path or in its host.
fn named(head: &Head) -> (String, String) {
    let host = head.header("host").unwrap_or_default();
    match host.split_once(".localhost") {
        Some((bucket, _)) => (bucket.to_owned(), head.rest(0)),
        None => (head.path.first().cloned().unwrap_or_default(), head.rest(1)),
    }
}

pub(super) fn call(head: &Head) -> (Call, String) {
    let (bucket, key) = named(head);
    let copies = head.headers.contains_key("x-amz-copy-source");
    let of_object = !key.is_empty();
    let call = match head.method.as_str() {
        _ if bucket.is_empty() => Call::Other,
        "PUT" if !of_object => Call::PutBucket,
        "HEAD" if !of_object => Call::HeadBucket,
        "GET" if !of_object && head.asks("uploads") => Call::ListUploads,
        "GET" if !of_object => Call::List,
        "PUT" if head.asks("tagging") => Call::PutTags,
        "PUT" if head.asks("uploadId") && copies => Call::CopyPart,
        "PUT" if head.asks("uploadId") => Call::UploadPart,
        "PUT" if copies => Call::Copy,
        "PUT" => Call::Put,
        "POST" if head.asks("uploads") => Call::CreateUpload,
        "POST" if head.asks("uploadId") => Call::Complete,
        "GET" if head.asks("uploadId") => Call::ListParts,
        "GET" if head.asks("tagging") => Call::GetTags,
        "GET" => Call::Get,
        "HEAD" => Call::Head,
        "DELETE" if head.asks("uploadId") => Call::Abort,
        "DELETE" if of_object => Call::Delete,
        _ => Call::Other,
    };
    (call, key)
}

/// `XML` of an element.
pub(super) fn element(name: &str, content: &str) -> String {
    format!("<{name}>{content}</{name}>")
}

/// Text in XML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What stands between the tags of each element of this name.
pub(super) fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut rest = xml;
    let mut found = Vec::new();
    while let Some((_, after)) = rest.split_once(&open) {
        // Another element may begin with the same letters.
        let Some(content) = after.strip_prefix('>').or_else(|| {
            after.starts_with(' ').then(|| after.split_once('>').map_or("", |(_, inside)| inside))
        }) else {
            rest = after;
            continue;
        };
        let (inside, after) = content.split_once(&close).unwrap_or((content, ""));
        found.push(inside);
        rest = after;
    }
    found
}

pub(super) fn xml(status: u16, root: &str, content: &str) -> Answer {
    let space = " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    let space = if root == "Error" { "" } else { space };
    let text =
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}{space}>{content}</{root}>");
    Answer::new(status).with("content-type", "application/xml").body(text)
}

pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    let content = element("Code", code) + &element("Message", &escaped(message));
    let content = content + &element("RequestId", "0123456789ABCDEF");
    xml(status, "Error", &content)
}

/// What a server says with this status.
pub(super) fn refusal(status: u16) -> Answer {
    let code = match status {
        401 => "Unauthorized",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        413 => "EntityTooLarge",
        416 => "InvalidRange",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "SlowDown",
        507 => "InsufficientCapacity",
        _ => "Other",
    };
    error(status, code, "because it was planned so")
}

pub(super) fn answer(space: &mut Space, call: Call, head: &Head, body: Blob) -> Answer {
    let authorization = head.header("authorization").unwrap_or_default();
    let access = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/'));
    match access {
        None => return error(403, "AccessDenied", "nobody has signed it"),
        Some((access, _)) if !space.identity.admitted.contains_key(access) => {
            return error(403, "InvalidAccessKeyId", "nobody has this access key");
        }
        Some(_) => {}
    }
    let (name, key) = named(head);
    if call == Call::PutBucket {
        return put_bucket(space, name);
    }
    if space.bucket("", &name).is_none() {
        return error(404, "NoSuchBucket", "the bucket does not exist");
    }
    let (body, sums) = match unwrapped(head, body) {
        Ok(unwrapped) => unwrapped,
        Err(refused) => return refused,
    };
    let at = At { bucket: &name, key: &key, head };
    match call {
        Call::HeadBucket => Answer::new(200).with("x-amz-bucket-region", "us-east-1"),
        Call::List => list(space, &at),
        Call::Put => put(space, &at, body, sums),
        Call::Get | Call::Head => get(space, &at),
        Call::Delete => {
            space.bucket("", &name).unwrap().objects.remove(&key);
            Answer::new(204)
        }
        Call::Copy => copy(space, &at),
        Call::PutTags => put_tags(space, &at, &body),
        Call::GetTags => get_tags(space, &at),
        Call::CreateUpload => parts::create(space, &at),
        Call::UploadPart => parts::upload(space, &at, body, sums),
        Call::CopyPart => parts::copy(space, &at),
        Call::Complete => parts::complete(space, &at, &body),
        Call::Abort => parts::abort(space, &at),
        Call::ListParts => parts::list(space, &at),
        Call::ListUploads => parts::list_uploads(space, &at),
        Call::PutBucket
        | Call::Token
        | Call::PutManifest
        | Call::Post
        | Call::PostBucket
        | Call::DeleteBucket
        | Call::Account
        | Call::Other => error(501, "NotImplemented", "this server does not know that"),
    }
}

/// What a request is about.
pub(super) struct At<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) head: &'a Head,
}

impl At<'_> {
    /// What is kept with an object that this request makes.
    pub(super) fn kept(&self) -> std::collections::BTreeMap<String, String> {
        let mut kept = self.head.beginning(&KEPT);
        // These speak of the request.
        kept.retain(|name, _| {
            !name.starts_with("x-amz-checksum-mode")
                && !name.starts_with("x-amz-checksum-algorithm")
        });
        kept
    }

    /// The tags in the head.
    pub(super) fn tags(&self) -> Vec<(String, String)> {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = self.head.header("x-amz-tagging").unwrap_or_default().split('&');
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (decode(name), decode(value))).collect()
    }

    /// Whether there may be one already.
    pub(super) fn only_if_none(&self) -> bool {
        self.head.header("if-none-match") == Some("*")
    }
}

pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn put_bucket(space: &mut Space, name: String) -> Answer {
    if space.bucket("", &name).is_some() {
        return error(409, "BucketAlreadyOwnedByYou", "it is yours already");
    }
    space.buckets.insert((String::new(), name), Bucket::default());
    Answer::new(200)
}

fn put(space: &mut Space, at: &At<'_>, body: Blob, sums: Vec<(String, String)>) -> Answer {
    let (conditional, largest) = (space.ways.conditional_put, space.ways.largest);
    let objects = &mut space.bucket("", at.bucket).unwrap().objects;
    if conditional && at.only_if_none() && objects.contains_key(at.key) {
        return error(412, "PreconditionFailed", "there is one already");
    }
    if body.len() > largest {
        return error(400, "EntityTooLarge", "it is larger than one request takes");
    }
    let mut object = Object::new(body, at.kept());
    object.headers.extend(sums);
    object.tags = at.tags();
    let answer = Answer::new(200).with("etag", quoted(&object.etag));
    objects.insert(at.key.to_owned(), object);
    answer
}

/// A range of bytes as `Range` names it: what is sent, or `None` where it lies outside.
pub(super) fn range(text: &str, size: u64) -> Option<std::ops::Range<u64>> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from < size && from <= to => Some(from..(to + 1).min(size)),
        (Ok(from), Err(_)) if from < size => Some(from..size),
        (Err(_), Ok(last)) if last > 0 && size > 0 => Some(size.saturating_sub(last)..size),
        _ => None,
    }
}

fn get(space: &mut Space, at: &At<'_>) -> Answer {
    let Some(object) = space.bucket("", at.bucket).unwrap().objects.get(at.key) else {
        return error(404, "NoSuchKey", "there is no such object");
    };
    let etag = quoted(&object.etag);
    if at.head.header("if-match").is_some_and(|wanted| wanted != etag && wanted != "*") {
        return error(412, "PreconditionFailed", "it is another one");
    }
    if at.head.header("if-none-match").is_some_and(|known| known == etag) {
        return Answer::new(304).with("etag", etag);
    }
    let size = object.blob.len();
    let (status, range) = match at.head.header("range") {
        None => (200, 0..size),
        Some(text) => match range(text, size) {
            Some(range) => (206, range),
            None => return error(416, "InvalidRange", "it starts past the end"),
        },
    };
    let mut answer = Answer::new(status)
        .with("etag", etag)
        .with("accept-ranges", "bytes")
        .with("last-modified", object.modified.format("%a, %d %b %Y %H:%M:%S GMT"));
    let checked = at.head.header("x-amz-checksum-mode") == Some("ENABLED");
    for (name, value) in &object.headers {
        if !name.starts_with("x-amz-checksum-") || (checked && status == 200) {
            answer = answer.with(name, value);
        }
    }
    if !object.tags.is_empty() {
        answer = answer.with("x-amz-tagging-count", object.tags.len());
    }
    if status == 206 {
        let end = range.end - 1;
        answer = answer.with("content-range", format!("bytes {}-{end}/{size}", range.start));
    }
    let body = object.blob.slice(range);
    if at.head.method == Method::HEAD {
        return Answer { length: Some(body.len()), ..answer };
    }
    answer.body(body)
}

/// The object that is copied from, of which a condition may speak.
pub(super) fn source(space: &mut Space, head: &Head) -> Result<Object, Answer> {
    let named = head.header("x-amz-copy-source").unwrap_or_default();
    let named = percent_decode_str(named).decode_utf8_lossy().into_owned();
    let (bucket, key) = named.trim_start_matches('/').split_once('/').unwrap_or_default();
    let Some(bucket) = space.bucket("", bucket) else {
        return Err(error(404, "NoSuchBucket", "the bucket does not exist"));
    };
    let Some(object) = bucket.objects.get(key) else {
        return Err(error(404, "NoSuchKey", "there is no such object to copy"));
    };
    let etag = quoted(&object.etag);
    if head.header("x-amz-copy-source-if-match").is_some_and(|wanted| wanted != etag) {
        return Err(error(412, "PreconditionFailed", "it is another one"));
    }
    Ok(object.clone())
}

fn copy(space: &mut Space, at: &At<'_>) -> Answer {
    let conditional = space.ways.conditional_put;
    let mut object = match source(space, at.head) {
        Ok(object) => object,
        Err(refused) => return refused,
    };
    if at.head.header("x-amz-metadata-directive") == Some("REPLACE") {
        object.headers = at.kept();
    }
    if at.head.header("x-amz-tagging-directive") == Some("REPLACE") {
        object.tags = at.tags();
    }
    object = Object { modified: chrono::Utc::now(), ..object };
    // What was in parts has no parts now.
    let plain = Object::new(object.blob.clone(), object.headers.clone());
    object.etag = plain.etag;
    let objects = &mut space.bucket("", at.bucket).unwrap().objects;
    if conditional && at.only_if_none() && objects.contains_key(at.key) {
        return error(412, "PreconditionFailed", "there is one already");
    }
    let told = element("ETag", &escaped(&quoted(&object.etag)));
    objects.insert(at.key.to_owned(), object);
    xml(200, "CopyObjectResult", &told)
}

fn put_tags(space: &mut Space, at: &At<'_>, body: &Blob) -> Answer {
    let Some(object) = space.bucket("", at.bucket).unwrap().objects.get_mut(at.key) else {
        return error(404, "NoSuchKey", "there is no such object");
    };
    let text = body.text();
    let tags = elements(&text, "Tag");
    let one = |tag: &str, name| elements(tag, name).first().copied().unwrap_or_default().to_owned();
    object.tags = tags.into_iter().map(|tag| (one(tag, "Key"), one(tag, "Value"))).collect();
    Answer::new(200)
}

fn get_tags(space: &mut Space, at: &At<'_>) -> Answer {
    let Some(object) = space.bucket("", at.bucket).unwrap().objects.get(at.key) else {
        return error(404, "NoSuchKey", "there is no such object");
    };
    let tags = object.tags.iter().map(|(name, value)| {
        let pair = element("Key", &escaped(name)) + &element("Value", &escaped(value));
        element("Tag", &pair)
    });
    xml(200, "Tagging", &element("TagSet", &tags.collect::<String>()))
}

fn list(space: &mut Space, at: &At<'_>) -> Answer {
    let (page, unlisted) = (space.ways.page, space.ways.unlisted);
    let prefix = at.head.value("prefix").to_owned();
    let after = match at.head.value("continuation-token") {
        "" => at.head.value("start-after"),
        token => token,
    };
    let after = if after.is_empty() { at.head.value("marker") } else { after }.to_owned();
    let asked = at.head.value("max-keys").parse().unwrap_or(page).min(page);
    let objects = &space.bucket("", at.bucket).unwrap().objects;
    let mut newest: Vec<_> = objects.values().map(|object| object.modified).collect();
    newest.sort();
    let listed_from = newest.len().saturating_sub(unlisted);
    let until = newest.get(listed_from).copied();
    let mut found = objects.iter().filter(|(key, object)| {
        let listed = until.is_none_or(|until| object.modified < until);
        key.starts_with(&prefix) && **key > after && listed
    });
    let shown: Vec<_> = found.by_ref().take(asked).collect();
    let more = found.next().is_some();
    let mut content = element("Name", at.bucket);
    write!(content, "<Prefix>{}</Prefix><KeyCount>{}</KeyCount>", escaped(&prefix), shown.len())
        .unwrap();
    content += &element("MaxKeys", &asked.to_string());
    content += &element("IsTruncated", &more.to_string());
    if let (true, Some((last, _))) = (more, shown.last()) {
        content += &element("NextContinuationToken", &escaped(last));
    }
    for (key, object) in shown {
        let mut one = element("Key", &escaped(key));
        one +=
            &element("LastModified", &object.modified.format("%Y-%m-%dT%H:%M:%S.000Z").to_string());
        one += &element("ETag", &escaped(&quoted(&object.etag)));
        one += &element("Size", &object.blob.len().to_string());
        one += &element("StorageClass", "STANDARD");
        content += &element("Contents", &one);
    }
    xml(200, "ListBucketResult", &content)
}
