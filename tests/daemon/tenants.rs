//! A store of type swift whose images lie in the accounts of those who upload them.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    rigs::SWIFT,
    stores::swift::{head, login},
};

const STORE: &str = "/v1/stores/fast";

struct Tenants {
    daemon: Daemon,
    /// What the names of containers begin with.
    base: String,
}

impl Tenants {
    fn start() -> Self {
        let base = format!("tenants-{}", uuid::Uuid::new_v4().simple());
        let rig = |name: &str| &SWIFT[name];
        let daemon = Daemon::start(&format!(
            "[DEFAULT]\nenabled_backends = fast:swift, cheap:file\n\
             [glance_store]\ndefault_backend = cheap\n\
             [cheap]\nfilesystem_store_datadir = {{dir}}/cheap\n\
             [fast]\nswift_store_auth_address = {}\nswift_store_user = {}\nswift_store_key = {}\n\
             swift_store_region = RegionOne\nswift_store_container = {base}\n\
             swift_store_create_container_on_put = true\nswift_store_multi_tenant = true\n\
             swift_store_admin_tenants = service\n\
             swift_store_large_object_size = 1\nswift_store_large_object_chunk_size = 1\n",
            rig("keystone"),
            rig("admin_user"),
            rig("admin_key"),
        ));
        Self { daemon, base }
    }

    fn put(&self, id: &str, token: &str, image: &[u8]) -> Answer {
        let mut raw = Raw::connect(&self.daemon.socket);
        let headers = format!("content-length: {}\r\nx-auth-token: {token}\r\n", image.len());
        raw.head("PUT", &format!("{STORE}/images/{id}"), &headers);
        raw.send(image);
        raw.answer("PUT")
    }

    fn share(&self, path: &str, access: &Value) -> Answer {
        Raw::ask(&self.daemon.socket, "PUT", path, access.to_string().as_bytes())
    }

    /// Who may read the container of an image, and write it, as its owner is told; `None` if it is not there.
    fn lists(&self, id: &str, token: &str) -> Option<[String; 2]> {
        let url = format!("{}/v1/{}/{}_{id}", SWIFT["url"], SWIFT["account"], self.base);
        let head = head(&["-I", "-H", &format!("X-Auth-Token: {token}"), &url]);
        let value = |name: &str| head.get(name).cloned().unwrap_or_default();
        let there = head.contains_key("x-container-object-count");
        there.then(|| ["x-container-read", "x-container-write"].map(value))
    }
}

/// A token of the account's user.
fn token() -> String {
    login(&SWIFT["auth"], &SWIFT["user"], &SWIFT["key"]).1
}

fn at(location: &str, what: &str) -> String {
    format!("{STORE}/{what}?at={}", utf8_percent_encode(location, NON_ALPHANUMERIC))
}

#[test]
fn an_image_lies_in_its_owners_account_and_goes_with_its_container() {
    let tenants = Tenants::start();
    let token = token();
    for (id, length) in [("small", 70_000), ("large", 3_000_000), ("none", 0)] {
        let image = noise(length, 21);
        let put = tenants.put(id, &token, &image);
        assert_eq!(put.status, 201, "{put:?}");
        let location = put.json()["location"].as_str().unwrap().to_owned();
        let account = &SWIFT["account"];
        assert!(
            location.ends_with(&format!("/{account}/{}_{id}/{id}", tenants.base)),
            "{location}"
        );
        assert!(!location.contains('@') && !put.json().to_string().contains(&token), "{location}");
        let images = at(&location, "images");
        assert!(tenants.daemon.ask("GET", &images).body == image, "{id}");
        assert!(tenants.lists(id, &token).is_some());
        assert_eq!(tenants.daemon.ask("DELETE", &images).status, 204);
        assert_eq!(tenants.lists(id, &token), None, "{id}");
        assert_eq!(tenants.daemon.ask("DELETE", &images).code(), "NotFound");
    }
    let refused = tenants.put("x", "AUTH_tk0123456789abcdef0123456789abcdef", b"image");
    assert_eq!(refused.code(), "BackendDenied", "{refused:?}");
    assert!(!tenants.daemon.log().contains(&token), "the log has a caller's token");
}

#[test]
fn who_else_reaches_an_image_is_what_was_said_last_and_nothing_wider() {
    let tenants = Tenants::start();
    let token = token();
    let put = tenants.put("x", &token, &noise(70_000, 22));
    let location = put.json()["location"].as_str().unwrap().to_owned();
    let acl = at(&location, "acl");
    let lists = || tenants.lists("x", &token).unwrap();
    for (access, read, write) in [
        (json!({"read": ["b", "a", "b"]}), "a:*,b:*", "service:*"),
        (json!({"public": true, "write": ["c"]}), "*:*", "c:*,service:*"),
        (json!({"read": ["a"]}), "a:*", "service:*"),
        (json!({}), "", "service:*"),
    ] {
        let answer = tenants.share(&acl, &access);
        assert_eq!(answer.status, 204, "{access}: {answer:?}");
        assert_eq!(lists(), [read, write], "{access}");
    }
    for wide in [
        json!({"read": [".r:*"]}),
        json!({"read": ["*"]}),
        json!({"write": ["a,b"]}),
        json!({"read": [""]}),
        json!({"read": ["a\r\nX-Container-Write: *:*"]}),
        json!({"readers": ["a"]}),
        json!({"public": "yes"}),
        json!([]),
    ] {
        let answer = tenants.share(&acl, &wide);
        assert_eq!(answer.status, 400, "{wide}: {answer:?}");
        assert_eq!(lists(), ["", "service:*"], "{wide}");
    }
    // Only if the image is the one that its caller means.
    let etag = tenants.daemon.ask("HEAD", &at(&location, "images")).headers["etag"].clone();
    let access = json!({"read": ["a"]}).to_string();
    for (headers, status) in [
        ("if-match: \"other\"\r\n".to_owned(), 412),
        (format!("if-match: W/{etag}\r\n"), 412),
        (format!("if-none-match: {etag}\r\n"), 412),
        ("if-none-match: *\r\n".to_owned(), 412),
        ("if-match: other\r\n".to_owned(), 400),
        (format!("if-match: \"other\", {etag}\r\nif-none-match: \"other\"\r\n"), 204),
    ] {
        let socket = &tenants.daemon.socket;
        let answer = Raw::ask_with(socket, "PUT", &acl, &headers, access.as_bytes());
        assert_eq!(answer.status, status, "{headers}: {answer:?}");
        let read = if status == 204 { "a:*" } else { "" };
        assert_eq!(lists(), [read, "service:*"], "{headers}");
    }
    let gone = at(&location.replace("_x/x", "_y/y"), "acl");
    assert_eq!(tenants.share(&gone, &json!({})).code(), "NotFound");
    let foreign = at("file:///x", "acl");
    assert_eq!(tenants.share(&foreign, &json!({})).status, 400);
    assert_eq!(tenants.daemon.put("cheap", "x", b"image").status, 201);
    let other = tenants.share("/v1/stores/cheap/images/x/acl", &json!({}));
    assert_eq!((other.status, other.code().as_str()), (405, "Unsupported"), "{other:?}");
    assert_eq!(tenants.daemon.ask("DELETE", &at(&location, "images")).status, 204);
}
