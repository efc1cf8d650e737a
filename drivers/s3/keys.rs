//! Where the keys of a store are: in its section, or where Amazon's own programs look for them.

use std::sync::Arc;

use aws_config::{
    default_provider::credentials::DefaultCredentialsChain,
    environment::EnvironmentVariableRegionProvider,
    imds,
    meta::region::RegionProviderChain,
    profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider},
    provider_config::ProviderConfig,
};
use aws_credential_types::provider::{SharedCredentialsProvider, error::CredentialsError, future};
use aws_sdk_s3::config::{Credentials, ProvideCredentials, Region};

use super::config::{Config, Keys};
use crate::{
    contract::{Error, Kind, Result},
    kit::{http::innermost, latest::Latest},
};

/// Where neither the section nor the environment names a region: what servers that have none take.
pub(super) const REGION: &str = "us-east-1";

/// How often the machine's own service is asked for its role; each time it has a second. Where there is none
/// nothing answers, and nobody shall wait long for that.
const ASKED: u32 = 2;

/// The keys of a section, as the SDK asks for them.
#[derive(Debug)]
pub(super) struct Configured(pub(super) Arc<Latest<Keys>>);

impl ProvideCredentials for Configured {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let (_, Keys { access, secret, session }) = self.0.get();
        let session = session.map(|token| token.expose().to_owned());
        let keys =
            Credentials::new(access.expose(), secret.expose(), session, None, "configuration");
        future::ProvideCredentials::ready(Ok(keys))
    }
}

/// The region of a section, or the one that the environment or the profile names.
pub(super) async fn region(config: &Config) -> Region {
    if let Some(region) = &config.region {
        return Region::new(region.clone());
    }
    let mut profile = ProfileFileRegionProvider::builder();
    if let Some(name) = &config.profile {
        profile = profile.profile_name(name);
    }
    let named = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(profile.build());
    named.region().await.unwrap_or_else(|| Region::new(REGION))
}

/// The keys of the profile that a section names; without one those of the environment, of a profile, or of
/// the machine's role, whichever there is first. They are got once, so that their lack is told at once and as
/// what it is.
///
/// # Errors
/// `BackendDenied` if there are none; `Unavailable` if they cannot be had now.
pub(super) async fn found(config: &Config, region: &Region) -> Result<SharedCredentialsProvider> {
    let keys = match &config.profile {
        Some(name) => {
            let settings = ProviderConfig::default().with_region(Some(region.clone()));
            let profile = ProfileFileCredentialsProvider::builder().profile_name(name);
            SharedCredentialsProvider::new(profile.configure(&settings).build())
        }
        None => {
            let machine = imds::Client::builder().max_attempts(ASKED).build();
            let chain = DefaultCredentialsChain::builder().region(region.clone());
            SharedCredentialsProvider::new(chain.imds_client(machine).build().await)
        }
    };
    match tokio::time::timeout(config.timeout, keys.provide_credentials()).await {
        Ok(Ok(_there)) => Ok(keys),
        Ok(Err(error)) => Err(none(config, error)),
        Err(late) => {
            let what = "the keys cannot be had, nothing that should have them answers in time";
            Err(Error::new(Kind::Unavailable, what).because(late))
        }
    }
}

/// Why there are no keys.
fn none(config: &Config, error: CredentialsError) -> Error {
    if !matches!(error, CredentialsError::CredentialsNotLoaded(_)) {
        let what = format!("the keys cannot be had ({})", innermost(&error));
        return Error::new(Kind::Unavailable, what).because(error);
    }
    let what = match &config.profile {
        Some(name) => format!(
            "there are no keys in this profile of AWS's configuration files; see that \
             imaged_s3_profile is right and that imaged may read them: profile=`{name}`"
        ),
        None => "there are no keys; set s3_store_access_key and s3_store_secret_key, or have \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role where imaged runs"
            .to_owned(),
    };
    Error::new(Kind::BackendDenied, what).because(error)
}
