//! `rbd://` locations.

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use serde::{Deserialize, Serialize};

use crate::contract::{Error, Kind, Result};

/// What Python's `quote` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

/// The snapshot that every image of a store has, protected: what Nova and Cinder clone.
pub(super) const SNAP: &str = "snap";

/// The schemes of such locations.
pub const SCHEMES: [&str; 1] = ["rbd"];

/// `rbd://<fsid>/<pool>/<image>/<snapshot>`, each part quoted; or `rbd://<image>` as old ones were.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    place: Option<Place>,
    image: String,
}

/// Which snapshot of which cluster's pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    fsid: String,
    pool: String,
    snap: String,
}

impl Location {
    /// The snapshot `snap` of an image.
    #[cfg(any(test, feature = "ceph"))]
    pub(crate) fn new(fsid: &str, pool: &str, image: &str) -> Self {
        let place = Place { fsid: fsid.to_owned(), pool: pool.to_owned(), snap: SNAP.to_owned() };
        Self { place: Some(place), image: image.to_owned() }
    }

    /// An image by its name alone, as old locations were.
    #[cfg(feature = "ceph")]
    pub(super) fn old(image: &str) -> Self {
        Self { place: None, image: image.to_owned() }
    }

    /// A snapshot of an image of any pool.
    #[cfg(feature = "ceph")]
    pub(super) fn of_snap(fsid: &str, pool: &str, image: &str, snap: &str) -> Self {
        let snap = snap.to_owned();
        let place = Place { fsid: fsid.to_owned(), pool: pool.to_owned(), snap };
        Self { place: Some(place), image: image.to_owned() }
    }

    /// The pool and the snapshot, if it is in this cluster.
    #[cfg(feature = "ceph")]
    pub(super) fn place_in(&self, fsid: &str) -> Option<(&str, &str)> {
        let place = self.place.as_ref().filter(|place| place.fsid == fsid)?;
        Some((&place.pool, &place.snap))
    }

    /// The pool that it names, if it names one.
    #[cfg(feature = "ceph")]
    pub(super) fn pool(&self) -> Option<&str> {
        self.place.as_ref().map(|place| place.pool.as_str())
    }

    /// The image's name.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Whether this may be the snapshot `snap` of an image in this pool. An old location names
    /// neither, and so is of any.
    #[must_use]
    pub fn is_in(&self, fsid: &str, pool: &str) -> bool {
        self.place
            .as_ref()
            .is_none_or(|place| place.fsid == fsid && place.pool == pool && place.snap == SNAP)
    }
}

/// Whether an image of format 2 that has no snapshot counts as one. What glance_store has not finished
/// looks alike.
#[cfg(feature = "ceph")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsnapped {
    /// By an id, and by a location that names the snapshot.
    No,
    /// By a location that names none.
    Yes,
    /// In a list, if it has the name of an image of Glance's, and nobody is making it.
    IfIdle,
    /// In a list, if it has another name: it may be a volume, a disk, or anything that others keep in the pool.
    /// Of format 1 it does not count either.
    Never,
}

#[cfg(feature = "ceph")]
impl Unsnapped {
    /// By this location.
    pub(super) fn by(at: &Location) -> Self {
        if at.pool().is_some() { Self::No } else { Self::Yes }
    }
}

/// `pool/name` or `pool/name@snapshot`: an image in a cluster that is none of a store's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Volume {
    pub(super) pool: String,
    pub(super) image: String,
    /// What of it is wanted; as it is now if `None`.
    pub(super) snap: Option<String>,
}

