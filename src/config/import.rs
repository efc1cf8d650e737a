//! A configuration of the daemon's own, made from Glance's: the stores that Glance is to send here,
//! with their options and secrets, and nothing else of that file.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
};

use imaged_drivers::options::{FALLBACK, Finding};

use super::{
    Config, Findings, Note, Problem,
    layers::{Layers, Meant},
    stores::{OF_GLANCE, SOCKET},
};

/// Options that name a file with secrets in it, which Glance's user may read and the daemon's may not.
const SECRETS: [&str; 1] = ["swift_store_config_file"];

/// A configuration for the daemon.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The file's content. It holds secrets if Glance's does.
    pub text: String,
    /// The stores that are in it.
    pub stores: Vec<String>,
    /// What is good to know, of stores that were left out too.
    pub notes: Vec<Note>,
    /// The files with secrets that go along, which the text names by their new places.
    pub taken: Vec<Taken>,
}

/// A file with secrets that goes along with a configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its new place.
    pub to: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads Glance's `files` and then the `*.conf` of `dirs`, as [`Config::load`] does, and makes of
    /// them what the daemon needs. The stores are those that have `imaged_socket`, in their sections
    /// or in `[backend_defaults]`; if none has, all that this build serves. References are resolved,
    /// for what they refer to may not come along.
    ///
    /// If it is going to be the file `output`, files with secrets that it names go along, to places
    /// beside that one.
    ///
    /// # Errors
    /// Everything that is wrong with the stores, as [`Config::load`] says it, and what is good to know
    /// beside it.
    pub fn import(
        files: &[PathBuf],
        dirs: &[PathBuf],
        output: Option<&Path>,
    ) -> Result<Imported, Findings> {
        let (layers, found) = Layers::load(files, dirs);
        let (config, notes) = Self::read(&layers, found)?;
        let output = output.map(Path::to_owned);
        Import { layers, config, notes, output, taken: Vec::new() }.run()
    }
}

struct Import {
    layers: Layers,
    config: Config,
    notes: Vec<Note>,
    output: Option<PathBuf>,
    taken: Vec<Taken>,
}

impl Import {
    fn run(mut self) -> Result<Imported, Findings> {
        match self.make() {
            Ok((text, stores)) => {
                Ok(Imported { text, stores, notes: self.notes, taken: self.taken })
            }
            Err(problems) => Err(Findings { problems, notes: self.notes }),
        }
    }

    /// The text, and the stores that are in it.
    fn make(&mut self) -> Result<(String, Vec<String>), Vec<Problem>> {
        let sockets = self.sockets();
        let stores = self.chosen(&sockets);
        if stores.is_empty() {
            let what = format!(
                "no store is left for the daemon, which serves {}: enable one of these types",
                imaged_drivers::TYPES.join(", ")
            );
            return Err(vec![Finding::section("DEFAULT", what)]);
        }
        let listed: Vec<_> = self
            .config
            .stores
            .iter()
            .filter(|store| stores.contains(&store.name))
            .map(|store| format!("{}:{}", store.name, store.kind))
            .collect();
        let default = match stores.contains(&self.config.default) {
            true => self.config.default.clone(),
            false => stores.first().cloned().unwrap_or_default(),
        };
        let one = |name: &str, value| vec![(name.to_owned(), vec![value])];
        let mut text = String::new();
        section(&mut text, "DEFAULT", &one("enabled_backends", listed.join(", ")));
        section(&mut text, "glance_store", &one("default_backend", default));
        section(&mut text, "imaged", &self.own(&stores, &sockets)?);
        let mut written = Vec::new();
        for name in std::iter::once(FALLBACK).chain(stores.iter().map(String::as_str)) {
            let mut options = self.options(name)?;
            self.take_along(name, &mut options)?;
            if name != FALLBACK || !options.is_empty() {
                section(&mut text, name, &options);
                written.push((name, options));
            }
        }
        proved(&text, &written)?;
        Ok((text, stores))
    }

