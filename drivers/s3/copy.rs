//! Copies inside one server: in one request, or part by part.

use std::sync::Arc;

use aws_sdk_s3::types::{CompletedPart, MetadataDirective};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    client::{Bucket, UPLOAD, pairs},
    location::Location,
    multipart::{MOST_PARTS, Multipart},
    object::range_of,
};
use crate::{
    contract::{Claim, Copied, Error, Kind, Result, Source},
    kit::{refusals::already_exists, see_through::see_through},
};

/// What one request copies, at most.
const AT_ONCE: u64 = 1 << 30;
/// Parts that the server copies at a time.
const IN_FLIGHT: usize = 4;
/// A server copies at least so many times faster than it sends.
const FASTER: u64 = 16;

/// What is copied, as a request names it.
struct From {
    object: String,
    etag: String,
    size: u64,
}

/// Makes the image of `claim` from `from`; `None` if the server cannot, or may not, read that one.
pub(super) async fn copy(
    bucket: &Arc<Bucket>,
    from: &Source,
    claim: &Claim,
) -> Result<Option<Copied>> {
    let crate::Location::S3(at) = &from.at else { return Ok(None) };
    // The version begins with the ETag.
    let etag = from.version.as_ref().and_then(|version| version.split(' ').next());
    let (true, Some(etag)) = (at.is_at(&bucket.config.endpoint), etag) else { return Ok(None) };
    let source = From { object: at.object(), etag: etag.to_owned(), size: from.size };
    if bucket.head(claim.id().as_str()).await?.is_some() {
        return Err(already_exists(claim.id(), &bucket.store));
    }
    bucket.make_if_missing().await?;
    let (task, of, digests) = (Arc::clone(bucket), claim.clone(), from.digests.clone());
    let work = async move {
        let digests = digests.as_ref();
        match source.size {
            0..=AT_ONCE => in_one(&task, &source, &of, digests).await,
            _ => in_parts(&task, &source, &of, digests).await,
        }
    };
    match see_through(claim.clone(), work).await {
        Ok(()) => Ok(Some(Copied {
            at: bucket.at(claim.id()),
            size: from.size,
            stored_bytes: from.size,
            digests: from.digests.clone(),
            shared: false,
        })),
        // Other keys may read it, and then its bytes come through here.
        Err(error) if [Kind::BackendDenied, Kind::Unsupported].contains(&error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn in_one(
    bucket: &Bucket,
    from: &From,
    claim: &Claim,
    digests: Option<&crate::Digests>,
) -> Result<()> {
    let key = claim.id().as_str();
    let ask = || {
        let copy = bucket.client.copy_object().bucket(bucket.name()).key(key);
        let copy = copy.copy_source(&from.object).copy_source_if_match(&from.etag);
        let copy = copy.metadata_directive(MetadataDirective::Replace);
        let mut copy = copy.metadata(UPLOAD, claim.nonce());
        for (name, value) in digests.iter().flat_map(|digests| pairs(digests)) {
            copy = copy.metadata(name, value);
        }
        copy.send()
    };
    let error = match bucket.ask("copy to", key, from.size / FASTER, ask).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    bucket.made_all_the_same(key, claim.nonce(), changed(error, from)).await
}

async fn in_parts(
    bucket: &Bucket,
    from: &From,
    claim: &Claim,
    digests: Option<&crate::Digests>,
) -> Result<()> {
    let upload = bucket.begin(claim.id().as_str(), claim.nonce(), digests).await?;
    let copied = match parts(bucket, from, &upload).await {
        Ok(parts) => return bucket.complete(&upload, claim.nonce(), parts).await,
        Err(error) => changed(error, from),
    };
    Err(match bucket.abort(&upload).await {
        Ok(_) => copied,
        Err(left) => copied.leaving(format!("upload {}: {left}", upload.id)),
    })
}

async fn parts(bucket: &Bucket, from: &From, upload: &Multipart) -> Result<Vec<CompletedPart>> {
    let size = AT_ONCE.max(from.size.div_ceil(MOST_PARTS));
    let starts = (0..from.size.div_ceil(size)).map(|part| part.saturating_mul(size));
    let copies = (1..).zip(starts).map(|(number, start)| async move {
        let range = start..start.saturating_add(size).min(from.size);
        let ask = || {
            let copy = bucket.client.upload_part_copy().bucket(bucket.name()).key(&upload.key);
            let copy = copy.upload_id(&upload.id).part_number(number);
            let copy = copy.copy_source(&from.object).copy_source_if_match(&from.etag);
            copy.copy_source_range(range_of(&range)).send()
        };
        let copied = bucket.ask("copy a part to", &upload.key, size / FASTER, ask).await?;
        let etag = copied.copy_part_result.and_then(|result| result.e_tag);
        Ok(CompletedPart::builder().part_number(number).set_e_tag(etag).build())
    });
    stream::iter(copies).buffered(IN_FLIGHT).try_collect().await
}

/// `error`, or that the source has been replaced: the one condition that a copy has.
fn changed(error: Error, from: &From) -> Error {
    if error.kind() != Kind::Exists {
        return error;
    }
    let what = format!("the source was replaced before it was copied: source=`{}`", from.object);
    Error::new(Kind::NotFound, what).because(error)
}

impl Location {
    /// The object, as `x-amz-copy-source` names it.
    fn object(&self) -> String {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        format!("{}/{}", encoded(self.bucket()), encoded(self.image()))
    }
}
