//! `Range` and `Content-Range`: one range of bytes (RFC 9110, section 14).

use std::ops::Range;

use imaged_drivers::{Error, Kind, Result, Span};

/// The span that a `Range` header asks for. A unit other than bytes is ignored, as RFC 9110 wants.
///
/// # Errors
/// `Invalid` if it cannot be read, or asks for several ranges.
pub fn read(text: &str) -> Result<Span> {
    let refuse = |why: &str| {
        let shown: String = text.chars().take(100).collect();
        Err(Error::new(Kind::Invalid, format!("{why}: range=`{shown}`")))
    };
    let Some((unit, set)) = text.split_once('=') else {
        return refuse("a range is written bytes=FIRST-LAST");
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ok(Span::All);
    }
    if set.contains(',') {
        return refuse("one range at a time; ask again for the others");
    }
    let Some((first, last)) = set.trim().split_once('-') else {
        return refuse("a range is written bytes=FIRST-LAST");
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => Ok(Span::From(first)),
        (None, Some(count)) if first.is_empty() => Ok(Span::Last(count)),
        (Some(first), Some(last)) if first <= last => Ok(Span::Part(first, last.saturating_add(1))),
        (Some(_), Some(_)) => refuse("the range ends before it begins"),
        _ => refuse("a range is written bytes=FIRST-LAST"),
    }
}

/// The `Range` header that asks for a span; `None` asks for all.
#[must_use]
pub fn write(span: Span) -> Option<String> {
    match span {
        Span::All => None,
        Span::From(first) => Some(format!("bytes={first}-")),
        Span::Last(count) => Some(format!("bytes=-{count}")),
        Span::Part(first, end) => Some(format!("bytes={first}-{}", end.saturating_sub(1))),
    }
}

/// The `Content-Range` of `part` of an image of `size` bytes: `bytes FIRST-LAST/SIZE`.
#[must_use]
pub fn write_content(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1))
}

/// The `Content-Range` of the refusal of a range that an image of `size` bytes does not have.
#[must_use]
pub fn unsatisfied(size: u64) -> String {
    format!("bytes */{size}")
}

/// The part of an image, and the image's size, that a `Content-Range` tells.
#[must_use]
pub fn read_content(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    Some((first..last.checked_add(1)?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read() {
        assert_eq!(read("bytes=0-0").unwrap(), Span::Part(0, 1));
        assert_eq!(read("bytes=5-9").unwrap(), Span::Part(5, 10));
        assert_eq!(read("Bytes= 5-").unwrap(), Span::From(5));
        assert_eq!(read("bytes=-7").unwrap(), Span::Last(7));
        assert_eq!(read("pages=1-2").unwrap(), Span::All);
        let past = read("bytes=0-99999999999999999999999").unwrap();
        assert_eq!(past, Span::Part(0, u64::MAX));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=2-1",
            "bytes=1-2,4-5",
            "bytes=+1-2",
            "bytes=a-b",
        ] {
            assert_eq!(read(text).unwrap_err().kind(), Kind::Invalid, "{text:?}");
        }
    }

    #[test]
    fn what_is_asked_for_and_what_is_sent_are_read_as_written() {
        for span in [Span::From(5), Span::Last(7), Span::Part(0, 1), Span::Part(3, 9)] {
            assert_eq!(read(&write(span).unwrap()).unwrap(), span);
        }
        assert_eq!(write(Span::All), None);
        assert_eq!(read_content(&write_content(&(3..9), 20)), Some((3..9, 20)));
        for text in [unsatisfied(20), "bytes 3-/20".into(), "bytes=3-8/20".into(), String::new()] {
            assert_eq!(read_content(&text), None, "{text}");
        }
    }
}
