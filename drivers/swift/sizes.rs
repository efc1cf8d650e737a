//! How large the segments of an image are.

use super::config::{Config, LargeObject};

/// Bytes of the first segments, unless the store says how large they are.
const SMALL: u64 = 32 << 20;
/// Bytes of the very first one of an image whose length is not known: most of those are small or large, and
/// what is small takes little memory so.
const FIRST: u64 = 4 << 20;
/// Bytes of a segment, at most.
const LARGE: u64 = 4 << 30;
/// So many segments a large object is made of, at most: of a dynamic one with more Swift does not tell the
/// length, and refuses a static one.
const DYNAMIC: u64 = 9_000;
const STATIC: u64 = 1_000;

/// The sizes of an upload's segments.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// The image's length, if it is known.
    size: Option<u64>,
    /// From this length on it is segmented.
    large: u64,
    /// What the store says.
    fixed: Option<u64>,
    /// The most segments.
    most: u64,
}

impl Sizes {
    pub(super) fn new(config: &Config, size: Option<u64>) -> Self {
        let most = match config.large_object {
            LargeObject::Dynamic => DYNAMIC,
            LargeObject::Static => STATIC,
        };
        Self { size, large: config.large, fixed: config.segment, most }
    }

    /// The most segments of a static large object.
    pub(super) fn most(&self) -> usize {
        usize::try_from(self.most).unwrap_or(usize::MAX)
    }

    /// Bytes of the segment that comes after `count` others, of an image of which `come` bytes have come:
    /// no more than there are to come.
    pub(super) fn of(&self, count: usize, come: u64) -> usize {
        let whole = match (self.fixed, self.size) {
            (Some(fixed), _) => fixed,
            (None, Some(size)) => SMALL.max(size.div_ceil(self.most)),
            (None, None) if count == 0 => FIRST,
            (None, None) => self.growing(count as u64),
        };
        let left = self.size.map_or(whole, |size| size.saturating_sub(come));
        usize::try_from(whole.min(left).max(1)).unwrap_or(usize::MAX)
    }

    /// Segments double four or eight times on the way to as many as there may be.
    fn growing(&self, count: u64) -> u64 {
        let step = (self.most / 8).max(1);
        let doubled = u32::try_from(count / step).unwrap_or(u32::MAX);
        SMALL.saturating_mul(2_u64.saturating_pow(doubled)).min(LARGE)
    }

    /// Whether an image of which this many bytes have come may turn out to be of no more.
    pub(super) fn may_be_one(&self, come: u64) -> bool {
        self.is_one(come) && self.size.is_none_or(|size| size <= come)
    }

    /// Whether an image of this length, all of which is at hand, is stored as one object.
    pub(super) fn is_one(&self, size: u64) -> bool {
        size < self.large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_024_000;

    fn sizes(size: Option<u64>, fixed: Option<u64>, most: u64) -> Sizes {
        Sizes { size, large: 5120 * MB, fixed, most }
    }

    /// The segments of an image of this length.
    fn all(sizes: &Sizes, length: u64) -> Vec<u64> {
        let (mut come, mut all) = (0, Vec::new());
        while come < length {
            let next = (sizes.of(all.len(), come) as u64).min(length - come);
            come += next;
            all.push(next);
        }
        all
    }

    #[test]
    fn an_image_of_any_length_fits() {
        let tib = 1 << 40;
        for most in [DYNAMIC, STATIC] {
            for length in [1, SMALL, SMALL + 1, 100 * SMALL + 7, tib / 2] {
                let known = all(&sizes(Some(length), None, most), length);
                assert!(known.len() as u64 <= most, "{length}: {}", known.len());
                assert_eq!(known.iter().sum::<u64>(), length);
                let unknown = all(&sizes(None, None, most), length);
                assert!(unknown.len() as u64 <= most, "{length}: {}", unknown.len());
            }
        }
    }

    #[test]
    fn what_the_store_says_is_done() {
        let segments = all(&sizes(Some(5 * MB + 1), Some(2 * MB), DYNAMIC), 5 * MB + 1);
        assert_eq!(segments, [2 * MB, 2 * MB, MB + 1]);
        let segments = all(&sizes(None, Some(2 * MB), DYNAMIC), 5 * MB + 1);
        assert_eq!(segments, [2 * MB, 2 * MB, MB + 1]);
    }

    #[test]
    fn a_small_image_is_one_object() {
        let known = sizes(Some(100), None, DYNAMIC);
        assert_eq!(known.of(0, 0), 100);
        assert!(known.may_be_one(100) && known.is_one(100));
        let longer = sizes(Some(SMALL + 1), None, DYNAMIC);
        assert!(!longer.may_be_one(SMALL), "there is more to come");
        let unknown = sizes(None, None, DYNAMIC);
        assert!(unknown.may_be_one(FIRST));
        assert!(!unknown.is_one(5120 * MB));
    }
}
