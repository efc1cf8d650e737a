//! Snapshots of an image, and what it holds of its own.

use std::{
    ffi::{c_int, c_void},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use crate::{
    errno::{Errno, Result, check},
    image::Image,
    sys,
    text::{c, owned},
};

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snap {
    /// Its number in the image.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The image's length then, in bytes.
    pub size: u64,
    /// Whose it is.
    pub owner: SnapOwner,
}

/// Whose a snapshot is: the namespace that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapOwner {
    /// Whoever has made it by name.
    User,
    /// A group of images, of which one snapshot was made.
    Group,
    /// The trash: clones still need it.
    Trash,
    /// Mirroring to another cluster.
    Mirror,
    /// Something that came after this was written.
    Unknown,
}

impl SnapOwner {
    fn of(namespace: sys::rbd_snap_namespace_type_t) -> Self {
        match namespace {
            sys::RBD_SNAP_NAMESPACE_TYPE_USER => Self::User,
            sys::RBD_SNAP_NAMESPACE_TYPE_GROUP => Self::Group,
            sys::RBD_SNAP_NAMESPACE_TYPE_TRASH => Self::Trash,
            sys::RBD_SNAP_NAMESPACE_TYPE_MIRROR => Self::Mirror,
            _ => Self::Unknown,
        }
    }
}

/// A stretch of an image that may hold something, in bytes.
pub type Extent = Range<u64>;

/// As many bytes of an image are asked about at a time: where it has no object map that is a question to Ceph
/// for each object, and all those of a large image take longer than one answer may.
pub const ASKED: u64 = 8 << 30;

