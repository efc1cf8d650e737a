//! One case for each clause of the contract, by its name there.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::join_all};
use imaged::{digest::Algo, store::Store, wire::records::Mode};
use imaged_drivers::{
    Body, Caps, Driver, Extent, Hold, ImageId, Kind, Listed, Location, Recovered, Result, Source,
    Span, Volume,
    memory::Share,
    window::{CHUNK, PAGE},
    zeros,
};

pub(super) use super::{
    lasting::what_is_committed_outlives_the_process, late::not_recovered_while_a_call_is_out,
};
use crate::harness::stores::{
    Fixture, Held, Modest, aligned_chunks, assert_reads, assert_same, claim,
    content::{Look, digests, image, pieces},
    drained, filled, new_image, order, put, read, window, write_image,
};

/// The kind of a failure that must be one.
fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
    result.expect_err("this is refused").kind()
}

pub(crate) async fn invisible_until_commit(f: &Fixture) {
    for size in [None, Some(CHUNK as u64 + 5)] {
        let bytes = image(Look::Random, CHUNK + 5, 1);
        let id = f.id();
        let mut upload = f.driver.create(&new_image(&id, size)).await.unwrap();
        let at = upload.at().clone();
        assert!(f.driver.place(&id).is_none_or(|place| place == at), "where it will be");
        let unseen = async |when: &str| {
            assert_eq!(kind(f.driver.locate(&id).await), Kind::NotFound, "{when}");
            assert_eq!(kind(f.driver.stat(&at).await), Kind::NotFound, "{when}");
            assert_eq!(kind(read(&*f.driver, &at, Span::All).await), Kind::NotFound, "{when}");
            assert_eq!(kind(f.driver.delete(&at, Hold::default()).await), Kind::NotFound, "{when}");
            assert_eq!(f.list().await, [], "{when}");
        };
        unseen("created").await;
        for chunk in aligned_chunks(&bytes) {
            upload.write(chunk).await.unwrap();
            unseen("written").await;
        }
        upload.commit(&digests(&bytes, Algo::Sha256)).await.unwrap();
        assert_eq!(f.driver.locate(&id).await.unwrap(), at);
        assert_reads(&*f.driver, &at, &bytes, "committed").await;
        f.remove(&at).await;
    }
}

pub(crate) async fn id_is_taken_once(f: &Fixture) {
    let bytes = [image(Look::Random, 9000, 1), image(Look::Random, 9000, 2)];
    // Of two uploads that are under way at once, in either order, the first commit wins.
    for (first, second) in [(0, 1), (1, 0)] {
        let id = f.id();
        let mut uploads = Vec::new();
        // The sizes differ as much as may be, so that they could end up in different places.
        for size in [Some(1 << 30), None] {
            match f.driver.create(&new_image(&id, size)).await {
                Ok(upload) => uploads.push(Some(upload)),
                Err(error) => {
                    // A store too small for the one, or a driver that refuses the other at once.
                    assert!(matches!(error.kind(), Kind::Exists | Kind::Full), "{error:?}");
                    uploads.push(None);
                }
            }
        }
        assert!(uploads.iter().any(Option::is_some), "neither could begin");
        let mut won = None;
        for n in [first, second] {
            let Some(mut upload) = uploads[n].take() else { continue };
            upload.write(bytes[n].clone()).await.unwrap();
            let at = upload.at().clone();
            match upload.commit(&digests(&bytes[n], Algo::Sha256)).await {
                Ok(_) => {
                    assert!(won.is_none(), "two uploads of one id were committed");
                    won = Some((n, at));
                }
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Exists, "{error:?}");
                    assert!(won.is_some(), "refused, and nothing is there");
                }
            }
        }
        let (n, at) = won.expect("one of them wins");
        assert_reads(&*f.driver, &at, &bytes[n], "the winner").await;
        assert_eq!(f.list().await.len(), 1);
        let again = write_image(&*f.driver, &id, None, vec![bytes[0].clone()]).await;
        assert_eq!(kind(again), Kind::Exists);
        assert_reads(&*f.driver, &at, &bytes[n], "the winner stays").await;
        f.remove(&at).await;
        f.place(&id, &bytes[0]).await;
        f.remove(&at_of(f, &id).await).await;
    }
}

