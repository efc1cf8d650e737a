//! Reading what a server gives by ranges: one request brings a stretch that is longer than a buffer, several
//! are under way, and each goes on where its connection broke.
//!
//! # Decisions
//! * Chose: short and long requests are both tried, over as many bytes of the download itself, and the rest of it
//!   goes the faster way. Because: a server that gives each connection a share is faster with several, OpenStack's
//!   Swift by a third; one for which each request is work is faster with a long one, Ceph's gateway and SeaweedFS
//!   by a quarter. Instead of: one length, or a setting that nobody would find.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    sync::{MutexGuard, Notify},
    time::Instant,
};

use super::{
    pause::Tries,
    window::{Buffer, CHUNK, Window},
};
use crate::contract::{Error, Kind, Pieces, Result};

/// Where the bytes of an image come from.
#[async_trait]
pub(crate) trait Origin: Send + Sync + 'static {
    /// What one request brings.
    type Incoming: Send;

    /// The longest range about the byte `at` that one request may be for; it ends after that.
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
pub(crate) const READS: Pieces = Pieces { chunk: CHUNK, in_flight: 4 };
/// Bytes of a short request: two or three are under way at a time.
const SHORT: u64 = 8 << 20;
/// Bytes of a long one: mostly it is alone. Also of each way's trial.
const LONG: u64 = 64 << 20;
/// When so many bytes were planned, those that were before have come, the window has grown, and connections are open.
const SETTLED: u64 = 32 << 20;

/// The bytes of `range`, in order. A server that does not answer is tried for as long as `patience`.
pub(crate) fn read<O: Origin>(
    origin: O,
    range: Range<u64>,
    window: Window,
    patience: Duration,
) -> BoxStream<'static, Result<Bytes>> {
    let plan = Plan { end: range.start, pace: Pace::new(), under_way: BTreeMap::new() };
    let reading = Arc::new(Reading { origin, patience, range: range.clone(), plan: plan.into() });
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
    plan: Mutex<Plan<O::Incoming>>,
}

/// What is asked for in which request.
struct Plan<I> {
    /// What comes before this is planned.
    end: u64,
    pace: Pace,
    /// Requests that are under way, by where their stretch begins.
    under_way: BTreeMap<u64, Arc<Request<I>>>,
}

/// How long the next request is. Requests are planned as buffers for them come free, so the time between two is what
/// the bytes in between took on their whole way, whichever end of it is slow.
struct Pace {
    bytes: u64,
    /// Of requests of this length, if it may still come to be another.
    trial: Option<Trial>,
}

/// What is tried. What was planned before is on its way for a while, and does not count.
#[derive(Default)]
struct Trial {
    /// What was planned when it began, or began to count.
    from: u64,
    /// When it began to count.
    since: Option<Instant>,
    /// Seconds that a byte took by short requests, if those have been tried.
    short: Option<f64>,
}

impl Pace {
    fn new() -> Self {
        Self { bytes: SHORT, trial: Some(Trial::default()) }
    }

    /// Bytes of what is planned `now`, after as many as `done`.
    fn next(&mut self, done: u64, now: Instant) -> u64 {
        let Some(trial) = &mut self.trial else { return self.bytes };
        let tried = done.saturating_sub(trial.from);
        match trial.since {
            None if tried >= SETTLED => (trial.from, trial.since) = (done, Some(now)),
            Some(since) if tried >= LONG => {
                let a_byte = now.duration_since(since).as_secs_f64() / tried as f64;
                (self.bytes, self.trial) = match trial.short {
                    None => (LONG, Some(Trial { from: done, since: None, short: Some(a_byte) })),
                    // As fast will do: fewer requests are less work for both sides.
                    Some(short) => (if a_byte <= short { LONG } else { SHORT }, None),
                };
            }
            None | Some(_) => {}
        }
        self.bytes
    }
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
    fn new(at: u64, end: u64) -> Self {
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
                return Err(out_of_order(at, feed.at));
            }
            drop(feed);
            moved.await;
        }
    }
}

fn out_of_order(at: u64, reached: u64) -> Error {
    let what = format!("a download is out of order: at=`{at}` reached=`{reached}`");
    Error::new(Kind::Internal, what)
}

