//! A conversation with the daemon, that a signal ends.

use std::{process::ExitCode, time::Duration};

use imaged::client::{Client, Which, default_socket};
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use super::{
    args::Daemon,
    output::{Done, Failure, Output},
};

/// How long a job may take to hear that it is not wanted any more.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a command needs.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) client: Client,
    pub(crate) output: Output,
    job: Mutex<Option<String>>,
}

impl Talk {
    /// Remembers a job that must be cancelled if this command is interrupted: one that the daemon
    /// does not end by itself when its caller leaves.
    pub(crate) fn mind(&self, job: &str) {
        *self.job.lock() = Some(job.to_owned());
    }

    async fn cancel(&self) {
        let job = self.job.lock().take();
        if let Some(job) = job {
            let cancelled = tokio::time::timeout(LAST_WORDS, self.client.cancel_job(&job)).await;
            if !matches!(cancelled, Ok(Ok(()))) {
                self.output.say(&format!(
                    "imaged: the daemon may go on; see `imaged jobs {job}`, and end it with \
                     `imaged jobs --cancel {job}`"
                ));
            }
        }
    }
}

/// Runs a command that talks to the daemon, to its exit code. A signal drops what is under way:
/// its connection closes, and the daemon undoes what it was making.
pub(crate) fn talk(daemon: &Daemon, command: impl AsyncFnOnce(&Talk) -> Done) -> ExitCode {
    let output = Output { json: daemon.json };
    let socket = daemon.socket.clone().unwrap_or_else(default_socket);
    let talk = Talk { client: Client::new(socket), output, job: Mutex::new(None) };
    let done = runtime().and_then(|runtime| {
        let done = runtime.block_on(async {
            tokio::select! {
                done = command(&talk) => done,
                stopped = interrupted() => {
                    talk.cancel().await;
                    Err(stopped)
                }
            }
        });
        runtime.shutdown_background();
        done
    });
    output.end(done)
}

/// A runtime for a command.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start the runtime", &error))
}

/// Returns when somebody wants the command to end.
pub(crate) async fn interrupted() -> Failure {
    let listen = |kind| signal(kind).map_err(|error| Failure::io("listen to signals", &error));
    let signals = (
        listen(SignalKind::interrupt()),
        listen(SignalKind::terminate()),
        listen(SignalKind::hangup()),
    );
    let (mut interrupt, mut terminate, mut hangup) = match signals {
        (Ok(interrupt), Ok(terminate), Ok(hangup)) => (interrupt, terminate, hangup),
        (Err(failure), ..) | (_, Err(failure), _) | (.., Err(failure)) => return failure,
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Failure::here("Interrupted", "interrupted")
}

/// An image by what was written for it: a location has a scheme, an id has none.
pub(crate) fn which(text: &str) -> Which<'_> {
    if text.contains("://") { Which::At(text) } else { Which::Id(text) }
}
