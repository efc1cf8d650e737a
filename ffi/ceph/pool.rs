//! A pool, and the images in it by name.

use std::{
    ffi::c_int,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ceph::rados;

use crate::{
    cluster::Cluster,
    errno::{Errno, Result, check},
    progress::as_callback,
    sys,
    text::{c, grow, owned},
};

/// A pool of a cluster. Clones share it.
#[derive(Clone)]
pub struct Pool(Arc<Raw>);

struct Raw {
    io: sys::rados_ioctx_t,
    name: String,
    cluster: Cluster,
    retired: AtomicBool,
}

// SAFETY: an ioctx is used from any thread; what it holds is set once, in `Pool::open`, but for an atomic.
unsafe impl Send for Raw {}
// SAFETY: as above, also from several at once.
unsafe impl Sync for Raw {}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: made by `rados_ioctx_create`, destroyed once, and no image of it is left: each
        // holds the `Arc` whose last one is being dropped. It does not wait for the cluster.
        unsafe { rados::rados_ioctx_destroy(self.io) };
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// How a new image is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The binary logarithm of its objects' size in bytes; as the cluster says if `None`.
    pub order: Option<u8>,
    /// Its features, a sum of `RBD_FEATURE_`; as the cluster says if `None`.
    pub features: Option<u64>,
    /// The pool of its data, if another.
    pub data_pool: Option<String>,
    /// 1: the parent has to be protected; 2: it need not. As the cluster says if `None`.
    pub clone_format: Option<u8>,
}

/// An image in a pool's trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    /// The image's internal id.
    pub id: String,
    /// The name it had.
    pub name: String,
    /// How long, in seconds from then on, whoever has put it there wanted it kept.
    pub deferred_s: u64,
}

impl Options {
    pub(crate) fn raw(&self) -> Result<RawOptions> {
        RawOptions::new(self)
    }
}

/// librbd's own form of [`Options`].
pub(crate) struct RawOptions(sys::rbd_image_options_t);

impl RawOptions {
    /// For C, as long as this lives.
    pub(crate) fn as_ptr(&self) -> sys::rbd_image_options_t {
        self.0
    }

    fn new(options: &Options) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: C fills the pointer.
        unsafe { sys::rbd_image_options_create(&raw mut raw) };
        let this = Self(raw);
        this.number(sys::RBD_IMAGE_OPTION_FORMAT, Some(2))?;
        this.number(sys::RBD_IMAGE_OPTION_ORDER, options.order.map(u64::from))?;
        this.number(sys::RBD_IMAGE_OPTION_FEATURES, options.features)?;
        let format = options.clone_format.map(u64::from);
        this.number(sys::RBD_IMAGE_OPTION_CLONE_FORMAT, format)?;
        if let Some(pool) = &options.data_pool {
            let pool = c(pool)?;
            // SAFETY: the options live, and C copies the string.
            check(unsafe {
                sys::rbd_image_options_set_string(
                    this.0,
                    sys::RBD_IMAGE_OPTION_DATA_POOL,
                    pool.as_ptr(),
                )
            })?;
        }
        Ok(this)
    }

    fn number(&self, name: c_int, value: Option<u64>) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        // SAFETY: the options live.
        check(unsafe { sys::rbd_image_options_set_uint64(self.0, name, value) })?;
        Ok(())
    }
}

impl Drop for RawOptions {
    fn drop(&mut self) {
        // SAFETY: made by `rbd_image_options_create`, destroyed once.
        unsafe { sys::rbd_image_options_destroy(self.0) };
    }
}

impl Pool {
    /// The pool of this name. A full pool answers at once instead of making everyone wait. Blocks
    /// until the maps are there.
    ///
    /// Implements: `int rados_ioctx_create(rados_t, const char *pool_name, rados_ioctx_t *)`,
    /// `void rados_set_pool_full_try(rados_ioctx_t)`
    ///
    /// # Errors
    /// `NOENT` if there is none.
    pub fn open(cluster: &Cluster, name: &str) -> Result<Self> {
        let text = c(name)?;
        let mut io = std::ptr::null_mut();
        // SAFETY: the cluster is connected, and C copies the name.
        check(unsafe { rados::rados_ioctx_create(cluster.raw(), text.as_ptr(), &raw mut io) })?;
        let (name, cluster) = (name.to_owned(), cluster.clone());
        let this = Self(Arc::new(Raw { io, name, cluster, retired: AtomicBool::default() }));
        // SAFETY: nobody else has the ioctx yet.
        unsafe { sys::rados_set_pool_full_try(io) };
        Ok(this)
    }

