//! The objects of a container and the containers of an account, page by page.

use futures_util::{Stream, TryStreamExt as _, stream};
use serde::Deserialize;

use super::{
    account::{Account, Call},
    failure,
};
use crate::{
    contract::Result,
    kit::http::{Method, StatusCode},
};

/// Entries of a page.
const PAGE: usize = 1000;
/// Bytes of a page, at most: names have at most 1024 bytes, and JSON may escape each of them.
const BYTES: usize = 16 << 20;

/// An object of a listing.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// The md5 of its bytes.
    #[serde(default)]
    pub(super) hash: String,
    /// The ETag of a static large object, whose hash is that of its list.
    #[serde(default)]
    pub(super) slo_etag: Option<String>,
    #[serde(default)]
    pub(super) content_type: String,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
}

/// The objects in `container` whose names begin with `prefix`, in the order of their names. Nothing if there
/// is no such container.
pub(super) fn entries(
    account: &Account,
    container: &str,
    prefix: &str,
) -> impl Stream<Item = Result<Entry>> + Send + use<> {
    let call = Call::container(Method::GET, container);
    let (account, prefix) = (account.clone(), prefix.to_owned());
    paged(
        move |marker| page(account.clone(), call.clone(), prefix.clone(), marker),
        |entry: &Entry| entry.name.clone(),
    )
}

/// The containers whose names begin with `prefix`.
pub(super) fn containers(
    account: &Account,
    prefix: &str,
) -> impl Stream<Item = Result<String>> + Send + use<> {
    let call = Call::account(Method::GET);
    let (account, prefix) = (account.clone(), prefix.to_owned());
    let name = |container: &Container| container.name.clone();
    paged(move |marker| page(account.clone(), call.clone(), prefix.clone(), marker), name)
        .map_ok(|container| container.name)
}

/// What all pages have. Only an empty page is the last one: a server may give fewer than it was asked for.
fn paged<T: Send, F, P>(pages: P, name: fn(&T) -> String) -> impl Stream<Item = Result<T>> + Send
where
    F: Future<Output = Result<Vec<T>>> + Send,
    P: Fn(String) -> F + Send,
{
    let first = (pages, String::new(), Vec::new().into_iter());
    stream::try_unfold(first, move |(pages, mut marker, mut page)| async move {
        if page.len() == 0 {
            page = pages(marker.clone()).await?.into_iter();
        }
        let Some(entry) = page.next() else { return Ok(None) };
        if page.len() == 0 {
            marker = name(&entry);
        }
        Ok(Some((entry, (pages, marker, page))))
    })
}

async fn page<T: serde::de::DeserializeOwned>(
    account: Account,
    call: Call,
    prefix: String,
    marker: String,
) -> Result<Vec<T>> {
    let mut call = call.query("format", "json").query("limit", PAGE.to_string()).whole(BYTES);
    if !prefix.is_empty() {
        call = call.query("prefix", prefix);
    }
    if !marker.is_empty() {
        call = call.query("marker", marker);
    }
    let answer = account.send(&call).await?;
    match answer.status {
        StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => Ok(Vec::new()),
        status if status.is_success() => answer.json(BYTES).await,
        _ => Err(failure::of(answer, "list a container").await),
    }
}
