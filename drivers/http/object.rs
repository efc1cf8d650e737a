//! What a server says of an image: how long it is, and what tells it from another.

use std::{ops::Range, time::Duration};

use crate::{
    contract::{Error, Kind, Result, Span},
    kit::http::{
        Answer, HeaderName,
        header::{
            CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, LAST_MODIFIED,
            TRANSFER_ENCODING,
        },
    },
};

/// The last offset that servers in C can count to.
const LAST: u64 = i64::MAX.cast_unsigned();

/// What tells an image from another that comes to have its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Validator {
    /// A strong ETag, with its quotes.
    Etag(String),
    /// The time of the last change, long enough ago that no other change can have the same.
    Modified(String),
}

impl Validator {
    /// The one that an answer has.
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        if let Some(etag) = etag(answer) {
            return Some(Self::Etag(etag));
        }
        let date = |name: &HeaderName| httpdate::parse_http_date(answer.header(name)?).ok();
        let (modified, now) = (date(&LAST_MODIFIED)?, date(&DATE)?);
        let old = now.duration_since(modified).is_ok_and(|age| age >= Duration::from_secs(1));
        answer.header(&LAST_MODIFIED).filter(|_| old).map(|text| Self::Modified(text.to_owned()))
    }

    /// What `If-Range` says.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Etag(text) | Self::Modified(text) => text,
        }
    }

    /// Whether an answer says that it is about the same image.
    pub(super) fn is_of(&self, answer: &Answer) -> bool {
        match self {
            Self::Etag(text) => answer.header(&ETAG) == Some(text),
            Self::Modified(text) => answer.header(&LAST_MODIFIED) == Some(text),
        }
    }
}

/// The strong ETag of an answer.
pub(super) fn etag(answer: &Answer) -> Option<String> {
    let etag = answer.header(&ETAG)?;
    let strong = etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"');
    strong.then(|| etag.to_owned())
}

/// The value of a `Range` header for a span that is neither all nor nothing.
pub(super) fn range(span: Span) -> Option<String> {
    match span {
        Span::All => None,
        Span::From(start) => Some(format!("bytes={start}-")),
        Span::Part(start, end) if end > LAST => Some(format!("bytes={start}-")),
        Span::Part(start, end) => Some(format!("bytes={start}-{}", end.saturating_sub(1))),
        Span::Last(count) => Some(format!("bytes=-{}", count.min(LAST))),
    }
}

/// Whether a span has no byte, whatever the image.
pub(super) fn is_nothing(span: Span) -> bool {
    match span {
        Span::All | Span::From(_) => false,
        Span::Part(start, end) => start >= end,
        Span::Last(count) => count == 0,
    }
}

/// What an answer with status 200 or 206 brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Brings {
    /// Bytes of the whole image, if the server says it.
    pub(super) size: Option<u64>,
    /// The offsets of the bytes that follow; without an end where that is not said.
    pub(super) range: Range<u64>,
}

/// What an answer with status 200 or 206 brings.
///
/// # Errors
/// `Unsupported` if it is packed; `Unavailable` if it contradicts itself.
pub(super) fn brings(answer: &Answer) -> Result<Brings> {
    let plain = |name: &HeaderName, usual: &str| {
        let values = answer.headers.get_all(name).iter();
        values.into_iter().all(|value| value.as_bytes().eq_ignore_ascii_case(usual.as_bytes()))
    };
    if !plain(&CONTENT_ENCODING, "identity") || !plain(&TRANSFER_ENCODING, "chunked") {
        let what = "the server sends the image packed although it was asked not to";
        return Err(answer.error(Kind::Unsupported, what));
    }
    let wrong = |what: &str| answer.error(Kind::Unavailable, what);
    let length = match answer.headers.contains_key(&CONTENT_LENGTH) {
        false => None,
        true => Some(answer.header(&CONTENT_LENGTH).and_then(number).ok_or_else(|| {
            wrong("the server says the length of its answer so that nobody understands it")
        })?),
    };
    if answer.status == 200 {
        return Ok(Brings { size: length, range: 0..length.unwrap_or(u64::MAX) });
    }
    let (range, size) = answer
        .header(&CONTENT_RANGE)
        .and_then(content_range)
        .ok_or_else(|| wrong("the server does not say which bytes it sends"))?;
    let count = range.end.saturating_sub(range.start);
    if length.is_some_and(|length| length != count) || size.is_some_and(|size| range.end > size) {
        return Err(wrong("the server says two things about which bytes it sends"));
    }
    Ok(Brings { size, range })
}

/// The length of the image that an answer with status 416 says.
pub(super) fn size_outside(answer: &Answer) -> Option<u64> {
    number(answer.header(&CONTENT_RANGE)?.strip_prefix("bytes ")?.trim().strip_prefix("*/")?)
}

/// The refusal of an image whose length nobody knows.
pub(super) fn lengthless(answer: &Answer) -> Error {
    let what =
        "the server does not say how long the image is, neither with it nor with a range of it";
    answer.error(Kind::Unsupported, what)
}

/// The offsets and the whole length in `bytes 0-9/10`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = text.split_once(' ')?;
    let (range, size) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let size = if size == "*" { None } else { Some(number(size)?) };
    let range = first..last.checked_add(1)?;
    (unit.eq_ignore_ascii_case("bytes") && !range.is_empty()).then_some((range, size))
}

/// A number in digits, and nothing else, that servers can count to.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number <= LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_such_as_servers_can_count() {
        for (span, text) in [
            (Span::From(5), "bytes=5-"),
            (Span::Part(0, 1), "bytes=0-0"),
            (Span::Part(3, 10), "bytes=3-9"),
            (Span::Part(3, u64::MAX), "bytes=3-"),
            (Span::Last(7), "bytes=-7"),
            (Span::Last(u64::MAX), "bytes=-9223372036854775807"),
        ] {
            assert_eq!(range(span).unwrap(), text);
        }
        assert_eq!(range(Span::All), None);
    }

    #[test]
    fn what_a_range_says_is_read_strictly() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0..10, Some(10))));
        assert_eq!(content_range("Bytes 5-5/*"), Some((5..6, None)));
        for wrong in [
            "",
            "bytes",
            "bytes 0-9",
            "bytes 9-0/10",
            "bytes -1-9/10",
            "bytes 0-+9/10",
            "bytes */10",
            "lines 0-9/10",
            "bytes 0-18446744073709551615/18446744073709551616",
            "bytes 0-9/",
            "bytes 0-9/1 0",
        ] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
