//! Who owns an image's id: one owner for a store's name and an id, in the whole daemon, whatever
//! becomes of the store's configuration meanwhile.
//!
//! **Rule: a call that has not returned still owns the id, whoever gave up waiting for it.** A
//! [`Claim`] goes with every call that makes or clears away an image, and stays with what such a
//! call has set going. An id is free, and what was left of it is cleared away, only when the last
//! clone of its claim is gone. So no late call of an earlier upload can meet a later one, also
//! when a reload has put a new driver in the place of the old.
//!
//! A delete owns no id, for what it removes may be none of ours; it holds the name, and no new
//! image of that name begins before the call has returned ([`Ids::hold`]).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    path::Path,
    sync::{Arc, Weak},
};

use imaged_drivers::{Claim, Error, Hold, Host, ImageId, Kind, Location, Result, Volume};
use parking_lot::{Mutex, MutexGuard};

use crate::{
    journal::{Intent, Journal, Work},
    made::Made,
    wire::records::Unread,
};

/// What can be owned: an image, or the seal of a volume.
type Key = (String, ImageId, Option<Volume>);

impl Intent {
    fn key(&self) -> Key {
        (self.store.clone(), self.image.clone(), self.volume.clone())
    }
}

/// The ids of one daemon. Clones are the same.
#[derive(Clone)]
pub struct Ids(Arc<Inner>);

struct Inner {
    journal: Journal,
    /// What may be taken back by who has had it made.
    made: Made,
    owned: Mutex<BTreeMap<Key, Owned>>,
    /// Intents that this version cannot read.
    unread: Vec<Unread>,
    /// Stores and names of images that are being removed, each with how many do so.
    held: Mutex<BTreeMap<(String, String), usize>>,
}

/// An id that is not free.
struct Owned {
    intent: Intent,
    /// What tells this work from all other; also the name of its intent in the journal.
    nonce: Arc<str>,
    owner: Owner,
}

/// Who owns an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A request, or the work in the background that follows it.
    Request,
    /// Neither a request nor recovery: what an earlier work left has to be removed, or brought to its end.
    None,
    /// Recovery, which removes what was left, or brings it to its end.
    Recovery,
    /// Whoever had it has let go of it; a call that has not returned still owns the id. `over`: what there
    /// was of it is ended, and not left over.
    LateCall { over: bool },
}

/// Calls may be out as long as this lives.
struct Guard {
    ids: Weak<Inner>,
    key: Key,
}

/// Work that has an intent in the journal, and owns its id. Dropped without [`Begun::end`], as when a
/// task is lost, the intent stays, and is taken up once no call is out any more.
#[must_use = "dropped, its intent is taken up again"]
pub struct Begun {
    ids: Ids,
    claim: Claim,
    guard: Arc<Guard>,
    over: bool,
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids").field("owned", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").field("id", self.claim.id()).finish_non_exhaustive()
    }
}

