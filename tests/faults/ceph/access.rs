//! Stores whose cluster does not let them in, or only half: each says why, stops no other, and comes
//! up when it is mended.

use std::{fs, path::Path};

use nix::sys::signal::Signal;

use super::{MIB, TIMEOUT_S, assert_others_go_on, begin, conf, health, looked_at};
use crate::harness::{
    daemon::{Daemon, noise},
    raw::Raw,
    stores::ceph::{Ceph, POOL, VOLUMES},
};

/// Pools and users that the tests here make; what a test has left is removed before and after.
struct Made<'a>(&'a Ceph);

const POOLS: [&str; 2] = ["missing", "missing-data"];
const USER: &str = "client.rotating";
const NARROW: &str = "client.narrow";

impl<'a> Made<'a> {
    fn none(ceph: &'a Ceph) -> Self {
        let made = Self(ceph);
        made.remove();
        made
    }

    fn remove(&self) {
        for pool in POOLS {
            let sure = "--yes-i-really-really-mean-it";
            self.0.try_admin(&["osd", "pool", "rm", pool, pool, sure]);
        }
        for user in [USER, NARROW] {
            self.0.try_admin(&["auth", "rm", user]);
        }
    }

    /// The options of a store in the pool whose user has these caps; what it needs is in `home`.
    fn options(&self, home: &Path, caps: &[&str]) -> String {
        let keyring = home.join("narrow.keyring");
        let made = self.0.admin(&[&["auth", "get-or-create", NARROW], caps].concat());
        fs::write(&keyring, made + "\n").unwrap();
        let own = home.join("narrow.conf");
        fs::write(&own, own_conf(self.0, &keyring.display().to_string())).unwrap();
        let theirs = self.0.conf().display().to_string();
        self.0.options_of("narrow", POOL, TIMEOUT_S).replace(&theirs, &own.display().to_string())
    }