    pub(crate) fn raw(&self) -> sys::rados_ioctx_t {
        self.0.io
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// Its number, which no other pool of the cluster ever has.
    ///
    /// Implements: `int64_t rados_ioctx_get_id(rados_ioctx_t)`
    #[must_use]
    pub fn id(&self) -> i64 {
        // SAFETY: the ioctx is there.
        unsafe { rados::rados_ioctx_get_id(self.raw()) }
    }

    /// Notes for whoever shares this that the pool is to be opened anew; whether nobody had.
    #[must_use]
    pub fn retire(&self) -> bool {
        !self.0.retired.swap(true, Ordering::Relaxed)
    }

    /// Whether somebody has noted that.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.0.retired.load(Ordering::Relaxed)
    }

    /// Whether the pool that has its name now is this one, as far as the client has heard. Blocks only
    /// where no pool has it: until the mon has said so.
    ///
    /// Implements: `int64_t rados_pool_lookup(rados_t, const char *pool_name)`
    ///
    /// # Errors
    /// `NOENT` if no pool has it.
    pub fn has_its_name(&self) -> Result<bool> {
        let name = c(&self.0.name)?;
        // SAFETY: the name is valid for the call.
        let now = unsafe { rados::rados_pool_lookup(self.0.cluster.raw(), name.as_ptr()) };
        check(i32::try_from(now.min(0)).unwrap_or_default())?;
        Ok(now == self.id())
    }

    /// The first `len` bytes of an object. Blocks.
    ///
    /// Implements: `int rados_read(rados_ioctx_t, const char *oid, char *buf, size_t len,
    /// uint64_t off)`
    ///
    /// # Errors
    /// `NOENT` if there is none.
    pub fn read(&self, object: &str, len: usize) -> Result<Vec<u8>> {
        let object = c(object)?;
        let mut room = vec![0_u8; len];
        // SAFETY: C writes at most `len` bytes into the buffer, which is that long.
        let got = check(unsafe {
            rados::rados_read(self.raw(), object.as_ptr(), room.as_mut_ptr().cast(), len, 0)
        })?;
        room.truncate(usize::try_from(got).unwrap_or(len));
        Ok(room)
    }

    /// Makes an object that holds no bytes, or takes the bytes of one away. Blocks.
    ///
    /// Implements: `int rados_write_full(rados_ioctx_t, const char *oid, const char *buf, size_t len)`
    ///
    /// # Errors
    /// `PERM` if the caps do not allow it; `DQUOT`, `NOSPC`.
    pub fn write_nothing(&self, object: &str) -> Result<()> {
        let object = c(object)?;
        // SAFETY: the name is valid for the call, and of no bytes none are read.
        check(unsafe { rados::rados_write_full(self.raw(), object.as_ptr(), object.as_ptr(), 0) })?;
        Ok(())
    }

    /// Removes an object. Blocks.
    ///
    /// Implements: `int rados_remove(rados_ioctx_t, const char *oid)`
    ///
    /// # Errors
    /// `NOENT` if there is none; `PERM` if the caps do not allow it, whether or not there is one.
    pub fn remove_object(&self, object: &str) -> Result<()> {
        let object = c(object)?;
        // SAFETY: the name is valid for the call.
        check(unsafe { rados::rados_remove(self.raw(), object.as_ptr()) })?;
        Ok(())
    }

    /// Makes an image of `size` bytes. Blocks.
    ///
    /// Implements: `int rbd_create4(rados_ioctx_t, const char *name, uint64_t size,
    /// rbd_image_options_t)`
    ///
    /// # Errors
    /// `EXIST`; `PERM` if the caps do not allow it; `NOENT` without the data pool; `DOM` for an
    /// order that cannot be.
    pub fn create(&self, name: &str, size: u64, options: &Options) -> Result<()> {
        let (name, options) = (c(name)?, options.raw()?);
        // SAFETY: all of it is valid for the call, and C copies what it keeps.
        check(unsafe { sys::rbd_create4(self.raw(), name.as_ptr(), size, options.as_ptr()) })?;
        Ok(())
    }

