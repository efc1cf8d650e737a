//! Intents of work under way, on disk before the backend is touched and gone after: what a kill -9
//! interrupted is found at the next start, and its residue removed.
//!
//! One small file an intent, `<state_dir>/journal/<uuid>.json`. Writing one costs two fsyncs. An
//! intent that cannot be parsed was torn while it was written, so its backend was never touched.
//! A removal is not synced: an intent that comes back finds a whole image, and leaves it.
//!
//! The journal also holds the claims on ids: an id with an intent is busy.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use imaged_drivers::{Error, ImageId, Kind, Result, Volume, lane::Lane};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// An image is being written or copied; unfinished, it has to go.
    Put,
    /// A whole image waits for its digests; unfinished, they are computed again.
    Digest,
    /// A volume is sealed while an image is made from it; unfinished, it has to be unsealed.
    Seal,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What is under way.
    pub work: Work,
    /// The store's name.
    pub store: String,
    /// The image's id.
    pub image: String,
    /// The multihash algorithm asked for.
    pub hash_algo: String,
    /// The volume, if one is sealed; the store is then the one that reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
}

/// What is claimed: an image, or the seal of a volume.
type Key = (String, String, Option<Volume>);

impl Intent {
    fn key(&self) -> Key {
        (self.store.clone(), self.image.clone(), self.volume.clone())
    }
}

/// The journal of one daemon.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    instance: String,
    lane: Lane,
    claims: Mutex<BTreeMap<Key, Claimed>>,
    /// Locked while the journal is open.
    _lock: fs::File,
}

/// A claim on an id.
#[derive(Debug)]
struct Claimed {
    file: PathBuf,
    intent: Intent,
    owner: Owner,
}

/// Who is at work on an intent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    /// The request that began it.
    Request,
    /// None: the request is over, or its daemon died, and what it left has to be removed or ended.
    None,
    /// The round that removes or ends what was left.
    Recovery,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `state_dir`, creating what is missing, and reads what a predecessor
    /// left. Blocks; call it before serving.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon has it.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("journal");
        fs::create_dir_all(&dir)
            .map_err(|error| Error::io("create state_dir", dir.display(), error))?;
        let lock = fs::File::create(state_dir.join("lock"))
            .map_err(|error| Error::io("write into state_dir", state_dir.display(), error))?;
        lock.try_lock().map_err(|error| {
            Error::new(
                Kind::InUse,
                format!(
                    "another imaged has this state_dir; stop it or set another: state_dir=`{}`",
                    state_dir.display()
                ),
            )
            .because(error)
        })?;
        let instance = instance(&state_dir.join("instance"))?;
        let claims = read(&dir)?;
        Ok(Self(Arc::new(Inner {
            dir,
            instance,
            lane: Lane::new("journal", 8, Duration::from_secs(60)),
            claims: Mutex::new(claims),
            _lock: lock,
        })))
    }

    /// The name of this daemon among those that may share a backend.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// Claims an image for `work`, durably.
    ///
    /// # Errors
    /// `Exists` if it is claimed already; `Unavailable` if what an earlier claim left is not
    /// removed yet, for then it will be free; `Unavailable`, `Full` if the journal cannot be
    /// written: nothing is begun then.
    pub async fn begin(&self, intent: Intent) -> Result<Claim> {
        let key = intent.key();
        let file = self.0.dir.join(format!("{}.json", uuid::Uuid::new_v4()));
        {
            let mut claims = self.0.claims();
            if let Some(other) = claims.get(&key) {
                return Err(busy(other));
            }
            let (file, intent) = (file.clone(), intent.clone());
            claims.insert(key.clone(), Claimed { file, intent, owner: Owner::Request });
        }
        let claim = Claim { journal: self.clone(), key, file: file.clone(), open: true };
        match self.0.lane.run("write the journal", move || write(&file, &intent)).await {
            Ok(()) => Ok(claim),
            Err(error) => {
                claim.clear().await;
                Err(error)
            }
        }
    }

    /// Takes over the claims nobody is at work on.
    #[must_use]
    pub fn stale(&self) -> Vec<(Intent, Claim)> {
        self.0
            .claims()
            .iter_mut()
            .filter(|(_, claimed)| claimed.owner == Owner::None)
            .map(|(key, claimed)| {
                claimed.owner = Owner::Recovery;
                let (key, file) = (key.clone(), claimed.file.clone());
                let claim = Claim { journal: self.clone(), key, file, open: true };
                (claimed.intent.clone(), claim)
            })
            .collect()
    }

    /// What is under way with an image, if anything.
    #[must_use]
    pub fn of(&self, store: &str, image: &str) -> Option<Intent> {
        let key = (store.to_owned(), image.to_owned(), None);
        self.0.claims().get(&key).map(|claimed| claimed.intent.clone())
    }

    /// The images of a store whose digests are being computed, or that are being flattened.
    #[must_use]
    pub fn digests(&self, store: &str) -> Vec<Intent> {
        let claims = self.0.claims();
        let intents = claims.values().map(|claimed| &claimed.intent);
        let of_store = |intent: &&Intent| intent.work == Work::Digest && intent.store == store;
        intents.filter(of_store).cloned().collect()
    }

    /// How many intents there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.claims().len()
    }

    /// Whether nothing is under way or left over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn claims(&self) -> MutexGuard<'_, BTreeMap<Key, Claimed>> {
        self.claims.lock()
    }
}

