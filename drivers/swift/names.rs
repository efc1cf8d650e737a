//! How containers and segments are called.

use crate::contract::{Claim, ImageId};

/// The container of an image, as glance_store has it: with a seed, so many digits of its id stand behind the
/// name, and the dashes among them.
pub(super) fn container(base: &str, seed: usize, id: &ImageId) -> String {
    if seed == 0 {
        return base.to_owned();
    }
    let id = id.as_str().to_lowercase();
    let dashes = id.bytes().take(seed).filter(|byte| *byte == b'-').count();
    let end = seed.saturating_add(dashes).min(id.len());
    format!("{base}_{}", id.get(..end).unwrap_or(&id))
}

/// The container of an image in a multi-tenant store, as glance_store has it: one for each.
pub(super) fn own_container(base: &str, id: &ImageId) -> String {
    format!("{base}_{id}")
}

/// What the names of an upload's segments begin with. Others' names do not: the nonce is in it.
pub(super) fn prefix(claim: &Claim) -> String {
    format!("{}-{}-", claim.id(), claim.nonce())
}

/// The name of a segment, the first of which is 1. By their names they are in the order of their numbers.
pub(super) fn segment(prefix: &str, number: usize) -> String {
    format!("{prefix}{number:05}")
}

/// The most segments that have names in their order.
pub(super) const MOST: usize = 99_999;

/// Whether an object is called as a segment of glance_store is, and what the image is called then.
pub(super) fn image_of_segment(name: &str) -> Option<&str> {
    let (image, number) = name.rsplit_once('-')?;
    let digits = number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then_some(image)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn id(text: &str) -> ImageId {
        text.parse().unwrap()
    }

    #[test]
    fn containers_are_glance_stores() {
        let image = id("3A1f7b2c-9d00-4e11-8c22-aabbccddeeff");
        assert_eq!(container("glance", 0, &image), "glance");
        assert_eq!(container("glance", 3, &image), "glance_3a1");
        assert_eq!(container("glance", 8, &image), "glance_3a1f7b2c");
        assert_eq!(container("glance", 9, &image), "glance_3a1f7b2c-9");
        assert_eq!(container("glance", 10, &image), "glance_3a1f7b2c-9d");
        assert_eq!(
            container("glance", 32, &image),
            format!("glance_{}", image.as_str().to_lowercase())
        );
        assert_eq!(container("glance", 3, &id("x")), "glance_x");
        assert_eq!(own_container("glance", &id("X-1")), "glance_X-1");
    }

    #[test]
    fn segments_are_in_order_and_no_others_begin_like_them() {
        let claim = Claim::new(id("img"), "n0nce", Arc::new(()));
        let prefix = prefix(&claim);
        let names: Vec<_> = [1, 2, 10, 9999, MOST].map(|n| segment(&prefix, n)).into();
        assert_eq!(names[0], "img-n0nce-00001");
        assert!(names.is_sorted());
        assert_eq!(image_of_segment("img-00001"), Some("img"));
        for other in ["img", "img-1", "img-000001", "img-0000x"] {
            assert_eq!(image_of_segment(other), None, "{other}");
        }
    }
}
