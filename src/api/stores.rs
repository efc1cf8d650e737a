//! Stores, their images, readiness and metrics.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use imaged_drivers::{Error, Kind, Listed, Properties, Result};

use super::{answer::json, body::Body, call::Call};
use crate::{
    store::Store,
    wire::records::{Entry, Health, Shown, Stores},
};

fn show(store: &Store, default: &str) -> Shown {
    let down = store.health().err();
    let mut capabilities = serde_json::json!({});
    if let Some(caps) = store.caps() {
        capabilities = serde_json::to_value(caps).unwrap_or_default();
    }
    Shown {
        id: store.name().to_owned(),
        kind: store.config.kind.clone(),
        description: store.config.description.clone(),
        default: store.name() == default,
        weight: store.config.weight,
        read_only: store.config.read_only || store.caps().is_some_and(|caps| !caps.write),
        state: if down.is_none() { Health::Up } else { Health::Down },
        notes: store.notes(),
        reason: down.or_else(|| Some(format!("reading only: {}", store.reading_only()?))),
        capabilities,
        properties: store.driver().map_or_else(|_| Properties::new(), |d| d.properties()),
        capacity: None,
        unread_intents: store.unread_intents(),
    }
}

pub(super) fn list(call: &Call) -> Result<Response<Body>> {
    let stores = call.daemon.stores();
    let stores = stores.iter().map(|store| show(store, stores.default_name())).collect();
    json(StatusCode::OK, &Stores { stores })
}

pub(super) async fn one(call: &Call, name: &str) -> Result<Response<Body>> {
    let store = call.store(name)?;
    store.check().await;
    let mut shown = show(&store, call.daemon.stores().default_name());
    shown.capacity = store.health().ok();
    json(StatusCode::OK, &shown)
}

pub(super) async fn images(call: &Call, name: &str) -> Result<Response<Body>> {
    let mut list = call.store(name)?.list()?;
    // What fails at once can still be told by a status.
    let first = list.next().await.transpose()?;
    let list = stream::iter(first.map(Ok)).chain(list);
    let lines = list.and_then(|Listed { id, at, size, odd }| async move {
        let line = Entry { id: id.to_string(), location: at.to_string(), size, odd };
        let mut text = serde_json::to_vec(&line).map_err(|error| {
            Error::new(Kind::Internal, "a line cannot be written as JSON").because(error)
        })?;
        text.push(b'\n');
        Ok(text)
    });
    // A chunk a few hundred lines, not one a line. What comes before a failure is sent before it.
    let chunks = lines.ready_chunks(512).flat_map(|chunk| {
        let (mut lines, mut failed) = (Vec::new(), None);
        for line in chunk {
            match line {
                Ok(line) if failed.is_none() => lines.extend(line),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let lines = Some(Bytes::from(lines)).filter(|lines| !lines.is_empty());
        stream::iter(lines.map(Ok).into_iter().chain(failed.map(Err)))
    });
    let chunks = chunks.then(async |chunk: Result<Bytes>| {
        if chunk.is_err() {
            // The connection ends here: what was given to it goes out first.
            tokio::task::yield_now().await;
        }
        chunk
    });
    let mut response = Response::new(Body::lines(chunks.boxed()));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

pub(super) fn ready(call: &Call) -> Result<Response<Body>> {
    let stores = call.daemon.stores();
    let default = stores.get(stores.default_name())?;
    if call.daemon.shared.closing.is_cancelled() {
        return Err(Error::new(Kind::Unavailable, "the daemon is stopping"));
    }
    match default.health() {
        Ok(_) => json(StatusCode::OK, &serde_json::json!({"status": "ready"})),
        Err(reason) => Err(Error::new(
            Kind::Unavailable,
            format!("the default store is down: {reason}: store=`{}`", default.name()),
        )),
    }
}

pub(super) fn metrics(call: &Call) -> Result<Response<Body>> {
    let text = call.daemon.shared.metrics.text(&call.daemon.now());
    let mut response = Response::new(Body::full(Bytes::from(text)));
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
