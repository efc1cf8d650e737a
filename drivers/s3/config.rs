//! The options of an `s3` section, by glance_store's names.

use std::{fmt, path::PathBuf, time::Duration};

use crate::kit::options::{Options, Secret, shown};

const HOST: &str = "s3_store_host";
const BUCKET: &str = "s3_store_bucket";
const ACCESS_KEY: &str = "s3_store_access_key";
const SECRET_KEY: &str = "s3_store_secret_key";

/// Longer than a server takes that is started again.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An s3 store's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `s3_store_host`: where the server is.
    pub endpoint: Endpoint,
    /// `s3_store_region_name`; empty leaves it to the environment.
    pub region: Option<String>,
    /// `s3_store_bucket`.
    pub bucket: String,
    /// `s3_store_access_key` and `s3_store_secret_key`; without them, those of the environment, a profile
    /// or the machine's role are used.
    pub keys: Option<Keys>,
    /// `imaged_s3_profile`: a section of the AWS configuration files, which alone is looked for keys then.
    pub profile: Option<String>,
    /// `s3_store_create_bucket_on_put`.
    pub create_bucket: bool,
    /// `s3_store_bucket_url_format`: whether the bucket is in the path.
    pub path_style: bool,
    /// `s3_store_large_object_size`: from this size on an image is sent in parts, in bytes.
    pub large: u64,
    /// `s3_store_large_object_chunk_size`: the least size of a part, in bytes.
    pub part: u64,
    /// `s3_store_thread_pools`: parts in flight at a time.
    pub in_flight: usize,
    /// `s3_store_cacert`: who is trusted beside the system's authorities.
    pub ca: Option<PathBuf>,
    /// `s3_store_enable_data_integrity_protection` and what belongs to it.
    pub checksums: Checksums,
    /// `imaged_s3_timeout_s`: for an answer of the server, and for one that failed to succeed.
    pub timeout: Duration,
}

/// The keys of a user of S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Says who it is.
    pub access: Secret,
    /// Proves it.
    pub secret: Secret,
    /// `imaged_s3_session_token`: goes with keys that are lent for a while.
    pub session: Option<Secret>,
}

/// Where a server is.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether TLS is spoken.
    pub secure: bool,
    /// Its name or address, perhaps with a port and a path.
    pub host: String,
}

impl Endpoint {
    /// The URL of the server.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

/// The checksums that S3 knows and that cost little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// CRC64NVME, of the whole object.
    #[default]
    Crc64Nvme,
    /// CRC32C, of each part.
    Crc32C,
    /// CRC32, of each part.
    Crc32,
}

/// When checksums beside the digests go with what is sent and are compared with what comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// With every request that can have one, and not only where S3 demands it.
    pub requests: bool,
    /// `imaged_s3_checksum`: by which algorithm.
    pub algorithm: Algorithm,
    /// Of every answer that has one.
    pub answers: bool,
}

impl Config {
    /// Reads an `s3` section; `None` if it names no server or no bucket.
    pub fn read(options: &mut Options) -> Option<Self> {
        let endpoint = endpoint(options);
        let region = options.str("s3_store_region_name");
        let bucket = bucket(options);
        let keys = keys(options);
        let profile = options.str("imaged_s3_profile");
        let create_bucket = options.bool("s3_store_create_bucket_on_put").unwrap_or(false);
        let format = options.choice("s3_store_bucket_url_format", &["auto", "virtual", "path"]);
        let large = options.int("s3_store_large_object_size", 0..=5120).unwrap_or(100) << 20;
        let part = options.int("s3_store_large_object_chunk_size", 5..=5120).unwrap_or(10) << 20;
        let in_flight = options.int("s3_store_thread_pools", 1..=128).unwrap_or(4);
        let ca = options.path("s3_store_cacert");
        let checksums = checksums(options);
        let timeout = options.seconds("imaged_s3_timeout_s", 1).unwrap_or(TIMEOUT);
        let endpoint = endpoint?;
        // Where names of buckets are names of hosts they are AWS's; others seldom have such.
        let amazon = endpoint.host.split([':', '/']).next().unwrap_or_default();
        let amazon = amazon.ends_with(".amazonaws.com");
        Some(Self {
            path_style: match format {
                Some("virtual") => false,
                Some("path") => true,
                _ => !amazon,
            },
            endpoint,
            region,
            bucket: bucket?,
            keys,
            profile,
            create_bucket,
            large,
            part,
            in_flight: usize::try_from(in_flight).unwrap_or(4),
            ca,
            checksums,
            timeout,
        })
    }
}

