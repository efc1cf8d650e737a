//! What the cluster holds, and what it answers: images with sparse content, snapshots, clones,
//! watchers, metadata and a trash. Nothing here is unsafe or knows of C.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::Arc,
};

use crate::errno::{BUSY, DOM, DQUOT, EXIST, INVAL, NOENT, NOTEMPTY, ROFS};

/// What C would return, with a positive error number.
pub(crate) type Answer<T = ()> = Result<T, i32>;

/// Written objects of an image by number; each is as long as the end of its last write.
pub(crate) type Objects = BTreeMap<u64, Arc<Vec<u8>>>;

/// The object that names the images in a pool's trash.
const TRASH: &str = "rbd_trash";

#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) pools: BTreeMap<String, Pool>,
    next: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) number: i64,
    /// All images, those in the trash too, by internal id.
    pub(crate) images: BTreeMap<String, Image>,
    /// Internal ids by name.
    pub(crate) names: BTreeMap<String, String>,
    /// What is in the trash, by internal id.
    pub(crate) trash: BTreeMap<String, Trashed>,
    /// Objects that are no part of an image.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    /// Bytes at which the pool is full.
    pub(crate) quota: Option<u64>,
}

/// An image in the trash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trashed {
    /// The name it had.
    pub(crate) name: String,
    /// How long it is to be kept, in seconds.
    pub(crate) deferred_s: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) size: u64,
    pub(crate) order: u8,
    pub(crate) features: u64,
    pub(crate) objects: Objects,
    pub(crate) snaps: Vec<Snap>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) parent: Option<Parent>,
    pub(crate) watchers: Vec<Watcher>,
    /// Who has put a lock on it.
    pub(crate) locker: Option<String>,
    /// The handle that has librbd's own lock, to write, by its cookie.
    pub(crate) owner: Option<u64>,
    /// It is being migrated, and this is where its bytes come from: in the trash, not to be written to.
    pub(crate) migrates: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Snap {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) protected: bool,
    /// Removed, and kept for its clones of the second format.
    pub(crate) trashed: bool,
    pub(crate) objects: Objects,
    pub(crate) parent: Option<Parent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) pool: String,
    pub(crate) image: String,
    pub(crate) snap: u64,
    pub(crate) overlap: u64,
    pub(crate) format: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    pub(crate) cookie: u64,
    pub(crate) client: i64,
}

/// An image that was cloned.
pub(crate) struct Child {
    pub(crate) pool: String,
    pub(crate) number: i64,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) trash: bool,
    pub(crate) format: u64,
}

/// How a new image is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) order: Option<u64>,
    pub(crate) features: Option<u64>,
    pub(crate) data_pool: Option<String>,
    pub(crate) format: Option<u64>,
}

/// Which state of which image.
#[derive(Clone, Debug)]
pub(crate) struct At {
    pub(crate) pool: String,
    pub(crate) image: String,
    pub(crate) snap: Option<u64>,
}

impl Image {
    pub(crate) fn object_size(&self) -> u64 {
        1 << self.order
    }

    pub(crate) fn snap(&self, name: &str) -> Answer<&Snap> {
        self.snaps.iter().find(|snap| snap.name == name && !snap.trashed).ok_or(NOENT)
    }

    pub(crate) fn snap_mut(&mut self, name: &str) -> Answer<&mut Snap> {
        self.snaps.iter_mut().find(|snap| snap.name == name && !snap.trashed).ok_or(NOENT)
    }

    /// Length, content and parent at a snapshot or at the head.
    fn at(&self, snap: Option<u64>) -> Answer<(u64, &Objects, Option<&Parent>)> {
        match snap {
            None => Ok((self.size, &self.objects, self.parent.as_ref())),
            Some(id) => {
                let snap = self.snaps.iter().find(|snap| snap.id == id).ok_or(NOENT)?;
                Ok((snap.size, &snap.objects, snap.parent.as_ref()))
            }
        }
    }

