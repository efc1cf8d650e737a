//! Images in a pool of Ceph RBD, laid out as glance_store's rbd driver does.
//!
//! # Location
//! `rbd://<fsid>/<pool>/<image>/snap`, each part quoted. `rbd://<image>`, as old ones were, is read,
//! and is of the store's own pool. In other pools, `imaged_also_pools`, images are read and deleted.
//! # Commit point
//! The protection of the snapshot `snap`, after all writes have landed, a flush, and a trim where the
//! size was not known. Nova and Cinder clone from it.
//! # Residue
//! An image without a protected `snap`; `recover` removes it, unless somebody has it open. A snapshot
//! `imaged-<id>-<instance>` of a volume that an image is being made from; `unseal` removes it.
//! # Blocking
//! Connecting, and all that has no asynchronous form: on the store's own lane. Writes, reads and
//! flushes do not block; `rados_osd_op_timeout` brings each of them home.
//! # Limits
//! Objects have 1 to 32 MiB. A block of zeros is 64 KiB. What is kept with an image is its metadata:
//! `imaged.upload` and `imaged.digests`, bound to the image's internal id, for clones and copies
//! inherit metadata.
//!
//! # Decisions
//! * Chose: handles that are open for writing, also to read. Because: they watch the image, so that it
//!   is not removed under the reader, and a read-only handle at a snapshot has crashed processes.
//!   Instead of: `rbd_open_read_only`. Where the caps allow nothing else, it is opened for reading at
//!   its head, and what was read counts only if the image is still there: a removal takes the name first.
//! * Chose: an upload whose cluster does not answer is not aborted but left to `recover`. Because: an
//!   abort waits several times as long as the write did, and cannot succeed. Instead of: letting the
//!   caller wait for it.
//! * Chose: children, other snapshots and watchers are looked for before `snap` is touched. Because: a refused delete
//!   must leave the image whole. Instead of: unprotecting first, as glance_store does.
//! * Chose: clones of the second format. Because: their parent need not be protected, so the snapshot of
//!   a volume can be removed as soon as the clone is there, and goes by itself when that is flattened.
//!   Instead of: a protected snapshot that has to be kept and found again.
//! * Chose: clone and flatten where a whole copy is wanted. Because: what a deep copy makes has its
//!   protected snapshot before its bytes, and would look whole after a crash. Instead of:
//!   `rbd_deep_copy`.
//! * Chose: the pool that is open is compared with the one that has its name, after what was read and
//!   after what was written. Because: librados goes by a pool's number, which stays with a pool that is
//!   renamed, and outlives one that is removed: images would be said to be where they are not, and to be
//!   missing where the pool is. Instead of: opening it by its name for every call, which hears no sooner
//!   of a change than the client does by the call itself.
//! * Chose: after a clone, a look whether its parent's name is still that of the image that was opened.
//!   Because: librbd clones by name alone, and digests that were read before would be another image's.
//!   Instead of: trusting the name for the time between.

#[cfg(feature = "ceph")]
mod cluster;
mod config;
#[cfg(feature = "ceph")]
mod copy;
#[cfg(feature = "ceph")]
mod driver;
#[cfg(feature = "ceph")]
mod failure;
#[cfg(feature = "ceph")]
mod handles;
#[cfg(feature = "ceph")]
mod kept;
mod location;
#[cfg(feature = "ceph")]
mod read;
#[cfg(feature = "ceph")]
mod store;
#[cfg(feature = "ceph")]
mod trash;
#[cfg(feature = "ceph")]
mod upload;

pub use config::{Config, Timeout};
#[cfg(feature = "ceph")]
pub use driver::Rbd;
pub use location::{Location, Volume};