impl FromStr for Volume {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::new(Kind::Invalid, format!("{why}: rbd_volume=`{text}`"));
        let (pool, rest) = text
            .split_once('/')
            .ok_or_else(|| refuse("a volume is POOL/NAME or POOL/NAME@SNAPSHOT"))?;
        let (image, snap) = match rest.split_once('@') {
            Some((image, snap)) => (image, Some(snap)),
            None => (rest, None),
        };
        let parts = [pool, image, snap.unwrap_or("x")];
        if parts.iter().any(|part| part.is_empty() || part.contains(['\0', '/', '@'])) {
            return Err(refuse(
                "a volume is POOL/NAME or POOL/NAME@SNAPSHOT, no part empty; namespaces inside pools are not \
                 supported",
            ));
        }
        Ok(Self { pool: pool.into(), image: image.into(), snap: snap.map(str::to_owned) })
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.image)?;
        self.snap.as_ref().map_or(Ok(()), |snap| write!(f, "@{snap}"))
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::new(Kind::Invalid, format!("{why}: location=`{text}`"));
        let rest = text
            .strip_prefix("rbd://")
            .ok_or_else(|| refuse("an rbd location begins with rbd://"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(refuse("no part of an rbd location is empty"));
        }
        let unquoted = |part: &str| {
            let decoded = percent_decode_str(part).decode_utf8();
            let decoded = decoded.map_err(|error| refuse("a part is not UTF-8").because(error))?;
            if decoded.is_empty() || decoded.contains('\0') {
                return Err(refuse("a part is empty or holds a NUL"));
            }
            Ok(decoded.into_owned())
        };
        match parts.as_slice() {
            [image] if image.contains('\0') => Err(refuse("a part holds a NUL")),
            [image] => Ok(Self { place: None, image: (*image).to_owned() }),
            [fsid, pool, image, snap] => {
                let place =
                    Place { fsid: unquoted(fsid)?, pool: unquoted(pool)?, snap: unquoted(snap)? };
                Ok(Self { place: Some(place), image: unquoted(image)? })
            }
            _ => Err(refuse("an rbd location is rbd://FSID/POOL/IMAGE/SNAPSHOT or rbd://IMAGE")),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Place { fsid, pool, snap }) = &self.place else {
            return write!(f, "rbd://{}", self.image);
        };
        let [fsid, pool, image, snap] =
            [fsid, pool, &self.image, snap].map(|part| utf8_percent_encode(part, PLAIN));
        write!(f, "rbd://{fsid}/{pool}/{image}/{snap}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn glance_store_locations_are_read_and_written_as_they_are() {
        for text in [
            "rbd://3bb8d36b-0000-4000-8000-000000000000/images/a-1/snap",
            "rbd://f/my%20pool/a%2Fb/snap",
            "rbd://71c675ab-d94f-49cd-a114-e12490b328d9",
            "rbd://a%20b",
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), text);
        }
        let at: Location = "rbd://f/my%20pool/a%2Fb/snap".parse().unwrap();
        assert_eq!(at.image(), "a/b");
        assert!(at.is_in("f", "my pool") && !at.is_in("g", "my pool") && !at.is_in("f", "other"));
        assert!("rbd://old".parse::<Location>().unwrap().is_in("f", "p"));
        assert!(!"rbd://f/p/i/other".parse::<Location>().unwrap().is_in("f", "p"));
    }

    #[test]
    fn bad_locations_are_refused_by_name() {
        for text in [
            "rbd://",
            "rbd:///",
            "rbd://a/b",
            "rbd://a/b/c",
            "rbd://a//c/d",
            "rbd://a/b/c/d/e",
            "RBD://a",
            "rbd://a/b/c/%ff",
            "rbd://a/b/c/%00",
        ] {
            assert_eq!(text.parse::<Location>().unwrap_err().kind(), Kind::Invalid, "{text:?}");
        }
    }

    #[test]
    fn volumes_are_named_as_the_rbd_command_names_them() {
        for text in ["volumes/volume-1", "volumes/volume-1@snap", "my pool/x"] {
            assert_eq!(text.parse::<Volume>().unwrap().to_string(), text);
        }
        for text in ["", "volume-1", "/x", "volumes/", "volumes/x@", "volumes/x@a@b", "a/b/c"] {
            let error = text.parse::<Volume>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text:?}");
            assert!(error.to_string().contains("POOL/NAME"), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(pool in "[^\0]{1,20}", image in "[^\0]{1,20}") {
            let at = Location::new("f", &pool, &image);
            prop_assert_eq!(at.to_string().parse::<Location>().unwrap(), at);
        }
    }
}
