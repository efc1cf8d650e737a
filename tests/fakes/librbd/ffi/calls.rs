//! Calls that block: pools, images by name, what is asked of an open one.

use imaged_ffi::{Errno, Image, Options, Pool};

use crate::{
    Rig, bytes,
    fake::{How, Plan},
    small,
};

#[test]
fn a_cluster_says_what_it_is() {
    let rig = Rig::new();
    assert_eq!(rig.cluster.fsid().unwrap(), rig.fake.fsid());
    let before = rig.cluster.stat().unwrap();
    assert_eq!(before.total, before.used + before.available);
    assert_eq!(rig.cluster.pool_name(2).unwrap(), "volumes");
    assert_eq!(rig.cluster.pool_name(99), Err(Errno::NOENT));
    rig.fake.plan(Plan::once("rados_cluster_stat", 1, 110, How::Fail));
    assert_eq!(rig.cluster.stat(), Err(Errno::TIMEDOUT));
    assert_eq!(rig.pool.name(), "images");
    // The name is a pool's, whichever it is; a handle is of one pool.
    rig.cluster.wait_for_latest_osdmap().unwrap();
    assert_eq!(rig.pool.has_its_name(), Ok(true));
    rig.fake.set_pool("images", false);
    assert_eq!(rig.pool.has_its_name(), Err(Errno::NOENT));
    rig.fake.set_pool("images", true);
    assert_eq!(rig.pool.has_its_name(), Ok(false));
    // Who finds out tells all that share the handle, once.
    let (shared, anew) = (rig.pool.clone(), Pool::open(&rig.cluster, "images").unwrap());
    assert!(!shared.is_retired() && rig.pool.retire() && !rig.pool.retire());
    assert!(shared.is_retired() && !anew.is_retired());
    drop((shared, anew));
    assert_eq!(rig.pool.cluster().fsid(), rig.cluster.fsid());
    assert_eq!(
        format!("{:?} {:?}", rig.cluster, rig.pool),
        "Cluster Pool { name: \"images\", .. }"
    );
    rig.finish();
}

#[tokio::test]
async fn a_pool_says_what_it_holds() {
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    let slot = image.slot().await.unwrap();
    image.write_at(slot, bytes(100_000, 1).into(), 0).unwrap().await.unwrap();
    assert_eq!(rig.fake.used("images"), 100_000);
    let found = rig.pool.read("rbd_id.a", 256).unwrap();
    assert_eq!(&found[4..], image.id().unwrap().as_bytes());
    assert_eq!(rig.pool.read("rbd_id.a", 6).unwrap(), &found[..6]);
    assert_eq!(rig.pool.read("rbd_id.b", 256), Err(Errno::NOENT));
    assert_eq!(rig.pool.read("object", 1), Err(Errno::NOENT));
    rig.pool.write_nothing("object").unwrap();
    assert_eq!(rig.pool.read("object", 1), Ok(Vec::new()));
    assert_eq!(rig.pool.write_nothing("ob\0ject"), Err(Errno::INVAL));
    rig.pool.remove_object("object").unwrap();
    assert_eq!(rig.pool.remove_object("object"), Err(Errno::NOENT));
    assert_eq!(rig.pool.remove_object("ob\0ject"), Err(Errno::INVAL));
    image.close().unwrap();
    rig.finish();
}

