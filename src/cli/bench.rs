//! `imaged bench`

use std::{io, process::ExitCode};

use imaged::{
    bench::{self, Error},
    client::{Client, default_socket},
};

use super::{
    args::Bench,
    output::{Done, Failure, Output},
    talk::runtime,
};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Client(error) => Self::Daemon(error),
            Error::Usage(what) => Self::usage(what),
            Error::Interrupted(_) => Self::here("Interrupted", error.to_string()),
            Error::Local(what) => Self::here("System", what),
        }
    }
}

/// Measures a store and prints the report. Signals are the benchmark's own business: it removes
/// its images before it ends.
pub(crate) fn run(args: &Bench) -> ExitCode {
    let output = Output { json: args.daemon.json };
    let done = runtime().and_then(|runtime| {
        let done = runtime.block_on(measure(args, output));
        runtime.shutdown_background();
        done
    });
    output.end(done)
}

async fn measure(args: &Bench, output: Output) -> Done {
    if args.what.digests {
        let found = bench::kernels().await?;
        return output.answer(&found, |out| found.print(out));
    }
    let client = Client::new(args.daemon.socket.clone().unwrap_or_else(default_socket));
    let mut progress: Box<dyn io::Write + Send> =
        if output.json { Box::new(io::sink()) } else { Box::new(io::stderr()) };
    let report = bench::run(&args.what, &client, progress.as_mut()).await?;
    output.answer(&report, |out| report.print(out))?;
    if report.is_good() {
        return Ok(());
    }
    let (errors, left) = (report.errors(), report.left.len());
    // The document says it already, and there is to be only one.
    if output.json {
        return Err(Failure::Told);
    }
    Err(Failure::here("Failed", format!("{errors} requests failed, {left} images are left")))
}
