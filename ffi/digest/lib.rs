//! MD5 and SHA-512, of one stream or of several abreast.
//!
//! Each step of these digests waits for the one before, so one stream leaves most of a core's vector
//! units idle. Several streams can share them: a vector holds the same word of each, and one
//! instruction does a step of all. One stream alone is no faster for it, so that goes to the fastest
//! code for one: assembly for MD5, OpenSSL for SHA-512. Its two digests can share a core as well, in hardly
//! more time than either takes alone: the instructions of SHA-512 run while those of MD5 wait for each
//! other, see [`Both`].
//!
//! Measured in MiB/s on one core of an AMD EPYC with AVX-512 (with AVX2 only):
//!
//! | streams | MD5 | SHA-512 |
//! |---|---|---|
//! | 1 | 780 | 844 |
//! | 2 | 965 (780) | 940 (844) |
//! | 4 | 1930 (1560) | 1880 (844) |
//! | 8 | 3830 (2280) | 1880 (844) |
//!
//! MD5 and SHA-512 of each stream, in CPU seconds a GiB on one thread of the same machine; medians of 9
//! (`imaged bench --digests`):
//!
//! | streams | `avx512` | `avx2` | `portable` |
//! |---|---|---|---|
//! | 1 | 1.37 | 2.53 | 2.56 |
//! | 2 | 1.44 | 2.55 | 2.63 |
//! | 3 | 1.37 | 2.22 | 2.38 |
//! | 4 | 1.02 | 1.88 | 1.92 |
//! | 8 | 0.76 | 1.83 | 1.87 |
//!
//! # Decisions
//! * Chose: arrays that the compiler turns into vectors. Because: no unsafe code, the same source for
//!   every processor, and as fast as instructions chosen by hand. Instead of: intrinsics; md5-many
//!   and md5-simd, which have no SHA-512 and want eight streams or whole messages.
//! * Chose: where a vector has room for more streams than there are, one is repeated. Because: a vector
//!   costs the same however much of it is used.

mod both;
mod kernel;
mod md5;
#[expect(unsafe_code, reason = "OpenSSL is C")]
mod openssl;
mod sha512;
mod vector;

pub use self::{both::Both, kernel::Kernel, md5::Md5, sha512::Sha512};

/// A digest that is computed block by block; the value is its state between two of them.
pub trait BlockDigest: Copy + Send + 'static {
    /// Bytes in a block; at most 128.
    const BLOCK: usize;
    /// The most streams that go abreast.
    const WIDTH: usize;
    /// Before the first byte.
    const START: Self;

    /// Takes whole blocks.
    fn blocks(&mut self, blocks: &[u8]);

    /// The least number of streams that are quicker abreast than one after the other.
    #[must_use]
    fn least_abreast(kernel: Kernel) -> usize;

    /// Takes the first `bytes`, whole blocks, of each stream; of at most [`Self::WIDTH`].
    fn abreast(kernel: Kernel, streams: &mut [(&mut Self, &[u8])], bytes: usize);

    /// What follows the last byte of a message of `bytes`, besides zeros: its length.
    fn length(bytes: u64) -> ([u8; 16], usize);

    /// The digest that this state stands for.
    fn digest(&self) -> Vec<u8>;
}

/// A digest being computed.
#[derive(Clone, Debug)]
pub struct Stream<S> {
    state: S,
    /// The beginning of a block whose rest has not come.
    part: [u8; 128],
    held: usize,
    bytes: u64,
}

impl<S: BlockDigest> Default for Stream<S> {
    fn default() -> Self {
        Self { state: S::START, part: [0; 128], held: 0, bytes: 0 }
    }
}

