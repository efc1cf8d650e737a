//! librbd: a pool's images by name, and how new ones are to be.

use std::{
    ffi::{c_int, c_void},
    sync::{Mutex, atomic::Ordering},
};

use imaged_ffi::sys::{
    RBD_IMAGE_OPTION_CLONE_FORMAT, RBD_IMAGE_OPTION_DATA_POOL, RBD_IMAGE_OPTION_FEATURES,
    RBD_IMAGE_OPTION_FORMAT, RBD_IMAGE_OPTION_ORDER, librbd_progress_fn_t, rbd_trash_image_info_t,
};

use crate::{
    c::{Text, each, given, list, taken},
    errno::{DQUOT, INVAL, NOENT, PERM},
    lock,
    rados::Io,
    world::{Answer, Trashed, Wanted, World},
};

/// An `rbd_image_options_t`.
#[derive(Default)]
pub(crate) struct Options(Mutex<Wanted>);

impl Options {
    pub(crate) fn get(&self) -> Wanted {
        lock(&self.0).clone()
    }
}

/// What waits for room for ever, if nobody asked for an answer, is given up at some time.
pub(crate) fn full<T>(answer: Answer<T>, full_try: bool) -> Answer<T> {
    // 110: ETIMEDOUT
    answer.map_err(|errno| if errno == DQUOT && !full_try { 110 } else { errno })
}

/// When all images in the trash were put there, in seconds since 1970.
const MOVED: i64 = 1_700_000_000;

impl Io {
    /// The same of what waits for the lock of an image, for ever if it is not taken off.
    fn call_with_lock(
        &self,
        function: &'static str,
        name: &str,
        number: u64,
        work: impl FnOnce(&mut World, &str) -> Answer,
    ) -> c_int {
        self.state.unlocked(&self.pool, name, || self.call(function, name, number, work))
    }

    fn call(
        &self,
        function: &'static str,
        name: &str,
        number: u64,
        work: impl FnOnce(&mut World, &str) -> Answer,
    ) -> c_int {
        self.state.call(function, name, number, |world| {
            world.pool(&self.pool)?;
            full(work(world, &self.pool), self.full_try.load(Ordering::SeqCst)).map(|()| 0)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_image_options_create(opts: &mut *mut Options) {
    *opts = Box::into_raw(Box::default());
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_image_options_destroy(opts: *mut Options) {
    // SAFETY: made by `rbd_image_options_create`, and the caller gives it up.
    drop(unsafe { Box::from_raw(opts) });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_image_options_set_uint64(
    opts: &Options,
    optname: c_int,
    optval: u64,
) -> c_int {
    let mut wanted = lock(&opts.0);
    match optname {
        RBD_IMAGE_OPTION_FORMAT if optval == 2 => {}
        RBD_IMAGE_OPTION_ORDER => wanted.order = Some(optval),
        RBD_IMAGE_OPTION_FEATURES => wanted.features = Some(optval),
        RBD_IMAGE_OPTION_CLONE_FORMAT => wanted.format = Some(optval),
        _ => return -INVAL,
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_image_options_set_string(
    opts: &Options,
    optname: c_int,
    optval: Text,
) -> c_int {
    if optname != RBD_IMAGE_OPTION_DATA_POOL {
        return -INVAL;
    }
    lock(&opts.0).data_pool = optval.get();
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_create4(io: &Io, name: Text, size: u64, opts: &Options) -> c_int {
    let name = name.text();
    io.call("rbd_create4", &name, size, |world, pool| world.create(pool, &name, size, &opts.get()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_clone3(
    p_ioctx: &Io,
    p_name: Text,
    p_snapname: Text,
    c_ioctx: &Io,
    c_name: Text,
    c_opts: &Options,
) -> c_int {
    let (parent, snap, name) = (p_name.text(), p_snapname.text(), c_name.text());
    c_ioctx.call("rbd_clone3", &name, 0, |world, pool| {
        world.clone_image((&p_ioctx.pool, &parent, &snap), pool, &name, &c_opts.get())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_remove_with_progress(
    io: &Io,
    name: Text,
    cb: librbd_progress_fn_t,
    cbdata: *mut c_void,
) -> c_int {
    let (name, mut step) = (name.text(), told(cb, cbdata));
    io.call_with_lock("rbd_remove_with_progress", &name, 0, |world, pool| {
        step(0, 1);
        world.remove(pool, &name)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_trash_move(io: &Io, name: Text, delay: u64) -> c_int {
    let name = name.text();
    io.call_with_lock("rbd_trash_move", &name, delay, |world, pool| {
        // It would ask that handle for it, and wait until it has it.
        if world.is_owned(pool, &name, io.client) {
            io.state.breach(format!("{name} moved while the caller has its lock"));
        }
        world.trash_move(pool, &name, delay)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_trash_restore(io: &Io, id: Text, name: Text) -> c_int {
    let (id, name) = (id.text(), name.text());
    io.call("rbd_trash_restore", &id, 0, |world, pool| world.trash_restore(pool, &id, &name))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_trash_remove_with_progress(
    io: &Io,
    id: Text,
    force: bool,
    cb: librbd_progress_fn_t,
    cbdata: *mut c_void,
) -> c_int {
    let (id, mut step) = (id.text(), told(cb, cbdata));
    io.call_with_lock("rbd_trash_remove_with_progress", &id, 0, |world, pool| {
        let entry = world.pool(pool)?.trash.get(&id).ok_or(NOENT)?;
        if entry.deferred_s > 0 && !force {
            return Err(PERM);
        }
        step(0, 1);
        world.trash_remove(pool, &id)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_trash_list(
    io: &Io,
    entries: *mut rbd_trash_image_info_t,
    count: &mut usize,
) -> c_int {
    io.state.call("rbd_trash_list", &io.pool, *count as u64, |world| {
        let found: Vec<_> = world.pool(&io.pool)?.trash.iter().collect();
        let entry = |(id, trashed): &(&String, &Trashed)| rbd_trash_image_info_t {
            id: given(id),
            name: given(&trashed.name),
            source: 0,
            deletion_time: MOVED,
            deferment_end_time: MOVED.saturating_add_unsigned(trashed.deferred_s),
        };
        // SAFETY: the caller vouches for its room.
        Ok(unsafe { list(entries, count, &found, entry) })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_trash_list_cleanup(entries: *mut rbd_trash_image_info_t, count: usize) {
    let take = |entry: rbd_trash_image_info_t| {
        for text in [entry.id, entry.name] {
            // SAFETY: given by `rbd_trash_list`, and the caller gives it back once.
            unsafe { taken(text) };
        }
    };
    // SAFETY: the caller vouches for its entries.
    unsafe { each(entries, count, take) };
}

/// What a caller's progress callback is told, and may end.
pub(crate) fn told(call: librbd_progress_fn_t, data: *mut c_void) -> impl FnMut(u64, u64) -> i32 {
    move |done, all| match call {
        // SAFETY: the caller vouches for its callback and what it takes.
        Some(call) => unsafe { call(done, all, data) },
        None => 0,
    }
}
