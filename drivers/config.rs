//! The section of a store, and the opening of its backend: generated from the table of drivers.

use std::sync::Arc;

use crate::{
    cinder,
    contract::{Asker, Driver, Host, Need, Result},
    file, http,
    kit::options::Options,
    mem, rbd, s3, swift,
};

macro_rules! configs {
    ($($(#[$doc:meta])* $Driver:ident => $driver:ident),* $(,)?) => {
        /// The section of one store, typed: what its driver needs to open it.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Config {
            $($(#[$doc])* $Driver($driver::Config),)*
        }

        /// Names of the store types that have a driver, as `enabled_backends` spells them.
        pub const TYPES: [&str; [$(stringify!($driver)),*].len()] = [$(stringify!($driver)),*];

        impl Config {
            /// Reads the section of a store of type `kind`; what is wrong is noted in `options`.
            /// `None` if the type has no driver or the section cannot be used.
            pub fn read(kind: &str, options: &mut Options) -> Option<Self> {
                $(if kind == stringify!($driver) {
                    return $driver::Config::read(options).map(Self::$Driver);
                })*
                None
            }

            /// The type, as `enabled_backends` spells it.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$Driver(_) => stringify!($driver),)*
                }
            }
        }

        /// Opens the backend of the store `name` for the daemon `host`.
        ///
        /// # Errors
        /// The reason the backend cannot be used, with the remedy.
        pub async fn open(config: &Config, name: &str, host: &Host) -> Result<Arc<dyn Driver>> {
            match config {
                $(Config::$Driver(config) => $driver::open(config, name, host).await,)*
            }
        }
    };
}

drivers!(configs);

/// Store types of glance_store that this build does not serve.
pub const UNSERVED: [&str; 1] = ["vmware"];

impl Config {
    /// What images of volumes need, beyond this section, to be made inside the backend; `None` where they can only
    /// be streamed into the store. No backend is asked.
    #[must_use]
    pub fn needs(&self, asker: &Asker<'_>) -> Option<Vec<Need>> {
        if let Self::Rbd(config) = self {
            return Some(config.needs(asker));
        }
        if let Self::Cinder(config) = self {
            return Some(config.needs(asker));
        }
        None
    }
}
