//! What callers of the role `service` have had made of volumes, so that they can take it back.
//!
//! **Rule: such a caller may delete the very image that this user has had this daemon make of a volume,
//! until an hour after the image and its digests were done.** The very image is the one of the store, the
//! location and the version that were noted; what came to be at that place later is another's, whoever made it.
//!
//! A note is one file in `state_dir/made`, named by the nonce of the work that makes the image. It is written,
//! durably, before the image is begun; what cannot be noted is not made. It is made complete, durably too, before
//! the caller is told of the image, and before the intent of the work goes. One that is not complete gives no
//! right to delete, and goes with its intent: after a crash recovery makes it complete, if the backend says
//! that the image is the one of that work. It goes too when the image is deleted, by anyone, and when
//! its hour is over. A removal is not synced: a note that comes back is of a version that is no more.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use imaged_drivers::{
    Claim, Error, Kind, Location, Result, clock::unix_seconds, durable, lane::Lane,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The form in which notes are written.
const VERSION: u32 = 1;

/// How long an image can be taken back, in seconds.
const HOUR: u64 = 3600;

/// One note.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    v: u32,
    /// The user who has had it made.
    uid: u32,
    store: String,
    image: String,
    /// What was made; none yet as long as it is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole: Option<Whole>,
}

/// What was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    location: String,
    /// What the backend calls this very image.
    version: String,
    /// When it was done, in seconds of Unix time.
    since: u64,
}

impl Note {
    /// Whether it is over. A clock that was set back ends it too: nobody can tell how old it is.
    fn is_over(&self, now: u64) -> bool {
        self.whole.as_ref().is_some_and(|whole| whole.since.abs_diff(now) > HOUR)
    }
}

/// All notes of one daemon, by their nonces. Clones are the same.
#[derive(Clone, Debug)]
pub struct Made(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    lane: Lane,
    notes: Mutex<BTreeMap<Arc<str>, Note>>,
}

