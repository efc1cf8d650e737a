//! Requests that nobody waits for any more and that a server may still carry out: a proxy before it, or the
//! server itself, may have them lying about. What they make is removed when it appears.
//!
//! Kept in memory alone: a restart or a reload forgets it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// After so long nothing is expected any more.
const EXPECTED: Duration = Duration::from_secs(15 * 60);

/// Names at most: a server that fails all requests must not fill the memory.
const MOST: usize = 10_000;

/// What may still appear, by the keys of objects.
#[derive(Debug, Default)]
pub(super) struct Late(Mutex<HashMap<String, Given>>);

/// Requests about one object that were given up.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// When the last of them was.
    since: Instant,
    /// An upload is being begun, and which it is nobody knows yet.
    begins: bool,
    /// The upload that is under way, and stays.
    pub(super) live: Option<String>,
    /// Those who have put an object in one piece, and have been told that they have not.
    pub(super) puts: HashSet<String>,
}

impl Late {
    /// An upload is being begun.
    pub(super) fn begins(&self, key: &str) {
        if let Some(given) = self.0.lock().get_mut(key) {
            given.begins = true;
        }
    }

    /// It was begun, as `live`, or failed; `lost` says whether one of its requests was not answered.
    pub(super) fn began(&self, key: &str, live: Option<&str>, lost: bool) {
        self.note(key, lost, |given| {
            given.begins = false;
            given.live = live.map(str::to_owned);
        });
    }

    /// A put by `upload` was given up.
    pub(super) fn gave_up(&self, key: &str, upload: &str) {
        self.note(key, true, |given| {
            given.puts.insert(upload.to_owned());
        });
    }

    fn note(&self, key: &str, lost: bool, change: impl FnOnce(&mut Given)) {
        let mut all = self.0.lock();
        if lost && all.len() < MOST {
            let new =
                || Given { since: Instant::now(), begins: false, live: None, puts: HashSet::new() };
            all.entry(key.to_owned()).or_insert_with(new).since = Instant::now();
        }
        if let Some(given) = all.get_mut(key) {
            change(given);
        }
    }

    /// What to look for now.
    pub(super) fn due(&self) -> Vec<(String, Given)> {
        let mut all = self.0.lock();
        all.retain(|_, given| given.since.elapsed() < EXPECTED);
        let due = all.iter().filter(|(_, given)| !given.begins);
        due.map(|(key, given)| (key.clone(), given.clone())).collect()
    }

    /// Whether `given` is still all that is known of `key`.
    pub(super) fn is_still(&self, key: &str, given: &Given) -> bool {
        let all = self.0.lock();
        all.get(key).is_some_and(|now| !now.begins && now.live == given.live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_given_up_is_looked_for_and_not_for_ever() {
        let late = Late::default();
        late.begins("a");
        late.began("a", Some("1"), false);
        assert!(late.due().is_empty(), "all was answered");
        late.began("a", None, true);
        let due = late.due();
        assert_eq!(due.len(), 1);
        late.begins("a");
        assert!(late.due().is_empty(), "an upload that nobody knows yet stays");
        assert!(!late.is_still("a", &due[0].1));
        late.began("a", Some("2"), false);
        assert_eq!(late.due()[0].1.live.as_deref(), Some("2"));
        assert!(!late.is_still("a", &due[0].1), "it has begun since");
        late.gave_up("b", "x");
        assert_eq!(late.due().len(), 2);
        tokio::time::advance(EXPECTED).await;
        assert!(late.due().is_empty());
    }

    #[test]
    fn a_server_that_fails_everything_fills_no_memory() {
        let late = Late::default();
        for nth in 0..MOST + 10 {
            late.gave_up(&nth.to_string(), "x");
        }
        assert_eq!(late.due().len(), MOST);
    }
}
