//! Writing an image: parts are filled with what comes, and several are on their way at a time.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws_sdk_s3::types::CompletedPart;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    client::Bucket,
    multipart::{MOST_PARTS, Multipart},
};
use crate::{
    contract::{Claim, Committed, Digests, Error, Kind, NewImage, Result, Upload},
    kit::{
        parts::{Filling, Parts},
        refusals::already_exists,
        see_through::{lost, see_through},
    },
};

/// The least that S3 takes as a part that is not the last, in bytes.
const LEAST_PART: u64 = 5 << 20;
/// The largest object, in bytes.
const LARGEST: u64 = 5 << 40;
/// Of an image whose size is not known the parts become twice as large after so many.
const OF_ONE_SIZE: u64 = 1000;

/// An image on its way.
pub(super) struct Writing {
    bucket: Arc<Bucket>,
    at: crate::Location,
    claim: Claim,
    /// `None`: it is small, and goes in one request.
    multipart: Option<Multipart>,
    size: Option<u64>,
    /// The digests that it was begun with.
    promised: Option<Digests>,
    parts: Parts,
    filling: Option<Filling>,
    /// Parts on their way.
    sending: JoinSet<Result<CompletedPart>>,
    /// Parts that the server has.
    sent: Vec<CompletedPart>,
    /// Parts that were begun.
    begun: u64,
    /// Bytes that were written.
    written: u64,
}

/// Begins an upload. One that may come to several parts has a multipart upload from the start, so that its
/// id is in the journal before there is anything to be found by it.
pub(super) async fn create(bucket: Arc<Bucket>, image: &NewImage) -> Result<Writing> {
    let NewImage { claim, size, promised, parts, .. } = image;
    let key = claim.id().as_str();
    if size.is_some_and(|size| size > LARGEST) {
        let what = format!("an object has at most 5 TiB: size=`{}`", size.unwrap_or_default());
        return Err(Error::new(Kind::TooLarge, what));
    }
    if bucket.head(key).await?.is_some() {
        return Err(already_exists(claim.id(), &bucket.store));
    }
    bucket.make_if_missing().await?;
    let small = size.is_some_and(|size| size < bucket.config.large && size <= bucket.config.part);
    let multipart = match small {
        true => None,
        false => Some(bucket.begin(key, claim.nonce(), promised.as_ref()).await?),
    };
    Ok(Writing {
        at: bucket.at(claim.id()),
        bucket,
        claim: claim.clone(),
        multipart,
        size: *size,
        promised: promised.clone(),
        parts: parts.clone(),
        filling: None,
        sending: JoinSet::new(),
        sent: Vec::new(),
        begun: 0,
        written: 0,
    })
}

/// Bytes of the part after `begun` others, for an image of `size`: so many that [`MOST_PARTS`] are enough.
fn part_size(least: u64, size: Option<u64>, begun: u64) -> u64 {
    let least = least.max(LEAST_PART);
    match size {
        Some(size) => least.max(size.div_ceil(MOST_PARTS)),
        None => {
            let doubled = u32::try_from(begun / OF_ONE_SIZE).unwrap_or(u32::MAX);
            least.saturating_mul(1_u64.checked_shl(doubled).unwrap_or(u64::MAX)).min(LARGEST / 1024)
        }
    }
}

impl Writing {
    /// A part to be filled; waits for one of those on their way if there are as many as there may be, or no
    /// memory and no disk for more.
    async fn begin_part(&mut self) -> Result<Filling> {
        let size = part_size(self.bucket.config.part, self.size, self.begun);
        let left = self.size.map_or(size, |all| all.saturating_sub(self.written)).max(1);
        let capacity = usize::try_from(size.min(left)).unwrap_or(usize::MAX);
        while self.sending.len() >= self.bucket.config.in_flight {
            self.wait_for_one().await?;
        }
        loop {
            match self.parts.begin(capacity).await {
                Err(error) if error.kind() == Kind::Unavailable && !self.sending.is_empty() => {
                    self.wait_for_one().await?;
                }
                begun => return begun,
            }
        }
    }

    /// Sends what is filled, by a task of its own.
    fn send(&mut self, filled: Filling, multipart: &Multipart) {
        self.begun = self.begun.saturating_add(1);
        let number = i32::try_from(self.begun).unwrap_or(i32::MAX);
        let (bucket, upload) = (Arc::clone(&self.bucket), multipart.clone());
        let (part, claim) = (filled.freeze(), self.claim.clone());
        self.sending.spawn(async move {
            let sent = bucket.send(&upload, number, &part).await;
            drop(claim);
            sent
        });
    }

    async fn wait_for_one(&mut self) -> Result<()> {
        if let Some(sent) = self.sending.join_next().await {
            self.sent.push(sent.map_err(lost)??);
        }
        Ok(())
    }

