//! `imaged import-config`

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use imaged::config::{Config, Imported, Problem};

use super::{
    args::Import,
    output::{Done, Failure, Output},
};

/// Makes the daemon's configuration, and writes it only if nothing is wrong with it.
pub(crate) fn run(args: &Import) -> ExitCode {
    let output = Output { json: false };
    let imported = match Config::import(&args.files, &args.dirs) {
        Ok(imported) => imported,
        Err(problems) => {
            for problem in problems.iter().map(Problem::to_string) {
                output.say(&problem);
            }
            return ExitCode::FAILURE;
        }
    };
    for note in &imported.notes {
        output.say(note);
    }
    output.end(write(args, &imported))
}

fn write(args: &Import, imported: &Imported) -> Done {
    let from: Vec<_> =
        args.files.iter().chain(&args.dirs).map(|path| path.display().to_string()).collect();
    let text =
        format!("# Made by `imaged import-config` from {}\n{}", from.join(" "), imported.text);
    let Some(path) = &args.output else {
        return io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::stdout(&error));
    };
    let mut file = create(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a configuration is worse than none.
        let _gone = fs::remove_file(path);
        Failure::io(format_args!("write `{}`", path.display()), &error)
    })
}

fn create(path: &Path) -> Result<File, Failure> {
    // It holds the stores' secrets.
    let created = File::options().write(true).create_new(true).mode(0o600).open(path);
    created.map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Failure::here(
                "AlreadyExists",
                format!(
                    "there is a file of this name, name another one: file=`{}`",
                    path.display()
                ),
            );
        }
        Failure::io(format_args!("make `{}`", path.display()), &error)
    })
}
