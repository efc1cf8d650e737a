//! The client of one server, with its keys: how it is made, and how what failed is asked again.

use std::{collections::HashMap, fmt, path::Path, sync::Arc, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation,
        StalledStreamProtectionConfig, http::HttpResponse, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use tokio::time::Instant;

use super::{
    config::{Config, Keys},
    failure::{again, failed},
    keys::{self, Configured},
    late::Late,
    location::Location,
};
use crate::{
    contract::{Digests, Error, ImageId, Kind, Result},
    kit::{
        http::certificates,
        latest::{Latest, Places},
        pause::jittered,
    },
};

/// For a connection to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// The slowest that bytes may come or go in one request, in bytes a second.
const SLOWEST: u64 = 256 << 10;
/// The first wait before a request is sent again; the next is twice as long, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// So many requests of which nothing is heard are sent again.
const UNHEARD: u32 = 1;

/// The buckets that are in use.
static BUCKETS: Places<Keys> = Places::new();

/// One bucket of one server.
pub(super) struct Bucket {
    pub(super) client: Client,
    /// The keys of the section, or newer ones.
    keys: Option<Arc<Latest<Keys>>>,
    pub(super) config: Config,
    /// The store's name.
    pub(super) store: String,
    pub(super) late: Late,
}

impl Bucket {
    /// The bucket of the store `store`. Asks no server for anything, but where there are keys if the
    /// section has none.
    ///
    /// # Errors
    /// `Unavailable` if the certificates cannot be used; as [`keys::found`].
    pub(super) async fn open(config: &Config, store: &str) -> Result<Arc<Self>> {
        let mut settings = aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(config.endpoint.url())
            .force_path_style(config.path_style)
            // Every request is asked again here, for as long as the store is given.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
            // A caller may be slow; what the server owes is watched by `Bucket::ask` and by reads.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(match config.checksums.requests {
                true => RequestChecksumCalculation::WhenSupported,
                false => RequestChecksumCalculation::WhenRequired,
            })
            .response_checksum_validation(match config.checksums.answers {
                true => ResponseChecksumValidation::WhenSupported,
                false => ResponseChecksumValidation::WhenRequired,
            });
        let region = keys::region(config).await;
        let keys = config.keys.clone().map(Latest::new);
        settings = match &keys {
            Some(keys) => settings
                .credentials_provider(Configured(Arc::clone(keys)))
                // They may be replaced at any time.
                .identity_cache(IdentityCache::no_cache()),
            None => settings.credentials_provider(keys::found(config, &region).await?),
        };
        settings = settings.region(region);
        if let Some(path) = &config.ca {
            let http = aws_smithy_http_client::Builder::new()
                .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
                .tls_context(trusting(path).await?)
                .build_https();
            settings = settings.http_client(http);
        }
        let client = Client::from_conf(settings.build());
        let (config, store, late) = (config.clone(), store.to_owned(), Late::default());
        Ok(Arc::new(Self { client, keys, config, store, late }))
    }

    /// Has transfers that began with other keys go on with those that have opened the bucket.
    pub(super) fn publish(&self) {
        if let Some(keys) = &self.keys {
            let Config { endpoint, bucket, .. } = &self.config;
            BUCKETS.publish(&format!("{} {} {bucket}", self.store, endpoint.url()), keys);
        }
    }

    /// How often its keys were replaced.
    fn replaced(&self) -> u64 {
        self.keys.as_ref().map_or(0, |keys| keys.get().0)
    }

    /// The bucket's name.
    pub(super) fn name(&self) -> &str {
        &self.config.bucket
    }

    /// Where the image `id` is.
    pub(super) fn at(&self, id: &ImageId) -> crate::Location {
        crate::Location::S3(Location::new(&self.config.endpoint, self.name(), id.as_str()))
    }

    /// Asks by `request` until the server has answered, or has had its time. `bytes` go or come with it. The
    /// request does no harm if it is carried out twice, however late.
    pub(super) async fn ask<T, E, F>(
        &self,
        doing: &str,
        what: &str,
        bytes: u64,
        request: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.ask_with(doing, what, bytes, UNHEARD, request).await
    }

    /// The same of a request that would do harm if it was carried out when nobody counts on it any more: one of
    /// which nothing is heard is not sent again, and whoever asks is told that its end is not known.
    pub(super) async fn ask_once<T, E, F>(
        &self,
        doing: &str,
        what: &str,
        request: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.ask_with(doing, what, 0, 0, request).await
    }

    async fn ask_with<T, E, F>(
        &self,
        doing: &str,
        what: &str,
        bytes: u64,
        mut unheard: u32,
        mut request: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let patience = self.config.timeout;
        let each = patience.saturating_add(Duration::from_secs(bytes / SLOWEST));
        let since = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            let replaced = self.replaced();
            let error = match tokio::time::timeout(each, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    let (asked, error) = (again(&error), failed(doing, what, error));
                    match asked {
                        Some(asked) => wait = wait.max(asked),
                        // It was signed with keys that have been replaced since.
                        None if error.kind() == Kind::BackendDenied
                            && self.replaced() != replaced => {}
                        None => return Err(error),
                    }
                    error
                }
                Err(late) => Error::new(
                    Kind::Timeout,
                    format!("cannot {doing}, the server did not answer in time: object=`{what}`"),
                )
                .because(late),
            };
            // What is not answered takes all the time there is, and has its own count.
            let unanswered = error.kind() == Kind::Timeout;
            if unanswered && unheard == 0 || !unanswered && since.elapsed() + wait >= patience {
                return Err(error);
            }
            unheard -= u32::from(unanswered);
            tracing::debug!(store = self.store, %error, wait_ms = wait.as_millis(), "asked again");
            tokio::time::sleep(jittered(wait)).await;
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }
}

