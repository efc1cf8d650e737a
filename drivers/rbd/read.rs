//! Reading an image: several reads in flight, in order, and none of what is known to be a hole.
//!
//! # Decisions
//! * Chose: 4 reads of 4 MiB. Because: beside a cluster in memory on two cores, more reads, or 8 of 2 MiB, are
//!   no faster, and reads of 8 MiB, a whole object each, are a tenth slower: what is copied is then out of the
//!   processor's cache before it is copied again. Instead of: the size of the image's objects.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use imaged_ffi::{ASKED, Errno, Image, Pool, sys};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{
    cluster::Live,
    failure::{failed, is_shut_out},
    found,
    handles::{Reading, Snapshot, close_later, is_made},
    image::{close, id_of, is_still},
    location::{SNAP, Unsnapped},
    metadata,
    seen::{Odd, Seen},
    store::Store,
};
use crate::{
    contract::{Body, Error, Kind, Pieces, Result, Stat},
    kit::{
        refusals::missing,
        zeros::{block_end, block_start},
    },
    window::{Buffer, CHUNK, Run, Window, ends_with_the_last},
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
    // A list leaves out what is no image.
    let tells = matches!(unsnapped, Unsnapped::No | Unsnapped::Yes);
    let (image, watched) = opened.map_err(|errno| match errno {
        Errno::NOENT if tells => found::unopened(store, pool, name),
        errno => unopened(store, name, errno),
    })?;
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
        Errno::NOENT if tells => found::unfinished(store, &image, name, watched),
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

/// What an image holds, as far as that is known.
#[derive(Debug)]
pub(super) struct Held {
    /// What may hold something, in order, of what begins with the first and ends with `until`.
    extents: Vec<Range<u64>>,
    until: u64,
}

impl Held {
    /// What of `range` is asked about first.
    fn slice(range: Range<u64>) -> Range<u64> {
        range.start..range.end.min(range.start.saturating_add(ASKED))
    }

    fn new(extents: Vec<Range<u64>>, slice: &Range<u64>) -> Self {
        Self { extents: whole_blocks(extents, slice), until: slice.end }
    }

    /// What comes at `at`, if that is known.
    fn at(&self, at: u64) -> Option<Run> {
        (at < self.until).then(|| match run(&self.extents, at) {
            Run::Data(end) => Run::Data(end.min(self.until)),
            Run::Hole(end) => Run::Hole(end.min(self.until)),
        })
    }
}

/// An open image as something that is read, and what the beginning of `range` holds, if asking is
/// worth while; `unwatched` is where it is if the handle does not watch it. Blocks.
pub(super) fn reading(
    store: &Store,
    image: Image,
    name: &str,
    range: Range<u64>,
    unwatched: Option<Snapshot>,
) -> Result<(Reading, Option<Held>)> {
    let looked = || {
        // Before the extents, which come from the same map.
        Ok(image.overlap()? > 0 && image.features()? & sys::RBD_FEATURE_OBJECT_MAP != 0)
    };
    let mapped = match looked() {
        Ok(mapped) => mapped,
        Err(errno) => {
            close(image, name);
            return Err(failed("read", name, errno));
        }
    };
    let Store { handles, lane, patience, .. } = store;
    let reading = Reading::new(image, name, handles, lane, *patience, unwatched, mapped);
    let long = range.end.saturating_sub(range.start) > READS.chunk as u64;
    let slice = Held::slice(range);
    let held = long.then(|| reading.extents(slice.clone())).transpose()?;
    Ok((reading, held.map(|extents| Held::new(extents, &slice))))
}

/// What `range` has, which comes over `live`; `held` is what its beginning holds, if that is known.
pub(super) fn body(
    live: Arc<Live>,
    reading: Arc<Reading>,
    name: String,
    range: Range<u64>,
    held: Option<Held>,
    window: Window,
) -> Body {
    let heard = {
        let live = Arc::clone(&live);
        move |error: &Error| {
            if is_shut_out(error) {
                live.shut_out();
            }
        }
    };
    let read = {
        let (reading, heard) = (Arc::clone(&reading), heard.clone());
        move |start, buffer| {
            let (reading, name, heard) = (Arc::clone(&reading), name.clone(), heard.clone());
            async move { read_part(&reading, &name, start, buffer).inspect_err(heard).await }
        }
    };
    let Some(held) = held.filter(|held| held.extents != [range.clone()]) else {
        return Body::Stream(ends_with_the_last(window.pieces(range, READS.in_flight, read)));
    };
    let (end, held) = (range.end, Arc::new(Mutex::new(held)));
    let look = move |at| {
        let (reading, held, heard) = (Arc::clone(&reading), Arc::clone(&held), heard.clone());
        async move {
            loop {
                if let Some(known) = held.lock().at(at) {
                    return Ok(known);
                }
                let slice = Held::slice(at..end);
                let extents = reading.look_at(slice.clone()).inspect_err(&heard).await?;
                *held.lock() = Held::new(extents, &slice);
            }
        }
    };
    let extents = window.extents(range, READS.in_flight, look, read);
    Body::Extents(ends_with_the_last(extents))
}

async fn read_part(
    reading: &Arc<Reading>,
    name: &str,
    start: u64,
    buffer: Buffer,
) -> Result<Bytes> {
    let fail = |errno| failed("read", name, errno);
    let len = buffer.capacity();
    let image = reading.image()?;
    // Each read has as long as one answer may take, so that a stream goes on as long as something comes.
    let landed = async {
        let slot = image.slot().await?;
        image.read_at(slot, buffer, start)?.await
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

/// `extents`, which are in order, in whole blocks of [`BLOCK`](crate::kit::zeros::BLOCK) within `range`: so
/// that many small ones are not as many reads.
fn whole_blocks(extents: Vec<Range<u64>>, range: &Range<u64>) -> Vec<Range<u64>> {
    let mut whole: Vec<Range<u64>> = Vec::with_capacity(extents.len());
    for extent in extents {
        let start = block_start(extent.start).max(range.start);
        let end = block_end(extent.end).min(range.end);
        match whole.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ if start < end => whole.push(start..end),
            _ => {}
        }
    }
    whole
}

/// What comes at `at`, of which `extents` may hold something.
fn run(extents: &[Range<u64>], at: u64) -> Run {
    let before = extents.partition_point(|extent| extent.end <= at);
    match extents.get(before) {
        Some(extent) if extent.start <= at => Run::Data(extent.end),
        Some(extent) => Run::Hole(extent.start),
        None => Run::Hole(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_where_no_extent_is() {
        let extents = [10..20, 30..40];
        for (at, next) in [
            (0, Run::Hole(10)),
            (9, Run::Hole(10)),
            (10, Run::Data(20)),
            (19, Run::Data(20)),
            (20, Run::Hole(30)),
            (35, Run::Data(40)),
            (40, Run::Hole(u64::MAX)),
        ] {
            assert_eq!(run(&extents, at), next, "{at}");
        }
        assert_eq!(run(&[], 0), Run::Hole(u64::MAX));
    }

    #[test]
    fn what_is_known_ends_where_nobody_has_asked_further() {
        const G: u64 = 1 << 30;
        let slice = Held::slice(G..100 * G);
        assert_eq!(slice, G..9 * G);
        let held = Held::new(vec![3 * G..4 * G, 9 * G - 5..9 * G], &slice);
        assert_eq!(held.at(G), Some(Run::Hole(3 * G)));
        assert_eq!(held.at(3 * G), Some(Run::Data(4 * G)));
        assert_eq!(held.at(9 * G - 1), Some(Run::Data(9 * G)));
        assert_eq!(held.at(9 * G), None);
        let held = Held::new(vec![], &slice);
        assert_eq!(held.at(G), Some(Run::Hole(9 * G)));
        let last = Held::slice(98 * G..100 * G);
        assert_eq!(last, 98 * G..100 * G);
        assert_eq!(Held::new(vec![last.clone()], &last).at(99 * G), Some(Run::Data(100 * G)));
        assert_eq!(Held::slice(u64::MAX - 1..u64::MAX), u64::MAX - 1..u64::MAX);
    }

    #[test]
    fn extents_become_whole_blocks_of_what_is_read() {
        const K: u64 = 1 << 10;
        let whole = |extents: &[(u64, u64)], (start, end): (u64, u64)| {
            let extents = extents.iter().map(|(start, end)| start * K..end * K).collect();
            let whole = whole_blocks(extents, &(start * K..end * K));
            whole.into_iter().map(|found| (found.start / K, found.end / K)).collect::<Vec<_>>()
        };
        assert_eq!(whole(&[(70, 71), (100, 130)], (0, 999)), [(64, 192)]);
        assert_eq!(whole(&[(0, 1), (300, 301)], (0, 999)), [(0, 64), (256, 320)]);
        assert_eq!(whole(&[(70, 200)], (71, 72)), [(71, 72)]);
        assert_eq!(whole(&[], (0, 5)), []);
    }
}
