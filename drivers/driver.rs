//! The contract that every backend keeps.
//!
//! Each clause has a name in square brackets; the conformance suite has a case of that name, and a
//! test compares the two lists. What every backend must do alike (count, digest, deadline, journal,
//! clean-up) is not here: `src/store.rs` does it once, above.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{Error, Kind, Location, Result, Volume, file, window::Window};

/// One configured backend.
///
/// Used as `Arc<dyn Driver>`; every method may be called at any time, many at once.
#[async_trait]
pub trait Driver: fmt::Debug + Send + Sync + 'static {
    /// What this backend can do; constant for the life of the value. Where a flag says no, the
    /// store above refuses with `Unsupported`, and the driver is not called
    /// [a-missing-capability-is-unsupported].
    fn caps(&self) -> Caps;

    /// Whether this backend could open `at`, judged by the name alone, without looking whether anything
    /// is there: true of every location that it gave, false of those of other backends
    /// [a-location-it-gave-is-one-it-serves]. Asks no server and no disk, so it answers at once.
    fn serves(&self, _at: &Location) -> bool {
        false
    }

    /// Facts that Glance shows in `GET /v2/info/stores/detail`, by glance_store's names.
    fn properties(&self) -> Properties {
        Properties::new()
    }

    /// What the backend adds to an image's location metadata beside the store's name.
    fn metadata(&self, _at: &Location) -> Properties {
        Properties::new()
    }

    /// Threads that are busy for this store now.
    fn busy(&self) -> usize {
        0
    }

    /// How it likes to be read: bytes of a piece, and how many pieces in flight. `None` leaves it to
    /// the daemon's settings.
    fn reads(&self) -> Option<(usize, usize)> {
        None
    }

    /// Proves that images can be read now, and tells the capacity where it knows. Whether they can be
    /// written too is for [`Driver::reading_only`] to tell.
    ///
    /// # Errors
    /// The reason that no image can be read, with the remedy.
    async fn probe(&self) -> Result<Capacity>;

    /// What can be done with each part of a backend that has several, as the last [`Driver::probe`]
    /// found it. Where some parts cannot be read, only what lies in the others is told: no image is
    /// called missing while the part that may hold it is down.
    fn parts(&self) -> Vec<Part> {
        Vec::new()
    }

    /// Why nothing can be written or deleted now although images can be read, as the last
    /// [`Driver::probe`] found it; `None` while both can be done.
    fn reading_only(&self) -> Option<String> {
        None
    }

    /// Brings to their end the deletes that had to wait, or were broken off: called from time to time,
    /// whether or not there are any.
    ///
    /// # Errors
    /// They could not be looked at; what one of them says is only logged.
    async fn purge(&self) -> Result<()> {
        Ok(())
    }

    /// Where the image `id` is if there is one, when that follows from the id alone: who asks for the
    /// image next need not look twice. `None` if it has to be looked for, by [`Driver::locate`].
    fn place(&self, _id: &ImageId) -> Option<Location> {
        None
    }

    /// Where the image `id` is, without reading it.
    ///
    /// # Errors
    /// `NotFound` if there is none [a-missing-image-is-not-found].
    async fn locate(&self, id: &ImageId) -> Result<Location>;

    /// Begins an upload of exactly `size` bytes, or of an unknown number (`None`, never 0).
    /// Nothing can be read at the new location until `commit` returns [invisible-until-commit].
    /// Uploads do not see each other [uploads-do-not-mix].
    ///
    /// # Errors
    /// `Exists` if `id` is taken, here or at `commit` [id-is-taken-once]; `Full` if `size` cannot
    /// fit.
    async fn create(&self, id: &ImageId, size: Option<u64>) -> Result<Box<dyn Upload>>;

    /// Opens `at` for reading `span` [spans-are-slices]. Bytes that are read later come through
    /// `window`. A delete during the read is refused as `InUse`, or the read yields the image's own
    /// bytes or an error, never other bytes [delete-during-a-read].
    ///
    /// # Errors
    /// `NotFound`; `Range` if the span starts past the end [past-the-end-is-range]; `Invalid` if
    /// `at` is not one of this backend's locations [a-foreign-location-is-invalid].
    async fn open(&self, at: &Location, span: Span, window: Window) -> Result<Reader>;

    /// Looks at `at` without reading it.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a foreign location.
    async fn stat(&self, at: &Location) -> Result<Stat>;

    /// Removes `at`.
    ///
    /// # Errors
    /// `NotFound`, also the second time [deleting-twice-is-not-found]; `InUse` if clones hold it or
    /// somebody has locked it, and then it is as it was.
    async fn delete(&self, at: &Location) -> Result<()>;

    /// Makes the image `id` from `from` inside the backend; no byte passes through this process.
    /// The copy lives on when its source is gone [a-copy-is-independent]. `None`: this pair
    /// cannot, the caller streams instead.
    ///
    /// # Errors
    /// As `create` and `open`.
    async fn copy(&self, _from: Source, _id: &ImageId) -> Result<Option<Copied>> {
        Ok(None)
    }

    /// Makes the image hold all of its bytes itself, where it still shares some with what it was
    /// copied from; no byte changes. Does nothing where it shares none.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` if `progress` ended it: it can be begun again.
    async fn flatten(&self, _at: &Location, _progress: Progress) -> Result<()> {
        Ok(())
    }

    /// The volume that `at` names, if it is one of this backend's system and no image of the store.
    fn volume(&self, _at: &Location) -> Option<Volume> {
        None
    }

    /// Fixes what `volume` holds now, so that an image of this `id` can be made from it, by `copy` or
    /// from the bytes of `open_sealed`. Doing it twice is doing it once more.
    ///
    /// # Errors
    /// `NotFound` if there is no such volume; `BackendDenied` if its system does not let us.
    async fn seal(&self, volume: &Volume, _id: &ImageId) -> Result<Source> {
        Err(Error::new(
            Kind::Unsupported,
            format!("this store's backend has no volumes: volume=`{volume}`"),
        ))
    }

    /// Opens what `seal` gave; bytes that are read later come through `window`.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    async fn open_sealed(&self, sealed: &Source, _window: Window) -> Result<Reader> {
        Err(Error::new(
            Kind::Unsupported,
            format!("this store's backend has no volumes: location=`{}`", sealed.at),
        ))
    }

    /// Removes what `seal` made, whether or not it did. Copies live on.
    ///
    /// # Errors
    /// It is still there; try later.
    async fn unseal(&self, _volume: &Volume, _id: &ImageId) -> Result<()> {
        Ok(())
    }

    /// Keeps `digests` with the image, for `stat` to tell [digests-stay-with-the-image].
    ///
    /// # Errors
    /// `NotFound`; a backend that has no place for them succeeds and forgets.
    async fn record(&self, at: &Location, digests: &Digests) -> Result<()>;

    /// Removes what an upload of `id` that never ended has left; a whole image stays. Doing it
    /// twice is doing it once [recovering-twice-is-recovering-once].
    ///
    /// # Errors
    /// The residue is still there; try later.
    async fn recover(&self, id: &ImageId) -> Result<Recovered>;

    /// Every image in the backend, in no order [the-list-is-what-was-put].
    fn list(&self) -> BoxStream<'static, Result<Listed>>;
}

