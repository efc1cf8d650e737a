//! What a store of this type is in a build without S3.

use std::sync::Arc;

use super::config::Config;
use crate::contract::{Driver, Error, Host, Kind, Result};

/// Refuses to open the store `name`.
///
/// # Errors
/// Always, with the remedy.
pub async fn open(_config: &Config, name: &str, _host: &Host) -> Result<Arc<dyn Driver>> {
    Err(Error::new(
        Kind::Unavailable,
        format!(
            "this imaged was built without S3; use one that was built with the cargo feature `s3`: \
             store=`{name}`"
        ),
    ))
}
