//! MD5 (RFC 1321).

use pulp::{Arch, NullaryFnOnce};

use crate::{
    BlockDigest, Kernel,
    vector::{Words, map, map2, map3, together, transposed},
};

/// The state of MD5.
#[derive(Clone, Copy, Debug)]
pub struct Md5(pub(crate) [u32; 4]);

const BLOCK: usize = 64;

impl BlockDigest for Md5 {
    const BLOCK: usize = BLOCK;
    const WIDTH: usize = 8;
    const START: Self = Self([0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]);

    fn blocks(&mut self, blocks: &[u8]) {
        for block in blocks.as_chunks().0 {
            fast_md5::transform(&mut self.0, block);
        }
    }

    fn least_abreast(kernel: Kernel) -> usize {
        // Without AVX-512 a rotation takes three instructions.
        if kernel.wide() { 2 } else { 3 }
    }

    fn abreast(kernel: Kernel, streams: &mut [(&mut Self, &[u8])], bytes: usize) {
        let arch = kernel.arch();
        // Without AVX2 eight streams are two vectors, for which there are not enough registers.
        if streams.len() > 4 && !matches!(arch, Arch::Scalar) {
            compress::<8>(arch, streams, bytes);
        } else {
            for four in streams.chunks_mut(4) {
                compress::<4>(arch, four, bytes);
            }
        }
    }

    fn length(bytes: u64) -> ([u8; 16], usize) {
        let mut length = [0; 16];
        length[..8].copy_from_slice(&bytes.wrapping_mul(8).to_le_bytes());
        (length, 8)
    }

    fn digest(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

fn compress<const N: usize>(arch: Arch, streams: &mut [(&mut Md5, &[u8])], bytes: usize) {
    together(
        streams,
        bytes,
        Md5::START.0,
        |md5| &mut md5.0,
        |words, blocks| arch.dispatch(Compress::<N> { words, blocks }),
    );
}

/// The compression function of as many streams as N, abreast.
struct Compress<'a, const N: usize> {
    words: [Words<u32, N>; 4],
    blocks: [&'a [[u8; BLOCK]]; N],
}

/// Added in each step: the integer part of 2^32 times the sine of the step's number.
pub(crate) const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

const ROTATIONS: [[u32; 4]; 4] =
    [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

impl<const N: usize> NullaryFnOnce for Compress<'_, N> {
    type Output = [Words<u32, N>; 4];

    #[inline(always)]
    fn call(self) -> Self::Output {
        let [mut a, mut b, mut c, mut d] = self.words;
        let add = |x, y| map2(x, y, u32::wrapping_add);
        let mut streams = self.blocks.map(|blocks| blocks.iter());
        'blocks: loop {
            let mut messages = [[0_u32; 16]; N];
            for (message, blocks) in messages.iter_mut().zip(&mut streams) {
                let Some(block) = blocks.next() else { break 'blocks };
                for (word, bytes) in message.iter_mut().zip(block.as_chunks().0) {
                    *word = u32::from_le_bytes(*bytes);
                }
            }
            let message = transposed(messages);
            let before = [a, b, c, d];
            // Every index is a constant, so that all of it stays in registers.
            macro_rules! step {
                ($a:ident, $b:ident, $c:ident, $d:ident, $step:expr) => {{
                    const STEP: usize = $step;
                    const ROUND: usize = STEP / 16;
                    const WORD: usize = [STEP, 5 * STEP + 1, 3 * STEP + 5, 7 * STEP][ROUND] % 16;
                    let mixed = map3($b, $c, $d, |x, y, z| match ROUND {
                        0 => z ^ (x & (y ^ z)),
                        1 => y ^ (z & (x ^ y)),
                        2 => x ^ y ^ z,
                        _ => y ^ (x | !z),
                    });
                    let word = map(message[WORD], |word| word.wrapping_add(SINES[STEP]));
                    let sum = add(add($a, mixed), word);
                    $a = add($b, map(sum, |sum| sum.rotate_left(ROTATIONS[ROUND][STEP % 4])));
                }};
            }
            macro_rules! steps {
                ($($step:expr),*) => {$(
                    step!(a, b, c, d, $step);
                    step!(d, a, b, c, $step + 1);
                    step!(c, d, a, b, $step + 2);
                    step!(b, c, d, a, $step + 3);
                )*};
            }
            steps!(0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60);
            let [a0, b0, c0, d0] = before;
            [a, b, c, d] = [add(a, a0), add(b, b0), add(c, c0), add(d, d0)];
        }
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_vectors_give_what_one_stream_gives() {
        let message: Vec<u8> = (0..9 * BLOCK).map(|at| (at * 7).to_le_bytes()[0]).collect();
        for arch in Kernel::all().into_iter().map(Kernel::arch) {
            for count in 1..=8 {
                let mut states = [Md5::START; 8];
                let mut alone = states;
                let piece = |n: usize| &message[n * BLOCK..][..BLOCK * 2];
                let mut streams: Vec<_> =
                    states.iter_mut().take(count).enumerate().map(|(n, s)| (s, piece(n))).collect();
                compress::<8>(arch, &mut streams, BLOCK * 2);
                for four in streams.chunks_mut(4) {
                    compress::<4>(arch, four, BLOCK);
                }
                for (n, state) in alone.iter_mut().take(count).enumerate() {
                    state.blocks(piece(n));
                    state.blocks(&piece(n)[..BLOCK]);
                }
                assert_eq!(states.map(|s| s.0), alone.map(|s| s.0), "{arch:?}, {count}");
            }
        }
    }
}
