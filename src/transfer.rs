//! One image on its way: from where its bytes come, through the stages that all of them pass (count,
//! digest), to each of its targets.
//!
//! A [`Target`] is the end of the way that one store holds. The store claims the id, creates an upload,
//! takes the bytes, and commits or aborts, by itself: what becomes of one target is no other's
//! business, unless the caller wants all or none. A put to one store is the case of one target.
//!
//! **Rule: the next bytes are asked for when every target that is left has taken the last.** So all of
//! them together hold the memory of one window, however many they are; and the slowest sets the pace.
//!
//! **Rule: nobody waits for a target that has ended.** It lets go of its end before it cleans up, so that
//! one whose backend hangs costs the others its own deadline, once. What its stuck calls still hold of
//! the window is theirs until they return: [`Taking`] tells whoever fills the window to begin another.
//!
//! **Rule: whoever waits for the next bytes hears of a target that ends meanwhile, and a target that waits
//! for them hears of what it took and its backend did not.** The next bytes may be waiting for the memory
//! that just those calls hold.

mod account;
mod target;

use std::{fmt, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::{join_all, select_all},
    stream::{self, BoxStream},
};
use imaged_drivers::{
    Body, Context, Digests, Error, Extent, ImageId, Kind, Result,
    window::{zero_pieces, zeros},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::target::{Line, Step, Together};
pub use self::{
    account::Account,
    target::{Filled, Target, stopping, unwanted},
};
use crate::{
    digest::{Algo, Choice, Digesting, Pool},
    jobs::Ticket,
    point,
    wire::digests::Promise,
};

/// A piece of a body on its way to its targets.
#[derive(Debug)]
pub enum Frame {
    /// The next bytes, never empty.
    Data(Bytes),
    /// So many bytes of a hole, at most a chunk ([`CHUNK`](imaged_drivers::window::CHUNK)), and never 0.
    Hole(usize),
    /// A digest that all bytes must have, which is told only now.
    Promised(Promise),
    /// The body is over and whole.
    End,
    /// The body failed.
    Failed(Error),
}

impl Frame {
    /// Hands it to the transfer.
    ///
    /// # Errors
    /// No target wants more; their own errors say why.
    pub async fn send(self, frames: &mpsc::Sender<Self>) -> Result<()> {
        frames.send(self).await.map_err(|gone| {
            Error::new(Kind::Internal, "the store ended before the body").because(gone.to_string())
        })
    }
}

/// The body of an image that is put: where its bytes come from.
pub enum ImageBody {
    /// A caller, who may go away.
    Caller(mpsc::Receiver<Frame>),
    /// Another image; whole when the stream ends without an error.
    Image(BoxStream<'static, Result<Frame>>),
}

impl fmt::Debug for ImageBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImageBody")
    }
}

/// What an extent reads as, a hole being no longer than a chunk.
fn bytes_of(extent: &Extent) -> Bytes {
    match extent {
        Extent::Data(bytes) => bytes.clone(),
        Extent::Hole(len) => zeros(usize::try_from(*len).unwrap_or(usize::MAX)),
    }
}

impl ImageBody {
    /// The body of an image that is copied. Of a hole a chunk comes at a time: so whoever moves it can be
    /// stopped, and its progress be seen.
    #[must_use]
    pub fn copied(body: Body) -> Self {
        let frames = body.into_source().flat_map(|extent| {
            let (first, hole) = match extent {
                Ok(Extent::Data(bytes)) => (Some(Ok(Frame::Data(bytes))), 0),
                Ok(Extent::Hole(len)) => (None, len),
                Err(error) => (Some(Err(error)), 0),
            };
            stream::iter(first.into_iter().chain(zero_pieces(hole).map(|len| Ok(Frame::Hole(len)))))
        });
        Self::Image(frames.boxed())
    }

    /// The end of a body is a message, [`Frame::End`]: a channel that closes without it is a caller
    /// who left, never the end of an image.
    async fn next(&mut self) -> Frame {
        match self {
            Self::Caller(frames) => frames.recv().await.unwrap_or_else(|| {
                Frame::Failed(Error::new(
                    Kind::Mismatch,
                    "the caller left before the end of the image",
                ))
            }),
            Self::Image(stream) => match stream.next().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => Frame::Failed(error),
                None => Frame::End,
            },
        }
    }
}

