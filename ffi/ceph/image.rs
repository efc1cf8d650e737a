//! An open image.

use std::{ffi::c_char, fmt, mem::ManuallyDrop, thread};

use crate::{
    errno::{Result, check},
    pool::{Pool, gathered},
    progress::as_callback,
    slots::Slots,
    sys,
    text::{c, grow, owned, until_nul},
};

/// An open image. It is watched while it is open, which keeps others from removing it.
///
/// Close it with [`Image::close`]. One that is only dropped is closed by a thread of its own, for
/// that has to wait for what is in flight.
pub struct Image {
    open: ManuallyDrop<Open>,
}

struct Open {
    raw: sys::rbd_image_t,
    slots: Slots,
    // After the image: it must outlive it.
    pool: Pool,
}

// SAFETY: an image is used from any thread; librbd locks inside.
unsafe impl Send for Open {}
// SAFETY: as above, also from several at once.
unsafe impl Sync for Open {}

impl Open {
    /// Waits for what is in flight, then closes.
    ///
    /// Without a flush of its own, for that waits for ever for the image's lock where somebody else
    /// has it. `rbd_close` has one inside that does not need the lock, and lets librbd's threads return
    /// from their last callbacks.
    fn close(self) -> Result<()> {
        self.slots.end();
        // SAFETY: opened once, closed once: this consumes it. Nothing is in flight, and the pool is
        // still there.
        check(unsafe { sys::rbd_close(self.raw) })?;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: taken only here and in `close`, which forgets the image.
        let open = unsafe { ManuallyDrop::take(&mut self.open) };
        // Without threads the handle is leaked, which harms less than waiting here.
        drop(thread::Builder::new().name("rbd-close".to_owned()).spawn(move || open.close()));
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("pool", &self.open.pool.name()).finish_non_exhaustive()
    }
}

/// Who has an image open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watcher {
    /// Its network address.
    pub address: String,
    /// Its number in the cluster.
    pub client: i64,
}

/// An image that was cloned from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub image: String,
    /// Whether it is in the trash.
    pub trash: bool,
}

impl Image {
    /// Opens an image, at its head or at a snapshot, and watches it. Blocks.
    ///
    /// Always for writing, also to read: a snapshot that was opened for reading only has crashed
    /// processes, and such a handle has no watch, so that the image can be removed under it. Where the
    /// caps allow no more, see [`Image::open_unwatched`].
    ///
    /// Implements: `int rbd_open(rados_ioctx_t, const char *name, rbd_image_t *, const char
    /// *snap_name)`
    ///
    /// # Errors
    /// `NOENT`; `PERM` if the caps do not allow writing.
    pub fn open(pool: &Pool, name: &str, snap: Option<&str>) -> Result<Self> {
        let (name, snap) = (c(name)?, snap.map(c).transpose()?);
        let snap = snap.as_ref().map_or(std::ptr::null(), |snap| snap.as_ptr());
        let mut raw = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call; NULL means the head.
        check(unsafe { sys::rbd_open(pool.raw(), name.as_ptr(), &raw mut raw, snap) })?;
        Ok(Self::of(raw, pool))
    }

    /// Opens an image that this user may only read, at its head or at a snapshot. Blocks.
    ///
    /// Nothing watches it: once the image is removed, reads find zeros. The head is opened first and the
    /// snapshot set then, for opening it at the snapshot has crashed processes.
    ///
    /// Implements: `int rbd_open_read_only(rados_ioctx_t, const char *name, rbd_image_t *, const char
    /// *snap_name)`
    ///
    /// # Errors
    /// `NOENT`; `PERM` if the caps do not even allow reading.
    pub fn open_unwatched(pool: &Pool, name: &str, snap: Option<&str>) -> Result<Self> {
        let name = c(name)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call; NULL means the head.
        check(unsafe {
            sys::rbd_open_read_only(pool.raw(), name.as_ptr(), &raw mut raw, std::ptr::null())
        })?;
        let image = Self::of(raw, pool);
        match snap.map_or(Ok(()), |snap| image.snap_set(Some(snap))) {
            Ok(()) => Ok(image),
            Err(errno) => {
                // Whatever closing says, the first failure matters.
                let _closed = image.close();
                Err(errno)
            }
        }
    }

