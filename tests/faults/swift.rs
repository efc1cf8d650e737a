//! A real Swift that ends, begins anew, has no room, or forgets whom it has let in; and a daemon that is killed.

use std::time::Duration;

use super::outlived::{assert_stored, begin, download_goes_on, remove};
use crate::harness::{
    daemon::{Daemon, noise},
    pause,
    raw::Answer,
    rigs::Own,
    stores::swift::{Server, Swift},
};

const SEGMENT: usize = 1_024_000;

const SEGMENTS: &str =
    "swift_store_large_object_size = 1\nswift_store_large_object_chunk_size = 1\n";

fn daemon(swift: &Swift, more: &str) -> Daemon {
    let options = swift.options() + SEGMENTS + more;
    Daemon::start(&format!("[DEFAULT]\nenabled_backends = fast:swift\n[fast]\n{options}"))
}

/// Waits until so many segments are there.
fn wait_for_segments(daemon: &Daemon, swift: &Swift, count: usize) {
    daemon.wait_until("segments", |_| swift.objects().len() >= count);
}

#[test]
fn a_daemon_killed_in_forty_segments_leaves_none() {
    for large_object in ["dlo", "slo"] {
        let swift = Swift::up(Server::OpenStack);
        let option = format!("imaged_swift_large_object = {large_object}\n");
        let mut daemon = daemon(&swift, &option);
        let image = noise(40 * SEGMENT + 7, 1);
        let mut raw = begin(&daemon, image.len());
        raw.send(&image[..30 * SEGMENT]);
        wait_for_segments(&daemon, &swift, 26);
        daemon.kill();
        assert!(swift.objects().len() >= 26);
        let daemon = daemon.restart(&[]);
        daemon.wait_until("nothing to be left", |_| swift.objects().is_empty());
        daemon.wait_until_idle();
        // The id is free, and the next image of it has none of the segments.
        let small = noise(2 * SEGMENT + 1, 2);
        daemon.wait_until("the id to be free", |daemon| {
            daemon.put("fast", "x", &small).status == 201
        });
        assert!(daemon.get("fast", "x").body == small);
        remove(&daemon);
        assert_eq!(swift.objects(), [""; 0]);
    }
}

#[test]
fn an_upload_goes_on_when_its_server_is_started_again() {
    let own = Own::start("swift", &[]);
    let swift = Swift::in_own(&own);
    let daemon = daemon(&swift, "");
    let image = noise(40 * SEGMENT + 7, 3);
    let mut raw = begin(&daemon, image.len());
    let (first, rest) = image.split_at(15 * SEGMENT);
    raw.send(first);
    wait_for_segments(&daemon, &swift, 10);
    own.kill();
    let (second, third) = rest.split_at(3 * SEGMENT);
    raw.send(second);
    own.restart();
    raw.send(third);
    assert_stored(&daemon, raw, &image);
    assert_eq!(swift.objects(), [""; 0]);
}

#[test]
fn a_download_goes_on_when_its_server_is_started_again() {
    let own = Own::start("swift", &[]);
    let swift = Swift::in_own(&own);
    let daemon = daemon(&swift, "");
    // More than lies in buffers on its way.
    let image = noise(80 * SEGMENT + 7, 4);
    download_goes_on(&daemon, &own, &image, 5 * SEGMENT);
}

#[test]
fn tokens_that_expire_in_an_upload_are_renewed() {
    let own = Own::start("swift", &[("SWIFT_TOKEN_LIFE", "2")]);
    let swift = Swift::in_own(&own);
    // It is renewed only when the server refuses it.
    let daemon = daemon(&swift, "swift_store_expire_soon_interval = 0\n");
    let image = noise(12 * SEGMENT + 7, 5);
    let mut raw = begin(&daemon, image.len());
    for piece in image.chunks(2 * SEGMENT) {
        raw.send(piece);
        pause(Duration::from_millis(700));
    }
    assert_stored(&daemon, raw, &image);
}

#[test]
fn a_container_at_its_quota_is_full_and_keeps_nothing() {
    let swift = Swift::up(Server::OpenStack);
    swift.post("X-Container-Meta-Quota-Bytes: 3000000");
    let daemon = daemon(&swift, "");
    for length in [2_000_000, 8 * SEGMENT] {
        assert_eq!(daemon.put("fast", "small", &noise(1_500_000, 6)).status, 201);
        let answer = daemon.put("fast", "x", &noise(length, 7));
        assert_eq!((answer.status, answer.code().as_str()), (507, "Full"), "{answer:?}");
        assert_eq!(daemon.ask("DELETE", "/v1/stores/fast/images/small").status, 204);
        daemon.wait_until("nothing to be left", |_| swift.objects().is_empty());
    }
}

#[test]
fn a_wrong_key_is_said_and_shown_nowhere() {
    let swift = Swift::up(Server::OpenStack);
    let options = swift.options().replace(&swift.key, "wr0ng-s3cret");
    let config = format!(
        "[DEFAULT]\nenabled_backends = fast:swift, good:mem\n[glance_store]\ndefault_backend = good\n\
         [fast]\n{options}[good]\nmem_capacity = 1048576\n[imaged]\nlog_level = trace\n"
    );
    let daemon = Daemon::start(&config);
    let answer: Answer = daemon.ask("GET", "/v1/stores/fast");
    let reason = answer.json()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("the login is refused"), "{answer:?}");
    let put = daemon.put("fast", "x", b"bytes");
    assert!([502, 503].contains(&put.status), "{put:?}");
    assert!(!daemon.log().contains("wr0ng-s3cret"), "a key is in the log");
}
