//! The server itself, by plain HTTP.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::{BUCKET, Call, Fault, Objects, REGION, Rule, SECRET, USER};
use crate::harness::service::plain::{self, Told, read};

impl Told {
    /// What stands in an element.
    fn element(&self, name: &str) -> String {
        super::s3::elements(&self.text(), name).first().copied().unwrap_or_default().to_owned()
    }
}

/// One request on a connection of its own, and its answer.
fn ask(objects: &Objects, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Told> {
    plain::ask(&objects.url(), line, headers, body)
}

/// Sends the head alone.
fn send(
    objects: &Objects,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    length: usize,
) -> (TcpStream, String) {
    plain::send(&objects.url(), line, headers, body, length)
}

const SIGNED: (&str, &str) =
    ("authorization", "AWS4-HMAC-SHA256 Credential=glance/20260101/us-east-1/s3/aws4_request");

/// A signed request of S3.
fn s3(objects: &Objects, line: &str, more: &[(&str, &str)], body: &[u8]) -> Told {
    try_s3(objects, line, more, body).expect("an answer")
}

fn try_s3(objects: &Objects, line: &str, more: &[(&str, &str)], body: &[u8]) -> Option<Told> {
    ask(objects, line, &[&[SIGNED], more].concat(), body)
}

#[test]
fn s3_keeps_what_it_is_given_with_what_came_along() {
    let objects = Objects::s3();
    let kept = [("x-amz-meta-md5", "abc"), ("x-amz-tagging", "a=b%2Fc")];
    let put = s3(&objects, "PUT /images/one", &kept, b"hello world");
    assert_eq!(put.headers["etag"], "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"");
    let got = s3(&objects, "GET /images/one", &[], b"");
    assert_eq!((got.status, got.text().as_str()), (200, "hello world"));
    assert_eq!(got.headers["x-amz-meta-md5"], "abc");
    let head = s3(&objects, "HEAD /images/one", &[], b"");
    assert_eq!((head.status, head.headers["content-length"].as_str()), (200, "11"));
    let part = s3(&objects, "GET /images/one", &[("range", "bytes=6-7")], b"");
    assert_eq!((part.status, part.text().as_str()), (206, "wo"));
    assert_eq!(part.headers["content-range"], "bytes 6-7/11");
    assert_eq!(s3(&objects, "GET /images/one", &[("range", "bytes=11-")], b"").status, 416);
    let other = [("if-match", "\"0\"")];
    assert_eq!(s3(&objects, "GET /images/one", &other, b"").element("Code"), "PreconditionFailed");
    let tags = s3(&objects, "GET /images/one?tagging", &[], b"");
    assert_eq!((tags.element("Key").as_str(), tags.element("Value").as_str()), ("a", "b/c"));
    let tags = b"<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>";
    assert_eq!(s3(&objects, "PUT /images/one?tagging", &[], tags).status, 200);
    assert!(objects.kept_with("one").contains(&("k".to_owned(), "v".to_owned())));
    assert_eq!((objects.left(), objects.bytes_held()), (vec!["one".to_owned()], 11));
    assert_eq!(s3(&objects, "DELETE /images/one", &[], b"").status, 204);
    assert_eq!(s3(&objects, "DELETE /images/one", &[], b"").status, 204);
    assert_eq!(s3(&objects, "GET /images/one", &[], b"").element("Code"), "NoSuchKey");
    assert_eq!((objects.left().len(), objects.bytes_held()), (0, 0));
    objects.place("two", b"past everybody");
    assert_eq!(objects.bytes_of("two").unwrap(), b"past everybody");
}

#[test]
fn s3_knows_keys_buckets_and_conditions() {
    let objects = Objects::s3();
    let unsigned = ask(&objects, "GET /images/one", &[], b"").unwrap();
    assert_eq!((unsigned.status, unsigned.element("Code").as_str()), (403, "AccessDenied"));
    objects.refuse(USER);
    assert_eq!(s3(&objects, "HEAD /images", &[], b"").status, 403);
    objects.admit(USER, "");
    assert_eq!(s3(&objects, "HEAD /images", &[], b"").status, 200);
    assert_eq!(s3(&objects, "HEAD /other", &[], b"").status, 404);
    assert_eq!(s3(&objects, "PUT /other/one", &[], b"x").element("Code"), "NoSuchBucket");
    assert_eq!(s3(&objects, "PUT /other", &[], b"").status, 200);
    assert_eq!(s3(&objects, "PUT /other", &[], b"").element("Code"), "BucketAlreadyOwnedByYou");
    assert_eq!(objects.buckets(), ["images", "other"]);
    objects.remove_bucket("other");
    assert_eq!(objects.buckets(), ["images"]);
    let none = [("if-none-match", "*")];
    assert_eq!(s3(&objects, "PUT /images/one", &none, b"x").status, 200);
    assert_eq!(s3(&objects, "PUT /images/one", &none, b"y").status, 412);
    objects.ignore_conditions();
    assert_eq!(s3(&objects, "PUT /images/one", &none, b"z").status, 200);
    let from = [("x-amz-copy-source", "/images/one")];
    assert_eq!(s3(&objects, "PUT /images/copy", &from, b"").status, 200);
    assert_eq!(objects.bytes_of("copy").unwrap(), b"z");
    let wrong = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
    assert_eq!(s3(&objects, "PUT /images/two", &wrong, b"x").element("Code"), "BadDigest");
    let wrong = [("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")];
    assert_eq!(s3(&objects, "PUT /images/two", &wrong, b"x").element("Code"), "BadDigest");
    assert_eq!(objects.bytes_of("two"), None);
}

/// Begins an upload; its id.
fn begun(objects: &Objects, key: &str) -> String {
    s3(objects, &format!("POST /images/{key}?uploads"), &[], b"").element("UploadId")
}

fn complete(objects: &Objects, key: &str, id: &str, parts: &[(u32, &str)]) -> Told {
    let parts = parts.iter().map(|(number, etag)| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
    });
    let body =
        format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.collect::<String>());
    s3(objects, &format!("POST /images/{key}?uploadId={id}"), &[], body.as_bytes())
}