async fn at_of(f: &Fixture, id: &ImageId) -> Location {
    f.driver.locate(id).await.unwrap()
}

/// A part of an image that is written: so many bytes, or so many of a hole.
#[derive(Clone, Copy, Debug)]
enum Written {
    Data(usize),
    Hole(usize),
}

pub(crate) async fn a_hole_is_zeros_and_takes_no_space_where_zeros_are_left_out(f: &Fixture) {
    use Written::{Data, Hole};
    const BLOCK: usize = zeros::BLOCK;
    for (n, parts) in [
        &[Hole(17 * BLOCK), Data(4 * PAGE), Hole(2 * BLOCK)][..],
        // The end of an image may be anywhere.
        &[Data(PAGE), Hole(PAGE), Data(BLOCK), Hole(5 * CHUNK + 3 * PAGE), Data(PAGE + 7)],
        &[Data(3 * BLOCK + PAGE), Hole(4 * CHUNK + 12_345)],
        &[Hole(1)],
        &[Hole(3 * CHUNK), Hole(CHUNK + 1)],
        &[Data(5)],
    ]
    .into_iter()
    .enumerate()
    {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend(match *part {
                Data(len) => image(Look::Random, len, n as u64),
                Hole(len) => image(Look::Zeros, len, 0),
            });
        }
        let bytes = Bytes::from(bytes);
        // Of no known length every other one, which a backend may have to make longer as it comes.
        let size = (n % 2 == 0).then_some(bytes.len() as u64);
        let id = f.id();
        let mut upload = f.driver.create(&new_image(&id, size)).await.unwrap();
        let (at, mut done) = (upload.at().clone(), 0);
        for part in parts {
            let (Data(len) | Hole(len)) = *part;
            match part {
                Hole(_) => upload.skip(len as u64).await.unwrap(),
                Data(_) => {
                    for chunk in aligned_chunks(&bytes.slice(done..done + len)) {
                        upload.write(chunk).await.unwrap();
                    }
                }
            }
            done += len;
        }
        let what = format!("{parts:?}");
        let committed = upload.commit(&digests(&bytes, Algo::Md5)).await.unwrap();
        assert_reads(&*f.driver, &at, &bytes, &what).await;
        let reader = f.driver.open(&at, Span::All, window(CHUNK)).await.unwrap();
        let known = reader.body.has_holes();
        let (found, holes) = filled(reader.body.into_extents()).await.unwrap();
        assert_same(&found, &bytes, &what);
        assert!(known || holes == 0, "{what}");
        if f.caps().seek {
            for span in [Span::From(bytes.len() as u64 - 1), Span::Part(PAGE as u64 + 5, u64::MAX)]
            {
                let Ok(range) = span.of(bytes.len() as u64) else { continue };
                let reader = f.driver.open(&at, span, window(f.finest())).await.unwrap();
                let (found, _) = filled(reader.body.into_extents()).await.unwrap();
                let from = usize::try_from(range.start).unwrap();
                assert_same(&found, &bytes[from..], &what);
            }
        }
        f.remove(&at).await;
        // Who sends zeros stores no less.
        let same = write_image(&*f.driver, &f.id(), size, aligned_chunks(&bytes)).await.unwrap();
        assert!(committed.stored_bytes <= same.1.stored_bytes, "{what}: {committed:?} {same:?}");
        f.remove(&same.0).await;
    }
}

pub(crate) async fn uploads_do_not_mix(f: &Fixture) {
    let images: Vec<_> =
        (0..12).map(|n| (f.id(), image(Look::Mixed, 200_000 + n * 777, n as u64))).collect();
    let written = join_all(images.iter().map(|(id, bytes)| async {
        write_image(&*f.driver, id, None, pieces(bytes, 4 * PAGE)).await.unwrap().0
    }))
    .await;
    for (at, (id, bytes)) in written.iter().zip(&images) {
        assert_reads(&*f.driver, at, bytes, id.as_str()).await;
        f.remove(at).await;
    }
}

