//! Images of every size and make, through the driver alone.

use futures_util::{StreamExt as _, future::join_all};
use imaged_drivers::{
    Kind, Span,
    memory::Share,
    window::{CHUNK, PAGE},
};

use crate::harness::stores::{
    Fixture, aligned_chunks, assert_reads, assert_same,
    content::{Look, image, pieces},
    read, window, write_image,
};

const SIZES: [usize; 8] = [0, 1, PAGE - 1, PAGE, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7];

pub(super) async fn every_size_comes_back_whatever_it_is_made_of(f: &Fixture) {
    for size in SIZES {
        for look in Look::ALL {
            let bytes = image(look, size, size as u64);
            for known in [Some(size as u64), None] {
                let what = format!("{look:?}, {size} bytes, size {known:?}");
                let chunks = aligned_chunks(&bytes);
                let (at, committed) =
                    write_image(&*f.driver, &f.id(), known, chunks).await.expect(&what);
                assert!(committed.stored_bytes <= size as u64, "{what}: {committed:?}");
                assert_eq!(f.driver.stat(&at).await.unwrap().size, size as u64, "{what}");
                assert_reads(&*f.driver, &at, &bytes, &what).await;
                f.remove(&at).await;
            }
        }
    }
}

pub(super) async fn chunks_of_any_length_and_place_make_one_image(f: &Fixture) {
    let size = CHUNK + 300_001;
    for look in Look::ALL {
        let bytes = image(look, size, 4);
        // The same bytes, one off in memory.
        let shifted = [&[1], &bytes[..]].concat();
        let shifted = bytes::Bytes::from(shifted).slice(1..);
        for chunk in [PAGE - 1, PAGE + 512, 65_537, 1_000_003, CHUNK] {
            let what = format!("{look:?}, {chunk} at a time");
            // All of one length, and the first of another, so that no other is in its place.
            let mut uneven = pieces(&shifted.slice(..513), 513);
            uneven.extend(pieces(&shifted.slice(513..), chunk));
            for chunks in [pieces(&shifted, chunk), uneven] {
                let written = write_image(&*f.driver, &f.id(), Some(size as u64), chunks).await;
                let (at, _) = written.expect(&what);
                assert_reads(&*f.driver, &at, &bytes, &what).await;
                f.remove(&at).await;
            }
        }
    }
}

pub(super) async fn every_span_of_every_size_is_its_slice(f: &Fixture) {
    for size in SIZES {
        let bytes = image(Look::Mixed, size, 6);
        let at = f.place(&f.id(), &bytes).await;
        let edges: Vec<usize> =
            [0, 1, PAGE - 1, PAGE, PAGE + 1, 65_536, CHUNK - 1, CHUNK, CHUNK + 1, size / 2]
                .into_iter()
                .chain([size.saturating_sub(1), size])
                .collect();
        let mut spans = vec![Span::All];
        for from in &edges {
            spans.extend([Span::From(*from as u64), Span::Last(*from as u64)]);
            spans
                .extend([1, PAGE, 70_000].map(|len| Span::Part(*from as u64, (from + len) as u64)));
        }
        for span in spans {
            let what = format!("{span:?} of {size}");
            let found = read(&*f.driver, &at, span).await;
            match (slice(&bytes, span), found) {
                (Some(wanted), Ok(found)) => assert_same(&found, wanted, &what),
                (None, Err(error)) => assert_eq!(error.kind(), Kind::Range, "{what}"),
                (wanted, found) => {
                    panic!("{what}: wanted {:?}, found {found:?}", wanted.map(<[u8]>::len));
                }
            }
        }
        f.remove(&at).await;
    }
}

/// What a span means, said once more and otherwise.
fn slice(bytes: &[u8], span: Span) -> Option<&[u8]> {
    let size = bytes.len();
    let place = |at: u64| usize::try_from(at).unwrap();
    let found = match span {
        Span::All => return Some(bytes),
        Span::From(from) => bytes.get(place(from)..)?,
        Span::Part(from, to) => bytes.get(place(from)..place(to).min(size).max(place(from)))?,
        Span::Last(count) => &bytes[size - place(count).min(size)..],
    };
    (!found.is_empty()).then_some(found)
}

pub(super) async fn readers_that_leave_half_way_hold_nothing(f: &Fixture) {
    let bytes = image(Look::Mixed, 3 * CHUNK + 7, 1);
    let at = f.place(&f.id(), &bytes).await;
    for taken in [0, 1, 2] {
        let memory = &f.shared().memory;
        let window = memory.window(Share::Get("main".into()), PAGE * 64, 2);
        let reader = f.driver.open(&at, Span::From(5), window).await.unwrap();
        let mut stream = reader.body.into_stream();
        let mut found = Vec::new();
        for _ in 0..taken {
            found.extend_from_slice(&stream.next().await.unwrap().unwrap());
        }
        drop(stream);
        assert_same(&found, &bytes[5..5 + found.len()], "what it has read");
    }
    f.remove(&at).await;
    f.assert_empty().await;
    // A stream is also done when its last byte is, and says so for ever.
    let at = f.place(&f.id(), &bytes).await;
    let reader = f.driver.open(&at, Span::Last(3), window(PAGE)).await.unwrap();
    let mut stream = reader.body.into_stream().fuse();
    assert_eq!(stream.next().await.unwrap().unwrap(), bytes[bytes.len() - 3..]);
    assert!(stream.next().await.is_none());
    f.remove(&at).await;
}

pub(super) async fn many_uploads_of_one_id_leave_one_winner(f: &Fixture) {
    for round in 0..4 {
        let id = f.id();
        let images: Vec<_> =
            (0..8).map(|n| image(Look::Random, 100_000 + n, (round * 8 + n) as u64)).collect();
        let ends = join_all(images.iter().map(|bytes| {
            let chunks = pieces(bytes, 8 * PAGE);
            write_image(&*f.driver, &id, None, chunks)
        }))
        .await;
        let mut won = Vec::new();
        for (n, end) in ends.into_iter().enumerate() {
            match end {
                Ok((at, _)) => won.push((n, at)),
                Err(error) => assert_eq!(error.kind(), Kind::Exists, "{error:?}"),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        let (n, at) = won.remove(0);
        assert_reads(&*f.driver, &at, &images[n], "the winner").await;
        f.remove(&at).await;
    }
}
