//! MD5 and SHA-512 of the same bytes.
//!
//! # Decisions
//! * Chose: assembly, written in the macros of the assembler, for one stream. Because: the gain is in
//!   how the instructions of the two digests lie among each other, which a compiler undoes. Instead of:
//!   intrinsics, of which nothing was gained.
//! * Chose: one pass for up to two streams on a thread, from three on all abreast, MD5 and then
//!   SHA-512. Because: measured in CPU seconds a GiB, see the crate's table.
//! * Chose: MD5 in general registers and SHA-512 in vectors. Because: measured on Zen 4, in CPU seconds a GiB, the
//!   steps of MD5 take 1.33, each waiting for the one before, the rounds of SHA-512 1.34, and both together 1.36.
//!   Instead of: MD5 in vectors, which takes 1.65 there, and 1.83 beside SHA-512 in general registers.
//! * Chose: zeros go the same way as other bytes. Because: what limits a pass is the steps of MD5, of which a known
//!   message spares none. Instead of: a second loop of assembly for zeros, without the schedule of SHA-512.

use crate::{BlockDigest as _, Kernel, Md5, Sha512, Stream};

/// Both digests of one stream.
#[derive(Clone, Debug, Default)]
pub struct Both {
    md5: Stream<Md5>,
    sha512: Stream<Sha512>,
}

/// What the kernel takes at a time: four blocks of SHA-512.
const GROUP: usize = 4 * Sha512::BLOCK;
/// The least number of streams that are quicker abreast than one after the other in one pass.
const LEAST_ABREAST: usize = 3;

impl Both {
    /// The most streams that go abreast.
    pub const WIDTH: usize = Md5::WIDTH;

    /// Takes the next bytes.
    pub fn update(&mut self, kernel: Kernel, bytes: &[u8]) {
        let missing = self.sha512.missing().min(bytes.len());
        let (head, rest) = bytes.split_at(missing);
        let (groups, tail) = rest.split_at(rest.len() - rest.len() % GROUP);
        if groups.is_empty() || !kernel.is_one_pass() {
            self.each(bytes);
            return;
        }
        self.each(head);
        // Both have had the same bytes, so that a whole block of the one is whole ones of the other.
        let (md5, sha512) = (self.md5.whole(groups), self.sha512.whole(groups));
        one_pass(kernel, md5, sha512, groups);
        self.each(tail);
    }

    /// Takes the next bytes of each stream, abreast if that pays.
    pub fn update_all(kernel: Kernel, streams: &mut [(&mut Self, &[u8])]) {
        if streams.len() < LEAST_ABREAST && kernel.is_one_pass() {
            for (both, bytes) in streams {
                both.update(kernel, bytes);
            }
            return;
        }
        let mut md5: Vec<_> =
            streams.iter_mut().map(|(both, bytes)| (&mut both.md5, *bytes)).collect();
        Stream::update_all(kernel, &mut md5);
        let mut sha512: Vec<_> =
            streams.iter_mut().map(|(both, bytes)| (&mut both.sha512, *bytes)).collect();
        Stream::update_all(kernel, &mut sha512);
    }

    /// The digests of all bytes taken, MD5 first.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, Vec<u8>) {
        (self.md5.finish(), self.sha512.finish())
    }

    fn each(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sha512.update(bytes);
    }
}

/// Takes whole groups into both states.
fn one_pass(kernel: Kernel, md5: &mut Md5, sha512: &mut Sha512, groups: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if let pulp::Arch::V4(v4) = kernel.arch() {
        avx512::one_pass(v4, &mut md5.0, &mut sha512.0, groups);
        return;
    }
    debug_assert!(!kernel.is_one_pass(), "there is no other that has it");
    md5.blocks(groups);
    sha512.blocks(groups);
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "assembly")]
mod avx512 {
    use std::arch::global_asm;

    use pulp::x86::V4;

    use super::GROUP;
    use crate::{md5::SINES, sha512::ROOTS};

    global_asm!(include_str!("md5_sha512.s"), options(raw));

    unsafe extern "sysv64" {
        fn imaged_md5_sha512_avx512(
            md5: *mut [u32; 4],
            sha512: *mut [u64; 8],
            bytes: *const u8,
            groups: usize,
            tables: *const Tables,
        );
    }

