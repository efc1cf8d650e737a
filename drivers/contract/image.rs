//! What an image is called, which of its bytes are wanted, and its digests.

use std::{fmt, ops::Range, sync::Arc};

use super::error::{Error, Kind, Result};

/// The name of an image: one path segment, 1 to 255 bytes of `A-Z a-z 0-9 . _ -`, not starting
/// with a dot. Glance uses UUIDs.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(Arc<str>);

impl ImageId {
    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether this is a UUID, as Glance calls all its images.
pub(crate) fn is_uuid(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

impl std::str::FromStr for ImageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 255 || text.starts_with('.') || !text.bytes().all(plain)
        {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "an image id is 1 to 255 of A-Z a-z 0-9 . _ - and does not start with a dot: \
                     id=`{}`",
                    text.chars().take(300).collect::<String>()
                ),
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which bytes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All of them.
    All,
    /// From this offset to the end.
    From(u64),
    /// From the first offset up to, not including, the second; an end past the image is its end.
    Part(u64, u64),
    /// The last so many.
    Last(u64),
}

impl Span {
    /// The offsets this span means in an image of `size` bytes.
    ///
    /// # Errors
    /// `Range` if it starts past the end or holds no byte, unless it is `All`.
    pub fn of(self, size: u64) -> Result<Range<u64>> {
        let range = match self {
            Self::All => return Ok(0..size),
            Self::From(start) => start..size,
            Self::Part(start, end) => start..end.min(size),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() {
            return Err(Error::new(
                Kind::Range,
                format!("the range is outside the image: size=`{size}`"),
            ));
        }
        Ok(range)
    }
}

/// The digests of an image, in lowercase hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digests {
    /// Its md5: Glance's `checksum`. `None` where it is not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// The algorithm of `hash_value`, by its name in Python's hashlib.
    pub hash_algo: String,
    /// Its digest by `hash_algo`: Glance's multihash.
    pub hash_value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_path_segments() {
        for good in ["a", "71c675ab-d94f-49cd-a114-e12490b328d9", "x.y_Z-9"] {
            assert_eq!(good.parse::<ImageId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "é", "a\0", &"x".repeat(256)] {
            assert_eq!(bad.parse::<ImageId>().unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn a_uuid_has_its_dashes_where_they_belong() {
        assert!(is_uuid("3a1f7b2c-9d00-4e11-8c22-aabbccddeeff"));
        for other in
            ["3a1f7b2c-9d00-4e11-8c22-aabbccddeef-", "volume-3a1f7b2c-9d00-4e11-8c22-aabbcc"]
        {
            assert!(!is_uuid(other), "{other}");
        }
    }

    #[test]
    fn spans_resolve_against_the_size() {
        assert_eq!(Span::All.of(0).unwrap(), 0..0);
        assert_eq!(Span::From(3).of(10).unwrap(), 3..10);
        assert_eq!(Span::Part(3, 99).of(10).unwrap(), 3..10);
        assert_eq!(Span::Last(3).of(10).unwrap(), 7..10);
        assert_eq!(Span::Last(30).of(10).unwrap(), 0..10);
        for outside in [Span::From(10), Span::Part(10, 11), Span::Last(0)] {
            assert_eq!(outside.of(10).unwrap_err().kind(), Kind::Range, "{outside:?}");
        }
    }
}
