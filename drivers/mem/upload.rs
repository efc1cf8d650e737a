//! Writing an image: its bytes are gathered, and inserted whole.

use std::{collections::btree_map::Entry, fmt};

use async_trait::async_trait;
use bytes::Bytes;

use super::images::{Begun, Image, full};
use crate::{
    contract::{Claim, Committed, Digests, Result, Upload},
    kit::refusals::already_exists,
};

/// An image whose bytes are gathered.
pub(super) struct Writing {
    pub(super) at: crate::Location,
    pub(super) claim: Claim,
    pub(super) begun: Begun,
    pub(super) name: String,
    pub(super) capacity: u64,
    pub(super) bytes: Vec<u8>,
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let mut images = self.begun.images.lock();
        if images.used.saturating_add(chunk.len() as u64) > self.capacity {
            return Err(full(&self.name));
        }
        images.used += chunk.len() as u64;
        self.begun.held += chunk.len() as u64;
        drop(images);
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    fn at(&self) -> &crate::Location {
        &self.at
    }

    async fn commit(mut self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let stored_bytes = bytes.len() as u64;
        let image = Image { bytes, digests: Some(digests.clone()) };
        match self.begun.images.lock().whole.entry(self.claim.id().clone()) {
            Entry::Vacant(free) => drop(free.insert(image)),
            Entry::Occupied(_) => return Err(already_exists(self.claim.id(), &self.name)),
        }
        self.begun.held = 0; // the space is the image's now
        Ok(Committed { stored_bytes })
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
