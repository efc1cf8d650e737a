//! Values that are dropped on a store's lane, wherever they are let go of.

use std::{
    fmt,
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{Arc, mpsc},
};

use super::{drops::may_block, lane::Lane};

/// A value that is dropped where that may block, wherever it is let go of: an open file, whose
/// closing may hang.
pub struct DropOnLane<T: Send + Sync + 'static> {
    // Let go of in this order.
    value: Arc<T>,
    let_go: Option<mpsc::Sender<()>>,
    lane: Lane,
}

impl<T: Send + Sync + 'static> DropOnLane<T> {
    /// `value`, to be dropped by [`Lane::discard`].
    #[must_use]
    pub fn new(lane: &Lane, value: T) -> Self {
        Self { value: Arc::new(value), let_go: None, lane: lane.clone() }
    }
}

impl<T: Send + Sync + 'static> Drop for DropOnLane<T> {
    fn drop(&mut self) {
        if may_block() {
            return;
        }
        let (let_go, ours) = mpsc::channel::<()>();
        self.let_go = Some(let_go);
        let value = Arc::clone(&self.value);
        self.lane.queue_drop(move || {
            // When the other holder has let go, this one is the last.
            let _let_go = ours.recv().is_err();
            drop(value);
        });
    }
}

impl<T: Send + Sync + 'static> Deref for DropOnLane<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: AsFd + Send + Sync + 'static> AsFd for DropOnLane<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.value.as_fd()
    }
}

impl<T: AsRawFd + Send + Sync + 'static> AsRawFd for DropOnLane<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.value.as_raw_fd()
    }
}

impl<T: fmt::Debug + Send + Sync + 'static> fmt::Debug for DropOnLane<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread::ThreadId, time::Duration};

    use parking_lot::Mutex;

    use super::*;

    /// Says on which thread it is dropped.
    struct SaysWhere(mpsc::Sender<ThreadId>);

    impl Drop for SaysWhere {
        fn drop(&mut self) {
            self.0.send(std::thread::current().id()).unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_let_go_of_anywhere_is_dropped_where_that_may_block() {
        let lane = Lane::new("a", 1, Duration::from_secs(5));
        let (says, dropped) = mpsc::channel();
        let dropped = Arc::new(Mutex::new(dropped));
        let here = std::thread::current().id();
        let where_dropped = || {
            let dropped = Arc::clone(&dropped);
            lane.run("look where it is dropped", move || Ok(dropped.lock().recv().unwrap()))
        };
        drop(DropOnLane::new(&lane, SaysWhere(says.clone())));
        assert_ne!(where_dropped().await.unwrap(), here, "not by a worker");
        lane.discard(SaysWhere(says.clone()));
        assert_ne!(where_dropped().await.unwrap(), here, "not by a worker");
        let (inside, dropped_inside) = mpsc::channel();
        let value = DropOnLane::new(&lane, SaysWhere(inside));
        let on = lane.run("drop", move || {
            drop(value);
            Ok(std::thread::current().id())
        });
        let on = on.await.unwrap();
        assert_eq!(dropped_inside.try_recv().unwrap(), on, "at once where that may block");
        // Without a runtime there is no other thread.
        let value = DropOnLane::new(&lane, SaysWhere(says));
        let outside = std::thread::spawn(move || {
            drop(value);
            std::thread::current().id()
        });
        let outside = outside.join().unwrap();
        assert_eq!(where_dropped().await.unwrap(), outside);
    }
}
