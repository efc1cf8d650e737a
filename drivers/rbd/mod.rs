//! Images in a pool of Ceph RBD, laid out as glance_store's rbd driver does.
//!
//! # Location
//! `rbd://<fsid>/<pool>/<image>/snap`, each part quoted. `rbd://<image>`, as old ones were, is read,
//! and is of the store's own pool. In other pools, `imaged_also_pools`, images are read and deleted.
//! # Commit point
//! The protection of the snapshot `snap`, after all writes have landed, a flush, and a trim where the
//! size was not known. Nova and Cinder clone from it.
//! # Residue
//! An image without a protected `snap`; `recover` removes it, unless somebody has it open, and `abandoned`
//! that of a daemon that is gone. A snapshot
//! `imaged-<id>-<instance>` of a volume that an image is being made from; `unseal` removes it. A deleted
//! image in the pool's trash, as long as it has clones or somebody has it open; `purge` removes it.
//!
//! A list has what has the snapshot `snap`, and of the rest what has a UUID as its name, as all images of Glance's
//! have, and nobody open: it says what is odd in that. So a pool may be shared with Cinder, Nova and others, whose
//! volumes and disks have other names and other snapshots.
//! # Blocking
//! Connecting, and all that has no asynchronous form: on the store's own lane. Writes, reads and
//! flushes do not block; `rados_osd_op_timeout` brings each of them home, unless they wait for a lock
//! that somebody else has put on the image. For that nothing waits on a thread: what librbd would wait
//! for is looked at first, and a handle is closed once nothing is in flight.
//! # Limits
//! Objects have 1 to 32 MiB. A block of zeros is 64 KiB. What daemons write with an image is its metadata:
//! `imaged.upload`, `imaged.trashed` and `imaged.digests`, bound to the image's internal id, for clones and copies
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
//! * Chose: an upload is alive as long as the connection that its mark names watches the image. Because: the
//!   cluster takes a watch away when its client has been silent for `osd_client_watch_timeout` (30 s), and
//!   before a lock is taken from such a client the cluster shuts it out, so that nothing that it still writes
//!   lands. Instead of: a time that daemons write into the image, which a clock may have wrong.
//! * Chose: librbd copies what it is given to write. Because: told not to, by `rbd_disable_zero_copy_writes`,
//!   it saves a put a tenth of its time, but what it has under way when the cluster shuts the client out never
//!   comes back (16.2.15): neither its memory nor the image's id. Instead of: lending it our buffers.
//! * Chose: children, other snapshots, locks and watchers are looked for before an image is touched.
//!   Because: a refused delete must leave it whole. Instead of: unprotecting first, as glance_store does.
//! * Chose: an image is moved into the trash before its snapshot is unprotected, and comes back if that
//!   shows that clones need it. Because: a crash in between leaves it in the trash, where any daemon
//!   finds it, and not in the pool without its protection, where nobody looks. Instead of: an intent in
//!   the journal, which only the daemon that died can read.
//! * Chose: a deletion asks for its image to be kept in the trash for a number of seconds of its own,
//!   and writes that number into the image. Because: the mark is written before the move, and only so can
//!   it be told whether what is in the trash came there by that very deletion or was put there by
//!   somebody else later. Instead of: believing a mark that a delete which did not happen has left. The
//!   `rbd` command wants `--force` to remove such an image before that time.
//! * Chose: clones of the second format. Because: their parent need not be protected, so the snapshot of
//!   a volume can be removed as soon as the clone is there, and goes by itself when that is flattened.
//!   Instead of: a protected snapshot that has to be kept and found again.
//! * Chose: clone and flatten where a whole copy is wanted. Because: what a deep copy makes has its
//!   protected snapshot before its bytes, and would look whole after a crash. Instead of:
//!   `rbd_deep_copy`.
//! * Chose: clones without an object map, and reads of other clones that are looked at afterwards. Because:
//!   librbd loads the map of a snapshot once, when it opens it, and believes it after a flatten: a download,
//!   and the disk of a virtual machine that is a clone of the image, would read zeros
//!   (<https://github.com/ceph/ceph/pull/70143>). Instead of: flattening only what nobody has open, which
//!   cannot be known of an image's clones.
//! * Chose: the pool that is open is compared with the one that has its name, after what was read and
//!   after what was written. Because: librados goes by a pool's number, which stays with a pool that is
//!   renamed, and outlives one that is removed: images would be said to be where they are not, and to be
//!   missing where the pool is. Instead of: opening it by its name for every call, which hears no sooner
//!   of a change than the client does by the call itself.
//! * Chose: after a clone, a look whether its parent's name is still that of the image that was opened.
//!   Because: librbd clones by name alone, and digests that were read before would be another image's.
//!   Instead of: trusting the name for the time between.

#[cfg(feature = "ceph")]
mod abandoned;
#[cfg(not(feature = "ceph"))]
mod absent;
#[cfg(feature = "ceph")]
mod cluster;
mod config;
#[cfg(feature = "ceph")]
mod copy;
#[cfg(feature = "ceph")]
mod delete;
#[cfg(feature = "ceph")]
pub(crate) mod disk;
#[cfg(feature = "ceph")]
mod driver;
#[cfg(feature = "ceph")]
mod failure;
#[cfg(feature = "ceph")]
mod found;
#[cfg(feature = "ceph")]
mod handles;
#[cfg(feature = "ceph")]
mod image;
mod location;
#[cfg(feature = "ceph")]
mod metadata;
#[cfg(feature = "ceph")]
mod names;
#[cfg(feature = "ceph")]
mod needs;
#[cfg(feature = "ceph")]
mod read;
#[cfg(feature = "ceph")]
mod seen;
#[cfg(feature = "ceph")]
mod store;
#[cfg(feature = "ceph")]
mod trash;
#[cfg(feature = "ceph")]
mod upload;

#[cfg(not(feature = "ceph"))]
pub use absent::open;
pub use config::{Config, Timeout};
#[cfg(feature = "ceph")]
pub use driver::{Rbd, open};
pub use location::{Location, SCHEMES, Volume};
