//! The rbd driver over a librbd in memory: the same conformance suite as on a real cluster, and
//! every call that it makes of C failing in its turn.
//!
//! Linking the fake puts its functions in the place of Ceph's; the driver is the one that ships.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "all of this is a test: to panic is to fail, which is what it is for"
)]

/// The stores that stand on Ceph.
macro_rules! every_store {
    ($then:ident) => {
        $then!(rbd: rbd);
        $then!(rbd: rbd_thick);
    };
}

mod ceph;
#[path = "../conformance/mod.rs"]
mod conformance;
mod counts;
mod deletes;
mod faults;
mod foreign;
mod hangs;
#[path = "../harness/mod.rs"]
#[expect(dead_code, reason = "the other suite uses the rest")]
mod harness;
mod locks;
