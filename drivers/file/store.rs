//! What one file store knows: its directories, and which of them an image is in or goes to.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use parking_lot::Mutex;
use rustix::fs::StatVfs;
use serde::Deserialize;

use super::{
    config::Config,
    dir::{Dir, STAGED},
    directory::Directory,
    note::Note,
    place::Entry,
    removing::Removing,
};
use crate::{
    contract::{Capacity, Claim, Error, ImageId, Kind, Listed, Part, Properties, Result, Usable},
    kit::{
        lane::Lane,
        refusals::{foreign, missing},
    },
};

#[derive(Debug)]
pub(super) struct Store {
    pub(super) name: String,
    pub(super) instance: String,
    pub(super) config: Config,
    /// Where images are, and are written.
    pub(super) data: Vec<Directory>,
    /// Where images are that are read and deleted, and where symbolic links of images may lead.
    pub(super) also: Vec<Directory>,
    /// What `filesystem_store_metadata_file` has said when it could be read last.
    pub(super) mounts: Mutex<Vec<Mount>>,
    /// Why it cannot be read now.
    pub(super) unread: Note,
    /// Why an image last has not been given its mode.
    pub(super) refused: Note,
    pub(super) lane: Lane,
    /// Held while a file gets its name, where there are several directories.
    pub(super) naming: Mutex<()>,
    pub(super) removing: Removing,
}

/// An entry of `filesystem_store_metadata_file`.
#[derive(Debug, Deserialize)]
pub(super) struct Mount {
    pub(super) mountpoint: String,
    #[serde(flatten)]
    pub(super) rest: Properties,
}

