//! The stores: `enabled_backends` and a section for each.

use std::collections::BTreeSet;

use imaged_drivers::options::{
    FALLBACK, Finding, Findings, Options, Section, nearest, shown, unknown,
};

use super::{
    daemon,
    layers::{Layers, folded},
};

/// One configured store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Its name in `enabled_backends`, Glance's store id.
    pub name: String,
    /// Its type in `enabled_backends`.
    pub kind: String,
    /// `store_description`: for people.
    pub description: Option<String>,
    /// `weight`: Glance prefers the store with the larger one.
    pub weight: i64,
    /// `imaged_read_only`: nothing is put or deleted.
    pub read_only: bool,
    /// What its driver needs; `None` if this build has no driver of its type.
    pub driver: Option<imaged_drivers::Config>,
    /// Why it has no driver.
    pub problem: Option<Finding>,
}

const BACKENDS: &str = "enabled_backends";
/// Names of sections that mean something else than a store.
const NO_STORES: [&str; 4] = ["DEFAULT", "glance_store", FALLBACK, "imaged"];
/// Where options of stores belong.
const ELSEWHERE: &str =
    "write it in the section of the store that it is for, or in [backend_defaults]";
/// Glance's own stores, for staging and tasks, begin so.
const RESERVED: &str = "os_glance_";

/// The stores and the name of the default one.
pub(super) fn read(layers: &Layers, found: &mut Findings) -> (Vec<Store>, String) {
    let mut options = Options::new("DEFAULT", layers.section("DEFAULT"), Section::new());
    options.accept_any();
    let mut library = Options::new("glance_store", layers.section("glance_store"), Section::new());
    library.accept_any();
    let text = options.str(BACKENDS);
    // A value that is given but cannot be read has been told already.
    if text.is_none() && !options.given(BACKENDS) {
        found.add(missing(layers, &mut options, &mut library));
    }
    let (entries, names) = entries(&text.unwrap_or_default(), &mut options);
    options.no_longer_matters(
        "config_source",
        "what Glance reads from there is not read here: write it in a file",
    );
    found.add(options.finish());

    let mut known = BTreeSet::new();
    let stores: Vec<Store> =
        entries.into_iter().filter_map(|entry| store(entry, layers, &mut known, found)).collect();
    judge_fallback(layers, &stores, known, found);
    misspelt_sections(layers, &stores, found);
    if !names.is_empty() {
        misplaced(layers, &names, found);
    }
    let default = default_backend(&names, layers, &mut library);
    found.add(library.finish());
    (stores, default)
}

/// `name:type` of `enabled_backends`.
struct Entry {
    name: String,
    kind: String,
}

/// The entries of `enabled_backends` that can be used, in order, and the names of all.
fn entries(text: &str, options: &mut Options) -> (Vec<Entry>, Vec<String>) {
    const NAME: &str = BACKENDS;
    let mut entries = Vec::<Entry>::new();
    let mut names = Vec::<String>::new();
    if text.trim().is_empty() {
        return (entries, names);
    }
    for item in text.split(',') {
        let wrong = |what: &str| format!("{what}: entry={}", shown(item.trim()));
        let Some((name, kind)) = item.split_once(':') else {
            options.fail(NAME, wrong("write name:type, such as fast:file, between commas"));
            continue;
        };
        let (name, kind) = (name.trim(), kind.trim());
        if name.starts_with(RESERVED) {
            options.note(NAME, wrong("this store stays with Glance"));
            continue;
        }
        // Sections are found whatever their case, so `a` and `A` would share one.
        let twice = names.iter().any(|other| folded(other) == folded(name));
        // A name that a message can show may be the default store's, also of a store that is wrong.
        if !name.contains(char::is_control) {
            names.push(name.to_owned());
        }
        let served = imaged_drivers::TYPES;
        let known = || served.iter().chain(&imaged_drivers::UNSERVED).copied();
        if name.is_empty() || name.contains(|c: char| c == '/' || c.is_control()) {
            options.fail(NAME, wrong("a store needs a name, without slash and line break"));
        } else if NO_STORES.iter().any(|other| folded(other) == folded(name)) {
            options.fail(
                NAME,
                wrong("the section of this name has another meaning: rename the store"),
            );
        } else if twice {
            options.fail(NAME, wrong("two stores have this name: rename one"));
        } else if known().any(|known| known == kind) {
            entries.push(Entry { name: name.to_owned(), kind: kind.to_owned() });
        } else if let Some(near) = nearest(kind, known()) {
            options.fail(NAME, wrong(&format!("no such type of store; did you mean `{near}`?")));
        } else {
            let served = served.join(", ");
            options.fail(NAME, wrong(&format!("no such type of store; this build has {served}")));
        }
    }
    (entries, names)
}

