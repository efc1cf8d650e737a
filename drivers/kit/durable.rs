//! Small files that are whole and on the disk once they have their names.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use crate::contract::{Error, Result};

/// Writes `bytes` beside `file`, under its name with the ending `new`, and gives them that name, in the place of
/// what had it; both outlive the machine. What had it stays if this fails. Blocks.
///
/// # Errors
/// What the system says.
pub fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let written = || {
        let mut out = fs::File::create(&new)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&new, file)?;
        match file.parent() {
            Some(dir) => fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    written().inspect_err(|_error| drop(fs::remove_file(&new)))
}

/// Removes `file` if it is there; that it is gone need not outlive the machine. Blocks.
///
/// # Errors
/// What the system says.
pub fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", file.display(), error))
        }
        _ => Ok(()),
    }
}