impl<S: BlockDigest> Stream<S> {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (state, whole) = self.begin(bytes);
        if !whole.is_empty() {
            state.blocks(whole);
        }
    }

    /// Takes the next bytes of each stream, abreast as far as that pays.
    pub fn update_all(kernel: Kernel, streams: &mut [(&mut Self, &[u8])]) {
        for group in streams.chunks_mut(S::WIDTH) {
            let begun = group.iter_mut().map(|(stream, bytes)| stream.begin(bytes));
            let mut left: Vec<_> = begun.filter(|(_, whole)| !whole.is_empty()).collect();
            while left.len() >= S::least_abreast(kernel) {
                let shortest = left.iter().map(|(_, whole)| whole.len()).min().unwrap_or(0);
                S::abreast(kernel, &mut left, shortest);
                for (_, whole) in &mut left {
                    *whole = whole.split_at(shortest).1;
                }
                left.retain(|(_, whole)| !whole.is_empty());
            }
            for (state, whole) in left {
                state.blocks(whole);
            }
        }
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let (length, size) = S::length(self.bytes);
        let zeros = (2 * S::BLOCK - self.held - 1 - size) % S::BLOCK;
        let mut end = vec![0x80];
        end.resize(1 + zeros, 0);
        end.extend(length.iter().take(size));
        self.update(&end);
        self.state.digest()
    }

    /// Completes the block that was begun, keeps what is no whole block for the next time, and gives
    /// the whole blocks between the two, for the state to take.
    fn begin<'a, 'b>(&'a mut self, bytes: &'b [u8]) -> (&'a mut S, &'b [u8]) {
        self.bytes = self.bytes.wrapping_add(bytes.len() as u64);
        let (head, rest) = bytes.split_at(self.missing().min(bytes.len()));
        self.keep(head);
        if self.held == S::BLOCK {
            self.state.blocks(self.part.split_at(S::BLOCK).0);
            self.held = 0;
        }
        let (whole, tail) = rest.split_at(rest.len() - rest.len() % S::BLOCK);
        self.keep(tail);
        (&mut self.state, whole)
    }

    /// What the block that was begun lacks.
    fn missing(&self) -> usize {
        if self.held == 0 { 0 } else { S::BLOCK - self.held }
    }

    /// Counts whole blocks, which follow whole blocks, and gives the state to take them.
    fn whole(&mut self, blocks: &[u8]) -> &mut S {
        debug_assert_eq!((self.held, blocks.len() % S::BLOCK), (0, 0), "no whole blocks");
        self.bytes = self.bytes.wrapping_add(blocks.len() as u64);
        &mut self.state
    }

    fn keep(&mut self, bytes: &[u8]) {
        for (to, from) in self.part.iter_mut().skip(self.held).zip(bytes) {
            *to = *from;
        }
        self.held += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn md5(bytes: &[u8]) -> Vec<u8> {
        <::md5::Md5 as ::md5::Digest>::digest(bytes).to_vec()
    }

    fn sha512(bytes: &[u8]) -> Vec<u8> {
        <sha2::Sha512 as sha2::Digest>::digest(bytes).to_vec()
    }

    /// Streams that go on together, each by a piece of its own length a turn.
    fn abreast<S: BlockDigest>(streams: &[Vec<Vec<u8>>], plain: fn(&[u8]) -> Vec<u8>) {
        Kernel::all().into_iter().for_each(|kernel| abreast_by::<S>(kernel, streams, plain));
    }

    fn abreast_by<S: BlockDigest>(
        kernel: Kernel,
        streams: &[Vec<Vec<u8>>],
        plain: fn(&[u8]) -> Vec<u8>,
    ) {
        let mut all = vec![Stream::<S>::default(); streams.len()];
        for turn in 0..streams.iter().map(Vec::len).max().unwrap_or(0) {
            let pieces = streams.iter().map(|pieces| pieces.get(turn).map_or(&[][..], |all| all));
            Stream::update_all(kernel, &mut all.iter_mut().zip(pieces).collect::<Vec<_>>());
        }
        for (stream, pieces) in all.into_iter().zip(streams) {
            assert_eq!(stream.finish(), plain(&pieces.concat()), "{kernel}");
        }
    }

    /// Both digests of streams that go on together, by every kernel.
    fn both(streams: &[Vec<&[u8]>]) {
        for kernel in Kernel::all() {
            let mut all = vec![Both::default(); streams.len()];
            for turn in 0..streams.iter().map(Vec::len).max().unwrap_or(0) {
                let pieces =
                    streams.iter().map(|pieces| pieces.get(turn).map_or(&[][..], |all| all));
                Both::update_all(kernel, &mut all.iter_mut().zip(pieces).collect::<Vec<_>>());
            }
            for (both, pieces) in all.into_iter().zip(streams) {
                let whole = pieces.concat();
                let lengths: Vec<_> = pieces.iter().map(|piece| piece.len()).collect();
                assert_eq!(both.finish(), (md5(&whole), sha512(&whole)), "{kernel}: {lengths:?}");
            }
        }
    }

    /// Bytes none of whose stretches are alike.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 11).to_le_bytes()[0]).collect()
    }

    fn alone<S: BlockDigest>(pieces: &[Vec<u8>], plain: fn(&[u8]) -> Vec<u8>) {
        let mut stream = Stream::<S>::default();
        pieces.iter().for_each(|piece| stream.update(piece));
        assert_eq!(stream.finish(), plain(&pieces.concat()));
    }

    #[test]
    fn every_length_about_a_block_has_the_plain_digest() {
        for length in 0..400_usize {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            for cut in [0, 1, length / 2, length.saturating_sub(1)] {
                let (head, tail) = bytes.split_at(cut.min(length));
                let pieces = [head.to_vec(), tail.to_vec()];
                alone::<Md5>(&pieces, md5);
                alone::<Sha512>(&pieces, sha512);
            }
        }
    }

    #[test]
    fn streams_of_every_length_go_abreast() {
        let all = bytes(2000);
        let lengths: Vec<usize> = (0..=1100).collect();
        for several in lengths.chunks(19) {
            let streams: Vec<_> = several
                .iter()
                .map(|length| vec![all.split_at(length % 67).1.split_at(*length).0.to_vec()])
                .collect();
            abreast::<Md5>(&streams, md5);
            abreast::<Sha512>(&streams, sha512);
        }
    }

    #[test]
    fn any_number_of_streams_of_any_length_go_abreast() {
        for count in 0..=20_usize {
            let piece = |n: usize, turn: usize| {
                let length = (n * 977 + turn * 331) % 5000;
                (0..length).map(|at| (at * (n + 3) + turn).to_le_bytes()[0]).collect()
            };
            let streams: Vec<Vec<Vec<u8>>> =
                (0..count).map(|n| (0..4).map(|turn| piece(n, turn)).collect()).collect();
            abreast::<Md5>(&streams, md5);
            abreast::<Sha512>(&streams, sha512);
        }
    }

    #[test]
    fn both_digests_of_every_length_are_the_plain_ones_wherever_it_is_cut_and_begins() {
        let all = bytes(2000);
        for length in 0..=1100 {
            // From an address of every remainder that matters, and from one that is shared with none.
            let (_, from) = all.split_at(length % 67);
            let (message, _) = from.split_at(length);
            for cut in [0, 1, 63, 64, 65, 127, 128, 129, length / 2, length.saturating_sub(1)] {
                let (head, tail) = message.split_at(cut.min(length));
                both(&[vec![head, tail]]);
            }
        }
    }

    #[test]
    fn both_digests_of_several_streams_are_the_plain_ones() {
        let all = bytes(20_000);
        for count in 0..=9_usize {
            let stream = |n: usize| -> Vec<&[u8]> {
                (0..4).map(|turn| &all[n * 7 + turn..][..(n * 977 + turn * 1331) % 5000]).collect()
            };
            both(&(0..count).map(stream).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_kernel_is_found_by_its_name_or_not_with_those_that_are_there() {
        let all = Kernel::all();
        assert_eq!(all[0].name(), "portable");
        assert_eq!("auto".parse::<Kernel>(), Ok(Kernel::best()));
        assert_eq!(all.last().map(|kernel| kernel.name()), Some(Kernel::best().name()));
        for name in Kernel::NAMES {
            match name.parse::<Kernel>() {
                Ok(kernel) => assert!(kernel.name() == name && all.contains(&kernel)),
                Err(there) => assert!(there.starts_with("portable") && !there.contains(name)),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn both_digests_of_random_splits_are_the_plain_ones(
            message in proptest::collection::vec(proptest::num::u8::ANY, 0..6000),
            skip in 0..70_usize,
            cuts in proptest::collection::vec(0..6000_usize, 0..8),
        ) {
            let message = message.get(skip..).unwrap_or(&[]);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(message.len())).collect();
            cuts.extend([0, message.len()]);
            cuts.sort_unstable();
            both(&[cuts.windows(2).map(|pair| &message[pair[0]..pair[1]]).collect()]);
        }

        #[test]
        fn what_goes_abreast_has_the_plain_digests(streams in proptest::collection::vec(
            proptest::collection::vec(
                proptest::collection::vec(proptest::num::u8::ANY, 0..700), 0..4,
            ), 0..10,
        )) {
            abreast::<Md5>(&streams, md5);
            abreast::<Sha512>(&streams, sha512);
        }
    }
}
