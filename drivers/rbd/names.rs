//! The names of all images in a pool, in little memory whatever their number.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use imaged_ffi::Pool;

use super::{
    failure::failed,
    store::{Store, on_lane},
};
use crate::contract::{Error, Result};

/// Names that a listing holds at a time.
const PAGE: u32 = 512;

/// The names of the images in `pool`, a page at a time.
pub(super) fn names(store: Arc<Store>, pool: Pool) -> impl Stream<Item = Result<String>> {
    let old = asked(Arc::clone(&store), pool.clone(), Pool::old_names);
    let old = async move { Ok(stream::iter(old.await?).map(Ok)) };
    let pages = stream::try_unfold(Some(String::new()), move |after| {
        let (store, pool) = (Arc::clone(&store), pool.clone());
        async move {
            let Some(after) = after else { return Ok(None) };
            let page = asked(store, pool, move |pool| pool.names_after(&after, PAGE)).await?;
            let full = u32::try_from(page.len()).is_ok_and(|count| count >= PAGE);
            let next = page.last().cloned().filter(|_| full);
            Ok::<_, Error>(Some((stream::iter(page).map(Ok), next)))
        }
    });
    stream::once(old).try_flatten().chain(pages.try_flatten())
}

/// What `ask` finds in `pool`, if that is still the store's.
async fn asked(
    store: Arc<Store>,
    pool: Pool,
    ask: impl FnOnce(&Pool) -> imaged_ffi::Result<Vec<String>> + Send + 'static,
) -> Result<Vec<String>> {
    on_lane(&store, &pool, "list images", move |store, pool| {
        // In a pool that is gone there are none.
        let names = ask(pool);
        store.connection.holds(pool)?;
        names.map_err(|errno| failed("list", &store.pool, errno))
    })
    .await
}
