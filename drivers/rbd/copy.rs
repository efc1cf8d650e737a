//! Images made inside the cluster: clones of other images and of volumes, and their flattening.

use std::sync::atomic::{AtomicBool, Ordering};

use imaged_ffi::{Errno, Image, Options, Pool, sys};

use super::{
    cluster::Live,
    failure::{failed, failed_or_done},
    found::taken,
    handles::begin_write,
    image::{cleared, close, failed_at, id_of, is_still, remove, unpublished},
    location::{Location, SNAP, Volume},
    metadata,
    store::Store,
    upload::is_in_store,
};
use crate::{
    contract::{Claim, Copied, Digests, Error, Kind, Progress, Result, Source},
    kit::{lane::Going, refusals::missing},
};

/// How many objects a flatten works on at a time: an option of librbd's, for one image.
const CONCURRENCY: &str = "conf_rbd_concurrent_management_ops";

/// What an image is cloned from.
pub(super) struct Parent {
    pub(super) pool: String,
    pub(super) image: String,
    pub(super) snap: String,
    /// Its internal id, if it is known.
    pub(super) version: Option<String>,
    /// In bytes.
    pub(super) size: u64,
    pub(super) digests: Option<Digests>,
}

/// Makes the image of `claim` as a clone; `None` if the parent's name has come to be another image's.
/// Blocks.
pub(super) fn clone(
    store: &Store,
    (live, pool): (&Live, &Pool),
    claim: &Claim,
    parent: Parent,
    going: &Going,
) -> Result<Option<Copied>> {
    let name = claim.id().as_str();
    let from = open_pool(live, &parent.pool)?;
    let _being_made = begin_write(pool, name);
    make_clone(store, (live, pool), name, &from, &parent)?;
    let other = |errno| cleared(pool, name, failed("clone", name, errno), going);
    // librbd clones by name alone, so that the name is looked at afterwards: what has it still had it
    // before, too.
    if let Some(version) = &parent.version
        && !is_still(&from, &parent.image, version).map_err(other)?
    {
        remove(pool, name, going).map_err(|errno| failed("remove", name, errno).leaving(name))?;
        return Ok(None);
    }
    let (mut snapped, mut size) = (false, 0);
    let digests = parent.digests;
    let at = crate::Location::Rbd(Location::new(&live.fsid, pool.name(), name));
    match publish_clone(store, pool, name, digests.as_ref(), (&mut snapped, &mut size)) {
        Ok(()) => {
            is_in_store(store, pool, name, going)?;
            Ok(Some(Copied { at, size, stored_bytes: 0, digests, shared: parent.size > 0 }))
        }
        Err(errno) => Err(unpublished(pool, name, errno, snapped, at, going)),
    }
}

/// Makes the image `name` as a clone of `parent`, which is in the pool `from`. Blocks.
fn make_clone(
    store: &Store,
    (live, pool): (&Live, &Pool),
    name: &str,
    from: &Pool,
    parent: &Parent,
) -> Result<()> {
    let Parent { image, snap, size, .. } = parent;
    let options = Options {
        // Objects as large as the parent's: librbd refuses smaller ones.
        order: None,
        data_pool: store.config.data_pool.clone(),
        features: Some((store.config.features.unwrap_or(live.features) | CLONABLE) & !MAPPED),
        clone_format: Some(2),
    };
    let made = match size {
        // librbd does not clone what is empty.
        0 => {
            let order = Some(store.config.order);
            pool.create(name, 0, &Options { clone_format: None, order, ..options })
        }
        _ => pool.clone_from((from, image, snap), name, &options),
    };
    made.map_err(|errno| match errno {
        Errno::EXIST => taken(store, pool, name),
        // librbd finds none of format 1 here.
        Errno::NOENT if is_old(from, image) => unclonable(from, image, "it is of format 1"),
        Errno::NOENT => missing(format!("{}/{image}@{snap}", from.name()), &store.name),
        Errno::PERM | Errno::ACCES => {
            may_not(store, from.name(), "be cloned from", "profile rbd-read-only")
        }
        Errno::NOSYS => unclonable(from, image, "it lacks the feature layering"),
        Errno::ROFS => unclonable(
            from,
            image,
            "somebody has locked it, see `rbd lock ls`, or it is being migrated",
        ),
        Errno::INVAL | Errno::OPNOTSUPP => {
            unclonable(from, image, &errno.to_string().to_lowercase())
        }
        errno => failed_or_done("clone", name, errno),
    })
}

/// The refusal of a parent of which no clones can be made: its bytes can be copied.
fn unclonable(pool: &Pool, image: &str, why: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        format!(
            "this image cannot be cloned, use mode stream or auto: {why}: image=`{}/{image}`",
            pool.name()
        ),
    )
}

