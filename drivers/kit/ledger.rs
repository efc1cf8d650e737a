//! What drivers hold in their backends beyond one call, such as attachments of volumes: noted on disk as long as
//! it is held, so that the next process gives back what this one could not.
//!
//! One small file a note, `<state_dir>/held/<name>.json`, written beside and renamed. The daemon's journal is
//! for the images that are being made; here is what reading one takes too.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{durable, lane::Lane};
use crate::contract::{Error, Kind, Result};

/// The form in which notes are written.
const VERSION: u32 = 1;

/// How long the disk may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The notes of one daemon. Clones share them.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    /// `None`: nothing is noted.
    dir: Option<PathBuf>,
    /// Names of the notes of this process.
    own: Mutex<BTreeSet<String>>,
    lane: Lane,
}

/// A note: what a store holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    v: u32,
    /// The store that holds it.
    pub store: String,
    /// What it holds, in the words of its driver.
    pub held: String,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

impl Default for Ledger {
    /// One that keeps nothing: for looks at a configuration, and tests.
    fn default() -> Self {
        Self::at(None)
    }
}

impl Ledger {
    /// Notes beneath `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self::at(Some(state_dir.join("held")))
    }

    fn at(dir: Option<PathBuf>) -> Self {
        let lane = Lane::new("held", 4, PATIENCE);
        Self(Arc::new(Inner { dir, own: Mutex::default(), lane }))
    }

    /// Notes, durably, that `store` holds `held`. `name` is letters, digits and dashes.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be written: it is better given back then.
    pub async fn note(&self, store: &str, name: &str, held: &str) -> Result<()> {
        self.0.own.lock().insert(name.to_owned());
        let Some(dir) = self.0.dir.clone() else { return Ok(()) };
        let note = Note { v: VERSION, store: store.to_owned(), held: held.to_owned() };
        let file = dir.join(format!("{name}.json"));
        let write = move || write(&dir, &file, &note);
        self.0.lane.run("note what is held", write).await
    }

    /// It is not held any more, or is known by other means. A note that cannot be removed stays this process's own,
    /// and is left to the next one.
    pub async fn forget(&self, name: &str) {
        if let Some(dir) = &self.0.dir {
            let file = dir.join(format!("{name}.json"));
            let remove = move || durable::remove(&file);
            if let Err(error) = self.0.lane.run("forget what was held", remove).await {
                tracing::warn!(error = %error.chain(), "a note of what was held stays");
                return;
            }
        }
        self.0.own.lock().remove(name);
    }

    /// This process does not hold it any more, and could not give it back: it is among what is left.
    pub fn hand_over(&self, name: &str) {
        self.0.own.lock().remove(name);
    }

    /// What an earlier process held for `store`: names and notes. One that cannot be read is kept, and the log
    /// says so.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn left(&self, store: &str) -> Result<Vec<(String, String)>> {
        let Some(dir) = self.0.dir.clone() else { return Ok(Vec::new()) };
        let inner = Arc::clone(&self.0);
        let read = move || read(&dir, |name| inner.own.lock().contains(name));
        let left = self.0.lane.run("read what was held", read).await?;
        let left = left.into_iter().filter(|(_, note)| note.store == store);
        Ok(left.map(|(name, note)| (name, note.held)).collect())
    }
}

fn write(dir: &Path, file: &Path, note: &Note) -> Result<()> {
    let written = || {
        fs::create_dir_all(dir)?;
        durable::write(file, &serde_json::to_vec(note)?)
    };
    written().map_err(|error| {
        let error = Error::io("note what is held in", file.display(), error);
        Error::new(Kind::Unavailable, error.to_string()).because(error)
    })
}

/// All notes but this process's `own`. What a process that was killed had not written to its end is removed.
fn read(dir: &Path, own: impl Fn(&str) -> bool) -> Result<Vec<(String, Note)>> {
    let fail = |error| Error::io("read", dir.display(), error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let file = entry.map_err(fail)?.path();
        let Some(name) = file.file_stem().and_then(|name| name.to_str()) else { continue };
        match file.extension().and_then(|end| end.to_str()) {
            Some("json") => {}
            Some("new") if !own(name) => {
                let _gone = fs::remove_file(&file);
                continue;
            }
            _ => continue,
        }
        let note = match fs::read(&file) {
            // It was forgotten meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            text => text.map_err(fail).map(|text| serde_json::from_slice::<Note>(&text))?,
        };
        match note {
            // It is this process's own, or was until it was forgotten a moment ago.
            Ok(_) if own(name) || !file.exists() => {}
            Ok(note) if note.v == VERSION => all.push((name.to_owned(), note)),
            Ok(_) | Err(_) => tracing::error!(
                file = %file.display(),
                "a note of what is held cannot be read, and is kept: another imaged may be able to"
            ),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_one_process_held_is_found_by_the_next_and_by_no_other_store() {
        let home = tempfile::tempdir().unwrap();
        let first = Ledger::new(home.path());
        first.note("volumes", "a-1", "of a").await.unwrap();
        first.note("volumes", "b-1", "of b").await.unwrap();
        first.forget("b-1").await;
        assert_eq!(first.left("volumes").await.unwrap(), [], "it holds it still");
        let second = Ledger::new(home.path());
        let left = [("a-1".to_owned(), "of a".to_owned())];
        assert_eq!(second.left("volumes").await.unwrap(), left);
        assert_eq!(second.left("others").await.unwrap(), []);
        fs::write(home.path().join("held/c.json"), "{\"v\":9}").unwrap();
        fs::write(home.path().join("held/d.new"), "").unwrap();
        assert_eq!(second.left("volumes").await.unwrap(), left);
        assert!(home.path().join("held/c.json").exists(), "what is not understood is kept");
        assert!(!home.path().join("held/d.new").exists(), "what was not written whole is not");
        second.forget("a-1").await;
        assert_eq!(second.left("volumes").await.unwrap(), []);
    }

    #[tokio::test]
    async fn one_without_a_place_keeps_nothing() {
        let ledger = Ledger::default();
        ledger.note("volumes", "a", "of a").await.unwrap();
        assert_eq!(ledger.left("volumes").await.unwrap(), []);
    }
}
