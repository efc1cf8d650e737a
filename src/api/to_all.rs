//! One body to several stores.

use std::sync::Arc;

use hyper::{Response, StatusCode, body::Incoming};
use imaged_drivers::{Error, Kind, Result};

use super::{
    answer::json, body::Body, call::Call, conditions::Conditions, get, put::Order, route::ToAll,
    status,
};
use crate::{
    store::{Store, put_to_all},
    wire::{
        problem::{InStore, Results},
        records::Receipt,
    },
};

/// Stores an image in each of several stores.
pub(super) async fn put(
    call: &Call,
    wanted: ToAll,
    conditions: &Conditions,
    body: &mut Option<Incoming>,
) -> Result<Response<Body>> {
    let ToAll { stores: names, all_or_none, id, algo } = wanted;
    let stores = stores(call, &names)?;
    for name in &names {
        get::may_be_made(call, name, &id, conditions).await?;
    }
    let order = Order::read(call, &stores, id, algo, body.as_ref()).await?;
    let carried = order
        .carry(call, body, |put, from, ready| put_to_all(stores, all_or_none, put, from, ready));
    answer(call, &names, carried.await?)
}

/// The stores of these names.
pub(super) fn stores(call: &Call, names: &[String]) -> Result<Vec<Arc<Store>>> {
    let stores = names.iter().map(|name| {
        // The store is no part of the path here, so that it is missing is the request's fault.
        call.store(name).map_err(|unknown| Error::new(Kind::Invalid, unknown.to_string()))
    });
    stores.collect()
}

/// Tells what became of the image in each store: 201 if all have it, 207 if some have, and if none has
/// the first problem.
pub(super) fn answer(
    call: &Call,
    names: &[String],
    stored: Vec<Result<Receipt>>,
) -> Result<Response<Body>> {
    let first = stored
        .iter()
        .find_map(|one| one.as_ref().err())
        .map(|error| (error.kind(), status::problem_of(error, &call.request)));
    let any = stored.iter().any(Result::is_ok);
    let results = std::iter::zip(names, stored).map(|(name, stored)| {
        let store = name.clone();
        match stored {
            Ok(receipt) => InStore { store, receipt: Some(receipt), problem: None },
            Err(error) => {
                let problem = Some(status::problem_of(&error, &call.request));
                InStore { store, receipt: None, problem }
            }
        }
    });
    let results = results.collect();
    match first {
        None => json(StatusCode::CREATED, &Results { results }),
        Some(_) if any => json(StatusCode::MULTI_STATUS, &Results { results }),
        Some((kind, mut problem)) => {
            problem.results = results;
            Ok(status::answer(kind, &problem, None))
        }
    }
}