/// An image being written. Ends by value: `commit` or `abort`, once. Dropping it without either is
/// a crash as far as the backend is concerned: `recover` finds what it left.
#[async_trait]
pub trait Upload: Send + fmt::Debug {
    /// Appends `chunk`, never empty. Returns when there is room for more, not when the bytes are
    /// durable: an error may belong to an earlier chunk, and leaves only `abort`. Chunks are
    /// [`Window::chunk`] bytes but for the last one.
    ///
    /// # Errors
    /// `Full`, `Unavailable`, ...; abort is the only move left.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;

    /// Where the image will be. Names something only once `commit` has returned.
    fn at(&self) -> &Location;

    /// Makes the image durable, then visible, in that order, and keeps `digests` with it.
    /// Every byte reads back as it was written [what-is-read-is-what-was-written].
    ///
    /// # Errors
    /// Nothing is visible and nothing is left, except after `Timeout`, when only `stat` can tell.
    async fn commit(self: Box<Self>, digests: &Digests) -> Result<Committed>;

    /// Removes what was written; the id is free again [an-aborted-upload-leaves-nothing].
    ///
    /// # Errors
    /// Something was left; the error says what.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// Is told how much of a long call is done and of how much, in whatever counts there; answers whether
/// it is to go on.
pub type Progress = Arc<dyn Fn(u64, u64) -> bool + Send + Sync>;

/// A part of a backend, such as one of its directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is, for people: its kind and its name.
    pub what: String,
    /// What can be done with it.
    pub usable: Usable,
}

