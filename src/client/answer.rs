//! Answers of the daemon: read whole, or as they come, and what they say of images.

use std::{io, ops::Range, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, StatusCode,
    body::{Body as _, Incoming},
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName},
};
use imaged_drivers::Extent;
use imaged_ffi_linux::View;
use serde::de::DeserializeOwned;

use super::{
    connection::{Connection, Fate, Pool},
    error::{Error, Result},
};
use crate::wire::{
    digests::{self, Promise},
    extents::{self, Malformed},
    headers::{BODY, PROBLEM, REPR_DIGEST, SIZE, decoded},
    memory, range,
    records::Entry,
};

/// The largest answer that is taken into memory, in bytes.
const LARGEST: usize = 64 << 20;

/// The right to one connection for one request; kept for the next when the answer is over.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) pool: Arc<Pool>,
    pub(super) connection: Option<Connection>,
    pub(super) fate: Arc<Fate>,
}

impl Lease {
    /// The answer has been read to its end.
    fn end(&mut self) {
        // One whose request was answered before it was sent whole cannot be used again.
        if let Some(connection) = self.connection.take().filter(|_| self.fate.is_sent()) {
            connection.wire.finished();
            self.pool.keep(connection);
        }
    }
}

/// An answer whose head has come.
#[derive(Debug)]
pub struct Answer {
    method: Method,
    request_id: String,
    head: hyper::http::response::Parts,
    download: Download,
    descriptors: Vec<OwnedFd>,
}

impl Answer {
    pub(super) fn new(
        method: Method,
        request_id: String,
        response: hyper::Response<Incoming>,
        mut lease: Lease,
    ) -> Self {
        let descriptors =
            lease.connection.as_ref().map_or_else(Vec::new, |connection| connection.wire.claim().0);
        let (head, incoming) = response.into_parts();
        let closes = head.headers.get(CONNECTION).is_some_and(|value| value == "close");
        if incoming.is_end_stream() && !closes {
            lease.end();
        }
        let download = Download { incoming, lease, closes };
        Self { method, request_id, head, download, descriptors }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The id of the request.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The descriptors that came with it; taken once.
    pub fn descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    pub(super) fn text(&self, name: &HeaderName) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn number(&self, name: &HeaderName) -> Result<u64> {
        self.text(name)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::Broken(format!("the answer has no size: header=`{name}`")))
    }

    /// The digests in `Repr-Digest`.
    pub(super) fn digests(&self) -> Vec<Promise> {
        let field = self.text(&REPR_DIGEST).unwrap_or_default();
        digests::read(field).filter_map(|(_, promise)| promise).collect()
    }

    /// The same answer, unless it refuses.
    ///
    /// # Errors
    /// `Refused`; `Broken` if its body does not come.
    pub async fn accepted(self) -> Result<Self> {
        if self.head.status.is_success() {
            return Ok(self);
        }
        let (method, status, id) = (self.method.clone(), self.head.status, self.request_id.clone());
        let line = self.text(&PROBLEM).map(|text| decoded(text).into_owned());
        let body = self.bytes().await?;
        Err(Error::refused(&method, status, &id, line.as_deref(), &body))
    }

    /// Its whole body, of 64 MiB at most.
    ///
    /// # Errors
    /// `Broken`.
    pub async fn bytes(self) -> Result<Bytes> {
        let mut download = self.download;
        let mut all = Vec::new();
        while let Some(chunk) = download.chunk().await? {
            if all.len() + chunk.len() > LARGEST {
                return Err(Error::Broken("the answer is longer than any should be".to_owned()));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.into())
    }

    /// Its body, as JSON.
    ///
    /// # Errors
    /// `Broken`.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.bytes().await?)
            .map_err(|error| Error::Broken(format!("the daemon's answer cannot be read: {error}")))
    }

    /// Its body, as it comes.
    #[must_use]
    pub fn download(self) -> Download {
        self.download
    }
}

