//! What `imaged-ffi` declares of C, held against the installed headers.
//!
//! `build.rs` has the C compiler compare the type of every function, alias and field; what is called
//! of the `ceph` crate too. This program is written by `ctest`, and fails by its exit code: values of
//! constants, sizes, offsets and signs, and that every function is there.

#![allow(
    unfulfilled_lint_expectations,
    dead_code,
    reason = "the declarations are written for another crate"
)]

use sys::*;

#[path = "../../ffi/ceph/sys.rs"]
pub mod sys;

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
