//! SCSI disks over iSCSI, by libiscsi: no kernel driver, no root.
//!
//! A [`Session`] is one disk (a LUN of a target) over one connection. Any number of commands are in
//! flight at a time, up to [`SLOTS`]; each method is a future, and dropping it forgets the answer, never
//! the memory that C reads or fills.
//!
//! Rules of the room: every unsafe block holds one operation and says why it is sound; safe types
//! outside, C inside; nothing here knows of stores, Cinder or HTTP.
//!
//! # One thread
//! A context of libiscsi is not safe to share, so exactly one thread touches it, from its making to its
//! destruction: the session's own. Others only put commands into a queue, and wake it.
//!
//! # A session ends once
//! libiscsi is told not to connect anew by itself. When the connection is lost, or a command is not
//! answered by its deadline, the session is over: everything in flight gets an error, as does all that
//! comes after. Whoever connects again looks at the disk's [`Identity`] anew, for it may be another one.
//! It is also looked at when the target says that its disks have changed; commands wait for that.
//!
//! # Assumptions
//! * libiscsi calls back at most once for each command, on the thread that calls it, and touches neither
//!   the command nor its memory after that. Two exceptions are provided for: data of a write that failed
//!   may still be waiting to be sent, and a context that is destroyed may forget to call.
//! * A target says that a write is done only when it has all its data.
//! * SIGPIPE is ignored, as Rust programs do.

#![cfg(feature = "iscsi")]
#![expect(unsafe_code, reason = "this is the room for it")]

mod command;
mod connect;
mod context;
mod error;
mod pages;
mod room;
mod serve;
mod session;
pub mod sys;

pub use self::{
    connect::{Chap, Settings, Target},
    error::{Error, Result, Sense},
    pages::{Capacity, Designator, Identity, Limits},
    session::{LARGEST, SLOTS, Session},
};
