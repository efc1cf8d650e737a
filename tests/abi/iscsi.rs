//! What `imaged-ffi-iscsi` declares of C, held against the installed headers as `abi.rs` does it for
//! `imaged-ffi`.

#![allow(
    unfulfilled_lint_expectations,
    dead_code,
    reason = "the declarations are written for another crate"
)]

use sys::*;

#[path = "../../ffi/iscsi/sys.rs"]
pub mod sys;

include!(concat!(env!("OUT_DIR"), "/iscsi_abi.rs"));
