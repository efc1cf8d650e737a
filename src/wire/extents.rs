//! An image as extents: what it holds, and nothing of its holes.
//!
//! The body is records, each a head of 16 bytes and the bytes that it tells of. A head is two numbers of 64
//! bits, the most significant byte first: the offset in the image, and how many bytes follow. Records are
//! in the order of their offsets and do not overlap; what lies between them, and before the first, reads as
//! zeros. The last record has no bytes, and its offset is where the image, or the part of it that was asked
//! for, ends: a body without it is not whole.
//!
//! # Decisions
//! * Chose: a record at the end beside the end of the chunked body. Because: an image that ends in a hole is
//!   then told from one that ends early by its bytes alone, also where something between the two ends has
//!   changed the framing. Instead of: the framing of HTTP alone.
//! * Chose: many records for one extent. Because: how long an extent is need not be known when its first
//!   bytes leave. Instead of: a list of all extents first, which of a file of many holes is long to make.

use std::ops::Range;

use bytes::{Buf as _, Bytes};
use imaged_drivers::Extent;

/// The media type of such a body.
pub const MEDIA_TYPE: &str = "application/vnd.imaged.extents";

/// Bytes of a record's head.
const HEAD: usize = 16;

/// The head of a record: `len` bytes at `offset` follow, or none at the end.
#[must_use]
pub fn head(offset: u64, len: u64) -> Bytes {
    [offset.to_be_bytes(), len.to_be_bytes()].concat().into()
}

/// A body that is no image of the length that it should have; its text says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub(super) &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the extents of the image cannot be read: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads the heads of records, in pieces of any length, and sees that they are in order.
#[derive(Debug)]
pub(super) struct Heads<const BYTES: usize> {
    /// Where in the image the next byte is.
    at: u64,
    /// Where the image, or the part of it, ends.
    end: u64,
    /// What has come of the next head.
    came: Vec<u8>,
    /// The last record has come.
    over: bool,
}

/// What the head of a record tells.
#[derive(Debug)]
pub(super) struct Head<const BYTES: usize> {
    /// Bytes of the hole before the record.
    pub(super) hole: u64,
    /// Bytes of the record; none at the end.
    pub(super) len: u64,
    /// The whole head.
    pub(super) bytes: [u8; BYTES],
}

impl<const BYTES: usize> Heads<BYTES> {
    /// Of a body that holds `range` of an image.
    pub(super) fn new(range: Range<u64>) -> Self {
        Self { at: range.start, end: range.end, came: Vec::with_capacity(BYTES), over: false }
    }

    /// Whether the last record has come.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The next head, of which `came` has what it has of the body; that is taken from it. `None` if more has
    /// to come, or nothing will.
    pub(super) fn next(&mut self, came: &mut Bytes) -> Result<Option<Head<BYTES>>, Malformed> {
        if came.is_empty() {
            return Ok(None);
        }
        if self.over {
            return Err(Malformed("something follows their end"));
        }
        let wanted = BYTES.saturating_sub(self.came.len()).min(came.len());
        self.came.extend_from_slice(&came.split_to(wanted));
        let Ok(bytes) = <[u8; BYTES]>::try_from(self.came.as_slice()) else { return Ok(None) };
        self.came.clear();
        let mut head = bytes.as_slice();
        let (offset, len) = (head.get_u64(), head.get_u64());
        let hole = offset
            .checked_sub(self.at)
            .ok_or(Malformed("a record begins before the last one ends"))?;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.end)
            .ok_or(Malformed("a record goes past the end of the image"))?;
        self.over = len == 0;
        if self.over && offset != self.end {
            return Err(Malformed("they end before the image does"));
        }
        self.at = end;
        Ok(Some(Head { hole, len, bytes }))
    }
}

/// Reads a body as it comes, in pieces of any length.
#[derive(Debug)]
pub struct Decoder {
    heads: Heads<HEAD>,
    /// Bytes that the record still has.
    left: u64,
}

