//! Images with and without their md5, as `checksum` says.

use std::{fs, os::unix::fs::FileExt as _, process::Command};

use data_encoding::{BASE64, HEXLOWER};
use nix::sys::signal::Signal;

use crate::harness::{
    daemon::{Daemon, IMAGED, STORES, noise},
    raw::{Answer, Raw},
};

fn without() -> String {
    format!("{STORES}[imaged]\nchecksum = none\n")
}

/// That an image and what is told of it have no md5, and its multihash instead.
fn assert_without(daemon: &Daemon, put: &Answer) {
    assert_eq!(put.status, 201, "{put:?}");
    let receipt = put.json();
    assert_eq!(receipt.get("checksum"), None, "{receipt}");
    let hash = receipt["hash_value"].as_str().unwrap();
    let path = format!("/v1/stores/fast/images/{}", receipt["id"].as_str().unwrap());
    for method in ["HEAD", "GET"] {
        let headers = daemon.ask(method, &path).headers;
        let base64 = BASE64.encode(&HEXLOWER.decode(hash.as_bytes()).unwrap());
        assert_eq!(headers["repr-digest"], format!("sha-512=:{base64}:"), "{method}");
        assert_eq!(headers["etag"], format!("\"{hash}\""), "{method}");
        assert!(!headers.contains_key("content-md5"), "{method}");
    }
}

#[test]
fn without_checksums_images_have_their_multihash_alone() {
    let daemon = Daemon::start(&without());
    let image = noise(3 << 20, 1);
    assert_without(&daemon, &daemon.put("fast", "x", &image));
    // A copy within the store, whose digests come along or follow, has none either.
    let body = br#"{"source": {"location": "file://PATH", "store": "fast"}}"#;
    let text = String::from_utf8_lossy(body);
    let text = text.replace("PATH", &daemon.path("fast/x").display().to_string());
    let copied = Raw::ask(&daemon.socket, "POST", "/v1/stores/fast/images/y", text.as_bytes());
    daemon.wait_until_idle();
    assert_without(&daemon, &copied);
}

#[test]
fn without_checksums_a_promised_md5_is_still_held_to() {
    let daemon = Daemon::start(&without());
    let put = |md5: &str| {
        let mut raw = Raw::connect(&daemon.socket);
        let headers = format!("content-md5: {md5}\r\ncontent-length: 1\r\n");
        raw.head("PUT", "/v1/stores/fast/images/x", &headers);
        raw.send(b"x");
        raw.answer("PUT")
    };
    let wrong = put("ndTkYSaMgDT1yFZOFVxnpA==");
    assert_eq!((wrong.status, wrong.code()), (422, "Mismatch".to_owned()));
    assert_without(&daemon, &put("ndTkYSaMgDT1yFZOFVxnpg=="));
}

/// What `imaged get` says of an image.
fn got(daemon: &Daemon, id: &str, words: &str) -> (i32, String) {
    let back = daemon.path("back");
    let line = format!("get fast {id} {} {words}", back.display());
    let mut get = Command::new(IMAGED);
    get.args(line.split_whitespace()).env("IMAGED_SOCKET", &daemon.socket);
    let ran = get.output().unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn images_with_an_md5_and_without_one_are_read_and_verified_side_by_side() {
    let image = noise(3 << 20, 3);
    let daemon = Daemon::start(STORES);
    let first = daemon.put("fast", "first", &image).json();
    assert!(first["checksum"].is_string(), "{first}");
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    fs::write(daemon.path("conf"), format!("{conf}checksum = none\n")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("configuration reloaded");
    assert_without(&daemon, &daemon.put("fast", "second", &image));
    // What is there keeps its md5, and conditions on it hold.
    let headers = daemon.ask("HEAD", "/v1/stores/fast/images/first").headers;
    assert_eq!(headers["etag"], format!("\"{}\"", first["checksum"].as_str().unwrap()));
    assert!(headers["repr-digest"].contains("md5=:"), "{headers:?}");
    for id in ["first", "second"] {
        assert!(daemon.get("fast", id).body == image, "{id}");
        let (code, told) = got(&daemon, id, "");
        assert!(code == 0 && told.contains("sha512 verified"), "{id}: {told}");
        let path = daemon.path(&format!("fast/{id}"));
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[image[1_000_000] ^ 1], 1_000_000).unwrap();
        let (code, told) = got(&daemon, id, "");
        assert!(code == 1 && told.contains("sha512"), "{id}: {told}");
        assert_eq!(got(&daemon, id, "--no-verify").0, 0, "{id}");
    }
}

#[test]
fn an_upload_keeps_the_choice_that_it_began_with() {
    let daemon = Daemon::start(&without());
    let image = noise(3 << 20, 2);
    let (first, rest) = image.split_at(1 << 20);
    let mut raw = Raw::connect(&daemon.socket);
    let headers = format!("content-length: {}\r\n", image.len());
    raw.head("PUT", "/v1/stores/fast/images/early", &headers);
    raw.send(first);
    daemon.wait_until("the upload has begun", |daemon| !daemon.is_idle());
    let conf = fs::read_to_string(daemon.path("conf")).unwrap();
    fs::write(daemon.path("conf"), conf.replace("checksum = none", "checksum = md5")).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_log("configuration reloaded");
    let late = daemon.put("fast", "late", &image).json();
    assert!(late["checksum"].is_string(), "{late}");
    raw.send(rest);
    assert_without(&daemon, &raw.answer("PUT"));
    // What an image of before lacks is computed for a copy of it that is to have it.
    let text = format!(
        r#"{{"source": {{"location": "file://{}", "store": "fast"}}, "mode": "copy"}}"#,
        daemon.path("fast/early").display()
    );
    let copied = Raw::ask(&daemon.socket, "POST", "/v1/stores/fast/images/z", text.as_bytes());
    assert_eq!(copied.status, 201, "{copied:?}");
    assert_eq!(copied.json()["checksum"], late["checksum"]);
}
