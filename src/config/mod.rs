//! The configuration: files in oslo.config's dialect, read into [`Config`].
//!
//! The stores of a glance-api.conf work as they are. Of such a file these are read and judged:
//! `enabled_backends` in `[DEFAULT]`, `default_backend` in `[glance_store]`, the section of each
//! store, `[backend_defaults]`, and `[imaged]`, which is ours. All else is another program's.
//!
//! A reading tells everything that is wrong at once, each as one line with its place and remedy.
//!
//! * [`ini`]: the lexer; `layers`: files over files, and `$` references
//! * `daemon`: `[imaged]`; `roles`: who may do what; `places`: where things are by default
//! * `stores`: `enabled_backends` and the stores' sections
//! * `import`: the daemon's own file, made from Glance's

mod daemon;
mod import;
pub mod ini;
mod layers;
mod places;
mod roles;
mod stores;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use imaged_drivers::options::{Finding, Options, Section};

pub use daemon::{Daemon, HASHES, LogFormat};
pub use imaged_drivers::options::Findings;
pub use import::{Imported, Taken};
use layers::{CREDENTIALS, Layers};
use places::Places;
pub use roles::{Grant, Role, Who};
pub use stores::Store;

/// Something that must be mended; its `Display` is one line.
pub type Problem = Finding;

/// Something good to know; its `Display` is one line.
pub type Note = Finding;

/// All that the daemon is told. Stores that are equal in two readings need no reopening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The daemon itself.
    pub daemon: Daemon,
    /// The stores, in the order of `enabled_backends`; at least one.
    pub stores: Vec<Store>,
    /// The name of the default store, one of [`Config::stores`].
    pub default: String,
}

impl Config {
    /// Reads `files` in order, then every `*.conf` of each of `dirs`, sorted by name. A later
    /// value overrides an earlier one. With neither it is [`Config::embedded`]. `$CREDENTIALS_DIRECTORY`
    /// in a value is that of the environment.
    ///
    /// # Errors
    /// Everything that is wrong, and what is good to know beside it.
    pub fn load(files: &[PathBuf], dirs: &[PathBuf]) -> Result<(Self, Vec<Note>), Findings> {
        if files.is_empty() && dirs.is_empty() {
            return Ok((Self::embedded(), Vec::new()));
        }
        let (layers, found) = Layers::load(files, dirs);
        Self::read(&layers, found)
    }

    /// Reads `text` as the content of a file `name`. Touches no file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str) -> Result<(Self, Vec<Note>), Findings> {
        let mut layers = Layers::default();
        let problems = layers.lay(name, text);
        Self::read(&layers, Findings { problems, notes: Vec::new() })
    }

    /// What holds without any configuration: one file store `local` in the user's data directory,
    /// `$XDG_DATA_HOME/imaged/images`, or `/var/lib/imaged/images` for root.
    #[must_use]
    pub fn embedded() -> Self {
        let places = Places::here();
        let local = imaged_drivers::file::Config::at(&places.images);
        Self {
            daemon: Daemon::at(places),
            stores: vec![Store {
                name: "local".to_owned(),
                kind: "file".to_owned(),
                description: None,
                weight: 0,
                read_only: false,
                driver: Some(imaged_drivers::Config::File(local)),
                problem: None,
            }],
            default: "local".to_owned(),
        }
    }

    /// The store `name`.
    #[must_use]
    pub fn store(&self, name: &str) -> Option<&Store> {
        self.stores.iter().find(|store| store.name == name)
    }

    /// Makes sense of what the files say; `found` is what was found of them so far.
    fn read(layers: &Layers, mut found: Findings) -> Result<(Self, Vec<Note>), Findings> {
        // A file that is missing explains why nothing is set.
        let whole = found.problems.is_empty();
        let mut options = Options::new("imaged", layers.section("imaged"), Section::new());
        let daemon = Daemon::read(&mut options, Places::here());
        found.add(options.finish());
        if !whole && !layers.has("DEFAULT") {
            return Err(found);
        }
        let (stores, default) = stores::read(layers, &mut found);
        if found.problems.is_empty() {
            Ok((Self { daemon, stores, default }, found.notes))
        } else {
            Err(found)
        }
    }
}

impl Layers {
    /// Lays `files` over each other, then what is in `dirs`. Gives what was found beside it.
    fn load(files: &[PathBuf], dirs: &[PathBuf]) -> (Self, Findings) {
        let credentials = std::env::var(CREDENTIALS).ok().filter(|set| !set.is_empty());
        let mut layers = Layers::with(credentials);
        let Findings { mut problems, mut notes } = Findings::default();
        let mut all = files.to_vec();
        for dir in dirs {
            match confs(dir) {
                Ok(confs) if confs.is_empty() => notes.push(Finding::place(
                    dir.display(),
                    "no file in it has a name that ends in .conf, so nothing was read there",
                )),
                Ok(confs) => all.extend(confs),
                Err(error) => problems.push(unreadable(dir, &error)),
            }
        }
        for file in &all {
            match fs::read(file) {
                Ok(bytes) => match std::str::from_utf8(&bytes) {
                    Ok(text) if text.contains('\0') => {
                        problems.push(not_utf8(file, &bytes, text.find('\0').unwrap_or(0)));
                    }
                    Ok(text) => problems.extend(layers.lay(&file.display().to_string(), text)),
                    Err(error) => problems.push(not_utf8(file, &bytes, error.valid_up_to())),
                },
                Err(error) => problems.push(unreadable(file, &error)),
            }
        }
        (layers, Findings { problems, notes })
    }
}

/// The `*.conf` files of `dir`, sorted, without hidden ones.
fn confs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut confs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.ends_with(b".conf") && !name.starts_with(b".") {
            confs.push(path);
        }
    }
    confs.sort();
    Ok(confs)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let remedy = if error.kind() == io::ErrorKind::NotFound {
        "make it, or correct its path"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "let the daemon's user read it"
    } else {
        "mend it, or leave it out"
    };
    Finding::place(path.display(), format!("cannot be read: {error}: {remedy}"))
}

fn not_utf8(path: &Path, bytes: &[u8], valid: usize) -> Problem {
    let before = bytes.get(..valid).unwrap_or_default();
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    Finding::place(
        format_args!("{}:{line}", path.display()),
        "is no UTF-8 text: save the file as UTF-8",
    )
}

#[cfg(test)]
mod tests;
