//! librbd's asynchronous calls.

use std::{
    cell::Cell,
    ffi::{c_char, c_int, c_void},
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
};

use imaged_ffi::sys::rbd_callback_t;

use crate::{
    errno::ROFS,
    image::{Handle, Opened},
    pool::full,
    script::Verdict,
    world::Answer,
};

thread_local! {
    static REFUSED: Cell<i32> = const { Cell::new(0) };
}

/// While `work` runs, no completion can be made on this thread: `errno` is returned instead.
pub fn refuse_completions<T>(errno: i32, work: impl FnOnce() -> T) -> T {
    REFUSED.set(errno);
    let done = work();
    REFUSED.set(0);
    done
}

/// An `rbd_completion_t`. The caller has one share, and an operation in flight another.
pub(crate) struct Completion {
    call: rbd_callback_t,
    arg: *mut c_void,
    answer: AtomicIsize,
}

// SAFETY: `arg` is only passed on, to one callback on one thread.
unsafe impl Send for Completion {}
// SAFETY: as above.
unsafe impl Sync for Completion {}

/// What an operation does to memory of the caller's.
enum Work {
    Write { from: *const u8, len: usize, offset: u64, sum: u64 },
    Read { to: *mut u8, len: usize, offset: u64 },
    Flush,
}

/// An operation in flight.
pub(crate) struct Op {
    opened: Arc<Opened>,
    work: Work,
    verdict: Verdict,
    completion: Arc<Completion>,
}

// SAFETY: the caller leaves its memory alone until the callback, and one thread has the operation.
unsafe impl Send for Op {}

/// Tells other bytes from these, most of the time.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().step_by(61).chain(bytes.last()).fold(bytes.len() as u64, |sum, byte| {
        (sum.rotate_left(7) ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

impl Work {
    /// The bytes of a write.
    ///
    /// # Safety
    /// Its callback has not come yet.
    unsafe fn bytes(&self) -> &[u8] {
        if let Self::Write { from, len, .. } = *self
            && len > 0
        {
            // SAFETY: the caller keeps them until the callback.
            return unsafe { std::slice::from_raw_parts(from, len) };
        }
        &[]
    }
}

impl Op {
    pub(crate) fn bytes(&self) -> usize {
        if let Work::Write { len, .. } = self.work { len } else { 0 }
    }

    /// Whether it waits for what was begun before.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.work, Work::Flush)
    }

    /// Whether it waits for a lock that somebody else has.
    pub(crate) fn is_blocked(&self) -> bool {
        let at = self.opened.at();
        matches!(self.work, Work::Write { .. } | Work::Flush)
            && self.opened.state.world().is_locked(&at)
    }

    /// Does it, and calls back, after `calls`.
    pub(crate) fn land(self, calls: impl FnOnce()) {
        let answer = match self.verdict {
            Verdict::Do => self.done().unwrap_or_else(|errno| -(errno as isize)),
            Verdict::Refuse(errno) | Verdict::Fail(errno) => {
                self.look();
                -(errno as isize)
            }
            Verdict::Lose(errno) => match self.done() {
                Ok(_) => -(errno as isize),
                Err(other) => -(other as isize),
            },
        };
        let Self { completion, .. } = self;
        completion.answer.store(answer, Ordering::SeqCst);
        calls();
        if let Some(call) = completion.call {
            let c = Arc::as_ptr(&completion).cast_mut().cast();
            // SAFETY: the caller vouches for its callback and what it takes; it is called once, for
            // this consumes the operation.
            unsafe { call(c, completion.arg) };
        }
    }

    /// Looks whether the caller has kept its word, as late as can be.
    fn look(&self) {
        // SAFETY: the callback has not come yet.
        let bytes = unsafe { self.work.bytes() };
        if let Work::Write { offset, sum: before, .. } = self.work
            && sum(bytes) != before
        {
            self.opened.state.breach(format!("bytes in flight to {offset} have changed"));
        }
    }

    fn done(&self) -> Answer<isize> {
        self.look();
        let at = self.opened.at();
        let mut world = self.opened.state.world();
        let changes = !matches!(self.work, Work::Read { .. } | Work::Flush);
        if changes && !self.opened.takes_writes() {
            return Err(ROFS);
        }
        if changes {
            world.own(&at, self.opened.cookie);
        }
        let answer = match self.work {
            Work::Write { offset, .. } => {
                // SAFETY: the callback has not come yet.
                let bytes = unsafe { self.work.bytes() };
                world.write(&at, offset, bytes).map(|()| 0)
            }
            Work::Read { to, len, offset } => {
                let mut found = vec![0; len];
                // Of an image that was removed under a handle without a watch: zeros, and success.
                let got = if world.image(&at).is_ok() {
                    world.read(&at, offset, &mut found)?
                } else {
                    len
                };
                // SAFETY: the caller keeps `len` bytes for this until the callback.
                unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), to, got) };
                Ok(isize::try_from(got).unwrap_or(isize::MAX))
            }
            Work::Flush => Ok(0),
        };
        full(answer, self.opened.full_try())
    }
}

fn submit(image: &Handle, name: &'static str, number: u64, work: Work, c: &Completion) -> c_int {
    let opened = image.opened();
    let verdict = opened.state.gate(name, &opened.name, number);
    if let Verdict::Refuse(errno) = verdict {
        return -errno;
    }
    let c = std::ptr::from_ref(c);
    // SAFETY: made by `rbd_aio_create_completion`, and the caller's share is still there.
    unsafe { Arc::increment_strong_count(c) };
    // SAFETY: the share just made.
    let completion = unsafe { Arc::from_raw(c) };
    let op = Op { opened: Arc::clone(opened), work, verdict, completion };
    opened.state.queue.push(opened.cookie, op);
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_aio_create_completion(
    cb_arg: *mut c_void,
    complete_cb: rbd_callback_t,
    c: &mut *const Completion,
) -> c_int {
    let refused = REFUSED.get();
    if refused != 0 {
        return -refused;
    }
    let completion = Completion { call: complete_cb, arg: cb_arg, answer: AtomicIsize::new(0) };
    *c = Arc::into_raw(Arc::new(completion));
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_aio_get_return_value(c: &Completion) -> isize {
    c.answer.load(Ordering::SeqCst)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_aio_release(c: *const Completion) {
    // SAFETY: made by `rbd_aio_create_completion`, and the caller gives its share up.
    drop(unsafe { Arc::from_raw(c) });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_aio_write(
    image: &Handle,
    off: u64,
    len: usize,
    buf: *const c_char,
    c: &Completion,
) -> c_int {
    let mut work = Work::Write { from: buf.cast(), len, offset: off, sum: 0 };
    // SAFETY: the operation has only begun.
    let before = sum(unsafe { work.bytes() });
    if let Work::Write { sum, .. } = &mut work {
        *sum = before;
    }
    submit(image, "rbd_aio_write", off, work, c)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_aio_read(
    image: &Handle,
    off: u64,
    len: usize,
    buf: *mut c_char,
    c: &Completion,
) -> c_int {
    submit(image, "rbd_aio_read", off, Work::Read { to: buf.cast(), len, offset: off }, c)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rbd_aio_flush(image: &Handle, c: &Completion) -> c_int {
    submit(image, "rbd_aio_flush", 0, Work::Flush, c)
}
