//! Ceph's C libraries. Of all rooms of the house unsafe code may be in `ffi` alone; it is here, in
//! `ffi/iscsi` and `ffi/linux`, and a little of it in `ffi/digest`.
//!
//! Rules of the room: every unsafe block holds one operation and says why it is sound; safe types
//! outside, C inside; nothing here knows of stores, images of Glance, or HTTP. Names are the C
//! library's own, without its prefix, and each one says which function it is (`Implements:`).
//!
//! Calls that block are plain functions, to be run where blocking is allowed; what librbd can do
//! without blocking is a future, see [`aio`].
//!
//! # Assumptions
//! * A librados handle, an ioctx and an image may be used from several threads at once: librados and
//!   librbd say so of all the calls that are made here.
//! * librbd calls back exactly once for each operation that it has taken, however long that takes.

#![cfg(feature = "ceph")]
#![expect(unsafe_code, reason = "this is the room for it")]

pub mod aio;
mod cluster;
mod errno;
mod exit;
mod image;
mod locks;
mod pool;
mod progress;
mod slots;
mod snap;
pub mod sys;
mod text;

pub use self::{
    cluster::{Cluster, ClusterStat, Connecting},
    errno::{Errno, Result},
    exit::wait_until_closed,
    image::{Child, Image, Watcher},
    locks::Locker,
    pool::{DIRECTORY, Options, Pool, Trashed},
    slots::{SLOTS, Slot},
    snap::{ASKED, Extent, Snap, SnapOwner},
};