fn endpoint(options: &mut Options) -> Option<Endpoint> {
    let Some(text) = options.str(HOST) else {
        options.fail(HOST, "is needed: where the server is, such as https://s3.example.org");
        return None;
    };
    let (secure, host) = match text.split_once("://") {
        Some(("https", host)) => (true, host),
        Some(("http", host)) => (false, host),
        Some(_) => {
            options.fail(HOST, format!("begins with http:// or https://: value={}", shown(&text)));
            return None;
        }
        None => {
            options.note(HOST, "it has no scheme, so http:// is meant and no TLS spoken");
            (false, &*text)
        }
    };
    let host = host.trim_end_matches('/');
    if host.is_empty() || host.contains(['@', '?', '#', ' ']) {
        let what = "is a scheme, a host, and perhaps a port and a path, and holds no credentials";
        options.fail(HOST, what.to_owned());
        return None;
    }
    Some(Endpoint { secure, host: host.to_owned() })
}

fn bucket(options: &mut Options) -> Option<String> {
    let Some(bucket) = options.str(BUCKET) else {
        options.fail(BUCKET, "is needed: the bucket that the images are in");
        return None;
    };
    if bucket.contains('/') || bucket.chars().any(char::is_whitespace) {
        options
            .fail(BUCKET, format!("names a bucket, and nothing in it: value={}", shown(&bucket)));
        return None;
    }
    Some(bucket)
}

fn keys(options: &mut Options) -> Option<Keys> {
    let session = options.secret("imaged_s3_session_token");
    match (options.secret(ACCESS_KEY), options.secret(SECRET_KEY)) {
        (Some(access), Some(secret)) => Some(Keys { access, secret, session }),
        (None, None) => None,
        (Some(_), None) => {
            options.fail(SECRET_KEY, format!("is needed, for {ACCESS_KEY} is set"));
            None
        }
        (None, Some(_)) => {
            options.fail(ACCESS_KEY, format!("is needed, for {SECRET_KEY} is set"));
            None
        }
    }
}

fn checksums(options: &mut Options) -> Checksums {
    let on = options.bool("s3_store_enable_data_integrity_protection").unwrap_or(false);
    let mut when = |name: &str| {
        let chosen = options.choice(name, &["when_required", "when_supported"]);
        on && chosen != Some("when_required")
    };
    let requests = when("s3_store_request_checksum_calculation");
    let answers = when("s3_store_response_checksum_validation");
    let algorithm = match options.choice("imaged_s3_checksum", &["crc64nvme", "crc32c", "crc32"]) {
        Some("crc32c") => Algorithm::Crc32C,
        Some("crc32") => Algorithm::Crc32,
        _ => Algorithm::Crc64Nvme,
    };
    Checksums { requests, algorithm, answers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &[(&str, &str)]) -> (Option<Config>, Vec<String>) {
        let mut options = Options::of("cloud", more);
        let config = Config::read(&mut options);
        (config, options.finish().problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_server_and_a_bucket_are_enough() {
        let (config, problems) =
            read(&[("s3_store_host", "http://127.0.0.1:7480/"), ("s3_store_bucket", "images")]);
        assert_eq!(problems, [""; 0]);
        let config = config.unwrap();
        assert_eq!(config.endpoint.url(), "http://127.0.0.1:7480");
        assert!(config.path_style && config.keys.is_none());
        assert_eq!((config.large, config.part), (100 << 20, 10 << 20));
    }

    #[test]
    fn a_bucket_is_in_the_name_of_the_host_at_amazon_alone() {
        for (host, format, path) in [
            ("https://s3.eu-west-1.amazonaws.com", "auto", false),
            ("https://s3.example.org", "auto", true),
            ("https://s3.example.org", "virtual", false),
            ("https://s3.amazonaws.com", "path", true),
        ] {
            let (config, _) = read(&[
                ("s3_store_host", host),
                ("s3_store_bucket", "b"),
                ("s3_store_bucket_url_format", format),
            ]);
            assert_eq!(config.unwrap().path_style, path, "{host} {format}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_no_secret_is_shown() {
        for (more, told) in [
            (&[("s3_store_bucket", "b")][..], "is needed: where the server is"),
            (&[("s3_store_host", "https://a:hidden@s3.example.org")], "holds no credentials"),
            (&[("s3_store_host", "ftp://x")], "begins with http:// or https://"),
            (&[("s3_store_host", "https://x"), ("s3_store_bucket", "a/b")], "nothing in it"),
            (&[("s3_store_access_key", "hidden")], "s3_store_secret_key: is needed"),
            (&[("s3_store_secret_key", "hidden")], "s3_store_access_key: is needed"),
            (&[("s3_store_large_object_chunk_size", "4")], "5"),
        ] {
            let (_, problems) = read(more);
            let text = problems.join("\n");
            assert!(text.contains(told), "{told}: {text}");
            assert!(!text.contains("hidden"), "{text}");
        }
    }
}