/// What to put.
#[derive(Debug)]
pub struct Put {
    /// The image's id.
    pub id: ImageId,
    /// Its length in bytes, if known; never 0 for unknown.
    pub size: Option<u64>,
    /// The digests that it gets.
    pub choice: Choice,
    /// Digests that the bytes must have.
    pub promises: Vec<Promise>,
    /// On whose behalf, for backends that ask.
    pub context: Context,
    /// The request's id.
    pub request: String,
    /// The job that shows the progress, if one does.
    pub job: Option<Ticket>,
    /// Fires when nobody wants the image any more; up to the commit it is then undone.
    pub cancel: CancellationToken,
    /// The user who may take it back, if one may who could not delete it otherwise.
    pub maker: Option<u32>,
}

impl Put {
    /// The digests that the image will have, if all of them are promised.
    #[must_use]
    pub fn promised(&self) -> Option<Digests> {
        let of = |algo| {
            let promise = self.promises.iter().find(|promise| promise.algo == algo)?;
            Some(promise.value.clone())
        };
        let Choice { algo, checksum } = self.choice;
        Some(Digests {
            checksum: if checksum { Some(of(Algo::Md5)?) } else { None },
            hash_algo: algo.name().to_owned(),
            hash_value: of(algo)?,
        })
    }

    /// Refuses more bytes than were said to come.
    fn allows(&self, size: u64) -> Result<()> {
        match self.size.filter(|promised| size > *promised) {
            None => Ok(()),
            Some(promised) => Err(Error::new(
                Kind::Mismatch,
                format!("the body is longer than promised: promised=`{promised}` came=`{size}`"),
            )),
        }
    }

    /// Refuses a body that ended early.
    fn is_whole(&self, size: u64) -> Result<()> {
        match self.size.filter(|promised| *promised != size) {
            None => Ok(()),
            Some(promised) => Err(Error::new(
                Kind::Mismatch,
                format!("the body is shorter than promised: promised=`{promised}` came=`{size}`"),
            )),
        }
    }

    /// Begins the digests that it gets, and those that are promised of it.
    #[must_use]
    pub fn begin_digests(&self, pool: &Pool) -> Digesting {
        pool.begin(self.choice, self.promises.iter().any(|promise| promise.algo == Algo::Md5))
    }

    /// The digests of its bytes that it gets, of all that were computed; refuses bytes that have others
    /// than promised, before they came or `late`.
    fn has_promised(&self, mut digests: Digests, late: &[Promise]) -> Result<Digests> {
        for promise in self.promises.iter().chain(late) {
            let md5 = digests.checksum.as_ref().filter(|_| promise.algo == Algo::Md5);
            promise.holds(md5.unwrap_or(&digests.hash_value))?;
        }
        digests.checksum = digests.checksum.filter(|_| self.choice.checksum);
        Ok(digests)
    }
}

/// How many targets take bytes: known when all are prepared, and new whenever one has ended.
pub type Taking = watch::Receiver<usize>;

/// The way of one image, up to its targets.
#[derive(Debug)]
pub struct Transfer<'a> {
    put: &'a Put,
    stop: &'a CancellationToken,
    /// Of targets that all store the image, or none does.
    together: Option<Arc<Together>>,
    /// The targets that are left.
    lines: Vec<Line>,
}

impl<'a> Transfer<'a> {
    /// The way of an image whose targets each end for themselves, or all when `stop` fires.
    #[must_use]
    pub fn new(put: &'a Put, stop: &'a CancellationToken) -> Self {
        Self { put, stop, together: None, lines: Vec::new() }
    }

    /// The same, with `targets` targets that all store the image, or none does.
    #[must_use]
    pub fn all_or_none(self, targets: usize) -> Self {
        Self { together: Some(Arc::new(Together::new(targets))), ..self }
    }

    /// One more target, in `store`.
    pub fn target(&mut self, store: &str) -> Target {
        let (line, target) =
            target::new(store, self.together.clone(), self.stop.clone(), self.put.cancel.clone());
        self.lines.push(line);
        target
    }

