//! The memory of an image that a caller sends.

use imaged_drivers::{
    Result,
    window::{Buffer, Window},
};

use crate::transfer::Taking;

/// Where the buffers of an image come from that a caller sends to one store or several.
///
/// Rule: when a store is given up, so is the window whose buffers it may hold. A call of it that hangs
/// keeps them, counted, until it returns; the others go on in a new window, and wait for nothing that
/// only a hung call could give back.
pub(super) struct Supply {
    window: Window,
    taking: Taking,
}

impl Supply {
    pub(super) fn new(window: Window, mut taking: Taking) -> Self {
        taking.mark_unchanged();
        Self { window, taking }
    }

    /// An empty buffer for at most `want` bytes of the image from `at` on.
    ///
    /// # Errors
    /// `Unavailable` if there is no memory.
    pub(super) async fn buffer(&mut self, at: u64, want: usize) -> Result<Buffer> {
        loop {
            tokio::select! {
                biased;
                buffer = self.window.buffer(at, want) => return buffer,
                Ok(()) = self.taking.changed() => {}
            }
            self.window = self.window.anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::future::poll_immediate;
    use imaged_drivers::{
        memory::{Memory, Share},
        window::CHUNK,
    };
    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn what_a_hung_store_keeps_is_not_waited_for_once_it_is_given_up() {
        let memory = Memory::new(64 << 20, 16, Duration::ZERO);
        let window = memory.window(Share::Put("fast+cheap".into()), CHUNK, 8);
        let (count, taking) = watch::channel(2);
        let mut supply = Supply::new(window, taking);
        let mut buffers = Vec::new();
        while let Some(buffer) = poll_immediate(pin!(supply.buffer(0, CHUNK))).await {
            buffers.push(buffer.unwrap());
        }
        assert_eq!(memory.held(), memory.minimum(), "the caller waits for its own buffers");
        count.send_replace(1);
        let next = poll_immediate(pin!(supply.buffer(0, CHUNK))).await;
        let next = next.expect("a buffer at once").unwrap();
        assert_eq!(memory.held(), 2 * memory.minimum(), "what is kept is counted");
        drop(buffers);
        assert_eq!(memory.held(), memory.minimum());
        drop((next, supply));
        assert_eq!(memory.held(), 0);
    }
}
