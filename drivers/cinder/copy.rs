//! Images made inside Cinder: of its own images, and of volumes.
//!
//! A volume is sealed by a clone, which Cinder's backend makes at one moment; the clone becomes the image by a
//! change of its metadata. So there is one clone, whether the image is made inside or streamed from it.

use std::sync::Arc;

use super::{
    api::NewVolume,
    attach,
    connection::encrypted,
    location,
    store::Store,
    volume::{self, Metadata, Told, Volume},
};
use crate::{
    contract::{Claim, Copied, Digests, Error, Kind, Result, Source},
    kit::{
        point,
        refusals::{already_exists, missing},
        see_through::see_through,
    },
};

/// The name of what a volume is sealed by.
fn seal_name(claim: &Claim) -> String {
    format!("imaged-seal-{}", claim.nonce())
}

/// Makes the image of `claim` from an image of this Cinder, or from a volume that was sealed.
pub(super) async fn copy(
    store: &Arc<Store>,
    from: &Source,
    claim: &Claim,
) -> Result<Option<Copied>> {
    // Whatever store it is of: this one's Cinder knows the volume, or does not.
    let crate::Location::Cinder(at) = &from.at else { return Ok(None) };
    let Some(source) = store.api.volume(at.volume()).await? else { return Ok(None) };
    let sealed = source.metadata.contains_key(volume::SEAL);
    if !sealed && !source.is_whole() {
        return Err(missing(at.volume(), &store.name));
    }
    let (store, size, digests) = (Arc::clone(store), from.size, from.digests.clone());
    let claim = claim.clone();
    let made = see_through(claim.clone(), async move {
        if store.find(claim.id()).await?.is_some() {
            return Err(already_exists(claim.id(), &store.name));
        }
        let owner = store.api.project().await?;
        let told = Told {
            store: &store.name,
            id: claim.id(),
            size: Some(size),
            owner: owner.as_deref(),
            nonce: claim.nonce(),
        };
        let writing = volume::begun(told);
        let whole = volume::whole(told, source.head().map(str::to_owned), digests.as_ref());
        let made = if sealed {
            turn(&store, &source, &claim, &writing, &whole).await?
        } else {
            clone(&store, &source, &claim, &writing, &whole).await?
        };
        Ok((store.location(&made), digests))
    });
    let (at, digests): (_, Option<Digests>) = made.await?;
    Ok(Some(Copied { at, size, stored_bytes: size, digests, shared: false }))
}

/// Has a sealed clone become the image.
async fn turn(
    store: &Store,
    clone: &Volume,
    claim: &Claim,
    writing: &Metadata,
    whole: &Metadata,
) -> Result<location::Volume> {
    // It has the image's name before it is the image's, so that whoever clears it away finds it.
    store.api.rename(&clone.id, &volume::name(claim.id())).await?;
    point::pass("cinder-renamed");
    // From here on it is no seal any more: it goes with the image.
    store.publish(&clone.id, writing).await?;
    point::pass("cinder-turning");
    let named = async {
        store.api.set_read_only(&clone.id).await?;
        store.publish(&clone.id, whole).await?;
        point::pass("cinder-turned");
        Ok(())
    };
    finish(store, &clone.id, named.await).await
}

/// Has Cinder clone an image.
async fn clone(
    store: &Store,
    source: &Volume,
    claim: &Claim,
    writing: &Metadata,
    whole: &Metadata,
) -> Result<location::Volume> {
    let new = NewVolume {
        name: &volume::name(claim.id()),
        gib: source.gib,
        // As its source: a backend clones within itself.
        volume_type: None,
        source: Some(&source.id),
        metadata: writing,
    };
    // Some backends clone only what nobody has attached; a reader that is there may go on, for all we know.
    let _alone = attach::evict(&source.id).await;
    let made = store.make(&new, claim).await?;
    let published = async {
        store.api.set_read_only(&made.id).await?;
        store.publish(&made.id, whole).await
    };
    finish(store, &made.id, published.await).await
}

/// The volume, or the failure after which it is removed.
async fn finish(
    store: &Store,
    id: &location::Volume,
    done: Result<()>,
) -> Result<location::Volume> {
    match done {
        Ok(()) => Ok(id.clone()),
        // Whether it is whole is not known.
        Err(error) if error.kind() == Kind::Timeout => Err(error),
        Err(error) => Err(store.undone(id, error).await),
    }
}

/// Clones a volume.
pub(super) async fn seal(
    store: &Arc<Store>,
    volume: &location::Volume,
    claim: &Claim,
) -> Result<Source> {
    let (store, volume, claim) = (Arc::clone(store), volume.clone(), claim.clone());
    see_through(claim.clone(), async move {
        let found = store.api.volume(&volume).await?.ok_or_else(|| no_volume(&volume))?;
        if found.encrypted {
            return Err(encrypted(&volume));
        }
        if !matches!(found.status.as_str(), "available" | "in-use") {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "Cinder clones a volume that is available or in use, try again later: \
                     cinder_volume=`{volume}` status=`{}`",
                    found.status
                ),
            ));
        }
        // Sealing twice is sealing once more: what the first time left goes.
        remove_seals(&store, &claim).await?;
        let _alone = attach::evict(&volume).await;
        let metadata = volume::sealing(claim.id(), claim.nonce());
        let new = NewVolume {
            name: &seal_name(&claim),
            gib: found.gib,
            volume_type: None,
            source: Some(&volume),
            metadata: &metadata,
        };
        let sealed = store.make(&new, &claim).await?;
        Ok(Source {
            at: store.location(&sealed.id),
            version: Some(sealed.id.to_string()),
            size: sealed.bytes(),
            digests: None,
            file: None,
        })
    })
    .await
}

/// Removes what [`seal`] made, unless it has become an image.
pub(super) async fn unseal(store: &Arc<Store>, claim: &Claim) -> Result<()> {
    let (store, claim) = (Arc::clone(store), claim.clone());
    see_through(claim.clone(), async move { remove_seals(&store, &claim).await }).await
}

async fn remove_seals(store: &Store, claim: &Claim) -> Result<()> {
    for name in [seal_name(claim), volume::name(claim.id())] {
        for found in store.api.volumes_named(&name).await? {
            if found.metadata.get(volume::SEAL).map(String::as_str) == Some(claim.nonce()) {
                store.remove(&found.id).await?;
            }
        }
    }
    Ok(())
}

fn no_volume(volume: &location::Volume) -> Error {
    Error::new(
        Kind::NotFound,
        format!(
            "there is no such volume, or the store's user may not see it: cinder_volume=`{volume}`"
        ),
    )
}
