//! Reading an image: several reads in flight, in order, and none of what is known to be a hole.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream::BoxStream};
use imaged_ffi::{Errno, Extent, Image, Pool, sys};
use tokio::time::timeout;

use super::{
    cluster::Live,
    failure::{failed, is_shut_out},
    found::unfinished,
    handles::{Reading, Snapshot, close_later, is_made},
    image::{close, id_of, is_still},
    location::{SNAP, Unsnapped},
    metadata,
    seen::{Odd, Seen},
    store::Store,
};
use crate::{
    contract::{Error, Kind, Pieces, Result, Stat},
    kit::refusals::missing,
    window::{self, Buffer, CHUNK, Window, ends_with_the_last},
};

/// Bytes of one read, and how many reads are in flight.
pub(super) const READS: Pieces = Pieces { chunk: CHUNK, in_flight: 4 };

/// Size and digests of a whole image. One that was seen before costs one look whether it is
/// still the same. Blocks.
pub(super) fn look(store: &Store, pool: &Pool, name: &str, unsnapped: Unsnapped) -> Result<Seen> {
    let known = store.seen.lock().get(name);
    if let Some(seen) = known
        && is_still(pool, name, &seen.internal).map_err(|errno| failed("look at", name, errno))?
    {
        return Ok(seen);
    }
    // A watch costs as much as all else, and what is asked for here hardly ever changes.
    let open =
        |snap: Option<&str>| Image::open_unwatched(pool, name, snap).map(|image| (image, false));
    let (image, seen) = whole(store, pool, name, unsnapped, open)?;
    // Closing takes as long as looking, and the answer is here.
    close_later(image, name, &store.handles, &store.lane);
    Ok(seen)
}

fn unopened(store: &Store, name: &str, errno: Errno) -> Error {
    match errno {
        Errno::NOENT | Errno::STALE => missing(name, &store.name),
        errno => failed("open", name, errno),
    }
}

/// Opens a whole image at its snapshot, or at its head if it has none. Blocks.
pub(super) fn open_whole(
    store: &Store,
    pool: &Pool,
    name: &str,
    unsnapped: Unsnapped,
) -> Result<(Image, Seen)> {
    let open = |snap: Option<&str>| match Image::open(pool, name, snap) {
        Err(Errno::PERM | Errno::ACCES) => {
            Image::open_unwatched(pool, name, snap).map(|image| (image, false))
        }
        opened => opened.map(|image| (image, true)),
    };
    whole(store, pool, name, unsnapped, open)
}

/// Opens a whole image by `open`, which says whether the handle watches it, and looks at it. Blocks.
fn whole(
    store: &Store,
    pool: &Pool,
    name: &str,
    unsnapped: Unsnapped,
    open: impl Fn(Option<&str>) -> imaged_ffi::Result<(Image, bool)>,
) -> Result<(Image, Seen)> {
    let (opened, snapped) = match open(Some(SNAP)) {
        Err(Errno::NOENT) if unsnapped != Unsnapped::Never => (open(None), false),
        opened => (opened, true),
    };
    let (image, watched) = opened.map_err(|errno| unopened(store, name, errno))?;
    let looked = || {
        let (internal, size) = (id_of(&image, name)?, image.size()?);
        let digests = metadata::digests(&image, &internal, size)?;
        let odd = if snapped && image.snap_is_protected(SNAP)? {
            None
        } else {
            let known = digests.is_some();
            let of = (internal.as_str(), known, is_made(pool, name));
            Some(odd(&image, of, (snapped, watched), unsnapped)?)
        };
        let stat = Stat { size, digests, version: Some(internal.clone()) };
        Ok(Seen { internal, stat, watched, odd })
    };
    let found = looked().map_err(|errno| match errno {
        // A list leaves it out.
        Errno::NOENT if matches!(unsnapped, Unsnapped::No | Unsnapped::Yes) => {
            unfinished(store, &image, name, watched)
        }
        errno => unopened(store, name, errno),
    });
    // By now the client has heard what the OSD knows of the pool.
    match found.and_then(|seen| store.connection.holds(pool).map(|()| seen)) {
        Ok(seen) => {
            // Nothing keeps the others as they are.
            if seen.odd.is_none() {
                store.seen.lock().insert(name, seen.clone());
            }
            Ok((image, seen))
        }
        Err(error) => {
            close(image, name);
            Err(error)
        }
    }
}

