//! `imaged-ffi` over the fake: every function, and every way in which an operation comes home.
//!
//! `ci/asan` runs this once more with AddressSanitizer: what C touches too late, or nobody frees, is
//! found there.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is a test: to panic is to fail, which is what it is for"
)]

mod calls;
mod flights;
mod lives;
mod snaps;

use std::time::{Duration, Instant};

use imaged_fake_librbd as fake;
use imaged_ffi::{Cluster, Connecting, Image, Options, Pool};

/// How long a test waits for what must come, before it says that it did not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two pools of a cluster of one's own.
struct Rig {
    fake: fake::Cluster,
    cluster: Cluster,
    pool: Pool,
}

impl Rig {
    fn new() -> Self {
        let fake = fake::Cluster::new(&["images", "volumes"]);
        let cluster = Connecting::new("glance", fake.conf()).unwrap().connect().unwrap();
        let pool = Pool::open(&cluster, "images").unwrap();
        Self { fake, cluster, pool }
    }

    /// A new image with objects of 64 KiB.
    fn image(&self, name: &str, size: u64) -> Image {
        self.pool.create(name, size, &small()).unwrap();
        Image::open(&self.pool, name, None).unwrap()
    }

    /// All is closed, nothing in flight, and nobody has done what must not be done.
    fn finish(self) {
        let Self { fake, cluster, pool } = self;
        drop((cluster, pool));
        soon("all to be closed", || fake.open() == fake::Open::default());
        assert_eq!(fake.breaches(), [""; 0]);
    }
}

fn small() -> Options {
    Options { order: Some(16), ..Options::default() }
}

/// Waits until something is so, which must come.
fn soon(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::yield_now();
    }
}

/// Bytes of which none is zero, other ones for another seed.
fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + seed * 17 + at / 251) % 255 + 1).unwrap()).collect()
}

#[test]
fn the_real_libraries_are_not_here() {
    let rig = Rig::new();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let real: Vec<_> =
        maps.lines().filter(|line| line.contains("librbd") || line.contains("librados")).collect();
    assert_eq!(real, [""; 0], "a function that the fake lacks comes from here");
    rig.finish();
}

#[test]
fn every_function_is_called_here() {
    let crate_text = [
        include_str!("../../../../ffi/ceph/aio.rs"),
        include_str!("../../../../ffi/ceph/cluster.rs"),
        include_str!("../../../../ffi/ceph/errno.rs"),
        include_str!("../../../../ffi/ceph/image.rs"),
        include_str!("../../../../ffi/ceph/locks.rs"),
        include_str!("../../../../ffi/ceph/pool.rs"),
        include_str!("../../../../ffi/ceph/snap.rs"),
    ]
    .concat();
    let tests = [
        include_str!("main.rs"),
        include_str!("calls.rs"),
        include_str!("flights.rs"),
        include_str!("lives.rs"),
        include_str!("snaps.rs"),
    ]
    .concat();
    let functions = crate_text
        .lines()
        .filter_map(|line| {
            let line = line.trim_start();
            line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub async fn "))
        })
        .map(|rest| rest.split(['(', '<']).next().unwrap());
    let uncalled: Vec<_> = functions
        .filter(|name| {
            !tests.contains(&format!(".{name}(")) && !tests.contains(&format!("::{name}("))
        })
        .collect();
    assert_eq!(uncalled, [""; 0]);
}
