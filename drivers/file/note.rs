//! What is good to know of something that can be used all the same.

use parking_lot::Mutex;

/// What was found when it was looked at last, if anything.
#[derive(Debug, Default)]
pub(super) struct Note(Mutex<Option<String>>);

impl Note {
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Remembers what was found now, and has `log` tell it if it is new.
    pub(super) fn set(&self, found: Option<String>, log: impl FnOnce(&str)) {
        let mut last = self.0.lock();
        if let Some(found) = found.as_ref().filter(|found| last.as_ref() != Some(*found)) {
            log(found);
        }
        *last = found;
    }
}
