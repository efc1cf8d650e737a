//! The dialect of Swift: accounts, containers, and objects in one piece.

use std::collections::BTreeMap;

use hyper::Method;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{
    Call, large,
    s3::range,
    space::{Bucket, Manifest, Object, Space},
};
use crate::harness::service::{Answer, Blob, Head, hex, keystone, md5_of};

/// What is kept with an object, by the beginnings of the names.
const KEPT: [&str; 5] =
    ["x-object-meta-", "content-type", "content-encoding", "content-disposition", "x-delete-at"];

/// What is kept with a container.
const KEPT_OF_CONTAINERS: [&str; 3] =
    ["x-container-read", "x-container-write", "x-container-meta-"];

/// What Keystone tells of it.
const CATALOGUE: &keystone::Catalogue =
    &[("object-store", |at, account| format!("http://{at}/v1/{account}"))];

pub(super) fn call(head: &Head) -> (Call, String) {
    let first = head.path.first().map_or("", String::as_str);
    if first == "auth" || first == "v3" {
        return (Call::Token, String::new());
    }
    if first != "v1" {
        let asks_for_info = matches!(first, "info" | "healthcheck");
        return (if asks_for_info { Call::Account } else { Call::Other }, String::new());
    }
    let container = head.path.get(2).map_or("", String::as_str);
    let key = head.rest(3);
    let copies = head.headers.contains_key("x-copy-from");
    let stands_for_others =
        head.headers.contains_key("x-object-manifest") || head.value("multipart-manifest") == "put";
    let call = match (head.method.as_str(), container, key.as_str()) {
        (_, "", _) => Call::Account,
        ("PUT", _, "") => Call::PutBucket,
        ("HEAD", _, "") => Call::HeadBucket,
        ("GET", _, "") => Call::List,
        ("POST", _, "") => Call::PostBucket,
        ("DELETE", _, "") => Call::DeleteBucket,
        ("PUT", ..) if copies => Call::Copy,
        ("COPY", ..) => Call::Copy,
        ("PUT", ..) if stands_for_others => Call::PutManifest,
        ("PUT", ..) => Call::Put,
        ("GET", ..) => Call::Get,
        ("HEAD", ..) => Call::Head,
        ("POST", ..) => Call::Post,
        ("DELETE", ..) => Call::Delete,
        _ => Call::Other,
    };
    (call, key)
}

/// A refusal as Swift words it.
pub(super) fn refusal(status: u16) -> Answer {
    let text = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        416 => "Requested Range Not Satisfiable",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Error",
    };
    let answer = Answer::new(status).with("content-type", "text/html; charset=UTF-8");
    let answer = answer.body(format!("<html><h1>{text}</h1><p>It was refused.</p></html>"));
    if status == 401 { answer.with("www-authenticate", "Swift realm=\"test\"") } else { answer }
}

pub(super) fn answer(
    space: &mut Space,
    call: Call,
    head: &Head,
    body: Blob,
    address: &str,
) -> Answer {
    if call == Call::Token {
        return keystone::answer(&mut space.identity, head, &body, address, CATALOGUE);
    }
    if head.path.first().is_some_and(|first| first == "info") {
        return Answer::new(200).with("content-type", "application/json").body(
            json!({
                "swift": {"max_file_size": space.ways.largest, "container_listing_limit": space.ways.page},
                "slo": {"max_manifest_segments": 1000, "min_segment_size": 1},
                "bulk_delete": {"max_deletes_per_request": 10_000},
            })
            .to_string(),
        );
    }
    let named = |nth: usize| head.path.get(nth).cloned().unwrap_or_default();
    let at = At { account: named(1), container: named(2), object: head.rest(3), head };
    if let Some(refused) = refused(space, call, &at) {
        return refused;
    }
    if !matches!(call, Call::Account | Call::PutBucket)
        && space.bucket(&at.account, &at.container).is_none()
    {
        return refusal(404);
    }
    match call {
        Call::Account => account(space, &at, &body),
        Call::PutBucket | Call::PostBucket => put_container(space, &at),
        Call::HeadBucket => head_container(space, &at, 204),
        Call::List => list(space, &at),
        Call::DeleteBucket => delete_container(space, &at),
        Call::Put | Call::PutManifest => put(space, &at, body),
        Call::Copy => copy(space, &at),
        Call::Get | Call::Head => get(space, &at),
        Call::Post => post(space, &at),
        Call::Delete => delete(space, &at),
        Call::CreateUpload
        | Call::UploadPart
        | Call::CopyPart
        | Call::Complete
        | Call::Abort
        | Call::ListParts
        | Call::ListUploads
        | Call::PutTags
        | Call::GetTags
        | Call::Token
        | Call::Other => refusal(405),
    }
}

