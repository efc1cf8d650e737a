//! `imaged import-config`

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use imaged::config::{Config, Imported};

use super::{
    args::Import,
    output::{Done, Failure, Output, print},
};

/// Makes the daemon's configuration, and writes it only if nothing is wrong with it.
pub(crate) fn run(args: &Import) -> ExitCode {
    let output = Output { json: false };
    let output_file = args.output.as_deref().map(std::path::absolute).transpose();
    let output_file = match output_file {
        Ok(file) => file,
        Err(error) => {
            return output.end(Err(Failure::io("find the directory that this is in", &error)));
        }
    };
    let imported = match Config::import(&args.files, &args.dirs, output_file.as_deref()) {
        Ok(imported) => imported,
        Err(found) => {
            for line in found.notes.iter().chain(&found.problems) {
                output.say(&line.to_string());
            }
            return ExitCode::FAILURE;
        }
    };
    for note in &imported.notes {
        output.say(&note.to_string());
    }
    output.end(write(args, &imported))
}

fn write(args: &Import, imported: &Imported) -> Done {
    let from: Vec<_> =
        args.files.iter().chain(&args.dirs).map(|path| path.display().to_string()).collect();
    let text =
        format!("# Made by `imaged import-config` from {}\n{}", from.join(" "), imported.text);
    let Some(path) = &args.output else {
        return print(|out| out.write_all(text.as_bytes()));
    };
    let taken = imported.taken.iter().map(|taken| (&*taken.to, &*taken.bytes));
    // What it names is there before it is.
    let files = taken.chain([(path.as_path(), text.as_bytes())]);
    let mut written = Vec::new();
    for (path, bytes) in files {
        if let Err(failure) = write_new(path, bytes) {
            // Half a configuration is worse than none.
            for path in written {
                let _gone = fs::remove_file(path);
            }
            return Err(failure);
        }
        written.push(path);
    }
    Ok(())
}

/// Makes a file of this content, whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> Done {
    let mut file = create(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|error| {
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