/// What can be done with a part of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usable {
    /// Everything that it is for.
    Up,
    /// Images in it can be read, and nothing written, for this reason.
    ReadingOnly(String),
    /// Nothing, for this reason.
    Down(String),
}

impl Usable {
    /// The state in a word or two.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::ReadingOnly(_) => "reading only",
            Self::Down(_) => "down",
        }
    }

    /// Why it is not up.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Up => None,
            Self::ReadingOnly(reason) | Self::Down(reason) => Some(reason),
        }
    }
}

/// Facts by name, as JSON values.
pub type Properties = BTreeMap<String, serde_json::Value>;

/// What a backend can do. Every flag changes what some caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Caps {
    /// Images can be put.
    pub write: bool,
    /// Images can be deleted.
    pub delete: bool,
    /// A read may start anywhere.
    pub seek: bool,
    /// Images can be listed.
    pub list: bool,
    /// `copy` can succeed for some sources.
    pub copy: bool,
    /// Reads can hand out a descriptor.
    pub descriptor: bool,
    /// Images can be made from volumes in the backend's system.
    pub volumes: bool,
    /// Copies may share bytes with their source until `flatten`.
    pub flatten: bool,
}

/// The name of an image: one path segment, 1 to 255 bytes of `A-Z a-z 0-9 . _ -`, not starting
/// with a dot. Glance uses UUIDs.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(Arc<str>);

impl ImageId {
    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ImageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 255 || text.starts_with('.') || !text.bytes().all(plain)
        {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "an image id is 1 to 255 of A-Z a-z 0-9 . _ - and does not start with a dot: \
                     id=`{}`",
                    text.chars().take(300).collect::<String>()
                ),
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which bytes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All of them.
    All,
    /// From this offset to the end.
    From(u64),
    /// From the first offset up to, not including, the second; an end past the image is its end.
    Part(u64, u64),
    /// The last so many.
    Last(u64),
}

impl Span {
    /// The offsets this span means in an image of `size` bytes.
    ///
    /// # Errors
    /// `Range` if it starts past the end or holds no byte, unless it is `All`.
    pub fn of(self, size: u64) -> Result<Range<u64>> {
        let range = match self {
            Self::All => return Ok(0..size),
            Self::From(start) => start..size,
            Self::Part(start, end) => start..end.min(size),
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.is_empty() {
            return Err(Error::new(
                Kind::Range,
                format!("the range is outside the image: size=`{size}`"),
            ));
        }
        Ok(range)
    }
}

/// What is known of an image without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub size: u64,
    /// Its digests, if the backend has kept them.
    pub digests: Option<Digests>,
}