/// What a request is about.
pub(super) struct At<'a> {
    pub(super) account: String,
    pub(super) container: String,
    pub(super) object: String,
    pub(super) head: &'a Head,
}

impl At<'_> {
    fn kept(&self) -> BTreeMap<String, String> {
        let mut kept = self.head.beginning(&KEPT);
        if let Some(after) = self.head.header("x-delete-after") {
            let at = chrono::Utc::now().timestamp() + after.parse::<i64>().unwrap_or(0);
            kept.insert("x-delete-at".to_owned(), at.to_string());
        }
        kept
    }
}

/// Whether a token may do that; what is said if not.
fn refused(space: &mut Space, call: Call, at: &At<'_>) -> Option<Answer> {
    let token = at.head.header("x-auth-token");
    let account = token.and_then(|token| space.identity.account_of(token)).map(str::to_owned);
    let owner = account.as_ref() == Some(&at.account);
    if owner {
        return None;
    }
    let reads = matches!(call, Call::Get | Call::Head | Call::List | Call::HeadBucket);
    let writes = matches!(call, Call::Put | Call::PutManifest | Call::Post | Call::Delete);
    let list = if reads { "x-container-read" } else { "x-container-write" };
    let allowed = space
        .bucket(&at.account, &at.container)
        .and_then(|bucket| bucket.headers.get(list).cloned())
        .unwrap_or_default();
    let project = account.as_ref().map(|account| account.trim_start_matches("AUTH_").to_owned());
    let admits = |entry: &str| match &project {
        _ if entry == ".r:*" => reads,
        Some(project) => entry == "*:*" || entry == format!("{project}:*"),
        None => false,
    };
    if (reads || writes) && allowed.split(',').map(str::trim).any(admits) {
        return None;
    }
    Some(refusal(if account.is_some() { 403 } else { 401 }))
}

fn account(space: &mut Space, at: &At<'_>, body: &Blob) -> Answer {
    if at.head.method == Method::POST && at.head.asks("bulk-delete") {
        let text = body.text();
        let names = text.lines().map(|line| percent_decode_str(line).decode_utf8_lossy());
        let names: Vec<_> = names.map(|name| name.trim_start_matches('/').to_owned()).collect();
        return large::delete_all(space, &at.account, &names);
    }
    let own = space.buckets.iter().filter(|((account, _), _)| *account == at.account);
    let names: Vec<_> = own.map(|((_, name), _)| json!({"name": name})).collect();
    let answer = Answer::new(if at.head.method == Method::HEAD { 204 } else { 200 })
        .with("x-account-container-count", names.len())
        .with("x-account-bytes-used", space.bytes_held());
    if at.head.method == Method::HEAD {
        return answer;
    }
    answer.with("content-type", "application/json").body(json!(names).to_string())
}

fn put_container(space: &mut Space, at: &At<'_>) -> Answer {
    let posts = at.head.method == Method::POST;
    let place = (at.account.clone(), at.container.clone());
    let was_there = space.buckets.contains_key(&place);
    let bucket = space.buckets.entry(place).or_default();
    for (name, value) in at.head.beginning(&KEPT_OF_CONTAINERS) {
        if value.is_empty() {
            bucket.headers.remove(&name);
        } else {
            bucket.headers.insert(name, value);
        }
    }
    Answer::new(match (posts, was_there) {
        (true, _) => 204,
        (false, true) => 202,
        (false, false) => 201,
    })
}

fn head_container(space: &mut Space, at: &At<'_>, status: u16) -> Answer {
    let bucket = space.bucket(&at.account, &at.container).unwrap();
    let bytes: u64 = bucket.objects.values().map(|object| object.blob.len()).sum();
    let mut answer = Answer::new(status)
        .with("x-container-object-count", bucket.objects.len())
        .with("x-container-bytes-used", bytes);
    for (name, value) in &bucket.headers {
        answer = answer.with(name, value);
    }
    answer
}

