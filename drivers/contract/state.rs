//! What a backend tells of itself: what can be done with it and its parts, and its space.

use std::collections::BTreeMap;

/// Facts by name, as JSON values.
pub type Properties = BTreeMap<String, serde_json::Value>;

/// A part of a backend, such as one of its directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is, for people: its kind and its name.
    pub what: String,
    /// What can be done with it.
    pub usable: Usable,
}

/// What can be done with a part of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usable {
    /// Everything that it is for.
    Up,
    /// Images in it can be read, and nothing written, for this reason.
    ReadingOnly(String),
    /// Nothing, for this reason.
    Down(String),
}

impl Usable {
    /// The state in a word or two.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::ReadingOnly(_) => "reading only",
            Self::Down(_) => "down",
        }
    }

    /// Why it is not up.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Up => None,
            Self::ReadingOnly(reason) | Self::Down(reason) => Some(reason),
        }
    }
}

/// Space in a backend, in bytes; `None` where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Capacity {
    /// All of it.
    pub total: Option<u64>,
    /// Taken.
    pub used: Option<u64>,
    /// Free for images.
    pub available: Option<u64>,
    /// Deleted images that clones still need, by their length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trash: Option<u64>,
}
