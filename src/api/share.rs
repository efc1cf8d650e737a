//! Letting others reach an image at its backend.

use hyper::{Response, body::Incoming};
use imaged_drivers::Result;

use super::{
    answer::no_content, body::Body, call::Call, conditions::Conditions, get, route::Image,
};
use crate::wire::records::Access;

/// Lets these and nobody else reach the image, beside its owner.
pub(super) async fn share(
    call: &Call,
    store: &str,
    image: Image,
    conditions: &Conditions,
    body: &mut Option<Incoming>,
) -> Result<Response<Body>> {
    let store = call.store(store)?;
    let example = r#"{"public": false, "read": [PROJECT], "write": []}"#;
    let Access { public, read, write } = call.json(body, example).await?;
    let access = imaged_drivers::Access { public, read, write };
    store.can_share()?;
    let at = get::to_change(&store, image, conditions).await?;
    store.share(&at, &access).await?;
    Ok(no_content())
}