    /// The constants of the assembly, which knows their offsets.
    #[repr(C, align(64))]
    struct Tables {
        /// Less 1 in the last round, whose steps subtract.
        sines: [u32; 64],
        /// Which word of the message each step takes, from the second round of MD5 on.
        order: [[u32; 16]; 3],
        roots: [u64; 80],
        /// The bytes of two words in the other order.
        swap: [u8; 16],
    }

    static TABLES: Tables = Tables {
        sines: {
            let mut sines = SINES;
            let (_, mut last_round) = sines.split_at_mut(48);
            while let [sine, rest @ ..] = last_round {
                *sine = sine.wrapping_sub(1);
                last_round = rest;
            }
            sines
        },
        order: [
            [1, 6, 11, 0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12],
            [5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2],
            [0, 7, 14, 5, 12, 3, 10, 1, 8, 15, 6, 13, 4, 11, 2, 9],
        ],
        roots: ROOTS,
        swap: [7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8],
    };

    /// Takes whole groups; `_v4` shows that the processor has the instructions.
    pub(super) fn one_pass(_v4: V4, md5: &mut [u32; 4], sha512: &mut [u64; 8], groups: &[u8]) {
        let count = groups.len() / GROUP;
        if count == 0 {
            return;
        }
        // SAFETY: it reads and writes the two states, reads `count` groups, which lie within the slice,
        // and the tables, which are laid out as it expects; it keeps to its own frame and to the calling
        // convention. A `V4` exists only where the processor and the system have AVX-512 and BMI1.
        unsafe {
            imaged_md5_sha512_avx512(md5, sha512, groups.as_ptr(), count, &raw const TABLES);
        }
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "pages that nobody may touch")]
mod tests {
    use std::{ptr, slice};

    use pulp::x86::V4;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::*;

    const PAGE: usize = 4096;

    /// Two pages between two that end the process if they are touched.
    struct Guarded(*mut u8);

    impl Guarded {
        fn new() -> Self {
            let (all, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            // SAFETY: new memory, at an address of the kernel's choice.
            let start = unsafe { mmap_anonymous(ptr::null_mut(), 4 * PAGE, all, private) }.unwrap();
            let start = start.cast::<u8>();
            for guard in [0, 3 * PAGE] {
                // SAFETY: these pages are ours, and nothing refers to them.
                unsafe { mprotect(start.wrapping_add(guard).cast(), PAGE, MprotectFlags::empty()) }
                    .unwrap();
            }
            Self(start)
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: they are there, initialised to zeros, and borrowed as long as `self` is.
            unsafe { slice::from_raw_parts_mut(self.0.wrapping_add(PAGE), 2 * PAGE) }
        }
    }

    impl Drop for Guarded {
        fn drop(&mut self) {
            // SAFETY: it was mapped so, and nothing refers to it any more.
            unsafe { munmap(self.0.cast(), 4 * PAGE) }.unwrap();
        }
    }

    #[test]
    fn one_pass_touches_nothing_but_the_bytes_and_the_states() {
        let Some(v4) = V4::try_new() else { return };
        let mut guarded = Guarded::new();
        for (n, byte) in guarded.bytes().iter_mut().enumerate() {
            *byte = (n * 7).to_le_bytes()[0];
        }
        let all = guarded.bytes();
        for count in 1..=4 {
            for groups in [&all[..count * GROUP], &all[2 * PAGE - count * GROUP..]] {
                // Each state between two of which nothing may change.
                let mut md5 = [Md5::START.0; 3];
                let mut sha512 = [Sha512::START.0; 3];
                avx512::one_pass(v4, &mut md5[1], &mut sha512[1], groups);
                let (mut plain_md5, mut plain_sha512) = (Md5::START, Sha512::START);
                plain_md5.blocks(groups);
                plain_sha512.blocks(groups);
                assert_eq!(md5, [Md5::START.0, plain_md5.0, Md5::START.0], "{count}");
                assert_eq!(sha512, [Sha512::START.0, plain_sha512.0, Sha512::START.0], "{count}");
            }
        }
    }
}