pub(crate) async fn spans_are_slices(f: &Fixture) {
    let bytes = image(Look::Mixed, CHUNK + 4097, 3);
    let size = bytes.len() as u64;
    let at = f.place(&f.id(), &bytes).await;
    for (span, from, to) in [
        (Span::All, 0, size),
        (Span::From(0), 0, size),
        (Span::From(size - 1), size - 1, size),
        (Span::Part(0, 1), 0, 1),
        (Span::Part(4095, 4097), 4095, 4097),
        (Span::Part(size - 3, u64::MAX), size - 3, size),
        (Span::Last(1), size - 1, size),
        (Span::Last(u64::MAX), 0, size),
    ] {
        let reader = f.driver.open(&at, span, window(f.finest())).await.unwrap();
        assert_eq!((reader.size, reader.range.clone()), (size, from..to), "{span:?}");
        let finest = f.finest();
        let extents = reader.body.into_extents().inspect_ok(move |extent| {
            if let Extent::Data(chunk) = extent {
                assert!(chunk.len() <= finest, "{span:?}: {}", chunk.len());
            }
        });
        let (found, _) = filled(extents.boxed()).await.unwrap();
        let wanted = &bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()];
        assert_same(&found, wanted, &format!("{span:?}"));
    }
    f.remove(&at).await;
}

pub(crate) async fn past_the_end_is_range(f: &Fixture) {
    let at = f.place(&f.id(), &image(Look::Random, 5000, 1)).await;
    for span in [
        Span::From(5000),
        Span::From(u64::MAX),
        Span::Part(5000, 5001),
        Span::Part(7, 7),
        Span::Last(0),
    ] {
        assert_eq!(kind(read(&*f.driver, &at, span).await), Kind::Range, "{span:?}");
    }
    f.remove(&at).await;
    let empty = f.place(&f.id(), &image(Look::Random, 0, 1)).await;
    assert_eq!(kind(read(&*f.driver, &empty, Span::From(0)).await), Kind::Range);
    assert_eq!(read(&*f.driver, &empty, Span::All).await.unwrap().len(), 0);
    f.remove(&empty).await;
}

