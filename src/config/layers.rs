//! Files laid over each other, and the `$` references in their values.

use std::{cell::Cell, collections::BTreeMap};

use imaged_drivers::options::{Finding, Section, Unresolved, Value};

use super::ini::{self, Item};

/// References may lead so far, as a chain.
const DEEPEST: usize = 32;
/// A value may be made of so many bytes: references to references grow fast.
const LONGEST: usize = 1 << 16;
/// The one variable of the environment that a reference may name: the directory in which systemd has
/// put what the unit's `LoadCredential=` names.
///
/// # Decisions
/// Chose: this variable alone, and only where no option has its name. Because: a file that Glance reads
/// must mean the same here, and a password may begin with `$HOME`. Instead of the whole environment.
pub(super) const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What all files say together. As in oslo.config a later value is added to an earlier one:
/// single options take the last, repeated ones take all. Names of sections are compared in lower
/// case, but for `DEFAULT`.
#[derive(Debug, Default)]
pub(super) struct Layers {
    sections: BTreeMap<String, Spelled>,
    /// The value of [`CREDENTIALS`], if it is set.
    credentials: Option<String>,
}

/// A value, or why it has none.
pub(super) type MeantOne = Result<String, Unresolved>;
/// All values of an option.
pub(super) type Meant = Result<Vec<String>, Unresolved>;

#[derive(Debug, Default)]
struct Spelled {
    name: String,
    options: BTreeMap<String, Vec<Written>>,
}

#[derive(Clone, Debug)]
struct Written {
    text: String,
    at: String,
}

impl Layers {
    /// None yet, where [`CREDENTIALS`] has this value, or is not set.
    pub(super) fn with(credentials: Option<String>) -> Self {
        Self { credentials, ..Self::default() }
    }

    /// Lays `text`, the content of the file `name`, over what is there. Gives what is wrong.
    pub(super) fn lay(&mut self, name: &str, text: &str) -> Vec<Finding> {
        let (items, faults) = ini::items(text);
        let mut current = None;
        for item in items {
            match item {
                Item::Section(title) => {
                    let section = self.sections.entry(folded(&title)).or_default();
                    if section.name.is_empty() {
                        section.name = title;
                    }
                    current = Some(section);
                }
                Item::Option(assignment) => {
                    if let Some(section) = &mut current {
                        section.options.entry(assignment.name).or_default().push(Written {
                            text: assignment.value,
                            at: format!("{name}:{}", assignment.line),
                        });
                    }
                }
            }
        }
        let finding =
            |fault: ini::Fault| Finding::place(format_args!("{name}:{}", fault.line), fault.what);
        faults.into_iter().map(finding).collect()
    }

    /// Whether a section of this name is there.
    pub(super) fn has(&self, section: &str) -> bool {
        self.sections.contains_key(&folded(section))
    }

