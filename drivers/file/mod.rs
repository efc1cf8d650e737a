//! Images as plain files, one a file, laid out as glance_store's filesystem driver does.
//!
//! # Location
//! `file://` and the absolute path `<datadir>/<id>`. `filesystem://` is read too. Nothing outside
//! the configured directories can be opened or removed: paths are resolved by `openat2` with
//! `RESOLVE_BENEATH`, or name by name where that is refused. Images in `imaged_also_directories`, and
//! those that a symbolic link in a data directory finds there, are read and deleted too, and never
//! written.
//! # Commit point
//! `linkat` of an unnamed file (`O_TMPFILE`) after its fsync, then fsync of the directory. Where
//! the filesystem has no unnamed files (NFS), or the system refuses them, a staged file takes their place.
//! # Residue
//! None; with staged files `.imaged-<id>-<instance>.part` after a crash, removed by `recover`.
//! # Blocking
//! Everything; all calls run on the store's own lane, and files that are let go of elsewhere are closed
//! aside.
//! # Limits
//! Digests are kept in an extended attribute; a filesystem without such attributes forgets them. Where files are staged, ids have at most 233 bytes.
//!
//! # Decisions
//! * Chose: a missing directory is an error. Because: most often it is a mount that is not there,
//!   and what is written beneath it would fill the root disk and vanish with the mount. Instead
//!   of: creating it, as glance_store does.
//! * Chose: what can be read is served, whatever cannot be written or is not there, and nothing is
//!   written while one of several directories is down. Because: an id may be taken in the one that
//!   is not there. Instead of: all or nothing, or two images of one id.
//! * Chose: an id that exists in any of the directories is taken, also at the commit. Because: it
//!   could not be told apart afterwards. Instead of: looking only into the directory chosen for
//!   writing. Where there are several, commits of one store take turns at looking and naming; of
//!   two daemons that share them, both could name an id at the same instant.
//! * Chose: of two stores that have one directory, told by device and inode, the later one is refused. Because:
//!   each would list and delete the other's images. Instead of: comparing paths, which links and
//!   mounts make differ; and of refusing both, which a reload could do to a store in use.
//! * Chose: a mode that cannot be set and a metadata file that cannot be read are notes. Because: the images
//!   are whole without, and glance_store goes on as well. Instead of: a store that is down.
//! * Chose: an id is not recovered while any call for it has not returned. Because: a commit that
//!   hung may name its image after `recover` has found nothing, or link what a later upload has
//!   staged by then. Instead of: trusting what the directory shows.

mod cached;
mod config;
mod dir;
mod directory;
mod driver;
mod links;
mod location;
mod note;
mod place;
mod removing;
mod store;
mod upload;

pub use config::{Config, Datadir, PageCache};
pub use driver::{File, open};
pub use location::{Location, SCHEMES};