    /// Makes the object of what was written.
    async fn make(&mut self, digests: &Digests) -> Result<()> {
        let last = match self.filling.take() {
            Some(filled) => filled,
            None => self.parts.begin(0).await?,
        };
        let multipart = self.multipart.clone();
        let multipart = match multipart {
            Some(multipart) if self.begun > 0 => multipart,
            unused => {
                // Before the image is there: of one that is, nothing can be found that was left.
                if let Some(unused) = unused {
                    self.bucket.abort(&unused).await?;
                }
                return self.put(last, digests).await;
            }
        };
        if !last.is_empty() {
            self.send(last, &multipart);
        }
        while !self.sending.is_empty() {
            self.wait_for_one().await?;
        }
        let mut sent = std::mem::take(&mut self.sent);
        sent.sort_by_key(CompletedPart::part_number);
        let (bucket, claim) = (Arc::clone(&self.bucket), self.claim.clone());
        let digests = (self.promised.as_ref() != Some(digests)).then(|| digests.clone());
        let complete = async move {
            let key = &multipart.key;
            if bucket.head(key).await?.is_some() {
                return Err(already_exists(claim.id(), &bucket.store));
            }
            bucket.complete(&multipart, claim.nonce(), sent).await?;
            // The image is whole; that its digests are not with it is no reason to lose it.
            if let Some(digests) = digests
                && let Err(error) = bucket.tag(key, &digests).await
            {
                tracing::warn!(store = bucket.store, image = key, %error, "no digests are kept with the image");
            }
            Ok(())
        };
        see_through(self.claim.clone(), complete).await
    }

    /// Stores an image that is one part.
    async fn put(&self, filled: Filling, digests: &Digests) -> Result<()> {
        let (bucket, claim) = (Arc::clone(&self.bucket), self.claim.clone());
        let (part, digests) = (filled.freeze(), digests.clone());
        let put =
            async move { bucket.put(claim.id().as_str(), claim.nonce(), &part, &digests).await };
        see_through(self.claim.clone(), put).await
    }

    /// Removes what the server has of it.
    async fn remove(&mut self) -> Result<()> {
        self.filling = None;
        self.sending.shutdown().await;
        let Some(multipart) = self.multipart.take() else { return Ok(()) };
        let bucket = Arc::clone(&self.bucket);
        let abort = async move {
            let aborted = bucket.abort(&multipart).await;
            aborted.map(drop).map_err(|error| error.leaving(format!("upload {}", multipart.id)))
        };
        see_through(self.claim.clone(), abort).await
    }
}

#[async_trait]
impl Upload for Writing {
    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        while !chunk.is_empty() {
            let mut filling = match self.filling.take() {
                Some(filling) => filling,
                None => self.begin_part().await?,
            };
            let taken = filling.push(&chunk).await?;
            self.written = self.written.saturating_add(taken as u64);
            drop(chunk.split_to(taken));
            match &self.multipart {
                Some(multipart) if filling.room() == 0 => {
                    let multipart = multipart.clone();
                    self.send(filling, &multipart);
                }
                None if filling.room() == 0 && !chunk.is_empty() => {
                    return Err(Error::new(Kind::Internal, "more bytes came than were announced"));
                }
                _ => self.filling = Some(filling),
            }
        }
        Ok(())
    }

    async fn failing(&mut self) -> Error {
        while let Some(sent) = self.sending.join_next().await {
            match sent.map_err(lost) {
                Ok(Ok(sent)) => self.sent.push(sent),
                Ok(Err(error)) | Err(error) => return error,
            }
        }
        std::future::pending().await
    }

    fn at(&self) -> &crate::Location {
        &self.at
    }

    fn token(&self) -> Option<&str> {
        self.multipart.as_ref().map(|multipart| multipart.id.as_str())
    }

    async fn commit(mut self: Box<Self>, digests: &Digests) -> Result<Committed> {
        let stored_bytes = self.written;
        match self.make(digests).await {
            Ok(()) => Ok(Committed { stored_bytes }),
            // What may be there is for `recover` to judge.
            Err(error) if error.kind() == Kind::Timeout => Err(error.at(&self.at)),
            Err(error) => Err(match self.remove().await {
                Ok(()) => error,
                Err(left) => error.leaving(left),
            }),
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.remove().await
    }
}

impl fmt::Debug for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_grow_so_that_the_largest_image_fits_in_as_many_as_there_may_be() {
        assert_eq!(part_size(10 * MIB, Some(100 * MIB), 0), 10 * MIB);
        assert_eq!(part_size(MIB, Some(1), 0), 5 * MIB);
        let known = part_size(10 * MIB, Some(LARGEST), 0);
        assert!(known * MOST_PARTS >= LARGEST && known < 5 << 30);
        let unknown: u64 = (0..MOST_PARTS).map(|begun| part_size(10 * MIB, None, begun)).sum();
        assert!(unknown >= LARGEST, "{unknown}");
        assert!((0..MOST_PARTS).all(|begun| part_size(10 * MIB, None, begun) <= 5 << 30));
    }
}
