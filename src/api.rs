//! One request, from its head to its answer. What it wants is told by `route`; each verb or resource
//! has a file.

mod answer;
pub mod body;
mod call;
mod conditions;
pub mod connection;
mod copy;
mod framing;
mod get;
mod jobs;
pub mod openapi;
mod part;
mod put;
mod ring;
pub mod route;
mod share;
pub mod status;
mod stores;
mod to_all;

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    header::{EXPECT, HeaderValue},
    http::request::Parts,
};
use imaged_drivers::{Error, Kind, Result};

use self::{
    answer::{json, not_modified},
    body::{Body, Finish},
    call::{Call, Came},
    conditions::{Conditions, Verdict},
    route::{Action, allow_of, route},
    status::Refused,
};
use crate::{
    daemon::Daemon,
    socket::Peer,
    wire::{
        headers::{self, BODY, PROBLEM, REQUEST_ID},
        stream::Wire,
    },
};

/// Serves one request. Never fails: a failure is an answer.
pub async fn serve(
    daemon: Arc<Daemon>,
    peer: &Peer,
    wire: Wire,
    request: Request<Incoming>,
) -> Response<Body> {
    let (came, surplus) = claim(&wire, &request);
    let (mut head, body) = request.into_parts();
    let call = Call::new(daemon, wire, std::mem::take(&mut head.headers), came);
    let mut body = Some(body);
    let responded = respond(&call, &head, surplus, &mut body, peer).await;
    let mut response = responded.unwrap_or_else(|refused| refusal(&call, &head.method, &refused));
    let finish = Arc::new(Finish::of(&call.wire));
    let status = response.status();
    if (status.is_client_error() || status.is_server_error())
        && let Some(body) = body.filter(|_| !call.headers.contains_key(EXPECT))
    {
        drain(&call.daemon, body, Arc::clone(&finish));
    }
    if let Ok(value) = HeaderValue::from_str(&call.request) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    // HTTP/1.0 has no chunks: a body of no known length ends with its connection.
    let unframed = head.version < Version::HTTP_11 && response.body().size_hint().exact().is_none();
    if surplus || unframed || call.daemon.shared.closing.is_cancelled() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(hyper::header::CONNECTION, close);
        // Of an answer of another version than its request's hyper would say that it stays open.
        *response.version_mut() = head.version;
    }
    response.body_mut().finishes(finish);
    response
}

/// The descriptors that a request came with, and whether they are too many: one that came with bytes
/// is closed unseen; without them it can only be a forgotten header.
fn claim(wire: &Wire, request: &Request<Incoming>) -> (Came, bool) {
    let (mut descriptors, lost) = wire.claim();
    let unasked = !request.headers().contains_key(BODY);
    let surplus = !descriptors.is_empty() && unasked && request.body().is_end_stream();
    if unasked {
        wire.close(std::mem::take(&mut descriptors));
    }
    (Came { descriptors, lost }, surplus)
}

