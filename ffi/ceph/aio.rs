//! librbd's asynchronous calls as futures: the operation owns what C may touch.
//!
//! librbd cannot cancel. So the buffer of an operation goes to C in a box, and only the callback
//! takes it back; dropping a [`Landing`] forgets the answer, never the buffer. The callback reads the
//! answer, releases the completion and sends the buffer on: it does not block, log or panic, for it
//! runs on a thread of librbd's.
//!
//! Each operation needs a [`Slot`] of its image.

use std::{
    ffi::{c_int, c_void},
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    errno::{Errno, Result, check, check_len},
    image::Image,
    slots::Slot,
    sys,
};

/// What comes back from C.
struct Landed<B> {
    answer: isize,
    buf: B,
    /// Given back after the callback has returned, unless nobody waits.
    _slot: Slot,
}

/// What C holds while an operation is in flight.
struct Op<B> {
    buf: B,
    slot: Slot,
    done: oneshot::Sender<Landed<B>>,
}

/// The answer of an operation in flight, with its buffer. Dropped, the operation goes on.
///
/// It holds the operation's slot until it is polled to its end or dropped: whoever waits for a slot,
/// or closes the image, meanwhile, waits for that.
pub struct Landing<B>(oneshot::Receiver<Landed<B>>);

impl<B> fmt::Debug for Landing<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Landing")
    }
}

impl<B> Future for Landing<B> {
    type Output = Result<(usize, B)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|landed| match landed {
            Ok(Landed { answer, buf, _slot }) => check_len(answer).map(|len| (len, buf)),
            // The callback always sends; without it the operation is still in flight.
            Err(_closed) => Err(Errno::CANCELED),
        })
    }
}

/// librbd's thread brings an operation home.
///
/// # Safety
/// `arg` is the `Box<Op<B>>` that [`submit`] gave to the completion `c`, and this is the one call
/// that librbd makes for it.
unsafe extern "C" fn landed<B>(c: sys::rbd_completion_t, arg: *mut c_void) {
    // SAFETY: the completion is complete, and released only below.
    let answer = unsafe { sys::rbd_aio_get_return_value(c) };
    // SAFETY: its one release; librbd is done with it after this callback.
    unsafe { sys::rbd_aio_release(c) };
    // SAFETY: made by `into_raw` from this very type in `submit`, and taken back once.
    let op = unsafe { Box::from_raw(arg.cast::<Op<B>>()) };
    let Op { buf, slot, done } = *op;
    // Whoever waited may have given up; then the buffer is freed here.
    drop(done.send(Landed { answer, buf, _slot: slot }));
}

/// Hands `buf` to an operation that `start` begins, with the memory that `look` finds in it.
///
/// No reference into the box lives while C has it: the callback may free the box before `start`
/// returns.
fn submit<B: Send + 'static>(
    slot: Slot,
    buf: B,
    look: impl FnOnce(&mut B) -> (*mut u8, usize),
    start: impl FnOnce(*mut u8, usize, sys::rbd_completion_t) -> c_int,
) -> Result<Landing<B>> {
    let (done, landing) = oneshot::channel();
    let op = Box::into_raw(Box::new(Op { buf, slot, done }));
    let mut completion = std::ptr::null_mut();
    // SAFETY: `landed` takes exactly this box, and is called at most once for it.
    let made = check(unsafe {
        sys::rbd_aio_create_completion(op.cast(), Some(landed::<B>), &raw mut completion)
    });
    if let Err(error) = made {
        // SAFETY: C has refused it, so it is ours again.
        drop(unsafe { Box::from_raw(op) });
        return Err(error);
    }
    // SAFETY: nothing is begun, so nobody else looks at the box; the reference ends with `look`.
    let (memory, len) = look(unsafe { &mut (*op).buf });
    if let Err(error) = check(start(memory, len, completion)) {
        // An operation that is refused never calls back.
        // SAFETY: not submitted, and released once.
        unsafe { sys::rbd_aio_release(completion) };
        // SAFETY: as above, it is ours again.
        drop(unsafe { Box::from_raw(op) });
        return Err(error);
    }
    Ok(Landing(landing))
}

impl Image {
    /// Waits for the right to one operation.
    ///
    /// # Errors
    /// `CANCELED` if the image is being closed.
    pub async fn slot(&self) -> Result<Slot> {
        self.slots().take().await
    }

    /// Writes all of `buf` at `offset`, in bytes. Lands with a count that means nothing.
    ///
    /// Implements: `int rbd_aio_write(rbd_image_t, uint64_t off, size_t len, const char *buf,
    /// rbd_completion_t)`
    ///
    /// # Errors
    /// It could not begin.
    pub fn write_at(&self, slot: Slot, buf: Bytes, offset: u64) -> Result<Landing<Bytes>> {
        let look = |buf: &mut Bytes| (buf.as_ptr().cast_mut(), buf.len());
        submit(slot, buf, look, |bytes, len, c| {
            // SAFETY: the bytes are `len` long and neither move nor change while `buf` lives, which
            // the operation owns until its callback. C only reads them.
            unsafe { sys::rbd_aio_write(self.raw(), offset, len, bytes.cast_const().cast(), c) }
        })
    }

    /// Fills `buf` from `offset`, in bytes. Lands with how many there were: fewer at the end.
    ///
    /// Implements: `int rbd_aio_read(rbd_image_t, uint64_t off, size_t len, char *buf,
    /// rbd_completion_t)`
    ///
    /// # Errors
    /// It could not begin.
    pub fn read_at<B>(&self, slot: Slot, buf: B, offset: u64) -> Result<Landing<B>>
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let look = |buf: &mut B| {
            let room = buf.as_mut();
            (room.as_mut_ptr(), room.len())
        };
        submit(slot, buf, look, |room, len, c| {
            // SAFETY: the room is `len` long, in a box that does not move or on the heap behind it,
            // and the operation alone has it until its callback.
            unsafe { sys::rbd_aio_read(self.raw(), offset, len, room.cast(), c) }
        })
    }

    /// Waits until everything that has landed before is durable.
    ///
    /// Implements: `int rbd_aio_flush(rbd_image_t, rbd_completion_t)`
    ///
    /// # Errors
    /// It could not begin.
    pub fn flush(&self, slot: Slot) -> Result<Landing<()>> {
        let look = |(): &mut ()| (std::ptr::null_mut(), 0);
        submit(slot, (), look, |_, _, c| {
            // SAFETY: no memory of ours is involved but the completion.
            unsafe { sys::rbd_aio_flush(self.raw(), c) }
        })
    }
}