pub(crate) async fn delete_during_a_read(f: &Fixture) {
    let bytes = image(Look::Random, 3 * CHUNK + 7, 1);
    let other = image(Look::Random, 3 * CHUNK + 7, 2);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let reader = f.driver.open(&at, Span::All, window(PAGE * 16)).await.unwrap();
    let mut stream = reader.body.into_stream();
    let mut found = stream.next().await.unwrap().unwrap().to_vec();
    let deleted = f.driver.delete(&at, Hold::default()).await;
    match &deleted {
        // Another image of the same name must not show through.
        Ok(()) => drop(f.place(&id, &other).await),
        Err(error) => assert_eq!(error.kind(), Kind::InUse, "{error:?}"),
    }
    let ended = loop {
        match stream.next().await {
            Some(Ok(chunk)) => found.extend_from_slice(&chunk),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    match ended {
        None => assert_same(&found, &bytes, "a deleted image, read to its end"),
        Some(error) if deleted.is_err() => panic!("it is there, and cannot be read: {error:?}"),
        Some(_) => assert_same(&found, &bytes[..found.len()], "a deleted image, read in part"),
    }
    drop(stream);
    f.remove(&at).await;
}

pub(crate) async fn a_foreign_location_is_invalid(f: &Fixture) {
    let bytes = image(Look::Random, 100, 1);
    let at = f.place(&f.id(), &bytes).await;
    let mut foreign = vec![
        "mem://other/x".to_owned(),
        "file:///nowhere/at/all".to_owned(),
        "file:///etc/passwd".to_owned(),
    ];
    for dir in &f.dirs {
        // Beside the directory, by a prefix of its name, and above it.
        let dir = dir.display();
        foreign.push(format!("file://{dir}x/y"));
        foreign.push(format!("file://{dir}"));
    }
    for text in foreign {
        let foreign: Location = text.parse().unwrap();
        assert_eq!(kind(f.driver.stat(&foreign).await), Kind::Invalid, "{text}");
        assert_eq!(kind(read(&*f.driver, &foreign, Span::All).await), Kind::Invalid, "{text}");
        if f.caps().delete {
            let deleted = f.driver.delete(&foreign, Hold::default()).await;
            assert_eq!(kind(deleted), Kind::Invalid, "{text}");
        }
        let digests = digests(&bytes, Algo::Sha256);
        assert_eq!(
            kind(f.driver.record(&foreign, &claim(&f.id()), &digests).await),
            Kind::Invalid,
            "{text}"
        );
    }
    let told: Location = at.to_string().parse().unwrap();
    assert_eq!(told, at, "a location reads back as it was told");
    assert_reads(&*f.driver, &told, &bytes, "by its text").await;
    f.remove(&told).await;
}

pub(crate) async fn a_location_it_gave_is_one_it_serves(f: &Fixture) {
    let (id, gone) = (f.id(), f.id());
    if f.caps().write {
        let upload = f.driver.create(&new_image(&id, None)).await.unwrap();
        assert!(f.driver.serves(upload.at()), "where it will be: {}", upload.at());
        upload.abort().await.unwrap();
    }
    let there = f.place(&id, &image(Look::Random, 10, 1)).await;
    let deleted = f.place(&gone, &image(Look::Random, 10, 1)).await;
    f.remove(&deleted).await;
    let found = [f.list().await.remove(0).at, at_of(f, &id).await];
    let guessed = f.driver.place(&gone);
    for at in [&there, &deleted].into_iter().chain(&found).chain(&guessed) {
        assert!(f.driver.serves(at), "{at}");
        for name in ["beside", "memory"] {
            assert!(!f.store_named(name).driver().unwrap().serves(at), "{name}: {at}");
        }
    }
    for text in ["mem://other/x", "file:///nowhere/at/all", "rbd://no-fsid/no-pool/x/snap"] {
        assert!(!f.driver.serves(&text.parse().unwrap()), "{text}");
    }
    for dir in &f.dirs {
        // Beside the directory, by a prefix of its name, and the directory itself.
        let dir = dir.display();
        for text in [format!("file://{dir}x/y"), format!("file://{dir}"), format!("file://{dir}/")]
        {
            assert!(!f.driver.serves(&text.parse().unwrap()), "{text}");
        }
    }
    f.remove(&there).await;
}

pub(crate) async fn a_missing_image_is_not_found(f: &Fixture) {
    let id = f.id();
    assert_eq!(kind(f.driver.locate(&id).await), Kind::NotFound);
    let at = f.place(&id, &image(Look::Random, 10, 1)).await;
    f.remove(&at).await;
    assert_eq!(kind(f.driver.locate(&id).await), Kind::NotFound);
    assert_eq!(kind(f.driver.stat(&at).await), Kind::NotFound);
    assert_eq!(kind(read(&*f.driver, &at, Span::All).await), Kind::NotFound);
    if f.caps().seek {
        assert_eq!(kind(read(&*f.driver, &at, Span::From(1 << 40)).await), Kind::NotFound);
    }
    let digests = digests(b"", Algo::Sha256);
    assert_eq!(kind(f.driver.record(&at, &claim(&f.id()), &digests).await), Kind::NotFound);
}

pub(crate) async fn deleting_twice_is_not_found(f: &Fixture) {
    let bytes = image(Look::Random, 10, 1);
    let at = f.place(&f.id(), &bytes).await;
    f.remove(&at).await;
    assert_eq!(kind(f.driver.delete(&at, Hold::default()).await), Kind::NotFound);
    // And of many at once one removes it.
    let at = f.place(&f.id(), &bytes).await;
    let ends = join_all((0..8).map(|_| f.driver.delete(&at, Hold::default()))).await;
    let kinds: Vec<_> = ends.into_iter().map(|end| end.map_err(|error| error.kind())).collect();
    assert_eq!(kinds.iter().filter(|end| end.is_ok()).count(), 1, "{kinds:?}");
    assert!(kinds.iter().all(|end| matches!(end, Ok(()) | Err(Kind::NotFound))), "{kinds:?}");
}

/// The image at `at`, opened as the source of a copy.
async fn source(driver: &dyn Driver, at: &Location) -> Source {
    driver.open(at, Span::All, window(CHUNK)).await.unwrap().source()
}

pub(crate) async fn a_copy_is_independent(f: &Fixture) {
    for (look, size) in
        [(Look::Mixed, 3 * CHUNK + 7), (Look::Zeros, CHUNK), (Look::Random, 0), (Look::Random, 1)]
    {
        let what = format!("{look:?} {size}");
        let bytes = image(look, size, 5);
        let at = f.place(&f.id(), &bytes).await;
        let (id, wanted) = (f.id(), digests(&bytes, Algo::Sha256));
        let copies = f.driver.copies().expect(&what);
        let copied = copies.copy(source(&*f.driver, &at).await, &claim(&id)).await.unwrap();
        let copied = copied.unwrap_or_else(|| panic!("{what}: it cannot copy its own image"));
        assert_eq!(copied.size, size as u64, "{what}");
        assert!(copied.stored_bytes <= copied.size, "{what}");
        assert_eq!(copied.at, f.driver.locate(&id).await.unwrap(), "{what}");
        if let Some(digests) = &copied.digests {
            assert_eq!(*digests, wanted, "{what}");
        }
        assert_eq!(f.driver.stat(&copied.at).await.unwrap().digests, copied.digests, "{what}");
        let again = copies.copy(source(&*f.driver, &at).await, &claim(&id)).await;
        assert_eq!(kind(again), Kind::Exists, "{what}: onto a taken id");
        assert!(!copied.shared || f.driver.caps().flatten, "{what}");
        let of_copy = claim(&id);
        let flatten = || copies.flatten(&copied.at, &of_copy, Arc::new(|_, _| true));
        if size > CHUNK {
            // Before its source is gone, and once more.
            flatten().await.unwrap();
            flatten().await.unwrap();
        }
        f.remove(&at).await;
        assert_reads(&*f.driver, &copied.at, &bytes, &what).await;
        flatten().await.unwrap();
        assert_reads(&*f.driver, &copied.at, &bytes, &what).await;
        f.remove(&copied.at).await;
    }
}

pub(crate) async fn digests_stay_with_the_image(f: &Fixture) {
    let bytes = image(Look::Random, 10_000, 1);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let kept = f.driver.stat(&at).await.unwrap();
    assert_eq!(kept.size, 10_000);
    // A backend may have no place for them; what it tells is true in any case.
    let keeps = kept.digests.is_some();
    let expected = |algo| keeps.then(|| digests(&bytes, algo));
    assert_eq!(kept.digests, expected(Algo::Sha256), "from commit");
    let span = if f.caps().seek { Span::Part(1, 2) } else { Span::All };
    let opened = f.driver.open(&at, span, window(PAGE)).await.unwrap();
    assert_eq!(opened.digests, expected(Algo::Sha256), "the whole image's, also in part");
    drop(opened);
    for _ in 0..2 {
        f.driver.record(&at, &claim(&f.id()), &digests(&bytes, Algo::Blake2b)).await.unwrap();
        let kept = f.driver.stat(&at).await.unwrap();
        assert_eq!(kept.digests, expected(Algo::Blake2b), "from record");
    }
    f.remove(&at).await;
    // Another image under this id has none of the old ones.
    let other = image(Look::Random, 10_000, 2);
    let at = f.place(&id, &other).await;
    assert_eq!(
        f.driver.stat(&at).await.unwrap().digests,
        keeps.then(|| digests(&other, Algo::Sha256))
    );
    f.remove(&at).await;
}

pub(crate) async fn recovering_twice_is_recovering_once(f: &Fixture) {
    let bytes = image(Look::Random, 5000, 1);
    let id = f.id();
    assert_eq!(
        f.driver.recover(&claim(&id), None).await.unwrap(),
        Recovered::Nothing,
        "of nothing"
    );
    // An upload that was dropped stands for a crash.
    let held = Held::new(&id);
    let mut upload = held.create(&*f.driver, None).await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    drop(upload);
    let first = held.recovered(&*f.driver).await;
    assert!(!matches!(first, Recovered::Whole), "{first:?}");
    assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Nothing);
    f.assert_empty().await;
    let at = f.place(&id, &bytes).await;
    for _ in 0..2 {
        assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Whole);
        assert_reads(&*f.driver, &at, &bytes, "a whole image").await;
    }
    f.remove(&at).await;
    // Whatever an id may be, it can be recovered.
    for id in ["x".repeat(255), "..".replace('.', "a.."), "-".to_owned()] {
        let id: ImageId = id.parse().unwrap();
        assert_eq!(f.driver.recover(&claim(&id), None).await.unwrap(), Recovered::Nothing, "{id}");
    }
}

