//! An image through memory that the daemon and its caller share.
//!
//! With the head of the answer come two descriptors: of the memory, a `memfd` whose length is sealed, and of
//! the writing end of a pipe. The body is records of 24 bytes, three numbers of 64 bits, the most significant
//! byte first: the offset in the image, a length, and where in the memory so many bytes of the image are. The memory
//! is slots of [`SLOT`] bytes, and each record's bytes are within one, in which there may be those of other records.
//! The caller reads them and gives them back by writing the slot's number, one byte, to the pipe, once for each
//! record; in any order. Otherwise records are as those of [`extents`](super::extents): in order, without holes, and
//! the last has no bytes.
//!
//! **Rule: the last record is sent when every other one has been given back, and not before.** Until then the daemon
//! changes no bytes that a record has told of and that have not been given back, unless it cuts the connection: so
//! who has read the last record has read the bytes of the image and no others.
//!
//! # Decisions
//! * Chose: memory that both sides map. Because: through a socket each byte is copied twice, into new buffers of
//!   the kernel; of an image in the page cache or a cluster in memory that is a third of all the work. Instead
//!   of: larger reads from the socket, which were measured and gain a tenth.
//! * Chose: memory of one answer, emptied when that ends. Because: a caller that keeps its descriptor would keep
//!   memory that is the daemon's. Instead of: memory kept for the next request.
//! * Chose: a pipe for what is given back. Because: whatever a caller sends on its connection is its next
//!   request. Instead of: a count in the memory, which a caller would then have to be able to write.

use std::ops::Range;

use bytes::Bytes;
use imaged_drivers::window::CHUNK;

use super::extents::{Head, Heads, Malformed};

/// The media type of such a body.
pub const MEDIA_TYPE: &str = "application/vnd.imaged.memory";

/// Bytes of a record.
pub const RECORD: usize = 24;

/// Bytes of a slot.
pub const SLOT: usize = CHUNK;

/// How many slots there are.
pub const SLOTS: u8 = 5;

/// Bytes of the memory.
pub const BYTES: usize = SLOT * SLOTS as usize;

/// Images of which fewer bytes are asked for go through the socket: there is little to gain.
pub const WORTH: u64 = 4 << 20;

/// A record: `len` bytes at `offset` of the image are at `at` in the memory, or none at the end.
#[must_use]
pub fn record(offset: u64, len: u64, at: u64) -> Bytes {
    [offset.to_be_bytes(), len.to_be_bytes(), at.to_be_bytes()].concat().into()
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Bytes of the hole before it.
    pub hole: u64,
    /// Where in the memory its bytes begin, and how many there are; `None` at the end.
    pub bytes: Option<(usize, usize)>,
}

/// Reads a body record by record.
#[derive(Debug)]
pub struct Decoder(Heads<RECORD>);

impl Decoder {
    /// For a body that holds `range` of an image.
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        Self(Heads::new(range))
    }

    /// Whether the last record has come: then, and only then, the image is whole.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }

    /// The next record, of which `came` has what it has of the body; that is taken from it. `None` if more has to
    /// come, or nothing will.
    ///
    /// # Errors
    /// The body is not as it has to be.
    pub fn next(&mut self, came: &mut Bytes) -> Result<Option<Told>, Malformed> {
        let Some(Head { hole, len, bytes }) = self.0.next(came)? else { return Ok(None) };
        if len == 0 {
            return Ok(Some(Told { hole, bytes: None }));
        }
        let at = bytes.last_chunk().and_then(|at| usize::try_from(u64::from_be_bytes(*at)).ok());
        let within =
            |at: usize, len: usize| (at % SLOT).checked_add(len).is_some_and(|end| end <= SLOT);
        match (at, usize::try_from(len)) {
            (Some(at), Ok(len)) if at < BYTES && within(at, len) => {
                Ok(Some(Told { hole, bytes: Some((at, len)) }))
            }
            _ => Err(Malformed("a record's bytes are not in a slot")),
        }
    }
}

/// The number of the slot that has the byte at `at` of the memory.
#[must_use]
pub fn slot(at: usize) -> u8 {
    u8::try_from(at / SLOT).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SLOT as u64;

    fn read(records: &[(u64, u64, u64)], end: u64, piece: usize) -> Result<Vec<Told>, Malformed> {
        let body: Vec<u8> =
            records.iter().flat_map(|(offset, len, at)| record(*offset, *len, *at)).collect();
        let (mut decoder, mut told) = (Decoder::new(5..end), Vec::new());
        for piece in body.chunks(piece) {
            let mut came = Bytes::copy_from_slice(piece);
            while !came.is_empty() {
                told.extend(decoder.next(&mut came)?);
            }
        }
        assert_eq!(decoder.is_over(), told.last().is_some_and(|told| told.bytes.is_none()));
        Ok(told)
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_length() {
        for piece in 1..80 {
            let told = read(&[(5, 3, S + 7), (8, S, 3 * S), (S + 9, 0, 0)], S + 9, piece).unwrap();
            let expected = [(0, Some((SLOT + 7, 3))), (0, Some((3 * SLOT, SLOT))), (1, None)];
            assert_eq!(told, expected.map(|(hole, bytes)| Told { hole, bytes }));
        }
        assert_eq!([0, SLOT - 1, SLOT, BYTES - 1].map(slot), [0, 0, 1, SLOTS - 1]);
    }

    #[test]
    fn what_is_in_no_slot_is_refused() {
        let end = u64::from(SLOTS) * S;
        for (offset, len, at, why) in [
            (5, 2, S - 1, "slot"),
            (5, 1, end, "slot"),
            (5, 1, u64::MAX, "slot"),
            (5, S, 1, "slot"),
            (5, S + 1, 0, "slot"),
            (4, 1, 0, "before"),
            (5, u64::MAX, 0, "past"),
            (3 * S, 0, 0, "past"),
            (7, 0, 0, "before the image does"),
        ] {
            let refused = read(&[(offset, len, at)], 2 * S, 24).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
        read(&[(6, 0, 0), (6, 0, 0)], 6, 24).unwrap_err();
        // Not a whole record.
        let mut decoder = Decoder::new(5..5);
        decoder.next(&mut record(5, 0, 0)).unwrap().unwrap();
        let followed = decoder.next(&mut Bytes::from_static(b"x")).unwrap_err();
        assert!(followed.to_string().contains("follows their end"), "{followed}");
    }
}
