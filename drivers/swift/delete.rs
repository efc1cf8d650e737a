//! Removing an image: its segments, then what makes them one.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde::Deserialize;

use super::{
    account::{Account, Call},
    failure, listing,
    object::{Made, look},
    segments::{remove_object, remove_objects},
    store::{Place, Store},
    upload::remove_container,
};
use crate::{
    contract::{Error, Hold, Kind, Result},
    kit::{
        http::{Method, StatusCode, header::ACCEPT},
        refusals::missing,
        see_through::see_through,
    },
};

/// Bytes of what Swift says of the removal of a static large object, at most.
const ANSWER: usize = 4 << 20;

/// Removes the image at `place`; a call that outlasts its caller's patience keeps `hold`.
pub(super) async fn delete(store: &Arc<Store>, place: Place, hold: Hold) -> Result<()> {
    let store = Arc::clone(store);
    see_through(hold, async move { delete_alone(&store, &place).await }).await
}

async fn delete_alone(store: &Store, place: &Place) -> Result<()> {
    // Of several at a time one finds the image.
    let _alone = store.alone(place).await;
    let Place { account, .. } = place;
    let (container, object) = (place.container(), place.object());
    let gone = || missing(object, &store.name);
    let found = look(account, container, object).await?.filter(|found| !found.segment);
    match found.ok_or_else(gone)?.made {
        Made::Plain => remove(account, container, object).await?,
        // First the segments: as long as the manifest is there, a deletion that was broken off can be
        // begun again, and nothing is left that nobody knows of.
        Made::Dynamic { container: segments, prefix } => {
            remove_segments(account, &segments, &prefix, object).await?;
            remove(account, container, object).await?;
        }
        Made::Static => remove_static(account, container, object).await?,
    }
    if store.config.multi_tenant {
        store.forget_container(container);
        remove_container(place).await;
    }
    Ok(())
}

/// Removes an object that was there. That it is not there now was our own doing: a request whose answer was
/// lost.
async fn remove(account: &Account, container: &str, object: &str) -> Result<()> {
    remove_object(account, container, object).await.map(drop)
}

async fn remove_segments(
    account: &Account,
    container: &str,
    prefix: &str,
    image: &str,
) -> Result<()> {
    // A manifest without a prefix has all of its container, other images too.
    if prefix.is_empty() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the image is made of all objects of a container, which are not removed for it: \
                 image=`{image}` container=`{container}`"
            ),
        ));
    }
    // The segments that glance_store makes are numbered, and another image may be called alike.
    let glances = prefix.strip_suffix('-') == Some(image);
    let is_segment = move |name: &str| {
        let number = name.get(prefix.len()..).unwrap_or_default();
        // A manifest may be among its own segments: it goes last.
        name != image && (!glances || number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let names = listing::entries(account, container, prefix)
        .map_ok(|entry| entry.name)
        .try_filter(|name| std::future::ready(is_segment(name)));
    let removed = remove_objects(account, container, names);
    removed.try_for_each(|_there| std::future::ready(Ok(()))).await
}

/// What Swift says of a removal that it makes itself.
#[derive(Debug, Deserialize)]
struct Removal {
    #[serde(rename = "Response Status")]
    status: String,
    #[serde(rename = "Errors", default)]
    errors: Vec<(String, String)>,
}

async fn remove_static(account: &Account, container: &str, object: &str) -> Result<()> {
    let call = Call::object(Method::DELETE, container, object)
        .query("multipart-manifest", "delete")
        .header(ACCEPT, "application/json")
        .whole(ANSWER);
    let answer = account.send(&call).await?;
    match answer.status {
        StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => Ok(()),
        // The status came before it was tried: what became of it is in the text.
        status if status.is_success() => removed(&answer.text(ANSWER).await?),
        _ => Err(failure::of(answer, "remove an image").await),
    }
}

fn removed(text: &str) -> Result<()> {
    let Ok(Removal { status, mut errors }) = serde_json::from_str(text) else {
        // A server that has nothing to say has done it.
        return if text.trim().is_empty() { Ok(()) } else { Err(unclear(text)) };
    };
    // What was not there needs no removing.
    errors.retain(|(_, status)| !status.starts_with("404"));
    match errors.first() {
        None if status.starts_with("200") || status.starts_with("404") => Ok(()),
        None => Err(unclear(&status)),
        Some((name, status)) => Err(unclear(&format!("{name}: {status}"))),
    }
}

fn unclear(said: &str) -> Error {
    let said: String = said.chars().take(200).collect();
    Error::new(
        Kind::Unavailable,
        format!("the server did not remove all of a large object, try again: said=`{said}`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_swift_says_of_a_removal_is_judged() {
        let said = |status: &str, errors: &str| {
            format!(
                "  \r\n{{\"Response Status\": \"{status}\", \"Errors\": {errors}, \"Number Deleted\": 3}}"
            )
        };
        assert!(removed("").is_ok());
        assert!(removed(&said("200 OK", "[]")).is_ok());
        assert!(removed(&said("400 Bad Request", r#"[["/c/o", "404 Not Found"]]"#)).is_err());
        let failed = removed(&said("400 Bad Request", r#"[["/c/o", "503 Busy"]]"#)).unwrap_err();
        assert!(failed.to_string().contains("/c/o: 503 Busy"), "{failed}");
        assert!(removed("<html>").is_err());
    }
}