#[test]
fn an_upload_in_parts_is_an_object_when_it_is_complete() {
    let objects = Objects::s3();
    objects.take_between(3, 8);
    let id = begun(&objects, "one");
    let part = |number: u32, body: &[u8]| {
        let line = format!("PUT /images/one?partNumber={number}&uploadId={id}");
        s3(&objects, &line, &[], body).headers["etag"].clone()
    };
    let (a, b) = (part(1, b"hello"), part(2, b"hi"));
    assert_eq!(objects.left(), ["an upload of one with 2 parts"]);
    assert_eq!(objects.bytes_held(), 7);
    let listed = s3(&objects, &format!("GET /images/one?uploadId={id}"), &[], b"");
    assert_eq!(super::s3::elements(&listed.text(), "PartNumber"), ["1", "2"]);
    assert_eq!(complete(&objects, "one", &id, &[]).element("Code"), "MalformedXML");
    let swapped = complete(&objects, "one", &id, &[(2, &b), (1, &a)]);
    assert_eq!(swapped.element("Code"), "InvalidPartOrder");
    let other = complete(&objects, "one", &id, &[(1, &b), (2, &a)]);
    assert_eq!(other.element("Code"), "InvalidPart");
    let third = part(3, b"!");
    let small = complete(&objects, "one", &id, &[(1, &a), (2, &b), (3, &third)]);
    assert_eq!(small.element("Code"), "EntityTooSmall");
    let done = complete(&objects, "one", &id, &[(1, &a), (2, &b)]);
    assert!(done.element("ETag").ends_with("-2&quot;"), "{}", done.text());
    assert_eq!(objects.bytes_of("one").unwrap(), b"hellohi");
    assert_eq!(complete(&objects, "one", &id, &[(1, &a)]).element("Code"), "NoSuchUpload");
    assert_eq!(s3(&objects, "PUT /images/two", &[], b"too large").status, 400);

    // Parts from another object, a listing by pages, and an end without an object.
    objects.like_radosgw();
    let id = begun(&objects, "copy");
    let line = format!("PUT /images/copy?partNumber=1&uploadId={id}");
    let from = [("x-amz-copy-source", "images/one"), ("x-amz-copy-source-range", "bytes=1-4")];
    let copied = s3(&objects, &line, &from, b"").element("ETag").replace("&quot;", "\"");
    let told = complete(&objects, "copy", &id, &[(1, &copied)]).element("ETag");
    assert_eq!((told.as_str(), objects.bytes_of("copy").unwrap().as_slice()), ("", &b"ello"[..]));
    objects.list_by(1);
    let (first, second) = (begun(&objects, "x"), begun(&objects, "x"));
    let page = s3(&objects, "GET /images?uploads", &[], b"");
    assert_eq!(page.element("IsTruncated"), "true");
    let next = page.element("NextUploadIdMarker");
    let page = s3(
        &objects,
        &format!("GET /images?uploads&key-marker=x&upload-id-marker={next}"),
        &[],
        b"",
    );
    assert_eq!(page.element("IsTruncated"), "false");
    for id in [first, second] {
        let line = format!("DELETE /images/x?uploadId={id}");
        assert_eq!(s3(&objects, &line, &[], b"").status, 204);
        assert_eq!(s3(&objects, &line, &[], b"").element("Code"), "NoSuchUpload");
    }
    let page = s3(&objects, "GET /images?list-type=2&prefix=", &[], b"");
    assert_eq!(
        (page.element("Key").as_str(), page.element("IsTruncated").as_str()),
        ("copy", "true")
    );
    let next = page.element("NextContinuationToken");
    let line = format!("GET /images?list-type=2&continuation-token={next}");
    let page = s3(&objects, &line, &[], b"");
    assert_eq!(
        (page.element("Key").as_str(), page.element("IsTruncated").as_str()),
        ("one", "false")
    );
}

