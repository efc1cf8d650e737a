//! What is noted of what Cinder is asked for, before it is asked.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    contract::Result,
    kit::{clock::unix_seconds, ledger::Ledger},
};

/// A note. Whoever drops it without having it forgotten leaves what it names to [`super::left`].
pub(super) struct Note {
    ledger: Ledger,
    store: String,
    name: String,
    forgotten: AtomicBool,
}

impl Note {
    /// `name` is letters, digits and dashes.
    pub(super) fn new(ledger: &Ledger, store: &str, name: String) -> Self {
        Self {
            ledger: ledger.clone(),
            store: store.to_owned(),
            name,
            forgotten: AtomicBool::default(),
        }
    }

    pub(super) async fn keep(&self, held: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(held).unwrap_or_default();
        self.ledger.note(&self.store, &self.name, &text).await
    }

    pub(super) async fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
        self.ledger.forget(&self.name).await;
    }

    /// This process does not see to it any more.
    pub(super) fn hand_over(&self) {
        self.ledger.hand_over(&self.name);
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // One that could not be removed is of something that goes on.
        if !*self.forgotten.get_mut() {
            self.hand_over();
        }
    }
}

/// What is noted of a volume that Cinder is asked to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Making {
    /// The volume's name.
    pub(super) name: String,
    /// Of the work that it is for.
    pub(super) nonce: String,
    /// When it was asked for, in seconds of the Unix clock.
    pub(super) since: u64,
}

/// Whether a request of the second `since` that was not answered may still come to be carried out: for as long as
/// Cinder is waited for.
pub(super) fn may_come(since: u64, transition: Duration) -> bool {
    unix_seconds().saturating_sub(since) <= transition.as_secs()
}
