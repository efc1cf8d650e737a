//! librbd: an open image.

use std::{
    ffi::{c_char, c_int, c_void},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use imaged_ffi::sys::{
    RBD_MIRROR_IMAGE_DISABLED, RBD_OPERATION_FEATURE_CLONE_PARENT, RBD_SNAP_NAMESPACE_TYPE_TRASH,
    RBD_SNAP_NAMESPACE_TYPE_USER, librbd_progress_fn_t, rbd_group_info_t, rbd_image_watcher_t,
    rbd_linked_image_spec_t, rbd_mirror_image_info_t, rbd_snap_info_t, rbd_snap_namespace_type_t,
};

use crate::{
    ClusterState,
    c::{Text, each, fill, given, list, taken},
    errno::{INVAL, NOENT, RANGE, ROFS},
    lock,
    pool::{full, told},
    rados::Io,
    script::Verdict,
    world::{Answer, At, Watcher, World},
};

/// An `rbd_image_t`.
pub(crate) struct Handle(Arc<Opened>);

/// What a handle and the operations that it has in flight share.
pub(crate) struct Opened {
    pub(crate) state: Arc<ClusterState>,
    pub(crate) name: String,
    /// No other handle has this.
    pub(crate) cookie: u64,
    at: Mutex<At>,
    /// It sets no watch.
    read_only: bool,
    full_try: Arc<AtomicBool>,
    images: Arc<AtomicUsize>,
}

impl Handle {
    pub(crate) fn opened(&self) -> &Arc<Opened> {
        &self.0
    }

    fn call(
        &self,
        function: &'static str,
        of: &str,
        number: u64,
        work: impl FnOnce(&mut World, &At) -> Answer<i32>,
    ) -> c_int {
        let opened = &self.0;
        let of = if of.is_empty() { &opened.name } else { of };
        opened
            .state
            .call(function, of, number, |world| full(work(world, &opened.at()), opened.full_try()))
    }

    /// The same of what changes the head, for which the handle takes librbd's own lock.
    fn change(
        &self,
        function: &'static str,
        of: &str,
        number: u64,
        work: impl FnOnce(&mut World, &At) -> Answer,
    ) -> c_int {
        let (takes_writes, cookie) = (self.0.takes_writes(), self.0.cookie);
        self.call(function, of, number, |world, at| {
            if !takes_writes || world.is_locked(at) {
                return Err(ROFS);
            }
            world.own(at, cookie);
            work(world, at).map(|()| 0)
        })
    }
}

impl Opened {
    pub(crate) fn at(&self) -> At {
        lock(&self.at).clone()
    }

    pub(crate) fn takes_writes(&self) -> bool {
        !self.read_only && lock(&self.at).snap.is_none()
    }

    pub(crate) fn full_try(&self) -> bool {
        self.full_try.load(Ordering::SeqCst)
    }
}

fn open(io: &Io, function: &'static str, name: &str, snap: Text, image: &mut *mut Handle) -> c_int {
    let read_only = function.ends_with("_read_only");
    let mut opened = None;
    let answer = io.state.call(function, name, 0, |world| {
        let id = match function {
            "rbd_open_by_id" | "rbd_open_by_id_read_only" => name.to_owned(),
            _ => world.pool(&io.pool)?.id_of(name)?,
        };
        let mut at = At { pool: io.pool.clone(), image: id, snap: None };
        if world.image(&at)?.migrates && !read_only {
            return Err(ROFS);
        }
        if let Some(snap) = snap.get() {
            at.snap = Some(world.snap_id(&at, &snap)?);
        }
        let cookie = world.number();
        if !read_only {
            world.image_mut(&at)?.watchers.push(Watcher { cookie, client: io.client });
        }
        opened = Some((at, cookie));
        Ok(0)
    });
    let Some((at, cookie)) = opened else { return answer };
    if answer < 0 {
        // There is no handle that the caller could close.
        if let Ok(image) = io.state.world().image_mut(&at) {
            image.watchers.retain(|watcher| watcher.cookie != cookie);
        }
        return answer;
    }
    io.state.images.fetch_add(1, Ordering::SeqCst);
    io.images.fetch_add(1, Ordering::SeqCst);
    *image = Box::into_raw(Box::new(Handle(Arc::new(Opened {
        state: Arc::clone(&io.state),
        name: name.to_owned(),
        cookie,
        at: Mutex::new(at),
        read_only,
        full_try: Arc::clone(&io.full_try),
        images: Arc::clone(&io.images),
    }))));
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_open(
    io: &Io,
    name: Text,
    image: &mut *mut Handle,
    snap_name: Text,
) -> c_int {
    open(io, "rbd_open", &name.text(), snap_name, image)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_open_read_only(
    io: &Io,
    name: Text,
    image: &mut *mut Handle,
    snap_name: Text,
) -> c_int {
    open(io, "rbd_open_read_only", &name.text(), snap_name, image)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_open_by_id(
    io: &Io,
    id: Text,
    image: &mut *mut Handle,
    snap_name: Text,
) -> c_int {
    open(io, "rbd_open_by_id", &id.text(), snap_name, image)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_open_by_id_read_only(
    io: &Io,
    id: Text,
    image: &mut *mut Handle,
    snap_name: Text,
) -> c_int {
    open(io, "rbd_open_by_id_read_only", &id.text(), snap_name, image)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_close(image: *mut Handle) -> c_int {
    // SAFETY: made by `rbd_open`, and the caller gives it up.
    let handle = unsafe { Box::from_raw(image) };
    let opened = &handle.0;
    let verdict = opened.state.gate("rbd_close", &opened.name, 0);
    let flying = opened.state.queue.unanswered(opened.cookie);
    if flying > 0 {
        opened.state.breach(format!("{} closed with {flying} in flight", opened.name));
    }
    // Also for those threads that have called back and not returned yet.
    opened.state.queue.wait_for(opened.cookie);
    let at = opened.at();
    {
        let mut world = opened.state.world();
        if let Ok(image) = world.image_mut(&at) {
            image.watchers.retain(|watcher| watcher.cookie != opened.cookie);
        }
        world.disown(&at, opened.cookie);
    }
    opened.state.images.fetch_sub(1, Ordering::SeqCst);
    opened.images.fetch_sub(1, Ordering::SeqCst);
    match verdict {
        Verdict::Do => 0,
        Verdict::Refuse(errno) | Verdict::Fail(errno) | Verdict::Lose(errno) => -errno,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_get_size(image: &Handle, size: &mut u64) -> c_int {
    image.call("rbd_get_size", "", 0, |world, at| {
        world.size(at).map(|found| *size = found).map(|()| 0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_get_features(image: &Handle, features: &mut u64) -> c_int {
    image.call("rbd_get_features", "", 0, |world, at| {
        *features = world.features(at)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_get_op_features(image: &Handle, features: &mut u64) -> c_int {
    image.call("rbd_get_op_features", "", 0, |world, at| {
        *features = u64::from(world.is_clone_parent(at)) * RBD_OPERATION_FEATURE_CLONE_PARENT;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_get_id(image: &Handle, id: *mut c_char, id_len: usize) -> c_int {
    image.call("rbd_get_id", "", 0, |_, at| {
        // SAFETY: the caller vouches for its buffer.
        unsafe { fill(id, id_len, &at.image) }.map(|_| 0).ok_or(RANGE)
    })
}

// All images here are of format 2, in no group, and not mirrored.

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_get_old_format(image: &Handle, old: &mut u8) -> c_int {
    image.call("rbd_get_old_format", "", 0, |_, _| {
        *old = 0;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_get_group(image: &Handle, info: &mut rbd_group_info_t, _: usize) -> c_int {
    image.call("rbd_get_group", "", 0, |_, _| {
        *info = rbd_group_info_t { name: given(""), pool: -1 };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_group_info_cleanup(info: &mut rbd_group_info_t, _: usize) -> c_int {
    // SAFETY: given by `rbd_get_group`, and the caller gives it back once.
    unsafe { taken(info.name) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_mirror_image_get_info(
    image: &Handle,
    info: &mut rbd_mirror_image_info_t,
    _: usize,
) -> c_int {
    image.call("rbd_mirror_image_get_info", "", 0, |_, _| {
        let (global_id, state) = (given(""), RBD_MIRROR_IMAGE_DISABLED);
        *info = rbd_mirror_image_info_t { global_id, state, primary: false };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_mirror_image_get_info_cleanup(info: &mut rbd_mirror_image_info_t) {
    // SAFETY: given by `rbd_mirror_image_get_info`, and the caller gives it back once.
    unsafe { taken(info.global_id) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_get_overlap(image: &Handle, overlap: &mut u64) -> c_int {
    image.call("rbd_get_overlap", "", 0, |world, at| {
        *overlap = world.overlap(at)?;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_resize_with_progress(
    image: &Handle,
    size: u64,
    cb: librbd_progress_fn_t,
    cbdata: *mut c_void,
) -> c_int {
    let mut step = told(cb, cbdata);
    image.change("rbd_resize_with_progress", "", size, |world, at| {
        step(0, 1);
        world.resize(at, size)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_flatten_with_progress(
    image: &Handle,
    cb: librbd_progress_fn_t,
    cbdata: *mut c_void,
) -> c_int {
    let mut step = told(cb, cbdata);
    image.change("rbd_flatten_with_progress", "", 0, |world, at| world.flatten(at, &mut step))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_list_children3(
    image: &Handle,
    images: *mut rbd_linked_image_spec_t,
    count: &mut usize,
) -> c_int {
    image.call("rbd_list_children3", "", *count as u64, |world, at| {
        let found = world.children(at);
        let entry = |child: &crate::world::Child| rbd_linked_image_spec_t {
            pool_id: child.number,
            pool_name: given(&child.pool),
            pool_namespace: given(""),
            image_id: given(&child.id),
            image_name: given(&child.name),
            trash: child.trash,
        };
        // SAFETY: the caller vouches for its room.
        Ok(unsafe { list(images, count, &found, entry) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_linked_image_spec_list_cleanup(
    images: *mut rbd_linked_image_spec_t,
    count: usize,
) {
    let take = |spec: rbd_linked_image_spec_t| {
        for text in [spec.pool_name, spec.pool_namespace, spec.image_id, spec.image_name] {
            // SAFETY: given by `rbd_list_children3`, and the caller gives it back once.
            unsafe { taken(text) };
        }
    };
    // SAFETY: the caller vouches for its entries.
    unsafe { each(images, count, take) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_watchers_list(
    image: &Handle,
    watchers: *mut rbd_image_watcher_t,
    count: &mut usize,
) -> c_int {
    image.call("rbd_watchers_list", "", *count as u64, |world, at| {
        let entry = |watcher: &Watcher| rbd_image_watcher_t {
            addr: given(&format!("127.0.0.1:0/{}", watcher.client)),
            id: watcher.client,
            cookie: watcher.cookie,
        };
        // SAFETY: the caller vouches for its room.
        Ok(unsafe { list(watchers, count, &world.image(at)?.watchers, entry) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_watchers_list_cleanup(watchers: *mut rbd_image_watcher_t, count: usize) {
    // SAFETY: given by `rbd_watchers_list`, and the caller gives it back once.
    let take = |watcher: rbd_image_watcher_t| unsafe { taken(watcher.addr) };
    // SAFETY: the caller vouches for its entries.
    unsafe { each(watchers, count, take) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_list_lockers(
    image: &Handle,
    exclusive: &mut c_int,
    tag: *mut c_char,
    tag_len: &mut usize,
    clients: *mut c_char,
    clients_len: &mut usize,
    cookies: *mut c_char,
    cookies_len: &mut usize,
    addrs: *mut c_char,
    addrs_len: &mut usize,
) -> isize {
    let answer = image.call("rbd_list_lockers", "", 0, |world, at| {
        let Some(locker) = &world.image(at)?.locker else { return Ok(0) };
        *exclusive = 1;
        let texts = ["", "client.4120", locker, "127.0.0.1:0/4120"];
        let rooms = [tag, clients, cookies, addrs];
        for ((text, room), len) in
            texts.iter().zip(rooms).zip([tag_len, clients_len, cookies_len, addrs_len])
        {
            let had = std::mem::replace(len, text.len() + 1);
            // SAFETY: the caller vouches for its buffers.
            unsafe { fill(room, had, text) }.ok_or(RANGE)?;
        }
        Ok(1)
    });
    answer as isize
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_lock_release(image: &Handle) -> c_int {
    let cookie = image.opened().cookie;
    image.call(
        "rbd_lock_release",
        "",
        0,
        |world, at| {
            if world.disown(at, cookie) { Ok(0) } else { Err(INVAL) }
        },
    )
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_metadata_get(
    image: &Handle,
    key: Text,
    value: *mut c_char,
    val_len: &mut usize,
) -> c_int {
    let key = key.text();
    image.call("rbd_metadata_get", &key, 0, |world, at| {
        let found = world.image(at)?.metadata.get(&key).ok_or(NOENT)?;
        let room = std::mem::replace(val_len, found.len() + 1);
        // SAFETY: the caller vouches for its buffer.
        unsafe { fill(value, room, found) }.map(|_| 0).ok_or(RANGE)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_metadata_set(image: &Handle, key: Text, value: Text) -> c_int {
    let (key, value) = (key.text(), value.text());
    image.change("rbd_metadata_set", &key.clone(), value.len() as u64, |world, at| {
        world.image_mut(at)?.metadata.insert(key, value);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_metadata_remove(image: &Handle, key: Text) -> c_int {
    let key = key.text();
    image.change("rbd_metadata_remove", &key, 0, |world, at| {
        world.image_mut(at)?.metadata.remove(&key).map(drop).ok_or(NOENT)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_list(
    image: &Handle,
    snaps: *mut rbd_snap_info_t,
    max_snaps: &mut c_int,
) -> c_int {
    image.call("rbd_snap_list", "", 0, |world, at| {
        let found: Vec<_> = world.image(at)?.snaps.iter().filter(|snap| !snap.trashed).collect();
        let count = c_int::try_from(found.len()).unwrap_or(c_int::MAX);
        // One more than there are, to end the list.
        if *max_snaps <= count {
            *max_snaps = count + 1;
            return Err(RANGE);
        }
        let mut room = found.len() + 1;
        let end = rbd_snap_info_t { id: 0, size: 0, name: std::ptr::null() };
        let entries: Vec<_> = found.into_iter().map(Some).chain([None]).collect();
        let entry = |snap: &Option<&crate::world::Snap>| {
            snap.map_or(end, |snap| rbd_snap_info_t {
                id: snap.id,
                size: snap.size,
                name: given(&snap.name),
            })
        };
        // SAFETY: the caller vouches for its room, which is large enough.
        unsafe { list(snaps, &mut room, &entries, entry) };
        Ok(count)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_get_namespace_type(
    image: &Handle,
    snap_id: u64,
    namespace_type: &mut rbd_snap_namespace_type_t,
) -> c_int {
    image.call("rbd_snap_get_namespace_type", "", snap_id, |world, at| {
        let snap = world.image(at)?.snaps.iter().find(|snap| snap.id == snap_id).ok_or(NOENT)?;
        *namespace_type = match snap.trashed {
            true => RBD_SNAP_NAMESPACE_TYPE_TRASH,
            false => RBD_SNAP_NAMESPACE_TYPE_USER,
        };
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_list_end(snaps: *mut rbd_snap_info_t) {
    for place in 0.. {
        // SAFETY: the entries of `rbd_snap_list`, up to the one without a name.
        let snap = unsafe { snaps.add(place) };
        // SAFETY: as above.
        let snap = unsafe { snap.read() };
        if snap.name.is_null() {
            return;
        }
        // SAFETY: given by `rbd_snap_list`, and the caller gives it back once.
        unsafe { taken(snap.name.cast_mut()) };
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_create(image: &Handle, snapname: Text) -> c_int {
    let name = snapname.text();
    image.change("rbd_snap_create", &name, 0, |world, at| world.snap_create(at, &name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_remove(image: &Handle, snapname: Text) -> c_int {
    let name = snapname.text();
    image.change("rbd_snap_remove", &name, 0, |world, at| world.snap_remove(at, &name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_protect(image: &Handle, snap_name: Text) -> c_int {
    let name = snap_name.text();
    image.change("rbd_snap_protect", &name, 0, |world, at| world.snap_protect(at, &name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_unprotect(image: &Handle, snap_name: Text) -> c_int {
    let name = snap_name.text();
    image.change("rbd_snap_unprotect", &name, 0, |world, at| world.snap_unprotect(at, &name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_is_protected(
    image: &Handle,
    snap_name: Text,
    is_protected: &mut c_int,
) -> c_int {
    let name = snap_name.text();
    image.call("rbd_snap_is_protected", &name, 0, |world, at| {
        *is_protected = c_int::from(world.is_protected(at, &name)?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_snap_set(image: &Handle, snapname: Text) -> c_int {
    let name = snapname.get();
    image.call("rbd_snap_set", name.as_deref().unwrap_or("head"), 0, |world, at| {
        let snap = name.as_ref().map(|name| world.snap_id(at, name)).transpose()?;
        lock(&image.0.at).snap = snap;
        Ok(0)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_diff_iterate2(
    image: &Handle,
    _from: Text,
    ofs: u64,
    len: u64,
    include_parent: u8,
    _whole_object: u8,
    cb: Option<unsafe extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int>,
    arg: *mut c_void,
) -> c_int {
    image.call("rbd_diff_iterate2", "", ofs, |world, at| {
        let range = ofs..ofs.saturating_add(len);
        for found in world.diff(at, range, include_parent != 0)? {
            let len = usize::try_from(found.end - found.start).unwrap_or(usize::MAX);
            // SAFETY: the caller vouches for its callback and what it takes.
            let ended = cb.map_or(0, |call| unsafe { call(found.start, len, 1, arg) });
            if ended < 0 {
                return Err(-ended);
            }
        }
        Ok(0)
    })
}
