//! What every driver says in the same words.

use std::fmt;

use crate::{
    Location, Volume,
    contract::{Error, Kind},
};

/// The refusal of a location that belongs to another driver or store.
pub(crate) fn foreign(at: &Location, store: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!("this location is not one of the store's: location=`{at}` store=`{store}`"),
    )
}

/// The refusal of an upload under an id that another image has.
#[must_use]
pub fn already_exists(id: impl fmt::Display, store: &str) -> Error {
    Error::new(
        Kind::Exists,
        format!("the store has an image of this id: id=`{id}` store=`{store}`"),
    )
}

/// The answer to a question about an image that is not there.
pub(crate) fn missing(what: impl fmt::Display, store: &str) -> Error {
    Error::new(Kind::NotFound, format!("no such image: image=`{what}` store=`{store}`"))
}

/// The refusal of a volume that a store of this type does not reach.
pub(crate) fn unreached(volume: &Volume, kind: &str, store: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        format!(
            "a store of type {kind} does not reach this volume; name one that does as the source's \
             store: volume=`{volume}` store=`{store}`"
        ),
    )
}