#[tokio::test]
async fn every_fault_is_what_its_name_says() {
    let objects = Objects::s3();
    s3(&objects, "PUT /images/there", &[], b"0123456789");
    for status in [401, 403, 404, 409, 412, 413, 429, 500, 503] {
        objects.fail(Rule::new(Fault::Status(status)).times(1));
        assert_eq!(s3(&objects, "PUT /images/one", &[], b"x").status, status);
    }
    objects.fail(Rule::new(Fault::Later(503, 7)).times(1));
    let later = s3(&objects, "PUT /images/one", &[], b"x");
    assert_eq!((later.status, later.headers["retry-after"].as_str()), (503, "7"));
    objects.fail(Rule::new(Fault::Early(413)).times(1));
    assert_eq!(s3(&objects, "PUT /images/one", &[], b"x").headers["connection"], "close");
    for cut in [Fault::CutBefore, Fault::CutMiddle] {
        objects.fail(Rule::new(cut).times(1));
        assert!(try_s3(&objects, "PUT /images/one", &[], b"abc").is_none());
    }
    assert_eq!(objects.left(), ["there"]);
    objects.fail(Rule::new(Fault::CutAfter).times(1));
    assert!(try_s3(&objects, "PUT /images/one", &[], b"abc").is_none());
    assert_eq!(objects.bytes_of("one").unwrap(), b"abc");
    objects.fail(Rule::new(Fault::WrongByte).times(1));
    s3(&objects, "PUT /images/one", &[], b"abc");
    assert_eq!(objects.bytes_of("one").unwrap(), b"aBc");
    for (fault, whole, bytes) in [
        (Fault::WrongByte, true, &b"01234\x156789"[..]),
        (Fault::Short, false, b"01234"),
        (Fault::CutMiddle, false, b"01234"),
    ] {
        objects.fail(Rule::new(fault).on(Call::Get).times(1));
        let got = s3(&objects, "GET /images/there", &[], b"");
        assert_eq!((got.status, got.whole, got.body.as_slice()), (200, whole, bytes), "{fault:?}");
        assert_eq!(got.headers["content-length"], "10");
    }
    objects.fail(Rule::new(Fault::ErrorIn200).on(Call::Copy).times(1));
    let from = [("x-amz-copy-source", "/images/there")];
    let failed = s3(&objects, "PUT /images/copy", &from, b"");
    assert_eq!((failed.status, failed.element("Code").as_str()), (200, "InternalError"));
    assert_eq!(objects.bytes_of("copy"), None);
    let seen = objects.seen();
    let last = seen.last().unwrap();
    assert_eq!((last.call, last.key.as_str()), (Call::Copy, "copy"));
    assert_eq!((last.fault, last.query.len()), (Some(Fault::ErrorIn200), 0));
    assert!(last.headers.contains_key("x-amz-copy-source"));
}