impl Ids {
    /// The ids of a daemon with this `state_dir`, with those that the journal there still names.
    /// Blocks; call it before serving.
    ///
    /// # Errors
    /// The directory cannot be used, or another daemon has it.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let (journal, found) = Journal::open(state_dir)?;
        let mut owned = BTreeMap::new();
        for (nonce, intent) in found.intents {
            let (key, was) = (intent.key(), Owned { intent, nonce, owner: Owner::None });
            // Earlier versions left two while they turned the one into the other: the image is whole
            // then, and waits for its digests.
            let outdated = match owned.remove(&key) {
                Some(other) if was.intent.work != Work::Digest => {
                    owned.insert(key, other);
                    Some(was)
                }
                other => {
                    owned.insert(key, was);
                    other
                }
            };
            if let Some(Owned { nonce, .. }) = outdated {
                journal.forget(&nonce);
            }
        }
        let unread = found.unread;
        let is_left = |nonce: &str| owned.values().any(|owned| *owned.nonce == *nonce);
        let made = Made::open(state_dir, is_left)?;
        Ok(Self(Arc::new(Inner {
            journal,
            made,
            owned: Mutex::new(owned),
            unread,
            held: Mutex::default(),
        })))
    }

    /// The name of this daemon among those that may share a backend.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.host().instance
    }

    /// This daemon, as backends know it.
    #[must_use]
    pub fn host(&self) -> &Host {
        self.0.journal.host()
    }

    /// What may be taken back by who has had it made.
    #[must_use]
    pub fn made(&self) -> &Made {
        &self.0.made
    }

    /// Makes `intent` durable, and its id owned.
    ///
    /// # Errors
    /// `Exists` if it is owned already; `Unavailable` if what an earlier upload left is not removed
    /// yet, for then it will be free; `Unavailable`, `Full` if the journal cannot be written: nothing
    /// is begun then.
    pub async fn begin(&self, intent: Intent) -> Result<Begun> {
        self.refuse_unread(&intent)?;
        let key = intent.key();
        let nonce: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
        {
            let mut owned = self.0.lock();
            if let Some(other) = owned.get(&key) {
                return Err(busy(other));
            }
            // Before a delete looks here whether the image is being made, it has its hold.
            if intent.work == Work::Put {
                self.refuse_held(&intent)?;
            }
            let (intent, nonce) = (intent.clone(), Arc::clone(&nonce));
            owned.insert(key.clone(), Owned { intent, nonce, owner: Owner::Request });
        }
        let begun = self.begun(key, &nonce);
        if let Err(error) = self.0.journal.write(&nonce, &intent).await {
            begun.end().await;
            return Err(error);
        }
        if intent.work == Work::Put {
            // Of the last image of this id nothing is left.
            self.made().replaced(&intent.store, intent.image.as_str()).await;
        }
        Ok(begun)
    }

    /// Keeps an image's name in `store` from being taken anew for as long as a delete of it is under way,
    /// also one that nobody waits for any more. It keeps out no other delete.
    #[must_use]
    pub fn hold(&self, store: &str, at: &Location) -> Hold {
        let name = (store.to_owned(), at.image().to_owned());
        *self.0.held().entry(name.clone()).or_default() += 1;
        Hold::new(Arc::new(Held { ids: Arc::downgrade(&self.0), name }))
    }

    /// Refuses an id while a delete of an image of this name is under way.
    fn refuse_held(&self, intent: &Intent) -> Result<()> {
        let Intent { store, image, .. } = intent;
        if !self.0.held().contains_key(&(store.clone(), image.to_string())) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unavailable,
            format!(
                "a delete of an earlier image of this id has not returned yet: id=`{image}` \
                 store=`{store}`"
            ),
        ))
    }

    fn begun(&self, key: Key, nonce: &str) -> Begun {
        let id = key.1.clone();
        let guard = Arc::new(Guard { ids: Arc::downgrade(&self.0), key });
        let claim = Claim::new(id, nonce, Arc::clone(&guard) as _);
        Begun { ids: self.clone(), claim, guard, over: false }
    }

    /// Gives what earlier work left, for recovery, which owns it from now on.
    #[must_use]
    pub fn left_over(&self) -> Vec<(Intent, Begun)> {
        let mut left = Vec::new();
        for (key, owned) in self.0.lock().iter_mut() {
            if owned.owner == Owner::None {
                owned.owner = Owner::Recovery;
                left.push((owned.intent.clone(), key.clone(), Arc::clone(&owned.nonce)));
            }
        }
        let begun = |(intent, key, nonce): (_, _, Arc<str>)| (intent, self.begun(key, &nonce));
        left.into_iter().map(begun).collect()
    }

    /// What is under way with an image, if anything.
    #[must_use]
    pub fn of(&self, store: &str, image: &ImageId) -> Option<Intent> {
        let key = (store.to_owned(), image.clone(), None);
        self.0.lock().get(&key).map(|owned| owned.intent.clone())
    }

    /// The images of a store with which there is such work: [`Work::Digest`] is also that of those that
    /// are being flattened.
    #[must_use]
    pub fn at_work(&self, store: &str, work: Work) -> Vec<Intent> {
        let owned = self.0.lock();
        let intents = owned.values().map(|owned| &owned.intent);
        intents.filter(|intent| intent.work == work && intent.store == store).cloned().collect()
    }

    /// Intents that this version cannot read, those of `store` and those of which no store can be told.
    #[must_use]
    pub fn unread(&self, store: &str) -> Vec<Unread> {
        let of_store = |unread: &&Unread| unread.store.as_deref().is_none_or(|of| of == store);
        self.0.unread.iter().filter(of_store).cloned().collect()
    }

    /// How many ids are owned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether nothing is under way or left over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses an id that an intent names which this version cannot read.
    fn refuse_unread(&self, intent: &Intent) -> Result<()> {
        let wanted = (Some(intent.store.as_str()), Some(intent.image.as_str()));
        let same = |unread: &&Unread| (unread.store.as_deref(), unread.image.as_deref()) == wanted;
        match self.0.unread.iter().find(same) {
            None => Ok(()),
            Some(Unread { file, why, .. }) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the journal has an intent for this id that this imaged cannot read; start one that \
                     can, or remove the file once the image is looked after: file=`{file}` reason=`{why}` \
                     id=`{}` store=`{}`",
                    intent.image, intent.store
                ),
            )),
        }
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, BTreeMap<(String, String), usize>> {
        self.held.lock()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Owned>> {
        self.owned.lock()
    }
}

