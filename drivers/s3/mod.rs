//! Images as objects of an S3 bucket.
//!
//! # Location
//! `s3+https://<host>/<bucket>/<id>`, or `s3://` where no TLS is spoken
//! # Commit point
//! `CompleteMultipartUpload`, or the one `PutObject` of a small image.
//! # Residue
//! A multipart upload, whose id is the upload's token; recovery aborts it.
//! # Blocking
//! Nothing blocks: all requests are asynchronous. Parts for which there is no memory are written to disk on a
//! lane.
//! # Limits
//! 5 TiB in 10,000 parts. Objects belong to one bucket; a server that ignores conditions on its writes, as
//! radosgw does on `CompleteMultipartUpload`, is looked at before and after instead.

mod config;
#[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "locations are still read"))]
mod location;

#[cfg(not(feature = "s3"))]
mod absent;
#[cfg(feature = "s3")]
mod client;
#[cfg(feature = "s3")]
mod copy;
#[cfg(feature = "s3")]
mod driver;
#[cfg(feature = "s3")]
mod failure;
#[cfg(feature = "s3")]
mod keys;
#[cfg(feature = "s3")]
mod late;
#[cfg(feature = "s3")]
mod multipart;
#[cfg(feature = "s3")]
mod object;
#[cfg(feature = "s3")]
mod read;
#[cfg(feature = "s3")]
mod upload;

#[cfg(not(feature = "s3"))]
pub use absent::open;
pub use config::Config;
#[cfg(feature = "s3")]
pub use driver::open;
pub use location::{Location, SCHEMES};
