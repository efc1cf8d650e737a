//! Where an image is, whatever the driver: generated from the table of drivers.

use std::{fmt, str::FromStr};

use crate::{
    cinder,
    contract::{Error, Kind, Result},
    file, http, mem, rbd, s3, swift,
};

macro_rules! locations {
    ($($(#[$doc:meta])* $Driver:ident => $driver:ident),* $(,)?) => {
        /// Where an image is. `Display` gives the URI that glance_store would, secrets masked.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Location {
            $($(#[$doc])* $Driver($driver::Location),)*
        }

        impl FromStr for Location {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
                $(if $driver::SCHEMES.contains(&scheme) {
                    return text.parse().map(Self::$Driver);
                })*
                Err(no_such_scheme(scheme))
            }
        }

        impl Location {
            /// Whether a driver has locations of this scheme.
            #[must_use]
            pub fn has_scheme(scheme: &str) -> bool {
                false $(|| $driver::SCHEMES.contains(&scheme))*
            }

            /// The type of the stores that have such locations, as `enabled_backends` spells it.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$Driver(_) => stringify!($driver),)*
                }
            }
        }

        impl Location {
            /// The image's name there: its id, where an upload of imaged or of glance_store made it.
            #[must_use]
            pub fn image(&self) -> &str {
                match self {
                    $(Self::$Driver(at) => at.image(),)*
                }
            }
        }

        impl fmt::Display for Location {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$Driver(at) => at.fmt(f),)*
                }
            }
        }
    };
}

drivers!(locations);

fn no_such_scheme(scheme: &str) -> Error {
    if scheme.is_empty() || scheme.len() > 32 {
        return Error::new(
            Kind::Invalid,
            "a location is a URI such as file:///var/lib/glance/images/ID",
        );
    }
    Error::new(
        Kind::Invalid,
        format!("no store here has locations of this scheme: scheme=`{scheme}`"),
    )
}

/// A volume: what a backend's system holds beside the images of stores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Volume {
    /// `pool/name` or `pool/name@snapshot` in a Ceph cluster.
    Rbd(rbd::Volume),
    /// A volume of Cinder, by its UUID.
    Cinder(cinder::Volume),
}

impl Volume {
    /// The type of the stores that reach it, as `enabled_backends` spells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rbd(_) => "rbd",
            Self::Cinder(_) => "cinder",
        }
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rbd(volume) => volume.fmt(f),
            Self::Cinder(volume) => volume.fmt(f),
        }
    }
}
