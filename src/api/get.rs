//! Reading, looking at and removing an image.

use std::{ops::Range, sync::Arc};

use hyper::{
    Response, StatusCode,
    header::{
        ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG,
        HeaderName, HeaderValue, IF_MATCH, IF_RANGE, RANGE, VARY,
    },
};
use imaged_drivers::{
    self as drivers, Digests, Error, ImageId, Kind, Location, Recovered, Result, Span,
    memory::Share, window::PAGE,
};

use super::{
    answer::{self, no_content},
    body::{Body, Form, Sending},
    call::Call,
    conditions::{self, Conditions, Verdict, etag},
    ring::Ring,
    route::Image,
    status,
};
use crate::{
    config::Role,
    socket::Peer,
    store::{Judge, Store},
    transfer::Account,
    wire::{
        digests, extents,
        headers::{self, ACCEPT, BODY, REPR_DIGEST, SIZE},
        memory, range,
        records::{Recovery, Remains},
    },
};

/// Where the image is; whether it is there, what is done with it will show.
async fn locate(store: &Store, image: &Image) -> Result<Location> {
    match image {
        Image::Id(id) => {
            let driver = store.driver()?;
            match driver.place(id) {
                Some(at) => Ok(at),
                None => driver.locate(id).await,
            }
        }
        Image::At(at) => Ok(at.clone()),
    }
}

fn named(image: &Image) -> String {
    match image {
        Image::Id(id) => id.to_string(),
        Image::At(at) => at.to_string(),
    }
}

/// Refuses to make an image that its caller demands to be there already. That none is there, as
/// `If-None-Match` can demand, is what making one takes in any case.
pub(super) async fn may_be_made(
    call: &Call,
    store: &str,
    id: &ImageId,
    conditions: &Conditions,
) -> Result<()> {
    if !conditions.demands_a_match() {
        return Ok(());
    }
    match call.store(store)?.driver()?.locate(id).await {
        // The refusal that it meets without a condition comes first.
        Ok(_) => Err(Error::new(
            Kind::Exists,
            format!("an image of this id is there already: image=`{id}`"),
        )),
        Err(error) if error.kind() == Kind::NotFound => Err(conditions::failed(&IF_MATCH, None)),
        Err(error) => Err(error),
    }
}

pub(super) async fn get(
    call: &Call,
    store: &str,
    image: Image,
    conditions: &Conditions,
) -> Result<Response<Body>> {
    let store = call.store(store)?;
    let mut account = Account::begin("get", &call.request, store.name(), named(&image));
    let opened = open(call, &store, &image, conditions, &mut account).await;
    match opened {
        Ok((response, None)) => {
            account.end(&call.daemon.shared.metrics, None);
            Ok(response)
        }
        Ok((mut response, Some((form, content, range)))) => {
            let daemon = Arc::clone(&call.daemon);
            let sending = Sending::new(form, content, range, account, daemon);
            *response.body_mut() = Body::image(sending);
            Ok(response)
        }
        Err(error) => {
            account.end(&call.daemon.shared.metrics, Some(&error));
            Err(error)
        }
    }
}

/// What follows a head: which part of the image, and in which form.
type Following = (Form, drivers::Body, Range<u64>);

