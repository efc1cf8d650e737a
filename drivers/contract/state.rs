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

/// A place where a backend keeps images, such as a directory or a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What it is, for people: its kind and its name.
    pub what: String,
    /// What no other place has, by whatever name it is reached.
    pub identity: String,
    /// The identities of the places that it lies in, if it lies in others.
    pub within: Vec<String>,
    /// Whether no two stores may have it. Where they may, they are told.
    pub exclusive: bool,
}

/// What two stores have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Common {
    /// A place that only one may have, for this reason.
    Refused(String),
    /// A place that both may have, or one in the other, which is good to know.
    Told(String),
}

impl Site {
    /// What `ours` have in common with `theirs`, which are those of the store `other`.
    #[must_use]
    pub fn common(ours: &[Self], theirs: &[Self], other: &str) -> Option<Common> {
        let pairs = || ours.iter().flat_map(|our| theirs.iter().map(move |their| (our, their)));
        let same = pairs().find(|(our, their)| our.identity == their.identity);
        if let Some((our, their)) = same {
            let refused = our.exclusive || their.exclusive;
            let remedy = if refused { ": take it out of one of them" } else { "" };
            let what = format!(
                "its {} is that of store `{other}` too, there the {}, so each has the other's \
                 images{remedy}",
                our.what, their.what
            );
            return Some(if refused { Common::Refused(what) } else { Common::Told(what) });
        }
        let (our, how, their) = pairs().find_map(|(our, their)| {
            if our.within.contains(&their.identity) {
                return Some((our, "is in", their));
            }
            their.within.contains(&our.identity).then_some((our, "holds", their))
        })?;
        Some(Common::Told(format!(
            "its {} {how} the {} of store `{other}`, so by their locations the images in the inner \
             one are images of both stores",
            our.what, their.what
        )))
    }
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
