//! Images opened for reading, and as sources of copies.

use std::{fmt, ops::Range};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};

use super::{error::Result, extent::Extent, image::Digests};
use crate::{
    Location,
    kit::{
        file_body::{FileBody, SharedFile},
        window::filled,
    },
};

/// An image opened for reading.
#[derive(Debug)]
pub struct Reader {
    /// The place that was opened, in full, whatever form of location it was asked for by.
    pub at: Location,
    /// What the backend calls the image that was opened, as [`Stat::version`](super::Stat::version) says.
    pub version: Option<String>,
    /// Length of the whole image in bytes.
    pub size: u64,
    /// The bytes that will come.
    pub range: Range<u64>,
    /// The digests of the whole image, if known.
    pub digests: Option<Digests>,
    /// The bytes.
    pub body: Body,
}

impl Reader {
    /// This image as the source of a copy.
    #[must_use]
    pub fn source(&self) -> Source {
        let file = match &self.body {
            Body::File(body) => Some(body.shared()),
            Body::Stream(_) | Body::Extents(_) => None,
        };
        Source {
            at: self.at.clone(),
            version: self.version.clone(),
            size: self.size,
            digests: self.digests.clone(),
            file,
        }
    }
}

/// The bytes of a [`Reader`].
pub enum Body {
    /// As they come. Ends in an error or with the last byte of the range, never short of it.
    Stream(BoxStream<'static, Result<Bytes>>),
    /// The same of a backend that knows where there are holes.
    Extents(BoxStream<'static, Result<Extent>>),
    /// In an open file, which may also be handed to the caller.
    File(FileBody),
}

impl Body {
    /// Whether it may have holes that its backend knows of.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        match self {
            Self::Stream(_) => false,
            Self::Extents(_) => true,
            Self::File(file) => file.has_holes(),
        }
    }

    /// The bytes as they come, whatever the form; holes read as zeros. What is changed meanwhile ends in
    /// an error.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        match self {
            Self::Stream(stream) => stream,
            Self::Extents(extents) => filled(extents).boxed(),
            Self::File(file) => file.into_stream(),
        }
    }

    /// The same, with holes as they are known.
    #[must_use]
    pub fn into_extents(self) -> BoxStream<'static, Result<Extent>> {
        match self {
            Self::Stream(stream) => stream.map_ok(Extent::Data).boxed(),
            Self::Extents(extents) => extents,
            Self::File(file) => file.into_extents(),
        }
    }

    /// The same for a copy, which outlives its source: a backend whose images others can change
    /// believes less.
    #[must_use]
    pub fn into_source(self) -> BoxStream<'static, Result<Extent>> {
        match self {
            Self::File(file) => file.into_source(),
            Self::Stream(_) | Self::Extents(_) => self.into_extents(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream(_) => "Stream",
            Self::Extents(_) => "Extents",
            Self::File(_) => "File",
        })
    }
}

/// What a copy is made from: an image of this store or of another, already opened whole, so that
/// its own store has agreed to the reading. Made by [`Reader::source`].
///
/// It carries the place that it was resolved to, and no name that another store, or the same one a
/// moment later, may resolve otherwise: a backend that looks the place up again compares `version`.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is: in full, whatever form of location it was asked for by.
    pub at: Location,
    /// What its backend calls this very image, where the name in `at` may come to be another's.
    pub version: Option<String>,
    /// Its length in bytes.
    pub size: u64,
    /// Its digests, if known.
    pub digests: Option<Digests>,
    /// Its open file, if it is one.
    pub file: Option<SharedFile>,
}
