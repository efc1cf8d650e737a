//! What a store holds when the process that wrote into it has been killed.

use std::io::Write as _;

use bytes::Bytes;
use imaged::digest::Algo;
use imaged_drivers::{ImageId, window::CHUNK};

use crate::harness::{
    daemon::Daemon,
    raw::Raw,
    stores::{
        Fixture, Lasting, aligned_chunks, assert_free, assert_reads,
        content::{Look, digests, image},
        delete_when_free, soon, write_image,
    },
};

pub(crate) async fn what_is_committed_outlives_the_process(f: &Fixture) {
    let mut images: Vec<(ImageId, Bytes)> =
        [0, 1, CHUNK + 4097].map(|size| (f.id(), image(Look::Mixed, size, 31))).into();
    let keeps_digests = {
        let at = f.place(&f.id(), &images[0].1).await;
        let kept = f.driver.stat(&at).await.unwrap().digests;
        f.remove(&at).await;
        kept.is_some()
    };
    if f.lasting == Lasting::Lasts {
        let copy = (f.id(), images[2].1.clone());
        put_and_kill(f, &images, &copy.0);
        images.push(copy);
        f.lose_power();
    } else {
        for (id, bytes) in &images {
            let size = Some(bytes.len() as u64);
            write_image(&*f.driver, id, size, aligned_chunks(bytes)).await.unwrap();
        }
    }
    let driver = f.reopened().await;
    for (id, bytes) in &images {
        let what = format!("{id} of {} bytes, opened again", bytes.len());
        let found = driver.locate(id).await;
        if f.lasting == Lasting::DiesWithTheProcess {
            found.expect_err(&what);
            f.remove(&f.driver.locate(id).await.unwrap()).await;
            continue;
        }
        let at = found.expect(&what);
        assert_reads(&*driver, &at, bytes, &what).await;
        let kept = driver.stat(&at).await.unwrap();
        let algo = kept.digests.as_ref().map_or(Algo::Sha256, |of| of.hash_algo.parse().unwrap());
        let wanted = keeps_digests.then(|| digests(bytes, algo));
        assert_eq!((kept.size, kept.digests), (bytes.len() as u64, wanted), "{what}");
    }
    if f.lasting == Lasting::DiesWithTheProcess {
        return;
    }
    let ids: Vec<_> = images.iter().map(|(id, _)| id).collect();
    assert_eq!(f.left(&ids).await, [""; 0], "beside whole images");
    // The copy first: it may share bytes with what it was made from.
    for id in ids.into_iter().rev() {
        let at = driver.locate(id).await.unwrap();
        soon("the backend to forget who was killed", delete_when_free(&*driver, &at)).await;
    }
}

/// Puts images from a process that is killed right after it has told of the last, a copy.
fn put_and_kill(f: &Fixture, images: &[(ImageId, Bytes)], copy: &ImageId) {
    let mut daemon = f.process(&[]);
    let mut last = serde_json::Value::Null;
    for (id, bytes) in images {
        let told = daemon.put("main", id.as_str(), bytes);
        assert_eq!(told.status, 201, "{id}: {told:?}\n{}", daemon.log());
        last = told.json();
    }
    let mode = if f.caps().copy { "copy" } else { "stream" };
    let body = serde_json::json!({"source": {"location": last["location"]}, "mode": mode});
    let path = format!("/v1/stores/main/images/{copy}");
    let told = Raw::ask(&daemon.socket, "POST", &path, body.to_string().as_bytes());
    assert_eq!(told.status, 201, "{told:?}\n{}", daemon.log());
    daemon.kill();
}

pub(crate) async fn what_a_killed_process_has_left_is_cleared_away(f: &Fixture) {
    if f.lasting != Lasting::Lasts {
        return; // no process can be killed without its backend
    }
    let bytes = image(Look::Random, CHUNK + 4097, 32);
    for point in ["put-created", "put-written", "put-ended"] {
        let id = f.id();
        let mut daemon = f.process(&[("IMAGED_KILL_AT", point)]);
        put_until_killed(&mut daemon, &id, &bytes);
        f.lose_power();
        let mut daemon = daemon.restart(&[]);
        daemon.wait_until_idle();
        daemon.stop();
        assert_eq!(f.left(&[]).await, [""; 0], "killed at {point}");
        assert_free(f, &id, point).await;
    }
}

fn put_until_killed(daemon: &mut Daemon, id: &ImageId, bytes: &Bytes) {
    let mut raw = Raw::connect(&daemon.socket);
    let length = format!("content-length: {}\r\n", bytes.len());
    raw.head("PUT", &format!("/v1/stores/main/images/{id}"), &length);
    // It dies in the middle of this.
    let _sent = raw.stream.write_all(bytes);
    assert!(raw.read_head().is_none(), "the daemon answered before it died");
    assert!(!daemon.wait().success());
}