    fn pool(&self, name: &str) {
        self.0.admin(&["osd", "pool", "create", name, "4"]);
        self.0.admin(&["osd", "pool", "application", "enable", name, "rbd"]);
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A ceph.conf whose keyrings are the daemon's to choose.
fn own_conf(ceph: &Ceph, keyring: &str) -> String {
    let conf = fs::read_to_string(ceph.conf()).unwrap();
    let theirs = format!("keyring = {}", ceph.file("ceph.$name.keyring").display());
    assert!(conf.contains(&theirs), "{conf}");
    conf.replace(&theirs, &format!("keyring = {keyring}"))
}

#[test]
fn a_store_that_is_not_let_in_says_why_and_comes_up_when_that_is_mended() {
    let ceph = Ceph::up();
    let made = Made::none(&ceph);
    let home = Daemon::home();
    let dir = home.path().display().to_string();
    // A user that is not in the cluster, and one whose key is not its own.
    fs::copy(ceph.file("ceph.client.wrong.keyring"), home.path().join("wrong")).unwrap();
    let key = fs::read_to_string(ceph.file("ceph.client.wrong.keyring")).unwrap();
    fs::write(home.path().join("nobody"), key.replace("client.wrong", "client.nobody")).unwrap();
    for name in ["wrong", "nobody", "none"] {
        let conf = own_conf(&ceph, &format!("{dir}/{name}"));
        fs::write(home.path().join(format!("{name}.conf")), conf).unwrap();
    }
    let by = |conf: &str, user: &str, pool: &str| {
        format!(
            "rbd_store_ceph_conf = {conf}\nrbd_store_user = {user}\nrbd_store_pool = {pool}\n\
             rados_connect_timeout = {TIMEOUT_S}\n"
        )
    };
    let theirs = ceph.conf().display().to_string();
    let own = |name: &str| format!("{dir}/{name}.conf");
    let stores = [
        ("key", by(&own("wrong"), "wrong", POOL)),
        ("user", by(&own("nobody"), "nobody", POOL)),
        ("keyring", by(&own("none"), "glance", POOL)),
        ("conf", by(&own("away"), "glance", POOL)),
        ("pool", by(&theirs, "admin", "missing")),
        ("data", by(&theirs, "admin", POOL) + "rbd_store_data_pool = missing-data\n"),
        ("slow", by(&theirs, "glance", POOL)),
    ];
    let enabled: String = stores.iter().map(|(name, _)| format!("{name}:rbd, ")).collect();
    let sections: String =
        stores.iter().map(|(name, options)| format!("[{name}]\n{options}")).collect();
    let text = format!(
        "[DEFAULT]\nenabled_backends = {enabled}cheap:file\n\
         [glance_store]\ndefault_backend = cheap\n{sections}\
         [cheap]\nfilesystem_store_datadir = {{dir}}/cheap\n"
    );
    let daemon = Daemon::start_in(home, &text, &[]);
    assert_others_go_on(&daemon, "when most stores are down");
    assert_eq!(daemon.put("slow", "x", b"image").status, 201);
    for (store, words) in [
        ("key", vec!["rbd_store_user=`wrong`", "compare", &format!("keyring=`{dir}/wrong`")]),
        ("user", vec!["rbd_store_user=`nobody`", "refuses", &format!("keyring=`{dir}/nobody`")]),
        ("keyring", vec!["rbd_store_user=`glance`", "write one", &format!("keyring=`{dir}/none`")]),
        ("conf", vec![&format!("rbd_store_ceph_conf=`{dir}/away.conf`"), "name another"]),
        ("pool", vec!["rbd_store_pool=`missing`", "create it"]),
        ("data", vec!["rbd_store_data_pool=`missing-data`", "create it"]),
    ] {
        let why = health(&daemon, store).expect_err(store);
        for word in words {
            assert!(why.contains(word), "{store}: `{word}` is not in: {why}");
        }
        let put = daemon.put(store, "x", b"image");
        assert_eq!((put.status, put.code().as_str()), (503, "Unavailable"), "{store}");
        assert!(put.detail().contains(&why), "{store}: {}", put.detail());
    }
    // All is mended but nothing said to the daemon.
    let glance = fs::read_to_string(ceph.file("ceph.client.glance.keyring")).unwrap();
    fs::write(daemon.path("none"), &glance).unwrap();
    let right = ceph.admin(&["auth", "get", "client.wrong"]);
    fs::write(daemon.path("wrong"), right + "\n").unwrap();
    let admin = fs::read_to_string(ceph.file("ceph.client.admin.keyring")).unwrap();
    fs::write(daemon.path("nobody"), &admin).unwrap();
    fs::copy(ceph.conf(), daemon.path("away.conf")).unwrap();
    for pool in POOLS {
        made.pool(pool);
    }
    for store in ["key", "keyring", "conf", "pool", "data"] {
        daemon.wait_until("the store to come up", |daemon| health(daemon, store).is_ok());
    }
    assert!(health(&daemon, "user").is_err(), "there is still no such user");
    // Those whose users may not write elsewhere share one pool.
    for (store, id) in [("keyring", "a"), ("conf", "b"), ("pool", "c"), ("data", "d")] {
        let image = noise(5 * MIB, 21);
        let put = daemon.put(store, id, &image);
        assert_eq!(put.status, 201, "{store}: {}", String::from_utf8_lossy(&put.body));
        assert!(daemon.get(store, id).body == image, "{store}");
        let deleted = daemon.ask("DELETE", &format!("/v1/stores/{store}/images/{id}"));
        assert_eq!(deleted.status, 204, "{store}");
    }
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/x").status, 204);
    ceph.assert_empty_pool("missing-data");
    ceph.assert_empty();
}

#[test]
fn a_user_who_may_only_read_reads_what_is_there_and_nothing_else() {
    let ceph = Ceph::up();
    let reader = ceph.options_of("readonly", POOL, TIMEOUT_S);
    let text = conf(&ceph.options_of("glance", POOL, TIMEOUT_S))
        .replace("slow:rbd,", "slow:rbd, reader:rbd,")
        .replace("[cheap]", &format!("[reader]\n{reader}[cheap]"));
    let daemon = Daemon::start(&text);
    looked_at(&daemon, "reader").unwrap();
    let image = noise(64 * MIB, 22);
    assert_eq!(daemon.put("slow", "x", &image).status, 201);
    assert!(daemon.get("reader", "x").body == image);
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/v1/stores/reader/images/x", "range: bytes=4194300-4194309\r\n");
    assert_eq!(raw.answer("GET").body, image[4_194_300..4_194_310]);
    let head = daemon.ask("HEAD", "/v1/stores/reader/images/x");
    assert_eq!((head.status, head.headers["content-length"].as_str()), (200, "67108864"));
    let list = daemon.ask("GET", "/v1/stores/reader/images");
    assert_eq!(String::from_utf8(list.body).unwrap().lines().count(), 1);
    assert_eq!(daemon.get("reader", "nothing").status, 404);
    for (method, id) in [("PUT", "y"), ("DELETE", "x")] {
        let refused = daemon.ask(method, &format!("/v1/stores/reader/images/{id}"));
        assert_eq!((refused.status, refused.code().as_str()), (502, "BackendDenied"), "{method}");
        let told = refused.detail();
        for word in ["profile rbd pool=images", "rbd_store_user=`readonly`", "caps do not allow it"]
        {
            assert!(told.contains(word), "{method}: `{word}` is not in: {told}");
        }
    }
    assert_eq!(daemon.files("state/journal"), [""; 0]);
    assert!(daemon.get("slow", "x").body == image, "the refused delete has touched nothing");
    // What is removed under one who cannot watch it ends short, and never in zeros.
    let mut raw = Raw::connect(&daemon.socket);
    raw.head("GET", "/v1/stores/reader/images/x", "");
    let (status, _) = raw.read_head().unwrap();
    assert_eq!(status, 200);
    assert_eq!(daemon.ask("DELETE", "/v1/stores/slow/images/x").status, 204);
    let mut got = Vec::new();
    // It ends by a reset or by an end that comes too early.
    let _ended = std::io::Read::read_to_end(&mut raw.stream, &mut got);
    assert!(got.len() < image.len());
    let whole = got.iter().zip(&image).all(|(got, byte)| got == byte);
    // Some of it may have come with the head.
    let tail = image.windows(16).position(|bytes| got.get(..16) == Some(bytes)).unwrap_or(0);
    assert!(whole || image[tail..].starts_with(&got), "other bytes than the image's");
    ceph.assert_empty();
}

#[test]
fn a_keyring_that_is_exchanged_is_taken_up_while_transfers_go_on() {
    let ceph = Ceph::up();
    let made = Made::none(&ceph);
    let caps = ["mon", "profile rbd", "osd", "profile rbd pool=images"];
    let create = ["auth", "get-or-create", USER];
    let first = ceph.admin(&[&create[..], &caps[..]].concat());
    let home = Daemon::home();
    let keyring = home.path().join("keyring");
    fs::write(&keyring, first.clone() + "\n").unwrap();
    let own = home.path().join("own.conf");
    fs::write(&own, own_conf(&ceph, &keyring.display().to_string())).unwrap();
    let options = ceph
        .options_of("rotating", POOL, TIMEOUT_S)
        .replace(&ceph.conf().display().to_string(), &own.display().to_string());
    let daemon = Daemon::start_in(home, &conf(&options), &[]);
    let (large, image) = (noise(64 * MIB, 23), noise(24 * MIB, 24));
    assert_eq!(daemon.put("slow", "large", &large).status, 201);
    let mut putting = begin(&ceph, &daemon, "new", Some(image.len()), &image);
    let mut reading = Raw::connect(&daemon.socket);
    reading.head("GET", "/v1/stores/slow/images/large", "");
    // The user gets another key.
    made.0.admin(&["auth", "rm", USER]);
    let second = ceph.admin(&[&create[..], &caps[..]].concat());
    assert_ne!(first, second);
    // A file that is wrong is told, and who is connected stays so.
    let wrong = fs::read_to_string(ceph.file("ceph.client.wrong.keyring")).unwrap();
    fs::write(&keyring, wrong.replace("client.wrong", USER)).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("it to be told", |daemon| health(daemon, "slow").is_err());
    let why = health(&daemon, "slow").unwrap_err();
    assert!(why.contains("refuses") && why.contains("rbd_store_user=`rotating`"), "{why}");
    // The right one is taken up.
    fs::write(&keyring, second + "\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until("the store to be up", |daemon| health(daemon, "slow").is_ok());
    assert!(daemon.log().contains("connected to the cluster anew"), "{}", daemon.log());
    assert_eq!(daemon.put("slow", "other", b"other").status, 201);
    putting.send(&image[9 * MIB..]);
    assert_eq!(putting.answer("PUT").status, 201, "{}", daemon.log());
    assert!(reading.answer("GET").body == large);
    assert!(daemon.get("slow", "new").body == image);
    for id in ["large", "new", "other"] {
        assert_eq!(daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}")).status, 204);
    }
    ceph.assert_empty();
}

/// A store whose own user may not read the volume, beside one whose may; and volumes that no Ceph clones.
#[test]
fn what_cannot_be_cloned_is_streamed_in_mode_auto_and_refused_in_mode_clone() {
    let ceph = Ceph::up();
    let made = Made::none(&ceph);
    let home = Daemon::home();
    let narrow =
        made.options(home.path(), &["mon", "profile rbd", "osd", "profile rbd pool=images"]);
    let wide = ceph.options_of("glance", "small", TIMEOUT_S);
    let text = conf(&ceph.options_of("glance", POOL, TIMEOUT_S))
        .replace("slow:rbd,", "slow:rbd, narrow:rbd, wide:rbd,")
        .replace("[cheap]", &format!("[narrow]\n{narrow}[wide]\n{wide}[cheap]"));
    let daemon = Daemon::start_in(home, &text, &[]);
    let image = noise(9 * MIB + 3, 25);
    ceph.volume("plain", &image);
    let import = |name: &str, how: &[&str]| ceph.import(&format!("{VOLUMES}/{name}"), &image, how);
    import("flat", &["--image-feature", "exclusive-lock"]);
    import("old", &["--image-format", "1"]);
    for (store, volume, snap, why) in [
        ("narrow", "plain", "", "profile rbd-read-only"),
        ("slow", "flat", "", "layering"),
        ("slow", "flat", "@then", "layering"),
        ("slow", "old", "", "format 1"),
        ("slow", "old", "@then", "format 1"),
    ] {
        let what = format!("{store} {volume}{snap}");
        let volume = format!("{VOLUMES}/{volume}");
        if !snap.is_empty() {
            ceph.rbd_must(&["snap", "create", "--no-progress", &format!("{volume}{snap}")]);
        }
        let copy = |mode: &str| {
            let source = format!(r#"{{"rbd_volume": "{volume}{snap}", "store": "wide"}}"#);
            let body = format!(r#"{{"source": {source}, "mode": "{mode}"}}"#);
            let path = format!("/v1/stores/{store}/images/copied");
            Raw::ask(&daemon.socket, "POST", &path, body.as_bytes())
        };
        let refused = copy("clone");
        assert!([405, 502].contains(&refused.status), "{what}: {}", refused.detail());
        assert!(refused.detail().contains(why), "{what}: {}", refused.detail());
        let copied = copy("auto");
        let said = String::from_utf8_lossy(&copied.body);
        assert_eq!(copied.status, 201, "{what}: {said}");
        assert_eq!(copied.json()["checksum"].as_str().map(str::len), Some(32), "{what}: {said}");
        assert!(daemon.get(store, "copied").body == image, "{what}");
        daemon.wait_until("nobody reads the image", |daemon| {
            daemon.ask("DELETE", &format!("/v1/stores/{store}/images/copied")).status == 204
        });
        if !snap.is_empty() {
            ceph.rbd_must(&["snap", "rm", "--no-progress", &format!("{volume}{snap}")]);
        }
        assert_eq!(ceph.rbd_must(&["snap", "ls", "--all", &volume]), "", "{what}: the seal is off");
    }
    // An image of either kind, in another pool of the cluster.
    for (name, how) in
        [("flat", ["--image-feature", "exclusive-lock"]), ("old", ["--image-format", "1"])]
    {
        let there = format!("small/{name}");
        ceph.rbd(&["snap", "purge", &there]);
        ceph.rbd(&["rm", &there]);
        ceph.import(&there, &image, &how);
        ceph.rbd_must(&["snap", "create", "--no-progress", &format!("{there}@snap")]);
        let at = format!("rbd://{}/{there}/snap", ceph.fsid());
        let body = format!(r#"{{"source": {{"location": "{at}", "store": "wide"}}}}"#);
        let copied =
            Raw::ask(&daemon.socket, "POST", "/v1/stores/slow/images/copied", body.as_bytes());
        assert_eq!(copied.status, 201, "{name}: {}", String::from_utf8_lossy(&copied.body));
        assert!(daemon.get("slow", "copied").body == image, "{name}");
        for (store, id) in [("slow", "copied"), ("wide", name)] {
            daemon.wait_until("nobody reads the image", |daemon| {
                daemon.ask("DELETE", &format!("/v1/stores/{store}/images/{id}")).status == 204
            });
        }
    }
    for volume in ["plain", "flat", "old"] {
        ceph.rbd_must(&["rm", "--no-progress", &format!("{VOLUMES}/{volume}")]);
    }
    ceph.assert_empty();
}

/// As Ceph's documentation had them before there were profiles: without the right to shut out a client that
/// is gone, whose lock then nobody can take.
#[test]
fn old_caps_are_named_where_they_keep_an_image_from_being_cleared_away() {
    let ceph = Ceph::up();
    let made = Made::none(&ceph);
    let home = Daemon::home();
    let caps = [
        "mon",
        "allow r",
        "osd",
        "allow class-read object_prefix rbd_children, allow rwx pool=images",
    ];
    let text = conf(&made.options(home.path(), &caps));
    let mut daemon = Daemon::start_in(home, &text, &[]);
    let image = noise(24 * MIB, 26);
    assert_eq!(daemon.put("slow", "whole", &image).status, 201);
    let _putting = begin(&ceph, &daemon, "half", Some(image.len()), &image);
    daemon.kill();
    let mut daemon = daemon.restart(&[]);
    daemon.wait_until("the cause to be told", |daemon| daemon.log().contains("mon 'profile rbd'"));
    let log = daemon.log();
    assert!(log.contains("rbd_store_user=`narrow`") && log.contains("blocklist"), "{log}");
    // What nobody holds goes on.
    assert!(daemon.get("slow", "whole").body == image);
    daemon.wait_until("nobody reads the image", |daemon| {
        daemon.ask("DELETE", "/v1/stores/slow/images/whole").status == 204
    });
    // With the right caps it is cleared away.
    ceph.admin(&["auth", "caps", NARROW, "mon", "profile rbd", "osd", "profile rbd pool=images"]);
    // The cluster goes by the caps that a connection had when it was made.
    assert!(daemon.stop().success());
    let daemon = daemon.restart(&[]);
    super::cleared(&[&daemon]);
    ceph.assert_empty();
}
