//! The options of a `file` section, by glance_store's names.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use crate::kit::options::{Options, shown};

const DATADIR: &str = "filesystem_store_datadir";
const DATADIRS: &str = "filesystem_store_datadirs";
const ALSO: &str = "imaged_also_directories";
const DEFAULT_DATADIR: &str = "/var/lib/glance/images";

/// A file store's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `filesystem_store_datadir` or `filesystem_store_datadirs`: where images are.
    pub datadirs: Vec<Datadir>,
    /// `imaged_also_directories`: where images are read and deleted too, and never written.
    pub also_directories: Vec<PathBuf>,
    /// `filesystem_store_metadata_file`: JSON added to the metadata of locations.
    pub metadata_file: Option<PathBuf>,
    /// `filesystem_store_file_perm`: the mode of images; `None` leaves it to the umask.
    pub file_perm: Option<u32>,
    /// `filesystem_store_chunk_size`, shown to Glance; our own chunks are larger.
    pub chunk_size: u64,
    /// `filesystem_thin_provisioning`: blocks of zeros become holes. On unless switched off.
    pub thin: bool,
    /// `imaged_page_cache`: which images are in the page cache when they have been stored.
    pub page_cache: PageCache,
    /// `filesystem_store_timeout`: patience for one call to the filesystem.
    pub timeout: Duration,
    /// `filesystem_store_thread_pool_size`: calls to the filesystem at a time.
    pub threads: usize,
}

/// Which images are in the page cache when they have been stored, so that who reads them first need not
/// wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PageCache {
    /// Those that take no more than an eighth of the memory that is available then.
    #[default]
    Auto,
    /// All, whatever they evict.
    Always,
    /// None, which costs the least of the processor.
    Never,
}

impl PageCache {
    const NAMES: [&str; 3] = ["auto", "always", "never"];
}

/// One directory of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datadir {
    /// An absolute path.
    pub path: PathBuf,
    /// Higher is filled first.
    pub priority: u32,
}

impl Config {
    /// The settings of a store in one directory, all else by default.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            datadirs: vec![Datadir { path: path.into(), priority: 0 }],
            also_directories: Vec::new(),
            metadata_file: None,
            file_perm: None,
            chunk_size: 64 << 10,
            thin: true,
            page_cache: PageCache::Auto,
            timeout: Duration::from_secs(60),
            threads: 16,
        }
    }

    /// Reads a `file` section; `None` if it has no usable directory. The filesystem is not
    /// touched: what is there is for the driver to see when it opens.
    pub fn read(options: &mut Options) -> Option<Self> {
        let datadirs = read_datadirs(options);
        let also_directories = read_also(options);
        let metadata_file = options.path("filesystem_store_metadata_file");
        let file_perm = options.mode("filesystem_store_file_perm").filter(|mode| *mode != 0);
        if file_perm.is_some_and(|mode| mode & 0o400 == 0) {
            options.fail(
                "filesystem_store_file_perm",
                "its owner could not read the images: add 400, as in 0640",
            );
        }
        let chunk_size = options.int("filesystem_store_chunk_size", 1..=u64::MAX);
        let thin = options.bool("filesystem_thin_provisioning");
        let page_cache = match options.choice("imaged_page_cache", &PageCache::NAMES) {
            Some("always") => PageCache::Always,
            Some("never") => PageCache::Never,
            _ => PageCache::Auto,
        };
        let timeout = options.seconds("filesystem_store_timeout", 0);
        let threads = options.int("filesystem_store_thread_pool_size", 1..=1024);
        options.no_longer_matters(
            "filesystem_store_threadpool_threshold",
            "the threads of a store are counted, and their use is in the metrics",
        );
        let mut config =
            Self { also_directories, metadata_file, file_perm, page_cache, ..Self::at("") };
        config.datadirs = datadirs?;
        if let Some(bytes) = chunk_size {
            config.chunk_size = bytes;
        }
        if let Some(on) = thin {
            config.thin = on;
        }
        if let Some(patience) = timeout.filter(|patience| !patience.is_zero()) {
            config.timeout = patience;
        }
        if let Some(count) = threads.and_then(|count| usize::try_from(count).ok()) {
            config.threads = count;
        }
        Some(config)
    }
}

