//! Keys of a store of type s3 that its section does not have: those of the environment, of a profile, of a role.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat, Utc};

use super::buckets::{all_goes, down, start};
use crate::harness::{
    daemon::Daemon,
    objects::{BUCKET, Objects, SECRET, USER},
    rigs::WEED,
    stores::buckets::Bucket,
};

/// What proves who a role is, beside the keys.
const TOKEN: &str = "a-token-that-nobody-may-see";

/// The options of a store of SeaweedFS, without keys.
fn without_keys(bucket: &Bucket) -> String {
    let options = bucket.options();
    options.lines().filter(|line| !line.contains("_key")).map(|line| format!("{line}\n")).collect()
}

/// A section of a file of credentials.
fn profile(name: &str, access: &str, secret: &str) -> String {
    format!("[{name}]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
}

/// Nothing that the daemon says has a secret.
fn keeps_secrets(daemon: &Daemon, secrets: &[&str]) {
    let log = daemon.log();
    let shown = secrets.iter().find(|secret| log.contains(**secret));
    assert_eq!(shown, None, "{log}");
}

#[tokio::test]
async fn keys_are_taken_from_the_environment_seaweed() {
    let bucket = Bucket::seaweed().await;
    let store = without_keys(&bucket);
    let env = |who: &str| {
        let [access, secret] =
            ["access_key", "secret_key"].map(|name| WEED[&format!("{who}{name}")].clone());
        [("AWS_ACCESS_KEY_ID", access), ("AWS_SECRET_ACCESS_KEY", secret)]
    };
    let start = |who| {
        let env = env(who);
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        start(&[("fast", &store)], &env)
    };
    let daemon = start("");
    all_goes(&daemon, "fast", "s3://");
    keeps_secrets(&daemon, &[&WEED["secret_key"]]);
    // Those of somebody who may only read.
    assert_eq!(daemon.put("fast", "x", b"image").status, 201);
    let reader = start("reader_");
    assert_eq!(reader.get("fast", "x").body, b"image");
    let refused = reader.put("fast", "y", b"another");
    assert_eq!(refused.code(), "BackendDenied");
    assert!(refused.detail().contains("see the keys"), "{refused:?}");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/x").status, 204);
    assert_eq!(bucket.left().await, [""; 0]);
}

#[tokio::test]
async fn keys_are_taken_from_a_profile_seaweed() {
    let bucket = Bucket::seaweed().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let profiles = [
        profile("default", "NOBODY", "of-nobody"),
        profile("reader", &WEED["reader_access_key"], &WEED["reader_secret_key"]),
        profile("glance", &WEED["access_key"], &WEED["secret_key"]),
    ];
    fs::write(&file, profiles.concat()).unwrap();
    let store = without_keys(&bucket);
    let named = format!("{store}imaged_s3_profile = glance\n");
    let file = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    let by_environment = start(&[("fast", &store)], &[file, ("AWS_PROFILE", "glance")]);
    all_goes(&by_environment, "fast", "s3://");
    // A section that names one means it, whatever the environment has.
    let other = [
        ("AWS_ACCESS_KEY_ID", WEED["reader_access_key"].as_str()),
        ("AWS_SECRET_ACCESS_KEY", WEED["reader_secret_key"].as_str()),
        ("AWS_PROFILE", "reader"),
        file,
    ];
    let by_section = start(&[("fast", &named)], &other);
    all_goes(&by_section, "fast", "s3://");
    let nobody = start(&[("fast", &store)], &[file]);
    let why = down(&nobody, "fast");
    assert!(why.contains("see the keys"), "{why}");
    for daemon in [by_environment, by_section, nobody] {
        keeps_secrets(&daemon, &["of-nobody", &WEED["secret_key"], &WEED["reader_secret_key"]]);
    }
    assert_eq!(bucket.left().await, [""; 0]);
}

/// Gives keys to whoever asks for a role, as what runs beside a container does: `answer` is a status and a body.
fn role(answer: Arc<Mutex<(u16, String)>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/role", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut asked) = (stream.unwrap(), Vec::new());
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !matches!(stream.read(&mut byte), Ok(1)) {
                    break;
                }
                asked.extend_from_slice(&byte);
            }
            let (status, body) = answer.lock().unwrap().clone();
            let length = body.len();
            let head = "content-type: application/json\r\nconnection: close";
            // Whoever asked may have gone.
            let _sent = write!(
                stream,
                "HTTP/1.1 {status} X\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}"
            );
        }
    });
    url
}

/// Keys that are good for so long.
fn lent(access: &str, life: Duration) -> (u16, String) {
    let until = DateTime::<Utc>::from(SystemTime::now() + life);
    let keys = serde_json::json!({
        "AccessKeyId": access,
        "SecretAccessKey": SECRET,
        "Token": TOKEN,
        "Expiration": until.to_rfc3339_opts(SecondsFormat::Secs, true),
    });
    (200, keys.to_string())
}

/// The options of a store in a server in memory, without keys.
fn in_memory(objects: &Objects) -> String {
    format!("s3_store_host = {}\ns3_store_bucket = {BUCKET}\n", objects.url())
}

