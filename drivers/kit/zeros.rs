//! Blocks of zeros, which backends that can leave them out do not store.

/// Zeros are looked for in blocks of this many bytes.
pub const BLOCK: usize = 64 << 10;
static ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

/// The stretches of `chunk` that are not zeros, as offsets from its start: blocks that follow each
/// other are one.
pub fn data(chunk: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut done = 0;
    std::iter::from_fn(move || {
        let rest = chunk.get(done..)?;
        let from = done.saturating_add(run(rest, true));
        let data = run(chunk.get(from..).unwrap_or_default(), false);
        done = from.saturating_add(data);
        (data > 0).then_some(from..done)
    })
}

/// How many bytes at the start of `bytes` are whole blocks of zeros, or of anything else.
fn run(bytes: &[u8], zeros: bool) -> usize {
    bytes.chunks(BLOCK).take_while(|block| is_zero(block) == zeros).map(<[u8]>::len).sum()
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
        assert_eq!(data(&bytes).next(), None);
        bytes[2 * BLOCK + 1] = 1;
        bytes[3 * BLOCK] = 1;
        let found: Vec<_> = data(&bytes).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0], 2 * BLOCK..4 * BLOCK);
        bytes[0] = 1;
        bytes[5 * BLOCK + 4] = 1;
        let found: Vec<_> = data(&bytes).collect();
        assert_eq!(found, [0..BLOCK, 2 * BLOCK..4 * BLOCK, 5 * BLOCK..5 * BLOCK + 5]);
        assert_eq!(data(&[]).next(), None);
    }
}