    /// As [`Image::open`] by the internal id, which also finds what is in the trash. Blocks.
    ///
    /// Implements: `int rbd_open_by_id(rados_ioctx_t, const char *id, rbd_image_t *, const char
    /// *snap_name)`
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_by_id(pool: &Pool, id: &str) -> Result<Self> {
        let id = c(id)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call; NULL means the head.
        check(unsafe {
            sys::rbd_open_by_id(pool.raw(), id.as_ptr(), &raw mut raw, std::ptr::null())
        })?;
        Ok(Self::of(raw, pool))
    }

    /// The same without a watch and for reading only, which is also allowed of what is being migrated.
    /// Blocks.
    ///
    /// Implements: `int rbd_open_by_id_read_only(rados_ioctx_t, const char *id, rbd_image_t *, const
    /// char *snap_name)`
    ///
    /// # Errors
    /// As [`Image::open_unwatched`].
    pub fn open_by_id_unwatched(pool: &Pool, id: &str) -> Result<Self> {
        let id = c(id)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call; NULL means the head.
        check(unsafe {
            sys::rbd_open_by_id_read_only(pool.raw(), id.as_ptr(), &raw mut raw, std::ptr::null())
        })?;
        Ok(Self::of(raw, pool))
    }

    fn of(raw: sys::rbd_image_t, pool: &Pool) -> Self {
        let open = Open { raw, slots: Slots::new(), pool: pool.clone() };
        Self { open: ManuallyDrop::new(open) }
    }

