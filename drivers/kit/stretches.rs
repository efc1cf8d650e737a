//! Reading what a server gives by ranges: one request brings a stretch that is longer than a buffer, several
//! are under way, and each goes on where its connection broke.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify};

use super::{
    pause::Tries,
    window::{Buffer, Window},
};
use crate::contract::{Error, Kind, Pieces, Result};

/// Where the bytes of an image come from.
#[async_trait]
pub(crate) trait Origin: Send + Sync + 'static {
    /// What one request brings.
    type Incoming: Send;

    /// The longest range about the byte `at` that one request may be for.
    ///
    /// # Errors
    /// `Internal` if there is no such byte.
    fn reach(&self, at: u64) -> Result<Range<u64>>;

    /// Asks for a range within one reach.
    async fn ask(&self, range: Range<u64>) -> Result<Self::Incoming>;

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` if the connection broke, and the rest can be asked for.
    async fn next(&self, incoming: &mut Self::Incoming) -> Result<Option<Bytes>>;
}

/// Bytes of a buffer, and how many are being filled.
pub(crate) const READS: Pieces = Pieces { chunk: 2 << 20, in_flight: 8 };
/// Bytes of one request, at most.
const STRETCH: u64 = 8 << 20;

/// The bytes of `range`, in order. A server that does not answer is tried for as long as `patience`.
pub(crate) fn read<O: Origin>(
    origin: O,
    range: Range<u64>,
    window: Window,
    patience: Duration,
) -> BoxStream<'static, Result<Bytes>> {
    let reading =
        Arc::new(Reading { origin, patience, range: range.clone(), under_way: Mutex::default() });
    let read = move |at, mut buffer: Buffer| {
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

/// An image that is being read.
struct Reading<O: Origin> {
    origin: O,
    patience: Duration,
    /// The bytes that are wanted.
    range: Range<u64>,
    /// Requests that are under way, by where their stretch begins.
    under_way: Mutex<BTreeMap<u64, Arc<Request<O::Incoming>>>>,
}

/// One request for a stretch.
struct Request<I> {
    feed: tokio::sync::Mutex<Feed<I>>,
    /// Somebody has taken bytes.
    moved: Notify,
}

/// How far the bytes of a request have been taken.
struct Feed<I> {
    at: u64,
    end: u64,
    incoming: Option<I>,
    /// Bytes that came and were not taken.
    rest: Bytes,
}

impl<I> Request<I> {
    fn new(stretch: &Range<u64>) -> Self {
        let (at, end) = (stretch.start, stretch.end);
        let feed = Feed { at, end, incoming: None, rest: Bytes::new() };
        Self { feed: feed.into(), moved: Notify::new() }
    }

    /// Waits until the bytes from `at` on are the next ones. Whoever takes those before has its buffer already,
    /// so this waits for nobody who waits.
    async fn turn(&self, at: u64) -> Result<MutexGuard<'_, Feed<I>>> {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let feed = self.feed.lock().await;
            if feed.at == at {
                return Ok(feed);
            }
            if feed.at > at {
                let reached = feed.at;
                return Err(Error::new(
                    Kind::Internal,
                    format!("a download is out of order: at=`{at}` reached=`{reached}`"),
                ));
            }
            drop(feed);
            moved.await;
        }
    }
}

impl<O: Origin> Reading<O> {
    /// Fills in what follows `at` in its stretch, and says where that ends.
    async fn fill(&self, at: u64, buffer: &mut Buffer) -> Result<u64> {
        let stretch = self.stretch(at)?;
        let request = {
            let new = || Arc::new(Request::new(&stretch));
            Arc::clone(self.under_way.lock().entry(stretch.start).or_insert_with(new))
        };
        let mut feed = request.turn(at).await?;
        let mut tries = Tries::new(self.patience);
        while !buffer.is_full() && feed.at < feed.end {
            match self.take(&mut feed, buffer).await {
                Ok(()) => tries.again(),
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Timeout) => {
                    (feed.incoming, feed.rest) = (None, Bytes::new());
                    if !tries.another().await {
                        return Err(error);
                    }
                    tracing::debug!(at = feed.at, error = %error, "a download goes on");
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

    /// What is asked for in one request that has the byte at `at`.
    fn stretch(&self, at: u64) -> Result<Range<u64>> {
        let reach = self.origin.reach(at)?;
        let from = reach.start.max(self.range.start);
        let nth = at.saturating_sub(from) / STRETCH;
        let start = from.saturating_add(nth.saturating_mul(STRETCH));
        Ok(start..start.saturating_add(STRETCH).min(reach.end).min(self.range.end))
    }

    /// Moves some bytes from the server into `buffer`.
    async fn take(&self, feed: &mut Feed<O::Incoming>, buffer: &mut Buffer) -> Result<()> {
        if feed.rest.is_empty() {
            if feed.incoming.is_none() {
                feed.incoming = Some(self.origin.ask(feed.at..feed.end).await?);
            }
            let Some(incoming) = &mut feed.incoming else { return Ok(()) };
            feed.rest = self.origin.next(incoming).await?.ok_or_else(|| {
                let what = "the server sent fewer bytes than it was asked for";
                Error::new(Kind::Unavailable, what)
            })?;
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
            drop(self.origin.next(&mut incoming).await);
        }
        Ok(())
    }
}