/// What is odd in an image without a protected snapshot, if it is whole all the same; `known`: it has its
/// digests, which a daemon writes when all bytes have landed; `writes`: this process is at it. Blocks.
///
/// # Errors
/// `NOENT` if it is on its way to be one, or may be.
fn odd(
    image: &Image,
    (internal, known, writes): (&str, bool, bool),
    (snapped, watched): (bool, bool),
    unsnapped: Unsnapped,
) -> imaged_ffi::Result<Odd> {
    if let Some(mark) = metadata::upload_mark(image, internal)?
        && !(snapped && known && mark.watched_at(image, watched, writes)?.is_none())
    {
        return Err(Errno::NOENT);
    }
    if image.is_old_format()? {
        return Ok(Odd::Old { snapped });
    }
    if snapped {
        return Ok(Odd::Unprotected);
    }
    let counts = match unsnapped {
        Unsnapped::No | Unsnapped::Never => false,
        Unsnapped::Yes => true,
        Unsnapped::IfIdle => image.watchers()?.len() <= usize::from(watched),
    };
    if counts { Ok(Odd::Unsnapped) } else { Err(Errno::NOENT) }
}

/// An open image as something that is read, and what of `range` may hold something, if asking is
/// worth while; `unwatched` is where it is if the handle does not watch it. Blocks.
pub(super) fn reading(
    store: &Store,
    image: Image,
    name: &str,
    range: Range<u64>,
    unwatched: Option<Snapshot>,
) -> Result<(Reading, Option<Vec<Extent>>)> {
    let looked = || {
        // Before the extents, which come from the same map.
        let mapped = image.overlap()? > 0 && image.features()? & sys::RBD_FEATURE_OBJECT_MAP != 0;
        let long = range.end.saturating_sub(range.start) > READS.chunk as u64;
        Ok((mapped, long.then(|| image.extents(range)).transpose()?))
    };
    let (mapped, extents) = match looked() {
        Ok(looked) => looked,
        Err(errno) => {
            close(image, name);
            return Err(failed("read", name, errno));
        }
    };
    let Store { handles, lane, patience, .. } = store;
    let reading = Reading::new(image, name, handles, lane, *patience, unwatched, mapped);
    if extents.is_some() {
        // What is a hole now stays one, whatever becomes of the image.
        reading.is_unchanged()?;
    }
    Ok((reading, extents))
}

/// The bytes of `range`, which come over `live`; `extents` is what may hold something, in order, if that is
/// known.
pub(super) fn stream(
    live: Arc<Live>,
    reading: Arc<Reading>,
    name: String,
    range: Range<u64>,
    extents: Option<Vec<Range<u64>>>,
    window: Window,
) -> BoxStream<'static, Result<Bytes>> {
    let extents = Arc::new(extents);
    let parts = window.pieces(range, READS.in_flight, move |start, buffer| {
        let (reading, name) = (Arc::clone(&reading), name.clone());
        let extents = Arc::clone(&extents);
        async move { read_part(&reading, &name, start, extents.as_deref(), buffer).await }
    });
    let parts = parts.inspect_err(move |error| {
        if is_shut_out(error) {
            live.shut_out();
        }
    });
    ends_with_the_last(parts)
}

async fn read_part(
    reading: &Arc<Reading>,
    name: &str,
    start: u64,
    extents: Option<&[Range<u64>]>,
    buffer: Buffer,
) -> Result<Bytes> {
    let fail = |errno| failed("read", name, errno);
    let len = buffer.capacity();
    let part = start..start.saturating_add(len as u64);
    if extents.is_some_and(|extents| is_hole(extents, &part)) {
        return Ok(window::zeros(len));
    }
    let Some(image) = reading.image() else {
        return Err(Error::new(Kind::Internal, "an image was closed while it was read"));
    };
    // Each read has as long as one answer may take, so that a stream goes on as long as something comes.
    let landed = async {
        let slot = image.slot().await?;
        image.read_at(slot, buffer, part.start)?.await
    };
    let landed = timeout(reading.patience(), landed).await;
    let (got, mut buffer) =
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