/// Does what is asked for, if the peer may ask for it.
async fn respond(
    call: &Call,
    head: &Parts,
    surplus: bool,
    body: &mut Option<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>, Refused> {
    let action = route(&head.method, head.uri.path(), head.uri.query()).map_err(|error| {
        let allow = allow_of(&head.method, head.uri.path());
        Refused { allow, ..error.into() }
    })?;
    framing::check(head.version, &call.headers)?;
    if surplus {
        let what = "a descriptor came with a request that does not say `Imaged-Body: fd`";
        return Err(Error::new(Kind::Invalid, what).into());
    }
    action.allowed_to(peer)?;
    framing::check_image(&call.headers, &action)?;
    let allow = allow_by_caps(call, &action);
    // Whoever only waits for an answer needs none when gone. What changes something ends by itself,
    // or undoes it.
    let waits = action.only_looks();
    let _changing = (!waits).then(|| call.wire.change());
    let done = tokio::select! {
        done = act(call, action, body, peer) => done,
        () = call.wire.gone(), if waits => {
            Err(Error::new(Kind::Mismatch, "the caller left before the answer"))
        }
        () = call.daemon.shared.stop.cancelled(), if waits => {
            Err(Error::new(Kind::Unavailable, "the daemon is stopping; try again"))
        }
    };
    done.map_err(|error| Refused { allow, ..error.into() })
}

/// The answer to a request that is refused.
fn refusal(call: &Call, method: &Method, refused: &Refused) -> Response<Body> {
    let Refused { error, allow, status } = refused;
    if matches!(error.kind(), Kind::Denied | Kind::Internal) {
        tracing::warn!(request = call.request, error = %error.chain(), "request refused");
    }
    let mut response = status::problem(error, &call.request, allow.as_deref(), *status);
    if *method == Method::HEAD
        && let Some(value) = headers::text(&error.to_string())
    {
        response.headers_mut().insert(PROBLEM, value);
    }
    response
}

async fn act(
    call: &Call,
    action: Action,
    body: &mut Option<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>> {
    let conditions = Conditions::read(&call.headers)?;
    // Those about an image judge the conditions against it, before they touch it.
    let response = match action {
        Action::Put(store, id, algo) => {
            get::may_be_made(call, &store, &id, &conditions).await?;
            return put::put(call, &store, id, algo, body).await;
        }
        Action::CopyToAll(id) => {
            return copy::copy_to_all(call, id, &conditions, body, peer).await;
        }
        Action::PutToAll(wanted) => {
            return to_all::put(call, wanted, &conditions, body).await;
        }
        Action::Copy(store, id) => {
            get::may_be_made(call, &store, &id, &conditions).await?;
            return copy::copy(call, &store, id, body, peer).await;
        }
        Action::Get(store, image) => return get::get(call, &store, image, &conditions).await,
        Action::Head(store, image) => return get::head(call, &store, image, &conditions).await,
        Action::Delete(store, image) => {
            return get::delete(call, &store, image, &conditions, peer).await;
        }
        Action::Share(store, image) => {
            return share::share(call, &store, image, &conditions, body).await;
        }
        Action::Recover(store, id) => {
            let store = call.store(&store)?;
            return get::recover(call, &store, &id, &conditions).await;
        }
        Action::CancelJob(id) => return jobs::cancel(call, &id, &conditions, peer).await,
        Action::Stores => stores::list(call),
        Action::Store(store) => stores::one(call, &store).await,
        Action::List(store) => stores::images(call, &store).await,
        Action::Jobs => jobs::list(call),
        Action::Job(id, wait) => jobs::one(call, &id, wait).await,
        Action::Health => json(StatusCode::OK, &serde_json::json!({"status": "up"})),
        Action::Ready => stores::ready(call),
        Action::Metrics => stores::metrics(call),
        Action::OpenApi => json(StatusCode::OK, &openapi::document()),
    }?;
    // What is no image has no ETag, and looking at it has changed nothing.
    Ok(match conditions.judge_read(None)? {
        Verdict::NotModified => not_modified(),
        Verdict::Holds => response,
    })
}

/// The methods that a store's images have, by what the store can do.
fn allow_by_caps(call: &Call, action: &Action) -> Option<String> {
    if matches!(action, Action::Share(..) | Action::Recover(..)) {
        return Some(String::new());
    }
    let (Action::Put(store, ..) | Action::Copy(store, ..) | Action::Delete(store, _)) = action
    else {
        return None;
    };
    let caps = call.store(store).ok()?.caps()?;
    let mut methods = vec!["GET", "HEAD"];
    methods.extend(caps.write.then_some("PUT"));
    methods.extend(caps.write.then_some("POST"));
    methods.extend(caps.delete.then_some("DELETE"));
    Some(methods.join(", "))
}

/// How long a caller who is refused may go on sending what nobody wants, and how long it may pause.
/// Many clients read no answer before they have sent all of their body, and see a broken pipe if
/// they cannot.
const DRAIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(5);

/// Throws a body away as it comes, beside the answer: who reads that at once need not send the rest.
fn drain(daemon: &Daemon, mut body: Incoming, finish: Arc<Finish>) {
    let closing = daemon.shared.closing.clone();
    daemon.shared.tasks.spawn(async move {
        let come = async {
            while let Ok(Some(Ok(_))) = tokio::time::timeout(PAUSE, body.frame()).await {}
        };
        tokio::select! {
            _cut_off = tokio::time::timeout(DRAIN, come) => {}
            () = closing.cancelled() => {}
        }
        drop(finish);
    });
}