#[tokio::test]
async fn what_hangs_goes_on_when_all_is_well_again() {
    let objects = Objects::s3();
    s3(&objects, "PUT /images/there", &[], b"0123456789");
    for (fault, line, answered, kept) in [
        (Fault::Hang, "PUT /images/one", false, None),
        (Fault::StallReading, "PUT /images/one", false, None),
        (Fault::Silent, "PUT /images/one", true, Some(b"abc".to_vec())),
        (Fault::Late, "DELETE /images/there", true, Some(b"abc".to_vec())),
    ] {
        objects.fail(Rule::new(fault));
        let (mut stream, _) = send(&objects, line, &[SIGNED], b"abc", 3);
        stream.write_all(b"abc").unwrap();
        objects.until_held(1).await;
        assert_eq!(objects.held(), 1);
        objects.heal();
        assert_eq!(read(&stream, false).is_some(), answered, "{fault:?}");
        assert_eq!(objects.bytes_of("one"), kept, "{fault:?}");
    }
    assert_eq!(objects.bytes_of("there"), None);

    // Whoever asked has gone.
    objects.fail(Rule::new(Fault::Late));
    let (mut stream, _) = send(&objects, "PUT /images/two", &[SIGNED], b"abc", 3);
    stream.write_all(b"abc").unwrap();
    objects.until_held(1).await;
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    assert_eq!(objects.bytes_of("two"), None);
    objects.heal();
    while objects.bytes_of("two").is_none() {
        tokio::task::yield_now().await;
    }

    objects.fail(Rule::new(Fault::Stall));
    let (stream, _) = send(&objects, "GET /images/one", &[SIGNED], b"", 0);
    objects.until_held(1).await;
    // What it has sent so far may still be on its way.
    let mut sent = [0; 4096];
    loop {
        let count = stream.peek(&mut sent).unwrap();
        if sent[..count].ends_with(b"\r\n\r\na") {
            break;
        }
    }
    objects.heal();
    let got = read(&stream, false).unwrap();
    assert_eq!((got.whole, got.body.as_slice()), (false, &b"a"[..]));
    assert_eq!(objects.held(), 0);
}

#[tokio::test]
async fn rules_choose_their_requests() {
    let objects = Objects::s3();
    let busy = |rule: Rule| objects.fail(rule);
    busy(Rule::new(Fault::Status(503)).on(Call::Put).named("b").after(1).every(2).times(2));
    let put = |key: &str| s3(&objects, &format!("PUT /images/{key}"), &[], b"x").status;
    assert_eq!(
        ["a", "b", "b", "a", "b", "b", "b", "b"].map(put),
        [200, 200, 200, 200, 503, 200, 503, 200]
    );
    assert_eq!(put("b"), 200, "twice is enough");
    assert_eq!((objects.count(Call::Put), objects.count(Call::Get)), (9, 0));
    assert_eq!((objects.most_at_once(Call::Put), objects.most_at_once(Call::Get)), (1, 0));
    objects.until_came(Call::Put, 9).await;
}

#[test]
fn a_server_that_was_down_has_the_same_address_and_the_same_objects() {
    let objects = Objects::s3();
    s3(&objects, "PUT /images/one", &[], b"x");
    objects.go_down();
    let address = objects.url().trim_start_matches("http://").to_owned();
    while TcpStream::connect(&address).is_ok() {}
    objects.come_up();
    while TcpStream::connect(&address).is_err() {}
    assert_eq!(s3(&objects, "GET /images/one", &[], b"").body, b"x");
}

/// A token by `TempAuth`, and where the account is.
fn by_tempauth(objects: &Objects) -> Option<(String, String)> {
    let who = [("x-auth-user", USER), ("x-auth-key", SECRET)];
    let told = ask(objects, "GET /auth/v1.0", &who, b"").unwrap();
    let url = told.headers.get("x-storage-url")?;
    Some((told.headers["x-auth-token"].clone(), url.strip_prefix(&objects.url())?.to_owned()))
}

/// What Keystone says to this identity and scope.
fn by_keystone(objects: &Objects, identity: &Value, scope: &Value) -> Told {
    let asked = json!({"auth": {"identity": identity, "scope": scope}}).to_string();
    ask(objects, "POST /v3/auth/tokens", &[], asked.as_bytes()).unwrap()
}

