//! Real small disks: one that is full, one that is broken, one that is frozen. They are mounted,
//! which takes root: `ci/small-disk` does it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use imaged::transfer::Frame;
use imaged_drivers::{Hold, Kind, Location, Recovered};
use rustix::fs::statvfs;
use tempfile::TempDir;

use crate::harness::{
    rigs::Turn,
    stores::{
        Fixture, aligned_chunks, assert_free, assert_reads, begin, claim,
        content::{Look, image},
        idle, order, put, soon,
    },
};

const MIB: usize = 1 << 20;

/// The disks, up until this is dropped.
struct Disks {
    dir: TempDir,
    _turn: Turn,
}

impl Disks {
    fn up() -> Self {
        // The disks are few, and so are the devices beneath them: one test at a time.
        let disks = Self { _turn: Turn::alone("disks"), dir: tempfile::tempdir().unwrap() };
        assert!(disks.run("up"), "these tests need the small disks: ci/small-disk up failed");
        disks
    }

    fn run(&self, what: &str) -> bool {
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/ci/small-disk"))
            .arg(what)
            .arg(self.dir.path())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn path(&self, disk: &str) -> PathBuf {
        self.dir.path().join(disk)
    }

    /// A fixture whose store is in the directory `images` of a disk.
    async fn store(&self, disk: &str, more: &str) -> Fixture {
        let images = self.path(disk).join("images");
        std::fs::create_dir(&images).unwrap();
        Fixture::new("file", &[(images, 0)], more, None, tempfile::tempdir().unwrap()).await
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // Also thaws, so that a test that failed leaves no one waiting.
        let down = self.run("down");
        assert!(down || std::thread::panicking(), "the small disks are still mounted");
    }
}

fn free(dir: &Path) -> u64 {
    let space = statvfs(dir).unwrap();
    space.f_bfree * space.f_frsize
}

/// The other stores of a daemon take and give an image all the while.
async fn assert_others_go_on(f: &Fixture, what: &str) {
    let bytes = image(Look::Mixed, 2 * MIB, 41);
    for name in ["beside", "memory"] {
        let store = f.store_named(name);
        let receipt = put(&store, order(&f.id(), None), &bytes).await.expect(what);
        let at: Location = receipt.location.parse().unwrap();
        assert_reads(&*store.driver().unwrap(), &at, &bytes, what).await;
        store.delete(&at, "r").await.expect(what);
    }
}

/// Puts what cannot fit, with the size known and unknown; gives nothing but the refusal.
async fn assert_refused(f: &Fixture, bytes: &Bytes, kind: Kind, what: &str) {
    let before = free(&f.dirs[0]);
    for known in [Some(bytes.len() as u64), None] {
        let what = format!("{what}, size {known:?}");
        let id = f.id();
        let error = put(&f.store, order(&id, known), bytes).await.expect_err(&what);
        assert_eq!(error.kind(), kind, "{what}: {error:?}");
        assert_eq!((error.left(), error.location()), (None, None), "{what}");
        f.assert_empty().await;
        assert_eq!(free(&f.dirs[0]), before, "{what}: the space comes back");
        assert_free(f, &id, &what).await;
        assert_others_go_on(f, &what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_is_as_empty_as_before() {
    let disks = Disks::up();
    for (thin, more) in [(true, ""), (false, "filesystem_thin_provisioning = false\n")] {
        let f = disks.store("full", more).await;
        let what = format!("thin {thin}");
        assert_refused(&f, &image(Look::Random, 48 * MIB, 42), Kind::Full, &what).await;
        // What is all zeros takes no space, and fits, unless it is to have its space.
        let zeros = image(Look::Zeros, 48 * MIB, 0);
        if thin {
            let put = put(&f.store, order(&f.id(), None), &zeros).await.unwrap();
            assert_eq!(put.stored_bytes, 0);
            f.driver.delete(&put.location.parse().unwrap(), Hold::default()).await.unwrap();
        } else {
            assert_refused(&f, &zeros, Kind::Full, &what).await;
        }
        // And at once again what just fits.
        let bytes = image(Look::Random, 20 * MIB, 43);
        for _ in 0..3 {
            let receipt = put(&f.store, order(&f.id(), None), &bytes).await.unwrap();
            let at = receipt.location.parse().unwrap();
            assert_reads(&*f.driver, &at, &bytes, &what).await;
            f.driver.delete(&at, Hold::default()).await.unwrap();
        }
        f.assert_empty().await;
        drop(f);
        std::fs::remove_dir(disks.path("full/images")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_disk_is_told_and_holds_no_piece() {
    let disks = Disks::up();
    let f = disks.store("broken", "").await;
    assert_refused(&f, &image(Look::Random, 48 * MIB, 44), Kind::Unavailable, "broken").await;
    f.assert_empty().await;
}

async fn assert_timely(f: &Fixture, error: &imaged_drivers::Error, what: &str) {
    assert_eq!(error.kind(), Kind::Timeout, "{what}: {error:?}");
    assert_others_go_on(f, what).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_disk_times_out_and_is_sound_after_it_thaws() {
    let disks = Disks::up();
    let f = disks.store("frozen", "filesystem_store_timeout = 2\n").await;
    let freeze = |flag: &str| {
        let frozen = Command::new("fsfreeze").arg(flag).arg(disks.path("frozen")).status().unwrap();
        assert!(frozen.success(), "fsfreeze {flag}");
    };
    let bytes = image(Look::Random, 9 * MIB, 45);
    let chunks = aligned_chunks(&bytes);
    let (early, late, never) = (f.id(), f.id(), f.id());
    // One has its first chunk written, one its last, when the disk stops.
    let mut running = begin(&f.store, order(&early, None));
    soon("a put to begin", &mut running.ready).await.unwrap();
    running.give(&chunks[..1]).await;
    let mut put_late = order(&late, Some(bytes.len() as u64));
    let job = f.shared().jobs.begin("put", "late", "main", late.as_str(), None);
    put_late.job = Some(job);
    let mut ending = begin(&f.store, put_late);
    soon("a put to begin", &mut ending.ready).await.unwrap();
    ending.give(&chunks).await;
    soon("all of it to be written", async {
        while f.shared().jobs.get("late", Duration::ZERO).await.unwrap().done < bytes.len() as u64
            || f.driver.busy() > 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    freeze("-f");
    let whole = Arc::clone(&f.store);
    let (one, other, third) = tokio::join!(
        async {
            running.give(&chunks[1..]).await;
            running.end(Frame::End).await.unwrap_err()
        },
        async { ending.end(Frame::End).await.unwrap_err() },
        async { put(&whole, order(&never, None), &bytes).await.unwrap_err() },
    );
    assert_timely(&f, &one, "while it writes").await;
    assert_timely(&f, &other, "while it commits").await;
    assert_timely(&f, &third, "before it begins").await;
    // What did not answer is not forgotten: these ids are not free yet.
    let told = other.location().expect("a location to look at").to_owned();
    for id in [&late, &never] {
        let again = begin(&f.store, order(id, None)).leave().await.unwrap_err();
        assert_eq!(again.kind(), Kind::Unavailable, "{again:?}");
    }
    freeze("-u");
    idle(&f.store).await;
    // The commit that did not answer came to be or it did not: its location tells.
    f.settled().await;
    let at: Location = told.parse().unwrap();
    if f.driver.stat(&at).await.is_ok() {
        assert_reads(&*f.driver, &at, &bytes, "what was committed after all").await;
        assert_eq!(f.driver.recover(&claim(&late), None).await.unwrap(), Recovered::Whole);
        f.driver.delete(&at, Hold::default()).await.unwrap();
    }
    f.assert_empty().await;
    for id in [&early, &late, &never] {
        assert_free(&f, id, "after the thaw").await;
    }
    assert_eq!(f.driver.busy(), 0);
    f.assert_empty().await;
}
