//! Bodies that are not what they should be, through the store. Each leaves nothing, and its id.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use imaged::{
    digest::Algo,
    store::Store,
    transfer::Frame,
    wire::{
        digests::Promise,
        records::{Receipt, State},
    },
};
use imaged_drivers::{Error, ImageId, Kind, Result};

use crate::harness::stores::{
    Fixture, Running, assert_free, assert_reads, begin,
    content::{Look, digest, image, pieces},
    order, put, soon, write_image,
};

/// Small chunks, so that there are a first, several in the middle, and a last, shorter one.
const PIECE: usize = 64 << 10;
const SIZE: usize = 4 * PIECE + 100;

/// Where in the body it goes wrong: after so many of its five chunks.
const PLACES: [usize; 5] = [0, 1, 3, 4, 5];

fn body() -> Bytes {
    image(Look::Mixed, SIZE, 7)
}

fn promised(bytes: &[u8]) -> Promise {
    Promise { algo: Algo::Md5, value: digest(bytes, Algo::Md5) }
}

type Ended<'a> = Pin<Box<dyn Future<Output = Result<Receipt>> + Send + 'a>>;

/// Puts an image whose body is cut after each of [`PLACES`], with the size known and not, and lets
/// `end` do what goes wrong there: the put fails with `kind`, and nothing is left.
async fn cut(f: &Fixture, kind: Kind, end: impl Fn(Running, usize) -> Ended<'static>) {
    let bytes = body();
    for known in [Some(SIZE as u64), None] {
        for place in PLACES {
            let what = format!("after {place} chunks, size {known:?}");
            let id = f.id();
            let mut put = order(&id, known);
            // With the size unknown, only the digest can tell that a body was cut.
            put.promises = vec![promised(&bytes)];
            let mut running = begin(&f.store, put);
            soon("a put to begin", &mut running.ready).await.expect(&what);
            running.give(&pieces(&bytes, PIECE)[..place]).await;
            let error = end(running, place).await.expect_err(&what);
            assert_eq!(error.kind(), kind, "{what}: {error:?}");
            assert_eq!((error.left(), error.location()), (None, None), "{what}");
            f.assert_empty().await;
            assert_free(f, &id, &what).await;
        }
    }
}

pub(super) async fn a_body_that_is_short_leaves_nothing(f: &Fixture) {
    cut(f, Kind::Mismatch, |running, place| {
        Box::pin(async move {
            if place == PLACES[4] {
                // It is whole here; the caller said otherwise, see the long ones.
                running.give(&[Bytes::from_static(b"x")]).await;
            }
            running.end(Frame::End).await
        })
    })
    .await;
    // Short by one byte, and by all of them.
    for (size, came) in [(SIZE, SIZE - 1), (1, 0)] {
        let id = f.id();
        let running = begin(&f.store, order(&id, Some(size as u64)));
        running.give(&pieces(&body().slice(..came), PIECE)).await;
        assert_eq!(running.end(Frame::End).await.unwrap_err().kind(), Kind::Mismatch);
        assert_free(f, &id, "short").await;
    }
}

pub(super) async fn a_body_that_is_long_leaves_nothing(f: &Fixture) {
    let bytes = body();
    // Too long from the first chunk on, from one in the middle, by the last byte.
    for size in [0, 10, 2 * PIECE, 4 * PIECE, SIZE - 1] {
        let id = f.id();
        let running = begin(&f.store, order(&id, Some(size as u64)));
        running.give(&pieces(&bytes, PIECE)).await;
        let error = running.end(Frame::End).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Mismatch, "{size}: {error:?}");
        assert_free(f, &id, "long").await;
    }
}

pub(super) async fn a_body_that_fails_leaves_nothing(f: &Fixture) {
    for kind in [Kind::Timeout, Kind::Unavailable] {
        cut(f, kind, |running, _| {
            Box::pin(async move { running.end(Frame::Failed(Error::new(kind, "planted"))).await })
        })
        .await;
    }
}

pub(super) async fn a_caller_that_leaves_leaves_nothing(f: &Fixture) {
    // Also after the last byte: without the end there is no end.
    cut(f, Kind::Mismatch, |running, _| Box::pin(running.leave())).await;
    // And before the store has even begun.
    let id = f.id();
    let running = begin(&f.store, order(&id, None));
    assert_eq!(running.leave().await.unwrap_err().kind(), Kind::Mismatch);
    assert_free(f, &id, "left at once").await;
}

pub(super) async fn a_cancelled_put_leaves_nothing(f: &Fixture) {
    let bytes = body();
    for known in [Some(SIZE as u64), None] {
        for place in PLACES {
            let id = f.id();
            let mut put = order(&id, known);
            let job = f.shared().jobs.begin("put", &put.request, "main", id.as_str(), known);
            put.cancel = job.cancelled();
            put.job = Some(job);
            let request = put.request.clone();
            let running = begin(&f.store, put);
            running.give(&pieces(&bytes, PIECE)[..place]).await;
            f.shared().jobs.cancel(&request).unwrap();
            // The caller still holds its end: that it was cancelled is enough.
            let Running { frames, ready: _ready, task } = running;
            let error = soon("a cancelled put to end", task).await.unwrap().unwrap_err();
            drop(frames);
            assert_eq!(error.kind(), Kind::Mismatch, "{place}: {error:?}");
            let view = f.shared().jobs.get(&request, Duration::ZERO).await.unwrap();
            assert_eq!(view.state, State::Cancelled, "{place}");
            assert_free(f, &id, "cancelled").await;
        }
    }
}