/// Reads the section of one store, and adds the names of its options to `known`.
fn store(
    Entry { name, kind }: Entry,
    layers: &Layers,
    known: &mut BTreeSet<String>,
    found: &mut Findings,
) -> Option<Store> {
    let mut options = Options::new(&name, layers.section(&name), layers.section(FALLBACK));
    let (description, weight, read_only) = common(&mut options);
    let served = imaged_drivers::TYPES.contains(&kind.as_str());
    let (driver, problem) = if served {
        (imaged_drivers::Config::read(&kind, &mut options), None)
    } else {
        options.accept_any();
        let what = format!(
            "this build has no driver for `{kind}`, so the store is down: use a build that has, \
             or take the store out of enabled_backends"
        );
        (None, Some(Finding::section(&name, what)))
    };
    known.extend(options.known().iter().cloned());
    let findings = options.finish();
    let usable = !served || driver.is_some();
    if !usable && findings.problems.is_empty() {
        found.problems.push(Finding::section(&name, "the store cannot be used as it is set"));
    }
    found.add(findings);
    usable.then_some(Store { name, kind, description, weight, read_only, driver, problem })
}

/// The option that names the daemon's socket, on Glance's side.
pub(super) const SOCKET: &str = "imaged_socket";

/// Options that only the Python package reads, in the file that it shares with us.
pub(super) const OF_GLANCE: [&str; 2] = [SOCKET, "imaged_timeout"];

/// The options that a store of any type has.
fn common(options: &mut Options) -> (Option<String>, i64, bool) {
    for name in OF_GLANCE {
        options.given(name);
    }
    (
        options.str("store_description"),
        options.signed("weight").unwrap_or(0),
        options.bool("imaged_read_only").unwrap_or(false),
    )
}

/// The names of the options that a store of type `kind` has.
pub(super) fn names(kind: &str) -> BTreeSet<String> {
    let mut options = Options::default();
    common(&mut options);
    // Only the names matter, not what an empty section would give.
    drop(imaged_drivers::Config::read(kind, &mut options));
    options.known().clone()
}

/// Options of `[backend_defaults]` are for any store, also of a type that is not enabled now.
fn judge_fallback(
    layers: &Layers,
    stores: &[Store],
    mut known: BTreeSet<String>,
    found: &mut Findings,
) {
    for kind in imaged_drivers::TYPES {
        known.extend(names(kind));
    }
    let unserved = stores.iter().any(|store| store.driver.is_none());
    for (name, options) in layers.section(FALLBACK) {
        let foreign = unserved || of_unserved_type(&name);
        let known = || known.iter().map(String::as_str);
        if known().any(|known| known == name) || (foreign && nearest(&name, known()).is_none()) {
            continue;
        }
        let mut reader = Options::new(FALLBACK, [(name.clone(), options)].into(), Section::new());
        reader.fail(&name, unknown(&name, known()));
        found.add(reader.finish());
    }
}

/// Whether glance_store has an option of this name for a type that this build does not serve.
fn of_unserved_type(name: &str) -> bool {
    name.split('_').any(|word| {
        word == "rados"
            || word == "rootwrap"
            || imaged_drivers::UNSERVED.iter().any(|kind| word.starts_with(kind))
    })
}

/// A misspelt section would leave a store, silently, with its defaults. A section that no one
/// reads is taken for a misspelt one if its name is near and it holds an option of the right kind.
fn misspelt_sections(layers: &Layers, stores: &[Store], found: &mut Findings) {
    let mut ours: Vec<(&str, BTreeSet<String>)> = stores
        .iter()
        .map(|store| (store.name.as_str(), names(&store.kind)))
        .chain([
            ("imaged", daemon::names()),
            ("glance_store", ["default_backend".to_owned()].into()),
            (FALLBACK, imaged_drivers::TYPES.into_iter().flat_map(names).collect()),
        ])
        .collect();
    let strangers: Vec<&str> = layers
        .names()
        .filter(|name| *name != "DEFAULT" && !name.starts_with(RESERVED))
        .filter(|name| !ours.iter().any(|(ours, _)| folded(ours) == folded(name)))
        .collect();
    ours.retain(|(name, _)| !layers.has(name));
    for (name, options) in ours {
        let near = strangers.iter().copied().find(|stranger| {
            nearest(stranger.trim(), [name]).is_some()
                && layers
                    .section(stranger)
                    .keys()
                    .any(|option| options.contains(option) || of_unserved_type(option))
        });
        if let Some(near) = near {
            let what = format!("no such section; did you mean [{name}]? That one is missing");
            found.problems.push(Finding::section(near, what));
        } else if stores.iter().any(|store| store.name == name) {
            let what = "the store has no section, so its options have their defaults";
            found.notes.push(Finding::section(name, what));
        }
    }
}