#[test]
fn keys_of_a_role_go_with_their_token_and_are_asked_for_again_when_they_end() {
    let objects = Objects::s3();
    let keys = Arc::new(Mutex::new(lent(USER, Duration::from_secs(5))));
    let url = role(Arc::clone(&keys));
    let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()), ("AWS_REGION", "here-1")];
    let daemon = start(&[("fast", &in_memory(&objects))], &env);
    all_goes(&daemon, "fast", "s3://");
    assert_eq!(daemon.put("fast", "x", b"image").status, 201);
    for seen in objects.seen() {
        assert_eq!(seen.headers["x-amz-security-token"], TOKEN, "{seen:?}");
        let signed = seen.headers["authorization"].to_str().unwrap();
        assert!(signed.contains(&format!("{USER}/")) && signed.contains("/here-1/s3/"), "{signed}");
    }
    // Others are lent before the first end, and count from then on.
    objects.refuse(USER);
    objects.admit("other", "");
    *keys.lock().unwrap() = lent("other", Duration::from_secs(3600));
    daemon.wait_until("the other keys", |daemon| daemon.get("fast", "x").body == b"image");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/x").status, 204);
    all_goes(&daemon, "fast", "s3://");
    keeps_secrets(&daemon, &[SECRET, TOKEN]);
}

#[test]
fn the_region_of_the_environment_counts_unless_the_section_names_one() {
    let objects = Objects::s3();
    let keys = format!("s3_store_access_key = {USER}\ns3_store_secret_key = {SECRET}\n");
    let environment = in_memory(&objects) + &keys;
    let section = format!("{environment}s3_store_region_name = there-1\n");
    for (options, region) in [(&environment, "here-1"), (&section, "there-1")] {
        let before = objects.seen().len();
        let daemon = start(&[("fast", options)], &[("AWS_REGION", "here-1")]);
        assert_eq!(daemon.get("fast", "x").code(), "NotFound");
        for seen in &objects.seen()[before..] {
            let signed = seen.headers["authorization"].to_str().unwrap();
            assert!(signed.contains(&format!("/{region}/s3/")), "{signed}");
        }
    }
}

#[test]
fn a_store_without_any_keys_is_down_at_once_and_the_remedy_named() {
    let objects = Objects::s3();
    let store = in_memory(&objects);
    let named = format!("{store}imaged_s3_profile = nobody\n");
    for env in [&[][..], &[("AWS_PROFILE", "nobody")], &[("AWS_EC2_METADATA_DISABLED", "true")]] {
        let daemon = start(&[("fast", &store), ("named", &named)], env);
        let why = down(&daemon, "fast");
        for word in ["there are no keys", "s3_store_access_key", "AWS_ACCESS_KEY_ID", "role"] {
            assert!(why.contains(word), "{env:?}: {why}");
        }
        let why = down(&daemon, "named");
        assert!(why.contains("imaged_s3_profile") && why.contains("nobody"), "{env:?}: {why}");
    }
    assert!(objects.seen().is_empty(), "nobody asks without keys");
}

#[test]
fn keys_that_come_later_are_found() {
    let objects = Objects::s3();
    let keys = Arc::new(Mutex::new((503, String::new())));
    let url = role(Arc::clone(&keys));
    let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str())];
    let daemon = start(&[("fast", &in_memory(&objects))], &env);
    down(&daemon, "fast");
    *keys.lock().unwrap() = lent(USER, Duration::from_secs(3600));
    daemon.wait_until("the store to be up", |daemon| {
        daemon.ask("GET", "/v1/stores/fast").json()["state"] == "up"
    });
    all_goes(&daemon, "fast", "s3://");
}

#[test]
fn what_gives_no_keys_is_told_and_shows_none() {
    let objects = Objects::s3();
    let store = in_memory(&objects);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let roles = [
        (404, "no such role".to_owned()),
        (200, "no JSON".to_owned()),
        (200, String::new()),
        (200, format!("{{\"AccessKeyId\": \"{USER}\", \"Token\": \"{TOKEN}\"}}")),
        (200, format!("{{\"AccessKeyId\": \"{USER}\", \"SecretAccessKey\": \"{SECRET}\"")),
        (200, "{\"Code\": \"AssumeRoleUnauthorizedAccess\", \"Message\": \"No\"}".to_owned()),
    ];
    let mut wrong: Vec<(&str, String)> = vec![
        ("AWS_ACCESS_KEY_ID", USER.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", file("none", "")),
        ("AWS_SHARED_CREDENTIALS_FILE", file("torn", &format!("[default\nkey = {SECRET}"))),
        ("AWS_SHARED_CREDENTIALS_FILE", file("bare", SECRET)),
        (
            "AWS_SHARED_CREDENTIALS_FILE",
            file("half", &format!("[default]\naws_secret_access_key = {SECRET}\n")),
        ),
        ("AWS_SHARED_CREDENTIALS_FILE", dir.path().to_str().unwrap().to_owned()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/role".to_owned()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/role".to_owned()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "no URL".to_owned()),
    ];
    for answer in roles {
        let url = role(Arc::new(Mutex::new(answer)));
        wrong.push(("AWS_CONTAINER_CREDENTIALS_FULL_URI", url));
    }
    for (name, value) in wrong {
        let daemon = start(&[("fast", &store)], &[(name, &value)]);
        let why = down(&daemon, "fast");
        assert!(why.contains("keys"), "{name}={value}: {why}");
        assert!(!why.contains(SECRET) && !why.contains(TOKEN), "{name}={value}: {why}");
        keeps_secrets(&daemon, &[SECRET, TOKEN]);
    }
    assert!(objects.seen().is_empty(), "nobody asks without keys");
}
