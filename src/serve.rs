//! `imaged serve`: the life of the daemon, from its configuration to its exit code.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use imaged_drivers::{Error, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt::time::ChronoLocal};

use crate::{
    api::connection,
    config::{self, Config, LogFormat},
    daemon::{Daemon, Sources},
    socket::Socket,
};

/// Every transfer finished before the daemon ended.
const DRAINED: u8 = 0;
/// Transfers had to be aborted.
const ABORTED: u8 = 1;

/// How long what backends keep may take to be given back.
const LET_GO: Duration = Duration::from_secs(5);

/// Runs the daemon until SIGTERM, SIGINT or SIGQUIT. The exit code is 0 if every transfer finished, 1
/// if some had to be aborted or the daemon could not start. After SIGQUIT none is aborted, however long
/// it takes; SIGTERM and SIGINT then still give what is under way its `drain_timeout_s`.
///
/// # Errors
/// Why it could not start, a line each.
pub fn serve(sources: Sources, socket: Option<PathBuf>) -> Result<ExitCode, Vec<String>> {
    let (mut config, notes) = sources.read().map_err(|found| {
        // The log is not configured yet.
        let notes = found.notes.iter().map(|note| format!("note: {note}"));
        notes.chain(found.problems.iter().map(ToString::to_string)).collect::<Vec<_>>()
    })?;
    if let Some(socket) = socket.clone() {
        config.daemon.socket = socket;
    }
    log(&config);
    for note in notes {
        tracing::warn!("{note}");
    }
    if sources.is_embedded() {
        make_directories(&config).map_err(|error| vec![error.chain()])?;
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("imaged")
        // Every lane bounds its own threads; this bounds nothing.
        .max_blocking_threads(4096)
        .build()
        .map_err(|error| vec![format!("cannot start the runtime: {error}")])?;
    let drained =
        runtime.block_on(run(config, sources, socket)).map_err(|error| vec![error.chain()])?;
    // A thread that hangs in a mount must not hold the exit.
    runtime.shutdown_background();
    Ok(ExitCode::from(if drained { DRAINED } else { ABORTED }))
}

async fn run(config: Config, sources: Sources, socket: Option<PathBuf>) -> Result<bool> {
    let daemon = Daemon::new(&config)?;
    let listening = Socket::open(&config.daemon)?;
    let mut signals = Signals::new()?;
    // Before anyone is served, for whoever came first would find no store.
    daemon.stores().open_soon().await;
    let looking = tokio::spawn(Arc::clone(&daemon).look_after());
    let sockets: Vec<_> = listening.paths().map(|path| path.display().to_string()).collect();
    tracing::info!(
        socket = sockets.join(", "),
        stores =
            config.stores.iter().map(|store| store.name.as_str()).collect::<Vec<_>>().join(", "),
        default = config.default,
        digest_kernel = daemon.shared.digests.kernel(),
        "imaged {} serves",
        env!("CARGO_PKG_VERSION")
    );
    let serving = tokio::spawn({
        let daemon = Arc::clone(&daemon);
        async move { connection::serve(listening, &daemon).await }
    });
    notify(&[NotifyState::Ready]);
    let unhurried = loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                // Not awaited: the signals that end the daemon must be heard meanwhile.
                let (daemon, sources) = (Arc::clone(&daemon), sources.clone());
                let socket = socket.clone();
                tokio::spawn(async move { reload(&daemon, &sources, socket.as_ref()).await });
            }
            _ = signals.terminate.recv() => break false,
            _ = signals.interrupt.recv() => break false,
            _ = signals.quit.recv() => break true,
        }
    };
    let drained = match unhurried {
        false => None,
        true => {
            // Not that it stops: systemd would then kill it after TimeoutStopSec=.
            notify(&[NotifyState::Status("finishing the transfers under way, then it ends")]);
            tokio::select! {
                drained = daemon.drain(None) => Some(drained),
                _ = signals.terminate.recv() => None,
                _ = signals.interrupt.recv() => None,
            }
        }
    };
    notify(&[NotifyState::Stopping]);
    let drained = match drained {
        Some(drained) => drained,
        None => tokio::select! {
            drained = daemon.drain(Some(daemon.settings().drain_timeout)) => drained,
            // A second signal is an impatient operator.
            _ = signals.terminate.recv() => daemon.drain(Some(Duration::ZERO)).await,
            _ = signals.interrupt.recv() => daemon.drain(Some(Duration::ZERO)).await,
        },
    };
    for task in [serving, looking] {
        if task.await.is_err() {
            tracing::error!("a task of the daemon was lost");
        }
    }
    // What backends keep for the next call; one that hangs is not waited for.
    let _let_go = tokio::time::timeout(LET_GO, imaged_drivers::let_go()).await;
    tracing::info!(drained, "imaged ends");
    Ok(drained)
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("listen to", "signals", error));
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
        })
    }
}

/// Reads the configuration again; a bad one changes nothing and says why.
async fn reload(daemon: &Arc<Daemon>, sources: &Sources, socket: Option<&PathBuf>) {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    notify(&states);
    let status = match sources.read() {
        Ok((mut config, notes)) => {
            if let Some(socket) = socket {
                config.daemon.socket.clone_from(socket);
            }
            for note in notes {
                tracing::warn!("{note}");
            }
            daemon.reload(&config).await;
            tracing::info!("configuration reloaded");
            "configuration reloaded".to_owned()
        }
        Err(config::Findings { problems, notes }) => {
            daemon.shared.metrics.bad_reloads.inc();
            for note in notes {
                tracing::warn!("{note}");
            }
            for problem in &problems {
                tracing::error!("{problem}");
            }
            tracing::error!(
                problems = problems.len(),
                "the configuration is bad and was not taken"
            );
            format!("the configuration is bad and was not taken: {} problems", problems.len())
        }
    };
    notify(&[NotifyState::Status(&status), NotifyState::Ready]);
}

/// Sends states to systemd, if it listens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Sends the log to stderr, as configured; `RUST_LOG` overrides the level.
fn log(config: &Config) {
    let level = config.daemon.log_level.to_string().to_lowercase();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_unset| EnvFilter::new(format!("{level},hyper=warn")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_timer(ChronoLocal::new("%Y-%m-%dT%H:%M:%S%.3f%:z".to_owned()))
        .with_ansi(std::io::stderr().is_terminal());
    // Only the first one counts, as in tests.
    let _set = match config.daemon.log_format {
        LogFormat::Pretty => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// The embedded default has nobody else to make its directory.
fn make_directories(config: &Config) -> Result<()> {
    for store in &config.stores {
        if let Some(imaged_drivers::Config::File(file)) = &store.driver {
            for dir in &file.datadirs {
                std::fs::create_dir_all(&dir.path)
                    .map_err(|error| Error::io("create", dir.path.display(), error))?;
            }
        }
    }
    Ok(())
}

/// As many descriptors as the system lets us have: each connection takes one, each image one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