#[test]
fn images_are_made_and_removed_by_name() {
    let rig = Rig::new();
    let pool = &rig.pool;
    let with = |options: Options| pool.create("b", 1, &options);
    pool.create("a", 5 << 20, &Options::default()).unwrap();
    assert_eq!(pool.create("a", 1, &Options::default()), Err(Errno::EXIST));
    assert_eq!(pool.create("a\0b", 1, &Options::default()), Err(Errno::INVAL));
    assert_eq!(with(Options { order: Some(11), ..Options::default() }), Err(Errno::DOM));
    assert_eq!(with(Options { order: Some(26), ..Options::default() }), Err(Errno::DOM));
    let data_pool = Some("none".to_owned());
    assert_eq!(with(Options { data_pool, ..Options::default() }), Err(Errno::NOENT));
    let data_pool = Some("vol\0umes".to_owned());
    assert_eq!(with(Options { data_pool, ..Options::default() }), Err(Errno::INVAL));
    let data_pool = Some("volumes".to_owned());
    with(Options { data_pool, features: Some(1), order: Some(20), ..Options::default() }).unwrap();

    let a = Image::open(pool, "a", None).unwrap();
    assert_eq!((a.size().unwrap(), a.op_features().unwrap()), (5 << 20, 0));
    assert_eq!(a.features(), Ok(61), "Ceph's default");
    assert_eq!(format!("{a:?}"), "Image { pool: \"images\", .. }");
    assert_eq!(a.pool().name(), "images");
    let b = Image::open(pool, "b", None).unwrap();
    assert_ne!(a.id().unwrap(), b.id().unwrap());
    assert_eq!(pool.names_after("", 64).unwrap(), ["a", "b"]);
    assert_eq!(pool.remove("a", |_, _| true), Err(Errno::BUSY));
    a.snap_create("snap").unwrap();
    a.close().unwrap();
    assert_eq!(pool.remove("a", |_, _| true), Err(Errno::NOTEMPTY));
    b.close().unwrap();
    pool.remove("b", |_, _| true).unwrap();
    assert_eq!(pool.remove("b", |_, _| true), Err(Errno::NOENT));
    assert_eq!(Image::open(pool, "b", None).map(drop), Err(Errno::NOENT));
    assert_eq!(Image::open(pool, "a", Some("other")).map(drop), Err(Errno::NOENT));
    assert_eq!(rig.fake.images("images"), ["a"]);
    rig.finish();
}

#[test]
fn an_image_says_what_keeps_it_from_being_treated_as_others() {
    let rig = Rig::new();
    let image = rig.image("a", 77);
    assert_eq!(image.is_old_format(), Ok(false));
    assert_eq!(image.group(), Ok(None));
    assert_eq!(image.is_not_primary(), Ok(false));
    assert_eq!(image.lock_owner(), Ok(None));
    let watchers = image.watchers().unwrap();
    assert_eq!(u64::try_from(watchers[0].client), Ok(rig.cluster.instance_id()), "{watchers:?}");
    // A lock that somebody put there is not the one of those who write.
    rig.fake.lock("images", "a", Some("theirs"));
    assert_eq!(image.lock_owner(), Ok(None));
    rig.fake.lock("images", "a", None);
    for call in
        ["rbd_get_old_format", "rbd_get_group", "rbd_mirror_image_get_info", "rbd_list_lockers"]
    {
        rig.fake.plan(Plan::always(call, 110, How::Fail));
    }
    assert_eq!(image.is_old_format(), Err(Errno::TIMEDOUT));
    assert_eq!(image.group(), Err(Errno::TIMEDOUT));
    assert_eq!(image.is_not_primary(), Err(Errno::TIMEDOUT));
    assert_eq!(image.lock_owner(), Err(Errno::TIMEDOUT));
    image.close().unwrap();
    rig.finish();
}

#[test]
fn a_name_is_free_once_its_image_is_in_the_trash() {
    let rig = Rig::new();
    let pool = &rig.pool;
    let image = rig.image("a", 77);
    let id = image.id().unwrap();
    // Also while somebody has it open.
    pool.trash_move("a", 77).unwrap();
    assert_eq!(pool.trash_move("a", 77), Err(Errno::NOENT));
    pool.create("a", 78, &small()).unwrap();
    assert_eq!(image.size().unwrap(), 77);
    assert_eq!(pool.trash_remove(&id, |_, _| true), Err(Errno::BUSY));
    image.close().unwrap();
    let found = pool.trash_list().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id.as_str(), found[0].name.as_str()), (id.as_str(), "a"));
    assert_eq!((found[0].deferred_s, rig.fake.trashed("images")), (77, 1));
    assert_eq!(pool.trash_restore(&id, "a"), Err(Errno::EXIST));
    assert_eq!(pool.trash_restore("none", "b"), Err(Errno::NOENT));
    pool.trash_restore(&id, "b").unwrap();
    assert_eq!(pool.names_after("", 64).unwrap(), ["a", "b"]);
    pool.trash_move("b", 0).unwrap();
    let unwatched = Image::open_by_id_unwatched(pool, &id).unwrap();
    assert_eq!((unwatched.size().unwrap(), unwatched.watchers().unwrap().len()), (77, 0));
    unwatched.close().unwrap();
    let image = Image::open_by_id(pool, &id).unwrap();
    assert_eq!(image.size().unwrap(), 77);
    image.snap_create("s").unwrap();
    image.close().unwrap();
    assert_eq!(pool.trash_remove(&id, |_, _| true), Err(Errno::NOTEMPTY));
    let image = Image::open_by_id(pool, &id).unwrap();
    image.snap_remove("s").unwrap();
    image.close().unwrap();
    pool.trash_remove(&id, |_, _| true).unwrap();
    assert_eq!(pool.trash_remove(&id, |_, _| true), Err(Errno::NOENT));
    assert_eq!(Image::open_by_id(pool, &id).map(drop), Err(Errno::NOENT));
    assert_eq!(Image::open_by_id_unwatched(pool, &id).map(drop), Err(Errno::NOENT));
    rig.finish();
}