impl<O: Origin> Reading<O> {
    /// Fills in what follows `at` in its stretch, and says where that ends.
    async fn fill(&self, at: u64, buffer: &mut Buffer) -> Result<u64> {
        let (start, request) = self.request(at)?;
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
            self.plan.lock().under_way.remove(&start);
        }
        let reached = feed.at;
        drop(feed);
        request.moved.notify_waiters();
        Ok(reached)
    }

    /// The request that brings the byte at `at`, and where its stretch begins.
    fn request(&self, at: u64) -> Result<(u64, Arc<Request<O::Incoming>>)> {
        let mut plan = self.plan.lock();
        while plan.end <= at {
            let (start, done) = (plan.end, plan.end.saturating_sub(self.range.start));
            let reach = self.origin.reach(start)?;
            let bytes = plan.pace.next(done, Instant::now());
            plan.end = start.saturating_add(bytes).min(reach.end).min(self.range.end);
            if plan.end <= start {
                return Err(out_of_order(at, start));
            }
            let request = Arc::new(Request::new(start, plan.end));
            plan.under_way.insert(start, request);
        }
        let found = plan.under_way.range(..=at).next_back();
        let (start, request) = found.ok_or_else(|| out_of_order(at, plan.end))?;
        Ok((*start, Arc::clone(request)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::memory::{Memory, Share};

    const MIB: u64 = 1 << 20;

    /// The lengths of the requests of a download whose server takes so long for a MiB in short ones and in long ones.
    fn planned(short: Duration, long: Duration) -> Vec<u64> {
        let (mut pace, mut now, mut done) = (Pace::new(), Instant::now(), 0);
        let mut lengths = Vec::new();
        while done < 512 * MIB {
            let bytes = pace.next(done, now);
            lengths.push(bytes);
            done += bytes;
            let a_mib = if bytes == SHORT { short } else { long };
            now += a_mib * u32::try_from(bytes / MIB).unwrap();
        }
        lengths
    }

    #[test]
    fn what_is_faster_is_tried_and_kept() {
        let (one, two) = (Duration::from_millis(1), Duration::from_millis(2));
        let trial = [vec![SHORT; 12], vec![LONG; 2]].concat();
        for (short, long, rest) in [(one, two, SHORT), (two, one, LONG), (one, one, LONG)] {
            let planned = planned(short, long);
            let (begin, then) = planned.split_at(trial.len());
            assert_eq!(begin, trial);
            assert!(!then.is_empty() && then.iter().all(|bytes| *bytes == rest), "{then:?}");
        }
    }

    /// A server whose connections break after 5 MiB. Its image is in segments, and a byte of it is its offset modulo
    /// 251.
    struct Numbers {
        numbers: Bytes,
        segment: u64,
        size: u64,
        asked: Mutex<Vec<Range<u64>>>,
    }

    impl Numbers {
        fn bytes(&self, at: u64, len: usize) -> Bytes {
            let from = usize::try_from(at % 251).unwrap();
            self.numbers.slice(from..from + len)
        }
    }

    #[async_trait]
    impl Origin for Arc<Numbers> {
        type Incoming = Range<u64>;

        fn reach(&self, at: u64) -> Result<Range<u64>> {
            let start = at / self.segment * self.segment;
            Ok(start..(start + self.segment).min(self.size))
        }

        async fn ask(&self, range: Range<u64>) -> Result<Range<u64>> {
            assert!(range.end <= self.reach(range.start)?.end);
            self.asked.lock().push(range.clone());
            Ok(range.start..range.end.min(range.start + 5 * MIB + 3))
        }

        async fn next(&self, left: &mut Range<u64>) -> Result<Option<Bytes>> {
            tokio::task::yield_now().await;
            let (start, end) = (left.start, left.end.min(left.start + 70_001));
            left.start = end;
            Ok((start < end).then(|| self.bytes(start, usize::try_from(end - start).unwrap())))
        }
    }

    #[tokio::test]
    async fn all_bytes_come_once_and_in_order_however_requests_are_cut() {
        let numbers: Bytes = (0..251).cycle().take(CHUNK + 251).collect();
        for (segment, range) in [
            (u64::MAX, 0..200 * MIB + 5),
            (u64::MAX, 3 * MIB + 1..40 * MIB),
            (13 * MIB + 7, 5..150 * MIB),
            (100 * MIB, 99 * MIB..101 * MIB + 1),
            (3, 0..50),
            (7, 7..7),
        ] {
            let (numbers, size, asked) = (numbers.clone(), 300 * MIB, Mutex::default());
            let origin = Arc::new(Numbers { numbers, segment, size, asked });
            let memory = Memory::new(64 << 20, 1, Duration::from_secs(1));
            let window = memory.window(Share::Get("x".into()), READS.chunk, READS.in_flight);
            let mut came = read(Arc::clone(&origin), range.clone(), window, Duration::from_secs(9));
            let mut at = range.start;
            while let Some(bytes) = came.next().await {
                let bytes = bytes.unwrap();
                assert!(bytes == origin.bytes(at, bytes.len()), "{at}");
                at += bytes.len() as u64;
            }
            assert_eq!(at, range.end);
            let asked = origin.asked.lock();
            assert!(segment < MIB || asked.iter().all(|range| range.end - range.start <= LONG));
        }
    }
}