/// A body being read.
#[derive(Debug)]
pub struct Download {
    incoming: Incoming,
    lease: Lease,
    closes: bool,
}

impl Download {
    /// The next bytes, never none of them; `None` at the end.
    ///
    /// # Errors
    /// `Broken`: it ended before it was whole.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| {
                Error::Broken(format!("the daemon stopped in the middle of its answer: {error}"))
            })?;
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                return Ok(Some(bytes));
            }
        }
        if !self.closes {
            self.lease.end();
        }
        Ok(None)
    }
}

/// The bytes of an image.
#[derive(Debug)]
pub struct Got {
    /// The length of the whole image.
    pub size: u64,
    /// Which bytes these are.
    pub range: Range<u64>,
    /// The known digests of the whole image.
    pub digests: Vec<Promise>,
    /// The bytes.
    pub content: Content,
}

/// The bytes of an image, in one of three forms.
#[derive(Debug)]
pub enum Content {
    /// A file that holds the whole image from offset 0; read it by offset, of which only
    /// [`Got::range`] was asked for.
    Descriptor(OwnedFd),
    /// The bytes asked for.
    Stream(Download),
    /// The same, with the holes among them.
    Extents(Extents),
}

impl Got {
    /// `None` if the answer lacks the descriptors that it should come with, or they are of no use: so it is
    /// where something keeps this process and the daemon apart, such as SELinux.
    pub(super) fn new(mut answer: Answer) -> Result<Option<Self>> {
        let digests = answer.digests();
        let part = answer.text(&CONTENT_RANGE).map(|text| {
            range::read_content(text)
                .ok_or_else(|| Error::Broken(format!("the answer has a strange range: `{text}`")))
        });
        let part = part.transpose()?;
        let by_descriptor = answer.text(&BODY) == Some("fd");
        let media_type = answer.text(&CONTENT_TYPE);
        let (inline, through) =
            (media_type == Some(extents::MEDIA_TYPE), media_type == Some(memory::MEDIA_TYPE));
        if by_descriptor || inline || through {
            let size = answer.number(&SIZE)?;
            let range = part.map_or(0..size, |(range, _)| range);
            let content = if by_descriptor {
                let Some([descriptor]) = passed(&mut answer) else { return Ok(None) };
                Content::Descriptor(descriptor)
            } else {
                let records = if inline {
                    Records::Inline(extents::Decoder::new(range.clone()))
                } else {
                    let Some([memory, returned]) = passed(&mut answer) else { return Ok(None) };
                    let through = Through::new(memory, returned, range.clone());
                    let Ok(through) = through else { return Ok(None) };
                    Records::Through(through)
                };
                let download = answer.download();
                Content::Extents(Extents { download, records, came: Bytes::new() })
            };
            return Ok(Some(Self { size, range, digests, content }));
        }
        let (range, size) = match part {
            Some(part) => part,
            None => {
                let size = answer.number(&CONTENT_LENGTH)?;
                (0..size, size)
            }
        };
        Ok(Some(Self { size, range, digests, content: Content::Stream(answer.download()) }))
    }
}

/// The descriptors that an answer has to come with, if it does.
fn passed<const COUNT: usize>(answer: &mut Answer) -> Option<[OwnedFd; COUNT]> {
    answer.descriptors().try_into().ok()
}

/// The extents of an image being read.
#[derive(Debug)]
pub struct Extents {
    download: Download,
    records: Records,
    /// What has come and was not taken.
    came: Bytes,
}

/// The two kinds of records that tell of extents.
#[derive(Debug)]
enum Records {
    /// Their bytes follow them.
    Inline(extents::Decoder),
    /// Their bytes are in memory.
    Through(Through),
}

impl Records {
    fn is_over(&self) -> bool {
        match self {
            Self::Inline(decoder) => decoder.is_over(),
            Self::Through(through) => through.decoder.is_over(),
        }
    }

