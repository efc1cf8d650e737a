//! The algorithms, and the digest of one of them.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use imaged_digest::{Kernel, Md5, Sha512, Stream};
use imaged_drivers::{Digests, Error, Kind, Result};
use sha2::digest::DynDigest;

/// A multihash algorithm, by its name in Python's hashlib.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algo {
    /// MD5
    Md5,
    /// SHA-1
    Sha1,
    /// SHA-224
    Sha224,
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512, Glance's default
    #[default]
    Sha512,
    /// BLAKE2b with 64 bytes of output
    Blake2b,
}

impl Algo {
    /// Every algorithm.
    pub const ALL: [Self; 7] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Blake2b,
    ];

    /// Its name in Python's hashlib.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Blake2b => "blake2b",
        }
    }

    /// Its name in `Repr-Digest` (RFC 9530), where it has one.
    #[must_use]
    pub fn field_name(self) -> Option<&'static str> {
        match self {
            Self::Md5 => Some("md5"),
            Self::Sha1 => Some("sha"),
            Self::Sha256 => Some("sha-256"),
            Self::Sha512 => Some("sha-512"),
            Self::Sha224 | Self::Sha384 | Self::Blake2b => None,
        }
    }

    /// A digest of no bytes yet.
    #[must_use]
    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Self::Md5 => Inner::Md5(Box::default()),
            Self::Sha1 => Inner::Other(Box::<sha1::Sha1>::default()),
            Self::Sha224 => Inner::Other(Box::<sha2::Sha224>::default()),
            Self::Sha256 => Inner::Other(Box::<sha2::Sha256>::default()),
            Self::Sha384 => Inner::Other(Box::<sha2::Sha384>::default()),
            Self::Sha512 => Inner::Sha512(Box::default()),
            Self::Blake2b => Inner::Other(Box::<blake2::Blake2b512>::default()),
        })
    }
}

impl FromStr for Algo {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|algo| algo.name() == text).ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                format!(
                    "unknown hash algorithm, use one of {}: hash_algo=`{}`",
                    Self::ALL.map(Self::name).join(", "),
                    text.chars().take(40).collect::<String>()
                ),
            )
        })
    }
}

impl fmt::Display for Algo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The digests that an image gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The multihash algorithm.
    pub algo: Algo,
    /// Whether also its md5, Glance's `checksum`.
    pub checksum: bool,
}

impl Choice {
    /// Whether `digests` are all of these.
    #[must_use]
    pub fn is_met_by(self, digests: &Digests) -> bool {
        digests.hash_algo == self.algo.name() && (digests.checksum.is_some() || !self.checksum)
    }
}

/// A digest being computed, on the caller's thread.
pub struct Hasher(Inner);

enum Inner {
    Md5(Box<Stream<Md5>>),
    Sha512(Box<Stream<Sha512>>),
    Other(Box<dyn DynDigest + Send>),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Md5(md5) => md5.update(bytes),
            Inner::Sha512(sha512) => sha512.update(bytes),
            Inner::Other(other) => other.update(bytes),
        }
    }

    /// Takes the next bytes of several images, abreast if they have the same algorithm.
    pub(super) fn update_all<'a>(
        kernel: Kernel,
        images: impl Iterator<Item = (&'a mut Self, &'a [u8])>,
    ) {
        let (mut md5, mut sha512) = (Vec::new(), Vec::new());
        for (hasher, bytes) in images {
            match &mut hasher.0 {
                Inner::Md5(stream) => md5.push((&mut **stream, bytes)),
                Inner::Sha512(stream) => sha512.push((&mut **stream, bytes)),
                Inner::Other(other) => other.update(bytes),
            }
        }
        Stream::update_all(kernel, &mut md5);
        Stream::update_all(kernel, &mut sha512);
    }

    /// The digest of all bytes taken, in lowercase hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        match self.0 {
            Inner::Md5(md5) => HEXLOWER.encode(&md5.finish()),
            Inner::Sha512(sha512) => HEXLOWER.encode(&sha512.finish()),
            Inner::Other(other) => HEXLOWER.encode(&other.finalize()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}
