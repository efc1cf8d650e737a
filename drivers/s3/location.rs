//! `s3://`, `s3+http://` and `s3+https://` locations.

use std::{fmt, str::FromStr};

use super::config::Endpoint;
use crate::contract::{Error, Kind, Result};

/// The schemes of such locations.
pub const SCHEMES: [&str; 3] = ["s3", "s3+http", "s3+https"];

/// An object of a bucket: `s3+https://<host>/<bucket>/<key>`, or `s3://` where no TLS is spoken, as
/// glance_store writes them since 5.7. The keys that earlier ones wrote before the host are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    secure: bool,
    host: String,
    bucket: String,
    key: String,
}

impl Location {
    /// The object `key` of a bucket.
    pub(super) fn new(endpoint: &Endpoint, bucket: &str, key: &str) -> Self {
        let Endpoint { secure, host } = endpoint.clone();
        Self { secure, host, bucket: bucket.to_owned(), key: key.to_owned() }
    }

    /// The object's name.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.key
    }

    /// The bucket that it is in.
    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Whether it is on this server.
    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        // Plain `s3` was also written for servers with TLS.
        (endpoint.secure || !self.secure) && self.host == endpoint.host
    }

    /// Whether it is in this bucket of this server.
    pub(super) fn is_in(&self, endpoint: &Endpoint, bucket: &str) -> bool {
        self.is_at(endpoint) && self.bucket == bucket
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // Nothing of the text is shown: it may hold keys.
        let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("{why}: scheme=`s3`")));
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("an s3 location is s3://HOST/BUCKET/KEY");
        };
        if !SCHEMES.contains(&scheme) || rest.contains("://") {
            return refuse("an s3 location is s3://HOST/BUCKET/KEY, with one `://`");
        }
        let mut parts = rest.rsplitn(3, '/');
        let (Some(key), Some(bucket), Some(place)) = (parts.next(), parts.next(), parts.next())
        else {
            return refuse("an s3 location has a host, a bucket and a key");
        };
        // A secret may hold an `@`, a host none.
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host).trim_end_matches('/');
        if key.is_empty() || bucket.is_empty() || host.is_empty() || text.len() > 4096 {
            return refuse("an s3 location has a host, a bucket and a key");
        }
        Ok(Self {
            secure: scheme == "s3+https",
            host: host.to_owned(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "s3+https" } else { "s3" };
        write!(f, "{scheme}://{}/{}/{}", self.host, self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secure: bool) -> Endpoint {
        Endpoint { secure, host: "s3.example.org:8080/base".to_owned() }
    }

    #[test]
    fn what_is_written_is_read() {
        for (secure, text) in [
            (true, "s3+https://s3.example.org:8080/base/images/1-2"),
            (false, "s3://s3.example.org:8080/base/images/1-2"),
        ] {
            let location = Location::new(&at(secure), "images", "1-2");
            assert_eq!(location.to_string(), text);
            assert_eq!(text.parse::<Location>().unwrap(), location);
            assert!(location.is_in(&at(secure), "images"));
            assert!(!location.is_in(&at(secure), "others"));
        }
    }

    #[test]
    fn keys_in_old_ones_are_read_over_and_never_shown() {
        for text in [
            "s3://me:sec/ret@s3.example.org:8080/base/images/x",
            "s3+http://me:p@ss@s3.example.org:8080/base/images/x",
            "s3+https://me:secret@s3.example.org:8080/base/images/x",
        ] {
            let location: Location = text.parse().unwrap();
            assert!(location.is_in(&at(true), "images"), "{text}");
            let shown = format!("{location} {location:?}");
            assert!(!shown.contains("ret") && !shown.contains("p@ss"), "{shown}");
        }
    }

    #[test]
    fn what_names_no_object_is_refused_without_a_word_of_it() {
        for text in [
            "s3://",
            "s3://hidden",
            "s3://hidden/bucket",
            "s3:///bucket/hidden",
            "s3://a:hidden@/bucket/key",
            "s3://host/bucket/",
            "s3://host//hidden",
            "s3://host/bucket/s3://hidden",
            "http://host/bucket/hidden",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(!error.to_string().contains("hidden"), "{error}");
        }
    }
}