#[test]
fn swift_gives_tokens_to_whom_it_knows() {
    let objects = Objects::swift();
    let (token, at) = by_tempauth(&objects).unwrap();
    assert_eq!(at, "/v1/AUTH_glance");
    let head = |token: &str| {
        ask(&objects, &format!("HEAD {at}/{BUCKET}"), &[("x-auth-token", token)], b"").unwrap()
    };
    assert_eq!(head(&token).headers["x-container-object-count"], "0");
    let user = json!({"name": USER, "password": SECRET, "domain": {"id": "default"}});
    let password = json!({"methods": ["password"], "password": {"user": user}});
    let project = json!({"project": {"name": USER, "domain": {"id": "default"}}});
    let told = by_keystone(&objects, &password, &project);
    assert_eq!(told.status, 201);
    let endpoint = &told.json()["token"]["catalog"][1]["endpoints"][0];
    assert_eq!((&endpoint["interface"], &endpoint["region"]), (&json!("public"), &json!(REGION)));
    assert_eq!(endpoint["url"], objects.url() + &at);
    let token = told.headers["x-subject-token"].clone();
    assert_eq!(head(&token).status, 204);
    let elsewhere = json!({"project": {"name": "elsewhere"}});
    assert_eq!(by_keystone(&objects, &password, &elsewhere).status, 401);
    objects.admit("id secret", "AUTH_glance");
    let given = json!({"id": "id", "secret": "secret"});
    let given = json!({"methods": ["application_credential"], "application_credential": given});
    assert_eq!(by_keystone(&objects, &given, &Value::Null).status, 201);
    let by_token = json!({"methods": ["token"], "token": {"id": token}});
    objects.admit("trust t-1", "AUTH_trustor");
    let trust = json!({"OS-TRUST:trust": {"id": "t-1"}});
    let told = by_keystone(&objects, &by_token, &trust);
    assert_eq!(told.json()["token"]["project"]["id"], "trustor");
    let subject = [("x-subject-token", token.as_str())];
    assert_eq!(ask(&objects, "HEAD /v3/auth/tokens", &subject, b"").unwrap().status, 200);
    assert_eq!(ask(&objects, "DELETE /v3/auth/tokens", &subject, b"").unwrap().status, 204);
    assert_eq!(head(&token).status, 401);
    let foreign = objects.token("AUTH_foreign");
    assert_eq!(head(&foreign).status, 403);
    objects.expire_tokens();
    assert_eq!(head(&foreign).status, 401);
    objects.let_tokens_live(Duration::ZERO);
    let (token, _) = by_tempauth(&objects).unwrap();
    assert_eq!(head(&token).status, 401);
    objects.refuse(&format!("{USER} {SECRET}"));
    assert!(by_tempauth(&objects).is_none());
}

/// A server, with a token and the account that it is for.
struct Swift {
    objects: Objects,
    token: String,
    at: String,
}

impl Swift {
    fn new() -> Self {
        let objects = Objects::swift();
        let (token, at) = by_tempauth(&objects).unwrap();
        Self { objects, token, at }
    }

    fn ask(&self, line: &str, more: &[(&str, &str)], body: &[u8]) -> Told {
        let (method, rest) = line.split_once(' ').unwrap();
        let headers = [&[("x-auth-token", self.token.as_str())], more].concat();
        ask(&self.objects, &format!("{method} {}/{rest}", self.at), &headers, body).unwrap()
    }
}