pub(crate) async fn the_list_is_what_was_put(f: &Fixture) {
    assert_eq!(f.list().await, []);
    let mut wanted = Vec::new();
    for size in [0_usize, 1, 70_000] {
        let id = f.id();
        let at = f.place(&id, &image(Look::Mixed, size, 1)).await;
        wanted.push(Listed { id, at, size: size as u64, odd: None });
    }
    let mut begun = f.driver.create(&new_image(&f.id(), Some(10))).await.unwrap();
    begun.write(image(Look::Random, 10, 1)).await.unwrap();
    assert_eq!(f.list().await, wanted, "without the one under way");
    begun.abort().await.unwrap();
    assert_eq!(f.list().await, wanted);
    let whole: Vec<_> = wanted.iter().map(|image| &image.id).collect();
    assert_eq!(f.left(&whole).await, [""; 0], "beside whole images");
    for listed in wanted {
        f.remove(&listed.at).await;
    }
}

pub(crate) async fn what_is_read_is_what_was_written(f: &Fixture) {
    for look in Look::ALL {
        let bytes = image(look, 2 * CHUNK + 70_001, 8);
        let id = f.id();
        let (at, committed) =
            write_image(&*f.driver, &id, None, aligned_chunks(&bytes)).await.unwrap();
        assert!(committed.stored_bytes <= bytes.len() as u64, "{look:?}");
        assert_eq!(f.driver.stat(&at).await.unwrap().size, bytes.len() as u64);
        for chunk in [f.finest(), 3 * f.finest(), CHUNK] {
            let reader = f.driver.open(&at, Span::All, window(chunk)).await.unwrap();
            let descriptor = matches!(reader.body, Body::File(_));
            assert_eq!(descriptor, f.driver.caps().descriptor);
            if let Body::File(file) = &reader.body {
                let mut plain = Vec::new();
                let mut handed = std::fs::File::from(file.descriptor().unwrap());
                std::io::Read::read_to_end(&mut handed, &mut plain).unwrap();
                assert_same(&plain, &bytes, &format!("{look:?}, by descriptor"));
            }
            let found = drained(reader.body.into_stream()).await.unwrap();
            assert_same(&found, &bytes, &format!("{look:?}, {chunk} at a time"));
        }
        f.remove(&at).await;
    }
}