fn busy(claimed: &Claimed) -> Error {
    let Intent { work, store, image, .. } = &claimed.intent;
    let (kind, why) = match (work, claimed.owner) {
        (Work::Digest, _) => (Kind::Exists, "its digests are being computed"),
        (Work::Seal, Owner::Request) => {
            (Kind::Exists, "an image of this id is being made from the volume")
        }
        (Work::Put, Owner::Request) => (Kind::Exists, "an upload of this id is under way"),
        (Work::Put | Work::Seal, Owner::None | Owner::Recovery) => {
            (Kind::Unavailable, "what an earlier upload of this id left is still being cleared up")
        }
    };
    Error::new(kind, format!("{why}: id=`{image}` store=`{store}`"))
}

/// The claim on one image. Dropped without [`Claim::clear`], as when a task is lost, the intent
/// stays and is taken up again.
#[derive(Debug)]
pub struct Claim {
    journal: Journal,
    key: Key,
    file: PathBuf,
    open: bool,
}

impl Claim {
    /// The image is whole, its digests follow: exchanges the intent, durably.
    ///
    /// # Errors
    /// The journal cannot be written; the claim is as it was, and stale.
    pub async fn turn(mut self, work: Work) -> Result<Self> {
        let Some(mut intent) =
            self.journal.0.claims().get(&self.key).map(|claimed| claimed.intent.clone())
        else {
            return Err(Error::new(Kind::Internal, "a claim has no intent"));
        };
        intent.work = work;
        let file = self.journal.0.dir.join(format!("{}.json", uuid::Uuid::new_v4()));
        let (old, new, text) = (self.file.clone(), file.clone(), intent.clone());
        self.journal
            .0
            .lane
            .run("write the journal", move || {
                write(&new, &text)?;
                match fs::remove_file(&old) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::io("remove", old.display(), error))
                    }
                    _ => Ok(()),
                }
            })
            .await?;
        if let Some(claimed) = self.journal.0.claims().get_mut(&self.key) {
            claimed.file.clone_from(&file);
            claimed.intent = intent;
        }
        self.file = file;
        Ok(self)
    }

    /// The work is done, or undone: forgets the intent and frees the id.
    pub async fn clear(mut self) {
        self.open = false;
        let file = self.file.clone();
        let removed = self
            .journal
            .0
            .lane
            .run("clear the journal", move || match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("remove", file.display(), error))
                }
                _ => Ok(()),
            })
            .await;
        if let Err(error) = removed {
            // Harmless: at the next start it finds a whole image or nothing.
            tracing::warn!(error = %error.chain(), "an intent stays in the journal");
        }
        self.journal.0.claims().remove(&self.key);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.open
            && let Some(claimed) = self.journal.0.claims().get_mut(&self.key)
        {
            claimed.owner = Owner::None;
        }
    }
}

fn write(file: &Path, intent: &Intent) -> Result<()> {
    let fail = |error| {
        let error = Error::io("write the journal", file.display(), error);
        // Whatever is wrong with it, the caller can only try again later.
        let kind = if error.kind() == Kind::Full { Kind::Full } else { Kind::Unavailable };
        Error::new(kind, error.to_string()).because(error)
    };
    let text = serde_json::to_vec(intent).map_err(|error| {
        Error::new(Kind::Internal, "an intent cannot be written as JSON").because(error)
    })?;
    let mut out = fs::File::create_new(file).map_err(fail)?;
    out.write_all(&text).map_err(fail)?;
    out.sync_all().map_err(fail)?;
    sync_dir(file).map_err(fail)
}

