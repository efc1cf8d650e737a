//! What every driver says in the same words.

use std::fmt;

use crate::{
    Location,
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
pub(crate) fn already_exists(id: impl fmt::Display, store: &str) -> Error {
    Error::new(
        Kind::Exists,
        format!("the store has an image of this id: id=`{id}` store=`{store}`"),
    )
}

/// The answer to a question about an image that is not there.
pub(crate) fn missing(what: impl fmt::Display, store: &str) -> Error {
    Error::new(Kind::NotFound, format!("no such image: image=`{what}` store=`{store}`"))
}
