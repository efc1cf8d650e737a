//! Blocks of zeros, which backends that can leave them out do not store.

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

/// The stretches of `chunk` that are not zeros, as offsets from its start: blocks that follow each
/// other are one. The chunk begins at the offset `at` of its image, and blocks are those of the image,
/// so that the same is left out however an image is cut into chunks.
pub fn data(chunk: &[u8], at: u64) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let before = usize::try_from(at % BLOCK as u64).unwrap_or_default();
    let mut done = 0;
    std::iter::from_fn(move || {
        let from = done + run(chunk, done, before, true);
        done = from + run(chunk, from, before, false);
        (done > from).then_some(from..done)
    })
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
    use super::*;

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
}
