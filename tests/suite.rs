//! All integration tests, in one binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "all of this is a test: to panic is to fail, which is what it is for"
)]

/// Every kind of store that has to keep the contract: a driver is entered here by one line.
macro_rules! every_store {
    ($then:ident) => {
        $then!(mem);
        $then!(file);
        $then!(file_thick);
        $then!(file_two_dirs);
        $then!(file_two_filesystems);
        $then!(file_staged);
        $then!(file_renamed);
        $then!(rbd);
        $then!(rbd_thick);
    };
}

mod bench;
#[path = "harness/stores/ceph.rs"]
mod ceph;
mod cli;
mod conformance;
mod daemon;
mod explore;
mod faults;
mod harness;
mod parity;
mod system_image;
