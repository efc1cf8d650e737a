//! `imaged serve`

use std::process::ExitCode;

use imaged::daemon::Sources;

use super::{args, output::Output};

impl From<args::Sources> for Sources {
    fn from(args: args::Sources) -> Self {
        Self { files: args.files, dirs: args.dirs }
    }
}

/// Runs the daemon.
pub(crate) fn run(args: args::Serve) -> ExitCode {
    let output = Output { json: false };
    match imaged::serve::serve(args.sources.into(), args.socket) {
        Ok(code) => code,
        Err(problems) => {
            for problem in &problems {
                output.say(&format!("imaged: {problem}"));
            }
            ExitCode::FAILURE
        }
    }
}