fn is_old(pool: &Pool, image: &str) -> bool {
    let found = Image::open_unwatched(pool, image, None).and_then(|found| {
        let old = found.is_old_format();
        close(found, image);
        old
    });
    found == Ok(true)
}

/// Gives a clone its mark and digests, then its snapshot; says of it, also when it fails, whether its
/// snapshot was begun, and its size in bytes. Blocks.
fn publish_clone(
    store: &Store,
    pool: &Pool,
    name: &str,
    digests: Option<&Digests>,
    (snapped, size): (&mut bool, &mut u64),
) -> imaged_ffi::Result<()> {
    let image = Image::open(pool, name, None)?;
    let published = (|| {
        let internal = image.id()?;
        metadata::set_upload_mark(&image, &internal, &store.instance)?;
        *size = image.size()?;
        if let Some(digests) = digests {
            metadata::store_digests(&image, &internal, *size, digests)?;
        }
        *snapped = true;
        image.snap_create(SNAP)?;
        image.snap_protect(SNAP)
    })();
    close(image, name);
    published
}

/// Without deep-flatten the snapshot would need the source for ever.
const CLONABLE: u64 = sys::RBD_FEATURE_LAYERING | sys::RBD_FEATURE_DEEP_FLATTEN;

/// Whoever has the snapshot open, or a clone of it, goes by the object map that it had when he opened it.
/// Once the image is flattened, and its source is gone, all that was copied since reads as zeros to him.
const MAPPED: u64 = sys::RBD_FEATURE_OBJECT_MAP | sys::RBD_FEATURE_FAST_DIFF;

/// Makes an image independent of what it was cloned from. Blocks, for as long as its bytes take.
pub(super) fn flatten(
    store: &Store,
    pool: &Pool,
    name: &str,
    progress: &Progress,
    going: &Going,
) -> Result<()> {
    let fail = |errno| match errno {
        Errno::NOENT => missing(name, &store.name),
        errno => failed("flatten", name, errno),
    };
    let image = Image::open(pool, name, None).map_err(fail)?;
    // Read when an image is opened, so this handle does not have it yet.
    let slowed = image
        .metadata_set(CONCURRENCY, &store.config.flatten_objects.to_string())
        .map_err(|errno| failed_at(&image, "flatten", name, errno));
    close(image, name);
    slowed?;
    let image = Image::open(pool, name, None).map_err(fail)?;
    let size = image.size().map_err(fail)?;
    let ended = AtomicBool::new(false);
    let flattened = image.flatten(|done, all| {
        going.report();
        // Objects, of which the last need not be a whole one.
        let bytes = u128::from(size) * u128::from(done) / u128::from(all.max(1));
        let on = progress(u64::try_from(bytes).unwrap_or(size), size);
        ended.fetch_or(!on, Ordering::Relaxed);
        on
    });
    // Clones of this image inherit what is left.
    let _gone = image.metadata_remove(CONCURRENCY);
    close(image, name);
    match flattened {
        // It has no parent any more.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(_) if ended.load(Ordering::Relaxed) => Err(Error::new(
            Kind::Unavailable,
            format!("the flattening was ended before its end: image=`{name}`"),
        )),
        Err(errno) => Err(fail(errno)),
    }
}

/// Fixes what a volume holds. Blocks.
pub(super) fn seal(store: &Store, live: &Live, volume: &Volume, name: &str) -> Result<Source> {
    let pool = open_pool(live, &volume.pool)?;
    let (image, snap, fixed) = match &volume.snap {
        Some(snap) => (open_sealed(store, &pool, &volume.image, snap)?.0, snap.clone(), Ok(())),
        None => {
            let image = Image::open(&pool, &volume.image, None)
                .map_err(|errno| refused(store, volume, errno))?;
            let snap = temporary(store, name);
            let fixed = fix(&image, &snap);
            (image, snap, fixed)
        }
    };
    let looked = fixed.and_then(|()| Ok((image.size()?, id_of(&image, &volume.image)?)));
    let looked = looked.map_err(|errno| {
        let error = unfixed(store, volume, &image, errno);
        // Nobody looks for what a refusal has left, unless it says so.
        match volume.snap.is_none().then(|| unfix(&image, &snap)) {
            Some(Err(_left)) => error.leaving(format!("{volume}@{snap}")),
            _ => error,
        }
    });
    close(image, &volume.image);
    let (size, internal) = looked?;
    let at = Location::of_snap(&live.fsid, pool.name(), &volume.image, &snap);
    let at = crate::Location::Rbd(at);
    Ok(Source { at, version: Some(internal), size, digests: None, file: None })
}

