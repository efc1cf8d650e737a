//! The backends of imaged, and the contract they keep.
//!
//! The board by the door: [`Config`], [`Location`] and [`open`] have one arm a driver. A new
//! backend is one folder here, these three arms, a harness in `tests/`, and a stanza in `conf/`.
//!
//! * [`contract`]: what every backend promises; read it first
//! * [`kit`]: what drivers are built from
//! * [`mem`]: the smallest driver; [`mod@file`]: images as plain files; [`rbd`]: images in Ceph

#![forbid(unsafe_code)]

pub mod contract;
pub mod file;
pub mod kit;
pub mod mem;
pub mod rbd;

use std::{fmt, str::FromStr, sync::Arc};

pub use contract::{
    Body, Capacity, Caps, Committed, Copied, Digests, Driver, Error, ImageId, Kind, Listed, Part,
    Progress, Properties, Reader, Recovered, Result, Source, Span, Stat, Upload, Usable,
};
pub use kit::{DropOnLane, lane, open_file, options, point, window, zeros};

/// The section of one store, typed: what its driver needs to open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// Images as plain files.
    File(file::Config),
    /// Images in this process's memory, for trials and tests.
    Mem(mem::Config),
    /// Images in a pool of Ceph RBD.
    Rbd(rbd::Config),
}

/// Names of the store types that have a driver, as `enabled_backends` spells them.
pub const TYPES: [&str; 3] = ["file", "mem", "rbd"];

/// Store types of glance_store that this build does not serve.
pub const UNSERVED: [&str; 5] = ["s3", "swift", "cinder", "http", "vmware"];

impl Config {
    /// Reads the section of a store of type `kind`; what is wrong is noted in `options`.
    /// `None` if the type has no driver or the section cannot be used.
    pub fn read(kind: &str, options: &mut options::Options) -> Option<Self> {
        match kind {
            "file" => file::Config::read(options).map(Self::File),
            "mem" => mem::Config::read(options).map(Self::Mem),
            "rbd" => rbd::Config::read(options).map(Self::Rbd),
            _ => None,
        }
    }

    /// The type, as `enabled_backends` spells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Mem(_) => "mem",
            Self::Rbd(_) => "rbd",
        }
    }
}

/// Opens the backend of the store `name`. `instance` names this daemon among those that may share
/// the backend, so that none clears away what another is writing.
///
/// # Errors
/// The reason the backend cannot be used, with the remedy.
pub async fn open(config: &Config, name: &str, instance: &str) -> Result<Arc<dyn Driver>> {
    Ok(match config {
        Config::File(config) => Arc::new(file::File::open(config, name, instance).await?),
        Config::Mem(config) => Arc::new(mem::Mem::new(config, name)),
        #[cfg(feature = "ceph")]
        Config::Rbd(config) => Arc::new(rbd::Rbd::open(config, name, instance).await?),
        #[cfg(not(feature = "ceph"))]
        Config::Rbd(_) => {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "this imaged was built without Ceph; use one that was built with the cargo \
                     feature `ceph`: store=`{name}`"
                ),
            ));
        }
    })
}

/// Waits until what backends had open is closed, a few seconds at most. To be called last in `main`,
/// when no backend is used any more. Blocks.
pub fn settle() {
    #[cfg(feature = "ceph")]
    imaged_ffi::settle();
}

/// Where an image is. `Display` gives the URI that glance_store would, secrets masked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// `file:///dir/id` or `filesystem:///dir/id`
    File(file::Location),
    /// `mem://store/id`
    Mem(mem::Location),
    /// `rbd://fsid/pool/image/snap` or `rbd://image`
    Rbd(rbd::Location),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("file" | "filesystem") => text.parse().map(Self::File),
            Some("mem") => text.parse().map(Self::Mem),
            Some("rbd") => text.parse().map(Self::Rbd),
            Some(other) if other.len() <= 32 => Err(Error::new(
                Kind::Invalid,
                format!("no store here has locations of this scheme: scheme=`{other}`"),
            )),
            _ => Err(Error::new(
                Kind::Invalid,
                "a location is a URI such as file:///var/lib/glance/images/ID",
            )),
        }
    }
}

impl Location {
    /// The type of the stores that have such locations, as `enabled_backends` spells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Mem(_) => "mem",
            Self::Rbd(_) => "rbd",
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(at) => at.fmt(f),
            Self::Mem(at) => at.fmt(f),
            Self::Rbd(at) => at.fmt(f),
        }
    }
}

/// A volume: what a backend's system holds beside the images of stores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Volume {
    /// `pool/name` or `pool/name@snapshot` in a Ceph cluster.
    Rbd(rbd::Volume),
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rbd(volume) => volume.fmt(f),
        }
    }
}
