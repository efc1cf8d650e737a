//! The conditions of a request, `If-Match` and `If-None-Match`, in the order of RFC 9110, section
//! 13.2.2: judged before anything is touched, and only where the request would succeed without them.
//!
//! An image's validator is its ETag, which it has once its digests are known. Nothing has a date, so
//! conditions by date are ignored, as the RFC asks of such a server.

use hyper::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use imaged_drivers::{Digests, Error, Kind, Result};

/// The ETag of an image with these digests, as a header has it: its md5, or its multihash where there is
/// none.
pub(super) fn etag(digests: &Digests) -> String {
    format!("\"{}\"", digests.checksum.as_ref().unwrap_or(&digests.hash_value))
}

/// What a request asks of the thing that it names, as it is now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// Whether a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Holds,
    /// The caller of a GET or HEAD has what it asks for already.
    NotModified,
}

/// The value of either header.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever is there.
    Any,
    /// One of these, and whether each is weak.
    These(Vec<(bool, String)>),
}

impl Conditions {
    /// The conditions in `headers`.
    ///
    /// # Errors
    /// `Invalid` if one cannot be read: what a caller demands is never passed over.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self> {
        let if_match = tags(headers, &IF_MATCH)?;
        Ok(Self { if_match, if_none_match: tags(headers, &IF_NONE_MATCH)? })
    }

    /// Whether the request makes none.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the request demands that something be there already, which a PUT can never satisfy.
    pub(super) fn demands_a_match(&self) -> bool {
        self.if_match.is_some()
    }

    /// Judges a GET or HEAD of what is there and has `digests`.
    ///
    /// # Errors
    /// `Precondition`.
    pub(super) fn judge_read(&self, digests: Option<&Digests>) -> Result<Verdict> {
        let etag = digests.map(etag);
        self.judge_match(etag.as_deref())?;
        let has_it = |tags: &Tags| tags.hold(etag.as_deref(), true);
        Ok(match self.if_none_match.as_ref().is_some_and(has_it) {
            true => Verdict::NotModified,
            false => Verdict::Holds,
        })
    }

    /// Judges a request that changes what is there and has `digests`.
    ///
    /// # Errors
    /// `Precondition`.
    pub(super) fn judge_change(&self, digests: Option<&Digests>) -> Result<()> {
        match self.judge_read(digests)? {
            Verdict::Holds => Ok(()),
            Verdict::NotModified => Err(failed(&IF_NONE_MATCH, digests.map(etag).as_deref())),
        }
    }

    fn judge_match(&self, etag: Option<&str>) -> Result<()> {
        match &self.if_match {
            Some(tags) if !tags.hold(etag, false) => Err(failed(&IF_MATCH, etag)),
            _ => Ok(()),
        }
    }
}

/// The refusal of a request whose condition does not hold.
pub(super) fn failed(header: &HeaderName, etag: Option<&str>) -> Error {
    let now = etag.map_or_else(|| "it has no ETag".to_owned(), |etag| format!("ETag=`{etag}`"));
    Error::new(Kind::Precondition, format!("the condition in {header} does not hold: {now}"))
}

impl Tags {
    /// Whether they name the thing that has `etag`. A weak tag names nothing where a strong
    /// comparison is asked for.
    fn hold(&self, etag: Option<&str>, weak_too: bool) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => {
                tags.iter().any(|(weak, tag)| (weak_too || !weak) && etag == Some(tag))
            }
        }
    }
}

/// The tags of a header, which may come in several lines.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>> {
    let mut found = Vec::new();
    let mut any = false;
    let mut lines = headers.get_all(name).iter().peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    for line in lines {
        let text = line.to_str().map_err(|error| unreadable(name).because(error))?;
        if text.trim() == "*" {
            any = true;
        } else {
            read_list(text, &mut found).ok_or_else(|| unreadable(name))?;
        }
    }
    match (any, found.is_empty()) {
        (true, true) => Ok(Some(Tags::Any)),
        (false, false) => Ok(Some(Tags::These(found))),
        _ => Err(unreadable(name)),
    }
}

fn unreadable(name: &HeaderName) -> Error {
    Error::new(
        Kind::Invalid,
        format!("{name} takes `*`, or ETags in double quotes with commas between them"),
    )
}

/// Reads `"a", W/"b"`; a comma inside the quotes belongs to the tag.
fn read_list(text: &str, found: &mut Vec<(bool, String)>) -> Option<()> {
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (tag, after) = quoted.strip_prefix('"')?.split_once('"')?;
        found.push((weak, format!("\"{tag}\"")));
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(HeaderName, &str)]) -> Result<Conditions> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        Conditions::read(&headers)
    }

    fn digests() -> Digests {
        Digests { checksum: Some("a,b".into()), hash_algo: "md5".into(), hash_value: "a,b".into() }
    }

    #[test]
    fn a_change_needs_every_condition_to_hold() {
        let (ours, none) = (Some(digests()), None);
        for (header, value, digests, holds) in [
            (IF_MATCH, "*", &ours, true),
            (IF_MATCH, "*", &none, true),
            (IF_MATCH, "\"a,b\"", &ours, true),
            (IF_MATCH, "\"x\", ,\t\"a,b\"", &ours, true),
            (IF_MATCH, "W/\"a,b\"", &ours, false),
            (IF_MATCH, "\"a\",\"b\"", &ours, false),
            (IF_MATCH, "\"a,b\"", &none, false),
            (IF_NONE_MATCH, "*", &ours, false),
            (IF_NONE_MATCH, "W/\"a,b\"", &ours, false),
            (IF_NONE_MATCH, "\"x\"", &ours, true),
            (IF_NONE_MATCH, "\"a,b\"", &none, true),
        ] {
            let conditions = read(&[(header.clone(), value)]).unwrap();
            let judged = conditions.judge_change(digests.as_ref());
            assert_eq!(judged.is_ok(), holds, "{header}: {value}: {digests:?}");
            assert!(judged.is_ok() || judged.unwrap_err().kind() == Kind::Precondition);
        }
        let both = [(IF_MATCH, "\"a,b\""), (IF_NONE_MATCH, "\"a,b\"")];
        assert!(read(&both).unwrap().judge_change(ours.as_ref()).is_err());
        assert_eq!(read(&both).unwrap().judge_read(ours.as_ref()).unwrap(), Verdict::NotModified);
        let first = [(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"a,b\"")];
        assert!(read(&first).unwrap().judge_read(ours.as_ref()).is_err(), "If-Match comes first");
    }

    #[test]
    fn lines_of_one_header_are_one_list() {
        let lines = [(IF_MATCH, "\"x\""), (IF_MATCH, "\"a,b\"")];
        read(&lines).unwrap().judge_change(Some(&digests())).unwrap();
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_passed_over() {
        for value in ["other", "\"a", "\"a\" \"b\"", "", " ", ",", "*, \"a\"", "w/\"a\"", "W/a"] {
            for header in [IF_MATCH, IF_NONE_MATCH] {
                let error = read(&[(header, value)]).unwrap_err();
                assert_eq!(error.kind(), Kind::Invalid, "{value:?}");
            }
        }
        assert!(read(&[(IF_MATCH, "*"), (IF_MATCH, "\"a\"")]).is_err());
    }
}