/// Says of options of stores and of the daemon where nobody reads them; `names` are the stores'.
fn misplaced(layers: &Layers, names: &[String], found: &mut Findings) {
    let any: BTreeSet<String> = imaged_drivers::TYPES.into_iter().flat_map(self::names).collect();
    let own = daemon::names();
    let mut default = Options::new("DEFAULT", layers.section("DEFAULT"), Section::new());
    default.accept_any();
    for name in layers.section("DEFAULT").keys() {
        if any.contains(name) {
            default.no_longer_matters(name, &format!("no store reads it here: {ELSEWHERE}"));
        } else if own.contains(name) {
            default
                .no_longer_matters(name, "the daemon does not read it here: write it in [imaged]");
        }
    }
    found.add(default.finish());
    let mut common_ones = Options::default();
    common(&mut common_ones);
    for section in layers.names() {
        let options = layers.section(section);
        let read = NO_STORES.iter().copied().chain(names.iter().map(String::as_str));
        let is_read = read.chain(["imaged"]).any(|read| folded(read) == folded(section));
        if is_read || section.starts_with(RESERVED) || options.is_empty() {
            continue;
        }
        let holds = |name: &String| any.contains(name) && !common_ones.known().contains(name);
        let what = if folded(section) == "default" {
            "is another section than [DEFAULT], which has capital letters, and nobody reads it"
        } else if options.keys().any(holds) {
            "holds options of a store, and no store of enabled_backends has this name: nobody reads them"
        } else {
            continue;
        };
        found.notes.push(Finding::section(section, what));
    }
}

/// The name of the default store, which is one of `names`.
fn default_backend(names: &[String], layers: &Layers, library: &mut Options) -> String {
    const NAME: &str = "default_backend";
    let Some(first) = names.first() else { return String::new() };
    for name in layers.section("glance_store").keys().filter(|name| *name != NAME) {
        let why = match name.as_str() {
            "stores" | "default_store" => {
                "enabled_backends is set, and default_backend goes with it".to_owned()
            }
            name if nearest(name, [NAME]).is_some() => format!("did you mean `{NAME}`?"),
            _ => format!("enabled_backends is set: {ELSEWHERE}"),
        };
        library.no_longer_matters(name, &why);
    }
    match library.str(NAME) {
        Some(name) if names.contains(&name) => return name,
        Some(name) => {
            let what = match nearest(&name, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the stores are {}:", names.join(", ")),
            };
            library.fail(NAME, format!("no such store; {what} value={}", shown(&name)));
        }
        // A value that is given but cannot be read has been told already.
        None if library.given(NAME) => {}
        None if names.len() == 1 => return first.clone(),
        None => {
            let what = format!("not set, and there are several stores: write `{NAME} = {first}`");
            library.fail(NAME, what);
        }
    }
    String::new()
}

/// Says why there is no `enabled_backends`, as well as it can be guessed.
fn missing(layers: &Layers, options: &mut Options, library: &mut Options) -> Findings {
    let section = layers.section("DEFAULT");
    if let Some(near) = nearest_key(&section).filter(|near| near != BACKENDS) {
        options.fail(&near, format!("no such option; did you mean `{BACKENDS}`?"));
        return Findings::default();
    }
    let elsewhere = layers
        .names()
        .find(|name| *name != "DEFAULT" && layers.section(name).contains_key(BACKENDS));
    if let Some(name) = elsewhere {
        let mut reader = Options::new(name, layers.section(name), Section::new());
        reader.accept_any();
        reader.fail(BACKENDS, "belongs to [DEFAULT]: move it there");
        return reader.finish();
    }
    let old: Vec<String> =
        library.str("default_store").into_iter().chain(library.list("stores")).collect();
    let Some(option) = ["default_store", "stores"].into_iter().find(|name| library.given(name))
    else {
        let what = "not set: name the stores and their types, such as `enabled_backends = \
                    local:file`";
        options.fail(BACKENDS, what);
        return Findings::default();
    };
    let mut kinds: Vec<&str> = Vec::new();
    for kind in old.iter().map(|kind| if kind == "filesystem" { "file" } else { kind }) {
        let plain = kind.chars().all(|c| c.is_ascii_graphic() && c != ':');
        if plain && !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        kinds.push("file");
    }
    let entries: Vec<_> = kinds.iter().map(|kind| format!("{kind}:{kind}")).collect();
    let first = kinds.first().copied().unwrap_or("file");
    library.fail(
        option,
        format!(
            "a single store is no longer set so: write `{BACKENDS} = {}` in [DEFAULT] and \
             `default_backend = {first}` here, and move the options of each store to a section of \
             its name, such as [{first}]",
            entries.join(", "),
        ),
    );
    Findings::default()
}

/// The option that was probably meant to be `enabled_backends`.
fn nearest_key(section: &Section) -> Option<String> {
    section.keys().find(|key| nearest(key, [BACKENDS]).is_some()).cloned()
}