/// Makes the snapshot, and stands at it.
fn fix(image: &Image, snap: &str) -> imaged_ffi::Result<()> {
    match image.snap_create(snap) {
        // An earlier try has left it.
        Err(Errno::EXIST) => {
            image.snap_remove(snap)?;
            image.snap_create(snap)?;
        }
        made => made?,
    }
    image.snap_set(Some(snap))
}

/// Removes the snapshot, if it is there.
fn unfix(image: &Image, snap: &str) -> imaged_ffi::Result<()> {
    // What is not there needs no lock to be removed.
    if !image.snaps()?.iter().any(|there| there.name == snap) {
        return Ok(());
    }
    match image.snap_remove(snap) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Removes what `seal` has made of a volume. Blocks.
pub(super) fn unseal(store: &Store, live: &Live, volume: &Volume, name: &str) -> Result<()> {
    if volume.snap.is_some() {
        return Ok(());
    }
    let pool = match open_pool(live, &volume.pool) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        pool => pool?,
    };
    let image = match Image::open(&pool, &volume.image, None) {
        Err(Errno::NOENT) => return Ok(()),
        image => image.map_err(|errno| refused(store, volume, errno))?,
    };
    let snap = temporary(store, name);
    let left = unfix(&image, &snap)
        .map_err(|errno| unfixed(store, volume, &image, errno).leaving(format!("{volume}@{snap}")));
    close(image, &volume.image);
    left
}

/// Why the snapshot of a volume cannot be made or removed. Blocks.
fn unfixed(store: &Store, volume: &Volume, image: &Image, errno: Errno) -> Error {
    if errno == Errno::ROFS {
        return failed_at(image, "seal or unseal the volume", &volume.to_string(), errno);
    }
    refused(store, volume, errno)
}

/// Opens a snapshot of a volume, for reading, and says whether the handle watches it. Blocks.
pub(super) fn open_sealed(
    store: &Store,
    pool: &Pool,
    image: &str,
    snap: &str,
) -> Result<(Image, bool)> {
    let opened = match Image::open(pool, image, Some(snap)) {
        Err(Errno::PERM | Errno::ACCES | Errno::ROFS) => {
            Image::open_unwatched(pool, image, Some(snap)).map(|image| (image, false))
        }
        opened => opened.map(|image| (image, true)),
    };
    opened.map_err(|errno| match errno {
        Errno::NOENT => missing(format!("{}/{image}@{snap}", pool.name()), &store.name),
        Errno::PERM | Errno::ACCES => {
            may_not(store, pool.name(), "be read", "profile rbd-read-only")
        }
        errno => failed("open", image, errno),
    })
}

/// An open image, if it is the one of this internal id, and not another that has come to have its name.
/// Blocks.
pub(super) fn that_very(
    image: Image,
    (name, shown): (&str, &str),
    version: Option<&str>,
) -> Result<Image> {
    let Some(version) = version else { return Ok(image) };
    let refused = match id_of(&image, name) {
        Ok(internal) if internal == version => return Ok(image),
        Ok(_) => Error::new(
            Kind::NotFound,
            format!("another image has come to have this name meanwhile: image=`{shown}`"),
        ),
        Err(errno) => failed("look at", shown, errno),
    };
    close(image, name);
    Err(refused)
}

fn temporary(store: &Store, name: &str) -> String {
    format!("imaged-{name}-{}", store.instance)
}

pub(super) fn open_pool(live: &Live, name: &str) -> Result<Pool> {
    Pool::open(&live.cluster, name).map_err(|errno| match errno {
        Errno::NOENT => {
            Error::new(Kind::NotFound, format!("the cluster has no such pool: pool=`{name}`"))
        }
        errno => failed("open the pool", name, errno),
    })
}

fn refused(store: &Store, volume: &Volume, errno: Errno) -> Error {
    match errno {
        Errno::NOENT => {
            Error::new(Kind::NotFound, format!("no such volume: rbd_volume=`{volume}`"))
        }
        Errno::PERM | Errno::ACCES => may_not(store, &volume.pool, "be sealed", "profile rbd"),
        errno => failed("seal", &volume.to_string(), errno),
    }
}

/// Which caps are missing, by the command that gives them.
fn may_not(store: &Store, pool: &str, what: &str, profile: &str) -> Error {
    let user = &store.config.user;
    let grant = store.config.grant(&format!(", {profile} pool={pool}"));
    Error::new(
        Kind::BackendDenied,
        format!(
            "this pool cannot {what}: client.{user} lacks `{profile}` on it. A snapshot that you name, \
             POOL/NAME@SNAPSHOT, needs no more than `profile rbd-read-only`. Remedy, beside other caps \
             that the user has: {grant}: pool=`{pool}`"
        ),
    )
}
