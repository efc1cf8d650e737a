//! A store of images on a web server, nginx, through the daemon, as those see it who ask it.

use std::{fs, path::Path};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    rigs::NGINX,
};

/// A daemon with a file store and stores of the rig's nginx: `web`, `deaf` that does not trust it, `blind` that
/// trusts anybody, and `far`, which may connect to nothing that is not public.
fn start() -> Daemon {
    let ca = &NGINX["ca"];
    let allow = "imaged_http_allow = 127.0.0.1, localhost\n";
    Daemon::start(&format!(
        "[DEFAULT]\nenabled_backends = fast:file, web:http, deaf:http, blind:http, far:http\n\
         [glance_store]\ndefault_backend = fast\n\
         [fast]\nfilesystem_store_datadir = {{dir}}/fast\n\
         [web]\n{allow}https_ca_certificates_file = {ca}\n\
         [deaf]\n{allow}\
         [blind]\n{allow}https_insecure = true\n\
         [far]\nimaged_http_retries = 0\n"
    ))
}

/// An image in a folder that nginx serves, which goes with it.
struct Served {
    bytes: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Served {
    fn new(len: usize) -> Self {
        let dir = tempfile::tempdir_in(&NGINX["www"]).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), mode).unwrap();
        let bytes = noise(len, 7);
        fs::write(dir.path().join("image"), &bytes).unwrap();
        Self { bytes, dir }
    }

    /// Its path below one of nginx's.
    fn path(&self, place: &str) -> String {
        let name = self.dir.path().file_name().unwrap().to_str().unwrap();
        format!("{place}{name}/image")
    }

    fn url(&self, place: &str) -> String {
        format!("{}{}", NGINX["url"], self.path(place))
    }
}

fn at(daemon: &Daemon, method: &str, store: &str, url: &str) -> Answer {
    daemon.ask(method, &target(store, url))
}

/// What names an image by its location in a request.
fn target(store: &str, url: &str) -> String {
    format!("/v1/stores/{store}/images?at={}", utf8_percent_encode(url, NON_ALPHANUMERIC))
}

fn ranged(daemon: &Daemon, url: &str, range: &str) -> Answer {
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", &target("web", url), &format!("range: {range}\r\n"));
    raw.answer("GET")
}

fn copy(daemon: &Daemon, id: &str, url: &str, store: &str) -> Answer {
    let body = serde_json::json!({ "source": { "location": url, "store": store } }).to_string();
    Raw::ask(&daemon.socket, "POST", &format!("/v1/stores/fast/images/{id}"), body.as_bytes())
}

#[test]
fn an_image_on_the_web_is_looked_at_read_and_copied() {
    let (daemon, image) = (start(), Served::new(3_000_001));
    let credentials = format!("http://{}:{}@", NGINX["user"], NGINX["password"]);
    let with_password = image.url("/auth/").replace("http://", &credentials);
    let places = ["/f/", "/norange/", "/redir/", "/gz/"].map(|place| image.url(place));
    for (nth, url) in places.iter().chain([&with_password]).enumerate() {
        let looked = at(&daemon, "HEAD", "web", url);
        assert_eq!(
            (looked.status, looked.headers["content-length"].as_str()),
            (200, "3000001"),
            "{url}"
        );
        let whole = at(&daemon, "GET", "web", url);
        assert!(whole.whole && whole.body == image.bytes, "{url}: {}", whole.status);
        for (range, from, to) in [
            ("bytes=0-0", 0, 1),
            ("bytes=1000000-1999999", 1_000_000, 2_000_000),
            ("bytes=-7", 2_999_994, 3_000_001),
        ] {
            let part = ranged(&daemon, url, range);
            assert_eq!(part.status, 206, "{url} {range}");
            assert!(part.body == image.bytes[from..to], "{url} {range}");
        }
        assert_eq!(ranged(&daemon, url, "bytes=3000001-").status, 416, "{url}");
        let id = format!("copy-{nth}");
        let copied = copy(&daemon, &id, url, "web");
        assert_eq!(copied.status, 201, "{url}: {:?}", copied.json());
        assert_eq!(copied.json()["size"], 3_000_001);
        assert!(daemon.get("fast", &id).body == image.bytes, "{url}");
    }
    daemon.wait_until_idle();
    let told = daemon.log();
    assert!(!told.contains(&NGINX["password"]), "{told}");
}

#[test]
fn nothing_is_put_deleted_or_listed_there() {
    let (daemon, image) = (start(), Served::new(1000));
    let url = image.url("/f/");
    assert_eq!(daemon.put("web", "x", b"bytes").status, 405);
    assert_eq!(at(&daemon, "DELETE", "web", &url).status, 405);
    assert_eq!(daemon.ask("GET", "/v1/stores/web/images").status, 405);
    assert_eq!(daemon.get("web", "x").status, 404);
    let told = daemon.ask("GET", "/v1/stores/web").json();
    assert_eq!((&told["type"], &told["state"]), (&"http".into(), &"up".into()), "{told}");
    assert!(image.dir.path().join("image").exists());
}

