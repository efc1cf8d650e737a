//! All integration tests, in one binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "all of this is a test: to panic is to fail, which is what it is for"
)]

mod bench;
mod cli;
mod conformance;
mod daemon;
mod faults;
mod harness;
mod parity;
mod system_image;
