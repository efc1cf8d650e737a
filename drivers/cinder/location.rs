//! `cinder://` locations, and volumes of Cinder.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::contract::{Error, Kind, Result, is_uuid};

/// The scheme of such locations.
pub const SCHEMES: [&str; 1] = ["cinder"];

/// Where an image is in a Cinder: `cinder://<store>/<volume>`, or `cinder://<volume>` as a Glance with one store has
/// it.
///
/// glance_store reads the last part alone; here one that names another store is that store's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    store: Option<String>,
    volume: Volume,
}

/// A volume of Cinder, by its UUID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Volume(String);

impl Location {
    /// Where the image in `volume` of the store is.
    pub(super) fn new(store: &str, volume: &Volume) -> Self {
        Self { store: Some(store.to_owned()), volume: volume.clone() }
    }

    /// The store, if it names one.
    pub(super) fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// The volume that has the image.
    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The volume's UUID: the image's own id is in the volume's metadata.
    #[must_use]
    pub fn image(&self) -> &str {
        self.volume.as_str()
    }
}

impl Volume {
    /// Its UUID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Volume {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if is_uuid(text) && !text.contains(|c: char| c.is_ascii_uppercase()) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(100).collect();
        Err(Error::new(
            Kind::Invalid,
            format!("a volume of Cinder is named by its UUID, in small letters: volume=`{shown}`"),
        ))
    }
}

impl TryFrom<String> for Volume {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Volume> for String {
    fn from(volume: Volume) -> Self {
        volume.0
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let shown: String = text.chars().take(300).collect();
            let what = "a location in Cinder is cinder://STORE/VOLUME, or cinder://VOLUME";
            Error::new(Kind::Invalid, format!("{what}: location=`{shown}`"))
        };
        let rest = text.strip_prefix("cinder://").ok_or_else(refuse)?;
        let (store, volume) = match rest.rsplit_once('/') {
            Some((store, volume)) => (Some(store), volume),
            None => (None, rest),
        };
        if store.is_some_and(|store| store.is_empty() || store.contains('/')) {
            return Err(refuse());
        }
        Ok(Self { store: store.map(str::to_owned), volume: volume.parse()? })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.store {
            Some(store) => write!(f, "cinder://{store}/{}", self.volume),
            None => write!(f, "cinder://{}", self.volume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1b2c3d4e-0000-4111-8222-abcdef012345";

    #[test]
    fn both_forms_are_read_and_written_as_they_were() {
        for text in [format!("cinder://{ID}"), format!("cinder://fast volumes/{ID}")] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), text);
            assert_eq!(location.image(), ID);
        }
        let located = Location::new("fast", &ID.parse().unwrap());
        assert_eq!(located.to_string(), format!("cinder://fast/{ID}"));
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        let other = ID.to_uppercase();
        for text in [
            "cinder://".to_owned(),
            "cinder://fast/".to_owned(),
            format!("cinder:///{ID}"),
            format!("cinder://a/b/{ID}"),
            format!("cinder://{other}"),
            format!("cinder://{ID}/"),
            format!("cinder://{ID}?a=b"),
            format!("cinder://{}", ID.replace('-', "_")),
            format!("Cinder://{ID}"),
        ] {
            assert_eq!(text.parse::<Location>().unwrap_err().kind(), Kind::Invalid, "{text}");
        }
    }
}
