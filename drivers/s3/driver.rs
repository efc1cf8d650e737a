//! The contract, kept by requests to the server.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};

use super::{
    client::Bucket, config::Config, copy, late::Given, multipart::Multipart, object::Object, read,
    upload,
};
use crate::{
    contract::{
        Capacity, Caps, Claim, Copied, Copies, Digests, Driver, Hold, Host, ImageId, Kind, Listed,
        NewImage, Pieces, Properties, Reader, Recovered, Result, Site, Source, Span, Stat, Upload,
    },
    kit::{
        refusals::{foreign, missing},
        see_through::see_through,
        stretches::READS,
        turns::Turns,
        window::{CHUNK, Window},
    },
};

/// Opens the store `name`; see [`crate::open`].
///
/// # Errors
/// Why the bucket cannot be used, with the remedy.
pub async fn open(config: &Config, name: &str, _host: &Host) -> Result<Arc<dyn Driver>> {
    let store = S3 { bucket: Bucket::open(config, name).await?, deletes: Turns::default() };
    store.probe().await?;
    store.bucket.publish();
    Ok(Arc::new(store))
}

/// One s3 store.
#[derive(Clone, Debug)]
struct S3 {
    bucket: Arc<Bucket>,
    /// Where deletes of one object meet: a server says of none whether it was this one that removed it.
    deletes: Turns,
}

impl S3 {
    /// The key of the object at `at`.
    fn key<'at>(&self, at: &'at crate::Location) -> Result<&'at str> {
        let crate::Location::S3(s3) = at else { return Err(foreign(at, &self.bucket.store)) };
        match s3.is_in(&self.bucket.config.endpoint, self.bucket.name()) {
            true => Ok(s3.image()),
            false => Err(foreign(at, &self.bucket.store)),
        }
    }

    /// The object at `at`, with its digests.
    async fn look(&self, at: &crate::Location) -> Result<Object> {
        let key = self.key(at)?;
        self.bucket.look_closely(key).await?.ok_or_else(|| missing(at, &self.bucket.store))
    }
}

impl S3 {
    /// Removes what requests about an object have made that nobody waited for any more.
    async fn remove_late(&self, key: &str, given: &Given) -> Result<()> {
        let Bucket { late, store, .. } = &*self.bucket;
        let uploads = self.bucket.uploads_of(key).await?;
        // One that has begun since then may be among them.
        if !late.is_still(key, given) {
            return Ok(());
        }
        for upload in uploads.iter().filter(|upload| Some(&upload.id) != given.live.as_ref()) {
            self.bucket.abort(upload).await?;
            tracing::info!(store, image = key, upload = upload.id, "a late upload is aborted");
        }
        let Some(object) = self.bucket.head(key).await? else { return Ok(()) };
        if object.upload.is_some_and(|upload| given.puts.contains(&upload)) {
            self.bucket.remove(key).await?;
            tracing::info!(store, image = key, "a late object is removed");
        }
        Ok(())
    }
}

#[async_trait]
impl Driver for S3 {
    fn caps(&self) -> Caps {
        Caps {
            write: true,
            delete: true,
            seek: true,
            list: true,
            copy: true,
            descriptor: false,
            volumes: false,
            flatten: false,
        }
    }

    fn copies(&self) -> Option<&dyn Copies> {
        Some(self)
    }

    fn properties(&self) -> Properties {
        let Config { endpoint, bucket, part, .. } = &self.bucket.config;
        let mut facts = Properties::new();
        facts.insert("s3_store_host".into(), endpoint.url().into());
        facts.insert("s3_store_bucket".into(), bucket.clone().into());
        facts.insert("s3_store_large_object_chunk_size".into(), (part >> 20).into());
        facts
    }

    fn sites(&self) -> Vec<Site> {
        let Config { endpoint, bucket, .. } = &self.bucket.config;
        vec![Site {
            what: format!("bucket `{bucket}`"),
            identity: format!("{}/{bucket}", endpoint.url()),
            within: Vec::new(),
            // Stores of one bucket may differ in their keys, or in how they write.
            exclusive: false,
        }]
    }

    fn serves(&self, at: &crate::Location) -> bool {
        self.key(at).is_ok()
    }

    fn reads(&self) -> Option<Pieces> {
        Some(READS)
    }

    /// What comes is copied into parts at once, so that only the digests are waited for.
    fn writes(&self, _size: Option<u64>) -> Option<Pieces> {
        Some(Pieces { chunk: CHUNK, in_flight: 4 })
    }

    async fn purge(&self) -> Result<()> {
        for (key, given) in self.bucket.late.due() {
            self.remove_late(&key, &given).await?;
        }
        Ok(())
    }

    async fn probe(&self) -> Result<Capacity> {
        let nowhere = Capacity { total: None, used: None, available: None, trash: None };
        match self.bucket.exists().await? {
            true => Ok(nowhere),
            false if self.bucket.config.create_bucket => Ok(nowhere),
            false => Err(self.bucket.no_bucket()),
        }
    }