impl Made {
    /// The notes in `state_dir`. One that is not complete, and of whose work the journal says nothing, as
    /// `is_under_way` tells by its nonce, is dropped. Blocks; call it before serving.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn open(state_dir: &Path, is_under_way: impl Fn(&str) -> bool) -> Result<Self> {
        let dir = state_dir.join("made");
        fs::create_dir_all(&dir).map_err(|error| Error::io("create", dir.display(), error))?;
        let fail = |error| Error::io("read", dir.display(), error);
        let mut notes = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let file = entry.map_err(fail)?.path();
            let nonce = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let half = file.extension().is_some_and(|end| end == "new");
            match read(&file) {
                Ok(note) if !half && (note.whole.is_some() || is_under_way(&nonce)) => {
                    drop(notes.insert(nonce.into(), note));
                }
                Err(why) if !half => tracing::warn!(
                    file = %file.display(), why,
                    "a note of what was made cannot be read, and gives nobody a right"
                ),
                // Its work never began, or has ended without an image.
                _ => fs::remove_file(&file).map_err(fail)?,
            }
        }
        let lane = Lane::new("made", 4, Duration::from_secs(60));
        Ok(Self(Arc::new(Inner { dir, lane, notes: Mutex::new(notes) })))
    }

    /// Notes, durably, that `uid` is having an image made in `store`.
    ///
    /// # Errors
    /// `Unavailable`, `Full` if it cannot be written: nothing is to be begun then.
    pub(crate) async fn begin(&self, uid: u32, store: &str, claim: &Claim) -> Result<()> {
        let (store, image) = (store.to_owned(), claim.id().to_string());
        self.write(claim.nonce(), Note { v: VERSION, uid, store, image, whole: None }).await
    }

    /// Whether the work of `claim` is noted.
    pub(crate) fn has(&self, claim: &Claim) -> bool {
        self.0.notes.lock().contains_key(claim.nonce())
    }

    /// Notes, durably, what the work of `claim` has made, if that is to be noted. Without a `version` nobody
    /// could tell it from another image: then it cannot be taken back.
    ///
    /// # Errors
    /// As [`Made::begin`]; the note is as it was.
    pub(crate) async fn complete(
        &self,
        claim: &Claim,
        at: &Location,
        version: Option<String>,
    ) -> Result<()> {
        let Some(note) = self.0.notes.lock().get(claim.nonce()).cloned() else { return Ok(()) };
        let Some(version) = version else {
            self.remove(|nonce, _| nonce == claim.nonce()).await;
            return Ok(());
        };
        let whole = Some(Whole { location: at.to_string(), version, since: unix_seconds() });
        self.write(claim.nonce(), Note { whole, ..note }).await
    }

    /// The hour of what the work of `claim` has made begins anew.
    pub(crate) async fn renew(&self, claim: &Claim) {
        let note = self.0.notes.lock().get(claim.nonce()).cloned();
        let Some(mut note) = note else { return };
        let Some(whole) = &mut note.whole else { return };
        whole.since = unix_seconds();
        if let Err(error) = self.write(claim.nonce(), note).await {
            tracing::warn!(error = %error.chain(), "an image can be taken back for a shorter time");
        }
    }

    /// The version of the image at `at` that `uid` has had made and may take back.
    pub(crate) fn version(&self, uid: u32, store: &str, at: &Location) -> Option<String> {
        let (at, now) = (at.to_string(), unix_seconds());
        let notes = self.0.notes.lock();
        notes.values().find_map(|note| {
            let whole = note.whole.as_ref().filter(|whole| whole.location == at)?;
            let own = note.uid == uid && note.store == store && !note.is_over(now);
            own.then(|| whole.version.clone())
        })
    }

    /// Whether `uid` has had an image of this id made in `store`, or is having it made.
    pub(crate) fn is_of(&self, uid: u32, store: &str, image: &str) -> bool {
        let (notes, now) = (self.0.notes.lock(), unix_seconds());
        let of = |note: &Note| (note.uid, &*note.store, &*note.image) == (uid, store, image);
        notes.values().any(|note| of(note) && !note.is_over(now))
    }

    /// The image at `at` is no more.
    pub(crate) async fn gone(&self, store: &str, at: &Location) {
        if self.0.notes.lock().is_empty() {
            return;
        }
        let at = at.to_string();
        let is_there = |note: &Note| note.whole.as_ref().is_some_and(|whole| whole.location == at);
        self.remove(|_, note| note.store == store && is_there(note)).await;
    }

    /// Another image of this id begins to be made.
    pub(crate) async fn replaced(&self, store: &str, image: &str) {
        self.remove(|_, note| note.store == store && note.image == image).await;
    }

    /// The work of this nonce has ended: what it has not made by now it never will.
    pub(crate) async fn ended(&self, nonce: &str) {
        self.remove(|of, note| of == nonce && note.whole.is_none()).await;
    }

    /// Drops what nobody can take back any more.
    pub(crate) async fn expire(&self) {
        let now = unix_seconds();
        self.remove(|_, note| note.is_over(now)).await;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.notes.lock().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn file(&self, nonce: &str) -> PathBuf {
        self.0.dir.join(format!("{nonce}.json"))
    }

    async fn write(&self, nonce: &str, note: Note) -> Result<()> {
        let text = serde_json::to_vec(&note).map_err(|error| {
            Error::new(Kind::Internal, "a note cannot be written as JSON").because(error)
        })?;
        let file = self.file(nonce);
        let write = move || {
            durable::write(&file, &text).map_err(|error| {
                let error = Error::io("note in state_dir what is made", file.display(), error);
                let full = error.kind() == Kind::Full;
                let kind = if full { Kind::Full } else { Kind::Unavailable };
                Error::new(kind, error.to_string()).because(error)
            })
        };
        self.0.lane.run("note what is made", write).await?;
        drop(self.0.notes.lock().insert(nonce.into(), note));
        Ok(())
    }

    /// Drops the notes of which `over` holds.
    async fn remove(&self, over: impl Fn(&str, &Note) -> bool) {
        let mut removed = Vec::new();
        self.0.notes.lock().retain(|nonce, note| {
            let over = over(nonce, note);
            if over {
                removed.push(self.file(nonce));
            }
            !over
        });
        if removed.is_empty() {
            return;
        }
        let remove = move || removed.iter().try_for_each(|file| durable::remove(file));
        if let Err(error) = self.0.lane.run("clear notes", remove).await {
            // Harmless: its image is gone, or it is over.
            tracing::warn!(error = %error.chain(), "a note of what was made stays in state_dir");
        }
    }
}

fn read(file: &Path) -> Result<Note, String> {
    let text = fs::read(file).map_err(|error| error.to_string())?;
    let note: Note = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    match note.v {
        VERSION => Ok(note),
        other => Err(format!("it is of version {other}, which this imaged does not know")),
    }
}