impl Store {
    /// The directory that a path is below, and the rest of the path. Of two of which one is in the
    /// other it is the inner one.
    fn holder<'a>(&self, path: &'a Path) -> Option<(&Directory, &'a Path)> {
        let below = |dir: &Directory| path.strip_prefix(&dir.path).ok();
        let named = |rest: &&Path| rest.file_name().is_some();
        let all = self.data.iter().chain(&self.also);
        let holding = all.filter_map(|dir| Some((dir, below(dir).filter(named)?)));
        // The first of two that are alike: what is a data directory too can be written.
        holding.min_by_key(|(_, rest)| rest.components().count())
    }

    /// Whether `at` names something in one of the directories.
    pub(super) fn serves(&self, at: &crate::Location) -> bool {
        matches!(at, crate::Location::File(at) if self.holder(at.path()).is_some())
    }

    /// The open directory and name of `at`, proven to be beneath one of ours.
    pub(super) fn entry(&self, at: &crate::Location) -> Result<Entry<'_>> {
        let crate::Location::File(file) = at else { return Err(foreign(at, &self.name)) };
        let (dir, rest) = self.holder(file.path()).ok_or_else(|| foreign(at, &self.name))?;
        let refusals = (foreign(at, &self.name), missing(at, &self.name));
        // Links lead on from where images are written, and no further.
        let links = dir.priority.is_some().then_some(self.also.as_slice());
        Entry::beneath(dir.open()?, rest, refusals, links)
    }

    /// Removes the image at `at`.
    pub(super) fn remove(&self, at: &crate::Location) -> Result<()> {
        let removal = self.removing.begin(at.to_string());
        self.entry(at)?.remove()?;
        if removal.is_first() { Ok(()) } else { Err(missing(at, &self.name)) }
    }

    /// Whether the path of `dir` still leads to it: it may have been replaced, or unmounted.
    pub(super) fn is_still(&self, dir: &Dir) -> Result<bool> {
        self.directory_of(dir).map_or(Ok(false), |data| data.is_still(dir))
    }

    /// The one that `dir` was opened as.
    pub(super) fn directory_of(&self, dir: &Dir) -> Option<&Directory> {
        self.data.iter().find(|data| data.path == dir.path())
    }

    /// The directory that holds `id`, if one does. Who is told that none does can rely on it: it fails
    /// while one that may hold it is down.
    pub(super) fn find(&self, id: &ImageId) -> Result<Option<&Directory>> {
        let mut unsure = None;
        for dir in &self.data {
            match dir.open().and_then(|open| open.has(id.as_str())) {
                Ok(true) => return Ok(Some(dir)),
                Ok(false) => {}
                Err(down) => unsure = unsure.or(Some(down)),
            }
        }
        unsure.map_or(Ok(None), Err)
    }

    /// Where to write `size` bytes: the directories of highest priority that have room, and of
    /// those the one with most. One that can only be read is passed over.
    pub(super) fn choose(&self, size: Option<u64>) -> Result<(&Directory, Dir)> {
        if let [only] = self.data.as_slice() {
            let dir = only.open()?;
            dir.writable()?;
            return Ok((only, dir));
        }
        let mut best: Option<((u32, u64), &Directory, Dir)> = None;
        let (mut refused, mut full) = (Vec::new(), false);
        for dir in &self.data {
            let looked = dir.open().and_then(|open| {
                open.writable()?;
                Ok((free(&open.space()?), open))
            });
            let (free, open) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    refused.push(error);
                    continue;
                }
            };
            if free == 0 || free < size.unwrap_or(0) {
                full = true;
                continue;
            }
            let rank = (dir.priority.unwrap_or(0), free);
            if best.as_ref().is_none_or(|(most, ..)| rank > *most) {
                best = Some((rank, dir, open));
            }
        }
        best.map(|(_, dir, open)| (dir, open)).ok_or_else(|| self.no_room(size, full, &refused))
    }

    /// Why there is no directory to write into.
    fn no_room(&self, size: Option<u64>, full: bool, refused: &[Error]) -> Error {
        let why: Vec<_> = refused.iter().map(ToString::to_string).collect();
        let why = match why.is_empty() {
            true => String::new(),
            false => format!(", and some cannot be written: {}", why.join("; ")),
        };
        let (size, store) = (size.unwrap_or(0), &self.name);
        match (full, refused.first()) {
            (false, Some(first)) => Error::new(
                first.kind(),
                format!("none of the store's directories can be written{why}: store=`{store}`"),
            ),
            (true, _) | (false, None) => Error::new(
                Kind::Full,
                format!(
                    "none of the store's directories has room{why}; free space or add one: \
                     size=`{size}` store=`{store}`"
                ),
            ),
        }
    }

    /// Looks at every directory, and gives the space of those that can be read.
    ///
    /// # Errors
    /// All that is wrong, if there is none that can.
    pub(super) fn survey(&self) -> Result<Capacity> {
        let (mut total, mut used, mut available) = (0_u64, 0_u64, 0_u64);
        let mut seen = BTreeSet::new();
        let (mut wrong, mut kinds) = (Vec::new(), Vec::new());
        for dir in &self.data {
            let found = dir.look(self.config.file_perm);
            if let (Usable::Down(reason), Some(kind)) = (&found.usable, found.kind) {
                wrong.push(reason.clone());
                kinds.push(kind);
            }
            let Some((device, space)) = found.space else { continue };
            if seen.insert(device) {
                let (all, free) = (space.f_blocks.saturating_mul(space.f_frsize), free(&space));
                total = total.saturating_add(all);
                used = used.saturating_add(all.saturating_sub(free));
                if found.usable == Usable::Up {
                    available = available.saturating_add(free);
                }
            }
        }
        for dir in &self.also {
            dir.look(None);
        }
        self.read_mounts();
        self.refuse_twins()?;
        if wrong.len() == self.data.len() {
            let denied = kinds.iter().all(|kind| *kind == Kind::BackendDenied);
            let kind = if denied { Kind::BackendDenied } else { Kind::Unavailable };
            return Err(Error::new(kind, wrong.join("; ")));
        }
        Ok(Capacity {
            total: Some(total),
            used: Some(used),
            available: Some(available),
            trash: None,
        })
    }

    /// A directory of two names would have every image twice.
    fn refuse_twins(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for site in self.data.iter().filter_map(Directory::site) {
            if let Some(other) = seen.insert(site.identity, site.what.clone()) {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!(
                        "one directory is given twice, as {other} and as {}: take one out: store=`{}`",
                        site.what, self.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Reads `filesystem_store_metadata_file`: what it adds to locations is not worth a store.
    fn read_mounts(&self) {
        let Some(path) = &self.config.metadata_file else { return };
        let unread = match read_mounts(path) {
            Ok(mounts) => {
                *self.mounts.lock() = mounts;
                None
            }
            Err(error) => Some(format!("locations have no metadata from it: {}", error.chain())),
        };
        self.remember(&self.unread, unread);
    }

    /// An image could not be given its mode.
    pub(super) fn mode_refused(&self, why: &str) {
        let note = format!("images do not have the mode of filesystem_store_file_perm: {why}");
        // The reason names the image, and is told of the first.
        if self.refused.get().is_none() {
            self.remember(&self.refused, Some(note));
        }
    }

    fn remember(&self, last: &Note, found: Option<String>) {
        let store = &self.name;
        last.set(found, |note| tracing::warn!(store, note, "a store that can be used"));
    }

    /// What is good to know of it.
    pub(super) fn notes(&self) -> Vec<String> {
        let of = |dir: &Directory| {
            dir.note().map(|note| format!("directory `{}`: {note}", dir.path.display()))
        };
        let own = [self.unread.get(), self.refused.get()];
        self.data.iter().filter_map(of).chain(own.into_iter().flatten()).collect()
    }

    /// Every directory as it was looked at last.
    pub(super) fn parts(&self) -> Vec<Part> {
        let part = |kind: &str, dir: &Directory| Part {
            what: format!("{kind} `{}`", dir.path.display()),
            usable: dir.usable(),
        };
        let data = self.data.iter().map(|dir| part("directory", dir));
        data.chain(self.also.iter().map(|dir| part("also directory", dir))).collect()
    }

    /// Why nothing can be written: an id may be taken in a directory that is down, and none is left
    /// where all can only be read.
    pub(super) fn reading_only(&self) -> Option<String> {
        let states: Vec<_> = self.data.iter().map(Directory::usable).collect();
        let why = |state: &Usable| state.reason().map(str::to_owned);
        let down: Vec<_> = states
            .iter()
            .filter(|state| matches!(state, Usable::Down(_)))
            .filter_map(why)
            .collect();
        let some_up = states.contains(&Usable::Up);
        let reasons = match (down.is_empty(), some_up) {
            (true, true) => return None,
            (true, false) => states.iter().filter_map(why).collect(),
            (false, _) => down,
        };
        Some(reasons.join("; "))
    }

    /// The name under which an upload is staged: no other upload has the same, of this daemon or another.
    pub(super) fn part(claim: &Claim) -> String {
        format!("{STAGED}{}.part", claim.nonce())
    }

    /// The names that an upload may have been staged under: today's, and that of earlier versions.
    pub(super) fn parts_of(&self, claim: &Claim) -> [String; 2] {
        let before = format!("{STAGED}{}-{}.part", claim.id(), self.instance);
        // No name is as long as that, so nothing can have it.
        let before = if before.len() <= 255 { before } else { Self::part(claim) };
        [Self::part(claim), before]
    }

    /// What is in one directory.
    pub(super) fn listing(&self, dir: &Directory) -> Result<Listing> {
        let dir = dir.open()?;
        let entries = Mutex::new(Some(dir.entries()?));
        Ok(Listing { dir, entries })
    }

    /// The next images of a listing; none after its end.
    pub(super) fn images(&self, listing: &Listing) -> Result<Vec<Listed>> {
        let mut entries = listing.entries.lock();
        let mut listed = Vec::new();
        while listed.is_empty()
            && let Some(left) = entries.as_mut()
        {
            let found = listing.dir.images(left, PAGE)?;
            if found.len() < PAGE {
                *entries = None;
            }
            listed.extend(found.into_iter().filter_map(|(id, at, size)| {
                let at = crate::Location::File(at);
                // A link is an image where it leads to one.
                let led = || self.entry(&at).and_then(Entry::open).map(|opened| opened.file.size);
                Some(Listed { size: size.or_else(|| led().ok())?, id, at, odd: None })
            }));
        }
        Ok(listed)
    }
}

/// A directory that is being listed, a page at a time: it may hold any number of images.
#[derive(Debug)]
pub(super) struct Listing {
    dir: Dir,
    /// What has not been looked at yet; nothing at the end.
    entries: Mutex<Option<std::fs::ReadDir>>,
}

/// Images that a listing holds at a time.
const PAGE: usize = 512;

fn free(space: &StatVfs) -> u64 {
    space.f_bavail.saturating_mul(space.f_frsize)
}

/// Reads `filesystem_store_metadata_file`.
pub(super) fn read_mounts(path: &Path) -> Result<Vec<Mount>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        Many(Vec<Mount>),
        One(Mount),
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        let error = Error::io("read filesystem_store_metadata_file", path.display(), error);
        Error::new(Kind::Unavailable, error.to_string()).because(error)
    })?;
    match serde_json::from_str(&text) {
        Ok(OneOrMany::Many(mounts)) => Ok(mounts),
        Ok(OneOrMany::One(mount)) => Ok(vec![mount]),
        Err(error) => Err(Error::new(
            Kind::Unavailable,
            format!(
                "filesystem_store_metadata_file is no JSON object or list of objects with \
                 `mountpoint`: path=`{}`",
                path.display()
            ),
        )
        .because(error)),
    }
}