#[test]
fn swift_keeps_objects_and_judges_conditions() {
    let swift = Swift::new();
    let objects = &swift.objects;
    let ask = |line: &str, more: &[(&str, &str)], body: &[u8]| swift.ask(line, more, body);
    let put = ask("PUT images/one", &[("x-object-meta-a", "b")], b"hello world");
    assert_eq!((put.status, put.headers["etag"].len()), (201, 32));
    assert_eq!(ask("PUT images/one", &[("if-none-match", "*")], b"x").status, 412);
    assert_eq!(ask("PUT images/two", &[("etag", "0")], b"x").status, 422);
    assert_eq!(ask("PUT nowhere/two", &[], b"x").status, 404);
    let got = ask("GET images/one", &[("range", "bytes=-5")], b"");
    assert_eq!((got.status, got.text().as_str()), (206, "world"));
    assert_eq!(got.headers["x-object-meta-a"], "b");
    assert_eq!(ask("GET images/one", &[("if-match", "0")], b"").status, 412);
    assert_eq!(ask("POST images/one", &[("x-object-meta-c", "d")], b"").status, 202);
    let head = ask("HEAD images/one", &[], b"");
    assert_eq!(
        (head.headers["content-length"].as_str(), head.headers.contains_key("x-object-meta-a")),
        ("11", false)
    );
    assert_eq!(ask("PUT images/copy", &[("x-copy-from", "/images/one")], b"").status, 201);
    assert_eq!(ask("PUT images/gone", &[("x-delete-after", "60")], b"x").status, 201);
    assert!(objects.kept_with("gone").iter().any(|(name, _)| name == "x-delete-at"));
    let page = ask("GET images?format=json&limit=2&marker=copy", &[], b"").json();
    assert_eq!((&page[0]["name"], &page[1]["bytes"]), (&json!("gone"), &json!(11)));
    assert_eq!(ask("DELETE images", &[], b"").status, 409);
    let told = ask("POST ?bulk-delete", &[], b"/images/copy\nimages/gone\nimages/none").json();
    assert_eq!((&told["Number Deleted"], &told["Number Not Found"]), (&json!(2), &json!(1)));
    assert_eq!(ask("DELETE images/one", &[], b"").status, 204);
    assert_eq!(ask("DELETE images/one", &[], b"").status, 404);
    assert_eq!(ask("PUT mine", &[("x-container-read", "*:*")], b"").status, 201);
    assert_eq!(ask("HEAD mine", &[], b"").headers["x-container-read"], "*:*");
    assert_eq!(ask("POST mine", &[("x-container-read", "")], b"").status, 204);
    assert!(!ask("HEAD mine", &[], b"").headers.contains_key("x-container-read"));
    assert_eq!(ask("DELETE mine", &[], b"").status, 204);
    objects.hold_at_most(0);
    assert_eq!(ask("PUT images/one", &[], b"x").status, 413);
}

#[test]
fn swift_joins_the_segments_of_large_objects() {
    let swift = Swift::new();
    let objects = &swift.objects;
    let ask = |line: &str, more: &[(&str, &str)], body: &[u8]| swift.ask(line, more, body);
    let etags = [("one-00001", &b"hello"[..]), ("one-00002", b" world")]
        .map(|(name, body)| ask(&format!("PUT images/{name}"), &[], body).headers["etag"].clone());
    let manifest = [("x-object-manifest", "images/one-")];
    assert_eq!(ask("PUT images/one", &manifest, b"").status, 201);
    assert_eq!(ask("GET images/one", &[], b"").text(), "hello world");
    assert_eq!(ask("HEAD images/one", &[], b"").headers["x-object-manifest"], "images/one-");
    objects.leave_unlisted(2);
    assert_eq!(ask("GET images/one", &[], b"").text(), "hello", "a listing may be late");
    objects.leave_unlisted(0);
    let lines = |second: &str| {
        json!([
            {"path": "/images/one-00001", "etag": etags[0], "size_bytes": 5},
            {"path": "/images/one-00002", "etag": second, "size_bytes": 6},
        ])
        .to_string()
    };
    let line = "PUT images/two?multipart-manifest=put";
    assert_eq!(ask(line, &[], lines("0").as_bytes()).status, 400);
    assert_eq!(ask(line, &[("etag", "0")], lines(&etags[1]).as_bytes()).status, 422);
    assert_eq!(ask(line, &[], lines(&etags[1]).as_bytes()).status, 201);
    let got = ask("GET images/two", &[("range", "bytes=4-6")], b"");
    assert_eq!(
        (got.text().as_str(), got.headers["x-static-large-object"].as_str()),
        ("o w", "True")
    );
    assert_eq!(got.headers["content-range"], "bytes 4-6/11");
    let told = ask("GET images/two?multipart-manifest=get", &[], b"").json();
    assert_eq!(told[1]["bytes"], 6);
    assert_eq!(objects.count(Call::PutManifest), 4);
    let told = ask("DELETE images/two?multipart-manifest=delete", &[], b"").json();
    assert_eq!(told["Number Deleted"], 3);
    assert_eq!(objects.left(), ["one"]);
}
