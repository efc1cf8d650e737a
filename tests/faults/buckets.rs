//! Daemons and servers of S3 that end in the midst of a transfer.

use super::outlived::{assert_stored, begin, download_goes_on, remove};
use crate::harness::{
    again,
    daemon::{Daemon, noise},
    rigs::Own,
    stores::buckets::Bucket,
};

/// Bytes of a part.
const PART: usize = 5 << 20;

fn daemon(bucket: &Bucket) -> Daemon {
    let options = bucket.options();
    Daemon::start(&format!("[DEFAULT]\nenabled_backends = fast:s3\n[fast]\n{options}"))
}

async fn wait_for_parts(bucket: &Bucket, count: usize) {
    while bucket.parts().await < count {
        again().await;
    }
}

#[tokio::test]
async fn a_daemon_killed_in_forty_parts_leaves_none_on_seaweed() {
    killed_in_forty_parts(Bucket::seaweed().await).await;
}

#[tokio::test]
async fn a_daemon_killed_in_forty_parts_leaves_none_on_radosgw() {
    killed_in_forty_parts(Bucket::radosgw().await).await;
}

async fn killed_in_forty_parts(bucket: Bucket) {
    let mut daemon = daemon(&bucket);
    let image = noise(40 * PART + 7, 1);
    let mut raw = begin(&daemon, image.len());
    raw.send(&image[..30 * PART]);
    wait_for_parts(&bucket, 26).await;
    daemon.kill();
    assert!(bucket.parts().await >= 26);
    let daemon = daemon.restart(&[]);
    while !bucket.left().await.is_empty() {
        again().await;
    }
    daemon.wait_until_idle();
    let spooled = daemon.path("state/spool");
    let spooled = std::fs::read_dir(spooled).map_or(0, Iterator::count);
    assert_eq!(spooled, 0, "what was on disk for parts is gone");
    // The id is free, and the next image of it has nothing of the last one.
    let small = noise(2 * PART + 1, 2);
    daemon.wait_until("the id to be free", |daemon| daemon.put("fast", "x", &small).status == 201);
    assert!(daemon.get("fast", "x").body == small);
    remove(&daemon);
    assert_eq!(bucket.left().await, [""; 0]);
}

#[tokio::test]
async fn an_upload_goes_on_when_its_server_is_started_again_seaweed() {
    let own = Own::start("weed", &[]);
    let bucket = Bucket::in_own(&own).await;
    let daemon = daemon(&bucket);
    let image = noise(40 * PART + 7, 3);
    let mut raw = begin(&daemon, image.len());
    let (first, rest) = image.split_at(15 * PART);
    raw.send(first);
    wait_for_parts(&bucket, 10).await;
    own.kill();
    own.restart();
    raw.send(rest);
    assert_stored(&daemon, raw, &image);
    assert_eq!(bucket.left().await, [""; 0]);
}

#[tokio::test]
async fn a_download_goes_on_when_its_server_is_started_again_seaweed() {
    let own = Own::start("weed", &[]);
    let bucket = Bucket::in_own(&own).await;
    let daemon = daemon(&bucket);
    // More than lies in buffers on its way.
    let image = noise(16 * PART + 7, 4);
    download_goes_on(&daemon, &own, &image, PART);
}
