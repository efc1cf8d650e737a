//! Which instructions the digests use.

use std::{fmt, str::FromStr};

use pulp::Arch;

/// Code for one set of the processor's instructions.
#[derive(Clone, Copy, Debug)]
pub struct Kernel(Arch);

impl Kernel {
    /// The names of all kernels, the slowest first.
    pub const NAMES: [&'static str; 3] = ["portable", "avx2", "avx512"];

    /// The fastest that this machine has.
    #[must_use]
    pub fn best() -> Self {
        Self(Arch::new())
    }

    /// Those that this machine has, the slowest first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "there is but one"))]
        let mut all = vec![Self(Arch::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(pulp::x86::V3::try_new().map(|v3| Self(Arch::V3(v3))));
            all.extend(pulp::x86::V4::try_new().map(|v4| Self(Arch::V4(v4))));
        }
        all
    }

    /// Its name: one of [`Self::NAMES`].
    ///
    /// `portable` has no vectors of its own; `avx2` takes several streams abreast in vectors; `avx512`
    /// in wider ones, and MD5 and SHA-512 of one stream in one pass. What takes one digest of one
    /// stream is the same in all: assembly for MD5, and OpenSSL, which looks at the processor itself.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Arch::V4(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Arch::V3(_) => "avx2",
            _ => "portable",
        }
    }

    /// Whether it takes MD5 and SHA-512 of one stream in one pass.
    #[must_use]
    pub fn is_one_pass(self) -> bool {
        self.wide()
    }

    pub(crate) fn arch(self) -> Arch {
        self.0
    }

    /// Whether it has AVX-512, with all its parts that matter.
    pub(crate) fn wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Arch::V4(_));
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Kernel {}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernel {
    /// What this machine has.
    type Err = String;

    /// The kernel of this name, or with `auto` the fastest.
    fn from_str(name: &str) -> Result<Self, String> {
        if name == "auto" {
            return Ok(Self::best());
        }
        let all = Self::all();
        let found = all.iter().copied().find(|kernel| kernel.name() == name);
        found.ok_or_else(|| all.into_iter().map(Self::name).collect::<Vec<_>>().join(", "))
    }
}
