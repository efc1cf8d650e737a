//! Images as objects of OpenStack Swift, or of a server that speaks its language, such as radosgw.
//!
//! # Location
//! `swift+config://<reference>/<container>/<id>` where `swift_store_config_file` is set, else
//! `swift+https://[<user>:***@]<address of the login>/<container>/<id>`, or `swift+http`; in a multi-tenant store
//! with the address of the tenant's account. The key that glance_store writes into them is never kept.
//! # Commit point
//! The PUT of the image's object, or of the manifest of its segments, with `If-None-Match: *`, and a look before
//! and after it: Swift judges the condition before the bytes come, and radosgw not at all. Of two daemons that
//! put one id within those milliseconds the last one wins.
//! # Residue
//! Segments, called `<id>-<nonce>-<number>`. What a crashed upload left is found by that name, and by nothing
//! else.
//! # Blocking
//! Nothing blocks but the digesting of segments, on the store's lane. A request that is out goes on when its
//! caller has given up, on a task of its own which holds the claim.
//! # Limits
//! An object has at most 5 GiB; larger images are segmented. A static large object has at most 1,000 segments;
//! of a dynamic one with more than 10,000 Swift tells no length, so they are counted here. The "MB" of the options
//! is glance_store's, 1,024,000 bytes.
//!
//! # Decisions
//! * Chose: the upload's nonce in the names of segments. Because: a dynamic large object is whatever begins
//!   like it, also what an upload that failed has left, or one of the same id that another daemon makes, and
//!   other images, if their ids begin alike. glance_store goes by the manifest when it reads and deletes, so it
//!   does not mind. Instead of: `<id>-<number>`, as glance_store writes them.
//! * Chose: an image larger than a segment is segmented, also below `swift_store_large_object_size`. Because: a
//!   segment that fails is sent again alone, and several are in flight. Instead of: one PUT of up to 5 GiB,
//!   which begins anew when its connection breaks.
//! * Chose: segments of 32 MiB that grow with the image, unless the store says otherwise. Because: so large
//!   ones still fit in memory. Instead of: glance_store's 204,800,000 bytes, which lie on disk until they are
//!   sent.
//! * Chose: a dynamic large object is read segment by segment. Because: each has an ETag that tells whether it
//!   is still the one that was listed, and the server need not list them for every range. Instead of: ranges of
//!   the manifest, whose ETag a server with very many segments does not tell.
//! * Chose: a deletion removes the segments first. Because: one that was broken off can be begun again as
//!   long as the manifest is there; whoever reads meanwhile is told that bytes are missing. Instead of: the
//!   manifest first, after which nobody knows of the segments.
//! * Chose: digests and the length are kept in the object's metadata, and a POST says all of it again.
//!   Because: Swift forgets what a POST does not say, and even that the object is a manifest. Instead of: an
//!   object beside the image.

mod account;
mod config;
mod delete;
mod driver;
mod failure;
mod list;
mod listing;
mod location;
mod names;
mod object;
mod publish;
mod read;
mod references;
mod segments;
mod share;
mod sizes;
mod store;
mod upload;

pub use config::{Config, LargeObject, Logins, User};
pub use driver::{Swift, open};
pub use location::{Location, SCHEMES};
