//! imaged, the storage data plane for OpenStack images: follow one byte from the socket to the
//! backend.
//!
//! ```text
//! socket.rs        who is calling?           SO_PEERCRED -> role
//!   api.rs         what do they want?        PUT /v1/stores/fast/images/<id>
//!   api/put.rs     may it start?             role, size, store writable; only then 100 Continue
//! store.rs         how is it always done?    own task; journal, commit or abort
//! transfer.rs      what passes on the way?   count, digest; one store, or several in step
//!   drivers/contract/   what must a backend do?   create -> write* -> commit
//!     drivers/file/     how does this one do it?  unnamed file, O_DIRECT, fsync, link
//! ```
//!
//! # Scope
//! In: moving image bytes between callers and backends, whole or not at all; digests; copies inside
//! a backend. Out: the catalogue (Glance keeps it), formats and conversion, caching.
//!
//! # Assumptions
//! * `fsync` returning means durable, and a `linkat` after it is seen whole or not at all.
//! * The kernel tells a unix peer's user truly (SO_PEERCRED).

#![forbid(unsafe_code)]

pub mod api;
pub mod bench;
pub mod check;
pub mod client;
pub mod config;
pub mod daemon;
pub mod digest;
pub mod ids;
pub mod jobs;
pub mod journal;
pub mod made;
pub mod metrics;
pub mod point;
pub mod serve;
pub mod shared;
pub mod socket;
pub mod store;
pub mod stores;
pub mod transfer;
pub mod wire;
