//! What an earlier process had of Cinder, or this one could not give back, by the notes of it.

use serde::Deserialize;

use super::{
    attach::{self, Held},
    note::{Making, may_come},
    store::Store,
};
use crate::contract::Result;

/// What a note tells of.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Noted {
    Attachment(Held),
    Volume(Making),
}

/// Ends and removes it.
///
/// # Errors
/// Something could not be ended now; the rest was seen to.
pub(super) async fn end(store: &Store) -> Result<()> {
    let mut failed = None;
    for (name, noted) in store.ledger().left(&store.name).await? {
        let ended = match serde_json::from_str(&noted) {
            Ok(Noted::Attachment(held)) => attach::end_held(store, &held).await,
            Ok(Noted::Volume(making)) => remove_late(store, &making).await,
            Err(error) => {
                tracing::error!(store = store.name, note = name, %error, "a note cannot be read");
                continue;
            }
        };
        match ended {
            Ok(true) => store.ledger().forget(&name).await,
            Ok(false) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Removes a volume that came to be when nobody waited for it any more; whether nothing is to come any more.
async fn remove_late(store: &Store, making: &Making) -> Result<bool> {
    // Before it is looked for: what comes afterwards is found by the next round.
    let awaited = may_come(making.since, store.config.transition);
    let mut found = store.api.volumes_named(&making.name).await?;
    found.retain(|volume| volume.is_begun_by(&making.nonce));
    for volume in &found {
        store.remove(&volume.id).await?;
        tracing::info!(
            store = store.name, volume = %volume.id, name = making.name,
            "a volume that nobody waits for any more is removed"
        );
    }
    Ok(!found.is_empty() || !awaited)
}