pub(crate) async fn an_aborted_upload_leaves_nothing(f: &Fixture) {
    let bytes = image(Look::Random, CHUNK + 1, 1);
    for size in [None, Some(bytes.len() as u64)] {
        for count in 0..=2 {
            let id = f.id();
            let mut upload = f.driver.create(&new_image(&id, size)).await.unwrap();
            for chunk in aligned_chunks(&bytes).into_iter().take(count) {
                upload.write(chunk).await.unwrap();
            }
            upload.abort().await.unwrap();
            f.assert_empty().await;
            let at = f.place(&id, &bytes).await;
            f.remove(&at).await;
        }
    }
}

/// What each flag promises, tried through a store.
async fn tried(store: &Arc<Store>, f: &Fixture, at: &Location) -> [(&'static str, Result<()>); 6] {
    let copy = async |mode| {
        let id = f.id();
        let copied = Arc::clone(store).copy(order(&id, None), Arc::clone(store), at.clone(), mode);
        let receipt = copied.await?;
        f.remove(&receipt.location.parse()?).await;
        Ok(())
    };
    let volumes = async {
        let none = match f.store.config.kind.as_str() {
            "cinder" => Volume::Cinder("00000000-0000-4000-8000-000000000000".parse()?),
            _ => Volume::Rbd("no-such-pool/no-such-volume".parse()?),
        };
        let made = Arc::clone(store).copy_volume(
            order(&f.id(), None),
            Arc::clone(store),
            none,
            Mode::Auto,
        );
        match made.await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            made => made.map(drop),
        }
    };
    let write = async {
        let receipt = put(store, order(&f.id(), None), &image(Look::Random, 10, 1)).await?;
        f.remove(&receipt.location.parse()?).await;
        Ok(())
    };
    let delete = async {
        let gone = f.place(&f.id(), &image(Look::Random, 10, 1)).await;
        let deleted = store.delete(&gone, "r").await;
        if deleted.is_err() {
            f.remove(&gone).await;
        }
        deleted
    };
    let seek = async {
        let reader = store.open(at, Span::Part(1, 3), PAGE, Share::Get("main".into())).await?;
        assert_eq!(drained(reader.body.into_stream()).await?.len(), 2);
        Ok(())
    };
    let list = async {
        let listed: Vec<_> = store.list()?.try_collect().await?;
        assert_eq!(listed.len(), 1);
        Ok(())
    };
    [
        ("write", write.await),
        ("delete", delete.await),
        ("seek", seek.await),
        ("list", list.await),
        ("copy", copy(Mode::Clone).await),
        ("volumes", volumes.await),
    ]
}

