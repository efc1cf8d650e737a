//! How far a transfer is: a bar on a terminal, nothing anywhere else.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use imaged::client::Client;
use indicatif::{ProgressBar, ProgressStyle};

/// How often a job is asked how far it is.
const ASK: Duration = Duration::from_millis(250);

const KNOWN: &str = "{msg} [{bar:28}] {percent:>3}% {binary_bytes}/{binary_total_bytes} \
                     {binary_bytes_per_sec} ETA {eta}";
const UNKNOWN: &str = "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec} {elapsed}";

/// The progress of one transfer. When it is dropped the terminal is clean again.
#[derive(Debug)]
pub(crate) struct Progress(Option<ProgressBar>);

/// What counts the bytes of a [`Progress`].
#[derive(Clone, Debug)]
pub(crate) struct Meter(Option<ProgressBar>);

impl Meter {
    /// So many bytes more.
    pub(crate) fn add(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(bytes);
        }
    }
}

impl Progress {
    /// The progress of `what`, of which `total` bytes are to be moved.
    pub(crate) fn new(what: &str, total: Option<u64>) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        bar.set_message(what.to_owned());
        let progress = Self(Some(bar));
        progress.style(total);
        progress
    }

    fn style(&self, total: Option<u64>) {
        if let Some(bar) = &self.0
            && let Ok(style) =
                ProgressStyle::with_template(if total.is_some() { KNOWN } else { UNKNOWN })
        {
            bar.set_style(style.progress_chars("=> "));
            bar.enable_steady_tick(ASK);
        }
    }

    /// Its meter.
    pub(crate) fn meter(&self) -> Meter {
        Meter(self.0.clone())
    }

    /// So many bytes in all until now, of so many.
    fn set(&self, done: u64, total: Option<u64>) {
        let Some(bar) = &self.0 else { return };
        if bar.length() != total
            && let Some(total) = total
        {
            bar.set_length(total);
            self.style(Some(total));
        }
        bar.set_position(done);
    }

    /// Waits for `work`, which is the daemon's job `id`, and shows how far that is.
    pub(crate) async fn follow<T>(
        &self,
        client: &Client,
        id: &str,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        if self.0.is_some() {
            loop {
                tokio::select! {
                    result = &mut work => return result,
                    () = tokio::time::sleep(ASK) => {}
                }
                let asked = tokio::select! {
                    result = &mut work => return result,
                    asked = client.job(id, Duration::ZERO) => asked,
                };
                // It may not have begun yet; and this is only a picture.
                if let Ok(view) = asked {
                    self.set(view.done, view.total);
                }
            }
        }
        work.await
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