/// TLS that trusts the certificates in the file at `path` beside the system's.
async fn trusting(path: &Path) -> Result<TlsContext> {
    const OPTION: &str = "s3_store_cacert";
    let pem = tokio::fs::read(path).await.map_err(|error| {
        Error::new(
            Kind::Unavailable,
            format!("cannot read {OPTION}: {error}: path=`{}`", path.display()),
        )
    })?;
    // The SDK panics over what is none.
    certificates(&pem).map_err(|why| {
        let what =
            format!("{OPTION} holds no certificates in PEM ({why}): path=`{}`", path.display());
        Error::new(Kind::Unavailable, what)
    })?;
    let store = TrustStore::default().with_pem_certificate(pem);
    TlsContext::builder().with_trust_store(store).build().map_err(|error| {
        let what = format!("{OPTION} cannot be used: path=`{}`", path.display());
        Error::new(Kind::Unavailable, what).because(error)
    })
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("store", &self.store).finish_non_exhaustive()
    }
}

/// What an object has beside its bytes, as names and values: which upload made it, and its digests.
pub(super) const UPLOAD: &str = "imaged-upload";
const CHECKSUM: &str = "imaged-checksum";
const HASH_ALGO: &str = "imaged-hash-algo";
const HASH_VALUE: &str = "imaged-hash-value";

/// `digests` as names and values.
pub(super) fn pairs(digests: &Digests) -> impl Iterator<Item = (&'static str, &str)> {
    let Digests { checksum, hash_algo, hash_value } = digests;
    let checksum = checksum.iter().map(|checksum| (CHECKSUM, checksum.as_str()));
    checksum.chain([(HASH_ALGO, hash_algo.as_str()), (HASH_VALUE, hash_value.as_str())])
}

/// Whether `name` is of a pair that tells digests.
pub(super) fn is_digest(name: &str) -> bool {
    [CHECKSUM, HASH_ALGO, HASH_VALUE].contains(&name)
}

/// The digests that names and values tell.
pub(super) fn digests(pairs: &HashMap<String, String>) -> Option<Digests> {
    let hex = |name| {
        let value: &String = pairs.get(name)?;
        let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_hexdigit());
        plain.then(|| value.clone())
    };
    let hash_algo = pairs.get(HASH_ALGO)?.clone();
    let checksum = match pairs.contains_key(CHECKSUM) {
        true => Some(hex(CHECKSUM)?),
        false => None,
    };
    Some(Digests { checksum, hash_algo, hash_value: hex(HASH_VALUE)? })
}
