//! The bytes of images.

use bytes::Bytes;
use imaged::digest::Algo;
use imaged_drivers::{
    Digests,
    window::{Buffer, PAGE},
};

/// Zeros are skipped in blocks of this many bytes.
const BLOCK: usize = 64 << 10;

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Look {
    /// Bytes that no one can shorten.
    Random,
    /// Nothing but zeros.
    Zeros,
    /// Blocks of zeros at odd places, whole and torn, and zeros at the end.
    Mixed,
}

impl Look {
    pub(crate) const ALL: [Self; 3] = [Self::Random, Self::Zeros, Self::Mixed];
}

/// An image of `size` bytes; another `seed` gives other bytes, unless they are zeros.
pub(crate) fn image(look: Look, size: usize, seed: u64) -> Bytes {
    let mut bytes = match look {
        Look::Zeros => vec![0; size],
        Look::Random | Look::Mixed => random(size, seed),
    };
    if matches!(look, Look::Mixed) {
        for odd in (1..size.div_ceil(BLOCK)).step_by(2) {
            // Every third one begins off its place, so that it is no whole block.
            let from = odd * BLOCK + if odd % 3 == 0 { 1000 } else { 0 };
            let to = (from + BLOCK).min(size);
            bytes.get_mut(from..to).unwrap_or_default().fill(0);
        }
        let tail = (size / 3).min(3 * BLOCK);
        bytes[size - tail..].fill(0);
    }
    bytes.into()
}

/// Bytes of xorshift64*, none of them zero.
fn random(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d) | 0x0101_0101_0101_0101;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// `bytes` in pieces of `chunk`, as they lie.
pub(crate) fn pieces(bytes: &Bytes, chunk: usize) -> Vec<Bytes> {
    (0..bytes.len())
        .step_by(chunk)
        .map(|from| bytes.slice(from..bytes.len().min(from + chunk)))
        .collect()
}

/// The same pieces in buffers that begin on a page, as the daemon makes them.
pub(crate) fn aligned(bytes: &Bytes, chunk: usize) -> Vec<Bytes> {
    assert!(chunk.is_multiple_of(PAGE));
    let mut pieces = Vec::new();
    for piece in self::pieces(bytes, chunk) {
        let mut buffer = Buffer::uncounted(chunk).unwrap();
        assert_eq!(buffer.push(&piece), piece.len());
        pieces.push(buffer.freeze());
    }
    pieces
}

/// The digest of `bytes` by `algo`.
pub(crate) fn digest(bytes: &[u8], algo: Algo) -> String {
    let mut hasher = algo.hasher();
    hasher.update(bytes);
    hasher.finish()
}

/// The digests that go with `bytes`.
pub(crate) fn digests(bytes: &[u8], algo: Algo) -> Digests {
    Digests {
        checksum: Some(digest(bytes, Algo::Md5)),
        hash_algo: algo.name().to_owned(),
        hash_value: digest(bytes, algo),
    }
}
