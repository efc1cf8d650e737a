//! A [`Slot`] is the right to have one operation in flight on one image. There are [`SLOTS`] of them:
//! waiting for one is the backpressure, and holding all of them proves that the image is idle, which
//! is what closing it waits for.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::errno::{Errno, Result};

/// Operations that one image may have in flight.
pub const SLOTS: u32 = 32;

/// The right to have one operation in flight on one image.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// The slots of one image.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Semaphore>);

impl Slots {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(SLOTS as usize)))
    }

    pub(crate) async fn take(&self) -> Result<Slot> {
        let gone = |_closed: AcquireError| Errno::CANCELED;
        let permit = Arc::clone(&self.0).acquire_owned().await.map_err(gone)?;
        Ok(Slot { _permit: permit })
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn idle(&self) {
        // It fails only when the image is closed, and then nothing is in flight either.
        drop(self.0.acquire_many(SLOTS).await);
    }

    /// Blocks until nothing is in flight, and lets nothing begin any more.
    pub(crate) fn end(&self) {
        let all = Arc::clone(&self.0);
        // Nobody closes the semaphore but this, and once: there is one owner of an image.
        drop(block_on(async move { all.acquire_many(SLOTS).await.map(drop) }));
        self.0.close();
    }
}

/// Polls on this thread until it is done.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
