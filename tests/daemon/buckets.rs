//! Stores in buckets, through the daemon: how their servers are reached, and whose keys they are asked with.

use std::{fs, net::TcpListener, path::Path, process::Command, sync::LazyLock};

use crate::harness::{
    daemon::{Daemon, IMAGED, noise},
    rigs::{WEED, run},
    stores::buckets::Bucket,
};

/// Takes connections, and answers none.
static SILENT: LazyLock<TcpListener> = LazyLock::new(|| TcpListener::bind("127.0.0.1:0").unwrap());

/// A daemon with these stores of type s3, each a name and its options, beside `kept`, which is the default. The
/// environment has nothing of Amazon's but what is given, and where a machine would have a role all is silent.
pub(super) fn start(stores: &[(&str, &str)], env: &[(&str, &str)]) -> Daemon {
    let home = Daemon::home();
    let dir = home.path().display().to_string();
    let names: String = stores.iter().map(|(name, _)| format!(", {name}:s3")).collect();
    let sections: String =
        stores.iter().map(|(name, options)| format!("[{name}]\n{options}\n")).collect();
    let text = format!(
        "[DEFAULT]\nenabled_backends = kept:mem{names}\n[glance_store]\ndefault_backend = kept\n\
         [kept]\nmem_capacity = 1048576\n{sections}[imaged]\nstate_dir = {dir}/state\n"
    );
    fs::write(home.path().join("conf"), text.replace("{dir}", &dir)).unwrap();
    let machine = format!("http://{}", SILENT.local_addr().unwrap());
    let mut command = Command::new(IMAGED);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"AWS_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", &dir).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", machine);
    command.envs(env.iter().map(|(name, value)| (name, value.replace("{dir}", &dir))));
    Daemon::start_by(home, command)
}

/// Why a store is down.
pub(super) fn down(daemon: &Daemon, store: &str) -> String {
    let told = daemon.ask("GET", &format!("/v1/stores/{store}")).json();
    assert_eq!(told["state"], "down", "{store}: {told}");
    assert_eq!(daemon.put(store, "x", b"image").code(), "Unavailable", "{store}");
    assert_eq!(daemon.put("kept", "x", b"image").status, 201, "{store}: the other store is up");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/kept/images/x").status, 204, "{store}");
    told["reason"].as_str().unwrap().to_owned()
}

/// Puts an image in one piece and one in parts, reads, lists and deletes them.
pub(super) fn all_goes(daemon: &Daemon, store: &str, scheme: &str) {
    daemon.wait_until("the store is up", |daemon| {
        daemon.ask("GET", &format!("/v1/stores/{store}")).json()["state"] == "up"
    });
    for (size, seed) in [(70_001, 1), (11 << 20, 2)] {
        let image = noise(size, seed);
        let put = daemon.put(store, "x", &image);
        assert_eq!(put.status, 201, "{put:?}");
        let location = put.json()["location"].as_str().unwrap().to_owned();
        assert!(location.starts_with(scheme), "{location}");
        let got = daemon.get(store, "x");
        assert!(got.whole && got.body == image, "{}", got.status);
        let at = daemon.ask("GET", &format!("/v1/stores/{store}/images?at={location}"));
        assert!(at.body == image, "{}", at.status);
        let listed = daemon.ask("GET", &format!("/v1/stores/{store}/images"));
        assert!(String::from_utf8(listed.body).unwrap().contains("\"x\""));
        assert_eq!(daemon.ask("DELETE", &format!("/v1/stores/{store}/images/x")).status, 204);
    }
}

