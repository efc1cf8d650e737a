//! Memory that C fills in parts, for several commands at a time.

use std::{ptr::NonNull, sync::Arc};

/// Somebody's memory while commands are to fill it. It is given back when none of them has it any more.
pub(crate) struct Room<R>(R);

// SAFETY: a shared reference gives no access to the owner; there is none but in `whole`, which has it alone.
unsafe impl<R: Send> Sync for Room<R> {}

/// Keeps memory alive.
trait Keep: Send + Sync {}
impl<R: Send> Keep for Room<R> {}

/// A part of a room, for one command.
pub(crate) struct Part {
    memory: NonNull<u8>,
    len: u32,
    _room: Arc<dyn Keep>,
}

// SAFETY: whoever has the part alone may have C write there, on whatever thread; the room lives with it.
unsafe impl Send for Part {}

impl Part {
    /// Where C is to write, and how many bytes at most.
    pub(crate) fn memory(&mut self) -> (*mut u8, u32) {
        (self.memory.as_ptr(), self.len)
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }
}

impl<R: AsMut<[u8]> + Send + 'static> Room<R> {
    /// The room, and its parts of `largest` bytes; the last may be shorter.
    ///
    /// From here on nobody looks into the owner until all parts are gone: it neither moves nor is
    /// borrowed inside its `Arc`.
    pub(crate) fn split(owner: R, largest: u32) -> (Arc<Self>, Vec<Part>) {
        let mut room = Arc::new(Self(owner));
        // Nobody else has it yet.
        let memory = Arc::get_mut(&mut room).map_or(&mut [][..], |room| room.0.as_mut());
        let chunks: Vec<_> = memory
            .chunks_mut(largest as usize)
            .map(|chunk| (NonNull::from(&mut *chunk).cast::<u8>(), chunk.len()))
            .collect();
        let part = |(memory, len)| Part {
            memory,
            // No more than `largest`.
            len: u32::try_from(len).unwrap_or(largest),
            _room: Arc::clone(&room) as Arc<dyn Keep>,
        };
        let parts = chunks.into_iter().map(part).collect();
        (room, parts)
    }

    /// The owner, once no part is left.
    pub(crate) fn whole(self: Arc<Self>) -> Option<R> {
        Arc::into_inner(self).map(|room| room.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_given_back_when_its_last_part_is_gone() {
        let (room, mut parts) = Room::split(vec![1_u8; 10], 4);
        assert_eq!(parts.iter().map(Part::len).collect::<Vec<_>>(), [4, 4, 2]);
        let (memory, _) = parts[1].memory();
        // SAFETY: what C does.
        unsafe { memory.write(7) };
        drop(parts);
        assert_eq!(room.whole().unwrap(), [1, 1, 1, 1, 7, 1, 1, 1, 1, 1]);
        let (room, parts) = Room::split(vec![0_u8; 1], 4);
        assert!(room.whole().is_none());
        drop(parts);
    }
}
