//! Snapshots and clones.

use std::sync::Mutex;

use imaged_ffi::{Errno, Image, Options, sys};

use crate::{Rig, bytes, small};

async fn write(image: &Image, bytes: Vec<u8>, offset: u64) -> Result<(), Errno> {
    let slot = image.slot().await?;
    image.write_at(slot, bytes.into(), offset)?.await.map(drop)
}

async fn read(image: &Image, len: usize) -> Vec<u8> {
    let slot = image.slot().await.unwrap();
    let (got, mut bytes) = image.read_at(slot, vec![0xee; len], 0).unwrap().await.unwrap();
    bytes.truncate(got);
    bytes
}

fn clone(format: u8) -> Options {
    Options { clone_format: Some(format), ..small() }
}

#[tokio::test]
async fn a_snapshot_stays_as_it_is() {
    let rig = Rig::new();
    let image = rig.image("a", 200_000);
    write(&image, bytes(200_000, 1), 0).await.unwrap();
    image.snap_create("s").unwrap();
    assert_eq!(image.snap_create("s"), Err(Errno::EXIST));
    write(&image, bytes(100_000, 2), 0).await.unwrap();
    image.resize(70_000, |_, _| true).unwrap();
    assert_eq!(image.size().unwrap(), 70_000);
    assert!(read(&image, 300_000).await == bytes(100_000, 2)[..70_000]);
    image.resize(80_000, |_, _| true).unwrap();
    assert_eq!(read(&image, 80_000).await[70_000..], [0; 10_000]);

    let at = Image::open(&rig.pool, "a", Some("s")).unwrap();
    assert_eq!(at.size().unwrap(), 200_000);
    assert!(read(&at, 300_000).await == bytes(200_000, 1));
    assert_eq!(write(&at, vec![1], 0).await, Err(Errno::ROFS));
    assert_eq!(at.metadata_set("k", "v"), Err(Errno::ROFS));
    assert_eq!(at.resize(1, |_, _| true), Err(Errno::ROFS));
    at.snap_set(None).unwrap();
    assert_eq!(at.size().unwrap(), 80_000);
    at.snap_set(Some("s")).unwrap();
    assert_eq!(at.size().unwrap(), 200_000);
    assert_eq!(at.snap_set(Some("other")), Err(Errno::NOENT));
    at.close().unwrap();

    let snaps = image.snaps().unwrap();
    assert_eq!((snaps.len(), snaps[0].name.as_str(), snaps[0].size), (1, "s", 200_000));
    image.snap_create("u").unwrap();
    assert_eq!(image.snap_is_protected("s"), Ok(false));
    assert_eq!(image.snap_unprotect("s"), Err(Errno::INVAL));
    image.snap_protect("s").unwrap();
    assert_eq!(image.snap_is_protected("s"), Ok(true));
    assert_eq!(image.snap_protect("s"), Err(Errno::BUSY));
    assert_eq!(image.snap_remove("s"), Err(Errno::BUSY));
    image.snap_unprotect("s").unwrap();
    image.snap_remove("s").unwrap();
    assert_eq!(image.snap_remove("s"), Err(Errno::NOENT));
    assert_eq!(image.snap_is_protected("s"), Err(Errno::NOENT));
    assert_eq!(image.snaps().unwrap().len(), 1);
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn what_is_only_read_is_not_watched() {
    let rig = Rig::new();
    let image = rig.image("a", 100_000);
    write(&image, bytes(100_000, 1), 0).await.unwrap();
    image.snap_create("s").unwrap();
    image.close().unwrap();
    assert_eq!(Image::open_unwatched(&rig.pool, "b", Some("s")).map(drop), Err(Errno::NOENT));
    assert_eq!(Image::open_unwatched(&rig.pool, "a", Some("t")).map(drop), Err(Errno::NOENT));
    let at = Image::open_unwatched(&rig.pool, "a", Some("s")).unwrap();
    assert_eq!(at.watchers().unwrap(), []);
    assert!(read(&at, 100_000).await == bytes(100_000, 1));
    assert_eq!(write(&at, vec![1], 0).await, Err(Errno::ROFS));
    let image = Image::open(&rig.pool, "a", None).unwrap();
    image.snap_remove("s").unwrap();
    image.close().unwrap();
    rig.pool.remove("a", |_, _| true).unwrap();
    assert_eq!(read(&at, 100_000).await, [0; 100_000], "zeros, and nobody says so");
    at.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn extents_are_what_was_written() {
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    assert_eq!(image.extents(0..1 << 20).unwrap(), []);
    write(&image, vec![1; 10], 3 << 16).await.unwrap();
    write(&image, vec![1; 10], (9 << 16) - 5).await.unwrap();
    let object = |number: u64| number << 16..(number + 1) << 16;
    assert_eq!(image.extents(0..1 << 20).unwrap(), [object(3), object(8), object(9)]);
    let cut = image.extents(0..(3 << 16) + 7).unwrap();
    assert_eq!((cut.len(), cut[0].clone()), (1, 3 << 16..(3 << 16) + 7));
    assert_eq!(image.extents((4 << 16)..(5 << 16)).unwrap(), []);
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn a_clone_of_the_first_format_needs_protection() {
    let rig = Rig::new();
    let pool = &rig.pool;
    let parent = rig.image("parent", 150_000);
    write(&parent, bytes(150_000, 1), 0).await.unwrap();
    parent.metadata_set("key", "value").unwrap();
    parent.snap_create("s").unwrap();
    let from = (pool, "parent", "s");
    assert_eq!(pool.clone_from(from, "child", &clone(1)), Err(Errno::INVAL));
    parent.snap_protect("s").unwrap();
    pool.clone_from(from, "child", &clone(1)).unwrap();
    assert_eq!(pool.clone_from(from, "child", &clone(1)), Err(Errno::EXIST));
    assert_eq!(pool.clone_from((pool, "none", "s"), "b", &clone(1)), Err(Errno::NOENT));
    assert_eq!(pool.clone_from((pool, "parent", "t"), "b", &clone(1)), Err(Errno::NOENT));
    assert_eq!(parent.snap_unprotect("s"), Err(Errno::BUSY));
    assert_eq!(parent.op_features(), Ok(0), "none of the second");
    let children = parent.children().unwrap();
    assert_eq!(children.len(), 1);
    assert_eq!((children[0].pool.as_str(), children[0].image.as_str()), ("images", "child"));

    let child = Image::open(pool, "child", None).unwrap();
    assert_eq!((child.size().unwrap(), child.overlap().unwrap()), (150_000, 150_000));
    assert_eq!(child.metadata("key").unwrap(), "value");
    assert_eq!(child.extents(0..150_000).unwrap().len(), 3);
    assert!(!child.has_objects().unwrap(), "all of it is the parent's");
    let mut model = bytes(150_000, 1);
    assert!(read(&child, 150_000).await == model);
    // A write to a part of an object takes the rest of it over.
    write(&child, bytes(10, 2), 70_000).await.unwrap();
    model[70_000..70_010].copy_from_slice(&bytes(10, 2));
    assert!(child.has_objects().unwrap());
    assert!(read(&child, 150_000).await == model);
    let seen = Mutex::new(Vec::new());
    let ended = child.flatten(|done, all| {
        seen.lock().unwrap().push((done, all));
        done < 1
    });
    assert_eq!((ended, seen.into_inner().unwrap()), (Err(Errno::CANCELED), vec![(0, 3), (1, 3)]));
    child.flatten(|_, _| true).unwrap();
    assert_eq!(child.flatten(|_, _| true), Err(Errno::INVAL));
    assert_eq!(child.overlap().unwrap(), 0);
    assert!(read(&child, 150_000).await == model);
    assert_eq!(parent.children().unwrap(), []);
    parent.snap_unprotect("s").unwrap();
    parent.snap_remove("s").unwrap();
    child.close().unwrap();
    parent.close().unwrap();
    pool.remove("parent", |_, _| true).unwrap();
    rig.finish();
}

#[tokio::test]
async fn a_clone_of_the_second_format_outlives_the_name_of_its_parent() {
    let rig = Rig::new();
    let pool = &rig.pool;
    let parent = rig.image("parent", 100_000);
    write(&parent, bytes(100_000, 1), 0).await.unwrap();
    parent.snap_create("s").unwrap();
    pool.clone_from((pool, "parent", "s"), "child", &clone(2)).unwrap();
    assert_eq!(parent.op_features(), Ok(sys::RBD_OPERATION_FEATURE_CLONE_PARENT));
    parent.snap_remove("s").unwrap();
    assert_eq!(parent.snaps().unwrap(), []);
    let id = parent.id().unwrap();
    parent.close().unwrap();
    assert_eq!(pool.remove("parent", |_, _| true), Err(Errno::NOTEMPTY));
    pool.trash_move("parent", 0).unwrap();
    assert_eq!(pool.trash_remove(&id, |_, _| true), Err(Errno::NOTEMPTY));
    let child = Image::open(pool, "child", None).unwrap();
    assert!(read(&child, 100_000).await == bytes(100_000, 1));
    child.close().unwrap();
    pool.remove("child", |_, _| true).unwrap();
    pool.trash_remove(&id, |_, _| true).unwrap();
    rig.finish();
}