    /// Its pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.open.pool
    }

    pub(crate) fn raw(&self) -> sys::rbd_image_t {
        self.open.raw
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.open.slots
    }

    /// Waits until nothing is in flight. Then closing does not wait for that, unless something is begun
    /// after this.
    pub async fn idle(&self) {
        self.open.slots.idle().await;
    }

    /// Waits for what is in flight, then closes. Blocks.
    ///
    /// Implements: `int rbd_close(rbd_image_t)`
    ///
    /// # Errors
    /// `TIMEDOUT`; it is closed all the same.
    pub fn close(self) -> Result<()> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken only here and in `drop`, which does not run for `this`.
        unsafe { ManuallyDrop::take(&mut this.open) }.close()
    }

    /// Whether it is of format 1, which no Ceph makes any more: without an internal id, features, clones,
    /// and a way into the trash.
    ///
    /// Implements: `int rbd_get_old_format(rbd_image_t, uint8_t *)`
    ///
    /// # Errors
    /// As C says.
    pub fn is_old_format(&self) -> Result<bool> {
        let mut old = 0;
        // SAFETY: C fills the number.
        check(unsafe { sys::rbd_get_old_format(self.raw(), &raw mut old) })?;
        Ok(old != 0)
    }

    /// The group of images that it is in, if any. Blocks.
    ///
    /// Implements: `int rbd_get_group(rbd_image_t, rbd_group_info_t *, size_t)`,
    /// `int rbd_group_info_cleanup(rbd_group_info_t *, size_t)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn group(&self) -> Result<Option<String>> {
        let mut info = sys::rbd_group_info_t { name: std::ptr::null_mut(), pool: -1 };
        let size = size_of_val(&info);
        // SAFETY: C fills the structure, which has the size that it is told.
        check(unsafe { sys::rbd_get_group(self.raw(), &raw mut info, size) })?;
        // SAFETY: a string of C's, valid until the cleanup below.
        let name = unsafe { owned(info.name) };
        // SAFETY: what C has filled, given back once.
        unsafe { sys::rbd_group_info_cleanup(&raw mut info, size) };
        Ok((!name.is_empty()).then_some(name))
    }

    /// Whether it is mirrored, and another cluster has the copy that may be changed. Blocks.
    ///
    /// Implements: `int rbd_mirror_image_get_info(rbd_image_t, rbd_mirror_image_info_t *, size_t)`,
    /// `void rbd_mirror_image_get_info_cleanup(rbd_mirror_image_info_t *)`
    ///
    /// # Errors
    /// `TIMEDOUT`; `PERM` if the caps do not allow asking.
    pub fn is_not_primary(&self) -> Result<bool> {
        let mut info = sys::rbd_mirror_image_info_t {
            global_id: std::ptr::null_mut(),
            state: sys::RBD_MIRROR_IMAGE_DISABLED,
            primary: false,
        };
        let size = size_of_val(&info);
        // SAFETY: C fills the structure, which has the size that it is told.
        check(unsafe { sys::rbd_mirror_image_get_info(self.raw(), &raw mut info, size) })?;
        // SAFETY: what C has filled, given back once.
        unsafe { sys::rbd_mirror_image_get_info_cleanup(&raw mut info) };
        Ok(info.state != sys::RBD_MIRROR_IMAGE_DISABLED && !info.primary)
    }

    /// Its internal id, which no other image of the pool ever has.
    ///
    /// Implements: `int rbd_get_id(rbd_image_t, char *id, size_t id_len)`
    ///
    /// # Errors
    /// `INVAL` if it is of format 1.
    pub fn id(&self) -> Result<String> {
        let mut room = [0_u8; 256];
        // SAFETY: C writes at most `id_len` bytes into the buffer, which is that long.
        check(unsafe { sys::rbd_get_id(self.raw(), room.as_mut_ptr().cast(), room.len()) })?;
        Ok(until_nul(&room))
    }

    /// Its length in bytes, at the snapshot it stands at.
    ///
    /// Implements: `int rbd_get_size(rbd_image_t, uint64_t *)`
    ///
    /// # Errors
    /// As C says.
    pub fn size(&self) -> Result<u64> {
        let mut size = 0;
        // SAFETY: C fills the number.
        check(unsafe { sys::rbd_get_size(self.raw(), &raw mut size) })?;
        Ok(size)
    }

    /// What it can do, a sum of `RBD_FEATURE_`.
    ///
    /// Implements: `int rbd_get_features(rbd_image_t, uint64_t *)`
    ///
    /// # Errors
    /// As C says.
    pub fn features(&self) -> Result<u64> {
        let mut features = 0;
        // SAFETY: C fills the number.
        check(unsafe { sys::rbd_get_features(self.raw(), &raw mut features) })?;
        Ok(features)
    }

    /// What was done with it, a sum of `RBD_OPERATION_FEATURE_`.
    ///
    /// Implements: `int rbd_get_op_features(rbd_image_t, uint64_t *)`
    ///
    /// # Errors
    /// As C says.
    pub fn op_features(&self) -> Result<u64> {
        let mut features = 0;
        // SAFETY: C fills the number.
        check(unsafe { sys::rbd_get_op_features(self.raw(), &raw mut features) })?;
        Ok(features)
    }

    /// Bytes that it still shares with a parent; 0 if it has none.
    ///
    /// Implements: `int rbd_get_overlap(rbd_image_t, uint64_t *)`
    ///
    /// # Errors
    /// As C says.
    pub fn overlap(&self) -> Result<u64> {
        let mut overlap = 0;
        // SAFETY: C fills the number.
        check(unsafe { sys::rbd_get_overlap(self.raw(), &raw mut overlap) })?;
        Ok(overlap)
    }

    /// Changes its length, in bytes. `progress` gets the objects done and all of them, and ends it by
    /// `false`. Blocks.
    ///
    /// Implements: `int rbd_resize_with_progress(rbd_image_t, uint64_t size, librbd_progress_fn_t, void
    /// *)`
    ///
    /// # Errors
    /// `TIMEDOUT`; `DQUOT`, `NOSPC`; `ROFS` if another has its lock.
    pub fn resize<F>(&self, size: u64, progress: F) -> Result<()>
    where
        F: Fn(u64, u64) -> bool + Sync,
    {
        let (call, data) = as_callback(&progress);
        // SAFETY: `data` is the closure that `call` takes, which lives for the call.
        check(unsafe { sys::rbd_resize_with_progress(self.raw(), size, call, data) })?;
        Ok(())
    }

    /// Copies what it shares with its parent, so that it has none any more. `progress` gets the
    /// objects done and all of them, and ends it by `false`. Blocks.
    ///
    /// Implements: `int rbd_flatten_with_progress(rbd_image_t, librbd_progress_fn_t, void *)`
    ///
    /// # Errors
    /// `INVAL` if it has no parent; `ROFS` if another has its lock; what `progress` ended is `CANCELED`.
    pub fn flatten<F>(&self, progress: F) -> Result<()>
    where
        F: Fn(u64, u64) -> bool + Sync,
    {
        let (call, data) = as_callback(&progress);
        // SAFETY: `data` is the closure that `call` takes, which lives for the call.
        check(unsafe { sys::rbd_flatten_with_progress(self.raw(), call, data) })?;
        Ok(())
    }

    /// The clones of the snapshot it stands at, or of all its snapshots at the head. Blocks.
    ///
    /// Implements: `int rbd_list_children3(rbd_image_t, rbd_linked_image_spec_t *, size_t *)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn children(&self) -> Result<Vec<Child>> {
        let empty = sys::rbd_linked_image_spec_t {
            pool_id: 0,
            pool_name: std::ptr::null_mut(),
            pool_namespace: std::ptr::null_mut(),
            image_id: std::ptr::null_mut(),
            image_name: std::ptr::null_mut(),
            trash: false,
        };
        let mut specs = gathered(empty, |specs, count| {
            // SAFETY: C fills at most `count` entries, of which there are that many.
            unsafe { sys::rbd_list_children3(self.raw(), specs, count) }
        })?;
        let children = specs
            .iter()
            .map(|spec| Child {
                // SAFETY: a string of C's, valid until the cleanup below.
                pool: unsafe { owned(spec.pool_name) },
                // SAFETY: as above.
                image: unsafe { owned(spec.image_name) },
                trash: spec.trash,
            })
            .collect();
        // SAFETY: the entries that C has filled, given back once.
        unsafe { sys::rbd_linked_image_spec_list_cleanup(specs.as_mut_ptr(), specs.len()) };
        Ok(children)
    }

    /// Who has it open for writing, this handle too. Blocks.
    ///
    /// Implements: `int rbd_watchers_list(rbd_image_t, rbd_image_watcher_t *, size_t *)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn watchers(&self) -> Result<Vec<Watcher>> {
        let empty = sys::rbd_image_watcher_t { addr: std::ptr::null_mut(), id: 0, cookie: 0 };
        let mut found = gathered(empty, |watchers, count| {
            // SAFETY: C fills at most `count` entries, of which there are that many.
            unsafe { sys::rbd_watchers_list(self.raw(), watchers, count) }
        })?;
        let watchers = found
            .iter()
            .map(|watcher| Watcher {
                // SAFETY: a string of C's, valid until the cleanup below.
                address: unsafe { owned(watcher.addr) },
                client: watcher.id,
            })
            .collect();
        // SAFETY: the entries that C has filled, given back once.
        unsafe { sys::rbd_watchers_list_cleanup(found.as_mut_ptr(), found.len()) };
        Ok(watchers)
    }

    /// The value of a key of its metadata. Blocks.
    ///
    /// Implements: `int rbd_metadata_get(rbd_image_t, const char *key, char *value, size_t *)`
    ///
    /// # Errors
    /// `NOENT`.
    pub fn metadata(&self, key: &str) -> Result<String> {
        let key = c(key)?;
        let value = grow(1024, |room, len| {
            // SAFETY: C writes at most `len` bytes into the room, which is that long.
            unsafe {
                sys::rbd_metadata_get(self.raw(), key.as_ptr(), room.as_mut_ptr().cast(), len)
            }
        })?;
        Ok(until_nul(&value))
    }

    /// Sets a key of its metadata. Blocks.
    ///
    /// Implements: `int rbd_metadata_set(rbd_image_t, const char *key, const char *value)`
    ///
    /// # Errors
    /// `ROFS` at a snapshot, and if another has its lock.
    pub fn metadata_set(&self, key: &str, value: &str) -> Result<()> {
        let (key, value) = (c(key)?, c(value)?);
        // SAFETY: both strings are valid for the call.
        check(unsafe { sys::rbd_metadata_set(self.raw(), key.as_ptr(), value.as_ptr()) })?;
        Ok(())
    }

    /// Removes a key of its metadata. Blocks.
    ///
    /// Implements: `int rbd_metadata_remove(rbd_image_t, const char *key)`
    ///
    /// # Errors
    /// `NOENT`; `ROFS` at a snapshot, and if another has its lock.
    pub fn metadata_remove(&self, key: &str) -> Result<()> {
        let key = c(key)?;
        // SAFETY: the string is valid for the call.
        check(unsafe { sys::rbd_metadata_remove(self.raw(), key.as_ptr()) })?;
        Ok(())
    }
}

const _: () = assert!(size_of::<c_char>() == 1);
