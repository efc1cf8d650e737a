//! Images in pools where the store was before: read and deleted, and never written.

use serde_json::json;

use crate::harness::{
    daemon::{Daemon, noise},
    raw::{Answer, Raw},
    stores::ceph::{Ceph, POOL},
};

/// Where the store is now; the pool of the other tests is where it was.
const NOW: &str = "small";

/// `was` in the pool where the images are, `now` in another that knows of it, and of one that is not
/// there, and `bare`, which does not.
fn config(ceph: &Ceph) -> String {
    let now = ceph.options_of("glance", NOW, 20);
    format!(
        "[DEFAULT]\nenabled_backends = was:rbd, now:rbd, bare:rbd\n\
         [glance_store]\ndefault_backend = now\n\
         [was]\n{}[now]\n{now}imaged_also_pools = {POOL}, gone\n[bare]\n{now}",
        ceph.options(),
    )
}

/// Asks for the image at a location of a store.
fn ask(daemon: &Daemon, method: &str, store: &str, at: &str) -> Answer {
    let at = at.replace('/', "%2F").replace(':', "%3A");
    daemon.ask(method, &format!("/v1/stores/{store}/images?at={at}"))
}

#[test]
fn an_image_of_the_pool_before_is_read_and_deleted_and_none_is_written_there() {
    let ceph = Ceph::up();
    let daemon = Daemon::start(&config(&ceph));
    let (old, new) = (noise(9_000_001, 61), noise(9_000_001, 62));
    let fsid = ceph.fsid();
    let at = |pool: &str| format!("rbd://{fsid}/{pool}/x/snap");
    assert_eq!(daemon.put("was", "x", &old).status, 201);
    // The id is free in the store's own pool, and each location is of the image in its pool.
    assert_eq!(daemon.ask("HEAD", "/v1/stores/now/images/x").status, 404);
    let put = daemon.put("now", "x", &new);
    assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));
    assert_eq!(put.json()["location"], at(NOW));
    for (pool, bytes) in [(POOL, &old), (NOW, &new)] {
        assert!(ask(&daemon, "GET", "now", &at(pool)).body == *bytes, "{pool}");
        let head = ask(&daemon, "HEAD", "now", &at(pool));
        assert_eq!(head.headers["content-length"], "9000001", "{pool}");
        let etag = &daemon.ask("HEAD", "/v1/stores/was/images/x").headers["etag"];
        assert_eq!(head.headers["etag"] == *etag, pool == POOL, "{pool}: its own digests");
    }
    assert!(daemon.get("now", "x").body == new);
    let foreign = ask(&daemon, "GET", "bare", &at(POOL));
    assert_eq!((foreign.status, foreign.code().as_str()), (400, "Invalid"));
    let list = daemon.ask("GET", "/v1/stores/now/images");
    assert_eq!(String::from_utf8(list.body).unwrap().lines().count(), 1, "what it has itself");
    let shown = daemon.ask("GET", "/v1/stores/now").json();
    assert_eq!(shown["properties"]["also_pools"], json!([POOL, "gone"]));
    // It is a source like any other.
    for mode in ["clone", "stream"] {
        let source = json!({"source": {"location": at(POOL), "store": "now"}, "mode": mode});
        let path = "/v1/stores/now/images/y";
        let made = Raw::ask(&daemon.socket, "POST", path, source.to_string().as_bytes());
        assert_eq!(made.status, 201, "{mode}: {}", String::from_utf8_lossy(&made.body));
        daemon.wait_until_idle();
        assert!(daemon.get("now", "y").body == old, "{mode}");
        assert!(ceph.images_in(NOW).contains(&"y".to_owned()), "{mode}");
        assert_eq!(daemon.ask("DELETE", path).status, 204, "{mode}");
    }
    // A reader of the one keeps the one, and not the other of the same name.
    let mut reading = Raw::connect(&daemon.socket);
    let long = noise(64 << 20, 63);
    assert_eq!(daemon.put("was", "z", &long).status, 201);
    assert_eq!(daemon.put("now", "z", &new).status, 201);
    let z = format!("rbd%3A%2F%2F{fsid}%2F{POOL}%2Fz%2Fsnap");
    reading.head("GET", &format!("/v1/stores/now/images?at={z}"), "");
    assert_eq!(reading.read_head().unwrap().0, 200);
    assert_eq!(daemon.ask("DELETE", "/v1/stores/now/images/z").status, 204);
    let held = daemon.ask("DELETE", &format!("/v1/stores/now/images?at={z}"));
    assert_eq!((held.status, held.code().as_str()), (409, "InUse"));
    drop(reading);
    daemon.wait_until("the reader to be gone", |daemon| {
        daemon.ask("DELETE", &format!("/v1/stores/now/images?at={z}")).status == 204
    });
    // A clone that needs it keeps it, whole.
    ceph.clone_of("x", "child", 1);
    let held = ask(&daemon, "DELETE", "now", &at(POOL));
    assert_eq!((held.status, held.code().as_str()), (409, "InUse"));
    assert!(ask(&daemon, "GET", "now", &at(POOL)).body == old);
    ceph.rbd_must(&["rm", "--no-progress", "volumes/child"]);
    assert_eq!(ask(&daemon, "DELETE", "now", &at(POOL)).status, 204);
    assert_eq!(ask(&daemon, "DELETE", "now", &at(POOL)).status, 404);
    assert_eq!(ask(&daemon, "GET", "now", &at(POOL)).status, 404);
    assert!(daemon.get("now", "x").body == new, "the other of this name stays");
    assert_eq!(ask(&daemon, "DELETE", "now", &at(NOW)).status, 204);
    ceph.assert_empty();
    ceph.assert_empty_pool(NOW);
}

#[test]
fn a_pool_before_that_is_missing_stops_nothing_but_its_own_images() {
    let ceph = Ceph::up();
    let daemon = Daemon::start(&config(&ceph));
    let at = format!("rbd://{}/gone/x/snap", ceph.fsid());
    let image = noise(100_000, 64);
    assert_eq!(daemon.put("now", "x", &image).status, 201);
    for method in ["GET", "DELETE"] {
        let away = ask(&daemon, method, "now", &at);
        assert_eq!((away.status, away.code().as_str()), (503, "Unavailable"), "{method}");
        assert!(away.detail().contains("the pool does not exist"), "{}", away.detail());
        assert!(away.detail().contains("imaged_also_pools=`gone`"), "{}", away.detail());
    }
    assert_eq!(daemon.ask("GET", "/v1/stores/now").json()["state"], "up");
    ceph.make_pool("gone");
    let refused = ask(&daemon, "GET", "now", &at);
    assert_eq!((refused.status, refused.code().as_str()), (502, "BackendDenied"));
    assert!(refused.detail().contains("profile rbd pool=gone"), "{}", refused.detail());
    assert!(refused.detail().contains("profile rbd pool=small"), "{}", refused.detail());
    ceph.remove_pool("gone");
    assert!(daemon.get("now", "x").body == image);
    assert_eq!(daemon.ask("DELETE", "/v1/stores/now/images/x").status, 204);
    ceph.assert_empty_pool(NOW);
}