    /// Reads the files with secrets that a section names, and names their new places instead.
    fn take_along(&mut self, name: &str, options: &mut Values) -> Result<(), Vec<Problem>> {
        for (option, values) in options {
            let Some(value) = values.last_mut().filter(|value| !value.is_empty()) else { continue };
            if !SECRETS.contains(&option.as_str()) {
                continue;
            }
            let Some(output) = &self.output else {
                let what = format!(
                    "it holds secrets, and is only named here: let the daemon read it, or take it \
                     along by --output: file=`{value}`"
                );
                self.notes.push(Finding::new(name, option, what));
                continue;
            };
            let bytes = fs::read(&*value).map_err(|error| {
                let what = format!("cannot be read: file=`{value}` error=`{error}`");
                vec![Finding::new(name, option, what)]
            })?;
            let to = beside(output, name, option);
            let Some(text) = to.to_str() else {
                let what = "cannot be taken along beside an output whose name is no text";
                return Err(vec![Finding::new(name, option, what.to_owned())]);
            };
            text.clone_into(value);
            self.taken.push(Taken { to, bytes });
        }
        Ok(())
    }

    /// The socket of each store that has one.
    fn sockets(&self) -> BTreeMap<String, String> {
        let given = |section: &str| {
            let values = self.layers.meant_values(section).remove(SOCKET)?;
            values.into_iter().last()?.ok().filter(|socket| !socket.is_empty())
        };
        let fallback = given(FALLBACK);
        let of = |name: &String| Some((name.clone(), given(name).or_else(|| fallback.clone())?));
        self.config.stores.iter().filter_map(|store| of(&store.name)).collect()
    }

    /// The names of the stores to take, and a note for each that is left out.
    fn chosen(&mut self, sockets: &BTreeMap<String, String>) -> Vec<String> {
        let mut chosen = Vec::new();
        for store in &self.config.stores {
            let why = match (&store.driver, sockets.contains_key(&store.name)) {
                (Some(_), asked) if asked || sockets.is_empty() => {
                    chosen.push(store.name.clone());
                    continue;
                }
                (Some(_), _) => format!("it has no {SOCKET}"),
                (None, true) => format!(
                    "this build does not serve the type `{}`: take {SOCKET} out of its section",
                    store.kind
                ),
                (None, false) => format!("this build does not serve the type `{}`", store.kind),
            };
            self.notes.push(Finding::section(&store.name, format!("left to Glance: {why}")));
        }
        chosen
    }

    /// The daemon's own section: that of the files, if any, and who may do what.
    fn own(
        &mut self,
        stores: &[String],
        sockets: &BTreeMap<String, String>,
    ) -> Result<Values, Vec<Problem>> {
        let mut own = self.options("imaged")?;
        let has = |own: &[(String, Vec<String>)], name: &str| own.iter().any(|(n, _)| n == name);
        let mut places: Vec<_> = stores.iter().filter_map(|store| sockets.get(store)).collect();
        places.sort();
        places.dedup();
        match places.as_slice() {
            [] => {}
            [place] if !has(&own, "socket") => {
                own.push(("socket".into(), vec![(*place).clone()]));
            }
            [_] => {}
            [first, ..] => {
                let what = format!(
                    "the stores name several sockets, and a daemon has one: start one for each, or \
                     let all name `{first}`"
                );
                self.notes.push(Finding::new("imaged", "socket", what));
            }
        }
        if !has(&own, "roles") {
            own.push(("roles".into(), vec!["glance:admin".into()]));
            let what = "glance:admin lets the user `glance` do everything: if Glance runs as another \
                        user, write that one";
            self.notes.push(Finding::new("imaged", "roles", what));
        }
        Ok(own)
    }

    /// The options of a section, resolved, without Glance's own side.
    fn options(&self, name: &str) -> Result<Values, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut options = Vec::new();
        for (option, values) in self.layers.meant_values(name) {
            if OF_GLANCE.contains(&option.as_str()) {
                continue;
            }
            match values.into_iter().collect::<Meant>() {
                Ok(values) => options.push((option, values)),
                Err(why) => problems.push(Finding::new(name, &option, why.to_string())),
            }
        }
        if problems.is_empty() { Ok(options) } else { Err(problems) }
    }
}

/// The place of a file that goes along: not among those that are read as a configuration if all of a
/// directory is.
fn beside(output: &Path, section: &str, option: &str) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}.{section}.{option}"))
}

/// The options of a section, each with all its values.
type Values = Vec<(String, Vec<String>)>;

