//! What the images of a benchmark hold: bytes that no store can compress, at no cost.
//!
//! One region of 17 MiB is filled with pseudo-random bytes once. A piece of 1 MiB of an image is a
//! slice of it, at an offset that depends on the image's seed and the piece's number: nothing is
//! computed or copied for each byte, and neither images nor pieces are alike. Blocks of zeros are
//! spread evenly, which for small blocks is the hardest way for a store that skips them.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};

/// Bytes that lie together in the region.
const PIECE: u64 = 1 << 20;
/// Where a piece may begin in the region: below this, at each 64 bytes.
const STARTS: u64 = 16 << 20;
/// Bytes compared at each end of what came back.
const PROBE: usize = 64;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The bytes of one image, of any length.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    region: Bytes,
    seed: u64,
    /// Blocks of zeros in a million.
    zeros: u64,
    /// Bytes of a block that is zeros or not.
    block: u64,
}

impl Pattern {
    /// The first image, with this share of blocks of zeros, of `block` bytes each.
    pub(super) fn new(zeros: f64, block: u64) -> Self {
        let mut region = Vec::new();
        let mut state = 0;
        while (region.len() as u64) < STARTS + PIECE {
            state = step(state);
            region.extend_from_slice(&mix(state).to_le_bytes());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to a million"
        )]
        let zeros = (zeros.clamp(0.0, 1.0) * 1e6).round() as u64;
        Self { region: region.into(), seed: 0, zeros, block: block.max(1) }
    }

    /// The first image, without zeros.
    pub(super) fn dense() -> Self {
        Self::new(0.0, PIECE)
    }

    /// Another image.
    pub(super) fn seeded(&self, seed: u64) -> Self {
        Self { seed, ..self.clone() }
    }

    /// 16 MiB without zeros.
    pub(super) fn region(&self) -> Bytes {
        self.region.slice(..usize::try_from(STARTS).unwrap_or(0))
    }

    /// As many bytes as lie together at `offset`, at most `most`; never none of them.
    pub(super) fn at(&self, offset: u64, most: u64) -> Bytes {
        let block = offset / self.block;
        let zero = self.is_zero(block);
        let piece = offset / PIECE;
        let last = (piece + 1) * PIECE;
        let ends = (block + 1..)
            .take_while(|block| block * self.block < last)
            .find(|block| self.is_zero(*block) != zero);
        let end = ends.map_or(last, |block| block * self.block).min(offset + most.max(1));
        let count = usize::try_from(end - offset).unwrap_or(0);
        if zero {
            return Bytes::from_static(ZEROS.get(..count).unwrap_or(&ZEROS));
        }
        let start = mix(step(self.seed ^ mix(piece))) % (STARTS / 64) * 64 + offset % PIECE;
        let start = usize::try_from(start).unwrap_or(0);
        self.region.slice(start..start + count)
    }

    fn is_zero(&self, block: u64) -> bool {
        self.zeros_before(block + 1) > self.zeros_before(block)
    }

    /// How many of the first `blocks` blocks are zeros.
    fn zeros_before(&self, blocks: u64) -> u128 {
        u128::from(blocks) * u128::from(self.zeros) / 1_000_000
    }

    /// Whether the `len` bytes at `offset` are zeros, all of them.
    pub(super) fn is_hole(&self, offset: u64, len: u64) -> bool {
        let (first, end) = (offset / self.block, (offset + len).div_ceil(self.block));
        let blocks = u128::from(end.saturating_sub(first));
        len == 0 || self.zeros_before(end) - self.zeros_before(first) == blocks
    }

    /// The pieces of an image of `size` bytes.
    pub(super) fn pieces(self, size: u64) -> impl Iterator<Item = Bytes> + Send + 'static {
        let mut offset = 0;
        std::iter::from_fn(move || {
            let bytes = (offset < size).then(|| self.at(offset, size - offset))?;
            offset += bytes.len() as u64;
            Some(bytes)
        })
    }

    /// An image of `size` bytes as a body.
    pub(super) fn body(self, size: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::iter(self.pieces(size).map(Ok))
    }

    /// Whether `bytes` begin and end as those at `offset` do. Comparing all of them would be a
    /// measurable part of reading them.
    pub(super) fn resembles(&self, offset: u64, bytes: &[u8]) -> bool {
        let head = bytes.get(..PROBE).unwrap_or(bytes);
        let from = bytes.len().saturating_sub(PROBE);
        let tail = bytes.get(from..).unwrap_or(bytes);
        self.is_at(offset, head) && self.is_at(offset + from as u64, tail)
    }

    fn is_at(&self, mut offset: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let ours = self.at(offset, bytes.len() as u64);
            match bytes.strip_prefix(ours.as_ref()) {
                Some(rest) => bytes = rest,
                None => return false,
            }
            offset += ours.len() as u64;
        }
        true
    }
}