/// The head of the answer, and what is to follow unless a descriptor takes its place.
async fn open(
    call: &Call,
    store: &Arc<Store>,
    image: &Image,
    conditions: &Conditions,
    account: &mut Account,
) -> Result<(Response<Body>, Option<Following>)> {
    if call.daemon.shared.closing.is_cancelled() {
        return Err(Error::new(Kind::Unavailable, "the daemon is stopping; try again"));
    }
    let mut span = call.header(&RANGE)?.map_or(Ok(Span::All), range::read)?;
    let at = locate(store, image).await?;
    let within = if span == Span::All { None } else { call.header(&IF_RANGE)? };
    // Before its range is looked at.
    if !conditions.is_empty() || within.is_some() {
        let digests = store.stat(&at).await?.digests;
        if conditions.judge_read(digests.as_ref())? == Verdict::NotModified {
            return Ok((not_modified(digests.as_ref()), None));
        }
        if within.is_some_and(|asked| !has_etag(digests.as_ref(), asked)) {
            // A part of another image would be of no use to the caller.
            span = Span::All;
        }
    }
    let accepted = call.header(&ACCEPT)?.unwrap_or_default();
    let accepts = |form: &str| accepted.split(',').any(|accepted| accepted.trim() == form);
    let by_descriptor = accepts("fd") && store.caps().is_some_and(|caps| caps.descriptor);
    let chunk = (call.daemon.settings().get_window / 2 / PAGE * PAGE).max(PAGE);
    let share = Share::Get(store.name().into());
    let (reader, window) = match store.open_with_window(&at, span, chunk, share).await {
        Ok(opened) => opened,
        Err(error) if error.kind() == Kind::Range => {
            let size = store.stat(&at).await?.size;
            let mut response = status::problem(&error, &call.request, None, None);
            set(&mut response, CONTENT_RANGE, &range::unsatisfied(size));
            return Ok((response, None));
        }
        Err(error) => return Err(error),
    };
    // Another image may have come to be there meanwhile.
    if conditions.judge_read(reader.digests.as_ref())? == Verdict::NotModified {
        return Ok((not_modified(reader.digests.as_ref()), None));
    }
    if span != Span::All && within.is_some_and(|asked| !has_etag(reader.digests.as_ref(), asked)) {
        return Err(Error::new(
            Kind::Unavailable,
            format!("the image gave way to another one meanwhile; try again: image=`{at}`"),
        ));
    }
    let mut response = Response::new(Body::empty());
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    describe(&mut response, reader.digests.as_ref());
    let drivers::Reader { size, range: part, body, .. } = reader;
    if span != Span::All {
        set(&mut response, CONTENT_RANGE, &range::write_content(&part, size));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if by_descriptor && let drivers::Body::File(file) = &body {
        call.wire.send([file.descriptor()?]);
        set(&mut response, BODY, "fd");
        set(&mut response, SIZE, &size.to_string());
        account.passed_by(part.end - part.start);
        return Ok((response, None));
    }
    let through_memory = accepts("memory") && part.end.saturating_sub(part.start) >= memory::WORTH;
    let ring = through_memory.then(|| ring(call, store.name())).flatten();
    let (form, media_type) = match ring {
        Some(ring) => {
            window.share(ring.memory());
            (Form::Memory(ring), memory::MEDIA_TYPE)
        }
        None if accepts("extents") && body.has_holes() => (Form::Extents, extents::MEDIA_TYPE),
        None => return Ok((response, Some((Form::Plain, body, part)))),
    };
    set(&mut response, CONTENT_TYPE, media_type);
    set(&mut response, SIZE, &size.to_string());
    Ok((response, Some((form, body, part))))
}

/// Memory to send an image through, of which the caller is told with the head; `None` where there is too little of
/// it, or of descriptors.
fn ring(call: &Call, store: &str) -> Option<Ring> {
    let shared = &call.daemon.shared;
    let room = shared.memory.room(Share::Get(store.into()), memory::BYTES)?;
    let (ring, descriptors) = Ring::new(room, call.daemon.settings().stall_timeout)
        .inspect_err(|error| tracing::debug!(%error, "no memory can be shared with a caller"))
        .ok()?;
    call.wire.send(descriptors);
    Some(ring)
}

/// Whether an image with these digests has the ETag that `If-Range` names.
fn has_etag(digests: Option<&Digests>, asked: &str) -> bool {
    digests.map(etag).as_deref() == Some(asked)
}

/// The answer to a caller who already has the image of these digests.
fn not_modified(digests: Option<&Digests>) -> Response<Body> {
    let mut response = answer::not_modified();
    describe(&mut response, digests);
    response
}

pub(super) async fn head(
    call: &Call,
    store: &str,
    image: Image,
    conditions: &Conditions,
) -> Result<Response<Body>> {
    let store = call.store(store)?;
    let account = Account::begin("stat", &call.request, store.name(), named(&image));
    let looked = async {
        let at = locate(&store, &image).await?;
        Ok((store.stat(&at).await?, at))
    }
    .await;
    account.end(&call.daemon.shared.metrics, looked.as_ref().err());
    let (stat, at) = looked?;
    if conditions.judge_read(stat.digests.as_ref())? == Verdict::NotModified {
        return Ok(not_modified(stat.digests.as_ref()));
    }
    let mut response = Response::new(Body::empty());
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    set(&mut response, CONTENT_LENGTH, &stat.size.to_string());
    if let Some(at) = headers::location(&at.to_string()) {
        response.headers_mut().insert(CONTENT_LOCATION, at);
    }
    describe(&mut response, stat.digests.as_ref());
    Ok(response)
}

/// The headers that every answer about an image has.
fn describe(response: &mut Response<Body>, known: Option<&Digests>) {
    set(response, ACCEPT_RANGES, "bytes");
    // The ETag is that of the bytes in whichever form they are sent.
    set(response, VARY, ACCEPT.as_str());
    let Some(known) = known else { return };
    set(response, ETAG, &etag(known));
    set(response, REPR_DIGEST, &digests::write(known));
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub(super) async fn delete(
    call: &Call,
    store: &str,
    image: Image,
    conditions: &Conditions,
    peer: &Peer,
) -> Result<Response<Body>> {
    let store = call.store(store)?;
    let at = found(&store, image).await?;
    // Of a daemon that could not go on for a while: the caller has long been told that it failed.
    if call.wire.is_gone() {
        return Err(Error::new(Kind::Unavailable, "the caller left before the delete began"));
    }
    let judge = |digests: Option<&Digests>| conditions.judge_change(digests);
    let judge: Option<Judge<'_>> = if conditions.is_empty() { None } else { Some(&judge) };
    let Err(refused) = peer.needs(Role::Admin) else {
        store.delete_if(&at, &call.request, None, judge).await?;
        return Ok(no_content());
    };
    match store.delete_if(&at, &call.request, Some(peer.uid()), judge).await {
        Err(error) if error.kind() == Kind::Denied => {
            Err(Error::new(refused.kind(), format!("{error}; {refused}")))
        }
        taken => taken.map(|()| no_content()),
    }
}

/// Where the image is that is to be removed. It is looked for, so that what is no image goes by its location
/// only.
async fn found(store: &Store, image: Image) -> Result<Location> {
    match image {
        Image::Id(id) => store.driver()?.locate(&id).await,
        Image::At(at) => Ok(at),
    }
}

/// Where the image is that is to be changed, if the conditions hold.
pub(super) async fn to_change(
    store: &Store,
    image: Image,
    conditions: &Conditions,
) -> Result<Location> {
    let at = found(store, image).await?;
    if !conditions.is_empty() {
        let stat = store.stat(&at).await?;
        conditions.judge_change(stat.digests.as_ref())?;
    }
    Ok(at)
}

/// Clears away what an upload has left whose daemon is gone.
pub(super) async fn recover(
    call: &Call,
    store: &Store,
    id: &ImageId,
    conditions: &Conditions,
) -> Result<Response<Body>> {
    // What an upload has left has no ETag.
    conditions.judge_change(None)?;
    let recovered = store.recover(id, &call.request).await?;
    let (found, removed) = match recovered {
        Recovered::Nothing => (Remains::Nothing, Vec::new()),
        Recovered::Whole => (Remains::Whole, Vec::new()),
        Recovered::Removed(what) => (Remains::Removed, what),
    };
    let (store, image) = (store.name().to_owned(), id.to_string());
    answer::json(StatusCode::OK, &Recovery { store, image, found, removed })
}
