//! The handles that this store has open for reading, by image: a delete is refused while there are
//! any, and waits for those that are being closed, and for another delete of the same image.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, LazyLock},
    time::Duration,
};

use imaged_ffi::{Image, Pool};
use parking_lot::{Mutex, MutexGuard};
use tokio::{runtime, sync::Notify};

use super::{
    failure::failed,
    image::{close, is_still},
};
use crate::{
    contract::{Error, Kind, Result},
    kit::lane::Lane,
};

/// All of one store.
#[derive(Debug, Default)]
pub(super) struct Handles {
    open: Mutex<HashMap<String, Count>>,
    /// A handle was closed, or a delete has ended.
    ended: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    reading: usize,
    closing: usize,
    deleting: bool,
}

/// An image by its connection's number in the cluster, its pool and its name.
type Named = (u64, String, String);

/// The images that this process makes, whichever store they are of, with how often.
static MADE: LazyLock<Mutex<HashMap<Named, usize>>> = LazyLock::new(Mutex::default);

fn named(pool: &Pool, image: &str) -> Named {
    (pool.cluster().instance_id(), pool.name().to_owned(), image.to_owned())
}

/// Whether an image of this name is being made over this connection: another store may share it, and what one makes
/// the other finds watched by itself.
pub(super) fn is_made(pool: &Pool, image: &str) -> bool {
    MADE.lock().contains_key(&named(pool, image))
}

/// Notes that an image of this name is being made, until the answer is dropped.
pub(super) fn begin_write(pool: &Pool, image: &str) -> BeingMade {
    let named = named(pool, image);
    *MADE.lock().entry(named.clone()).or_default() += 1;
    BeingMade(named)
}

impl Handles {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Count>> {
        self.open.lock()
    }

    fn change(&self, image: &str, change: impl FnOnce(&mut Count)) {
        let mut open = self.open();
        let count = open.entry(image.to_owned()).or_default();
        change(count);
        if count.reading == 0 && count.closing == 0 && !count.deleting {
            open.remove(image);
        }
    }

    /// Whether somebody reads the image.
    pub(super) fn reads(&self, image: &str) -> bool {
        self.open().get(image).is_some_and(|count| count.reading > 0)
    }

    /// Whether this process deletes an image of this name.
    pub(super) fn deletes(&self, image: &str) -> bool {
        self.open().get(image).is_some_and(|count| count.deleting)
    }

    /// Waits until no handle of the image is being closed and no other call deletes it, and marks it as
    /// being deleted: two deletes would take each other's handles for a stranger's.
    ///
    /// # Errors
    /// `Unavailable` if an earlier call has not returned by then.
    pub(super) async fn begin_delete(
        self: &Arc<Self>,
        image: &str,
        patience: Duration,
    ) -> Result<Deleting> {
        tokio::time::timeout(patience, self.when_free(image)).await.map_err(|late| {
            Error::new(
                Kind::Unavailable,
                format!("an earlier call for this image has not returned yet: image=`{image}`"),
            )
            .because(late)
        })
    }

    async fn when_free(self: &Arc<Self>, image: &str) -> Deleting {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // From here on no end is missed.
            ended.as_mut().enable();
            let mut free = false;
            self.change(image, |count| {
                free = count.closing == 0 && !count.deleting;
                count.deleting |= free;
            });
            if free {
                return Deleting { name: image.to_owned(), handles: Arc::clone(self) };
            }
            ended.await;
        }
    }
}

/// An image that is being made, until this is dropped.
#[derive(Debug)]
pub(super) struct BeingMade(Named);

impl Drop for BeingMade {
    fn drop(&mut self) {
        let mut made = MADE.lock();
        if let Some(count) = made.get_mut(&self.0) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                made.remove(&self.0);
            }
        }
    }
}

/// An image that is being deleted, until this is dropped.
#[derive(Debug)]
pub(super) struct Deleting {
    name: String,
    handles: Arc<Handles>,
}

impl Drop for Deleting {
    fn drop(&mut self) {
        self.handles.change(&self.name, |count| count.deleting = false);
        self.handles.ended.notify_waiters();
    }
}

/// An image that is being read. Dropped, it is closed on the store's lane.
pub(super) struct Reading {
    image: Option<Image>,
    name: String,
    handles: Arc<Handles>,
    lane: Lane,
    /// How long one answer may take.
    patience: Duration,
    /// Where it is, if nothing keeps it from being removed.
    unwatched: Option<Snapshot>,
    /// It has a parent, and an object map that is as old as the handle.
    mapped_clone: bool,
}

