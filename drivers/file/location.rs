//! `file://` and `filesystem://` locations.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use crate::contract::{Error, Kind, Result};

/// The schemes of such locations.
pub const SCHEMES: [&str; 2] = ["file", "filesystem"];

/// An absolute path, as glance_store writes it: `file://` and the path, nothing percent-encoded.
///
/// Parsing drops a query and a fragment, as glance_store does. A path is only a claim: the driver
/// opens nothing that is not beneath one of its directories.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    path: PathBuf,
}

impl Location {
    /// The location of the file `name` in `dir`.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        Self { path: dir.join(name) }
    }

    /// The name of the file, empty if it is no text.
    #[must_use]
    pub fn image(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse =
            |why: &str| Err(Error::new(Kind::Invalid, format!("{why}: location=`{text}`")));
        let Some(rest) = text.strip_prefix("file://").or(text.strip_prefix("filesystem://")) else {
            return refuse("a file location begins with file:// or filesystem://");
        };
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        if !path.starts_with('/') || path.len() < 2 {
            return refuse("a file location has an absolute path after file://");
        }
        if path.contains('\0') || path.len() > 4096 {
            return refuse("a path has at most 4096 bytes and no NUL");
        }
        let path = Path::new(path);
        if path.components().any(|part| part == Component::ParentDir) {
            return refuse("a file location has no `..` in its path");
        }
        if path.file_name().is_none() {
            return refuse("a file location names a file");
        }
        Ok(Self { path: path.to_owned() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn glance_store_locations_are_read_and_written_as_they_are() {
        for text in ["file:///var/lib/glance/images/a-1", "file:///srv/a%20b", "file:///x/é"] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
        }
        let other: Location = "filesystem:///a/b?x=1#y".parse().unwrap();
        assert_eq!(other.to_string(), "file:///a/b");
    }

    #[test]
    fn bad_locations_are_refused_by_name() {
        for text in [
            "file://",
            "file:///",
            "file://a/b",
            "FILE:///a",
            "file:///a/../etc/passwd",
            "file:///a\0",
        ] {
            assert_eq!(text.parse::<Location>().unwrap_err().kind(), Kind::Invalid, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(name in "[^\0/?#]{1,40}", dir in "(/[a-z0-9 %]{1,9}){1,4}") {
            prop_assume!(name != ".." && name != ".");
            let at = Location::new(Path::new(&dir), &name);
            prop_assert_eq!(at.to_string().parse::<Location>().unwrap(), at);
        }
    }
}