/// The directories, of which there is at least one, each once.
fn read_datadirs(options: &mut Options) -> Option<Vec<Datadir>> {
    let given = [options.given(DATADIR), options.given(DATADIRS)];
    let name = match given {
        [true, true] => {
            options.fail(
                DATADIR,
                format!(
                    "{DATADIRS} is set too, and only one may be: remove {DATADIR} to keep all the \
                     directories, or {DATADIRS} to keep this one"
                ),
            );
            return None;
        }
        [_, true] => DATADIRS,
        [_, false] => DATADIR,
    };
    let entries = match given {
        [_, true] => options.multi(DATADIRS),
        [true, false] => vec![options.str(DATADIR)?],
        [false, false] => vec![DEFAULT_DATADIR.to_owned()],
    };
    let mut datadirs = Vec::<Datadir>::with_capacity(entries.len());
    let mut whole = true;
    for entry in &entries {
        let read = if name == DATADIR {
            checked(entry).map(|path| Datadir { path, priority: 0 })
        } else {
            prioritized(entry)
        };
        let twice = |path: &Path| {
            datadirs.iter().any(|other| other.path.components().eq(path.components()))
        };
        match read {
            Err(why) => options.fail(name, format!("{why}: value={}", shown(entry))),
            Ok(datadir) if twice(&datadir.path) => options.fail(
                name,
                format!("a directory is given twice: remove one: value={}", shown(entry)),
            ),
            Ok(datadir) => {
                datadirs.push(datadir);
                continue;
            }
        }
        whole = false;
    }
    (whole && !datadirs.is_empty()).then_some(datadirs)
}

/// The directories that are only read and deleted in, between commas or on lines of their own.
fn read_also(options: &mut Options) -> Vec<PathBuf> {
    let entries = options.multi(ALSO);
    let mut found = Vec::<PathBuf>::new();
    for entry in entries.iter().flat_map(|entry| entry.split(',')).map(str::trim) {
        match checked(entry) {
            _ if entry.is_empty() => {}
            Err(why) => options.fail(ALSO, format!("{why}: value={}", shown(entry))),
            Ok(path) if path.components().count() < 2 => {
                let what = "must be a directory of images, not the root of all files";
                options.fail(ALSO, format!("{what}: value={}", shown(entry)));
            }
            // Named twice says nothing else than named once.
            Ok(path) if found.contains(&path) => {}
            Ok(path) => found.push(path),
        }
    }
    found
}

/// `path[:priority]`.
fn prioritized(entry: &str) -> Result<Datadir, &'static str> {
    let Some((path, priority)) = entry.rsplit_once(':') else {
        return Ok(Datadir { path: checked(entry)?, priority: 0 });
    };
    let priority = match priority.trim() {
        "" => 0,
        digits => digits.parse().map_err(
            |_not_a_number: std::num::ParseIntError| {
                "after the last colon comes a priority, a whole number from 0 to 4294967295"
            },
        )?,
    };
    Ok(Datadir { path: checked(path.trim())?, priority })
}