/// The digests of an image, in lowercase hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digests {
    /// Its md5: Glance's `checksum`.
    pub checksum: String,
    /// The algorithm of `hash_value`, by its name in Python's hashlib.
    pub hash_algo: String,
    /// Its digest by `hash_algo`: Glance's multihash.
    pub hash_value: String,
}

/// An image opened for reading.
#[derive(Debug)]
pub struct Reader {
    /// The place that was opened, in full, whatever form of location it was asked for by.
    pub at: Location,
    /// What the backend calls the image that was opened, where the name in `at` may come to be another's.
    pub identity: Option<String>,
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
            Body::Stream(_) => None,
        };
        Source {
            at: self.at.clone(),
            identity: self.identity.clone(),
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
    /// In an open file, which may also be handed to the caller.
    File(file::Body),
}

impl Body {
    /// The bytes as they come, whatever the form. What is changed meanwhile ends in an error.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        match self {
            Self::Stream(stream) => stream,
            Self::File(file) => file.into_stream(),
        }
    }

    /// The same for a copy, which outlives its source: a backend whose images others can change
    /// believes less.
    #[must_use]
    pub fn into_source(self) -> BoxStream<'static, Result<Bytes>> {
        match self {
            Self::Stream(stream) => stream,
            Self::File(file) => file.into_source(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream(_) => "Stream",
            Self::File(_) => "File",
        })
    }
}

/// What a copy is made from: an image of this store or of another, already opened whole, so that
/// its own store has agreed to the reading. Made by [`Reader::source`].
///
/// It carries the place that it was resolved to, and no name that another store, or the same one a
/// moment later, may resolve otherwise: a backend that looks the place up again compares `identity`.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is: in full, whatever form of location it was asked for by.
    pub at: Location,
    /// What its backend calls this very image, where the name in `at` may come to be another's.
    pub identity: Option<String>,
    /// Its length in bytes.
    pub size: u64,
    /// Its digests, if known.
    pub digests: Option<Digests>,
    /// Its open file, if it is one.
    pub file: Option<file::Shared>,
}

/// What `commit` made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Bytes that take space after zeros were skipped.
    pub stored_bytes: u64,
}

/// What `copy` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Where the copy is.
    pub at: Location,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes that take space, not counting those shared with the source.
    pub stored_bytes: u64,
    /// Its digests, if the source's were known.
    pub digests: Option<Digests>,
    /// Whether it shares bytes with its source until `flatten`.
    pub shared: bool,
}

/// What `recover` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing was there.
    Nothing,
    /// A whole image is there, and stays.
    Whole,
    /// These things were there and are gone.
    Removed(Vec<String>),
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The image's name in the backend.
    pub id: ImageId,
    /// Where it is.
    pub at: Location,
    /// Its length in bytes.
    pub size: u64,
}

/// Space in a backend, in bytes; `None` where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Capacity {
    /// All of it.
    pub total: Option<u64>,
    /// Taken.
    pub used: Option<u64>,
    /// Free for images.
    pub available: Option<u64>,
    /// Deleted images that clones still need, by their length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trash: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_path_segments() {
        for good in ["a", "71c675ab-d94f-49cd-a114-e12490b328d9", "x.y_Z-9"] {
            assert_eq!(good.parse::<ImageId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "é", "a\0", &"x".repeat(256)] {
            assert_eq!(bad.parse::<ImageId>().unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn spans_resolve_against_the_size() {
        assert_eq!(Span::All.of(0).unwrap(), 0..0);
        assert_eq!(Span::From(3).of(10).unwrap(), 3..10);
        assert_eq!(Span::Part(3, 99).of(10).unwrap(), 3..10);
        assert_eq!(Span::Last(3).of(10).unwrap(), 7..10);
        assert_eq!(Span::Last(30).of(10).unwrap(), 0..10);
        for outside in [Span::From(10), Span::Part(10, 11), Span::Last(0)] {
            assert_eq!(outside.of(10).unwrap_err().kind(), Kind::Range, "{outside:?}");
        }
    }
}