#[test]
fn what_nginx_refuses_is_told_by_kind_and_leaves_nothing() {
    let (daemon, image) = (start(), Served::new(1000));
    let missing = format!("{}/f/no-such-image", NGINX["url"]);
    for (url, status) in [
        (missing, 404),
        (image.url("/auth/"), 502),
        (image.url("/loop/"), 400),
        (image.url("/err/"), 503),
        (image.url("/cut/"), 503),
        ("http://127.0.0.1:1/x".to_owned(), 503),
        ("http://no-such-host.invalid/x".to_owned(), 503),
    ] {
        for answer in [at(&daemon, "HEAD", "web", &url), at(&daemon, "GET", "web", &url)] {
            assert_eq!(answer.status, status, "{url}: {}", String::from_utf8_lossy(&answer.body));
        }
        assert_eq!(copy(&daemon, "x", &url, "web").status, status, "{url}");
    }
    daemon.wait_until_idle();
    daemon.assert_empty();
}

#[test]
fn a_certificate_is_verified_unless_told_otherwise() {
    let (daemon, image) = (start(), Served::new(100_000));
    let port = NGINX["https"].rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{port}{}", image.path("/f/"));
        for store in ["web", "blind"] {
            assert!(at(&daemon, "GET", store, &url).body == image.bytes, "{store} {url}");
        }
        let refused = at(&daemon, "GET", "deaf", &url);
        assert_eq!(refused.status, 502, "{url}");
        assert!(
            refused.json()["detail"].as_str().unwrap().contains("certificate"),
            "{:?}",
            refused.json()
        );
    }
    // The name is verified too.
    let other = format!("https://localhost.localdomain:{port}{}", image.path("/f/"));
    assert_ne!(at(&daemon, "GET", "web", &other).status, 200);
}

#[test]
fn a_copy_from_a_slow_server_that_ends_in_the_middle_leaves_nothing() {
    let (mut daemon, image) = (start(), Served::new(6 << 20));
    let mut raw = Raw::connect(&daemon.socket);
    let body = serde_json::json!({ "source": { "location": image.url("/slow/"), "store": "web" } })
        .to_string();
    raw.head("POST", "/v1/stores/fast/images/x", &format!("content-length: {}\r\n", body.len()));
    raw.send(body.as_bytes());
    daemon.wait_until("the image to be on its way", |daemon| !daemon.is_idle());
    drop(raw);
    daemon.wait_until_idle();
    let there = daemon.get("fast", "x");
    assert!(there.status == 404 || there.body == image.bytes, "{}", there.status);
    daemon.stop();
}

#[test]
fn no_spelling_of_an_address_leads_inside() {
    let (daemon, image) = (start(), Served::new(1000));
    let port = NGINX["url"].rsplit(':').next().unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[::127.0.0.1]",
        "localhost",
        "LOCALHOST",
        "%6cocalhost",
        "127.0.0.1.",
        "１２７.0.0.1",
        "x@127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
    ] {
        let url = format!("http://{host}:{port}{}", image.path("/f/"));
        for method in ["HEAD", "GET"] {
            let answer = at(&daemon, method, "far", &url);
            assert_eq!(answer.status, 400, "{method} {url}");
            if method == "GET" {
                let told = String::from_utf8(answer.body).unwrap();
                assert!(told.contains("not fetched from this host"), "{url}: {told}");
            }
        }
        assert_eq!(copy(&daemon, "x", &url, "far").status, 400, "{url}");
    }
    daemon.assert_empty();
}

#[test]
fn what_is_no_url_is_refused_without_being_asked_for() {
    let daemon = start();
    for url in [
        "http://",
        "http:///x",
        "https://me:s3cret@/x",
        "http://x:s3cret/",
        "http://a b/",
        "http://x\\@y/",
        "http://x/\r\nHost: y",
        "http://[::1",
        "http://1.2.3.4.5/",
    ] {
        let answer = at(&daemon, "GET", "web", url);
        let told = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, 400, "{url}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
    assert!(!daemon.log().contains("s3cret"), "{}", daemon.log());
}

#[test]
fn the_command_line_copies_from_the_web() {
    let (daemon, image) = (start(), Served::new(500_000));
    let url = image.url("/redir/");
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(crate::harness::daemon::IMAGED);
        command.args(words).env("IMAGED_SOCKET", Path::new(&daemon.socket));
        command.output().unwrap()
    };
    let said = run(&["copy", "fast", "x", "--from", &url, "--from-store", "web"]);
    assert!(said.status.success(), "{said:?}");
    assert!(daemon.get("fast", "x").body == image.bytes);
    let said = run(&["copy", "fast", "y", "--from", &image.url("/err/"), "--from-store", "web"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
}