/// A path whose images have locations that read back as they were written.
fn checked(text: &str) -> Result<PathBuf, &'static str> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("must be an absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("must be a path without `..`");
    }
    if text.contains(['?', '#', '\0', '\n']) {
        return Err(
            "must be a path without `?`, `#`, line breaks and NUL: a location cannot hold them",
        );
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Option<Config>, Vec<String>) {
        let mut options = Options::of("fast", pairs);
        let config = Config::read(&mut options);
        (config, options.finish().problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_section_has_glance_stores_directory_and_our_defaults() {
        assert_eq!(read(&[]), (Some(Config::at("/var/lib/glance/images")), vec![]));
        assert_eq!(
            read(&[("filesystem_store_timeout", "0"), ("filesystem_store_file_perm", "0")]),
            (Some(Config::at("/var/lib/glance/images")), vec![]),
            "0 means none of ours"
        );
    }

    #[test]
    fn every_option_is_read() {
        let (config, problems) = read(&[
            ("filesystem_store_datadir", "/srv/images"),
            ("imaged_also_directories", "/old/images, /mnt/disk2/images,"),
            ("imaged_also_directories", "/old/images"),
            ("filesystem_store_metadata_file", "/etc/glance/meta.json"),
            ("filesystem_store_file_perm", "640"),
            ("filesystem_store_chunk_size", "1048576"),
            ("filesystem_thin_provisioning", "no"),
            ("imaged_page_cache", "never"),
            ("filesystem_store_timeout", "5"),
            ("filesystem_store_thread_pool_size", "3"),
            ("filesystem_store_threadpool_threshold", "75"),
        ]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            config,
            Some(Config {
                datadirs: vec![Datadir { path: "/srv/images".into(), priority: 0 }],
                also_directories: vec!["/old/images".into(), "/mnt/disk2/images".into()],
                metadata_file: Some("/etc/glance/meta.json".into()),
                file_perm: Some(0o640),
                chunk_size: 1 << 20,
                thin: false,
                page_cache: PageCache::Never,
                timeout: Duration::from_secs(5),
                threads: 3,
            })
        );
    }

    #[test]
    fn many_directories_have_priorities_and_replace_the_default_one() {
        let (config, problems) = read(&[
            ("filesystem_store_datadir", ""),
            ("filesystem_store_datadirs", "/a:200"),
            ("filesystem_store_datadirs", "/b"),
            ("filesystem_store_datadirs", "/c : 7"),
            ("filesystem_store_datadirs", "/d:"),
            ("filesystem_store_datadirs", "/e:f:1"),
        ]);
        assert_eq!(problems, [""; 0]);
        let read: Vec<_> = config
            .unwrap()
            .datadirs
            .into_iter()
            .map(|dir| (dir.path.display().to_string(), dir.priority))
            .collect();
        let want = [("/a", 200), ("/b", 0), ("/c", 7), ("/d", 0), ("/e:f", 1)];
        assert_eq!(read, want.map(|(path, priority)| (path.to_owned(), priority)));
    }

    #[test]
    fn one_directory_and_many_at_once_is_refused_with_what_to_remove() {
        let (config, problems) =
            read(&[("filesystem_store_datadir", "/a"), ("filesystem_store_datadirs", "/b")]);
        assert_eq!(config, None);
        assert_eq!(
            problems,
            [
                "[fast] filesystem_store_datadir: filesystem_store_datadirs is set too, and only one \
              may be: remove filesystem_store_datadir to keep all the directories, or \
              filesystem_store_datadirs to keep this one"
            ]
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let (config, problems) = read(&[
            ("filesystem_store_datadirs", "/a:1"),
            ("filesystem_store_datadirs", "/a/:2"),
            ("filesystem_store_datadirs", "b"),
            ("filesystem_store_datadirs", "/c:high"),
            ("filesystem_store_datadirs", "/d/../e"),
            ("filesystem_store_datadirs", "/f#g"),
            ("filesystem_store_datadirs", ":5"),
            ("imaged_also_directories", "g, /, /h/../i"),
            ("filesystem_store_file_perm", "0240"),
            ("filesystem_store_chunk_size", "0"),
            ("imaged_page_cache", "sometimes"),
            ("filesystem_store_tiemout", "1"),
        ]);
        assert_eq!(config, None);
        let text = problems.join("\n");
        for part in [
            "given twice: remove one: value=`/a/:2`",
            "absolute path: value=`b`",
            "priority, a whole number from 0 to 4294967295: value=`/c:high`",
            "without `..`: value=`/d/../e`",
            "a location cannot hold them: value=`/f#g`",
            "absolute path: value=`:5`",
            "imaged_also_directories: must be an absolute path: value=`g`",
            "not the root of all files: value=`/`",
            "without `..`: value=`/h/../i`",
            "add 400, as in 0640",
            "must be a whole number, at least 1: value=`0`",
            "must be one of auto, always, never: value=`sometimes`",
            "did you mean `filesystem_store_timeout`?",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(problems.len(), 13, "{text}");
    }
}