impl Image {
    /// Every snapshot of it, none of those in the trash. Blocks.
    ///
    /// Implements: `int rbd_snap_list(rbd_image_t, rbd_snap_info_t *, int *max_snaps)`,
    /// `int rbd_snap_get_namespace_type(rbd_image_t, uint64_t snap_id, rbd_snap_namespace_type_t *)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn snaps(&self) -> Result<Vec<Snap>> {
        let empty = sys::rbd_snap_info_t { id: 0, size: 0, name: std::ptr::null() };
        let mut room: c_int = 16;
        for _ in 0..16 {
            let mut infos = vec![empty; usize::try_from(room).unwrap_or(16)];
            // SAFETY: C fills at most `max_snaps` entries, of which there are that many.
            let got =
                check(unsafe { sys::rbd_snap_list(self.raw(), infos.as_mut_ptr(), &raw mut room) });
            let count = match got {
                Ok(count) => usize::try_from(count).unwrap_or(0),
                Err(Errno::RANGE) => continue,
                Err(error) => return Err(error),
            };
            let snaps: Vec<_> = infos
                .iter()
                .take(count)
                .map(|info| Snap {
                    id: info.id,
                    // SAFETY: a string of C's, valid until the end below.
                    name: unsafe { owned(info.name) },
                    size: info.size,
                    owner: SnapOwner::User,
                })
                .collect();
            // SAFETY: the entries that C has filled, given back once.
            unsafe { sys::rbd_snap_list_end(infos.as_mut_ptr()) };
            return self.with_owners(snaps);
        }
        Err(Errno::RANGE)
    }

    /// Says of each whose it is, and leaves out what has gone meanwhile.
    fn with_owners(&self, snaps: Vec<Snap>) -> Result<Vec<Snap>> {
        let mut owned = Vec::with_capacity(snaps.len());
        for snap in snaps {
            let mut namespace = sys::RBD_SNAP_NAMESPACE_TYPE_USER;
            // SAFETY: C fills the number.
            match check(unsafe {
                sys::rbd_snap_get_namespace_type(self.raw(), snap.id, &raw mut namespace)
            }) {
                Ok(_) => owned.push(Snap { owner: SnapOwner::of(namespace), ..snap }),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(owned)
    }

    /// Makes a snapshot. Blocks.
    ///
    /// Implements: `int rbd_snap_create(rbd_image_t, const char *snapname)`
    ///
    /// # Errors
    /// `EXIST`; `ROFS` if another has its lock.
    pub fn snap_create(&self, name: &str) -> Result<()> {
        let name = c(name)?;
        // SAFETY: the name is valid for the call.
        check(unsafe { sys::rbd_snap_create(self.raw(), name.as_ptr()) })?;
        Ok(())
    }

    /// Removes a snapshot. Blocks.
    ///
    /// Implements: `int rbd_snap_remove(rbd_image_t, const char *snapname)`
    ///
    /// # Errors
    /// `NOENT`; `BUSY` if it is protected; `ROFS` if another has its lock.
    pub fn snap_remove(&self, name: &str) -> Result<()> {
        let name = c(name)?;
        // SAFETY: the name is valid for the call.
        check(unsafe { sys::rbd_snap_remove(self.raw(), name.as_ptr()) })?;
        Ok(())
    }

    /// Protects a snapshot from removal. Blocks.
    ///
    /// Implements: `int rbd_snap_protect(rbd_image_t, const char *snap_name)`
    ///
    /// # Errors
    /// `NOENT`; `BUSY` if it is protected.
    pub fn snap_protect(&self, name: &str) -> Result<()> {
        let name = c(name)?;
        // SAFETY: the name is valid for the call.
        check(unsafe { sys::rbd_snap_protect(self.raw(), name.as_ptr()) })?;
        Ok(())
    }

    /// Lets a snapshot be removed. Blocks.
    ///
    /// Implements: `int rbd_snap_unprotect(rbd_image_t, const char *snap_name)`
    ///
    /// # Errors
    /// `NOENT`; `INVAL` if it is not protected; `BUSY` if it has clones of the first format.
    pub fn snap_unprotect(&self, name: &str) -> Result<()> {
        let name = c(name)?;
        // SAFETY: the name is valid for the call.
        check(unsafe { sys::rbd_snap_unprotect(self.raw(), name.as_ptr()) })?;
        Ok(())
    }

    /// Whether a snapshot is protected. Blocks.
    ///
    /// Implements: `int rbd_snap_is_protected(rbd_image_t, const char *snap_name, int *)`
    ///
    /// # Errors
    /// `NOENT`.
    pub fn snap_is_protected(&self, name: &str) -> Result<bool> {
        let name = c(name)?;
        let mut protected = 0;
        // SAFETY: the name is valid for the call, and C fills the number.
        check(unsafe {
            sys::rbd_snap_is_protected(self.raw(), name.as_ptr(), &raw mut protected)
        })?;
        Ok(protected != 0)
    }

    /// Stands at a snapshot from now on, or at the head. Blocks.
    ///
    /// Implements: `int rbd_snap_set(rbd_image_t, const char *snapname)`
    ///
    /// # Errors
    /// `NOENT`.
    pub fn snap_set(&self, name: Option<&str>) -> Result<()> {
        let name = name.map(c).transpose()?;
        let name = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        // SAFETY: the name is valid for the call; NULL means the head.
        check(unsafe { sys::rbd_snap_set(self.raw(), name) })?;
        Ok(())
    }

    /// What may hold something of `range`, in order; the rest is zeros. By whole objects, which costs
    /// next to nothing where the image has an object map; else Ceph is asked about each object. Blocks.
    ///
    /// Implements: `int rbd_diff_iterate2(rbd_image_t, const char *fromsnapname, uint64_t ofs,
    /// uint64_t len, uint8_t include_parent, uint8_t whole_object, int (*cb)(uint64_t, size_t, int,
    /// void *), void *)`
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        self.diff(range, true)
    }

    /// Whether it has objects of its own, not counting what it shares with a parent. Blocks.
    ///
    /// # Errors
    /// `TIMEDOUT`.
    pub fn has_objects(&self) -> Result<bool> {
        let size = self.size()?;
        let mut at = 0;
        while at < size {
            let end = size.min(at.saturating_add(ASKED));
            if !self.diff(at..end, false)?.is_empty() {
                return Ok(true);
            }
            at = end;
        }
        Ok(false)
    }

    fn diff(&self, range: Range<u64>, parent: bool) -> Result<Vec<Extent>> {
        let found = Extents::default();
        let len = range.end.saturating_sub(range.start);
        // SAFETY: `add_extent` takes exactly this, which lives for the call; NULL means: since the beginning.
        check(unsafe {
            sys::rbd_diff_iterate2(
                self.raw(),
                std::ptr::null(),
                range.start,
                len,
                u8::from(parent),
                1,
                Some(add_extent),
                std::ptr::from_ref(&found).cast_mut().cast(),
            )
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        // librbd gives no order.
        found.sort_by_key(|extent| extent.start);
        Ok(found)
    }
}

/// librbd may call from threads of its own.
type Extents = Mutex<Vec<Extent>>;

/// # Safety
/// `arg` is the [`Extents`] of [`Image::diff`], which live during the call.
unsafe extern "C" fn add_extent(offset: u64, len: usize, exists: c_int, arg: *mut c_void) -> c_int {
    // SAFETY: as the caller says; nobody has them for himself.
    let found = unsafe { &*arg.cast::<Extents>() };
    if exists != 0 {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.push(offset..offset.saturating_add(len as u64));
    }
    0
}
