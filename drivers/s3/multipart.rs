//! Objects being made: in one request, or by a multipart upload that is begun, given parts, and completed or
//! aborted.
//!
//! # Decisions
//! * Chose: who hears no answer, or one that says there is an object already, looks at it. Because: a server
//!   may have done what it was asked, and said so to nobody; and an object tells which upload made it.
//!   Instead of: believing the last answer, which is that of a request that was sent twice.
//! * Chose: an upload looks before it is completed, and after. Because: some servers, radosgw for one, ignore
//!   the condition that there be none.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_s3::{
    error::SdkError,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart},
};

use super::{
    client::{Bucket, UPLOAD, pairs},
    config::Algorithm,
};
use crate::{
    contract::{Digests, Error, Kind, Result},
    kit::{parts::Part, refusals::already_exists},
};

/// The most parts that an object has.
pub(super) const MOST_PARTS: u64 = 10_000;
/// So often an upload is aborted while parts that were on their way still arrive.
const ABORTS: usize = 5;

/// A multipart upload.
#[derive(Clone, Debug)]
pub(super) struct Multipart {
    pub(super) key: String,
    /// What the server calls it.
    pub(super) id: String,
}

/// The body of a request that sends `part`.
async fn body(part: &Part) -> Result<ByteStream, std::io::Error> {
    match part {
        Part::Memory(bytes) => Ok(bytes.clone().into()),
        Part::Spool(file) => {
            let read = ByteStream::from_path(file.path()).await;
            read.map_err(std::io::Error::other)
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether a request may have been carried out, or may yet be, for all that is known.
fn is_unanswered(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
}

impl Bucket {
    fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        let checksums = self.config.checksums;
        checksums.requests.then_some(match checksums.algorithm {
            Algorithm::Crc64Nvme => ChecksumAlgorithm::Crc64Nvme,
            Algorithm::Crc32C => ChecksumAlgorithm::Crc32C,
            Algorithm::Crc32 => ChecksumAlgorithm::Crc32,
        })
    }

    /// Stores `part` as the object `key`, by the upload `upload`, if there is none.
    ///
    /// # Errors
    /// Nothing of it is there, except after `Timeout`.
    pub(super) async fn put(
        &self,
        key: &str,
        upload: &str,
        part: &Part,
        digests: &Digests,
    ) -> Result<()> {
        let ask = || async {
            let put = self.client.put_object().bucket(self.name()).key(key).if_none_match("*");
            let mut put = put.set_checksum_algorithm(self.algorithm()).metadata(UPLOAD, upload);
            for (name, value) in pairs(digests) {
                put = put.metadata(name, value);
            }
            let body = body(part).await.map_err(SdkError::construction_failure)?;
            let put = put.content_length(signed(part.len())).body(body);
            put.customize().disable_payload_signing().send().await
        };
        match self.ask("put", key, part.len(), ask).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let unanswered = is_unanswered(&error);
                let made = self.made_all_the_same(key, upload, error).await;
                if made.is_err() && unanswered {
                    self.late.gave_up(key, upload);
                }
                made
            }
        }
    }

    /// Whether the object `key` is what the upload `upload` made, although asking for that ended in `error`.
    pub(super) async fn made_all_the_same(
        &self,
        key: &str,
        upload: &str,
        error: Error,
    ) -> Result<()> {
        match self.head(key).await {
            Ok(Some(object)) if object.upload.as_deref() == Some(upload) => Ok(()),
            Ok(Some(_)) => Err(already_exists(key, &self.store).because(error)),
            Ok(None) => Err(error),
            // Nobody knows, and `Timeout` says so.
            Err(away) => {
                let what = format!("{error}; nor can it be seen whether it is there");
                Err(Error::new(Kind::Timeout, what).because(away))
            }
        }
    }

    /// Begins a multipart upload of the object `key`, which will say that `upload` made it, and what its
    /// digests are if they are known.
    ///
    /// # Errors
    /// Nothing is left, except after `Timeout`.
    pub(super) async fn begin(
        &self,
        key: &str,
        upload: &str,
        digests: Option<&Digests>,
    ) -> Result<Multipart> {
        let asked = AtomicUsize::new(0);
        let ask = || {
            asked.fetch_add(1, Ordering::Relaxed);
            let begin = self.client.create_multipart_upload().bucket(self.name()).key(key);
            let mut begin = begin.metadata(UPLOAD, upload);
            for (name, value) in digests.iter().flat_map(|digests| pairs(digests)) {
                begin = begin.metadata(name, value);
            }
            let algorithm = self.algorithm();
            let whole = algorithm == Some(ChecksumAlgorithm::Crc64Nvme);
            begin
                .set_checksum_type(whole.then_some(ChecksumType::FullObject))
                .set_checksum_algorithm(algorithm)
                .send()
        };
        self.late.begins(key);
        let begun = self.ask_once("begin an upload of", key, ask).await;
        let begun = begun.and_then(|begun| match begun.upload_id() {
            Some(id) if !id.is_empty() => Ok(id.to_owned()),
            _ => Err(Error::new(
                Kind::Unavailable,
                format!("the server named no upload: object=`{key}`"),
            )),
        });
        let first = asked.load(Ordering::Relaxed) == 1;
        self.late.began(
            key,
            begun.as_deref().ok(),
            !first || begun.as_ref().is_err_and(is_unanswered),
        );
        if let (Ok(id), true) = (&begun, first) {
            return Ok(Multipart { key: key.to_owned(), id: id.clone() });
        }
        // Each answer that was lost may have named another one.
        let id = begun.as_ref().ok();
        let lost = async {
            for lost in self.uploads_of(key).await?.iter().filter(|upload| Some(&upload.id) != id) {
                self.abort(lost).await?;
            }
            Ok::<_, Error>(())
        };
        match (lost.await, begun) {
            (Ok(()), Ok(id)) => Ok(Multipart { key: key.to_owned(), id }),
            (Ok(()), Err(error)) => Err(error),
            // The intent has no token yet, and finds them by the key.
            (Err(left), _) => Err(Error::new(
                Kind::Timeout,
                format!("it is not known which uploads were begun: object=`{key}`"),
            )
            .because(left)),
        }
    }

    /// Sends `part` as that of this number; one that fails is sent again alone.
    pub(super) async fn send(
        &self,
        upload: &Multipart,
        number: i32,
        part: &Part,
    ) -> Result<CompletedPart> {
        let ask = || async {
            let send = self.client.upload_part().bucket(self.name()).key(&upload.key);
            let send = send.upload_id(&upload.id).part_number(number);
            let send = send.set_checksum_algorithm(self.algorithm());
            let body = body(part).await.map_err(SdkError::construction_failure)?;
            let send = send.content_length(signed(part.len())).body(body);
            send.customize().disable_payload_signing().send().await
        };
        let sent = self.ask("send a part of", &upload.key, part.len(), ask).await?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .set_checksum_crc32_c(sent.checksum_crc32_c)
            .set_checksum_crc64_nvme(sent.checksum_crc64_nvme)
            .build())
    }

    /// Makes the object of `parts`, in order of their numbers, if there is none.
    ///
    /// # Errors
    /// Nothing of it is there, except after `Timeout`.
    pub(super) async fn complete(
        &self,
        upload: &Multipart,
        nonce: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<()> {
        let Multipart { key, id } = upload;
        let made = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let ask = || {
            let complete = self.client.complete_multipart_upload().bucket(self.name()).key(key);
            let complete = complete.upload_id(id).multipart_upload(made.clone());
            complete.if_none_match("*").send()
        };
        let failed = match self.ask("complete", key, 0, ask).await {
            Ok(_) => return self.made_by(key, nonce).await,
            Err(error) => error,
        };
        let failed = match self.made_all_the_same(key, nonce, failed).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if failed.kind() == Kind::Timeout {
            return Err(failed);
        }
        match self.abort(upload).await {
            Ok(true) => Err(failed),
            // There was nothing to abort: it has been completed since, or somebody else has ended it.
            Ok(false) => self.made_all_the_same(key, nonce, failed).await,
            Err(left) => Err(failed.leaving(left)),
        }
    }

    /// Fails if the object `key` is not what `upload` made: another upload of this name was completed
    /// meanwhile, by a server that does not mind.
    async fn made_by(&self, key: &str, upload: &str) -> Result<()> {
        match self.head(key).await {
            Ok(Some(object)) if object.upload.as_deref() == Some(upload) => Ok(()),
            Ok(Some(_)) => Err(already_exists(key, &self.store)),
            Ok(None) => Err(Error::new(
                Kind::Unavailable,
                format!("the server says that it stored an object, and has none: object=`{key}`"),
            )),
            Err(error) => Err(Error::new(Kind::Timeout, error.to_string()).because(error)),
        }
    }

    /// Aborts a multipart upload, and says whether there was one. Parts that arrive meanwhile may outlive one
    /// abort, so it is asked until the server knows of no such upload.
    ///
    /// # Errors
    /// It may still be there.
    pub(super) async fn abort(&self, upload: &Multipart) -> Result<bool> {
        let Multipart { key, id } = upload;
        for found in [false, true].into_iter().chain(std::iter::repeat_n(true, ABORTS)) {
            let ask = || {
                let abort = self.client.abort_multipart_upload().bucket(self.name());
                abort.key(key).upload_id(id).send()
            };
            match self.ask("abort an upload of", key, 0, ask).await {
                Ok(_) => {}
                Err(error) if error.kind() == Kind::NotFound => return Ok(found),
                Err(error) => return Err(error),
            }
            let ask = || {
                let list = self.client.list_parts().bucket(self.name()).key(key);
                list.upload_id(id).max_parts(1).send()
            };
            match self.ask("look at an upload of", key, 0, ask).await {
                Err(error) if error.kind() == Kind::NotFound => return Ok(true),
                // A server that cannot tell has aborted it, as it said.
                Err(_) => return Ok(true),
                Ok(_) => {}
            }
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("an upload cannot be aborted: object=`{key}` upload=`{id}`"),
        ))
    }

    /// The multipart uploads of the object `key` that have not ended.
    pub(super) async fn uploads_of(&self, key: &str) -> Result<Vec<Multipart>> {
        let ask = || self.client.list_multipart_uploads().bucket(self.name()).prefix(key).send();
        let told = self.ask("look for uploads of", key, 0, ask).await?;
        let of_key = told.uploads().iter().filter(|upload| upload.key() == Some(key));
        let ids = of_key.filter_map(|upload| upload.upload_id());
        Ok(ids.map(|id| Multipart { key: key.to_owned(), id: id.to_owned() }).collect())
    }
}