fn list(space: &mut Space, at: &At<'_>) -> Answer {
    let (page, unlisted) = (space.ways.page, space.ways.unlisted);
    let asked = at.head.value("limit").parse().unwrap_or(page);
    if asked > page {
        return refusal(412);
    }
    let (marker, end) = (at.head.value("marker"), at.head.value("end_marker"));
    let prefix = at.head.value("prefix");
    let bucket = space.bucket(&at.account, &at.container).unwrap();
    let listed = listed(bucket, unlisted);
    let shown = listed.into_iter().filter(|(name, _)| {
        name.starts_with(prefix)
            && name.as_str() > marker
            && (end.is_empty() || name.as_str() < end)
    });
    let shown: Vec<_> = shown.take(asked).collect();
    let as_json = at.head.value("format") == "json"
        || at.head.header("accept").is_some_and(|accept| accept.contains("json"));
    let body = if as_json {
        let lines = shown.iter().map(|(name, object)| {
            json!({
                "name": name,
                "bytes": if object.manifest.is_some() { 0 } else { object.blob.len() },
                "hash": object.etag,
                "content_type": "application/octet-stream",
                "last_modified": object.modified.format("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
            })
        });
        serde_json::Value::from_iter(lines).to_string()
    } else {
        shown.iter().map(|(name, _)| format!("{name}\n")).collect()
    };
    let kind = if as_json { "application/json" } else { "text/plain" };
    let status = if body.is_empty() { 204 } else { 200 };
    head_container(space, at, status).with("content-type", kind).body(body)
}

/// The objects of a container that a listing shows already.
pub(super) fn listed(bucket: &Bucket, unlisted: usize) -> Vec<(&String, &Object)> {
    let mut newest: Vec<_> = bucket.objects.values().map(|object| object.modified).collect();
    newest.sort();
    let until = newest.get(newest.len().saturating_sub(unlisted)).copied();
    let shown = bucket.objects.iter();
    shown.filter(|(_, object)| until.is_none_or(|until| object.modified < until)).collect()
}

fn delete_container(space: &mut Space, at: &At<'_>) -> Answer {
    let place = (at.account.clone(), at.container.clone());
    if space.buckets.get(&place).is_some_and(|bucket| !bucket.objects.is_empty()) {
        return refusal(409);
    }
    space.buckets.remove(&place);
    Answer::new(204)
}

fn put(space: &mut Space, at: &At<'_>, body: Blob) -> Answer {
    let head = at.head;
    let ways = space.ways.clone();
    let place = &space.bucket(&at.account, &at.container).unwrap().objects;
    if head.header("content-length").is_none() && head.header("transfer-encoding").is_none() {
        return refusal(411);
    }
    if head.header("if-none-match") == Some("*") && place.contains_key(&at.object) {
        return refusal(412);
    }
    let full = ways.quota.is_some_and(|quota| place.len() as u64 >= quota);
    if body.len() > ways.largest || full {
        return refusal(413);
    }
    let mut object = if head.value("multipart-manifest") == "put" {
        match large::manifest(space, at, &body) {
            Ok(object) => object,
            Err(refused) => return refused,
        }
    } else {
        Object::new(body, BTreeMap::new())
    };
    object.headers = at.kept();
    if let Some(named) = head.header("x-object-manifest") {
        let named = percent_decode_str(named).decode_utf8_lossy().into_owned();
        object.manifest = Some(Manifest::Dynamic(named));
    }
    if head.header("etag").is_some_and(|etag| etag.trim_matches('"') != object.etag) {
        return refusal(422);
    }
    let etag = match &object.manifest {
        Some(Manifest::Static(_)) => format!("\"{}\"", object.etag),
        _ => object.etag.clone(),
    };
    let bucket = space.bucket(&at.account, &at.container).unwrap();
    bucket.objects.insert(at.object.clone(), object);
    Answer::new(201).with("etag", etag)
}

fn copy(space: &mut Space, at: &At<'_>) -> Answer {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let here = format!("{}/{}", at.container, at.object);
    let (from, to) = match (at.head.header("x-copy-from"), at.head.header("destination")) {
        (Some(from), _) => (decode(from), here),
        (None, Some(to)) => (here, decode(to)),
        (None, None) => return refusal(412),
    };
    let split = |text: &str| {
        let (container, object) = text.trim_start_matches('/').split_once('/').unwrap_or_default();
        (container.to_owned(), object.to_owned())
    };
    let ((from_container, from), (to_container, to)) = (split(&from), split(&to));
    let source = space.bucket(&at.account, &from_container);
    let Some(source) = source.and_then(|bucket| bucket.objects.get(&from)).cloned() else {
        return refusal(404);
    };
    let (blob, _) = large::whole(space, &at.account, &source);
    let mut headers = source.headers;
    headers.extend(at.kept());
    let copy = Object::new(blob, headers);
    let etag = copy.etag.clone();
    let Some(bucket) = space.bucket(&at.account, &to_container) else { return refusal(404) };
    if at.head.header("if-none-match") == Some("*") && bucket.objects.contains_key(&to) {
        return refusal(412);
    }
    bucket.objects.insert(to, copy);
    Answer::new(201).with("etag", etag)
}

fn get(space: &mut Space, at: &At<'_>) -> Answer {
    let bucket = space.bucket(&at.account, &at.container).unwrap();
    let Some(object) = bucket.objects.get(&at.object).cloned() else { return refusal(404) };
    let head = at.head;
    if head.value("multipart-manifest") == "get"
        && let Some(Manifest::Static(segments)) = &object.manifest
    {
        return large::told(segments, head.value("format") == "raw");
    }
    let dynamic = match &object.manifest {
        Some(Manifest::Dynamic(named)) if head.value("multipart-manifest") != "get" => Some(named),
        _ => None,
    };
    let (blob, etag) = match &object.manifest {
        Some(_) if head.value("multipart-manifest") != "get" => {
            let (blob, etags) = large::whole(space, &at.account, &object);
            (blob, format!("\"{}\"", hex(&md5_of(etags.concat().as_bytes()))))
        }
        _ => (object.blob.clone(), object.etag.clone()),
    };
    let same = |wanted: &str| wanted == "*" || wanted.trim_matches('"') == etag.trim_matches('"');
    if head.header("if-match").is_some_and(|wanted| !same(wanted)) {
        return refusal(412);
    }
    if head.header("if-none-match").is_some_and(same) {
        return Answer::new(304);
    }
    let size = blob.len();
    let (status, range) = match head.header("range") {
        None => (200, 0..size),
        Some(text) => match range(text, size) {
            Some(range) => (206, range),
            None => return refusal(416).with("content-range", format!("bytes */{size}")),
        },
    };
    let mut answer = Answer::new(status)
        .with("etag", etag)
        .with("accept-ranges", "bytes")
        .with("x-timestamp", object.modified.format("%s%.3f00"))
        .with("last-modified", object.modified.format("%a, %d %b %Y %H:%M:%S GMT"));
    for (name, value) in &object.headers {
        answer = answer.with(name, value);
    }
    if let Some(named) = dynamic {
        let encoded = percent_encoding::utf8_percent_encode(named, percent_encoding::CONTROLS);
        answer = answer.with("x-object-manifest", encoded);
    }
    if matches!(object.manifest, Some(Manifest::Static(_))) {
        answer = answer.with("x-static-large-object", "True");
    }
    if status == 206 {
        let end = range.end - 1;
        answer = answer.with("content-range", format!("bytes {}-{end}/{size}", range.start));
    }
    let body = blob.slice(range);
    if head.method == Method::HEAD {
        return Answer { length: Some(body.len()), ..answer };
    }
    answer.body(body)
}

fn post(space: &mut Space, at: &At<'_>) -> Answer {
    let kept = at.kept();
    let bucket = space.bucket(&at.account, &at.container).unwrap();
    let Some(object) = bucket.objects.get_mut(&at.object) else { return refusal(404) };
    // What is not sent again is gone, but for the type.
    object.headers.retain(|name, _| name == "content-type");
    object.headers.extend(kept);
    Answer::new(202)
}

fn delete(space: &mut Space, at: &At<'_>) -> Answer {
    let bucket = space.bucket(&at.account, &at.container).unwrap();
    let Some(object) = bucket.objects.get(&at.object) else { return refusal(404) };
    let here = format!("{}/{}", at.container, at.object);
    match (&object.manifest, at.head.value("multipart-manifest")) {
        (Some(Manifest::Static(segments)), "delete") => {
            let segments = segments.iter().map(|one| format!("{}/{}", one.container, one.name));
            let names: Vec<_> = segments.chain([here]).collect();
            large::delete_all(space, &at.account, &names)
        }
        (_, "delete") => large::delete_all(space, &at.account, &[here]),
        _ => {
            bucket.objects.remove(&at.object);
            Answer::new(204)
        }
    }
}