    /// Makes the image `name` here as a clone of `parent`'s snapshot. Blocks.
    ///
    /// Implements: `int rbd_clone3(rados_ioctx_t p_ioctx, const char *p_name, const char
    /// *p_snapname, rados_ioctx_t c_ioctx, const char *c_name, rbd_image_options_t)`
    ///
    /// # Errors
    /// `EXIST`; `NOENT` without the parent; `INVAL` if it has to be protected.
    pub fn clone_from(
        &self,
        parent: (&Self, &str, &str),
        name: &str,
        options: &Options,
    ) -> Result<()> {
        let (pool, image, snap) = parent;
        let (image, snap, name) = (c(image)?, c(snap)?, c(name)?);
        let options = options.raw()?;
        // SAFETY: all of it is valid for the call, and C copies what it keeps.
        check(unsafe {
            sys::rbd_clone3(
                pool.raw(),
                image.as_ptr(),
                snap.as_ptr(),
                self.raw(),
                name.as_ptr(),
                options.as_ptr(),
            )
        })?;
        Ok(())
    }

    /// Removes an image without snapshots and watchers. `progress` gets the objects done and all of
    /// them, and ends it by `false`. Blocks, for as long as its objects take; for ever if another has
    /// its lock, see [`crate::Image::lockers`].
    ///
    /// Implements: `int rbd_remove_with_progress(rados_ioctx_t, const char *name,
    /// librbd_progress_fn_t, void *)`
    ///
    /// # Errors
    /// `NOENT`; `NOTEMPTY` if it has snapshots; `BUSY` if it is watched or being migrated.
    pub fn remove<F>(&self, name: &str, progress: F) -> Result<()>
    where
        F: Fn(u64, u64) -> bool + Sync,
    {
        let name = c(name)?;
        let (call, data) = as_callback(&progress);
        // SAFETY: the name is valid for the call; `data` is the closure that `call` takes, which lives
        // for the call.
        check(unsafe { sys::rbd_remove_with_progress(self.raw(), name.as_ptr(), call, data) })?;
        Ok(())
    }

    /// Moves an image into the trash, to be kept there for `deferred_s` seconds: its name is free at
    /// once. Blocks; for ever if another has its lock, or a handle of the caller's has the one that librbd takes
    /// to write and cannot give it back, see [`Image::release_lock`](crate::Image::release_lock).
    ///
    /// Implements: `int rbd_trash_move(rados_ioctx_t, const char *name, uint64_t delay)`
    ///
    /// # Errors
    /// `NOENT`; `BUSY` if it is being migrated.
    pub fn trash_move(&self, name: &str, deferred_s: u64) -> Result<()> {
        let name = c(name)?;
        // SAFETY: the name is valid for the call.
        check(unsafe { sys::rbd_trash_move(self.raw(), name.as_ptr(), deferred_s) })?;
        Ok(())
    }

    /// Gives an image in the trash its name back, or another. Blocks.
    ///
    /// Implements: `int rbd_trash_restore(rados_ioctx_t, const char *id, const char *name)`
    ///
    /// # Errors
    /// `NOENT` if it is not in the trash; `EXIST` if the name is another's by now.
    pub fn trash_restore(&self, id: &str, name: &str) -> Result<()> {
        let (id, name) = (c(id)?, c(name)?);
        // SAFETY: both texts are valid for the call.
        check(unsafe { sys::rbd_trash_restore(self.raw(), id.as_ptr(), name.as_ptr()) })?;
        Ok(())
    }

    /// Removes an image from the trash, also before the time until which it was to be kept. `progress`
    /// gets the objects done and all of them, and ends it by `false`. Blocks, for as long as its objects
    /// take.
    ///
    /// Implements: `int rbd_trash_remove_with_progress(rados_ioctx_t, const char *id, bool force,
    /// librbd_progress_fn_t, void *)`
    ///
    /// # Errors
    /// `NOENT`; `NOTEMPTY` while it has clones; `BUSY` while it is watched.
    pub fn trash_remove<F>(&self, id: &str, progress: F) -> Result<()>
    where
        F: Fn(u64, u64) -> bool + Sync,
    {
        let id = c(id)?;
        let (call, data) = as_callback(&progress);
        // SAFETY: the id is valid for the call; `data` is the closure that `call` takes, which lives for
        // the call.
        check(unsafe {
            sys::rbd_trash_remove_with_progress(self.raw(), id.as_ptr(), true, call, data)
        })?;
        Ok(())
    }

