//! The contract that every backend keeps.
//!
//! Each clause has a name in square brackets; the conformance suite has a case of that name, and a
//! test compares the two lists. What every backend must do alike (count, digest, deadline, journal,
//! clean-up) is not here: `src/store.rs` does it once, above.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::{
    claim::{Claim, Hold},
    error::{Error, Kind, Result},
    image::{Digests, ImageId, Span},
    reader::{Reader, Source},
    state::{Capacity, Part, Properties},
    upload::{NewImage, Upload},
};
use crate::{Location, Volume, kit::window::Window};

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

    /// Begins an upload. Two of one id are never begun at a time by one process: whoever holds the claim
    /// is alone. Nothing can be read at the new location until `commit` returns [invisible-until-commit].
    /// Uploads do not see each other [uploads-do-not-mix].
    ///
    /// # Errors
    /// `Exists` if the id is taken, here or at `commit` [id-is-taken-once]; `Full` if its size cannot
    /// fit.
    async fn create(&self, image: &NewImage) -> Result<Box<dyn Upload>>;

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

    /// Removes `at`. A call that outlasts its caller's patience keeps `hold`, for as long as it may still
    /// remove what is there.
    ///
    /// # Errors
    /// `NotFound`, also the second time [deleting-twice-is-not-found]; `InUse` if clones hold it or
    /// somebody has locked it, and then it is as it was.
    async fn delete(&self, at: &Location, hold: Hold) -> Result<()>;

    /// Makes the image of `claim` from `from` inside the backend; no byte passes through this process.
    /// The copy lives on when its source is gone [a-copy-is-independent]. `None`: this pair
    /// cannot, the caller streams instead.
    ///
    /// # Errors
    /// As `create` and `open`.
    async fn copy(&self, _from: Source, _claim: &Claim) -> Result<Option<Copied>> {
        Ok(None)
    }

    /// Makes the image hold all of its bytes itself, where it still shares some with what it was
    /// copied from; no byte changes. Does nothing where it shares none.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` if `progress` ended it: it can be begun again.
    async fn flatten(&self, _at: &Location, _claim: &Claim, _progress: Progress) -> Result<()> {
        Ok(())
    }

    /// The volume that `at` names, if it is one of this backend's system and no image of the store.
    fn volume(&self, _at: &Location) -> Option<Volume> {
        None
    }

    /// Fixes what `volume` holds now, so that the image of `claim` can be made from it, by `copy` or
    /// from the bytes of `open_sealed`. Doing it twice is doing it once more.
    ///
    /// # Errors
    /// `NotFound` if there is no such volume; `BackendDenied` if its system does not let us.
    async fn seal(&self, volume: &Volume, _claim: &Claim) -> Result<Source> {
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

    /// Removes what `seal` made for the id of `claim`, whether or not it did. Copies live on.
    ///
    /// # Errors
    /// It is still there; try later.
    async fn unseal(&self, _volume: &Volume, _claim: &Claim) -> Result<()> {
        Ok(())
    }

    /// Keeps `digests` with the image, for `stat` to tell [digests-stay-with-the-image].
    ///
    /// # Errors
    /// `NotFound`; a backend that has no place for them succeeds and forgets.
    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()>;

    /// Removes what an upload of this id that never ended has left; a whole image stays. `claim` has the
    /// nonce of that upload, and `token` is what it gave by [`Upload::token`], if it came so far. No call
    /// that belonged to it is out any more. Doing it twice is doing it once
    /// [recovering-twice-is-recovering-once].
    ///
    /// # Errors
    /// The residue is still there; try later.
    async fn recover(&self, claim: &Claim, token: Option<&str>) -> Result<Recovered>;

    /// Every image in the backend, in no order [the-list-is-what-was-put].
    fn list(&self) -> BoxStream<'static, Result<Listed>>;
}

/// Is told how much of a long call is done and of how much, in whatever counts there; answers whether
/// it is to go on.
pub type Progress = Arc<dyn Fn(u64, u64) -> bool + Send + Sync>;

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

/// What is known of an image without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub size: u64,
    /// Its digests, if the backend has kept them.
    pub digests: Option<Digests>,
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
