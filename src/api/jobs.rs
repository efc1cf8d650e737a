//! Background work.

use std::time::Duration;

use hyper::{Response, StatusCode};
use imaged_drivers::Result;

use super::{
    answer::{json, no_content},
    body::Body,
    call::Call,
    conditions::Conditions,
};
use crate::{config::Role, socket::Peer, wire::records::Jobs};

pub(super) fn list(call: &Call) -> Result<Response<Body>> {
    json(StatusCode::OK, &Jobs { jobs: call.daemon.shared.jobs.list() })
}

pub(super) async fn one(call: &Call, id: &str, wait: Duration) -> Result<Response<Body>> {
    json(StatusCode::OK, &call.daemon.shared.jobs.get(id, wait).await?)
}

pub(super) async fn cancel(
    call: &Call,
    id: &str,
    conditions: &Conditions,
    peer: &Peer,
) -> Result<Response<Body>> {
    let jobs = &call.daemon.shared.jobs;
    if let Err(refused) = peer.needs(Role::Member) {
        let job = jobs.get(id, Duration::ZERO).await?;
        if !call.daemon.shared.ids.made().is_of(peer.uid(), &job.store, &job.image) {
            return Err(refused);
        }
    }
    if !conditions.is_empty() {
        jobs.get(id, Duration::ZERO).await?;
        conditions.judge_change(None)?;
    }
    jobs.cancel(id)?;
    Ok(no_content())
}