/// Each list begins with room for 16 or 64, and C says how much it wants.
#[test]
fn lists_of_any_length_fit() {
    let rig = Rig::new();
    let pool = &rig.pool;
    let parent = rig.image("parent", 100);
    parent.snap_create("s").unwrap();
    let options = Options { clone_format: Some(2), ..small() };
    let mut open = Vec::new();
    for count in 1..=150_usize {
        let name = format!("image-{count:03}");
        pool.clone_from((pool, "parent", "s"), &name, &options).unwrap();
        parent.snap_create(&format!("s-{count}")).unwrap();
        open.push(Image::open(pool, "parent", None).unwrap());
        if [1, 14, 15, 16, 17, 62, 63, 64, 65, 127, 128, 129, 150].contains(&count) {
            let mut names = pool.names_after("", 64).unwrap();
            while names.len() < count + 1 {
                assert_eq!(names.len() % 64, 0, "a page that is not full is the last");
                names.extend(pool.names_after(names.last().unwrap(), 64).unwrap());
            }
            assert_eq!((names.len(), names[count - 1].as_str()), (count + 1, name.as_str()));
            assert_eq!(pool.names_after("parent", 64).unwrap(), [""; 0]);
            assert_eq!(parent.children().unwrap().len(), count);
            let snaps = parent.snaps().unwrap();
            assert_eq!((snaps.len(), snaps[count].name.clone()), (count + 1, format!("s-{count}")));
            assert_eq!(parent.watchers().unwrap().len(), count + 1);
        }
    }
    let watcher = &parent.watchers().unwrap()[7];
    assert!(watcher.address.ends_with(&watcher.client.to_string()), "{watcher:?}");
    for count in 1..=150_usize {
        pool.trash_move(&format!("image-{count:03}"), 0).unwrap();
    }
    assert_eq!(pool.trash_list().unwrap().len(), 150);
    assert!(parent.children().unwrap().iter().all(|child| child.trash));
    drop(open);
    parent.close().unwrap();
    rig.finish();
}

#[test]
fn names_of_images_of_format_1_are_read_from_their_object() {
    let rig = Rig::new();
    assert_eq!(rig.pool.old_names().unwrap(), [""; 0], "there is no such object");
    let text =
        |text: &str| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    let map: Vec<u8> =
        [text("a header"), 2_u32.to_le_bytes().to_vec(), text("b"), text(""), text("a"), text("x")]
            .concat();
    rig.fake.put_object("images", "rbd_directory", &map);
    assert_eq!(rig.pool.old_names().unwrap(), ["b", "a"]);
    rig.fake.put_object("images", "rbd_directory", &map[..map.len() - 1]);
    assert_eq!(rig.pool.old_names(), Err(Errno::IO));
}

#[test]
fn a_list_that_never_fits_is_an_error() {
    let rig = Rig::new();
    let image = rig.image("a", 1);
    for call in ["rados_exec", "rbd_snap_list", "rbd_metadata_get", "rbd_watchers_list"] {
        rig.fake.plan(Plan::always(call, 34, How::Fail));
    }
    image.metadata_set("key", "value").unwrap();
    assert_eq!(rig.pool.names_after("", 64), Err(Errno::RANGE));
    assert_eq!(image.snaps(), Err(Errno::RANGE));
    assert_eq!(image.metadata("key"), Err(Errno::RANGE));
    assert_eq!(image.watchers(), Err(Errno::RANGE));
    rig.fake.forget();
    for call in ["rados_exec", "rbd_snap_list", "rbd_metadata_get", "rbd_watchers_list"] {
        rig.fake.plan(Plan::always(call, 110, How::Fail));
    }
    assert_eq!(rig.pool.names_after("", 64), Err(Errno::TIMEDOUT));
    assert_eq!(image.snaps(), Err(Errno::TIMEDOUT));
    assert_eq!(image.metadata("key"), Err(Errno::TIMEDOUT));
    assert_eq!(image.watchers(), Err(Errno::TIMEDOUT));
    image.close().unwrap();
    rig.finish();
}

