//! Reading an image: what it consists of, and requests for its bytes.
//!
//! **Rule: the ETag of every answer is that of the image that was opened.** So what comes is of that image,
//! however often a request is sent again, or it is an error: an object that was put in its place has another.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream::BoxStream};

use super::{
    account::{Account, Call},
    failure, listing,
    object::{Made, Object, incomplete},
    store::{Place, Store},
};
use crate::{
    contract::{Error, Kind, Result},
    kit::{
        http::{
            Incoming, Method, StatusCode,
            header::{ETAG, IF_MATCH, RANGE},
        },
        refusals::missing,
        stretches::{self, Origin},
        window::Window,
    },
};

/// Objects whose bytes, one after the other, are an image.
#[derive(Debug)]
pub(super) struct Layout {
    objects: Vec<Extent>,
    /// Bytes of the image.
    pub(super) size: u64,
}

/// An object that is a part of an image, or all of it.
#[derive(Debug)]
struct Extent {
    container: Arc<str>,
    object: Box<str>,
    etag: Box<str>,
    /// Whether the server is asked to compare it. radosgw compares that of a static large object with another
    /// than it tells.
    asks: bool,
    /// Where it begins in the image.
    start: u64,
    /// Where it ends.
    end: u64,
}

/// Finds out what an image consists of.
pub(super) async fn layout(place: &Place, found: &Object) -> Result<Layout> {
    let Made::Dynamic { container, prefix } = &found.made else {
        let size = found.whole(&place.account, place.object()).await?;
        let extent = Extent {
            container: place.container().into(),
            object: place.object().into(),
            etag: found.etag.as_str().into(),
            asks: found.made == Made::Plain,
            start: 0,
            end: size,
        };
        return Ok(Layout { objects: vec![extent], size });
    };
    // The segments are read themselves: each has an ETag that tells whether it is still the one.
    let (mut objects, mut size, name) = (Vec::new(), 0_u64, Arc::<str>::from(container.as_str()));
    let mut entries = std::pin::pin!(listing::entries(&place.account, container, prefix));
    while found.told != Some(size) || objects.is_empty() {
        let Some(entry) = entries.try_next().await? else { break };
        let (start, end) = (size, size.saturating_add(entry.bytes));
        size = end;
        // A segment may be a static large object itself.
        let etag = entry.slo_etag.as_ref().unwrap_or(&entry.hash).trim_matches('"').into();
        let (container, asks) = (Arc::clone(&name), entry.slo_etag.is_none());
        objects.push(Extent { container, object: entry.name.into(), etag, asks, start, end });
    }
    match found.told {
        Some(told) if told != size => Err(incomplete(place.object(), told, size)),
        _ => Ok(Layout { objects, size }),
    }
}

/// An image that is being read.
struct Reading {
    store: String,
    account: Account,
    layout: Layout,
}

/// The bytes of `range`, in order.
pub(super) fn body(
    store: &Store,
    account: &Account,
    layout: Layout,
    range: Range<u64>,
    window: Window,
) -> BoxStream<'static, Result<Bytes>> {
    let reading = Reading { store: store.name.clone(), account: account.clone(), layout };
    stretches::read(reading, range, window, store.config.timeout)
}

impl Reading {
    /// The object that has the byte at `at`.
    fn extent(&self, at: u64) -> Result<&Extent> {
        let nth = self.layout.objects.partition_point(|extent| extent.end <= at);
        let found = self.layout.objects.get(nth);
        found.ok_or_else(|| Error::new(Kind::Internal, "a download goes past the image"))
    }
}

#[async_trait]
impl Origin for Reading {
    type Incoming = Incoming;

    fn reach(&self, at: u64) -> Result<Range<u64>> {
        self.extent(at).map(|extent| extent.start..extent.end)
    }

    async fn next(&self, incoming: &mut Incoming) -> Result<Option<Bytes>> {
        // Whatever broke it, the rest can be asked for.
        let broken = |error: Error| Error::new(Kind::Unavailable, error.to_string()).because(error);
        incoming.next().await.map_err(broken)
    }

    async fn ask(&self, range: Range<u64>) -> Result<Incoming> {
        let extent = self.extent(range.start)?;
        let from = range.start.saturating_sub(extent.start);
        let last = range.end.saturating_sub(extent.start).saturating_sub(1);
        let mut call = Call::object(Method::GET, &extent.container, &extent.object)
            .header(RANGE, format!("bytes={from}-{last}"));
        if extent.asks {
            call = call.header(IF_MATCH, format!("\"{}\"", extent.etag));
        }
        let answer = self.account.send(&call).await?;
        let whole = from == 0 && range.end == extent.end;
        let told = answer.header(&ETAG).map(|told| told.trim_matches('"'));
        if answer.status.is_success() && told.is_some_and(|told| *told != *extent.etag) {
            return Err(changed(&extent.object));
        }
        match answer.status {
            StatusCode::PARTIAL_CONTENT => Ok(answer.body),
            StatusCode::OK if whole => Ok(answer.body),
            StatusCode::OK => Err(Error::new(
                Kind::Unsupported,
                "the server gives this object only whole, and not a range of it",
            )),
            StatusCode::NOT_FOUND => {
                answer.finish().await;
                Err(missing(&extent.object, &self.store))
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                answer.finish().await;
                Err(changed(&extent.object))
            }
            status => {
                let error = failure::of(answer, "read an image").await;
                // What Swift says of a segment that changed: it is no more what the list says.
                if status == StatusCode::CONFLICT {
                    Err(changed(&extent.object))
                } else {
                    Err(error)
                }
            }
        }
    }
}

fn changed(object: &str) -> Error {
    Error::new(
        Kind::Mismatch,
        format!("the image was replaced or changed while it was read: object=`{object}`"),
    )
}