    fn place(&self, id: &ImageId) -> Option<crate::Location> {
        Some(self.bucket.at(id))
    }

    async fn locate(&self, id: &ImageId) -> Result<crate::Location> {
        match self.bucket.look(id.as_str()).await? {
            Some(_) => Ok(self.bucket.at(id)),
            None => Err(missing(id, &self.bucket.store)),
        }
    }

    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>> {
        Ok(Box::new(upload::create(Arc::clone(&self.bucket), image).await?))
    }

    async fn open(&self, at: &crate::Location, span: Span, window: Window) -> Result<Reader> {
        let object = self.look(at).await?;
        let range = span.of(object.size)?;
        let body = read::read(&self.bucket, self.key(at)?, &object, range.clone(), window);
        Ok(Reader {
            at: at.clone(),
            version: Some(object.version()),
            size: object.size,
            range,
            digests: object.digests,
            body,
        })
    }

    async fn stat(&self, at: &crate::Location) -> Result<Stat> {
        let object = self.look(at).await?;
        let version = Some(object.version());
        Ok(Stat { size: object.size, digests: object.digests, version })
    }

    async fn delete(&self, at: &crate::Location, hold: Hold) -> Result<()> {
        let (key, at) = (self.key(at)?.to_owned(), at.clone());
        let (bucket, deletes) = (Arc::clone(&self.bucket), self.deletes.clone());
        let remove = async move {
            let _turn = deletes.of(&key).await;
            match bucket.look(&key).await? {
                Some(_) => bucket.remove(&key).await,
                None => Err(missing(&at, &bucket.store)),
            }
        };
        see_through(hold, remove).await
    }

    async fn record(&self, at: &crate::Location, claim: &Claim, digests: &Digests) -> Result<()> {
        let key = self.key(at)?.to_owned();
        let object = self.look(at).await?;
        if object.digests.as_ref() == Some(digests) {
            return Ok(());
        }
        let (bucket, digests) = (Arc::clone(&self.bucket), digests.clone());
        let keep = async move { bucket.tag(&key, &digests).await };
        match see_through(claim.clone(), keep).await {
            // Not every server has tags, and not every key may set them.
            Err(error) if [Kind::Unsupported, Kind::BackendDenied].contains(&error.kind()) => {
                Ok(())
            }
            kept => kept,
        }
    }

    async fn recover(&self, claim: &Claim, token: Option<&str>) -> Result<Recovered> {
        let key = claim.id().as_str();
        let left = match token {
            Some(id) => vec![Multipart { key: key.to_owned(), id: id.to_owned() }],
            // One that was begun and whose id never came to the journal, or that of a copy.
            None => self.bucket.uploads_of(key).await?,
        };
        let mut removed = Vec::new();
        for upload in left {
            if self.bucket.abort(&upload).await? {
                removed.push(format!("multipart upload {} of {key}", upload.id));
            }
        }
        match self.bucket.head(key).await? {
            Some(_) => Ok(Recovered::Whole),
            None if removed.is_empty() => Ok(Recovered::Nothing),
            None => Ok(Recovered::Removed(removed)),
        }
    }

    fn list(&self) -> BoxStream<'static, Result<Listed>> {
        list(Arc::clone(&self.bucket)).boxed()
    }
}

#[async_trait]
impl Copies for S3 {
    async fn copy(&self, from: Source, claim: &Claim) -> Result<Option<Copied>> {
        copy::copy(&self.bucket, &from, claim).await
    }
}

/// Where a listing is.
struct Page {
    bucket: Arc<Bucket>,
    /// What the last answer had that nobody has had yet.
    ready: VecDeque<Listed>,
    /// How the next page is asked for; `None` after the last.
    next: Option<Option<String>>,
}

/// The images of the bucket, a page of the server's at a time.
fn list(bucket: Arc<Bucket>) -> impl futures_util::Stream<Item = Result<Listed>> + Send {
    let page = Page { bucket, ready: VecDeque::new(), next: Some(None) };
    stream::try_unfold(page, |mut page| async move {
        loop {
            if let Some(listed) = page.ready.pop_front() {
                return Ok(Some((listed, page)));
            }
            let Some(token) = page.next.take() else { return Ok(None) };
            let bucket = &page.bucket;
            let ask = || {
                let list = bucket.client.list_objects_v2().bucket(bucket.name()).delimiter("/");
                list.set_continuation_token(token.clone()).send()
            };
            let told = match bucket.ask("list", bucket.name(), 0, ask).await {
                // It is made with the first image.
                Err(_) if bucket.config.create_bucket && !bucket.exists().await? => {
                    return Ok(None);
                }
                told => told?,
            };
            page.next = told.next_continuation_token().map(|token| Some(token.to_owned()));
            for object in told.contents() {
                // What has no image's name is somebody else's.
                let Some(Ok(id)) = object.key().map(str::parse::<ImageId>) else { continue };
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                let at = page.bucket.at(&id);
                page.ready.push_back(Listed { id, at, size: size.unwrap_or_default(), odd: None });
            }
        }
    })
}
