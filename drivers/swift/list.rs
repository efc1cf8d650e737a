//! Listing images, and telling them from the segments beside them.

use std::{future::ready, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::sync::OnceCell;

use super::{
    listing::{self, Entry},
    names,
    object::{Made, SEGMENT_TYPE, look},
    store::{Place, Store},
};
use crate::contract::{Error, ImageId, Listed, Result, is_uuid};

/// Objects that are looked at a time.
const LOOKS: usize = 8;

/// Every image of the store. Holds a page of a listing at a time, whatever there is.
pub(super) fn list(store: &Arc<Store>) -> BoxStream<'static, Result<Listed>> {
    let store = Arc::clone(store);
    let containers = {
        let store = Arc::clone(&store);
        stream::once(async move { store.containers().await })
    };
    containers
        .map_ok(|containers| stream::iter(containers.into_iter().map(Ok)))
        .try_flatten()
        .map_ok(move |container| in_container(&store, container))
        .try_flatten()
        .boxed()
}

fn in_container(store: &Arc<Store>, container: String) -> BoxStream<'static, Result<Listed>> {
    let account = match store.account() {
        Ok(account) => account.clone(),
        Err(error) => return stream::once(ready(Err(error))).boxed(),
    };
    let (store, mut before) = (Arc::clone(store), Before::default());
    listing::entries(&account, &container, "")
        .map_ok(move |entry| before.judge(entry))
        .try_filter_map(|candidate| ready(Ok(candidate)))
        .map_ok(move |candidate| {
            let (store, container) = (Arc::clone(&store), container.clone());
            async move { listed(&store, &container, candidate).await }
        })
        .try_buffered(LOOKS)
        .try_filter_map(|listed| ready(Ok(listed)))
        .boxed()
}

/// An object that may be an image.
#[derive(Debug)]
struct Candidate {
    entry: Entry,
    /// Unless this is a manifest: then it is a segment of it.
    segment_of: Option<Empty>,
}

/// An empty object, and what it was found to be when somebody had to know.
#[derive(Clone, Debug)]
struct Empty {
    name: String,
    made: Arc<OnceCell<Option<Made>>>,
}

/// The empty objects whose names the next ones begin with: each may be a manifest. Names come in order, so
/// those of segments follow that of their manifest, and few names begin with each other.
#[derive(Debug, Default)]
struct Before(Vec<Empty>);

impl Before {
    /// What an object may be; `None` if it is a segment for certain.
    fn judge(&mut self, entry: Entry) -> Option<Candidate> {
        if entry.content_type.starts_with(SEGMENT_TYPE) {
            return None;
        }
        self.0.retain(|empty| entry.name.starts_with(&empty.name));
        let image = names::image_of_segment(&entry.name);
        // So glance_store calls its segments, and nobody an image.
        if image.is_some_and(is_uuid) {
            return None;
        }
        let segment_of = image.and_then(|image| self.0.iter().find(|empty| empty.name == image));
        let segment_of = segment_of.cloned();
        if entry.bytes == 0 {
            self.0.push(Empty { name: entry.name.clone(), made: Arc::default() });
        }
        Some(Candidate { entry, segment_of })
    }
}

/// The image that an object is, if it is one.
async fn listed(store: &Store, container: &str, candidate: Candidate) -> Result<Option<Listed>> {
    let Candidate { entry, segment_of } = candidate;
    let Ok(id) = entry.name.parse::<ImageId>() else { return Ok(None) };
    let Some(Place { account, mut at }) = store.place(&id) else { return Ok(None) };
    if let Some(Empty { name, made }) = segment_of {
        // Once for all of its segments: a server takes long over a manifest that has many.
        let looked = made.get_or_try_init(|| async {
            Ok::<_, Error>(look(&account, container, &name).await?.map(|found| found.made))
        });
        if let Some(Made::Dynamic { container: segments, prefix }) = looked.await?
            && segments == container
            && entry.name.starts_with(prefix)
        {
            return Ok(None);
        }
    }
    container.clone_into(&mut at.container);
    if !store.serves(&at) {
        return Ok(None);
    }
    let mut size = entry.bytes;
    if size == 0 {
        let Some(found) = look(&account, container, &entry.name).await? else { return Ok(None) };
        if found.segment {
            return Ok(None);
        }
        size = found.counted(&account).await?;
    }
    Ok(Some(Listed { id, at: crate::Location::Swift(at), size, odd: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, bytes: u64, content_type: &str) -> Entry {
        let (name, content_type) = (name.to_owned(), content_type.to_owned());
        Entry { name, bytes, hash: String::new(), slo_etag: None, content_type }
    }

    #[test]
    fn segments_are_told_from_images() {
        let uuid = "3a1f7b2c-9d00-4e11-8c22-aabbccddeeff";
        let mut before = Before::default();
        let mut judge = |name: &str, bytes, kind: &str| {
            let judged = before.judge(entry(name, bytes, kind));
            judged.map(|candidate| candidate.segment_of.map(|empty| empty.name))
        };
        assert_eq!(judge(uuid, 0, ""), Some(None));
        assert_eq!(judge(&format!("{uuid}-00001"), 7, ""), None);
        assert_eq!(judge("a", 0, ""), Some(None));
        assert_eq!(judge("a-", 0, ""), Some(None));
        assert_eq!(judge("a-00001", 7, ""), Some(Some("a".into())));
        assert_eq!(judge("a-n0nce-00001", 7, SEGMENT_TYPE), None);
        assert_eq!(judge("b-00001", 7, ""), Some(None), "there is no b");
        assert_eq!(judge("a-00001", 7, ""), Some(None), "a was forgotten");
    }
}
