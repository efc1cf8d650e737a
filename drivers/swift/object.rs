//! What an object is, looked at without reading it, and what is kept with one.

use super::{
    account::{Account, Call},
    failure,
    listing::{self, Entry},
    location::QUOTED,
};
use crate::{
    contract::{Claim, Digests, Error, Kind, Result},
    kit::http::{
        HeaderMap, HeaderName, Method, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG},
    },
};
use futures_util::TryStreamExt as _;
use percent_encoding::{percent_decode_str, utf8_percent_encode};

/// The type of a segment, by which it is told from an image.
pub(super) const SEGMENT_TYPE: &str = "application/vnd.imaged.segment";
/// The type of an image.
pub(super) const IMAGE_TYPE: &str = "application/octet-stream";

pub(super) const MANIFEST: HeaderName = HeaderName::from_static("x-object-manifest");
pub(super) const DELETE_AT: HeaderName = HeaderName::from_static("x-delete-at");
const STATIC: HeaderName = HeaderName::from_static("x-static-large-object");

/// What is kept with an object of ours: the upload that made it, its length and its digests.
const UPLOAD: HeaderName = HeaderName::from_static("x-object-meta-imaged-upload");
const SIZE: HeaderName = HeaderName::from_static("x-object-meta-imaged-size");
const CHECKSUM: HeaderName = HeaderName::from_static("x-object-meta-imaged-checksum");
const HASH_ALGO: HeaderName = HeaderName::from_static("x-object-meta-imaged-hash-algo");
const HASH_VALUE: HeaderName = HeaderName::from_static("x-object-meta-imaged-hash-value");

/// An object, as its head tells.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Its length in bytes; of a large one, of all of its segments, but 0 or `None` if those are more than
    /// Swift lists at a time.
    pub(super) size: Option<u64>,
    /// What its bytes are known by; without quotes.
    pub(super) etag: String,
    /// What it consists of.
    pub(super) made: Made,
    /// The upload that made it, if it was one of ours.
    pub(super) upload: Option<String>,
    /// Its length, as the upload told.
    pub(super) told: Option<u64>,
    pub(super) digests: Option<Digests>,
    /// Whether it is a segment of ours.
    pub(super) segment: bool,
    headers: HeaderMap,
}

/// What an object consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Its own bytes.
    Plain,
    /// All objects in a container whose names begin alike.
    Dynamic {
        /// Their container.
        container: String,
        /// What their names begin with.
        prefix: String,
    },
    /// Those in a list.
    Static,
}

/// The headers that keep who made an image, and its digests.
pub(super) fn kept(claim: &Claim, size: u64, digests: &Digests) -> Vec<(HeaderName, String)> {
    let mut headers = kept_digests(digests);
    headers.extend([(UPLOAD, claim.nonce().to_owned()), (SIZE, size.to_string())]);
    headers
}

fn kept_digests(digests: &Digests) -> Vec<(HeaderName, String)> {
    let Digests { checksum, hash_algo, hash_value } = digests.clone();
    let mut headers = vec![(HASH_ALGO, hash_algo), (HASH_VALUE, hash_value)];
    headers.extend(checksum.map(|checksum| (CHECKSUM, checksum)));
    headers
}

/// The value of [`MANIFEST`] for the objects in `container` whose names begin with `prefix`.
pub(super) fn manifest(container: &str, prefix: &str) -> String {
    let encoded = |text| utf8_percent_encode(text, QUOTED).to_string();
    format!("{}/{}", encoded(container), encoded(prefix))
}

/// Looks at an object; `None` if there is none.
pub(super) async fn look(
    account: &Account,
    container: &str,
    object: &str,
) -> Result<Option<Object>> {
    let answer = account.send(&Call::object(Method::HEAD, container, object)).await?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => Ok(Some(Object::of(answer.headers.clone()))),
        _ => Err(failure::of(answer, "tell of an image").await),
    }
}

impl Object {
    fn of(headers: HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let owned = |name: &HeaderName| text(name).map(str::to_owned);
        let number = |name: &HeaderName| text(name).and_then(|text| text.parse().ok());
        let digests = || {
            Some(Digests {
                checksum: owned(&CHECKSUM),
                hash_algo: owned(&HASH_ALGO)?,
                hash_value: owned(&HASH_VALUE)?,
            })
        };
        let made = match text(&MANIFEST).and_then(|manifest| manifest.split_once('/')) {
            Some((container, prefix)) => {
                let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
                Made::Dynamic { container: decoded(container), prefix: decoded(prefix) }
            }
            None if text(&STATIC).is_some_and(|text| text.eq_ignore_ascii_case("true")) => {
                Made::Static
            }
            None => Made::Plain,
        };
        Self {
            size: number(&CONTENT_LENGTH),
            etag: text(&ETAG).unwrap_or_default().trim_matches('"').to_owned(),
            made,
            upload: owned(&UPLOAD),
            told: number(&SIZE),
            digests: digests(),
            segment: text(&CONTENT_TYPE).is_some_and(|found| found.starts_with(SEGMENT_TYPE)),
            headers,
        }
    }

