//! SHA-512 (FIPS 180-4).

use pulp::{Arch, NullaryFnOnce};

use crate::{
    BlockDigest, Kernel,
    openssl::sha512_blocks,
    vector::{Words, map, map2, map3, together, transposed},
};

/// The state of SHA-512.
#[derive(Clone, Copy, Debug)]
pub struct Sha512(pub(crate) [u64; 8]);

const BLOCK: usize = 128;
const WIDTH: usize = 4;

impl BlockDigest for Sha512 {
    const BLOCK: usize = BLOCK;
    const WIDTH: usize = WIDTH;
    const START: Self = Self([
        0x6a09_e667_f3bc_c908,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1,
        0x9b05_688c_2b3e_6c1f,
        0x1f83_d9ab_fb41_bd6b,
        0x5be0_cd19_137e_2179,
    ]);

    fn blocks(&mut self, blocks: &[u8]) {
        sha512_blocks(&mut self.0, blocks);
    }

    fn least_abreast(kernel: Kernel) -> usize {
        // With AVX2 four streams abreast are slower than one after the other in OpenSSL.
        if kernel.wide() { 2 } else { usize::MAX }
    }

    fn abreast(kernel: Kernel, streams: &mut [(&mut Self, &[u8])], bytes: usize) {
        compress(kernel.arch(), streams, bytes);
    }

    fn length(bytes: u64) -> ([u8; 16], usize) {
        ((u128::from(bytes) * 8).to_be_bytes(), 16)
    }

    fn digest(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_be_bytes()).collect()
    }
}

fn compress(arch: Arch, streams: &mut [(&mut Sha512, &[u8])], bytes: usize) {
    together(
        streams,
        bytes,
        Sha512::START.0,
        |sha512| &mut sha512.0,
        |words, blocks| arch.dispatch(Compress::<WIDTH> { words, blocks }),
    );
}

/// The compression function of as many streams as N, abreast.
struct Compress<'a, const N: usize> {
    words: [Words<u64, N>; 8],
    blocks: [&'a [[u8; BLOCK]]; N],
}

/// Added in each round: the fractions of the cube roots of the first 80 primes.
pub(crate) const ROOTS: [u64; 80] = [
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
    0xb5c0_fbcf_ec4d_3b2f,
    0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538,
    0x59f1_11f1_b605_d019,
    0x923f_82a4_af19_4f9b,
    0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242,
    0x1283_5b01_4570_6fbe,
    0x2431_85be_4ee4_b28c,
    0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f,
    0x80de_b1fe_3b16_96b1,
    0x9bdc_06a7_25c7_1235,
    0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2,
    0xefbe_4786_384f_25e3,
    0x0fc1_9dc6_8b8c_d5b5,
    0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275,
    0x4a74_84aa_6ea6_e483,
    0x5cb0_a9dc_bd41_fbd4,
    0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab,
    0xa831_c66d_2db4_3210,
    0xb003_27c8_98fb_213f,
    0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2,
    0xd5a7_9147_930a_a725,
    0x06ca_6351_e003_826f,
    0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc,
    0x2e1b_2138_5c26_c926,
    0x4d2c_6dfc_5ac4_2aed,
    0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de,
    0x766a_0abb_3c77_b2a8,
    0x81c2_c92e_47ed_aee6,
    0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364,
    0xa81a_664b_bc42_3001,
    0xc24b_8b70_d0f8_9791,
    0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218,
    0xd699_0624_5565_a910,
    0xf40e_3585_5771_202a,
    0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8,
    0x1e37_6c08_5141_ab53,
    0x2748_774c_df8e_eb99,
    0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63,
    0x4ed8_aa4a_e341_8acb,
    0x5b9c_ca4f_7763_e373,
    0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc,
    0x78a5_636f_4317_2f60,
    0x84c8_7814_a1f0_ab72,
    0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28,
    0xa450_6ceb_de82_bde9,
    0xbef9_a3f7_b2c6_7915,
    0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c,
    0xd186_b8c7_21c0_c207,
    0xeada_7dd6_cde0_eb1e,
    0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba,
    0x0a63_7dc5_a2c8_98a6,
    0x113f_9804_bef9_0dae,
    0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84,
    0x32ca_ab7b_40c7_2493,
    0x3c9e_be0a_15c9_bebc,
    0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6,
    0x597f_299c_fc65_7e2a,
    0x5fcb_6fab_3ad6_faec,
    0x6c44_198c_4a47_5817,
];

impl<const N: usize> NullaryFnOnce for Compress<'_, N> {
    type Output = [Words<u64, N>; 8];

    #[inline(always)]
    fn call(self) -> Self::Output {
        let add = |x, y| map2(x, y, u64::wrapping_add);
        let mut state = self.words;
        let mut streams = self.blocks.map(|blocks| blocks.iter());
        'blocks: loop {
            let mut messages = [[0_u64; 16]; N];
            for (message, blocks) in messages.iter_mut().zip(&mut streams) {
                let Some(block) = blocks.next() else { break 'blocks };
                for (word, bytes) in message.iter_mut().zip(block.as_chunks().0) {
                    *word = u64::from_be_bytes(*bytes);
                }
            }
            let mut message = transposed(messages);
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
            for (turn, roots) in ROOTS.as_chunks::<16>().0.iter().enumerate() {
                macro_rules! rounds {
                    ($($round:literal)*) => {$(
                        if turn > 0 {
                            let low = map(message[($round + 1) % 16], |x| {
                                x.rotate_right(1) ^ x.rotate_right(8) ^ (x >> 7)
                            });
                            let high = map(message[($round + 14) % 16], |x| {
                                x.rotate_right(19) ^ x.rotate_right(61) ^ (x >> 6)
                            });
                            let both = add(low, high);
                            message[$round] =
                                add(add(message[$round], message[($round + 9) % 16]), both);
                        }
                        let word = map(message[$round], |word| word.wrapping_add(roots[$round]));
                        let chosen = map3(e, f, g, |e, f, g| g ^ (e & (f ^ g)));
                        let turned = map(e, |e| {
                            e.rotate_right(14) ^ e.rotate_right(18) ^ e.rotate_right(41)
                        });
                        let first = add(add(h, word), add(chosen, turned));
                        let most = map3(a, b, c, |a, b, c| (a & b) | (c & (a | b)));
                        let turned = map(a, |a| {
                            a.rotate_right(28) ^ a.rotate_right(34) ^ a.rotate_right(39)
                        });
                        [h, g, f, e] = [g, f, e, add(d, first)];
                        [d, c, b, a] = [c, b, a, add(first, add(most, turned))];
                    )*};
                }
                rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            }
            let after = [a, b, c, d, e, f, g, h];
            for (state, after) in state.iter_mut().zip(after) {
                *state = add(*state, after);
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_vectors_give_what_one_stream_gives() {
        let message: Vec<u8> = (0..6 * BLOCK).map(|at| (at * 7).to_le_bytes()[0]).collect();
        for arch in Kernel::all().into_iter().map(Kernel::arch) {
            for count in 1..=WIDTH {
                let mut states = [Sha512::START; WIDTH];
                let mut alone = states;
                let piece = |n: usize| &message[n * BLOCK..][..BLOCK * 2];
                let mut streams: Vec<_> =
                    states.iter_mut().take(count).enumerate().map(|(n, s)| (s, piece(n))).collect();
                compress(arch, &mut streams, BLOCK * 2);
                for (n, state) in alone.iter_mut().take(count).enumerate() {
                    state.blocks(piece(n));
                }
                assert_eq!(states.map(|s| s.0), alone.map(|s| s.0), "{arch:?}, {count}");
            }
        }
    }
}