    /// The names of all sections as they are written.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.values().map(|section| section.name.as_str())
    }

    /// The options of a section, their references resolved; empty if it is not there.
    pub(super) fn section(&self, section: &str) -> Section {
        self.resolved(section, |written, meant| {
            Value::new(written.text.clone(), meant, written.at.clone())
        })
    }

    /// The same, but of each value only what it means.
    pub(super) fn meant_values(&self, section: &str) -> BTreeMap<String, Vec<MeantOne>> {
        self.resolved(section, |_written, meant| meant)
    }

    fn resolved<T>(
        &self,
        section: &str,
        value: impl Fn(&Written, MeantOne) -> T,
    ) -> BTreeMap<String, Vec<T>> {
        let Some(found) = self.sections.get(&folded(section)) else { return BTreeMap::new() };
        let value = |written: &Written| {
            let fuel = Cell::new(LONGEST);
            value(written, self.meant(section, &written.text, &mut Vec::new(), &fuel))
        };
        let options = found.options.iter();
        options.map(|(name, values)| (name.clone(), values.iter().map(&value).collect())).collect()
    }

    /// `text` of `section` with `$name`, `${name}`, `$section.name` and `${section.name}`
    /// replaced; `$$` and `\$` are a dollar sign, any other `$` stays. `$CREDENTIALS_DIRECTORY` is
    /// that of the environment.
    fn meant(
        &self,
        section: &str,
        text: &str,
        path: &mut Vec<(String, String)>,
        fuel: &Cell<usize>,
    ) -> Result<String, Unresolved> {
        if !text.contains('$') && path.is_empty() {
            return Ok(text.to_owned());
        }
        if path.len() > DEEPEST {
            return Err(Unresolved::Long);
        }
        fuel.set(fuel.get().checked_sub(text.len()).ok_or(Unresolved::Long)?);
        let text = text.replace("\\$", "$$");
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = reference(after) {
                out.push_str(&self.referred(section, name, path, fuel)?);
                rest = after;
            } else {
                out.push('$');
                rest = after;
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The value of the option that `$name` means in `section`.
    fn referred(
        &self,
        section: &str,
        name: &str,
        path: &mut Vec<(String, String)>,
        fuel: &Cell<usize>,
    ) -> Result<String, Unresolved> {
        let (group, option) = name.split_once('.').unwrap_or((section, name));
        let last = |section: &str, option: &str| {
            self.sections.get(&folded(section))?.options.get(option)?.last()
        };
        let (group, option, written) = match (last(group, option), last("DEFAULT", name)) {
            (Some(written), _) => (group, option, written),
            (None, Some(written)) => ("DEFAULT", name, written),
            (None, None) if name == CREDENTIALS => {
                let set = self.credentials.clone();
                return set.ok_or(Unresolved::Unset(CREDENTIALS));
            }
            (None, None) => return Err(Unresolved::Unknown(name.to_owned())),
        };
        let step = (folded(group), option.to_owned());
        if path.contains(&step) {
            return Err(Unresolved::Loop(name.to_owned()));
        }
        path.push(step);
        let meant = self.meant(group, &written.text, path, fuel)?;
        path.pop();
        Ok(meant)
    }
}

/// The name after a `$`, in braces or not, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (braced, text) = match text.strip_prefix('{') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let more = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if !text.starts_with(first) {
        return None;
    }
    let end = text.find(|c| !more(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    if braced { Some((name, rest.strip_prefix('}')?)) } else { Some((name, rest)) }
}

/// The name of a section as it is compared.
pub(super) fn folded(section: &str) -> String {
    if section == "DEFAULT" { section.to_owned() } else { section.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use imaged_drivers::options::Options;

    use super::*;

    fn layers(text: &str) -> Layers {
        let mut layers = Layers::default();
        assert_eq!(layers.lay("a.conf", text), []);
        layers
    }

    fn meant(text: &str) -> Result<String, Unresolved> {
        let layers = layers(
            "[DEFAULT]\nroot = /srv\nnote = $missing\n[s]\nname = images\nhere = $root/$name\n\
             loop = ${pool}\npool = $loop\n[Other]\nname = $root/other\nempty =\n",
        );
        layers.meant("s", text, &mut Vec::new(), &Cell::new(LONGEST))
    }

    #[test]
    fn references_are_replaced_in_both_spellings() {
        for (text, want) in [
            ("$root/x", "/srv/x"),
            ("${root}x", "/srvx"),
            ("$name", "images"),
            ("$DEFAULT.root", "/srv"),
            ("$other.name", "/srv/other"),
            ("${OTHER.name}!", "/srv/other!"),
            ("$here", "/srv/images"),
            ("[$other.empty]", "[]"),
            ("$$name", "$name"),
            ("\\$name", "$name"),
            ("$$$name", "$images"),
            ("$", "$"),
            ("5$", "5$"),
            ("$5 ${", "$5 ${"),
            ("${name", "${name"),
            ("${}", "${}"),
            ("$é", "$é"),
            ("plain", "plain"),
        ] {
            assert_eq!(meant(text).as_deref(), Ok(want), "{text:?}");
        }
    }

    #[test]
    fn references_without_a_value_are_told_by_name() {
        assert_eq!(meant("a$missing"), Err(Unresolved::Unknown("missing".into())));
        assert_eq!(meant("$note"), Err(Unresolved::Unknown("missing".into())));
        assert_eq!(meant("$name."), Err(Unresolved::Unknown("name.".into())));
        assert_eq!(meant("$loop"), Err(Unresolved::Loop("loop".into())));
    }

    #[test]
    fn the_directory_of_credentials_is_the_environments_unless_an_option_has_its_name() {
        let text = "[DEFAULT]\nroot = $CREDENTIALS_DIRECTORY\n[s]\n";
        let mut layers = layers(text);
        let meant = |layers: &Layers, text: &str| {
            layers.meant("s", text, &mut Vec::new(), &Cell::new(LONGEST))
        };
        for text in ["${CREDENTIALS_DIRECTORY}/a", "$CREDENTIALS_DIRECTORY/a", "$root/a"] {
            assert_eq!(meant(&layers, text), Err(Unresolved::Unset(CREDENTIALS)), "{text}");
        }
        // What it says is not read for references.
        layers.credentials = Some("/run/credentials/$root".to_owned());
        for text in ["${CREDENTIALS_DIRECTORY}/a", "$CREDENTIALS_DIRECTORY/a", "$root/a"] {
            assert_eq!(meant(&layers, text).as_deref(), Ok("/run/credentials/$root/a"), "{text}");
        }
        for text in
            ["$$CREDENTIALS_DIRECTORY", "$credentials_directory", "$s.CREDENTIALS_DIRECTORY"]
        {
            assert_ne!(meant(&layers, text).as_deref(), Ok("/run/credentials/$root"), "{text}");
        }
        assert_eq!(layers.lay("b.conf", "[s]\nCREDENTIALS_DIRECTORY = own\n"), []);
        assert_eq!(meant(&layers, "$CREDENTIALS_DIRECTORY").as_deref(), Ok("own"));
    }

    #[test]
    fn references_that_multiply_end_soon() {
        let mut text = "[s]\nx0 = aaaaaaaaaaaaaaaa\n".to_owned();
        for i in 1..30 {
            text.push_str(&format!("x{i} = $x{0}$x{0}\n", i - 1));
        }
        let layers = layers(&text);
        let fuel = Cell::new(LONGEST);
        assert_eq!(layers.meant("s", "$x29", &mut Vec::new(), &fuel), Err(Unresolved::Long));
        let fuel = Cell::new(LONGEST);
        assert!(layers.meant("s", "$x5", &mut Vec::new(), &fuel).is_ok());
    }

    #[test]
    fn later_files_override_single_options_and_add_to_repeated_ones() {
        let mut layers = layers("[Fast]\na = 1\na = 2\nb = 1\n[DEFAULT]\nx = 0\n");
        assert_eq!(layers.lay("b.conf", "[fast]\na = 3\n[default]\nx = 1\n"), []);
        let mut options = Options::new("fast", layers.section("FAST"), Section::new());
        assert_eq!(options.multi("a"), ["1", "2", "3"]);
        assert_eq!(options.str("a").as_deref(), Some("3"));
        assert_eq!(options.str("b").as_deref(), Some("1"));
        assert_eq!(layers.names().collect::<Vec<_>>(), ["DEFAULT", "default", "Fast"]);
    }

    #[test]
    fn a_value_has_its_file_and_line() {
        let layers = layers("[s]\n\na = one\n");
        let mut options = Options::new("s", layers.section("s"), Section::new());
        options.int("a", 0..=1);
        assert_eq!(
            options.finish().problems.first().unwrap().to_string(),
            "a.conf:3: [s] a: must be a whole number from 0 to 1: value=`one`"
        );
    }
}