    /// What tells this very image from others that come to have its name.
    pub(super) fn version(&self) -> String {
        match (&self.upload, &self.made) {
            (Some(upload), _) => upload.clone(),
            (None, Made::Dynamic { container, prefix }) => {
                format!("{container}/{prefix}{}", self.etag)
            }
            (None, _) => self.etag.clone(),
        }
    }

    /// Its length, for which the segments are counted where the server does not tell.
    pub(super) async fn counted(&self, account: &Account) -> Result<u64> {
        match (&self.made, self.size) {
            (Made::Dynamic { container, prefix }, None | Some(0)) => {
                let sum =
                    |sum: u64, entry: Entry| async move { Ok(sum.saturating_add(entry.bytes)) };
                listing::entries(account, container, prefix).try_fold(0, sum).await
            }
            (_, Some(size)) => Ok(size),
            (_, None) => Err(Error::new(Kind::Unavailable, "the server tells no Content-Length")),
        }
    }

    /// Its length, which is that of the image.
    ///
    /// # Errors
    /// `Unavailable` if segments are missing: they are not listed yet, or a deletion was broken off.
    pub(super) async fn whole(&self, account: &Account, what: &str) -> Result<u64> {
        let size = self.counted(account).await?;
        match self.told {
            Some(told) if told != size => Err(incomplete(what, told, size)),
            _ => Ok(size),
        }
    }

    /// The headers of a POST that keeps all that is kept with the object, and `digests`. What is not said
    /// again by a POST is gone after it, also that the object is large.
    pub(super) fn with(&self, digests: &Digests) -> Vec<(HeaderName, String)> {
        let stays = |name: &HeaderName| {
            name.as_str().starts_with("x-object-meta-")
                || *name == MANIFEST
                || *name == DELETE_AT
                || matches!(
                    name.as_str(),
                    "content-encoding" | "content-disposition" | "content-type"
                )
        };
        let new = kept_digests(digests);
        let replaced = |name: &HeaderName| new.iter().any(|(other, _)| other == name);
        let old = self.headers.iter().filter(|(name, _)| stays(name) && !replaced(name));
        let old =
            old.filter_map(|(name, value)| Some((name.clone(), value.to_str().ok()?.to_owned())));
        old.chain(new.clone()).collect()
    }
}

/// Segments are missing, or too many.
pub(super) fn incomplete(what: &str, told: u64, found: u64) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "the image's segments are not all there: either Swift does not list them yet, then try \
             later, or a deletion was broken off, then delete the image again: image=`{what}` \
             bytes=`{told}` found=`{found}`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn digests(algo: &str) -> Digests {
        Digests { checksum: Some("c".into()), hash_algo: algo.into(), hash_value: "v".into() }
    }

    #[test]
    fn a_manifest_reads_back_whatever_its_names_are() {
        assert_eq!(manifest("glance", "id-"), "glance/id-");
        let header = manifest("a b%", "é-");
        let object = Object::of(headers(&[("x-object-manifest", &header)]));
        assert_eq!(object.made, Made::Dynamic { container: "a b%".into(), prefix: "é-".into() });
    }

    #[test]
    fn what_is_kept_comes_back() {
        let claim = Claim::new("img".parse().unwrap(), "n0nce", Arc::new(()));
        let mut map = HeaderMap::new();
        for (name, value) in kept(&claim, 7, &digests("sha512")) {
            map.insert(name, value.parse().unwrap());
        }
        let object = Object::of(map);
        assert_eq!(object.digests, Some(digests("sha512")));
        assert_eq!((object.upload.as_deref(), object.told), (Some("n0nce"), Some(7)));
        assert_eq!(object.version(), "n0nce");
    }

    #[test]
    fn a_post_says_again_what_would_be_lost() {
        let object = Object::of(headers(&[
            ("x-object-manifest", "glance/id-"),
            ("x-object-meta-mine", "1"),
            ("x-object-meta-imaged-checksum", "old"),
            ("x-delete-at", "1795720120"),
            ("content-type", "application/octet-stream"),
            ("etag", "\"abc\""),
            ("content-length", "3"),
        ]));
        let mut said: Vec<_> =
            object.with(&digests("md5")).into_iter().map(|(n, v)| format!("{n}: {v}")).collect();
        said.sort();
        assert_eq!(
            said,
            [
                "content-type: application/octet-stream",
                "x-delete-at: 1795720120",
                "x-object-manifest: glance/id-",
                "x-object-meta-imaged-checksum: c",
                "x-object-meta-imaged-hash-algo: md5",
                "x-object-meta-imaged-hash-value: v",
                "x-object-meta-mine: 1",
            ]
        );
        assert_eq!(object.etag, "abc");
    }
}
