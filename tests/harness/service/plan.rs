//! What is to go wrong, and what has happened.

use std::collections::BTreeMap;

use hyper::HeaderMap;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered with this status, and nothing is done.
    Status(u16),
    /// The same, with `Retry-After` in seconds.
    Later(u16, u64),
    /// The same before its body is read, of which nothing more is.
    Early(u16),
    /// The connection ends before anything is read of the body, and nothing is done.
    CutBefore,
    /// The connection ends in the middle of the request's body; of one without, in the middle of the
    /// answer's.
    CutMiddle,
    /// It is done, and the connection ends before the answer.
    CutAfter,
    /// In the middle of the request's body no more of it is read.
    StallReading,
    /// In the middle of the answer's body nothing more comes.
    Stall,
    /// It is read, and neither done nor answered.
    Hang,
    /// It is done, and not answered before [`Objects::heal`](super::Fake::heal).
    Silent,
    /// It is read, and done and answered at [`Objects::heal`](super::Fake::heal), also when whoever asked
    /// has gone.
    Late,
    /// The answer's body is shorter than its length.
    Short,
    /// A byte in the middle is another one: of the request's body, or else of the answer's.
    WrongByte,
    /// The status is 200, and the body says that it failed: as Amazon's S3 does for `Copy` and `Complete`.
    /// Nothing is done.
    ErrorIn200,
}

/// When something goes wrong. A new one is for every request, for ever.
#[derive(Clone, Debug)]
pub(crate) struct Rule<C> {
    fault: Fault,
    call: Option<C>,
    /// What the name of the object, or of the volume, contains.
    named: String,
    skip: usize,
    every: usize,
    times: usize,
    met: usize,
}

impl<C: Copy + Eq> Rule<C> {
    pub(crate) fn new(fault: Fault) -> Self {
        let named = String::new();
        Self { fault, call: None, named, skip: 0, every: 1, times: usize::MAX, met: 0 }
    }

    /// Of requests of this kind alone.
    pub(crate) fn on(mut self, call: C) -> Self {
        self.call = Some(call);
        self
    }

    /// Of requests alone whose key, as [`Seen::key`] is, contains this.
    pub(crate) fn named(mut self, part: &str) -> Self {
        part.clone_into(&mut self.named);
        self
    }

    /// Not the first `count` of those.
    pub(crate) fn after(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Every `nth` of those.
    pub(crate) fn every(mut self, nth: usize) -> Self {
        self.every = nth;
        self
    }

    /// At most so often.
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Counts a request; whether this goes wrong with it.
    fn meets(&mut self, call: C, key: &str) -> bool {
        if self.call.is_some_and(|own| own != call) || !key.contains(&self.named) {
            return false;
        }
        self.met += 1;
        let due = self.met > self.skip && (self.met - self.skip).is_multiple_of(self.every);
        let fires = due && self.times > 0;
        self.times -= usize::from(fires);
        fires
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen<C> {
    pub(crate) call: C,
    /// The name of the object, if there is one in it. Cinder: the id in its path, or else the name that a
    /// volume is to have.
    pub(crate) key: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
    /// Of a service whose bodies say what is asked.
    pub(crate) body: String,
    /// What went wrong.
    pub(crate) fault: Option<Fault>,
}

/// The rules, and the requests that came.
#[derive(Debug)]
pub(super) struct Plan<C> {
    pub(super) rules: Vec<Rule<C>>,
    pub(super) seen: Vec<Seen<C>>,
    /// Requests under way, and the most there ever were, by their kind.
    under_way: BTreeMap<C, (usize, usize)>,
}

impl<C> Default for Plan<C> {
    fn default() -> Self {
        Self { rules: Vec::new(), seen: Vec::new(), under_way: BTreeMap::new() }
    }
}

impl<C: Copy + Ord> Plan<C> {
    /// Takes note of a request; what goes wrong with it.
    pub(super) fn begin(&mut self, mut seen: Seen<C>) -> Option<Fault> {
        // Every rule counts it; the first that is due wins.
        for rule in &mut self.rules {
            let meets = rule.meets(seen.call, &seen.key);
            seen.fault = seen.fault.or_else(|| meets.then_some(rule.fault));
        }
        let (now, most) = self.under_way.entry(seen.call).or_default();
        *now += 1;
        *most = (*most).max(*now);
        let fault = seen.fault;
        self.seen.push(seen);
        fault
    }

    pub(super) fn end(&mut self, call: C) {
        self.under_way.entry(call).and_modify(|(now, _)| *now -= 1);
    }

    pub(super) fn most_at_once(&self, call: C) -> usize {
        self.under_way.get(&call).map_or(0, |(_, most)| *most)
    }
}
