//! The `Range` header: one range of bytes (RFC 9110, section 14).

use imaged_drivers::{Error, Kind, Result, Span};

/// The span that a `Range` header asks for. A unit other than bytes is ignored, as RFC 9110 wants.
///
/// # Errors
/// `Invalid` if it cannot be read, or asks for several ranges.
pub fn parse(text: &str) -> Result<Span> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read() {
        assert_eq!(parse("bytes=0-0").unwrap(), Span::Part(0, 1));
        assert_eq!(parse("bytes=5-9").unwrap(), Span::Part(5, 10));
        assert_eq!(parse("Bytes= 5-").unwrap(), Span::From(5));
        assert_eq!(parse("bytes=-7").unwrap(), Span::Last(7));
        assert_eq!(parse("pages=1-2").unwrap(), Span::All);
        let past = parse("bytes=0-99999999999999999999999").unwrap();
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
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Invalid, "{text:?}");
        }
    }
}