    /// Moves `body` to the targets while `targets` run, and gives what they come to. `ready` fires when
    /// all are prepared and bytes are wanted; it is dropped if none is.
    pub async fn run<T>(
        self,
        body: ImageBody,
        digesting: Digesting,
        ready: oneshot::Sender<Taking>,
        targets: impl Future<Output = T>,
    ) -> T {
        let mut targets = std::pin::pin!(targets);
        tokio::select! {
            // They have ended; whatever still comes, nobody wants it.
            ended = &mut targets => ended,
            () = self.feed(body, digesting, ready) => targets.await,
        }
    }

    /// Moves `body` through the stages and to the targets that are left.
    async fn feed(
        mut self,
        mut body: ImageBody,
        mut digesting: Digesting,
        ready: oneshot::Sender<Taking>,
    ) {
        let (count, taking) = watch::channel(0);
        if !self.all_are_free(&count).await {
            return;
        }
        // The caller may be gone already; the body then says so.
        let _caller_left = ready.send(taking);
        let mut size: u64 = 0;
        let mut late = Vec::new();
        let whole = loop {
            let next = tokio::select! {
                next = body.next() => next,
                () = self.one_ends() => {
                    if !self.go_on(&count) {
                        return;
                    }
                    continue;
                }
            };
            let extent = match next {
                Frame::Data(chunk) => Extent::Data(chunk),
                Frame::Hole(len) => Extent::Hole(len as u64),
                Frame::Promised(promise) => {
                    late.push(promise);
                    continue;
                }
                Frame::End => {
                    point::pass("put-ended");
                    break self.put.is_whole(size);
                }
                Frame::Failed(error) => break Err(error),
            };
            size += extent.len();
            let since = Instant::now();
            let counted = match self.put.allows(size) {
                Ok(()) => digesting.update(&bytes_of(&extent)).await,
                longer => longer,
            };
            if counted.is_err() {
                break counted;
            }
            self.hand_on(&Step::Next(extent, since.elapsed())).await;
            if !self.all_are_free(&count).await {
                return;
            }
        };
        match whole {
            Ok(()) => self.end(digesting, &late).await,
            Err(error) => self.fail(error).await,
        }
    }

    /// Waits until every target is prepared, or has taken the last bytes, or has ended. Gives whether it
    /// goes on.
    async fn all_are_free(&mut self, count: &watch::Sender<usize>) -> bool {
        join_all(self.lines.iter_mut().map(Line::free)).await;
        self.go_on(count)
    }

    /// Waits until one of the targets has ended.
    async fn one_ends(&self) {
        let _first = select_all(self.lines.iter().map(|line| Box::pin(line.ended()))).await;
    }

    /// Takes leave of the targets that have ended. Gives whether the others go on.
    fn go_on(&mut self, count: &watch::Sender<usize>) -> bool {
        let before = self.lines.len();
        self.lines.retain(Line::is_there);
        let left = self.lines.len();
        // Only when one has gone: whoever sees it begins a new window.
        count.send_if_modified(|known| std::mem::replace(known, left) != left);
        match &self.together {
            None => !self.lines.is_empty(),
            Some(_) => self.lines.len() == before,
        }
    }

    async fn hand_on(&self, step: &Step) {
        // All are free, so none of them makes this wait; one that has just ended says so itself.
        join_all(self.lines.iter().map(|line| line.hand_on(step.clone()))).await;
    }

    /// The body is whole: gives the targets its digests, if they are as promised.
    async fn end(self, digesting: Digesting, late: &[Promise]) {
        let since = Instant::now();
        let digested = digesting.finish().await;
        match digested.and_then(|digests| self.put.has_promised(digests, late)) {
            Ok(digests) => {
                point::pass("put-digested");
                self.hand_on(&Step::End(Arc::new(digests), since.elapsed())).await;
            }
            Err(error) => self.fail(error).await,
        }
    }

    /// The body failed: no target stores it.
    async fn fail(self, error: Error) {
        self.hand_on(&Step::Failed(Arc::new(error))).await;
    }
}
