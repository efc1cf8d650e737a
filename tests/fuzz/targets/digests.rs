//! md5 and sha512 of any bytes, cut anywhere, of one image and of several that go on together, are those
//! of the crates md-5 and sha2, with every kernel that the machine has.
#![no_main]

use imaged_digest::{Both, Kernel};
use libfuzzer_sys::fuzz_target;
use sha2::Digest as _;

/// How many times the input is given, so that it is as long as what goes through a kernel in one pass.
const TIMES: usize = 3;

fuzz_target!(|input: (u8, Vec<u16>, &[u8])| {
    let (images, cuts, bytes) = input;
    let images = usize::from(images % 9) + 1;
    let bytes = bytes.repeat(TIMES);
    // Each begins a byte later than the one before.
    let from = |n: usize| bytes.get(n..).unwrap_or(&[]);
    for kernel in Kernel::all() {
        let mut all = vec![(Both::default(), 0); images];
        for cut in cuts.iter().map(|cut| usize::from(*cut)).chain([usize::MAX]) {
            let mut pieces: Vec<_> = all
                .iter_mut()
                .enumerate()
                .map(|(n, (both, at))| {
                    let rest = &from(n)[*at..];
                    // Each by a piece of its own length.
                    let piece = &rest[..rest.len().min(cut.saturating_add(n * 129))];
                    *at += piece.len();
                    (both, piece)
                })
                .collect();
            Both::update_all(kernel, &mut pieces);
        }
        for (n, (both, _)) in all.into_iter().enumerate() {
            let wanted =
                (md5::Md5::digest(from(n)).to_vec(), sha2::Sha512::digest(from(n)).to_vec());
            assert_eq!(both.finish(), wanted, "{kernel}, image {n} of {images}");
        }
    }
});