/// A certificate of an authority that has nothing to do with any server, and its key beside it.
fn another_authority(dir: &Path) -> [String; 2] {
    let [key, certificate] =
        ["ca.key", "ca.pem"].map(|name| dir.join(name).to_str().unwrap().to_owned());
    run(Command::new("openssl").args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=another",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ]));
    [certificate, key]
}

fn over_https(bucket: &Bucket) -> String {
    bucket.options().replace(&WEED["url"], &WEED["https"])
}

#[tokio::test]
async fn images_go_over_https_by_the_file_of_an_authority_seaweed() {
    let bucket = Bucket::seaweed().await;
    let dir = tempfile::tempdir().unwrap();
    let [another, _] = another_authority(dir.path());
    // Also one that is not the first in its file.
    let both = dir.path().join("both.pem");
    let texts = [&another, &WEED["ca"]].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&both, format!("# Authorities\n{}\n{}", texts[0], texts[1])).unwrap();
    for ca in [&WEED["ca"], both.to_str().unwrap()] {
        let options = over_https(&bucket) + &format!("s3_store_cacert = {ca}\n");
        let daemon = start(&[("fast", &options)], &[]);
        all_goes(&daemon, "fast", "s3+https://");
        assert_eq!(bucket.left().await, [""; 0]);
    }
}

#[tokio::test]
async fn a_server_whose_authority_is_not_known_is_refused_and_the_remedy_named_seaweed() {
    let bucket = Bucket::seaweed().await;
    let dir = tempfile::tempdir().unwrap();
    let [another, _] = another_authority(dir.path());
    let options = over_https(&bucket).replace("imaged_s3_timeout_s = 20\n", "");
    let wrong = format!("{options}s3_store_cacert = {another}\n");
    let daemon = start(&[("nobody", &options), ("wrong", &wrong)], &[]);
    for store in ["nobody", "wrong"] {
        let why = down(&daemon, store);
        assert!(why.contains("certificate is not trusted"), "{why}");
        assert!(why.contains("s3_store_cacert") && why.contains("UnknownIssuer"), "{why}");
        assert!(!why.contains(&WEED["secret_key"]), "{why}");
    }
}

#[tokio::test]
async fn a_scheme_that_the_server_does_not_speak_is_told_seaweed() {
    let bucket = Bucket::seaweed().await;
    let options = bucket.options().replace("_timeout_s = 20", "_timeout_s = 2");
    let plain = options.replace("http://", "https://");
    let secure = options.replace(&WEED["url"], &WEED["https"].replace("https://", "http://"));
    let daemon = start(&[("plain", &plain), ("secure", &secure)], &[]);
    let why = down(&daemon, "plain");
    assert!(why.contains("see that s3_store_host is right"), "{why}");
    let why = down(&daemon, "secure");
    assert!(why.contains("s3_store_host") || why.contains("400"), "{why}");
}

#[test]
fn a_file_that_has_no_authority_is_named_and_harms_no_other_store() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, key] = another_authority(dir.path());
    let whole = fs::read_to_string(whole).unwrap();
    let key = fs::read_to_string(key).unwrap();
    let line = whole.lines().nth(2).unwrap();
    let cases = [
        ("empty", String::new()),
        ("text", "no certificate\n".to_owned()),
        ("key", key),
        ("cut", whole[..whole.len() / 2].to_owned()),
        ("no-base64", whole.replace(line, "%%%%")),
        ("no-der", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned()),
        ("short", whole.replace(&format!("{line}\n"), "")),
        ("second", format!("{whole}{}", whole.replace(line, "AAAA"))),
    ];
    let mut stores = Vec::new();
    let options = |path: &Path| {
        format!(
            "s3_store_host = https://127.0.0.1:1\ns3_store_bucket = images\n\
             s3_store_access_key = a\ns3_store_secret_key = b\ns3_store_cacert = {}\n",
            path.display()
        )
    };
    for (name, text) in &cases {
        let path = dir.path().join(format!("{name}.pem"));
        fs::write(&path, text).unwrap();
        stores.push((*name, options(&path)));
    }
    stores.push(("missing", options(&dir.path().join("missing.pem"))));
    stores.push(("folder", options(dir.path())));
    let given: Vec<_> = stores.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let daemon = start(&given, &[]);
    for (store, _) in &stores {
        let why = down(&daemon, store);
        assert!(why.contains("s3_store_cacert"), "{store}: {why}");
        assert!(why.contains(dir.path().to_str().unwrap()), "{store}: {why}");
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}
