//! `imaged check-config`

use std::process::ExitCode;

use serde_json::json;

use super::{args::Check, output::Output, talk::runtime};

/// Reads the configuration, opens each store, and says what is wrong.
pub(crate) fn run(args: &Check) -> ExitCode {
    let output = Output { json: args.json };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return output.end(Err(failure)),
    };
    let checked = runtime.block_on(imaged::serve::check(&args.sources.clone().into()));
    // A store that hangs must not hold the exit.
    runtime.shutdown_background();
    let (fine, problems) = match checked {
        Ok(fine) => (fine, Vec::new()),
        Err(problems) => (Vec::new(), problems),
    };
    let told = if args.json {
        output.answer(&json!({"fine": fine, "problems": problems}), |_| Ok(()))
    } else {
        for line in fine.iter().chain(&problems) {
            output.say(line);
        }
        Ok(())
    };
    match (output.end(told), problems.is_empty()) {
        (code, true) => code,
        (_, false) => ExitCode::FAILURE,
    }
}
