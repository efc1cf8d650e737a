//! Intents of work under way, on disk before the backend is touched and gone after: what a kill -9
//! interrupted is found at the next start, and its residue removed.
//!
//! One small file an intent, `<state_dir>/journal/<nonce>.json`: one line of JSON that begins with
//! the version of its form, `{"v":1,...}`. It is written beside and renamed, so a file of that name
//! is whole; what a crash left half written ends in `.new`, and its work never began. Writing one
//! costs two fsyncs. A removal is not synced: an intent that comes back finds a whole image, and
//! leaves it.
//!
//! **Rule: what this version cannot read is never removed.** It may be the work of a newer imaged,
//! and the only word of what that has left in a backend. The id that it names stays taken.

use std::{
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use imaged_drivers::{
    Error, Host, ImageId, Kind, Result, Volume, durable, lane::Lane, ledger::Ledger,
};
use serde::{Deserialize, Serialize};

use crate::{
    digest::{Algo, Choice},
    wire::records::Unread,
};

/// The form in which intents are written.
const VERSION: u32 = 1;

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// An image is being written or copied; unfinished, it has to go.
    Put,
    /// A whole image waits for its digests; unfinished, they are computed again.
    Digest,
    /// A whole image that nobody is to have; unfinished, it has to go.
    Undo,
    /// A volume is sealed while an image is made from it; unfinished, it has to be unsealed.
    Seal,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// What is under way.
    pub work: Work,
    /// The store's name.
    pub store: String,
    /// The image's id.
    #[serde(with = "by_text")]
    pub image: ImageId,
    /// The multihash algorithm asked for.
    #[serde(with = "by_text")]
    pub hash_algo: Algo,
    /// Whether its md5 is wanted, too.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub checksum: bool,
    /// The volume, if one is sealed; the store is then the one that reaches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
    /// What the driver needs to find what an upload has left, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Intent {
    /// The digests that the image gets.
    #[must_use]
    pub fn choice(&self) -> Choice {
        Choice { algo: self.hash_algo, checksum: self.checksum }
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_yes(yes: &bool) -> bool {
    *yes
}

/// What has a form as text, as that.
mod by_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'a, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'a>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// An intent as it is written.
#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    #[serde(flatten)]
    intent: &'a Intent,
}

/// The intents that a predecessor left.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that can be read, with their nonces.
    pub(crate) intents: Vec<(Arc<str>, Intent)>,
    /// Those that cannot.
    pub(crate) unread: Vec<Unread>,
}

/// The journal of one daemon.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    host: Host,
    lane: Lane,
    /// Another daemon cannot have this directory while this is open.
    _lock: fs::File,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `state_dir`, creating what is missing, and reads what a predecessor
    /// left. Blocks; call it before serving.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon has it.
    pub(crate) fn open(state_dir: &Path) -> Result<(Self, Found)> {
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
        let host = Host { instance, ledger: Ledger::new(state_dir) };
        let found = read(&dir)?;
        let lane = Lane::new("journal", 8, Duration::from_secs(60));
        Ok((Self(Arc::new(Inner { dir, host, lane, _lock: lock })), found))
    }

    /// This daemon, as backends know it.
    pub(crate) fn host(&self) -> &Host {
        &self.0.host
    }

    /// Writes an intent, durably; one of the same nonce is replaced by it, or stays if this fails.
    ///
    /// # Errors
    /// `Unavailable`, `Full` if the journal cannot be written: nothing is begun then.
    pub(crate) async fn write(&self, nonce: &str, intent: &Intent) -> Result<()> {
        let (file, text) = (self.file(nonce), line(intent)?);
        self.0.lane.run("write the journal", move || write(&file, &text)).await
    }

    /// Removes an intent.
    pub(crate) async fn remove(&self, nonce: &str) {
        let file = self.file(nonce);
        let removed = self.0.lane.run("clear the journal", move || durable::remove(&file)).await;
        if let Err(error) = removed {
            // Harmless: at the next start it finds a whole image or nothing.
            tracing::warn!(error = %error.chain(), "an intent stays in the journal");
        }
    }

    /// Removes an intent that another has made needless. Blocks.
    pub(crate) fn forget(&self, nonce: &str) {
        if let Err(error) = fs::remove_file(self.file(nonce)) {
            tracing::warn!(%error, "an intent that is outdated stays in the journal");
        }
    }

    fn file(&self, nonce: &str) -> PathBuf {
        self.0.dir.join(format!("{nonce}.json"))
    }
}

fn line(intent: &Intent) -> Result<Vec<u8>> {
    serde_json::to_vec(&Line { v: VERSION, intent }).map_err(|error| {
        Error::new(Kind::Internal, "an intent cannot be written as JSON").because(error)
    })
}

fn write(file: &Path, text: &[u8]) -> Result<()> {
    durable::write(file, text).map_err(|error| {
        let error = Error::io("write the journal", file.display(), error);
        // Whatever is wrong with it, the caller can only try again later.
        let kind = if error.kind() == Kind::Full { Kind::Full } else { Kind::Unavailable };
        Error::new(kind, error.to_string()).because(error)
    })
}

fn read(dir: &Path) -> Result<Found> {
    let fail = |error| Error::io("read the journal", dir.display(), error);
    let mut found = Found::default();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let file = entry.map_err(fail)?.path();
        if file.extension().is_some_and(|end| end == "new") && file.is_file() {
            tracing::warn!(file = %file.display(), "a half-written intent is dropped: its work never began");
            fs::remove_file(&file).map_err(fail)?;
            continue;
        }
        match read_one(&file) {
            Ok(one) => found.intents.push(one),
            Err(unread) => {
                let Unread { store, image, why, .. } = &unread;
                tracing::error!(
                    file = %file.display(), ?store, ?image, why,
                    "an intent of the journal cannot be read, and is kept: its id stays taken; an \
                     imaged that can read it resolves it, or remove the file once its image is looked \
                     after"
                );
                found.unread.push(unread);
            }
        }
    }
    Ok(found)
}

fn read_one(file: &Path) -> Result<(Arc<str>, Intent), Unread> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unread = |why: String| Unread { file: name.clone(), store: None, image: None, why };
    let Some(nonce) = name.strip_suffix(".json") else {
        return Err(unread("its name is none of an intent".to_owned()));
    };
    let text = fs::read(file).map_err(|error| unread(error.to_string()))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| unread(error.to_string()))?;
    let word = |key: &str| json.get(key).and_then(|word| word.as_str()).map(str::to_owned);
    let unread = |why: String| Unread {
        file: name.clone(),
        store: word("store"),
        image: word("image"),
        why,
    };
    let mut fields = json.clone();
    // The first form had no version.
    let version = fields.as_object_mut().and_then(|fields| fields.remove("v"));
    if version.as_ref().is_some_and(|version| version.as_u64() != Some(VERSION.into())) {
        return Err(unread("it is of a version that this imaged does not know".to_owned()));
    }
    let intent: Intent =
        serde_json::from_value(fields).map_err(|error| unread(error.to_string()))?;
    Ok((nonce.into(), intent))
}

/// Reads or makes the name of this daemon.
fn instance(file: &Path) -> Result<String> {
    let fail = |error| Error::io("keep the instance name in", file.display(), error);
    match fs::read_to_string(file) {
        Ok(text) if text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            return Ok(text);
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let name: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    durable::write(file, name.as_bytes()).map_err(fail)?;
    Ok(name)
}