    /// The next extent, of which `came` has what it has of the body; that is taken from it.
    fn next(&mut self, came: &mut Bytes) -> Result<Option<Extent>> {
        let next = match self {
            Self::Inline(decoder) => decoder.next(came),
            Self::Through(through) => through.next(came),
        };
        next.map_err(|error| Error::Broken(error.to_string()))
    }
}

/// An image that comes through memory.
#[derive(Debug)]
struct Through {
    shared: Arc<Shared>,
    decoder: memory::Decoder,
    /// What a record has told of beside a hole: where in the memory, and how many bytes.
    bytes: Option<(usize, usize)>,
}

/// Memory of the daemon, and where its slots are given back.
#[derive(Debug)]
struct Shared {
    view: View,
    returned: OwnedFd,
}

impl Through {
    fn new(memory: OwnedFd, returned: OwnedFd, range: Range<u64>) -> io::Result<Self> {
        let shared = Arc::new(Shared { view: View::new(memory)?, returned });
        Ok(Self { shared, decoder: memory::Decoder::new(range), bytes: None })
    }

    fn next(&mut self, came: &mut Bytes) -> Result<Option<Extent>, Malformed> {
        loop {
            if let Some((at, len)) = self.bytes.take() {
                let piece = Piece { shared: Arc::clone(&self.shared), at, len };
                return Ok(Some(Extent::Data(Bytes::from_owner(piece))));
            }
            let Some(told) = self.decoder.next(came)? else { return Ok(None) };
            self.bytes = told.bytes;
            if told.hole > 0 {
                return Ok(Some(Extent::Hole(told.hole)));
            }
            if told.bytes.is_none() {
                return Ok(None);
            }
        }
    }
}

/// Some bytes of an image in a slot, which is given back when they are dropped.
struct Piece {
    shared: Arc<Shared>,
    at: usize,
    len: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        // Memory that is shorter has other bytes than a digest tells of, or ends the image early.
        self.shared.view.get(self.at, self.len).unwrap_or_default()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // A daemon that does not hear of it sends no last record.
        let _unheard = rustix::io::write(&self.shared.returned, &[memory::slot(self.at)]);
    }
}

impl Extents {
    /// The next bytes, or the next hole; `None` at the end.
    ///
    /// # Errors
    /// `Broken`: they ended before the image was whole, or are none.
    pub async fn next(&mut self) -> Result<Option<Extent>> {
        loop {
            if let Some(extent) = self.records.next(&mut self.came)? {
                return Ok(Some(extent));
            }
            match self.download.chunk().await? {
                Some(came) => self.came = came,
                None if self.records.is_over() => return Ok(None),
                None => {
                    return Err(Error::Broken(
                        "the daemon's answer ends before the image does".to_owned(),
                    ));
                }
            }
        }
    }
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub size: u64,
    /// Where it is.
    pub location: Option<String>,
    /// Its known digests.
    pub digests: Vec<Promise>,
}

/// The images of a store, as they come.
#[derive(Debug)]
pub struct Listing {
    lines: Download,
    rest: Vec<u8>,
    at: usize,
}

impl Listing {
    pub(super) fn new(lines: Download) -> Self {
        Self { lines, rest: Vec::new(), at: 0 }
    }

    /// The next image; `None` at the end.
    ///
    /// # Errors
    /// `Broken`: the listing ended before it was whole.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let rest = self.rest.get(self.at..).unwrap_or_default();
            if let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
                let entry = serde_json::from_slice(rest.get(..length).unwrap_or_default())
                    .map_err(|error| Error::Broken(format!("a line cannot be read: {error}")))?;
                self.at += length + 1;
                return Ok(Some(entry));
            }
            self.rest.drain(..self.at);
            self.at = 0;
            match self.lines.chunk().await? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None if self.rest.is_empty() => return Ok(None),
                None => return Err(Error::Broken("the listing ends within a line".to_owned())),
            }
        }
    }
}
