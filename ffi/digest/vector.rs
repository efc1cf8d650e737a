//! One word of each stream, and what is done to all of them at once.
//!
//! Everything here is inlined into a function that `pulp` compiles for the processor's own vectors:
//! the loops over the streams become single instructions there.

/// The same word of every stream.
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

/// Rows and columns exchanged: the words of each stream become the streams of each word.
#[inline(always)]
pub(crate) fn transposed<T: Copy + Default, const N: usize, const W: usize>(
    streams: [[T; W]; N],
) -> [Words<T, N>; W] {
    let mut words = [[T::default(); N]; W];
    for (n, stream) in streams.into_iter().enumerate() {
        for (words, word) in words.iter_mut().zip(stream) {
            if let Some(to) = words.get_mut(n) {
                *to = word;
            }
        }
    }
    words
}

/// Has `take` take the first `bytes` of up to N streams into their states, whose words are `words`;
/// where there are fewer, the first is repeated.
pub(crate) fn together<S, T, const N: usize, const W: usize, const B: usize>(
    streams: &mut [(&mut S, &[u8])],
    bytes: usize,
    start: [T; W],
    words: impl Fn(&mut S) -> &mut [T; W],
    take: impl FnOnce([Words<T, N>; W], [&[[u8; B]]; N]) -> [Words<T, N>; W],
) where
    T: Copy + Default,
{
    let mut blocks: [&[[u8; B]]; N] = [&[]; N];
    if let Some((_, first)) = streams.first() {
        blocks = [first.get(..bytes).unwrap_or(first).as_chunks().0; N];
    }
    let mut states = [start; N];
    for ((state, block), (stream, whole)) in states.iter_mut().zip(&mut blocks).zip(&mut *streams) {
        *state = *words(stream);
        *block = whole.get(..bytes).unwrap_or(whole).as_chunks().0;
    }
    let done = transposed(take(transposed(states), blocks));
    for ((stream, _), done) in streams.iter_mut().zip(done) {
        *words(stream) = done;
    }
}