#[test]
fn metadata_of_any_length_comes_back() {
    let rig = Rig::new();
    let image = rig.image("a", 1);
    assert_eq!(image.metadata("key"), Err(Errno::NOENT));
    for len in [0, 1, 1022, 1023, 1024, 1025, 4096, 65_536] {
        let value = "v".repeat(len);
        image.metadata_set("key", &value).unwrap();
        assert_eq!(image.metadata("key").unwrap(), value, "{len}");
    }
    assert_eq!(image.metadata_set("k\0", "v"), Err(Errno::INVAL));
    assert_eq!(image.metadata_set("k", "v\0"), Err(Errno::INVAL));
    image.metadata_remove("key").unwrap();
    assert_eq!(image.metadata_remove("key"), Err(Errno::NOENT));
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn a_full_pool_says_so() {
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    rig.fake.set_quota("images", Some(1000));
    let write = async |offset| {
        let slot = image.slot().await.unwrap();
        image.write_at(slot, bytes(5000, 1).into(), offset).unwrap().await.map(drop)
    };
    assert_eq!(write(0).await, Ok(()), "it is noticed late");
    assert_eq!(write(70_000).await, Err(Errno::DQUOT));
    assert_eq!(write(0).await, Ok(()), "there is room for what is there");
    assert_eq!(rig.pool.create("b", 1, &small()), Err(Errno::DQUOT));
    image.metadata_set("key", "value").unwrap();
    image.snap_create("snap").unwrap();
    image.snap_remove("snap").unwrap();
    assert_eq!(rig.pool.write_nothing("object"), Err(Errno::DQUOT));
    assert_eq!(rig.pool.remove("a", |_, _| true), Err(Errno::NOENT));
    image.resize(0, |_, _| true).unwrap();
    image.close().unwrap();
    assert_eq!((rig.fake.used("images"), rig.pool.remove("a", |_, _| true)), (0, Ok(())));
    rig.finish();
}

#[test]
fn every_call_that_blocks_can_fail() {
    let rig = Rig::new();
    let image = rig.image("a", 1);
    let fails = |call, errno| rig.fake.plan(Plan::once(call, 1, errno, How::Fail));
    for errno in [1, 5, 110, 122] {
        let failed = Some(errno);
        let number = |error: Errno| error.number();
        fails("rbd_create4", errno);
        assert_eq!(rig.pool.create("b", 1, &small()).err().map(number), failed);
        fails("rados_ioctx_create", errno);
        assert_eq!(Pool::open(&rig.cluster, "images").err().map(number), failed);
        fails("rbd_open", errno);
        assert_eq!(Image::open(&rig.pool, "a", None).err().map(number), failed);
        fails("rbd_resize_with_progress", errno);
        assert_eq!(image.resize(5, |_, _| true).err().map(number), failed);
        fails("rbd_snap_create", errno);
        assert_eq!(image.snap_create("s").err().map(number), failed);
        fails("rbd_get_id", errno);
        assert_eq!(image.id().err().map(number), failed);
        fails("rbd_list_children3", errno);
        assert_eq!(image.children().err().map(number), failed);
        fails("rbd_diff_iterate2", errno);
        assert_eq!(image.extents(0..1).err().map(number), failed);
        fails("rbd_trash_list", errno);
        assert_eq!(rig.pool.trash_list().err().map(number), failed);
    }
    // Done, although nobody was told.
    rig.fake.plan(Plan::once("rbd_snap_create", 1, 110, How::Lose));
    assert_eq!(image.snap_create("late"), Err(Errno::TIMEDOUT));
    assert_eq!(image.snaps().unwrap()[0].name, "late");
    // A handle that nobody got does not watch.
    rig.fake.plan(Plan::once("rbd_open", 1, 110, How::Lose));
    assert_eq!(Image::open(&rig.pool, "a", None).map(drop), Err(Errno::TIMEDOUT));
    assert_eq!(image.watchers().unwrap().len(), 1);
    image.close().unwrap();
    rig.finish();
}
