//! What was called, and what is to fail.

use std::collections::BTreeSet;

use crate::errno::{BUSY, ROFS};

/// One call of a C function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub name: &'static str,
    /// The image, the snapshot, the object or the pool that it was about; its name as far as the
    /// function was told it.
    pub of: String,
    /// A length or an offset, in bytes.
    pub number: u64,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It returns the error, and nothing is done. If it is asynchronous it never calls back.
    Refuse,
    /// Nothing is done. If it is asynchronous, its callback says so.
    Fail,
    /// It is done, and yet it says that it has failed.
    Lose,
}

/// A failure to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The C function.
    pub call: &'static str,
    /// Which of its calls from now on; the first is 1.
    pub nth: usize,
    /// How many in a row, from that one on.
    pub times: usize,
    /// A positive error number.
    pub errno: i32,
    /// How it fails.
    pub how: How,
}

impl Plan {
    /// The `nth` call from now on fails once.
    #[must_use]
    pub fn once(call: &'static str, nth: usize, errno: i32, how: How) -> Self {
        Self { call, nth, times: 1, errno, how }
    }

    /// Every call fails from now on.
    #[must_use]
    pub fn always(call: &'static str, errno: i32, how: How) -> Self {
        Self { call, nth: 1, times: usize::MAX, errno, how }
    }
}

/// What is to become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Do,
    Refuse(i32),
    Fail(i32),
    Lose(i32),
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    calls: Vec<Call>,
    /// With how often their function was called since.
    plans: Vec<(Plan, usize)>,
    held: BTreeSet<&'static str>,
    /// So many calls are left, and then none is answered any more.
    left: Option<usize>,
    /// So many calls are left, and then the client is shut out until another connects.
    shut_out: Option<(usize, Told)>,
}

/// What a client that is shut out hears where a call needs the lock of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// That it is shut out.
    Plainly,
    /// That it has not the lock: librbd has not heard yet.
    NotLocked,
}

/// What every call says once no call is left, or the client is shut out.
const SHUTDOWN: i32 = 108;

/// Whether a call asks an OSD, or changes something there; the monitors answer also who is shut out.
fn asks_osds(name: &str) -> bool {
    let objects = ["rados_exec", "rados_read", "rados_remove", "rados_write_full"];
    objects.contains(&name) || name.starts_with("rbd_") && name != "rbd_close"
}

/// What needs the lock, and what librbd says of it where it has not got that.
fn without_lock(name: &str) -> i32 {
    match name {
        "rbd_aio_write"
        | "rbd_flatten_with_progress"
        | "rbd_metadata_remove"
        | "rbd_metadata_set"
        | "rbd_resize_with_progress"
        | "rbd_snap_create"
        | "rbd_snap_protect"
        | "rbd_snap_remove"
        | "rbd_snap_unprotect" => ROFS,
        "rbd_remove_with_progress" | "rbd_trash_move" => BUSY,
        _ => SHUTDOWN,
    }
}

impl Script {
    pub(crate) fn plan(&mut self, plan: Plan) {
        self.plans.push((plan, 0));
    }

    pub(crate) fn cut(&mut self, left: usize) {
        self.left = Some(left);
    }

    pub(crate) fn shut_out(&mut self, left: usize, told: Told) {
        self.shut_out = Some((left, told));
    }

    pub(crate) fn forget(&mut self) -> bool {
        self.left = None;
        self.shut_out = None;
        self.calls.clear();
        self.plans.drain(..).any(|(plan, seen)| seen < plan.nth)
    }

    pub(crate) fn calls(&self) -> &[Call] {
        &self.calls
    }

    pub(crate) fn hold(&mut self, name: &'static str) {
        self.held.insert(name);
    }

    pub(crate) fn release(&mut self, name: &'static str) {
        self.held.remove(name);
    }

    pub(crate) fn release_all(&mut self) {
        self.held.clear();
    }

    pub(crate) fn is_held(&self, name: &str) -> bool {
        self.held.contains(name)
    }

    pub(crate) fn call(&mut self, name: &'static str, of: &str, number: u64) -> Verdict {
        self.calls.push(Call { name, of: of.to_owned(), number });
        match &mut self.left {
            Some(0) => return Verdict::Fail(SHUTDOWN),
            Some(left) => *left -= 1,
            None => {}
        }
        match &mut self.shut_out {
            Some((0, _)) if name == "rados_connect" => self.shut_out = None,
            Some((0, _)) if !asks_osds(name) => {}
            Some((0, Told::Plainly)) => return Verdict::Fail(SHUTDOWN),
            Some((0, Told::NotLocked)) => return Verdict::Fail(without_lock(name)),
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let mut verdict = Verdict::Do;
        for (plan, seen) in self.plans.iter_mut().filter(|(plan, _)| plan.call == name) {
            *seen += 1;
            if *seen >= plan.nth && *seen - plan.nth < plan.times {
                verdict = match plan.how {
                    How::Refuse => Verdict::Refuse(plan.errno),
                    How::Fail => Verdict::Fail(plan.errno),
                    How::Lose => Verdict::Lose(plan.errno),
                };
            }
        }
        verdict
    }
}
