//! Files that are being removed.
//!
//! Over NFS a removal whose answer was lost is sent again, and then finds nothing: so a file that was there a
//! moment ago and is not any more is gone by this very call, or by somebody else's at the same time. Of the
//! removals of one file that are under way here, the first that ends has removed it; the others find none.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// What is being removed: how many do it, and whether one of them has ended.
#[derive(Debug, Default)]
pub(super) struct Removing(Mutex<BTreeMap<String, (usize, bool)>>);

/// One removal that is under way.
pub(super) struct Removal<'a> {
    all: &'a Removing,
    what: String,
}

impl Removing {
    pub(super) fn begin(&self, what: String) -> Removal<'_> {
        self.0.lock().entry(what.clone()).or_default().0 += 1;
        Removal { all: self, what }
    }
}

impl Removal<'_> {
    /// The file is gone. Whether it was this one that has removed it.
    pub(super) fn is_first(&self) -> bool {
        let mut all = self.all.0.lock();
        let removed = all.get_mut(&self.what).map(|(_, removed)| std::mem::replace(removed, true));
        removed != Some(true)
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        let Some((count, _)) = all.get_mut(&self.what) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            all.remove(&self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_those_under_way_the_first_that_ends_has_removed_it() {
        let all = Removing::default();
        let [one, two, other] = ["a", "a", "b"].map(|what| all.begin(what.to_owned()));
        assert!(two.is_first() && other.is_first());
        drop(two);
        assert!(!one.is_first());
        // Later it is another file.
        drop(one);
        assert!(all.begin("a".to_owned()).is_first());
        drop(other);
        assert!(all.0.lock().is_empty());
    }
}
