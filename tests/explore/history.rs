//! What was asked and what was answered, and whether what lies on the disks can be true of that.

use std::collections::BTreeMap;

use bytes::Bytes;
use imaged::wire::records::Receipt;
use imaged_drivers::{Error, Kind, Result};

use super::{
    disk::{Disk, md5},
    schedule::{NAMES, Name},
};

/// All that was asked, in the order in which it was.
#[derive(Default)]
pub(super) struct History {
    makes: Vec<Make>,
    deletes: Vec<Delete>,
    /// Counts beginnings and ends.
    time: u64,
}

/// A put or a copy.
struct Make {
    name: Name,
    /// The bytes of a put; `None`: those of its source.
    bytes: Option<Bytes>,
    begun: u64,
    came_to: CameTo,
}

struct Delete {
    name: Name,
    came_to: CameTo,
    /// When it was answered, or lost.
    ended: u64,
}

/// What somebody was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CameTo {
    /// Nothing yet.
    Open,
    /// It is done; an image has this size and, if they are told, these digests.
    Done(u64, Option<(String, String)>),
    /// It may be done: no answer in time, or none at all.
    Unknown,
    /// It is not done.
    Refused,
    /// It is not done, and something was left of it, which the answer names.
    Left,
}

impl CameTo {
    fn of<T>(result: &Result<T>, done: impl FnOnce(&T) -> Self) -> Self {
        match result {
            Ok(answer) => done(answer),
            Err(error) if error.kind() == Kind::Timeout => Self::Unknown,
            Err(error) if error.left().is_some() => Self::Left,
            Err(_) => Self::Refused,
        }
    }

    /// Whether there may be an image.
    fn may_be(&self) -> bool {
        matches!(self, Self::Done(..) | Self::Unknown | Self::Left)
    }
}

impl History {
    fn now(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// A put of `bytes` begins, or a copy.
    pub(super) fn makes(&mut self, name: Name, bytes: Option<Bytes>) -> usize {
        let begun = self.now();
        self.makes.push(Make { name, bytes, begun, came_to: CameTo::Open });
        self.makes.len() - 1
    }

    /// An image that is there before anything is asked.
    pub(super) fn is_there(&mut self, name: Name, bytes: Bytes) {
        let came_to = CameTo::Done(bytes.len() as u64, None);
        self.makes.push(Make { name, bytes: Some(bytes), begun: 0, came_to });
    }

    pub(super) fn made(&mut self, make: usize, result: &Result<Receipt>) {
        self.makes[make].came_to = CameTo::of(result, |receipt| {
            let digests = receipt.checksum.clone().zip(receipt.hash_value.clone());
            CameTo::Done(receipt.size, digests)
        });
    }

    pub(super) fn deletes(&mut self, name: Name) -> usize {
        self.deletes.push(Delete { name, came_to: CameTo::Open, ended: u64::MAX });
        self.deletes.len() - 1
    }

    pub(super) fn deleted(&mut self, delete: usize, result: &Result<(), Error>) {
        let ended = self.now();
        let delete = &mut self.deletes[delete];
        delete.came_to = CameTo::of(result, |()| CameTo::Done(0, None));
        delete.ended = ended;
    }

    /// Nobody hears any more what is under way.
    pub(super) fn crash(&mut self) {
        let ended = self.now();
        let deletes = self.deletes.iter_mut().filter(|delete| delete.came_to == CameTo::Open);
        deletes.for_each(|delete| {
            delete.ended = ended;
            delete.came_to = CameTo::Unknown;
        });
        let makes = self.makes.iter_mut().filter(|make| make.came_to == CameTo::Open);
        makes.for_each(|make| make.came_to = CameTo::Unknown);
    }

    /// Whether `bytes` are those of `range` of some image that was put, of `size` bytes in all.
    pub(super) fn knows(&self, bytes: &[u8], from: u64, size: u64) -> bool {
        let from = usize::try_from(from).unwrap();
        self.makes
            .iter()
            .filter_map(|make| make.bytes.as_ref())
            .any(|put| put.len() as u64 == size && put.get(from..from + bytes.len()) == Some(bytes))
    }

    /// Compares what lies on the disks with what was answered.
    pub(super) fn compare(&self, disks: &[std::sync::Arc<Disk>; 3]) {
        for (store, disk) in disks.iter().enumerate() {
            let images: BTreeMap<String, (Bytes, _)> = disk
                .content()
                .images
                .iter()
                .map(|(id, image)| (id.to_string(), (image.bytes.clone(), image.digests.clone())))
                .collect();
            for (id, (bytes, digests)) in &images {
                let of_id = |name: &Name| name.store == store && name.id == id;
                let mut makes = self.makes.iter().filter(|make| of_id(&make.name));
                let may_be = |make: &Make| {
                    let same = match &make.bytes {
                        Some(put) => put == bytes,
                        None => self.knows(bytes, 0, bytes.len() as u64),
                    };
                    same && make.came_to.may_be()
                };
                if !makes.any(may_be) {
                    let size = bytes.len();
                    disk.report(format!("an image {id} of {size} bytes that nobody has put whole"));
                }
                if digests.as_ref().is_some_and(|digests| digests.checksum != Some(md5(bytes))) {
                    disk.report(format!("an image {id} with the digests of another"));
                }
            }
            for make in self.makes.iter().filter(|make| make.name.store == store) {
                let CameTo::Done(size, told) = &make.came_to else { continue };
                if self.may_be_deleted(make) {
                    continue;
                }
                match images.get(make.name.id) {
                    None => {
                        disk.report(format!("an image {} was stored and is gone", make.name.id))
                    }
                    Some((bytes, _)) => {
                        let other = make.bytes.as_ref().is_some_and(|put| put != bytes)
                            || bytes.len() as u64 != *size
                            || told.as_ref().is_some_and(|(checksum, _)| *checksum != md5(bytes));
                        if other {
                            disk.report(format!(
                                "an image {} is not what was stored",
                                make.name.id
                            ));
                        }
                    }
                }
            }
        }
    }

    /// Whether a delete that was answered, or lost, after this began may have removed it.
    fn may_be_deleted(&self, make: &Make) -> bool {
        self.deletes.iter().any(|delete| {
            delete.name == make.name && delete.ended > make.begun && delete.came_to.may_be()
        })
    }

    /// Why the answer to a put, if it is this, cannot be true of what now lies on `disk`.
    pub(super) fn is_false_refusal(&self, make: usize, disk: &Disk) -> Option<String> {
        let Make { name, bytes: Some(bytes), came_to: CameTo::Refused, .. } = &self.makes[make]
        else {
            return None;
        };
        let id = name.id.parse().unwrap();
        // Two images of no byte are the same.
        let there = !bytes.is_empty()
            && disk.content().images.get(&id).is_some_and(|image| image.bytes == bytes);
        there.then(|| {
            format!("a put of {} to {} was refused and is there", name.id, NAMES[name.store])
        })
    }
}
