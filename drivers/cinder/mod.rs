//! Images in volumes of OpenStack Cinder, laid out as glance_store's cinder driver does: the bytes from the
//! beginning of the volume on, the length in its metadata.
//!
//! # Location
//! `cinder://<store>/<volume>`, the volume by its UUID. `cinder://<volume>`, as a Glance with one store has it, is
//! read.
//! # Commit point
//! One PUT of the volume's metadata, which takes `imaged_upload` away: it comes after all writes have landed, a
//! flush, the end of the attachment, and the read-only flag. Cinder has no condition for it: of two daemons that put
//! one id at a time the older volume stays, once each has looked again.
//! # Residue
//! A volume `image-<id>` whose metadata `imaged_upload` names the upload, or `imaged-seal-<nonce>` with
//! `imaged_seal`; `recover` and `unseal` remove them, with their attachments. Volumes and attachments are noted in the
//! daemon's ledger before they are asked for, and `purge` removes and ends those of an earlier process, and those that
//! an answer that was lost has made, also where Cinder makes them when the journal knows of nothing any more: for
//! `cinder_state_transition_timeout` after they were asked for.
//! # Blocking
//! Files, block devices and the connector program: on the store's lanes. The API and Ceph do not block.
//! # Limits
//! A volume has whole GiB, at least one. Versions of the API from 3.54 on (Rocky). What is in qcow2 files or
//! encrypted is refused. Volumes that name no store are of the one that has their type, by `cinder_volume_type` or
//! Cinder's default type; they are of every store without that option if Cinder does not tell it.
//!
//! # Decisions
//! * Chose: volumes are read and written in user space: those in Ceph by librbd, those over iSCSI by libiscsi, those
//!   in mounted exports as files. Because: no root, no kernel driver and no privileged container is needed. Instead of: os-brick, which remains
//!   for all other protocols, in a program of its own (`program`).
//! * Chose: a volume of unknown size is doubled. Because: each growth takes a detachment, a change in the backend
//!   and an attachment where the backend cannot grow what is attached. Instead of: a GiB at a time, as glance_store
//!   has it. It does not shrink: no Cinder does that.
//! * Chose: the first bytes are known by their md5, which is in the metadata. Because: an attachment may lead to
//!   another volume (CVE-2023-2088), and a mark in the volume itself would be a part of what is cloned from it.
//!   Instead of: a mark behind the image.
//! * Chose: a volume is sealed by a clone that becomes the image. Because: one clone is enough, and it is made at one
//!   moment. Instead of: a snapshot, and a volume made from it, on which it depends.
//! * Chose: a login of the store's own alone. Because: a caller's token is there for the put alone, and cannot be
//!   renewed; other readers, a deletion, and what clears up after a crash would not reach that project's volumes.
//!   Instead of: the caller's token where no login is set, as glance_store has it.
//! * Chose: an attachment whose answer was lost is known by what the volume had before, and by being reserved still
//!   after ten seconds. Because: Cinder tells nobody which host asked for it before it is connected, and an
//!   `instance_uuid` as a mark would need Nova's consent to be removed. Instead of: taking the newest one for ours,
//!   which may be another daemon's.
//! * Chose: an attachment stays for three seconds after its last reader. Because: images are asked for in ranges,
//!   and to attach takes a second. Instead of: detaching at once.

mod api;
mod attach;
mod config;
mod connect;
mod connection;
mod copy;
mod device;
mod disk;
mod driver;
mod export;
mod failure;
#[cfg(feature = "iscsi")]
mod iscsi;
mod left;
mod location;
mod needs;
mod note;
mod program;
mod store;
mod upload;
mod volume;

pub use config::{Config, Reach};
pub use driver::{Cinder, let_go, open};
pub use location::{Location, SCHEMES, Volume};
