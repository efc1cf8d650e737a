//! The command line: each command is a file of `cli/`, and most of them are one request to the
//! daemon that `imaged serve` is.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use cli::{
    args::{Args, Command},
    bench, check, copy, get, images, import, jobs, pages, put, selftest, serve, stores,
    talk::talk,
    usage,
};

fn main() -> ExitCode {
    let command = match Args::read() {
        Ok(args) => args.command,
        Err(code) => return code,
    };
    let code = match command {
        Command::Serve(args) => serve::run(args),
        Command::Put(args) => talk(&args.daemon, async |talk| put::run(talk, &args).await),
        Command::Get(args) => talk(&args.daemon, async |talk| get::run(talk, &args).await),
        Command::Stat(args) => talk(&args.daemon, async |talk| images::stat(talk, &args).await),
        Command::Delete(args) => talk(&args.daemon, async |talk| images::delete(talk, &args).await),
        Command::List(args) => talk(&args.daemon, async |talk| images::list(talk, &args).await),
        Command::Recover(args) => {
            talk(&args.daemon, async |talk| images::recover(talk, &args).await)
        }
        Command::Stores(daemon) => talk(&daemon, async |talk| stores::run(talk).await),
        Command::Copy(args) => talk(&args.daemon, async |talk| copy::run(talk, &args).await),
        Command::Jobs(args) => talk(&args.daemon, async |talk| jobs::run(talk, &args).await),
        Command::Usage(args) => usage::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::CheckConfig(args) => check::run(&args),
        Command::ImportConfig(args) => import::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => pages::completions(&args),
        Command::Man => pages::man(),
    };
    // Threads of a backend must not outlive what they use.
    imaged_drivers::wait_until_closed();
    code
}