fn sync_dir(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn read(dir: &Path) -> Result<BTreeMap<Key, Claimed>> {
    let fail = |error| Error::io("read the journal", dir.display(), error);
    let mut claims = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let file = entry.map_err(fail)?.path();
        let text = fs::read(&file).map_err(fail)?;
        match serde_json::from_slice::<Intent>(&text) {
            Ok(intent) if intent.image.parse::<ImageId>().is_ok() => {
                let key = intent.key();
                let found = Claimed { file, intent, owner: Owner::None };
                if let Some(other) = claims.insert(key.clone(), found) {
                    // It died while it turned the one into the other.
                    outdated(&mut claims, key, other).map_err(fail)?;
                }
            }
            _ => {
                tracing::warn!(file = %file.display(), "a torn intent is dropped: its work never began");
                fs::remove_file(&file).map_err(fail)?;
            }
        }
    }
    Ok(claims)
}

/// Of two intents of one image, keeps the later: that which waits for digests, for the image is
/// whole then.
fn outdated(claims: &mut BTreeMap<Key, Claimed>, key: Key, other: Claimed) -> std::io::Result<()> {
    let out = match other.intent.work {
        Work::Put | Work::Seal => Some(other),
        Work::Digest => claims.insert(key, other),
    };
    out.map_or(Ok(()), |out| fs::remove_file(out.file))
}

/// Reads or makes the name of this daemon.
fn instance(file: &Path) -> Result<String> {
    let fail = |error| Error::io("keep the instance name in", file.display(), error);
    match fs::read_to_string(file) {
        Ok(text) if text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            return Ok(text);
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let name: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    let staged = file.with_extension("new");
    let mut out = fs::File::create(&staged).map_err(fail)?;
    out.write_all(name.as_bytes()).map_err(fail)?;
    out.sync_all().map_err(fail)?;
    fs::rename(&staged, file).map_err(fail)?;
    sync_dir(file).map_err(fail)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(image: &str) -> Intent {
        Intent {
            work: Work::Put,
            store: "a".into(),
            image: image.into(),
            hash_algo: "sha512".into(),
            volume: None,
        }
    }

    #[tokio::test]
    async fn an_intent_outlives_the_daemon_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        let instance = journal.instance().to_owned();
        let done = journal.begin(put("done")).await.unwrap();
        let lost = journal.begin(put("lost")).await.unwrap();
        assert_eq!(journal.begin(put("lost")).await.unwrap_err().kind(), Kind::Exists);
        done.clear().await;
        std::mem::forget(lost);
        assert_eq!(Journal::open(dir.path()).unwrap_err().kind(), Kind::InUse);
        // A process that dies lets go of the lock; here the copy of the directory stands for that.
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("journal")).unwrap();
        for entry in fs::read_dir(dir.path().join("journal")).unwrap() {
            let from = entry.unwrap().path();
            let to = copy.path().join("journal").join(from.file_name().unwrap());
            fs::copy(from, to).unwrap();
        }
        fs::copy(dir.path().join("instance"), copy.path().join("instance")).unwrap();
        fs::write(copy.path().join("journal/torn.json"), "{\"work\":").unwrap();
        let journal = Journal::open(copy.path()).unwrap();
        assert_eq!(journal.instance(), instance);
        let stale = journal.stale();
        assert_eq!(stale.iter().map(|(intent, _)| intent).collect::<Vec<_>>(), [&put("lost")]);
        assert!(journal.stale().is_empty(), "taken over once");
        assert_eq!(journal.begin(put("lost")).await.unwrap_err().kind(), Kind::Unavailable);
        for (_, claim) in stale {
            claim.clear().await;
        }
        assert!(journal.is_empty());
        assert_eq!(fs::read_dir(copy.path().join("journal")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_claim_that_is_dropped_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        drop(journal.begin(put("x")).await.unwrap());
        // Not taken: it will be free.
        assert_eq!(journal.begin(put("x")).await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(journal.stale().len(), 1);
    }
}