    /// `range` in parts of one object each.
    fn parts(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let object = self.object_size();
        let first = range.start / object;
        let last = range.end.div_ceil(object);
        (first..last).map(move |number| {
            let start = range.start.max(number * object);
            let end = range.end.min((number + 1) * object);
            (number, start..end)
        })
    }
}

impl Pool {
    /// Bytes of its objects; what snapshots share counts once.
    pub(crate) fn used(&self) -> u64 {
        self.parts().map(|object| object.len() as u64).sum()
    }

    /// The parts of its images.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Arc<Vec<u8>>> {
        let mut seen = HashSet::new();
        let heads = self.images.values().map(|image| &image.objects);
        let snaps = self.images.values().flat_map(|image| &image.snaps).map(|snap| &snap.objects);
        heads
            .chain(snaps)
            .flat_map(BTreeMap::values)
            .filter(move |object| seen.insert(Arc::as_ptr(object)))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.quota.is_some_and(|quota| self.used() >= quota)
    }

    pub(crate) fn id_of(&self, name: &str) -> Answer<String> {
        self.names.get(name).cloned().ok_or(NOENT)
    }
}

impl World {
    /// A number that was not given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn pool(&self, name: &str) -> Answer<&Pool> {
        self.pools.get(name).ok_or(NOENT)
    }

    pub(crate) fn pool_mut(&mut self, name: &str) -> Answer<&mut Pool> {
        self.pools.get_mut(name).ok_or(NOENT)
    }

    pub(crate) fn image(&self, at: &At) -> Answer<&Image> {
        self.pool(&at.pool)?.images.get(&at.image).ok_or(NOENT)
    }

    pub(crate) fn image_mut(&mut self, at: &At) -> Answer<&mut Image> {
        self.pool_mut(&at.pool)?.images.get_mut(&at.image).ok_or(NOENT)
    }

    pub(crate) fn size(&self, at: &At) -> Answer<u64> {
        Ok(self.image(at)?.at(at.snap)?.0)
    }

    pub(crate) fn overlap(&self, at: &At) -> Answer<u64> {
        Ok(self.image(at)?.at(at.snap)?.2.map_or(0, |parent| parent.overlap))
    }

    pub(crate) fn snap_id(&self, at: &At, name: &str) -> Answer<u64> {
        Ok(self.image(at)?.snap(name)?.id)
    }

    pub(crate) fn create(&mut self, pool: &str, name: &str, size: u64, wanted: &Wanted) -> Answer {
        let order = wanted.order.unwrap_or(22);
        if !(12..=25).contains(&order) {
            return Err(DOM);
        }
        if let Some(data) = &wanted.data_pool {
            self.pool(data)?;
        }
        let image = Image {
            size,
            order: u8::try_from(order).map_err(|_large| DOM)?,
            features: wanted.features.unwrap_or(61),
            ..Image::default()
        };
        self.add(pool, name, image).map(drop)
    }

    /// Gives an image a name and an internal id.
    fn add(&mut self, pool: &str, name: &str, mut image: Image) -> Answer<String> {
        let id = format!("{:x}", 0xfa4e_0000 + self.number());
        let pool = self.pool_mut(pool)?;
        if name.is_empty() || name.contains(['@', '/']) {
            return Err(INVAL);
        }
        if pool.names.contains_key(name) {
            return Err(EXIST);
        }
        // It needs objects of its own.
        if pool.is_full() {
            return Err(DQUOT);
        }
        image.id.clone_from(&id);
        pool.names.insert(name.to_owned(), id.clone());
        pool.images.insert(id.clone(), image);
        Ok(id)
    }

    pub(crate) fn clone_image(
        &mut self,
        parent: (&str, &str, &str),
        pool: &str,
        name: &str,
        wanted: &Wanted,
    ) -> Answer {
        let (parent_pool, parent_name, snap) = parent;
        let image = self.pool(parent_pool)?.id_of(parent_name)?;
        let from = At { pool: parent_pool.to_owned(), image, snap: None };
        let image = self.image(&from)?;
        let snap = image.snap(snap)?;
        let format = wanted.format.unwrap_or(1);
        if format == 1 && !snap.protected {
            return Err(INVAL);
        }
        let parent = Parent {
            pool: from.pool.clone(),
            image: from.image.clone(),
            snap: snap.id,
            overlap: snap.size,
            format,
        };
        let order = wanted.order.unwrap_or_else(|| u64::from(image.order));
        let clone = Image {
            size: snap.size,
            order: u8::try_from(order).map_err(|_large| DOM)?,
            features: wanted.features.unwrap_or(image.features),
            metadata: image.metadata.clone(),
            parent: Some(parent),
            ..Image::default()
        };
        self.add(pool, name, clone).map(drop)
    }

    /// Clones of a snapshot, or of any of the image's.
    pub(crate) fn children(&self, at: &At) -> Vec<Child> {
        let is_ours = |parent: &&Parent| {
            parent.pool == at.pool
                && parent.image == at.image
                && at.snap.is_none_or(|snap| parent.snap == snap)
        };
        let mut found = Vec::new();
        for (pool_name, pool) in &self.pools {
            for image in pool.images.values() {
                let parents = image.snaps.iter().filter_map(|snap| snap.parent.as_ref());
                let Some(parent) = image.parent.iter().chain(parents).find(is_ours) else {
                    continue;
                };
                let named = pool.names.iter().find(|(_, id)| **id == image.id);
                let trashed = || pool.trash.get(&image.id).map(|trashed| &trashed.name);
                let name = named.map_or_else(trashed, |(name, _)| Some(name));
                found.push(Child {
                    pool: pool_name.clone(),
                    number: pool.number,
                    id: image.id.clone(),
                    name: name.cloned().unwrap_or_default(),
                    trash: named.is_none(),
                    format: parent.format,
                });
            }
        }
        found
    }

    /// Removes an image by name.
    pub(crate) fn remove(&mut self, pool: &str, name: &str) -> Answer {
        let id = self.pool(pool)?.id_of(name)?;
        // What is to be removed is noted in the trash first, for which a full pool has no room.
        let pool_now = self.pool_mut(pool)?;
        if !pool_now.objects.contains_key(TRASH) {
            if pool_now.is_full() {
                return Err(NOENT);
            }
            pool_now.objects.insert(TRASH.to_owned(), Vec::new());
        }
        self.remove_image(pool, &id)?;
        self.pool_mut(pool)?.names.remove(name);
        Ok(())
    }

    pub(crate) fn trash_remove(&mut self, pool: &str, id: &str) -> Answer {
        if !self.pool(pool)?.trash.contains_key(id) {
            return Err(NOENT);
        }
        self.remove_image(pool, id)?;
        self.pool_mut(pool)?.trash.remove(id);
        Ok(())
    }

    fn remove_image(&mut self, pool: &str, id: &str) -> Answer {
        let at = At { pool: pool.to_owned(), image: id.to_owned(), snap: None };
        let image = self.image(&at)?;
        if image.migrates {
            return Err(ROFS);
        }
        if !image.snaps.is_empty() {
            return Err(NOTEMPTY);
        }
        if !image.watchers.is_empty() {
            return Err(BUSY);
        }
        let gone = self.pool_mut(pool)?.images.remove(id);
        self.orphan(gone.and_then(|image| image.parent));
        Ok(())
    }

    /// A snapshot that was kept for a clone goes with the last one.
    pub(crate) fn orphan(&mut self, parent: Option<Parent>) {
        let Some(Parent { pool, image, snap, .. }) = parent else { return };
        let at = At { pool, image, snap: Some(snap) };
        if self.children(&at).is_empty()
            && let Ok(image) = self.image_mut(&at)
        {
            image.snaps.retain(|kept| kept.id != snap || !kept.trashed);
        }
    }

    pub(crate) fn trash_move(&mut self, pool: &str, name: &str, deferred_s: u64) -> Answer {
        let pool = self.pool_mut(pool)?;
        let id = pool.names.remove(name).ok_or(NOENT)?;
        pool.trash.insert(id, Trashed { name: name.to_owned(), deferred_s });
        Ok(())
    }

    pub(crate) fn trash_restore(&mut self, pool: &str, id: &str, name: &str) -> Answer {
        let pool = self.pool_mut(pool)?;
        if !pool.trash.contains_key(id) {
            return Err(NOENT);
        }
        if pool.names.contains_key(name) {
            return Err(EXIST);
        }
        pool.trash.remove(id);
        pool.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    pub(crate) fn features(&self, at: &At) -> Result<u64, i32> {
        Ok(self.image(at)?.features)
    }

    /// Whether it has clones of the second format.
    pub(crate) fn is_clone_parent(&self, at: &At) -> bool {
        self.children(&At { snap: None, ..at.clone() }).iter().any(|child| child.format == 2)
    }

    /// Begins a migration: the name is another image's, which reads from this one in the trash.
    pub(crate) fn migrate(&mut self, pool: &str, name: &str) -> Answer {
        let id = self.pool(pool)?.id_of(name)?;
        self.trash_move(pool, name, 0)?;
        let at = At { pool: pool.to_owned(), image: id, snap: None };
        let source = self.image_mut(&at)?;
        source.migrates = true;
        let to = Image { watchers: Vec::new(), owner: None, migrates: false, ..source.clone() };
        self.add(pool, name, to).map(drop)
    }

    /// The objects to be copied by a flatten, in all.
    pub(crate) fn flatten(&mut self, at: &At, step: &mut dyn FnMut(u64, u64) -> i32) -> Answer {
        let image = self.image(at)?;
        let parent = image.parent.clone().ok_or(INVAL)?;
        let parts: Vec<_> = image.parts(0..parent.overlap.min(image.size)).collect();
        let all = parts.len() as u64;
        for (done, (number, range)) in (0..).zip(parts) {
            let ended = step(done, all);
            if ended < 0 {
                return Err(-ended);
            }
            if !self.image(at)?.objects.contains_key(&number) {
                let mut bytes =
                    vec![0; usize::try_from(range.end - range.start).map_err(|_large| DOM)?];
                self.read(at, range.start, &mut bytes)?;
                if bytes.iter().any(|byte| *byte != 0) {
                    self.image_mut(at)?.objects.insert(number, Arc::new(bytes));
                }
            }
        }
        let deep = self.image(at)?.features & (1 << 5) != 0;
        let image = self.image_mut(at)?;
        image.parent = None;
        if deep {
            let kept = image.objects.clone();
            for snap in &mut image.snaps {
                snap.parent = None;
                for (number, object) in &kept {
                    snap.objects.entry(*number).or_insert_with(|| Arc::clone(object));
                }
            }
        }
        self.orphan(Some(parent));
        Ok(())
    }

    pub(crate) fn resize(&mut self, at: &At, size: u64) -> Answer {
        let image = self.image_mut(at)?;
        let object = image.object_size();
        image.size = size;
        image.objects.retain(|number, _| number * object < size);
        let last = size / object;
        if let Some(bytes) = image.objects.get_mut(&last) {
            let keep = usize::try_from(size % object).map_err(|_large| DOM)?;
            if bytes.len() > keep {
                Arc::make_mut(bytes).truncate(keep);
            }
        }
        if let Some(parent) = &mut image.parent {
            parent.overlap = parent.overlap.min(size);
        }
        Ok(())
    }

    /// Fills `bytes`; how many there were.
    pub(crate) fn read(&self, at: &At, offset: u64, bytes: &mut [u8]) -> Answer<usize> {
        let image = self.image(at)?;
        let (size, objects, parent) = image.at(at.snap)?;
        let end = offset.saturating_add(bytes.len() as u64).min(size);
        if end <= offset {
            return if offset > size { Err(INVAL) } else { Ok(0) };
        }
        let mut rest = bytes;
        for (number, range) in image.parts(offset..end) {
            let len = usize::try_from(range.end - range.start).map_err(|_large| DOM)?;
            let (part, more) = rest.split_at_mut(len);
            rest = more;
            part.fill(0);
            if let Some(object) = objects.get(&number) {
                let from = usize::try_from(range.start - number * image.object_size());
                let found = object.get(from.map_err(|_large| DOM)?..).unwrap_or_default();
                let len = found.len().min(part.len());
                part.iter_mut().zip(found).for_each(|(to, from)| *to = *from);
                part.iter_mut().skip(len).for_each(|byte| *byte = 0);
            } else if let Some(parent) = parent
                && range.start < parent.overlap
            {
                let shared = usize::try_from(parent.overlap - range.start).unwrap_or(usize::MAX);
                let len = part.len().min(shared);
                let from = At {
                    pool: parent.pool.clone(),
                    image: parent.image.clone(),
                    snap: Some(parent.snap),
                };
                self.read(&from, range.start, part.get_mut(..len).unwrap_or_default())?;
            }
        }
        usize::try_from(end - offset).map_err(|_large| DOM)
    }

    /// Writes what lies inside the image.
    pub(crate) fn write(&mut self, at: &At, offset: u64, bytes: &[u8]) -> Answer {
        let image = self.image(at)?;
        let (size, object_size) = (image.size, image.object_size());
        if offset >= size && !bytes.is_empty() {
            return Err(INVAL);
        }
        let end = offset.saturating_add(bytes.len() as u64).min(size);
        let full = self.pool(&at.pool)?.is_full();
        let mut rest = bytes;
        for (number, range) in image.parts(offset..end) {
            let len = usize::try_from(range.end - range.start).map_err(|_large| DOM)?;
            let (part, more) = rest.split_at(len);
            rest = more;
            let from = usize::try_from(range.start - number * object_size).map_err(|_large| DOM)?;
            self.copy_up(at, number)?;
            let object = self.image_mut(at)?.objects.entry(number).or_default();
            // Only what takes more room is refused.
            if full && from + len > object.len() {
                if object.is_empty() {
                    self.image_mut(at)?.objects.remove(&number);
                }
                return Err(DQUOT);
            }
            let object = Arc::make_mut(object);
            if object.len() < from + len {
                object.resize(from + len, 0);
            }
            object.iter_mut().skip(from).zip(part).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    /// Makes an object the image's own where it shares it with a parent.
    fn copy_up(&mut self, at: &At, number: u64) -> Answer {
        let image = self.image(at)?;
        let start = number * image.object_size();
        let shared = image.parent.as_ref().map_or(0, |parent| parent.overlap);
        if image.objects.contains_key(&number) || start >= shared {
            return Ok(());
        }
        let end = shared.min(start + image.object_size());
        let mut bytes = vec![0; usize::try_from(end - start).map_err(|_large| DOM)?];
        self.read(at, start, &mut bytes)?;
        self.image_mut(at)?.objects.insert(number, Arc::new(bytes));
        Ok(())
    }

    /// Where there may be something, by whole objects, the last first.
    pub(crate) fn diff(
        &self,
        at: &At,
        range: Range<u64>,
        with_parent: bool,
    ) -> Answer<Vec<Range<u64>>> {
        let image = self.image(at)?;
        let (size, objects, parent) = image.at(at.snap)?;
        let mut found = Vec::new();
        for (number, part) in image.parts(range.start..range.end.min(size)) {
            let whole = number * image.object_size()..(number + 1) * image.object_size();
            let there = match parent {
                _ if objects.contains_key(&number) => true,
                Some(parent) if with_parent && whole.start < parent.overlap => {
                    let from = At {
                        pool: parent.pool.clone(),
                        image: parent.image.clone(),
                        snap: Some(parent.snap),
                    };
                    let shared = whole.start..whole.end.min(parent.overlap);
                    !self.diff(&from, shared, true)?.is_empty()
                }
                _ => false,
            };
            if there {
                found.push(part);
            }
        }
        found.reverse();
        Ok(found)
    }
}
