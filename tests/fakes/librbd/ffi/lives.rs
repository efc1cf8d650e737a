//! Handles come and go: connections, pools, images.

use std::thread;

use imaged_ffi::{Connecting, Errno, Image, Pool};

use crate::{
    Rig, bytes,
    fake::{self, How, Order, Plan},
    soon,
};

#[test]
fn an_image_is_opened_and_closed_three_thousand_times() {
    let rig = Rig::new();
    rig.image("a", 1 << 20).snap_create("snap").unwrap();
    rig.fake.order(Order::Shuffled(3));
    let threads: Vec<_> = (0..4_usize)
        .map(|thread| {
            let pool = rig.pool.clone();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for round in 0..750 {
                    let snap = (round % 3 == 0).then_some("snap");
                    let image = Image::open(&pool, "a", snap).unwrap();
                    let slot = runtime.block_on(image.slot()).unwrap();
                    let landing = image.read_at(slot, vec![0; 3000], 0).unwrap();
                    match round % 4 {
                        0 => drop((landing, image)),
                        1 => {
                            drop(landing);
                            image.close().unwrap();
                        }
                        2 => {
                            let closing = thread::spawn(move || image.close());
                            runtime.block_on(landing).unwrap();
                            closing.join().unwrap().unwrap();
                        }
                        _ => {
                            runtime.block_on(landing).unwrap();
                            drop(image);
                        }
                    }
                }
                drop(pool);
                thread
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    soon("all images to be closed", || rig.fake.open().images == 0);
    assert_eq!(rig.fake.count("rbd_open"), 3001);
    assert_eq!(rig.fake.count("rbd_close"), 3001);
    rig.finish();
}

#[test]
fn what_came_from_a_connection_keeps_it() {
    let rig = Rig::new();
    let image = rig.image("a", 100_000);
    let Rig { fake, cluster, pool } = rig;
    drop(cluster);
    drop(pool);
    let open = fake.open();
    assert_eq!((open.clusters, open.pools, open.images), (1, 1, 1));
    assert_eq!(image.size().unwrap(), 100_000);
    image.close().unwrap();
    soon("the rest to go with it", || fake.open() == fake::Open::default());
    assert_eq!(fake.breaches(), [""; 0]);
}

#[test]
fn a_connection_fails_as_the_cluster_says() {
    let fake = fake::Cluster::new(&["images"]);
    let connecting = || Connecting::new("glance", fake.conf()).unwrap();
    assert_eq!(Connecting::new("glance", "").map(drop), Err(Errno::NOENT));
    assert_eq!(Connecting::new("glance", "nowhere/ceph.conf").map(drop), Err(Errno::NOENT));
    assert_eq!(Connecting::new("gla\0nce", fake.conf()).map(drop), Err(Errno::INVAL));
    let stranger = Connecting::new("stranger", fake.conf()).unwrap();
    assert_eq!(stranger.connect().map(drop), Err(Errno::ACCES));
    for errno in [2, 13, 110] {
        fake.plan(Plan::once("rados_connect", 1, errno, How::Fail));
        assert_eq!(connecting().connect().map(drop).unwrap_err().number(), errno);
    }
    let unconnected = connecting();
    assert_eq!(unconnected.get("log_to_stderr").unwrap(), "false", "it says nothing");
    unconnected.set("rados_osd_op_timeout", "7").unwrap();
    assert_eq!(unconnected.get("rados_osd_op_timeout").unwrap(), "7");
    assert_eq!(unconnected.set("rados_osd_op_timeout", "soon"), Err(Errno::INVAL));
    assert_eq!(unconnected.set("no_such_option", "1"), Err(Errno::NOENT));
    assert_eq!(unconnected.get("no_such_option"), Err(Errno::NOENT));
    unconnected.set("keyring", &"k".repeat(5000)).unwrap();
    assert_eq!(unconnected.get("keyring").unwrap_err().number(), 36);
    assert_eq!(format!("{unconnected:?}"), "Connecting");
    drop(unconnected);
    let cluster = connecting().connect().unwrap();
    assert_eq!(Pool::open(&cluster, "other").map(drop), Err(Errno::NOENT));
    drop(cluster);
    soon("all to be shut down", || fake.open() == fake::Open::default());
}

#[test]
fn many_connections_at_a_time_share_nothing() {
    let rigs: Vec<_> = (0..8_usize)
        .map(|seed| {
            thread::spawn(move || {
                let rig = Rig::new();
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for round in 0..50 {
                    let name = format!("image-{round}");
                    let image = rig.image(&name, 50_000);
                    let written = bytes(50_000, seed);
                    let slot = runtime.block_on(image.slot()).unwrap();
                    let landing = image.write_at(slot, written.clone().into(), 0).unwrap();
                    runtime.block_on(landing).unwrap();
                    let slot = runtime.block_on(image.slot()).unwrap();
                    let landing = image.read_at(slot, vec![0; 50_000], 0).unwrap();
                    assert!(runtime.block_on(landing).unwrap().1 == written);
                    image.close().unwrap();
                    rig.pool.remove(&name, |_, _| true).unwrap();
                }
                rig.finish();
            })
        })
        .collect();
    for rig in rigs {
        rig.join().unwrap();
    }
}

#[test]
fn an_image_that_cannot_be_closed_cleanly_is_closed() {
    let rig = Rig::new();
    let image = rig.image("a", 10);
    rig.fake.plan(Plan::once("rbd_close", 1, 110, How::Fail));
    assert_eq!(image.close(), Err(Errno::TIMEDOUT));
    rig.finish();
}

#[test]
fn an_image_that_another_has_locked_is_closed_at_once() {
    let rig = Rig::new();
    let image = rig.image("a", 10);
    assert_eq!(image.lockers(), Ok(Vec::new()));
    // One whose name does not fit at the first try.
    for name in ["theirs".to_owned(), "t".repeat(5000)] {
        rig.fake.lock("images", "a", Some(&name));
        let lockers = image.lockers().unwrap();
        assert_eq!(lockers.len(), 1);
        assert_eq!((lockers[0].client.as_str(), &lockers[0].lock), ("client.4120", &name));
        assert_eq!(lockers[0].address, "127.0.0.1:0/4120");
        assert_eq!(image.snap_create("s"), Err(Errno::ROFS));
        assert_eq!(image.metadata_set("key", "value"), Err(Errno::ROFS));
        assert_eq!(image.resize(1, |_, _| true), Err(Errno::ROFS));
    }
    image.close().unwrap();
    rig.fake.plan(Plan::always("rbd_list_lockers", 34, How::Fail));
    let image = Image::open(&rig.pool, "a", None).unwrap();
    assert_eq!(image.lockers(), Err(Errno::RANGE));
    image.close().unwrap();
    rig.finish();
}

#[test]
fn a_handle_gives_back_the_lock_that_it_took_to_write() {
    let rig = Rig::new();
    let image = rig.image("a", 10);
    image.release_lock().unwrap();
    image.metadata_set("key", "value").unwrap();
    rig.fake.plan(Plan::once("rbd_lock_release", 1, 1, How::Refuse));
    assert_eq!(image.release_lock(), Err(Errno::PERM));
    image.release_lock().unwrap();
    rig.pool.trash_move("a", 0).unwrap();
    image.close().unwrap();
    // And one that has it when it is moved is noticed here.
    let fake = &rig.fake;
    let image = rig.image("b", 10);
    image.metadata_set("key", "value").unwrap();
    rig.pool.trash_move("b", 0).unwrap();
    image.close().unwrap();
    assert_eq!(fake.breaches(), ["b moved while the caller has its lock"]);
}