/// The next state of SplitMix64.
fn step(state: u64) -> u64 {
    state.wrapping_add(0x9e37_79b9_7f4a_7c15)
}

/// The output of SplitMix64.
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 64 << 10;

    fn whole(pattern: &Pattern, size: u64) -> Vec<u8> {
        pattern.clone().pieces(size).flatten().collect()
    }

    #[test]
    fn an_image_is_as_long_as_asked_and_the_same_each_time() {
        let pattern = Pattern::new(0.3, BLOCK).seeded(7);
        for size in [1, 4095, 65536, 3_000_001] {
            let bytes = whole(&pattern, size);
            assert_eq!(bytes.len() as u64, size);
            assert_eq!(bytes, whole(&pattern, size));
            assert!(pattern.resembles(0, &bytes));
        }
    }

    #[test]
    fn images_and_pieces_are_not_alike() {
        let pattern = Pattern::new(0.0, BLOCK);
        let (one, other) = (whole(&pattern.seeded(1), 2 << 20), whole(&pattern.seeded(2), 2 << 20));
        assert_ne!(one, other);
        assert_ne!(one[..1 << 20], one[1 << 20..]);
        assert!(!pattern.seeded(1).resembles(0, &other));
        assert!(!pattern.seeded(1).resembles(1 << 20, &one));
    }

    #[test]
    fn the_share_of_zeros_is_exact() {
        for (share, blocks) in [(0.0, 0), (0.25, 40), (0.9, 144), (1.0, 160)] {
            let bytes = whole(&Pattern::new(share, BLOCK).seeded(3), 10 << 20);
            let zero = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
            assert_eq!(bytes.chunks(1 << 16).filter(zero).count(), blocks, "{share}");
        }
    }

    #[test]
    fn blocks_of_zeros_have_the_size_that_was_asked_for() {
        for block in [4096, 3 << 16, 1 << 20, 3 << 20, 8 << 20, 5_000_000] {
            let pattern = Pattern::new(0.75, block).seeded(3);
            let bytes = whole(&pattern, 40 << 20);
            let length = usize::try_from(block).unwrap();
            let zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
            for (n, one) in bytes.chunks(length).enumerate() {
                assert_eq!(zero(one), n % 4 != 0, "{block}: {n}");
                let (n, len) = (n as u64, one.len() as u64);
                assert_eq!(pattern.is_hole(n * block, len), zero(one), "{block}: {n}");
                assert_eq!(pattern.is_hole(n * block + 1, 1), zero(one), "{block}: {n}");
            }
            assert!(pattern.is_hole(block, 3 * block) && pattern.is_hole(7, 0));
            assert!(!pattern.is_hole(block, 3 * block + 1) && !pattern.is_hole(block - 1, 2));
        }
    }

    #[test]
    fn every_byte_value_is_as_frequent_as_the_others() {
        let mut counts = [0_u32; 256];
        whole(&Pattern::new(0.0, BLOCK).seeded(5), 1 << 20)
            .iter()
            .for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (3600..4600).contains(count)), "{counts:?}");
    }
}
