//! How much the driver asks of the cluster for one put.

use std::{pin::pin, task::Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use imaged::digest::Algo;
use imaged_drivers::window::{CHUNK, PAGE};

use crate::{
    ceph::{Ceph, POOL},
    harness::stores::{
        self, Fixture, assert_reads,
        content::{Look, digests, image, pieces},
        new_image, order, put, soon,
    },
};

/// Writes that one upload has in flight at most.
const SLOTS: usize = 32;

/// What an image of unknown size begins with.
const FIRST: u64 = 1 << 30;

fn ceph(f: &Fixture) -> &Ceph {
    f.ceph.as_ref().unwrap()
}

/// The lengths that a C function was told, in order.
fn lengths(f: &Fixture, call: &str) -> Vec<u64> {
    ceph(f).fake.calls(call).iter().map(|call| call.number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_known_size_is_made_once_at_its_full_length() {
    for f in [stores::rbd().await, stores::rbd_thick().await] {
        for size in [0, 1, CHUNK + 5] {
            ceph(&f).fake.forget();
            let bytes = image(Look::Random, size, 1);
            put(&f.store, order(&f.id(), Some(size as u64)), &bytes).await.unwrap();
            assert_eq!(lengths(&f, "rbd_create4"), [size as u64]);
            assert_eq!(lengths(&f, "rbd_resize_with_progress"), [0; 0], "{size}");
            for once in ["rbd_aio_flush", "rbd_snap_create", "rbd_snap_protect", "rbd_open"] {
                assert_eq!(ceph(&f).fake.count(once), 1, "{size}: {once}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_unknown_size_is_trimmed_once() {
    let f = stores::rbd().await;
    for size in [0, 1, CHUNK + 5] {
        ceph(&f).fake.forget();
        let bytes = image(Look::Random, size, 1);
        put(&f.store, order(&f.id(), None), &bytes).await.unwrap();
        assert_eq!(lengths(&f, "rbd_create4"), [FIRST]);
        assert_eq!(lengths(&f, "rbd_resize_with_progress"), [size as u64]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_unknown_size_grows_by_doubling() {
    let f = stores::rbd().await;
    let (id, zeros) = (f.id(), Bytes::from(vec![0; CHUNK]));
    let mut upload = f.driver.create(&new_image(&id, None)).await.unwrap();
    let chunks = 3 * FIRST / CHUNK as u64 + 1;
    for _ in 0..chunks {
        upload.write(zeros.clone()).await.unwrap();
    }
    let last = image(Look::Random, PAGE, 1);
    upload.write(last.clone()).await.unwrap();
    upload.commit(&digests(&last, Algo::Sha256)).await.unwrap();
    let size = chunks * CHUNK as u64 + PAGE as u64;
    assert_eq!(lengths(&f, "rbd_resize_with_progress"), [2 * FIRST, 4 * FIRST, size]);
    assert_eq!(lengths(&f, "rbd_aio_write"), [size - PAGE as u64], "zeros are not written");
    assert_eq!(ceph(&f).fake.used(POOL), PAGE as u64 + (size - PAGE as u64) % (8 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_has_a_window_of_writes_in_flight_and_no_more() {
    let f = stores::rbd_thick().await;
    let fake = &ceph(&f).fake;
    let id = f.id();
    let bytes = image(Look::Random, 3 * SLOTS * PAGE, 1);
    let mut chunks = pieces(&bytes, PAGE).into_iter();
    let mut upload = f.driver.create(&new_image(&id, Some(bytes.len() as u64))).await.unwrap();
    let _before = fake.peak();
    fake.hold();
    for chunk in chunks.by_ref().take(SLOTS) {
        upload.write(chunk).await.unwrap();
    }
    {
        // The next one waits for room.
        let mut next = pin!(upload.write(chunks.next().unwrap()));
        let polled = std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending()));
        assert!(polled.await, "there was more room");
        assert_eq!(fake.open().operations, SLOTS);
        fake.release();
        soon("room", next).await.unwrap();
    }
    for chunk in chunks {
        upload.write(chunk).await.unwrap();
    }
    let at = upload.at().clone();
    upload.commit(&digests(&bytes, Algo::Sha256)).await.unwrap();
    assert_eq!(fake.peak(), (SLOTS, SLOTS * PAGE));
    assert_reads(&*f.driver, &at, &bytes, "after a full window").await;
}

/// So that it takes the same memory whatever their number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_of_a_list_are_asked_for_a_page_at_a_time() {
    let f = stores::rbd().await;
    let fake = &ceph(&f).fake;
    let id = f.id();
    f.place(&id, &image(Look::Random, PAGE, 1)).await;
    let mut wanted = vec![id.to_string()];
    for n in 0..1100 {
        let name = format!("00000000-0000-4000-8000-{n:012}");
        fake.clone_image(POOL, id.as_str(), &name, 2);
        wanted.push(name);
    }
    wanted.sort_unstable();
    fake.forget();
    let mut list = f.driver.list();
    let mut found = vec![list.next().await.unwrap().unwrap().id.to_string()];
    assert_eq!(lengths(&f, "rados_exec"), [512], "the next page waits until it is wanted");
    while let Some(next) = list.next().await {
        found.push(next.unwrap().id.to_string());
    }
    found.sort_unstable();
    assert!(found == wanted, "{} of {}", found.len(), wanted.len());
    assert_eq!(lengths(&f, "rados_exec"), [512; 3]);
}
