//! Uploads that other daemons have begun and will not end: their node is gone, and nobody else has a journal that
//! names them. They keep an id and space until somebody clears them away, by hand or after a time.
//!
//! **The rule: what has a living owner is not touched.** Who makes an image writes its connection's number into
//! the image's metadata, and watches the image for as long as that is open.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use imaged_ffi::{Errno, Image, Pool};

use super::{
    delete::{Refused, in_use, into_trash, remove_residue},
    failure::failed,
    found::{Found, find},
    image::{close, id_of, is_still},
    names::names,
    store::{Store, on_lane, on_long_lane},
};
use crate::{
    contract::{Error, Hold, Kind, Recovered, Result},
    kit::lane::Going,
};

/// A pool is looked through at least so often.
const ROUND: Duration = Duration::from_hours(6);
/// How often in the time after which something counts as abandoned.
const LOOKS: u32 = 4;

/// Clears away what an upload of `name` has left; `due`: only the one of this internal id, which nobody has asked
/// for.
pub(super) async fn clear(
    store: &Arc<Store>,
    name: &str,
    hold: Option<Hold>,
    due: Option<String>,
) -> Result<Recovered> {
    let (_, pool) = store.connected().await?;
    let deleting = store.handles.begin_delete(name, store.patience).await?;
    let name = name.to_owned();
    on_long_lane(store, &pool, "clear away an abandoned upload", move |store, pool, going| {
        let _until_done = (deleting, hold);
        store.connection.holds_now(pool)?;
        clear_now(store, pool, &name, due.as_deref(), going)
    })
    .await
}

/// Blocks.
fn clear_now(
    store: &Store,
    pool: &Pool,
    name: &str,
    due: Option<&str>,
    going: &Going,
) -> Result<Recovered> {
    let fail = |errno| failed("look at", name, errno);
    let image = match Image::open(pool, name, None) {
        // What a removal that was broken off has left.
        Err(Errno::NOENT) if due.is_none() => return remove_residue(pool, name, going),
        Err(Errno::NOENT) => return Ok(Recovered::Nothing),
        image => image.map_err(fail)?,
    };
    let is_due = due.is_none_or(|due| image.id().is_ok_and(|internal| internal == due));
    if !is_due {
        // Another has come to have the name.
        close(image, name);
        return Ok(Recovered::Nothing);
    }
    let refused = match find(store, &image, name, true).map_err(fail) {
        Ok(Found::Abandoned) => None,
        Ok(Found::Empty | Found::Own) if due.is_none() => None,
        Ok(Found::Whole) => Some(Ok(Recovered::Whole)),
        Ok(Found::Alive(address)) => {
            Some(Err(in_use(name, &format!("it is being made by who has it open at {address}"))))
        }
        Ok(Found::Foreign | Found::Empty | Found::Own) => Some(Err(Error::new(
            Kind::NotFound,
            format!(
                "no upload of a daemon's, though there is an image of this name: it is removed as an image is, by \
                 its location: image=`{name}` store=`{}`",
                store.name
            ),
        ))),
        Err(error) => Some(Err(error)),
    };
    if let Some(refused) = refused {
        close(image, name);
        return refused;
    }
    into_trash(store, image, name, false, going).map_err(Refused::into_error)?;
    Ok(Recovered::Removed(vec![format!("image {name} in pool {}", pool.name())]))
}

/// Looks through the pool if it is time for that, and clears away what has been abandoned for long enough.
///
/// # Errors
/// The pool cannot be looked at.
pub(super) async fn look_around(store: &Arc<Store>) -> Result<()> {
    let Some(after) = store.config.recover_after else { return Ok(()) };
    let now = Instant::now();
    {
        let mut all = store.abandoned.lock();
        let pause = (after / LOOKS).min(ROUND);
        // A start is no time for it: then all is looked at anyway.
        if now.duration_since(*all.looked.get_or_insert(now)) < pause {
            return Ok(());
        }
        all.looked = Some(now);
    }
    let (_, pool) = store.connected().await?;
    let mut found = Vec::new();
    let mut names = std::pin::pin!(names(Arc::clone(store), pool.clone()));
    while let Some(name) = names.try_next().await? {
        let looked = name.clone();
        let look = on_lane(store, &pool, "look for abandoned uploads", move |store, pool| {
            is_abandoned(store, pool, &looked).map_err(|errno| failed("look at", &looked, errno))
        });
        match look.await {
            Ok(internal) => found.extend(internal.map(|internal| (name, internal))),
            Err(error) => {
                let error = error.chain();
                tracing::debug!(store = store.name, image = name, error, "not looked at now");
            }
        }
    }
    let due: Vec<_> = {
        let mut all = store.abandoned.lock();
        // What somebody has taken up again meanwhile begins anew.
        all.since.retain(|known, _| found.contains(known));
        for known in found {
            all.since.entry(known).or_insert(now);
        }
        let is_due = |(_, since): &(_, &Instant)| now.duration_since(**since) >= after;
        all.since.iter().filter(is_due).map(|(known, _)| known.clone()).collect()
    };
    for (name, internal) in due {
        match clear(store, &name, None, Some(internal)).await {
            Ok(Recovered::Removed(_)) => tracing::warn!(
                store = store.name,
                image = name,
                "an upload of a daemon that is gone is cleared away"
            ),
            Ok(Recovered::Nothing | Recovered::Whole) => {}
            Err(error) => tracing::warn!(
                store = store.name,
                image = name,
                error = error.chain(),
                "an upload of a daemon that is gone cannot be cleared away yet"
            ),
        }
    }
    Ok(())
}

/// The internal id of an image that another daemon has abandoned. Blocks.
fn is_abandoned(store: &Store, pool: &Pool, name: &str) -> imaged_ffi::Result<Option<String>> {
    let known = store.seen.lock().get(name);
    if let Some(seen) = known
        && is_still(pool, name, &seen.internal)?
    {
        return Ok(None);
    }
    let image = match Image::open_unwatched(pool, name, None) {
        // Gone meanwhile, or half removed.
        Err(Errno::NOENT) => return Ok(None),
        image => image?,
    };
    let found = find(store, &image, name, false)
        .and_then(|found| Ok((found == Found::Abandoned).then_some(id_of(&image, name)?)));
    close(image, name);
    found
}