    /// Every image in the trash. Blocks.
    ///
    /// Implements: `int rbd_trash_list(rados_ioctx_t, rbd_trash_image_info_t *, size_t *)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn trash_list(&self) -> Result<Vec<Trashed>> {
        let empty = sys::rbd_trash_image_info_t {
            id: std::ptr::null_mut(),
            name: std::ptr::null_mut(),
            source: 0,
            deletion_time: 0,
            deferment_end_time: 0,
        };
        let mut entries = gathered(empty, |entries, count| {
            // SAFETY: C fills at most `count` entries, of which there are that many.
            unsafe { sys::rbd_trash_list(self.raw(), entries, count) }
        })?;
        let found = entries
            .iter()
            .map(|entry| Trashed {
                // SAFETY: strings of C's, valid until the cleanup below.
                id: unsafe { owned(entry.id) },
                // SAFETY: as above.
                name: unsafe { owned(entry.name) },
                deferred_s: u64::try_from(
                    entry.deferment_end_time.saturating_sub(entry.deletion_time),
                )
                .unwrap_or(0),
            })
            .collect();
        // SAFETY: the entries that C has filled, given back once.
        unsafe { sys::rbd_trash_list_cleanup(entries.as_mut_ptr(), entries.len()) };
        Ok(found)
    }

    /// The names of at most `most` images of format 2 that come after `after` in the order of bytes:
    /// so a pool of any size is listed in little memory. Fewer than `most` are the last. Blocks.
    ///
    /// Implements: `int rados_exec(rados_ioctx_t, const char *oid, const char *cls, const char *method,
    /// const char *in_buf, size_t in_len, char *buf, size_t out_len)` with `dir_list` of the class `rbd`,
    /// by which `rbd_list2` finds them too.
    ///
    /// # Errors
    /// `TIMEDOUT`; `IO` if the answer cannot be read.
    pub fn names_after(&self, after: &str, most: u32) -> Result<Vec<String>> {
        let object = c(DIRECTORY)?;
        let mut asked =
            u32::try_from(after.len()).map_err(|_long| Errno::INVAL)?.to_le_bytes().to_vec();
        asked.extend_from_slice(after.as_bytes());
        asked.extend_from_slice(&u64::from(most).to_le_bytes());
        let wanted = usize::try_from(most).unwrap_or(usize::MAX).saturating_mul(ENTRY);
        let told = grow(wanted, |room, len| {
            // SAFETY: the names end in NUL; C reads and writes no more bytes than the buffers have.
            let answer = unsafe {
                rados::rados_exec(
                    self.raw(),
                    object.as_ptr(),
                    c"rbd".as_ptr(),
                    c"dir_list".as_ptr(),
                    asked.as_ptr().cast(),
                    asked.len(),
                    room.as_mut_ptr().cast(),
                    room.len(),
                )
            };
            *len = usize::try_from(answer).unwrap_or_default();
            answer
        });
        match told {
            Ok(told) => names(&told).ok_or(Errno::IO),
            // There has never been an image.
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The names of all images of format 1, which no Ceph makes any more. Blocks.
    ///
    /// # Errors
    /// As [`Pool::read`]; `IO` if what is read cannot be such names.
    pub fn old_names(&self) -> Result<Vec<String>> {
        let mut len = 1 << 16;
        let told = loop {
            match self.read(DIRECTORY, len) {
                Ok(told) if told.len() == len => len = len.saturating_mul(2),
                Ok(told) => break told,
                Err(Errno::NOENT) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        };
        if told.is_empty() {
            return Ok(Vec::new());
        }
        // A header of any length comes before the map.
        let (_header, map) = counted(&told).ok_or(Errno::IO)?;
        names(map).ok_or(Errno::IO)
    }
}

/// The object that has the names of a pool's images; made with the first of them.
pub const DIRECTORY: &str = "rbd_directory";
/// Bytes that are expected of one name and what is told with it.
const ENTRY: usize = 128;

/// A number of bytes, as Ceph writes text, and what comes after them.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*count)).ok()?)
}

/// The keys of a map of text, as Ceph writes it.
fn names(map: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = map.split_first_chunk::<4>()?;
    let mut found = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (name, after) = counted(rest)?;
        let (_of_it, after) = counted(after)?;
        found.push(String::from_utf8_lossy(name).into_owned());
        rest = after;
    }
    Some(found)
}

/// Calls `fill` with growing room for entries until they fit.
pub(crate) fn gathered<T: Clone>(
    empty: T,
    mut fill: impl FnMut(*mut T, &mut usize) -> c_int,
) -> Result<Vec<T>> {
    let mut entries = vec![empty.clone(); 64];
    for _ in 0..16 {
        let mut count = entries.len();
        match check(fill(entries.as_mut_ptr(), &mut count)) {
            Ok(_) => {
                entries.truncate(count);
                return Ok(entries);
            }
            // More may come between two tries.
            Err(Errno::RANGE) => {
                let wanted = count.max(entries.len()).saturating_add(64);
                entries = vec![empty.clone(); wanted];
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::RANGE)
}