/// The flags in the order in which they are tried. A driver that has no descriptors to give gives
/// none: `what_is_read_is_what_was_written` looks at that. Flattening does nothing where nothing is
/// shared: `a_copy_is_independent` looks at that.
fn flags(caps: Caps) -> [bool; 6] {
    let Caps { write, delete, seek, list, copy, descriptor: _, volumes, flatten: _ } = caps;
    [write, delete, seek, list, copy, volumes && write]
}

pub(crate) async fn a_missing_capability_is_unsupported(f: &Fixture) {
    let bytes = image(Look::Random, 10, 1);
    let at = f.place(&f.id(), &bytes).await;
    let all = f.driver.caps();
    assert_eq!(f.driver.copies().is_some(), all.copy, "copies");
    assert_eq!(f.driver.volumes().is_some(), all.volumes, "volumes");
    // A put takes writing, and a copy takes writing too.
    for caps in [
        all,
        Caps { write: false, copy: false, ..all },
        Caps { delete: false, ..all },
        Caps { seek: false, ..all },
        Caps { list: false, ..all },
        Caps { copy: false, ..all },
        Caps { volumes: false, ..all },
    ] {
        let driver = Arc::new(Modest { inner: Arc::clone(&f.driver), caps });
        let store =
            Arc::new(Store::with_driver(f.store.config.clone(), Arc::clone(f.shared()), driver));
        assert_eq!(store.caps(), Some(caps));
        let ended = Box::pin(tried(&store, f, &at)).await;
        for ((flag, ended), can) in ended.into_iter().zip(flags(caps)) {
            match ended {
                Ok(()) => assert!(can, "{flag} works, and the flag says no: {caps:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unsupported, "{flag}: {error:?}");
                    assert!(!can, "{flag}: {error:?}");
                }
            }
        }
    }
    f.remove(&at).await;
}

pub(super) async fn a_version_is_of_one_image(f: &Fixture) {
    let bytes = image(Look::Random, 10, 1);
    let id = f.id();
    let at = f.place(&id, &bytes).await;
    let first = f.driver.stat(&at).await.unwrap().version;
    assert_eq!(f.driver.stat(&at).await.unwrap().version, first, "it was told twice");
    let span = if f.caps().seek { Span::Part(1, 2) } else { Span::All };
    let reader = f.driver.open(&at, span, window(CHUNK)).await.unwrap();
    assert_eq!(reader.version, first, "it was opened");
    drop(reader);
    f.remove(&at).await;
    let again = f.place(&id, &bytes).await;
    let second = f.driver.stat(&again).await.unwrap().version;
    assert_eq!(second.is_some(), first.is_some());
    assert!(first.is_none() || first != second, "another image has the version {first:?}");
    f.remove(&again).await;
}
