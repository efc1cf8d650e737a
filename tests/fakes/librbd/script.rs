//! What was called, and what is to fail.

use std::collections::BTreeSet;

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
}

/// What every call says once no call is left.
const SHUTDOWN: i32 = 108;

impl Script {
    pub(crate) fn plan(&mut self, plan: Plan) {
        self.plans.push((plan, 0));
    }

    pub(crate) fn cut(&mut self, left: usize) {
        self.left = Some(left);
    }

    pub(crate) fn forget(&mut self) -> bool {
        self.left = None;
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