/// Where an image is that is open.
#[derive(Clone)]
pub(super) struct Snapshot {
    pub(super) pool: Pool,
    pub(super) image: String,
    /// At its head if `None`.
    pub(super) snap: Option<String>,
    /// Its internal id.
    pub(super) internal: String,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Reading {
    pub(super) fn new(
        image: Image,
        name: &str,
        handles: &Arc<Handles>,
        lane: &Lane,
        patience: Duration,
        unwatched: Option<Snapshot>,
        mapped_clone: bool,
    ) -> Self {
        handles.change(name, |count| count.reading += 1);
        Self {
            image: Some(image),
            name: name.to_owned(),
            handles: Arc::clone(handles),
            lane: lane.clone(),
            patience,
            unwatched,
            mapped_clone,
        }
    }

    /// Whether what was read was there still: what is removed under a handle that nothing watches
    /// reads as zeros, and so does what was flattened under an object map. The name goes first when an
    /// image is removed, and the parent last when it is flattened.
    pub(super) async fn check(self: &Arc<Self>) -> Result<()> {
        if self.unwatched.is_none() && !self.mapped_clone {
            return Ok(());
        }
        let this = Arc::clone(self);
        self.lane.run("look at an image", move || this.is_unchanged()).await
    }

    /// What may hold something of `range`, in order. Blocks.
    pub(super) fn extents(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let found = self.image()?.extents(range);
        let found = found.map_err(|errno| failed("read", &self.name, errno))?;
        // What is a hole now stays one, whatever becomes of the image.
        self.is_unchanged()?;
        Ok(found)
    }

    /// The same, on the store's lane.
    pub(super) async fn look_at(self: &Arc<Self>, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let this = Arc::clone(self);
        self.lane.run("look at what an image holds", move || this.extents(range)).await
    }

    /// The same as [`Reading::check`]. Blocks.
    pub(super) fn is_unchanged(&self) -> Result<()> {
        let fail = |errno| failed("look at", &self.name, errno);
        let changed = |how| {
            let text = format!("the image was {how} while it was read: image=`{}`", self.name);
            Err(Error::new(Kind::Unavailable, text))
        };
        if let Some(Snapshot { pool, image, internal, .. }) = &self.unwatched
            && !is_still(pool, image, internal).map_err(fail)?
        {
            return changed("deleted");
        }
        if self.mapped_clone && !self.has_parent().map_err(fail)? {
            return changed("flattened");
        }
        Ok(())
    }

    fn has_parent(&self) -> imaged_ffi::Result<bool> {
        let overlap = match (&self.unwatched, &self.image) {
            // That handle hears of nothing.
            (Some(Snapshot { pool, image, snap, .. }), _) => {
                let fresh = Image::open_unwatched(pool, image, snap.as_deref())?;
                let overlap = fresh.overlap();
                close(fresh, &self.name);
                overlap?
            }
            (None, Some(image)) => image.overlap()?,
            (None, None) => 0,
        };
        Ok(overlap > 0)
    }

    /// How long one answer may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// The image, which is there until this is dropped.
    pub(super) fn image(&self) -> Result<&Image> {
        let closed = || Error::new(Kind::Internal, "an image was closed while it was read");
        self.image.as_ref().ok_or_else(closed)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // Before it counts as unread: a delete must see the one or the other.
        if let Some(image) = self.image.take() {
            close_later(image, &self.name, &self.handles, &self.lane);
        }
        self.handles.change(&self.name, |count| count.reading = count.reading.saturating_sub(1));
    }
}

/// Closes an image on the store's lane; nobody waits for it but a delete.
pub(super) fn close_later(image: Image, name: &str, handles: &Arc<Handles>, lane: &Lane) {
    handles.change(name, |count| count.closing += 1);
    let until_closed = UntilClosed { name: name.to_owned(), handles: Arc::clone(handles) };
    let closing = Closing { image, until_closed };
    // Without a runtime, at the very end of the process, a thread of the image's own closes it.
    if let Ok(runtime) = runtime::Handle::try_current() {
        let lane = lane.clone();
        runtime.spawn(async move {
            // What is in flight may take for ever, and no thread is to wait for that.
            closing.image.idle().await;
            lane.run("close an image", move || {
                let Closing { image, until_closed } = closing;
                close(image, &until_closed.name);
                Ok(())
            })
            .await
        });
    }
}

/// A handle that nobody uses any more.
struct Closing {
    // Let go of in this order.
    image: Image,
    until_closed: UntilClosed,
}

struct UntilClosed {
    name: String,
    handles: Arc<Handles>,
}

impl Drop for UntilClosed {
    fn drop(&mut self) {
        self.handles.change(&self.name, |count| count.closing = count.closing.saturating_sub(1));
        self.handles.ended.notify_waiters();
    }
}
