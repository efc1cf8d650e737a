//! The contract that every backend keeps.
//!
//! Each clause has a name in square brackets; the conformance suite has a case of that name, and a
//! test compares the two lists. What every backend must do alike (count, digest, deadline, journal,
//! clean-up) is not here: `src/store.rs` does it once, above.

use std::fmt;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::{
    claim::{Claim, Hold},
    copies::Copies,
    error::{Error, Kind, Result},
    image::{Digests, ImageId, Span},
    reader::Reader,
    shares::Shares,
    state::{Capacity, Part, Properties, Site},
    upload::{NewImage, Upload},
    volumes::Volumes,
};
use crate::{Location, kit::window::Window};

/// One configured backend.
///
/// Used as `Arc<dyn Driver>`; every method may be called at any time, many at once.
///
/// * A backend may be opened again while an earlier value still lives and has transfers under way, as a
///   reload does: neither minds the other, and each reads what the other has written.
/// * A backend that breaks is not opened again by its caller, which only probes it, every few seconds:
///   the driver connects anew by itself, with the next call that needs it.
/// * The locations of a backend are those that it gave, and those that glance_store would have given for
///   its images. A location that names no store (a file's path, an old `rbd://ID`) is its own if what
///   it names would be found there; it is judged by the configuration, never by looking.
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

    /// How it likes to be read. `None` leaves it to the daemon's settings.
    fn reads(&self) -> Option<Pieces> {
        None
    }

    /// How it likes to be given an image of `size` bytes, or of a size that is not known. `None` leaves it to
    /// the daemon's settings, which are also the most that it is given.
    fn writes(&self, _size: Option<u64>) -> Option<Pieces> {
        None
    }

    /// Its way to copy images inside itself, if it has one; as long as [`Caps::copy`] says so.
    fn copies(&self) -> Option<&dyn Copies> {
        None
    }

    /// Its way to the volumes of its system, if it has one; as long as [`Caps::volumes`] says so.
    fn volumes(&self) -> Option<&dyn Volumes> {
        None
    }

    /// Its way to let others than its owner reach an image there, if it knows owners.
    fn shares(&self) -> Option<&dyn Shares> {
        None
    }

    /// Proves that images can be read now, and tells the capacity where it knows: of the whole backend,
    /// others' bytes in it too, so that what is available can be written. Whether they can be
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

    /// The places where it keeps images, as the last [`Driver::probe`] found them: a store that has one
    /// in common with another would list and delete the other's images.
    fn sites(&self) -> Vec<Site> {
        Vec::new()
    }

    /// What is good to know of it although it can be used, as the last [`Driver::probe`] found it.
    fn notes(&self) -> Vec<String> {
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

    /// Keeps `digests` with the image, for `stat` to tell [digests-stay-with-the-image].
    ///
    /// # Errors
    /// `NotFound`; a backend that has no place for them succeeds and forgets.
    async fn record(&self, at: &Location, claim: &Claim, digests: &Digests) -> Result<()>;

    /// Removes what an upload of this id that never ended has left; a whole image stays. `claim` has the
    /// nonce of that upload, and `token` is what it gave by [`Upload::token`], if it came so far. No call
    /// that belonged to it is out any more, and until then its id is given to no other
    /// [not-recovered-while-a-call-is-out]. Doing it twice is doing it once
    /// [recovering-twice-is-recovering-once].
    ///
    /// # Errors
    /// The residue is still there; try later.
    async fn recover(&self, claim: &Claim, token: Option<&str>) -> Result<Recovered>;

    /// Removes what an upload of `id` has left, whichever daemon began it, if that is gone: what somebody goes on
    /// with stays, and so does a whole image. `hold` is kept for as long as the call may still remove
    /// something. This process has no upload of that id under way.
    ///
    /// # Errors
    /// `InUse` while whoever makes the image is alive; `NotFound` if what is there is of none of these daemons;
    /// `Unsupported` where no daemon can tell what is another's.
    async fn clear_abandoned(&self, id: &ImageId, _hold: Hold) -> Result<Recovered> {
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "a store of this type cannot tell what another daemon has left: the daemon that began the \
                 upload clears it away when it is started again: id=`{id}`"
            ),
        ))
    }

    /// Whether the whole image at `at` is known to be what the work of `claim` made, where there was no image of
    /// its id when that work began. What a backend cannot tell is false.
    ///
    /// # Errors
    /// It could not be looked at; try later.
    async fn is_made_by(&self, _at: &Location, _claim: &Claim) -> Result<bool> {
        Ok(false)
    }

    /// Every image in the backend, in no order [the-list-is-what-was-put].
    fn list(&self) -> BoxStream<'static, Result<Listed>>;
}

/// What a backend can do. Every flag changes what some caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Caps {
    /// Images can be put.
    pub write: bool,
    /// Callers can delete images. What was written and nobody is to have is removed all the same, so
    /// `delete` has to work wherever `write` is true.
    pub delete: bool,
    /// A read may start anywhere.
    pub seek: bool,
    /// Images can be listed.
    pub list: bool,
    /// [`Copies::copy`] can succeed for some sources.
    pub copy: bool,
    /// Reads can hand out a descriptor.
    pub descriptor: bool,
    /// Images can be made from volumes in the backend's system.
    pub volumes: bool,
    /// Copies may share bytes with their source until `flatten`.
    pub flatten: bool,
}

/// The pieces in which a backend likes an image to be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Bytes of a piece.
    pub chunk: usize,
    /// Pieces under way at a time.
    pub in_flight: usize,
}

/// What is known of an image without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its length in bytes.
    pub size: u64,
    /// Its digests, if the backend has kept them.
    pub digests: Option<Digests>,
    /// What the backend calls this very image: another one that comes to have its name has another
    /// version [a-version-is-of-one-image]. `None` where the backend has no such thing.
    pub version: Option<String>,
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
    /// In what it differs from the images that the backend makes now, in words, if it does.
    pub odd: Option<String>,
}
