//! What goes wrong in a Ceph cluster, or between it and a daemon: each on a real one.

mod abandoned;
mod access;
mod deletes;
mod flattens;
mod full;
mod holders;
mod kills;
mod mons;
mod pools;
mod restarts;
mod stops;

use std::time::{Duration, Instant};

use crate::harness::{
    daemon::{Daemon, noise},
    pause,
    raw::Raw,
    stores::ceph::{Ceph, POOL},
};

const MIB: usize = 1 << 20;

/// How long the daemons here give their cluster for an answer, in seconds.
const TIMEOUT_S: u32 = 2;

/// The configuration of a daemon with the store `slow` in the cluster, by these options, and `cheap`,
/// the default, in a directory.
fn conf(options: &str) -> String {
    format!(
        "[DEFAULT]\nenabled_backends = slow:rbd, cheap:file\n\
         [glance_store]\ndefault_backend = cheap\n\
         [slow]\n{options}\
         [cheap]\nfilesystem_store_datadir = {{dir}}/cheap\n\
         [imaged]\ndrain_timeout_s = 1\n"
    )
}

/// A daemon of the cluster's pool.
fn daemon(ceph: &Ceph) -> Daemon {
    Daemon::start(&conf(&ceph.options_of("glance", POOL, TIMEOUT_S)))
}

/// A put that has begun: its head and its first 9 MiB are sent, and its image is there.
fn begin(ceph: &Ceph, daemon: &Daemon, id: &str, size: Option<usize>, image: &[u8]) -> Raw {
    let mut raw = Raw::connect(&daemon.socket);
    let path = format!("/v1/stores/slow/images/{id}");
    match size {
        Some(size) => {
            raw.head("PUT", &path, &format!("content-length: {size}\r\n"));
            raw.send(&image[..9 * MIB]);
        }
        None => {
            raw.head("PUT", &path, "transfer-encoding: chunked\r\n");
            raw.chunk(&image[..9 * MIB]);
        }
    }
    ceph.until("an image to be made", |ceph| ceph.images().iter().any(|image| image == id));
    raw
}

/// What has nothing to do with the cluster goes on.
fn assert_others_go_on(daemon: &Daemon, what: &str) {
    let image = noise(100_000, 91);
    assert_eq!(daemon.ask("GET", "/healthz").status, 200, "{what}");
    assert_eq!(daemon.ask("GET", "/readyz").status, 200, "{what}");
    assert_eq!(daemon.ask("GET", "/v1/stores").status, 200, "{what}");
    assert_eq!(daemon.ask("GET", "/metrics").status, 200, "{what}");
    assert_eq!(daemon.put("cheap", "other", &image).status, 201, "{what}");
    assert!(daemon.get("cheap", "other").body == image, "{what}");
    assert_eq!(daemon.ask("GET", "/v1/stores/cheap/images").status, 200, "{what}");
    assert_eq!(daemon.ask("DELETE", "/v1/stores/cheap/images/other").status, 204, "{what}");
}

/// Whether the store is up, or why not, as it was the last time that the daemon looked.
fn health(daemon: &Daemon, store: &str) -> Result<(), String> {
    let stores = daemon.ask("GET", "/v1/stores").json();
    let shown = stores["stores"].as_array().unwrap().iter().find(|shown| shown["id"] == store);
    state(shown.unwrap())
}

/// The same, after it has looked.
fn looked_at(daemon: &Daemon, store: &str) -> Result<(), String> {
    state(&daemon.ask("GET", &format!("/v1/stores/{store}")).json())
}

fn state(shown: &serde_json::Value) -> Result<(), String> {
    if shown["state"] == "up" {
        return Ok(());
    }
    Err(shown["reason"].as_str().unwrap().to_owned())
}

/// Waits until nothing is left to clear away, and every id is free: a watch outlives its client by half a minute.
fn cleared(daemons: &[&Daemon]) {
    let deadline = Instant::now() + Duration::from_secs(90);
    let left = |daemon: &&&Daemon| !daemon.is_idle();
    while let Some(daemon) = daemons.iter().find(left) {
        assert!(Instant::now() < deadline, "something is left\n{}", daemon.log());
        pause(Duration::from_millis(20));
    }
}

/// That an image can be put, read and deleted under this id.
fn assert_free(daemon: &Daemon, id: &str) {
    let image = noise(5 << 20, 92);
    let put = daemon.put("slow", id, &image);
    assert_eq!(put.status, 201, "{id}: {}", String::from_utf8_lossy(&put.body));
    assert!(daemon.get("slow", id).body == image, "{id}");
    let deleted = daemon.ask("DELETE", &format!("/v1/stores/slow/images/{id}"));
    assert_eq!(deleted.status, 204, "{id}: {}", String::from_utf8_lossy(&deleted.body));
}
