//! Reading an image: several reads in flight, in order, and none of what is known to be a hole.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use imaged_ffi::Errno;
use tokio::time::timeout;

use super::{
    failure::{Late, failed},
    handles::Reading,
};
use crate::{
    contract::{Error, Kind, Result},
    kit::window::{self, Buffer, CHUNK, Window},
};

/// Bytes of one read, and how many reads are in flight.
pub(super) const READS: (usize, usize) = (CHUNK, 4);

/// The part of a buffer that librbd fills.
struct Room {
    buffer: Buffer,
    len: usize,
}

impl AsMut<[u8]> for Room {
    fn as_mut(&mut self) -> &mut [u8] {
        self.buffer.room().get_mut(..self.len).unwrap_or_default()
    }
}

/// The bytes of `range`; `extents` is what may hold something, in order, if that is known.
pub(super) fn stream(
    reading: Arc<Reading>,
    name: String,
    range: Range<u64>,
    extents: Option<Vec<Range<u64>>>,
    window: Window,
) -> BoxStream<'static, Result<Bytes>> {
    let chunk = window.chunk().min(CHUNK) as u64;
    let ahead = READS.1.min(window.chunks());
    let (first, extents) = (range.start / chunk * chunk, Arc::new(extents));
    // Parts begin at multiples of their length, so that each is of one object.
    let starts = std::iter::successors(Some(first), move |start| start.checked_add(chunk));
    let end = range.end;
    let parts = stream::iter(starts.take_while(move |start| *start < end))
        .map(move |start| {
            let part = start.max(range.start)..range.end.min(start.saturating_add(chunk));
            let (reading, name) = (Arc::clone(&reading), name.clone());
            let (extents, window) = (Arc::clone(&extents), window.clone());
            async move { read_part(&reading, &name, part, extents.as_deref(), &window).await }
        })
        .buffered(ahead);
    // Lets go of the image with the last byte, not with the stream.
    stream::unfold(Some(parts.boxed()), |parts| async move {
        let mut parts = parts?;
        parts.next().await.map(|part| (part, Some(parts)))
    })
    .boxed()
}

async fn read_part(
    reading: &Reading,
    name: &str,
    part: Range<u64>,
    extents: Option<&[Range<u64>]>,
    window: &Window,
) -> Result<Bytes> {
    let fail = |errno| failed("read", name, errno, Late::Away);
    let len = usize::try_from(part.end.saturating_sub(part.start))
        .map_err(|error| Error::new(Kind::Internal, "a part exceeds memory").because(error))?;
    if extents.is_some_and(|extents| is_hole(extents, &part)) {
        return Ok(window::zeros(len));
    }
    let buffer = window.buffer().await?;
    let Some(image) = reading.image() else {
        return Err(Error::new(Kind::Internal, "an image was closed while it was read"));
    };
    // Each read has as long as one answer may take, so that a stream goes on as long as something comes.
    let landed = async {
        let slot = image.slot().await?;
        image.read_at(slot, Room { buffer, len }, part.start)?.await
    };
    let landed = timeout(reading.patience(), landed).await;
    let (got, Room { mut buffer, .. }) =
        landed.map_err(|late| fail(Errno::TIMEDOUT).because(late))?.map_err(fail)?;
    if got != len {
        return Err(Error::new(
            Kind::Unavailable,
            format!("the image ended while it was read: image=`{name}`"),
        ));
    }
    reading.check().await?;
    buffer.filled(len);
    Ok(buffer.freeze())
}

/// Whether none of `extents` has a byte of `part`.
fn is_hole(extents: &[Range<u64>], part: &Range<u64>) -> bool {
    let before = extents.partition_point(|extent| extent.end <= part.start);
    extents.get(before).is_none_or(|extent| extent.start >= part.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_where_no_extent_is() {
        let extents = [10..20, 30..40];
        for (part, hole) in [
            (0..10, true),
            (0..11, false),
            (19..20, false),
            (20..30, true),
            (25..31, false),
            (40..99, true),
        ] {
            assert_eq!(is_hole(&extents, &part), hole, "{part:?}");
        }
        assert!(is_hole(&[], &(0..1)));
    }
}
