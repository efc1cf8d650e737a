//! What a thread computes of an image as it goes over its bytes: one digest, or md5 and sha512 together.

use data_encoding::HEXLOWER;
use imaged_digest::{BlockDigest, Both, Kernel, Md5, Sha512};

use super::algo::{Algo, Hasher};

/// What one thread computes of an image, over its bytes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    One(Algo),
    /// md5 and sha512, where the kernel has a pass for the two.
    Both,
}

impl Pass {
    pub(super) const COUNT: usize = Algo::ALL.len() + 1;

    /// What computes `algo`, and md5 beside it if `md5`.
    pub(crate) fn of(algo: Algo, md5: bool, kernel: Kernel) -> Vec<Self> {
        if md5 && algo == Algo::Sha512 && kernel.is_one_pass() {
            vec![Self::Both]
        } else if md5 && algo != Algo::Md5 {
            vec![Self::One(algo), Self::One(Algo::Md5)]
        } else {
            vec![Self::One(algo)]
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::One(algo) => algo as usize,
            Self::Both => Algo::ALL.len(),
        }
    }

    /// How many images a thread takes abreast.
    pub(super) fn width(self, kernel: Kernel) -> usize {
        if self == Self::Both {
            Both::WIDTH
        } else if self == Self::One(Algo::Md5) {
            Md5::WIDTH
        } else if self == Self::One(Algo::Sha512) && Sha512::least_abreast(kernel) <= Sha512::WIDTH
        {
            Sha512::WIDTH
        } else {
            1
        }
    }

    pub(crate) fn begin(self) -> Computing {
        match self {
            Self::One(algo) => Computing::One(algo, algo.hasher()),
            Self::Both => Computing::Both(Box::default()),
        }
    }
}

/// What a pass has computed so far.
pub(crate) enum Computing {
    One(Algo, Hasher),
    Both(Box<Both>),
}

impl Computing {
    /// Takes the next bytes of several images, abreast where that pays; all of one pass.
    pub(crate) fn update_all<'a>(
        kernel: Kernel,
        images: impl Iterator<Item = (&'a mut Self, &'a [u8])>,
    ) {
        let (mut one, mut both) = (Vec::new(), Vec::new());
        for (computing, bytes) in images {
            match computing {
                Self::One(_, hasher) => one.push((hasher, bytes)),
                Self::Both(streams) => both.push((&mut **streams, bytes)),
            }
        }
        Hasher::update_all(kernel, one.into_iter());
        Both::update_all(kernel, &mut both);
    }

    pub(super) fn pass(&self) -> Pass {
        match self {
            Self::One(algo, _) => Pass::One(*algo),
            Self::Both(_) => Pass::Both,
        }
    }

    pub(crate) fn finish(self) -> Found {
        match self {
            Self::One(algo, hasher) => vec![(algo, hasher.finish())],
            Self::Both(both) => {
                let (md5, sha512) = both.finish();
                vec![(Algo::Md5, HEXLOWER.encode(&md5)), (Algo::Sha512, HEXLOWER.encode(&sha512))]
            }
        }
    }
}

/// Digests by their algorithms.
pub(crate) type Found = Vec<(Algo, String)>;