pub(super) async fn a_stopping_daemon_leaves_nothing(f: &Fixture) {
    let bytes = body();
    let mut puts = Vec::new();
    for known in [Some(SIZE as u64), None] {
        for place in PLACES {
            let id = f.id();
            let mut running = begin(&f.store, order(&id, known));
            soon("a put to begin", &mut running.ready).await.unwrap();
            running.give(&pieces(&bytes, PIECE)[..place]).await;
            puts.push((id, running));
        }
    }
    f.shared().stop.cancel();
    for (id, running) in puts {
        let Running { frames, ready: _ready, task } = running;
        let error = soon("a stopped put to end", task).await.unwrap().unwrap_err();
        drop(frames);
        assert_eq!(error.kind(), Kind::Unavailable, "{id}: {error:?}");
        assert_eq!(error.left(), None);
        // The store takes no more, but its driver shows that the id is free.
        let (at, _) = write_image(&*f.driver, &id, None, vec![bytes.clone()]).await.unwrap();
        f.remove(&at).await;
    }
}

pub(super) async fn of_many_puts_of_one_id_one_wins(f: &Fixture) {
    let bytes = body();
    for known in [Some(SIZE as u64), None] {
        let id = f.id();
        let images: Vec<_> = (0..6).map(|n| image(Look::Random, SIZE, n)).collect();
        let ends =
            join_all(images.iter().map(|bytes| put(&f.store, order(&id, known), bytes))).await;
        let mut won = Vec::new();
        for (end, bytes) in ends.into_iter().zip(&images) {
            match end {
                Ok(receipt) => won.push((receipt, bytes)),
                Err(error) => assert_eq!(error.kind(), Kind::Exists, "{error:?}"),
            }
        }
        assert_eq!(won.len(), 1);
        let (receipt, bytes) = won.remove(0);
        let at = receipt.location.parse().unwrap();
        assert_reads(&*f.driver, &at, bytes, "the winner").await;
        f.remove(&at).await;
    }
    // While one is under way the other is refused, and the first is none the worse for it.
    let id = f.id();
    let mut first = begin(&f.store, order(&id, None));
    soon("a put to begin", &mut first.ready).await.unwrap();
    first.give(&pieces(&bytes, PIECE)[..2]).await;
    assert_eq!(put(&f.store, order(&id, None), &bytes).await.unwrap_err().kind(), Kind::Exists);
    first.give(&pieces(&bytes, PIECE)[2..]).await;
    let receipt = first.end(Frame::End).await.unwrap();
    let at = receipt.location.parse().unwrap();
    assert_reads(&*f.driver, &at, &bytes, "the first").await;
    f.remove(&at).await;
}

pub(super) async fn a_put_of_a_taken_id_is_refused_before_a_byte(f: &Fixture) {
    let id = f.id();
    let at = f.place(&id, &body()).await;
    let mut second = begin(&f.store, order(&id, None));
    soon("a refusal", &mut second.ready).await.expect_err("no byte is wanted");
    assert_eq!(second.leave().await.unwrap_err().kind(), Kind::Exists);
    assert_reads(&*f.driver, &at, &body(), "what was there").await;
    f.remove(&at).await;
}

pub(super) async fn a_put_shows_its_progress(f: &Fixture) {
    let (bytes, id) = (body(), f.id());
    let mut put = order(&id, Some(SIZE as u64));
    let request = put.request.clone();
    let jobs = &f.shared().jobs;
    put.job = Some(jobs.begin("put", &request, "main", id.as_str(), put.size));
    let running = begin(&f.store, put);
    let chunks = pieces(&bytes, PIECE);
    running.give(&chunks[..3]).await;
    let view = async || jobs.get(&request, Duration::ZERO).await.unwrap();
    soon("progress", async {
        while view().await.done < 3 * PIECE as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let seen = view().await;
    assert_eq!(
        (seen.state, seen.done, seen.total),
        (State::Running, 3 * PIECE as u64, Some(SIZE as u64))
    );
    running.give(&chunks[3..]).await;
    let receipt = running.end(Frame::End).await.unwrap();
    assert_eq!((view().await.state, view().await.done), (State::Done, SIZE as u64));
    f.remove(&receipt.location.parse().unwrap()).await;
}

pub(super) async fn a_store_that_is_read_only_takes_and_removes_nothing(f: &Fixture) {
    let at = f.place(&f.id(), &body()).await;
    let mut config = f.store.config.clone();
    config.read_only = true;
    let store = Store::with_driver(config, Arc::clone(f.shared()), Arc::clone(&f.driver));
    let store = Arc::new(store);
    let id: ImageId = f.id();
    let mut refused = begin(&store, order(&id, None));
    soon("a refusal", &mut refused.ready).await.expect_err("no byte is wanted");
    assert_eq!(refused.leave().await.unwrap_err().kind(), Kind::Unsupported);
    let copied = Arc::clone(&store).copy(
        order(&id, None),
        Arc::clone(&store),
        at.clone(),
        imaged::wire::records::Mode::Auto,
    );
    assert_eq!(copied.await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(store.delete(&at, "r").await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(store.stat(&at).await.unwrap().size, SIZE as u64, "reading goes on");
    assert_free(f, &id, "refused").await;
    f.remove(&at).await;
}
