//! Reading an image: by requests for stretches of it, several at a time and in order, each of which goes on
//! where its connection broke.
//!
//! **Rule: the ETag of every answer is that of the image that was opened.** So what comes is of that image,
//! however often a request is sent again, or it is an error: an object that was put in its place has another.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify};

use super::{
    account::{Account, Call, Tries},
    failure, listing,
    object::{ETAG, IF_MATCH, Made, Object, RANGE, incomplete},
    store::{Place, Store},
};
use crate::{
    contract::{Error, Kind, Pieces, Result},
    kit::{
        http::{Incoming, Method, StatusCode},
        refusals::missing,
        window::Window,
    },
};

/// Bytes of a buffer, and how many are being filled.
pub(super) const READS: Pieces = Pieces { chunk: 2 << 20, in_flight: 8 };
/// Bytes of one request, at most.
const STRETCH: u64 = 8 << 20;

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
#[derive(Debug)]
struct Reading {
    store: String,
    account: Account,
    timeout: std::time::Duration,
    layout: Layout,
    /// The bytes that are wanted.
    range: Range<u64>,
    /// Requests that are under way, by where their stretch begins.
    under_way: Mutex<BTreeMap<u64, Arc<Request>>>,
}

/// One request for a stretch.
#[derive(Debug)]
struct Request {
    feed: tokio::sync::Mutex<Feed>,
    /// Somebody has taken bytes.
    moved: Notify,
}

impl Request {
    fn new(stretch: &Range<u64>) -> Self {
        let (at, end) = (stretch.start, stretch.end);
        let feed = Feed { at, end, incoming: None, rest: Bytes::new() };
        Self { feed: feed.into(), moved: Notify::new() }
    }

    /// Waits until the bytes from `at` on are the next ones. Whoever takes those before has its buffer already,
    /// so this waits for nobody who waits.
    async fn turn(&self, at: u64) -> Result<MutexGuard<'_, Feed>> {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let feed = self.feed.lock().await;
            if feed.at == at {
                return Ok(feed);
            }
            if feed.at > at {
                let what = "a download is out of order";
                let reached = feed.at;
                return Err(Error::new(
                    Kind::Internal,
                    format!("{what}: at=`{at}` reached=`{reached}`"),
                ));
            }
            drop(feed);
            moved.await;
        }
    }
}

/// How far the bytes of a request have been taken.
#[derive(Debug)]
struct Feed {
    at: u64,
    end: u64,
    incoming: Option<Incoming>,
    /// Bytes that came and were not taken.
    rest: Bytes,
}

/// The bytes of `range`, in order.
pub(super) fn body(
    store: &Store,
    account: &Account,
    layout: Layout,
    range: Range<u64>,
    window: Window,
) -> BoxStream<'static, Result<Bytes>> {
    let reading = Arc::new(Reading {
        store: store.name.clone(),
        account: account.clone(),
        timeout: store.config.timeout,
        layout,
        range: range.clone(),
        under_way: Mutex::default(),
    });
    let read = move |at, mut buffer: crate::kit::window::Buffer| {
        let reading = Arc::clone(&reading);
        async move {
            let mut at: u64 = at;
            while !buffer.is_full() {
                at = reading.fill(at, &mut buffer).await?;
            }
            Ok(buffer.freeze())
        }
    };
    window.pieces(range, READS.in_flight, read).boxed()
}

impl Reading {
    /// Fills in what follows `at` in its stretch, and says where that ends.
    async fn fill(&self, at: u64, buffer: &mut crate::kit::window::Buffer) -> Result<u64> {
        let extent = self.extent(at)?;
        let stretch = self.stretch(extent, at);
        let request = {
            let new = || Arc::new(Request::new(&stretch));
            Arc::clone(self.under_way.lock().entry(stretch.start).or_insert_with(new))
        };
        let mut feed = request.turn(at).await?;
        let mut tries = Tries::new(self.timeout);
        while !buffer.is_full() && feed.at < feed.end {
            match self.take(extent, &mut feed, buffer).await {
                Ok(()) => tries.again(),
                Err(error) if failure::is_away(&error) => {
                    (feed.incoming, feed.rest) = (None, Bytes::new());
                    if !tries.another().await {
                        return Err(error);
                    }
                    tracing::debug!(store = %self.store, at = feed.at, error = %error, "a download goes on");
                }
                Err(error) => return Err(error),
            }
        }
        if feed.at >= feed.end {
            self.under_way.lock().remove(&stretch.start);
        }
        let reached = feed.at;
        drop(feed);
        request.moved.notify_waiters();
        Ok(reached)
    }

    /// The object that has the byte at `at`.
    fn extent(&self, at: u64) -> Result<&Extent> {
        let nth = self.layout.objects.partition_point(|extent| extent.end <= at);
        let found = self.layout.objects.get(nth);
        found.ok_or_else(|| Error::new(Kind::Internal, "a download goes past the image"))
    }

    /// What is asked for in one request that has the byte at `at`.
    fn stretch(&self, extent: &Extent, at: u64) -> Range<u64> {
        let from = extent.start.max(self.range.start);
        let nth = at.saturating_sub(from) / STRETCH;
        let start = from.saturating_add(nth.saturating_mul(STRETCH));
        start..start.saturating_add(STRETCH).min(extent.end).min(self.range.end)
    }

    /// Moves some bytes from the server into `buffer`.
    async fn take(
        &self,
        extent: &Extent,
        feed: &mut Feed,
        buffer: &mut crate::kit::window::Buffer,
    ) -> Result<()> {
        if feed.rest.is_empty() {
            if feed.incoming.is_none() {
                feed.incoming = Some(self.ask(extent, feed.at..feed.end).await?);
            }
            let Some(incoming) = &mut feed.incoming else { return Ok(()) };
            feed.rest = match incoming.next().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    return Err(broken("the server sent fewer bytes than it was asked for"));
                }
                Err(error) => return Err(broken(&error.to_string()).because(error)),
            };
        }
        let left = usize::try_from(feed.end.saturating_sub(feed.at)).unwrap_or(usize::MAX);
        let most = feed.rest.len().min(left);
        let count = buffer.push(feed.rest.get(..most).unwrap_or_default());
        feed.rest.advance(count);
        feed.at = feed.at.saturating_add(count as u64);
        if feed.at >= feed.end
            && let Some(mut incoming) = feed.incoming.take()
        {
            // The connection can be used again when the end has been seen.
            drop(incoming.next().await);
        }
        Ok(())
    }

    /// Asks for bytes of the image in one object.
    async fn ask(&self, extent: &Extent, range: Range<u64>) -> Result<Incoming> {
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

/// The connection broke in the middle: the rest can be asked for.
fn broken(why: &str) -> Error {
    Error::new(Kind::Unavailable, why)
}

fn changed(object: &str) -> Error {
    Error::new(
        Kind::Mismatch,
        format!("the image was replaced or changed while it was read: object=`{object}`"),
    )
}
