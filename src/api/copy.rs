//! Making an image from a source that is there already.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::{Response, StatusCode, body::Incoming};
use imaged_drivers::{Error, ImageId, Kind, Location, Result};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{Call, body::Body, json};
use crate::{
    config::Role,
    digest::Algo,
    jobs::Ticket,
    socket::Peer,
    store::{Mode, Put, Store},
};

/// The largest body of a request that is not an image, in bytes.
const LARGEST: usize = 64 << 10;

/// The body of `POST /v1/stores/{store}/images/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// What to make the image from.
    pub source: Origin,
    /// How.
    #[serde(default)]
    pub mode: Mode,
    /// The multihash algorithm.
    #[serde(default)]
    pub hash_algo: Option<String>,
}

/// A source: exactly one of the three.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// The location of an image.
    pub location: Option<String>,
    /// The store it is in; without it, the store whose type fits and that has it.
    pub store: Option<String>,
    /// A volume in Ceph, `pool/name` or `pool/name@snapshot`.
    pub rbd_volume: Option<String>,
    /// A Cinder volume.
    pub cinder_volume: Option<String>,
}

pub(super) async fn copy(
    call: &Call,
    store: &str,
    id: ImageId,
    body: &mut Option<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>> {
    let store = call.store(store)?;
    let wanted = read(body).await?;
    let algo = match &wanted.hash_algo {
        Some(name) => name.parse()?,
        None => super::default_algo(call)?,
    };
    let (source, from) = find(call, &store, &wanted.source, peer).await?;
    if call.daemon.shared.closing.is_cancelled() {
        return Err(Error::new(Kind::Unavailable, "the daemon is stopping; try again"));
    }
    let job = call.daemon.shared.jobs.begin("copy", &call.request, store.name(), id.as_str(), None);
    let put = new_put(call, id, algo, Some(job));
    let copied = store.copy(put, source, from, wanted.mode);
    let receipt = super::put::joined(call.daemon.shared.tasks.spawn(copied).await)?;
    json(StatusCode::CREATED, &receipt)
}

fn new_put(call: &Call, id: ImageId, algo: Algo, job: Option<Ticket>) -> Put {
    let cancel = job.as_ref().map_or_else(CancellationToken::new, Ticket::cancelled);
    let request = call.request.clone();
    Put { id, size: None, algo, promises: Vec::new(), request, job, cancel }
}

async fn read(body: &mut Option<Incoming>) -> Result<Wanted> {
    let Some(body) = body.take() else {
        return Err(Error::new(Kind::Internal, "the request's body was read twice"));
    };
    let bytes = Limited::new(body, LARGEST).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Error::new(Kind::TooLarge, format!("the request has more than {LARGEST} bytes"))
        } else {
            Error::new(Kind::Mismatch, "the request ended before its body").because(error)
        }
    })?;
    serde_json::from_slice(&bytes.to_bytes()).map_err(|error| {
        Error::new(
            Kind::Invalid,
            format!(
                "the body is JSON such as {{\"source\": {{\"location\": URI, \"store\": ID}}, \
                 \"mode\": \"auto\"}}: {error}"
            ),
        )
    })
}

/// The store and location of a source.
async fn find(
    call: &Call,
    target: &Arc<Store>,
    source: &Origin,
    peer: &Peer,
) -> Result<(Arc<Store>, Location)> {
    match source {
        Origin { location: Some(at), store, rbd_volume: None, cinder_volume: None } => {
            peer.needs(Role::Member)?;
            let at: Location = at.parse()?;
            if let Some(store) = store {
                return Ok((call.store(store)?, at));
            }
            let stores = call.daemon.stores();
            let mut unsure = None;
            for store in std::iter::once(target).chain(stores.iter()) {
                match store.stat(&at).await {
                    Ok(_) => return Ok((Arc::clone(store), at)),
                    Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => {}
                    // It may be this one that has it.
                    Err(error) => unsure = unsure.or(Some(error)),
                }
            }
            Err(unsure.unwrap_or_else(|| {
                Error::new(
                    Kind::NotFound,
                    format!("no store here has this image; name its store: location=`{at}`"),
                )
            }))
        }
        Origin { location: None, store: None, rbd_volume: Some(_), cinder_volume: None }
        | Origin { location: None, store: None, rbd_volume: None, cinder_volume: Some(_) } => {
            Err(Error::new(
                Kind::Unsupported,
                format!(
                    "a store of type {} cannot take volumes: store=`{}`",
                    target.config.kind,
                    target.name()
                ),
            ))
        }
        Origin { .. } => Err(Error::new(
            Kind::Invalid,
            "a source is one of: location (with its store), rbd_volume, cinder_volume",
        )),
    }
}
