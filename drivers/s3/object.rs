//! What a server tells of one object, and the little that is asked of one beside its bytes.

use std::{collections::HashMap, ops::Range};

use aws_sdk_s3::{
    operation::head_object::HeadObjectOutput,
    types::{BucketLocationConstraint, CreateBucketConfiguration, Tag, Tagging},
};

use super::{
    client::{Bucket, UPLOAD, digests, is_digest, pairs},
    keys::REGION,
};
use crate::contract::{Digests, Error, Kind, Result};

/// An object, looked at.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Bytes.
    pub(super) size: u64,
    /// What the server calls these bytes.
    pub(super) etag: String,
    /// Which upload made it, if one of imaged did.
    pub(super) upload: Option<String>,
    pub(super) digests: Option<Digests>,
    /// Whether it may have tags, which tell its digests better than its metadata: that is as it was made.
    tagged: bool,
}

impl Object {
    /// What it is called beside every other that comes to have its name: equal bytes have equal ETags.
    pub(super) fn version(&self) -> String {
        match &self.upload {
            Some(upload) => format!("{} {upload}", self.etag),
            None => self.etag.clone(),
        }
    }
}

impl TryFrom<HeadObjectOutput> for Object {
    type Error = Error;

    fn try_from(head: HeadObjectOutput) -> Result<Self> {
        let lacks = |what| Error::new(Kind::Unavailable, format!("the server tells no {what}"));
        let size = head.content_length().and_then(|size| u64::try_from(size).ok());
        let metadata = head.metadata().cloned().unwrap_or_default();
        let digests = digests(&metadata);
        Ok(Self {
            size: size.ok_or_else(|| lacks("size"))?,
            etag: head.e_tag().ok_or_else(|| lacks("ETag"))?.to_owned(),
            upload: metadata.get(UPLOAD).cloned(),
            // Where a server does not count them there may be some.
            tagged: head.tag_count() != Some(0),
            digests,
        })
    }
}

impl Bucket {
    /// The object `key`; `None` if there is none, or no bucket.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Object>> {
        let ask = || self.client.head_object().bucket(self.name()).key(key).send();
        match self.ask("look at", key, 0, ask).await {
            Ok(head) => Object::try_from(head).map(Some),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The object `key`; `None` if there is none in the bucket.
    pub(super) async fn look(&self, key: &str) -> Result<Option<Object>> {
        match self.head(key).await? {
            // The answer has no body, which could say whether the bucket or the object is missing.
            None if !self.config.create_bucket && !self.exists().await? => Err(self.no_bucket()),
            found => Ok(found),
        }
    }

    /// The object `key` with its digests, wherever they are kept.
    pub(super) async fn look_closely(&self, key: &str) -> Result<Option<Object>> {
        let Some(mut object) = self.look(key).await? else { return Ok(None) };
        if object.tagged && object.upload.is_some() {
            let tags = self.tags(key).await.ok();
            object.digests = tags.and_then(|tags| digests(&tags)).or(object.digests);
        }
        Ok(Some(object))
    }

    /// Whether the bucket is there.
    pub(super) async fn exists(&self) -> Result<bool> {
        let ask = || self.client.head_bucket().bucket(self.name()).send();
        match self.ask("look at the bucket", self.name(), 0, ask).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn no_bucket(&self) -> Error {
        Error::new(
            Kind::Unavailable,
            format!(
                "there is no such bucket; make it, or set s3_store_create_bucket_on_put: bucket=`{}` store=`{}`",
                self.name(),
                self.store
            ),
        )
    }

    async fn tags(&self, key: &str) -> Result<HashMap<String, String>> {
        let ask = || self.client.get_object_tagging().bucket(self.name()).key(key).send();
        let told = self.ask("read the tags of", key, 0, ask).await?;
        let pair = |tag: &Tag| (tag.key().to_owned(), tag.value().to_owned());
        Ok(told.tag_set().iter().map(pair).collect())
    }

    /// Keeps `digests` as tags of the object `key`, beside those that it has.
    pub(super) async fn tag(&self, key: &str, digests: &Digests) -> Result<()> {
        let mut all = self.tags(key).await?;
        all.retain(|name, _| !is_digest(name));
        all.extend(pairs(digests).map(|(name, value)| (name.to_owned(), value.to_owned())));
        let set = all.iter().map(|(name, value)| Tag::builder().key(name).value(value).build());
        let set = set.collect::<Result<Vec<_>, _>>();
        let tagging = set.and_then(|set| Tagging::builder().set_tag_set(Some(set)).build());
        let tagging = tagging.map_err(|error| {
            Error::new(Kind::Internal, format!("no tags: object=`{key}`")).because(error)
        })?;
        let ask = || {
            let tagging = tagging.clone();
            self.client.put_object_tagging().bucket(self.name()).key(key).tagging(tagging).send()
        };
        self.ask("tag", key, 0, ask).await.map(drop)
    }

    /// Removes the object `key`, whether or not it is there.
    pub(super) async fn remove(&self, key: &str) -> Result<()> {
        let ask = || self.client.delete_object().bucket(self.name()).key(key).send();
        self.ask_once("delete", key, ask).await.map(drop)
    }

    /// Makes the bucket, if the section says so and it is missing.
    pub(super) async fn make_if_missing(&self) -> Result<()> {
        if !self.config.create_bucket || self.exists().await? {
            return Ok(());
        }
        let region = self.client.config().region().map(ToString::to_string);
        let place = region.filter(|region| region != REGION).map(|region| {
            let region = BucketLocationConstraint::from(region.as_str());
            CreateBucketConfiguration::builder().location_constraint(region).build()
        });
        let ask = || {
            let make = self.client.create_bucket().bucket(self.name());
            make.set_create_bucket_configuration(place.clone()).send()
        };
        match self.ask("make the bucket", self.name(), 0, ask).await {
            // Somebody else was faster.
            Err(error) if error.kind() == Kind::Exists => Ok(()),
            made => made.map(drop),
        }
    }
}

/// `range`, as HTTP says it.
pub(super) fn range_of(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}
