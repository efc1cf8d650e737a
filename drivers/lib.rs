//! The backends of imaged, and the contract they keep.
//!
//! * [`contract`]: what every backend promises; read it first
//! * [`kit`]: what drivers are built from
//! * [`mem`]: the smallest driver; [`mod@file`]: images as plain files; [`rbd`]: images in Ceph;
//!   [`s3`]: images as objects of S3; [`swift`]: images as objects of OpenStack Swift; [`cinder`]: images in
//!   volumes of OpenStack Cinder

#![forbid(unsafe_code)]

/// The drivers, one line each: what its locations are, its name in Rust, and its module, which is also
/// what `enabled_backends` calls its type. Each module offers `Config` with `Config::read`, `Location` with
/// `Location::image`, `SCHEMES` and `open`; without one of them this does not compile. Beside this line a new driver needs
/// a harness in `tests/` and a stanza in `conf/`.
macro_rules! drivers {
    ($generate:ident) => {
        $generate! {
            /// Images in volumes of OpenStack's Cinder: `cinder://store/volume` or `cinder://volume`
            Cinder => cinder,
            /// Images as plain files: `file:///dir/id` or `filesystem:///dir/id`
            File => file,
            /// Images on servers of the web, which are only read: `http://` and `https://`
            Http => http,
            /// Images in this process's memory, for trials and tests: `mem://store/id`
            Mem => mem,
            /// Images in a pool of Ceph RBD: `rbd://fsid/pool/image/snap` or `rbd://image`
            Rbd => rbd,
            /// Images in a bucket of S3: `s3://host/bucket/id` or `s3+https://host/bucket/id`
            S3 => s3,
            /// Objects of a Swift: `swift+config://reference/container/id` or `swift+https://address/container/id`
            Swift => swift,
        }
    };
}

pub mod cinder;
mod config;
pub mod contract;
pub mod file;
pub mod http;
pub mod kit;
mod location;
pub mod mem;
pub mod rbd;
pub mod s3;
pub mod swift;

pub use config::{Config, TYPES, UNSERVED, open};
pub use contract::{
    Access, Asker, Body, Capacity, Caps, Claim, Committed, Common, Context, Copied, Copies,
    Digests, Driver, Error, Extent, Hold, Host, ImageId, Kind, Listed, Need, NewImage, Part,
    Pieces, Progress, Properties, Reader, Recovered, Result, Shares, Site, Source, Span, Standing,
    Stat, Upload, Usable, Volumes,
};
pub use kit::{
    DropOnLane, clock, durable, lane, ledger, meminfo, memory, open_file, options, parts, point,
    refusals, window, zeros,
};
pub use location::{Location, Volume};

/// Gives back what backends keep for the next call, such as attachments of volumes. To be called when no call
/// comes any more, as long as there is a runtime.
pub async fn let_go() {
    cinder::let_go().await;
}

/// Waits until what backends had open is closed, a few seconds at most. To be called last in `main`,
/// when no backend is used any more. Blocks.
pub fn wait_until_closed() {
    #[cfg(feature = "ceph")]
    imaged_ffi::wait_until_closed();
}
