//! Blocks of zeros, which backends that can leave them out do not store.

use futures_util::{Stream, TryStreamExt as _, stream};

use crate::contract::{Extent, Result};

/// Zeros are looked for in blocks of this many bytes.
pub const BLOCK: usize = 64 << 10;

/// Where the block begins that has the byte at `at`.
#[must_use]
pub fn block_start(at: u64) -> u64 {
    at - at % BLOCK as u64
}

/// Where the block ends that has the byte before `at`.
#[must_use]
pub fn block_end(at: u64) -> u64 {
    at.checked_next_multiple_of(BLOCK as u64).unwrap_or(at)
}

static ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

/// The stretches of `chunk`, as offsets from its start, and whether each holds something: blocks that
/// follow each other are one. The chunk begins at the offset `at` of its image, and blocks are those of the
/// image, so that the same is left out however an image is cut into chunks.
pub fn stretches(
    chunk: &[u8],
    at: u64,
) -> impl Iterator<Item = (std::ops::Range<usize>, bool)> + '_ {
    let before = usize::try_from(at % BLOCK as u64).unwrap_or_default();
    let mut done = 0;
    std::iter::from_fn(move || {
        let from = done;
        let zeros = run(chunk, from, before, true);
        let (len, holds) = match zeros {
            0 => (run(chunk, from, before, false), true),
            zeros => (zeros, false),
        };
        done = from + len;
        (len > 0).then_some((from..done, holds))
    })
}

/// Those of them that hold something.
pub fn data(chunk: &[u8], at: u64) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    stretches(chunk, at).filter_map(|(run, holds)| holds.then_some(run))
}

/// The same extents, of which the first begins at the offset `at` of its image, with blocks of zeros as holes:
/// so that they need not be moved, whatever the backend knows of them.
pub fn thinned(
    extents: impl Stream<Item = Result<Extent>>,
    mut at: u64,
) -> impl Stream<Item = Result<Extent>> {
    let thin = extents.map_ok(move |extent| {
        let start = at;
        let parts = match extent {
            Extent::Hole(len) => {
                at = at.saturating_add(len);
                vec![Extent::Hole(len)]
            }
            Extent::Data(bytes) => {
                at = at.saturating_add(bytes.len() as u64);
                let part = |(run, holds): (std::ops::Range<usize>, bool)| match holds {
                    true => Extent::Data(bytes.slice(run)),
                    false => Extent::Hole(run.len() as u64),
                };
                stretches(&bytes, start).map(part).collect()
            }
        };
        stream::iter(parts.into_iter().map(Ok))
    });
    thin.try_flatten()
}

/// How many bytes from `from` on are of blocks that are all zeros, or are not. The first block has
/// begun `before` bytes before the chunk.
fn run(chunk: &[u8], from: usize, before: usize, zeros: bool) -> usize {
    let chunk = chunk.get(from..).unwrap_or_default();
    let (first, rest) = chunk.split_at(chunk.len().min(BLOCK - (before + from) % BLOCK));
    std::iter::once(first)
        .chain(rest.chunks(BLOCK))
        .take_while(|block| !block.is_empty() && is_zero(block) == zeros)
        .map(<[u8]>::len)
        .sum()
}

/// Compares with zeros by memcmp, which the C library vectorises.
fn is_zero(block: &[u8]) -> bool {
    ZERO_BLOCK.get(..block.len()) == Some(block)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::window::filled;

    #[test]
    fn runs_of_zeros_end_at_the_first_block_with_a_byte_in_it() {
        let mut bytes = vec![0; 5 * BLOCK + 5];
        assert_eq!(data(&bytes, 0).next(), None);
        bytes[2 * BLOCK + 1] = 1;
        bytes[3 * BLOCK] = 1;
        let found: Vec<_> = data(&bytes, 0).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0], 2 * BLOCK..4 * BLOCK);
        bytes[0] = 1;
        bytes[5 * BLOCK + 4] = 1;
        let found: Vec<_> = data(&bytes, 0).collect();
        assert_eq!(found, [0..BLOCK, 2 * BLOCK..4 * BLOCK, 5 * BLOCK..5 * BLOCK + 5]);
        assert_eq!(data(&[], 0).next(), None);
        // Cut in the middle of a block, which is two parts then.
        let (head, tail) = bytes.split_at(2 * BLOCK + 7);
        let found: Vec<_> = data(head, 0).chain(data(tail, 2 * BLOCK as u64 + 7)).collect();
        let end = 3 * BLOCK - 7;
        assert_eq!(
            found,
            [0..BLOCK, 2 * BLOCK..2 * BLOCK + 7, BLOCK - 7..2 * BLOCK - 7, end..end + 5]
        );
    }

    #[tokio::test]
    async fn blocks_of_zeros_are_holes_however_an_image_is_cut() {
        let block = BLOCK;
        let mut image = vec![0_u8; 9 * block + 7];
        image[3 * block - 1] = 1;
        image[5 * block..7 * block].fill(2);
        image[9 * block + 6] = 3;
        for (start, cut) in [(0, block), (0, usize::MAX), (5, 3 * block), (block, 999)] {
            let part = image.get(start..).unwrap();
            let chunks = part.chunks(cut.min(part.len()));
            let chunks = chunks.map(|chunk| Ok(Extent::Data(Bytes::copy_from_slice(chunk))));
            // Beside holes that the backend knows.
            let extents = stream::iter([Ok(Extent::Hole(0))].into_iter().chain(chunks));
            let thin: Vec<_> = thinned(extents, start as u64).try_collect().await.unwrap();
            let data: usize = thin
                .iter()
                .map(|one| if let Extent::Data(bytes) = one { bytes.len() } else { 0 })
                .sum();
            assert!(data <= 3 * block + 7, "{start} {cut}: {data}");
            let whole = filled(stream::iter(thin.into_iter().map(Ok)));
            let whole: Vec<Bytes> = whole.try_collect().await.unwrap();
            assert!(whole.concat() == part, "{start} {cut}");
        }
        let failed = stream::iter([Err(crate::contract::Error::new(crate::Kind::Timeout, "late"))]);
        let failed: Result<Vec<Extent>> = thinned(failed, 0).try_collect().await;
        assert!(failed.is_err());
    }
}