impl Decoder {
    /// For a body that holds `range` of an image.
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        Self { heads: Heads::new(range), left: 0 }
    }

    /// Whether the last record has come: then, and only then, the image is whole.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.heads.is_over()
    }

    /// The next extent, of which `came` has what it has of the body; that is taken from it. `None` if
    /// more has to come, or nothing will.
    ///
    /// # Errors
    /// The body is not as it has to be.
    pub fn next(&mut self, came: &mut Bytes) -> Result<Option<Extent>, Malformed> {
        loop {
            if self.left > 0 && !came.is_empty() {
                let len =
                    usize::try_from(self.left).map_or(came.len(), |left| left.min(came.len()));
                let bytes = came.split_to(len);
                self.left = self.left.saturating_sub(len as u64);
                return Ok(Some(Extent::Data(bytes)));
            }
            let Some(Head { hole, len, .. }) = self.heads.next(came)? else { return Ok(None) };
            self.left = len;
            if hole > 0 {
                return Ok(Some(Extent::Hole(hole)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(records: &[(u64, &[u8])], end: u64) -> Bytes {
        let mut body = Vec::new();
        for (offset, bytes) in records {
            body.extend_from_slice(&head(*offset, bytes.len() as u64));
            body.extend_from_slice(bytes);
        }
        body.extend_from_slice(&head(end, 0));
        body.into()
    }

    /// What a body has that comes in pieces of `piece` bytes, and whether it is whole.
    fn read(body: &Bytes, range: Range<u64>, piece: usize) -> Result<(Vec<u8>, bool), Malformed> {
        let (mut decoder, mut found) = (Decoder::new(range), Vec::new());
        for piece in body.chunks(piece) {
            let mut came = Bytes::copy_from_slice(piece);
            while let Some(extent) = decoder.next(&mut came)? {
                match extent {
                    Extent::Data(bytes) => found.extend_from_slice(&bytes),
                    Extent::Hole(len) => {
                        found.resize(found.len() + usize::try_from(len).unwrap(), 0)
                    }
                }
            }
            assert!(came.is_empty());
        }
        Ok((found, decoder.is_over()))
    }

    #[test]
    fn what_is_written_is_read_in_pieces_of_any_length() {
        let body = body(&[(3, b"abc"), (6, b"d"), (9, b"efg")], 20);
        let whole = b"\0\0\0abcd\0\0efg\0\0\0\0\0\0\0\0";
        for piece in 1..=body.len() {
            assert_eq!(read(&body, 0..20, piece).unwrap(), (whole.to_vec(), true));
            assert_eq!(read(&body, 2..20, piece).unwrap(), (whole[2..].to_vec(), true));
        }
        for short in 0..body.len() {
            let (found, over) = read(&body.slice(..short), 0..20, 7).unwrap();
            assert!(!over && found.len() < 20, "{short}");
        }
        assert_eq!(read(&head(5, 0), 0..5, 16).unwrap(), (vec![0; 5], true));
        assert_eq!(read(&head(0, 0), 0..0, 16).unwrap(), (vec![], true));
    }

    #[test]
    fn what_is_no_image_of_its_length_is_refused() {
        let after = [body(&[], 20), Bytes::from_static(b"x")].concat().into();
        for (start, body, why) in [
            (0, body(&[(0, b"abc"), (2, b"d")], 20), "before the last one ends"),
            (6, head(5, 1), "before the last one ends"),
            (0, body(&[(0, b"abc")], 19), "before the image does"),
            (0, body(&[], 0), "before the image does"),
            (0, body(&[(0, b"abc")], 21), "past the end"),
            (0, body(&[(19, b"ab")], 20), "past the end"),
            (0, head(u64::MAX, 5), "past the end"),
            (0, head(1, u64::MAX), "past the end"),
            (0, after, "follows their end"),
        ] {
            for piece in [1, 5, 100] {
                let refused = read(&body, start..20, piece).unwrap_err().to_string();
                assert!(refused.contains(why), "{refused}");
            }
        }
    }
}
