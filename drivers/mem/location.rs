//! `mem://` locations.

use std::{fmt, str::FromStr};

use crate::contract::{Error, ImageId, Kind, Result};

/// The schemes of such locations.
pub const SCHEMES: [&str; 1] = ["mem"];

/// `mem://<store>/<id>`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    pub(super) store: String,
    pub(super) id: ImageId,
}

impl Location {
    /// The image's id.
    #[must_use]
    pub fn image(&self) -> &str {
        self.id.as_str()
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("mem://").and_then(|rest| rest.split_once('/')) {
            Some((store, id)) if !store.is_empty() => {
                Ok(Self { store: store.to_owned(), id: id.parse()? })
            }
            _ => Err(Error::new(
                Kind::Invalid,
                format!("a mem location is mem://STORE/ID: location=`{text}`"),
            )),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mem://{}/{}", self.store, self.id)
    }
}