/// Reads what was written, and finds the same in it.
fn proved(text: &str, written: &[(&str, Values)]) -> Result<(), Vec<Problem>> {
    let mut back = Layers::default();
    let faults = back.lay("the configuration that was made", text);
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut problems = Vec::new();
    for (name, options) in written {
        let found = back.meant_values(name);
        for (option, values) in options {
            let same = found.get(option).is_some_and(|found| {
                found.len() == values.len()
                    && found.iter().zip(values).all(|(a, b)| a.as_ref() == Ok(b))
            });
            if !same {
                let what = "its value cannot be written as it is meant: set it by hand";
                problems.push(Finding::new(name, option, what));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn section(text: &mut String, name: &str, options: &[(String, Vec<String>)]) {
    let gap = if text.is_empty() { "" } else { "\n" };
    let _infallible = writeln!(text, "{gap}[{name}]");
    for (option, values) in options {
        for value in values {
            let _infallible = writeln!(text, "{option} = {}", written(value));
        }
    }
}

/// A value as a file has it.
fn written(value: &str) -> String {
    let value = value.replace('$', "$$");
    let (first, rest) =
        value.split_once('\n').map_or((value.as_str(), None), |(a, b)| (a, Some(b)));
    let bare = first.trim() == first && !first.starts_with(['"', '\'']);
    let mut text = if bare { first.to_owned() } else { format!("\"{first}\"") };
    for line in rest.into_iter().flat_map(|rest| rest.split('\n')) {
        text.push_str("\n    ");
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(text: &str) -> Result<Imported, Vec<String>> {
        let mut layers = Layers::default();
        let problems = layers.lay("glance-api.conf", text);
        let lines = |found: Findings| -> Vec<String> {
            found.problems.iter().chain(&found.notes).map(Problem::to_string).collect()
        };
        let found = Findings { problems, notes: Vec::new() };
        let (config, _notes) = Config::read(&layers, found).map_err(lines)?;
        let (notes, taken) = (Vec::new(), Vec::new());
        Import { layers, config, notes, output: None, taken }.run().map_err(lines)
    }

    const GLANCE: &str = "\
[DEFAULT]
root = /srv
debug = true
enabled_backends = a:file, b:file, s:vmware
[database]
connection = mysql://secret
[glance_store]
default_backend = s
[a]
imaged_socket = /run/imaged/imaged.sock
imaged_timeout = 20
filesystem_store_datadir = $root/a
store_description = costs 5$$
weight = 3
[b]
filesystem_store_datadirs = $root/b:2
filesystem_store_datadirs = $root/c:1
[s]
s3_store_secret_key = secret
";

    #[test]
    fn only_the_stores_that_are_to_be_served_come_along() {
        let found = imported(GLANCE).unwrap();
        assert_eq!(found.stores, ["a"]);
        assert_eq!(
            found.text,
            "[DEFAULT]\nenabled_backends = a:file\n\n[glance_store]\ndefault_backend = a\n\n\
             [imaged]\nsocket = /run/imaged/imaged.sock\nroles = glance:admin\n\n\
             [a]\nfilesystem_store_datadir = /srv/a\nstore_description = costs 5$$\nweight = 3\n"
        );
        let notes: Vec<_> = found.notes.iter().map(Note::to_string).collect();
        let notes = notes.join("\n");
        assert!(notes.contains("[b]: left to Glance: it has no imaged_socket"), "{notes}");
        assert!(notes.contains("[s]: left to Glance: this build does not serve"), "{notes}");
        let (config, _) = Config::parse(&found.text, "made").unwrap();
        assert_eq!(config.default, "a");
    }

    #[test]
    fn where_none_has_a_socket_all_that_are_served_come_along() {
        let text = GLANCE.replace("imaged_socket", "#imaged_socket").replace("= s\n", "= b\n");
        let found = imported(&text).unwrap();
        assert_eq!(found.stores, ["a", "b"]);
        assert!(found.text.contains("default_backend = b\n"), "{}", found.text);
        let both = "filesystem_store_datadirs = /srv/b:2\nfilesystem_store_datadirs = /srv/c:1\n";
        assert!(found.text.contains(both), "{}", found.text);
        assert!(!found.text.contains("socket ="), "{}", found.text);
        assert!(!found.text.contains("secret"), "{}", found.text);
    }

    #[test]
    fn a_socket_for_all_is_in_the_defaults() {
        let text = GLANCE.replace(
            "[glance_store]",
            "[backend_defaults]\nimaged_socket = /tmp/x.sock\nfilesystem_store_file_perm = 0640\n\
             [glance_store]",
        );
        let found =
            imported(&text.replace("imaged_socket = /run", "#imaged_socket = /run")).unwrap();
        assert_eq!(found.stores, ["a", "b"]);
        assert!(found.text.contains("socket = /tmp/x.sock\n"), "{}", found.text);
        assert!(
            found.text.contains("[backend_defaults]\nfilesystem_store_file_perm = 0640\n"),
            "{}",
            found.text
        );
        let several = imported(&text).unwrap();
        assert!(
            several.notes.iter().any(|note| note.what.contains("several sockets")),
            "{several:?}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_store_is_told_and_nothing_is_made() {
        let wrong = imported(&GLANCE.replace("$root/a", "$rot/a")).unwrap_err();
        assert!(
            wrong.iter().any(|line| line.contains("[a] filesystem_store_datadir")),
            "{wrong:?}"
        );
        let wrong = imported("[DEFAULT]\nenabled_backends = s:vmware\n[s]\nx = 1\n").unwrap_err();
        assert!(wrong.iter().any(|line| line.contains("no store is left")), "{wrong:?}");
    }

    fn taken(output: Option<&str>, from: &Path) -> (Values, Import, Result<(), Vec<Problem>>) {
        let mut import = Import {
            layers: Layers::default(),
            config: Config::embedded(),
            notes: Vec::new(),
            output: output.map(PathBuf::from),
            taken: Vec::new(),
        };
        let of = |name: &str, value: &Path| (name.to_owned(), vec![value.display().to_string()]);
        let mut options = vec![of("swift_store_config_file", from), of("swift_store_cacert", from)];
        let done = import.take_along("objects", &mut options);
        (options, import, done)
    }

    #[test]
    fn a_file_with_secrets_goes_along_to_a_place_beside_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("glance-swift.conf");
        fs::write(&from, "[ref1]\nkey = hidden\n").unwrap();
        let (options, import, done) = taken(Some("/etc/imaged/imaged.conf"), &from);
        assert_eq!(done, Ok(()));
        let to = "/etc/imaged/imaged.objects.swift_store_config_file";
        assert_eq!(options[0].1, [to]);
        assert_eq!(options[1].1, [from.display().to_string()], "what is no secret stays");
        assert_eq!(import.taken.len(), 1);
        assert_eq!(import.taken[0].bytes, b"[ref1]\nkey = hidden\n");
        assert!(!format!("{:?}", import.taken).contains("hidden"));
    }

    #[test]
    fn a_file_with_secrets_is_told_of_where_it_cannot_go_along() {
        let (_, import, done) = taken(None, Path::new("/etc/glance/swift.conf"));
        assert_eq!((done, import.taken.len()), (Ok(()), 0));
        assert!(import.notes[0].what.contains("let the daemon read it"), "{:?}", import.notes);
        let (_, _, done) = taken(Some("/etc/imaged.conf"), Path::new("/is/not/there"));
        let told = done.unwrap_err()[0].to_string();
        assert!(told.contains("[objects] swift_store_config_file"), "{told}");
        assert!(told.contains("/is/not/there"), "{told}");
    }

    proptest::proptest! {
        #[test]
        fn every_value_reads_back(value in "[ -~]{0,12}(\n[!-~]{1,9}){0,2}") {
            // A backslash before a dollar sign has no spelling.
            proptest::prop_assume!(!value.contains("\\$"));
            let mut text = String::new();
            section(&mut text, "s", &[("a".into(), vec![value.clone()])]);
            let mut layers = Layers::default();
            proptest::prop_assert_eq!(layers.lay("x", &text), vec![]);
            let first = value.split('\n').next().unwrap_or_default();
            // Only a first line that stands alone keeps the blanks at its end.
            proptest::prop_assume!(first.trim() == first || !value.contains('\n'));
            proptest::prop_assert_eq!(&layers.meant_values("s")["a"], &vec![Ok(value)]);
        }
    }
}
