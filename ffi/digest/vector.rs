//! One word of each lane, and what is done to all of them at once.
//!
//! Everything here is inlined into a function that `pulp` compiles for the processor's own vectors:
//! the loops over the lanes become single instructions there.

/// The same word of every lane.
pub(crate) type Words<T, const N: usize> = [T; N];

#[inline(always)]
pub(crate) fn map<T: Copy, const N: usize>(mut x: Words<T, N>, f: impl Fn(T) -> T) -> Words<T, N> {
    for x in &mut x {
        *x = f(*x);
    }
    x
}

#[inline(always)]
pub(crate) fn map2<T: Copy, const N: usize>(
    mut x: Words<T, N>,
    y: Words<T, N>,
    f: impl Fn(T, T) -> T,
) -> Words<T, N> {
    for (x, y) in x.iter_mut().zip(y) {
        *x = f(*x, y);
    }
    x
}

#[inline(always)]
pub(crate) fn map3<T: Copy, const N: usize>(
    mut x: Words<T, N>,
    y: Words<T, N>,
    z: Words<T, N>,
    f: impl Fn(T, T, T) -> T,
) -> Words<T, N> {
    for ((x, y), z) in x.iter_mut().zip(y).zip(z) {
        *x = f(*x, y, z);
    }
    x
}

/// Word by word, of all lanes: lanes and words exchanged.
#[inline(always)]
pub(crate) fn transposed<T: Copy + Default, const N: usize, const W: usize>(
    lanes: [[T; W]; N],
) -> [Words<T, N>; W] {
    let mut words = [[T::default(); N]; W];
    for (n, lane) in lanes.into_iter().enumerate() {
        for (words, word) in words.iter_mut().zip(lane) {
            if let Some(to) = words.get_mut(n) {
                *to = word;
            }
        }
    }
    words
}

/// The blocks of up to N streams; lanes without a stream repeat the first.
pub(crate) fn laid<'a, S, const N: usize, const B: usize>(
    streams: &[(&mut S, &'a [u8])],
    bytes: usize,
) -> [&'a [[u8; B]]; N] {
    let blocks = |(_, whole): &(&mut S, &'a [u8])| -> &'a [[u8; B]] {
        whole.get(..bytes).unwrap_or(whole).as_chunks().0
    };
    std::array::from_fn(|lane| streams.get(lane).or(streams.first()).map_or(&[][..], blocks))
}

/// Every kind of vectors that this processor has, and none.
#[cfg(test)]
pub(crate) fn every_arch() -> Vec<pulp::Arch> {
    let mut all = vec![pulp::Arch::Scalar, pulp::Arch::new()];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    all
}
