//! Making an image from a source that is there already.

use std::sync::Arc;

use hyper::{Response, StatusCode, body::Incoming};
use imaged_drivers::{Context, Error, ImageId, Kind, Location, Result, Volume};
use tokio_util::sync::CancellationToken;

use super::{
    answer::json, body::Body, call::Call, conditions::Conditions, get, route::each_once, to_all,
};
use crate::{
    config::Role,
    digest::Choice,
    jobs::Ticket,
    socket::Peer,
    store::{Store, copy_to_all as copy_to_all_of},
    transfer::Put,
    wire::records::{Mode, Origin, Wanted},
};

pub(super) async fn copy(
    call: &Call,
    store: &str,
    id: ImageId,
    body: &mut Option<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>> {
    let store = call.store(store)?;
    let wanted = read(call, body).await?;
    if !wanted.stores.is_empty() || wanted.all_or_none {
        return Err(Error::new(
            Kind::Invalid,
            "the path names the store: for several, POST /v1/images/{id} with `stores`",
        ));
    }
    let choice = choice(call, &wanted)?;
    let found = find(call, &store, &wanted.source, peer).await?;
    not_closing(call)?;
    let context = call.context()?;
    let job = call.daemon.shared.jobs.begin("copy", &call.request, store.name(), id.as_str(), None);
    let put = new_put(call, id, choice, context, Some(job));
    let tasks = &call.daemon.shared.tasks;
    let copied = match found {
        Found::Image(source, from) => tasks.spawn(store.copy(put, source, from, wanted.mode)),
        Found::Volume(via, volume) => {
            // Whoever may delete needs no note to take it back.
            let maker = peer.needs(Role::Admin).is_err().then(|| peer.uid());
            let put = Put { maker, ..put };
            tasks.spawn(store.copy_volume(put, via, volume, wanted.mode))
        }
    };
    let receipt = super::put::joined(copied.await)?;
    json(StatusCode::CREATED, &receipt)
}

/// Makes images in several stores from one of another.
pub(super) async fn copy_to_all(
    call: &Call,
    id: ImageId,
    conditions: &Conditions,
    body: &mut Option<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>> {
    let wanted = read(call, body).await?;
    let names = each_once(wanted.stores.clone(), "write \"stores\": [\"A\", \"B\"], each once")?;
    if !matches!(wanted.mode, Mode::Auto | Mode::Stream) {
        return Err(Error::new(
            Kind::Invalid,
            "to several stores an image is streamed: mode is auto or stream",
        ));
    }
    let stores = to_all::stores(call, &names)?;
    let choice = choice(call, &wanted)?;
    for name in &names {
        get::may_be_made(call, name, &id, conditions).await?;
    }
    let Some(first) = stores.first() else {
        return Err(Error::new(Kind::Invalid, "no store is named"));
    };
    let Found::Image(source, from) = find(call, first, &wanted.source, peer).await? else {
        return Err(Error::new(
            Kind::Unsupported,
            "an image of a volume is made in one store; copy that to the others",
        ));
    };
    not_closing(call)?;
    let context = call.context()?;
    let label = names.join("+");
    let job = call.daemon.shared.jobs.begin("copy", &call.request, &label, id.as_str(), None);
    let put = new_put(call, id, choice, context, Some(job));
    let copied = copy_to_all_of(stores, wanted.all_or_none, put, source, from);
    let copied = super::put::joined(call.daemon.shared.tasks.spawn(copied).await)?;
    to_all::answer(call, &names, copied)
}

/// The digests that are wanted.
fn choice(call: &Call, wanted: &Wanted) -> Result<Choice> {
    call.choice(wanted.hash_algo.as_deref().map(str::parse).transpose()?)
}

fn not_closing(call: &Call) -> Result<()> {
    match call.daemon.shared.closing.is_cancelled() {
        true => Err(Error::new(Kind::Unavailable, "the daemon is stopping; try again")),
        false => Ok(()),
    }
}

fn new_put(call: &Call, id: ImageId, choice: Choice, context: Context, job: Option<Ticket>) -> Put {
    let cancel = job.as_ref().map_or_else(CancellationToken::new, Ticket::cancelled);
    let request = call.request.clone();
    Put { id, size: None, choice, promises: Vec::new(), context, request, job, cancel, maker: None }
}

/// Reads what is wanted.
async fn read(call: &Call, body: &mut Option<Incoming>) -> Result<Wanted> {
    let example = r#"{"source": {"location": URI, "store": ID}, "mode": "auto"}"#;
    call.json(body, example).await
}

/// A source that was found.
enum Found {
    /// An image of this store.
    Image(Arc<Store>, Location),
    /// A volume that this store reaches.
    Volume(Arc<Store>, Volume),
}

/// Where a source is.
async fn find(call: &Call, target: &Arc<Store>, source: &Origin, peer: &Peer) -> Result<Found> {
    let named = source.store.as_ref().map(|name| call.store(name)).transpose()?;
    match source {
        Origin { location: Some(at), store: _, rbd_volume: None, cinder_volume: None } => {
            let at: Location = at.parse()?;
            let Some(store) = named else { return find_anywhere(call, target, at, peer).await };
            match volume_at(&store, &at) {
                Some(volume) => Ok(Found::Volume(store, volume)),
                None => {
                    peer.needs(Role::Member)?;
                    Ok(Found::Image(store, at))
                }
            }
        }
        Origin { location: None, store: _, rbd_volume: Some(volume), cinder_volume: None } => {
            reached(call, target, named, Volume::Rbd(volume.parse()?))
        }
        Origin { location: None, store: _, rbd_volume: None, cinder_volume: Some(volume) } => {
            reached(call, target, named, Volume::Cinder(volume.parse()?))
        }
        Origin { .. } => Err(Error::new(
            Kind::Invalid,
            "a source is one of: location (with its store), rbd_volume, cinder_volume",
        )),
    }
}

/// The volume, and the store that reaches it: the named one, or else the first of its kind.
fn reached(
    call: &Call,
    target: &Arc<Store>,
    named: Option<Arc<Store>>,
    volume: Volume,
) -> Result<Found> {
    let stores = call.daemon.stores();
    let reaches = |store: &&Arc<Store>| {
        store.config.kind == volume.kind() && store.caps().is_some_and(|caps| caps.volumes)
    };
    let first = || std::iter::once(target).chain(stores.iter()).find(reaches).map(Arc::clone);
    let via = named.or_else(first).ok_or_else(|| target.no_volumes(&volume))?;
    Ok(Found::Volume(via, volume))
}

/// Which store has what is at `at`, where the source names no store.
async fn find_anywhere(
    call: &Call,
    target: &Arc<Store>,
    at: Location,
    peer: &Peer,
) -> Result<Found> {
    let stores = call.daemon.stores();
    let all = || std::iter::once(target).chain(stores.iter());
    let (mut unsure, mut absent) = (None, false);
    for store in all() {
        match store.stat(&at).await {
            Ok(_) => {
                peer.needs(Role::Member)?;
                return Ok(Found::Image(Arc::clone(store), at));
            }
            Err(error) if error.kind() == Kind::NotFound => absent = true,
            Err(error) if error.kind() == Kind::Invalid => {}
            // It may be this one that has it.
            Err(error) => unsure = unsure.or(Some(error)),
        }
    }
    // What is no image of any store here may be a volume that one of them reaches.
    let reached = all().find_map(|store| Some((Arc::clone(store), volume_at(store, &at)?)));
    match (reached, unsure) {
        (Some((store, volume)), None) if !absent => Ok(Found::Volume(store, volume)),
        (_, Some(unsure)) => Err(unsure),
        (_, None) => Err(Error::new(
            Kind::NotFound,
            format!("no store here has this image; name its store: location=`{at}`"),
        )),
    }
}

/// The volume at `at`, if it is one that `store` reaches.
fn volume_at(store: &Store, at: &Location) -> Option<Volume> {
    store.driver().ok()?.volumes()?.volume(at)
}
