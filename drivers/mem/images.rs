//! The images of one store, and those that are being made.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::contract::{Digests, Error, ImageId, Kind};

/// What a store holds.
#[derive(Debug, Default)]
pub(super) struct Images {
    pub(super) whole: BTreeMap<ImageId, Image>,
    pub(super) used: u64,
}

/// A whole image.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) bytes: Bytes,
    pub(super) digests: Option<Digests>,
}

/// The refusal of bytes for which there is no space.
pub(super) fn full(store: &str) -> Error {
    Error::new(
        Kind::Full,
        format!("the store is full; delete images or raise mem_capacity: store=`{store}`"),
    )
}

/// Space that an upload takes, given up when dropped.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) images: Arc<Mutex<Images>>,
    pub(super) held: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut images = self.images.lock();
        images.used = images.used.saturating_sub(self.held);
    }
}
