//! Operations in flight: they land late, out of order, with errors, or for nobody.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Weak, mpsc},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use imaged_ffi::{Errno, Image, SLOTS, aio::Landing};

use crate::{
    Rig, bytes,
    fake::{How, Order, Plan, refuse_completions},
    soon,
};

/// Memory that tells when it is freed.
struct Tracked {
    bytes: Vec<u8>,
    _alive: Arc<()>,
}

impl Tracked {
    fn new(bytes: Vec<u8>) -> (Self, Weak<()>) {
        let alive = Arc::new(());
        let watch = Arc::downgrade(&alive);
        (Self { bytes, _alive: alive }, watch)
    }
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Tracked {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

fn is_alive(memory: &Weak<()>) -> bool {
    memory.strong_count() > 0
}

/// What a future is after one look at it.
fn once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

async fn write(image: &Image, bytes: Vec<u8>, offset: u64) -> Result<Bytes, Errno> {
    let slot = image.slot().await?;
    image.write_at(slot, bytes.into(), offset)?.await.map(|(_, bytes)| bytes)
}

async fn read(image: &Image, len: usize, offset: u64) -> Result<Vec<u8>, Errno> {
    let slot = image.slot().await?;
    let (got, mut bytes) = image.read_at(slot, vec![0xee; len], offset)?.await?;
    bytes.truncate(got);
    Ok(bytes)
}

/// That every slot is free: nothing is in flight.
async fn all_slots(image: &Image) {
    let mut slots = Vec::new();
    for _ in 0..SLOTS {
        slots.push(image.slot().await.unwrap());
    }
    assert!(matches!(once(image.slot()), Poll::Pending), "there is one more");
}

#[tokio::test]
async fn what_is_written_is_read() {
    let rig = Rig::new();
    let size = 1 << 20;
    let image = rig.image("a", size as u64);
    let mut model = vec![0; size];
    // Across objects, at their edges, on top of each other.
    for (seed, (offset, len)) in
        [(0, 1), (65_535, 2), (3, 200_000), (262_144, 65_536), (700_001, 99), (size - 7, 7)]
            .into_iter()
            .enumerate()
    {
        let written = bytes(len, seed);
        model[offset..offset + len].copy_from_slice(&written);
        assert_eq!(write(&image, written.clone(), offset as u64).await.unwrap(), written);
    }
    let slot = image.slot().await.unwrap();
    image.flush(slot).unwrap().await.unwrap();

    assert!(read(&image, size, 0).await.unwrap() == model);
    assert!(read(&image, 12_345, 65_000).await.unwrap() == model[65_000..77_345]);
    // What there is, at the end.
    assert!(read(&image, 100, size as u64 - 7).await.unwrap() == model[size - 7..]);
    assert_eq!(read(&image, 100, size as u64).await.unwrap(), [0; 0]);
    assert_eq!(write(&image, vec![1], size as u64 + 1).await, Err(Errno::INVAL));
    // Nothing is an operation too.
    assert_eq!(write(&image, Vec::new(), 0).await.unwrap(), Bytes::new());
    assert_eq!(read(&image, 0, 0).await.unwrap(), [0; 0]);
    let extents = image.extents(0..size as u64).unwrap();
    assert!(extents.is_sorted_by_key(|extent| extent.start), "{extents:?}");
    all_slots(&image).await;
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn every_buffer_comes_back_to_whom_it_belongs() {
    for order in [Order::First, Order::Last, Order::Shuffled(7), Order::Shuffled(8)] {
        let rig = Rig::new();
        let image = rig.image("a", 1 << 20);
        rig.fake.order(order);
        rig.fake.hold();
        let mut landings = Vec::new();
        for place in 0..20_usize {
            let slot = image.slot().await.unwrap();
            let landing = image.write_at(slot, bytes(4000, place).into(), place as u64 * 4000);
            landings.push(landing.unwrap());
        }
        let slot = image.slot().await.unwrap();
        let flush = image.flush(slot).unwrap();
        assert!(matches!(once(&mut landings[0]), Poll::Pending));
        assert_eq!(rig.fake.open().operations, 21);
        rig.fake.release();
        flush.await.unwrap();
        // A flush comes after what was begun before it.
        for (place, landing) in landings.into_iter().enumerate() {
            let Poll::Ready(landed) = once(landing) else { panic!("{order:?}: flushed before") };
            assert!(landed.unwrap().1 == bytes(4000, place), "{order:?}: {place}");
        }
        rig.fake.hold();
        let mut landings = Vec::new();
        for place in 0..20_usize {
            let slot = image.slot().await.unwrap();
            landings.push(image.read_at(slot, vec![0; 4000], place as u64 * 4000).unwrap());
        }
        rig.fake.delay(Duration::from_millis(1));
        rig.fake.release();
        for (place, landing) in landings.into_iter().enumerate() {
            let (got, found) = landing.await.unwrap();
            assert!(got == 4000 && found == bytes(4000, place), "{order:?}: {place}");
        }
        image.close().unwrap();
        rig.finish();
    }
}

#[tokio::test]
async fn an_image_has_so_many_slots_and_no_more() {
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    rig.fake.hold();
    let mut landings = Vec::new();
    for place in 0..SLOTS {
        let slot = image.slot().await.unwrap();
        landings.push(image.write_at(slot, vec![1; 10].into(), u64::from(place)).unwrap());
    }
    assert!(matches!(once(image.slot()), Poll::Pending));
    rig.fake.release();
    soon("all to land", || rig.fake.open().operations == 0);
    // The slot goes with the answer: to whoever takes it, or does not want it any more.
    assert!(matches!(once(image.slot()), Poll::Pending));
    drop(landings.pop());
    drop(image.slot().await.unwrap());
    for landing in landings {
        landing.await.unwrap();
    }
    all_slots(&image).await;
    assert_eq!(rig.fake.peak(), (SLOTS as usize, SLOTS as usize * 10));
    // One that is not used is given back too.
    drop(image.slot().await.unwrap());
    all_slots(&image).await;
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn memory_in_flight_outlives_whoever_waits() {
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    rig.fake.hold();
    let (written, write_alive) = Tracked::new(bytes(100_000, 1));
    let (room, read_alive) = Tracked::new(vec![0; 100_000]);
    let slot = image.slot().await.unwrap();
    drop(image.write_at(slot, Bytes::from_owner(written), 0).unwrap());
    let slot = image.slot().await.unwrap();
    drop(image.read_at(slot, room, 0).unwrap());
    assert!(is_alive(&write_alive) && is_alive(&read_alive), "it is still C's");
    rig.fake.release();
    soon("the memory to be freed", || !is_alive(&write_alive) && !is_alive(&read_alive));
    all_slots(&image).await;
    assert!(read(&image, 100_000, 0).await.unwrap() == bytes(100_000, 1), "it was written");
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn every_error_comes_home_with_the_slot() {
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    for errno in [1, 2, 5, 13, 16, 17, 22, 28, 30, 33, 34, 39, 108, 110, 122] {
        for how in [How::Fail, How::Lose] {
            let fails = |call| rig.fake.plan(Plan::once(call, 1, errno, how));
            let (written, alive) = Tracked::new(bytes(70_000, 2));
            fails("rbd_aio_write");
            let slot = image.slot().await.unwrap();
            let landing = image.write_at(slot, Bytes::from_owner(written), 0).unwrap();
            assert_eq!(landing.await.unwrap_err().number(), errno);
            // By the thread that called back, or by this one.
            soon("the memory to be freed", || !is_alive(&alive));
            fails("rbd_aio_read");
            assert_eq!(read(&image, 70_000, 0).await.unwrap_err().number(), errno);
            fails("rbd_aio_flush");
            let slot = image.slot().await.unwrap();
            assert_eq!(image.flush(slot).unwrap().await.unwrap_err().number(), errno);
            all_slots(&image).await;
            assert!(!rig.fake.forget());
        }
    }
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn what_is_refused_never_calls_back() {
    fn refused<B>(landing: Result<Landing<B>, Errno>) {
        assert_eq!(landing.map(drop), Err(Errno::IO));
    }
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    // Neither the operation nor the completion.
    for completions in [false, true] {
        let slot = async || image.slot().await.unwrap();
        if !completions {
            for call in ["rbd_aio_write", "rbd_aio_read", "rbd_aio_flush"] {
                rig.fake.plan(Plan::always(call, 5, How::Refuse));
            }
        }
        let errno = if completions { 5 } else { 0 };
        let ((written, write_alive), (room, read_alive)) =
            (Tracked::new(bytes(9000, 1)), Tracked::new(vec![0; 9000]));
        let free = slot().await;
        refused(refuse_completions(errno, || image.write_at(free, Bytes::from_owner(written), 0)));
        let free = slot().await;
        refused(refuse_completions(errno, || image.read_at(free, room, 0)));
        let free = slot().await;
        refused(refuse_completions(errno, || image.flush(free)));
        assert!(!is_alive(&write_alive) && !is_alive(&read_alive));
        all_slots(&image).await;
        rig.fake.forget();
    }
    assert_eq!(rig.fake.open().operations, 0);
    image.close().unwrap();
    rig.finish();
}

#[tokio::test]
async fn closing_waits_for_what_is_in_flight() {
    // Closed, and only dropped; with somebody who waits for the answers, and nobody.
    for (is_closed, is_awaited) in [(true, true), (true, false), (false, true), (false, false)] {
        let rig = Rig::new();
        let image = rig.image("a", 1 << 20);
        rig.fake.hold();
        rig.fake.order(Order::Last);
        let mut landings = Vec::new();
        for place in 0..8_u64 {
            let slot = image.slot().await.unwrap();
            landings.push(image.write_at(slot, bytes(5000, 3).into(), place * 5000).unwrap());
        }
        if !is_awaited {
            landings.clear();
        }
        let (tell, closed) = mpsc::channel();
        let closing = thread::spawn(move || {
            if is_closed {
                image.close().unwrap();
            } else {
                drop(image);
            }
            tell.send(()).unwrap();
        });
        if !is_closed {
            // To drop it does not wait.
            closed.recv().unwrap();
        }
        assert_eq!((rig.fake.count("rbd_close"), rig.fake.open().images), (0, 1));
        rig.fake.release();
        for landing in landings {
            assert!(landing.await.unwrap().1 == bytes(5000, 3));
        }
        closing.join().unwrap();
        soon("the image to be closed", || rig.fake.open().images == 0);
        let image = Image::open(&rig.pool, "a", None).unwrap();
        assert!(read(&image, 40_000, 0).await.unwrap() == bytes(5000, 3).repeat(8));
        image.close().unwrap();
        rig.finish();
    }
}

/// Whoever waits for that holds no thread meanwhile, however long it takes.
#[tokio::test]
async fn an_image_is_idle_once_all_has_landed() {
    let rig = Rig::new();
    let image = rig.image("a", 1 << 20);
    image.idle().await;
    rig.fake.lock("images", "a", Some("theirs"));
    for is_awaited in [true, false] {
        let slot = image.slot().await.unwrap();
        let landing = image.write_at(slot, bytes(100, 1).into(), 0).unwrap();
        let landing = is_awaited.then_some(landing);
        let mut idle = std::pin::pin!(image.idle());
        assert!(once(idle.as_mut()).is_pending());
        rig.fake.lock("images", "a", None);
        if let Some(landing) = landing {
            landing.await.unwrap();
        }
        idle.await;
        rig.fake.lock("images", "a", Some("theirs"));
    }
    rig.fake.lock("images", "a", None);
    assert!(read(&image, 100, 0).await.unwrap() == bytes(100, 1));
    image.close().unwrap();
    rig.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_share_one_image() {
    let rig = Rig::new();
    let image = Arc::new(rig.image("a", 8 << 20));
    rig.fake.order(Order::Shuffled(1));
    let tasks: Vec<_> = (0..16_usize)
        .map(|task| {
            let image = Arc::clone(&image);
            tokio::spawn(async move {
                let start = task as u64 * (512 << 10);
                for round in 0..40_usize {
                    let (offset, len) = (start + round as u64 * 12_000, 12_000);
                    if round % 5 == 4 {
                        // Given up at once; nobody else writes there.
                        let slot = image.slot().await.unwrap();
                        drop(image.write_at(slot, bytes(len, round).into(), offset).unwrap());
                        continue;
                    }
                    write(&image, bytes(len, round), offset).await.unwrap();
                    assert!(read(&image, len, offset).await.unwrap() == bytes(len, round));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    all_slots(&image).await;
    for task in 0..16_u64 {
        for round in 0..40_usize {
            let offset = task * (512 << 10) + round as u64 * 12_000;
            assert!(read(&image, 12_000, offset).await.unwrap() == bytes(12_000, round));
        }
    }
    Arc::into_inner(image).unwrap().close().unwrap();
    assert!(rig.fake.peak().0 <= SLOTS as usize);
    rig.finish();
}
