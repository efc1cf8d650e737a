//! Parts of the body of an image.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use imaged_drivers::{self as drivers, Error, Extent, Kind, Result, zeros::thinned};

/// Some bytes of a body, and how many of the image they bring.
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) of_image: u64,
    /// How long the caller was waited for, so that they could be sent.
    pub(super) waited: Duration,
}

impl From<Bytes> for Part {
    fn from(bytes: Bytes) -> Self {
        Self { of_image: bytes.len() as u64, bytes, waited: Duration::ZERO }
    }
}

/// The failure of a backend whose images end early.
pub(super) fn stopped() -> Error {
    Error::new(Kind::Unavailable, "the store stopped before the end")
}

/// What comes next of an image that is sent without its holes.
pub(super) struct Record {
    /// Bytes of the hole before it: a hole counts with what comes after it.
    pub(super) hole: u64,
    /// Where in the image it is.
    pub(super) at: u64,
    /// None at the end, where what was asked for ends.
    pub(super) bytes: Bytes,
}

/// What `content` has, which is `range` of an image, with its end.
pub(super) fn records(
    content: drivers::Body,
    range: Range<u64>,
) -> impl Stream<Item = Result<Record>> + Send {
    let Range { start: at, end } = range;
    let extents = thinned(content.into_extents(), at).boxed();
    stream::try_unfold((Some(extents), at), move |(extents, at)| async move {
        let Some(mut extents): Option<BoxStream<'_, _>> = extents else { return Ok(None) };
        let mut hole: u64 = 0;
        loop {
            let here = at.saturating_add(hole);
            match extents.next().await.transpose()? {
                Some(Extent::Hole(len)) => hole = hole.saturating_add(len),
                Some(Extent::Data(bytes)) => {
                    let next = here.saturating_add(bytes.len() as u64);
                    return Ok(Some((Record { hole, at: here, bytes }, (Some(extents), next))));
                }
                None if here < end => return Err(stopped()),
                None => {
                    let last = Record { hole, at: here, bytes: Bytes::new() };
                    return Ok(Some((last, (None, here))));
                }
            }
        }
    })
}
