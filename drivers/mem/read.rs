//! Reading an image: slices of its bytes.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::images::Image;
use crate::contract::{Body, Error, Kind, Result, Span};

/// The range that `span` means, and its bytes in pieces of at most `chunk` bytes.
pub(super) fn read(image: &Image, span: Span, chunk: usize) -> Result<(Range<u64>, Body)> {
    let range = span.of(image.bytes.len() as u64)?;
    let part = slice(&image.bytes, range.start, range.end)?;
    let pieces = (0..part.len())
        .step_by(chunk)
        .map(move |from| Ok(part.slice(from..part.len().min(from.saturating_add(chunk)))));
    Ok((range, Body::Stream(stream::iter(pieces.collect::<Vec<_>>()).boxed())))
}

fn slice(bytes: &Bytes, start: u64, end: u64) -> Result<Bytes> {
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(bytes.slice(start..end)),
        _ => Err(Error::new(Kind::Internal, "an image in memory is larger than memory")),
    }
}