/// A delete is under way as long as this lives.
struct Held {
    ids: Weak<Inner>,
    name: (String, String),
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(ids) = self.ids.upgrade() else { return };
        if let Entry::Occupied(mut deletes) = ids.held().entry(std::mem::take(&mut self.name)) {
            *deletes.get_mut() -= 1;
            if *deletes.get() == 0 {
                let _none = deletes.remove();
            }
        }
    }
}

fn busy(owned: &Owned) -> Error {
    let Intent { work, store, image, .. } = &owned.intent;
    let (kind, why) = match (owned.owner, work) {
        (Owner::LateCall { .. }, _) => {
            (Kind::Unavailable, "a call of an earlier upload of this id has not returned yet")
        }
        (_, Work::Digest) => (Kind::Exists, "its digests are being computed"),
        (Owner::Request, Work::Seal) => {
            (Kind::Exists, "an image of this id is being made from the volume")
        }
        (Owner::Request, Work::Put) => (Kind::Exists, "an upload of this id is under way"),
        (_, Work::Undo) | (Owner::None | Owner::Recovery, Work::Put | Work::Seal) => {
            (Kind::Unavailable, "what an earlier upload of this id left is still being cleared up")
        }
    };
    Error::new(kind, format!("{why}: id=`{image}` store=`{store}`"))
}

impl Begun {
    /// The claim, for the calls that belong to this work.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Goes on as another kind of work, durably: the image is whole, and its digests follow, or it has to go.
    ///
    /// # Errors
    /// The journal cannot be written: the intent is as it was.
    pub async fn turn(&self, work: Work) -> Result<()> {
        self.change(|intent| intent.work = work).await
    }

    /// Keeps what the driver needs to find what this upload leaves, durably.
    ///
    /// # Errors
    /// The journal cannot be written: the intent is as it was.
    pub async fn keep_token(&self, token: &str) -> Result<()> {
        self.change(|intent| intent.token = Some(token.to_owned())).await
    }

    async fn change(&self, change: impl FnOnce(&mut Intent)) -> Result<()> {
        let intent = self.ids.0.lock().get(&self.guard.key).map(|owned| owned.intent.clone());
        let Some(mut intent) = intent else {
            return Err(Error::new(Kind::Internal, "an id is owned and has no intent"));
        };
        change(&mut intent);
        self.ids.0.journal.write(self.claim.nonce(), &intent).await?;
        if let Some(owned) = self.ids.0.lock().get_mut(&self.guard.key) {
            owned.intent = intent;
        }
        Ok(())
    }

    /// The work is done, or undone: forgets the intent, and frees the id when no call is out any more.
    pub async fn end(mut self) {
        self.ids.made().ended(self.claim.nonce()).await;
        self.ids.0.journal.remove(self.claim.nonce()).await;
        self.over = true;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(owned) = self.ids.0.lock().get_mut(&self.guard.key) {
            owned.owner = Owner::LateCall { over: self.over };
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(ids) = self.ids.upgrade() else { return };
        let mut owned = ids.lock();
        match owned.get_mut(&self.key) {
            Some(of) if of.owner == (Owner::LateCall { over: true }) => {
                drop(owned.remove(&self.key));
            }
            Some(of) => of.owner = Owner::None,
            None => {}
        }
    }
}
