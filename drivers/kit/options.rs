//! How a driver reads its section of the configuration.
//!
//! A driver asks [`Options`] for each option by name; what is wrong is noted on the way, and
//! whatever the section holds that nobody asked for is wrong too. So the list of known names is
//! the code that reads them.
//!
//! As in glance_store, each option comes from the store's own section, else from
//! `[backend_defaults]`, else it has the default that the driver gives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest time that any option may set: nothing that waits is to outlive those who could mend it,
/// and a point in time that is further away could not be told.
pub const LONGEST: Duration = Duration::from_hours(24);

/// The section that all stores fall back to.
pub const FALLBACK: &str = "backend_defaults";

/// Options by name, each with every value it was given, in order.
pub type Section = BTreeMap<String, Vec<Value>>;

/// One value of an option, as it was written and as it is meant.
///
/// `Debug` shows the place only: the text may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    written: String,
    meant: Result<String, Unresolved>,
    at: Option<String>,
}

impl Value {
    /// A value written as `written` at `at` (a file and its line), whose `$` references came out
    /// as `meant`.
    #[must_use]
    pub fn new(written: String, meant: Result<String, Unresolved>, at: String) -> Self {
        Self { written, meant, at: Some(at) }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self { written: text.to_owned(), meant: Ok(text.to_owned()), at: None }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Why a `$` reference has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// No option of this name is set.
    Unknown(String),
    /// This name leads back to itself.
    Loop(String),
    /// The value grows beyond all measure.
    Long,
    /// It is a variable of the environment, and not set.
    Unset(&'static str),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(other) => write!(
                f,
                "`${other}` is set neither in this section nor in [DEFAULT]: set it, or write `$$` \
                 for a dollar sign"
            ),
            Self::Loop(other) => {
                write!(f, "`${other}` leads back to itself: write its value out")
            }
            Self::Long => f.write_str("grows too long: write its value out"),
            Self::Unset(variable) => write!(
                f,
                "the environment has no {variable}: systemd sets it for a service with \
                 LoadCredential=; elsewhere set it to the directory that has these files"
            ),
        }
    }
}

/// Text that is never shown: it has no `Display`, and its `Debug` is three dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text. Hand it to what needs it and to nothing that prints.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// One thing to say about a configuration. `Display` gives it as one line.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The file, and the line where there is one.
    pub at: Option<String>,
    /// The section.
    pub section: Option<String>,
    /// The option.
    pub option: Option<String>,
    /// What there is to say, with the remedy.
    pub what: String,
}

impl Finding {
    /// `what` about `option` in `section`.
    pub fn new(section: &str, option: &str, what: impl Into<String>) -> Self {
        Self {
            at: None,
            section: Some(section.to_owned()),
            option: Some(option.to_owned()),
            what: what.into(),
        }
    }

    /// `what` about `section` as a whole.
    pub fn section(section: &str, what: impl Into<String>) -> Self {
        Self { at: None, section: Some(section.to_owned()), option: None, what: what.into() }
    }

    /// `what` about the place `at`, a file or a line of one.
    pub fn place(at: impl fmt::Display, what: impl Into<String>) -> Self {
        Self { at: Some(at.to_string()), section: None, option: None, what: what.into() }
    }

    /// The same finding with its place.
    #[must_use]
    pub fn at(mut self, at: Option<String>) -> Self {
        self.at = at;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at}: ")?;
        }
        match (&self.section, &self.option) {
            (Some(section), Some(option)) => write!(f, "[{section}] {option}: ")?,
            (Some(section), None) => write!(f, "[{section}]: ")?,
            (None, Some(option)) => write!(f, "{option}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Finding {}

/// What reading a configuration has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What must be mended.
    pub problems: Vec<Finding>,
    /// What is good to know.
    pub notes: Vec<Finding>,
}

impl Findings {
    /// Adds what `other` found, each finding once: two stores may share one mistake.
    pub fn add(&mut self, other: Self) {
        for (mine, theirs) in [(&mut self.problems, other.problems), (&mut self.notes, other.notes)]
        {
            for finding in theirs {
                if !mine.contains(&finding) {
                    mine.push(finding);
                }
            }
        }
    }
}

/// A section being read.
///
/// An option that is blank (`name =`) counts as not set, and hides the one in
/// `[backend_defaults]` unless it is a number or a truth.
#[derive(Debug, Default)]
pub struct Options {
    section: String,
    own: Section,
    fallback: Section,
    asked: BTreeSet<String>,
    /// Which of them may have several values.
    several: BTreeSet<String>,
    /// Which of them are secret, of whose values nothing is said.
    secrets: BTreeSet<String>,
    open: bool,
    found: Findings,
}

struct Found {
    text: String,
    value: Value,
    section: String,
}

impl Options {
    /// The section `section` with its options, and those of `[backend_defaults]`.
    pub fn new(section: impl Into<String>, own: Section, fallback: Section) -> Self {
        Self { section: section.into(), own, fallback, ..Self::default() }
    }

    /// A section of these options, without defaults behind it. A name given twice has two values.
    pub fn of(section: impl Into<String>, options: &[(&str, &str)]) -> Self {
        let mut own = Section::new();
        for (name, text) in options {
            own.entry((*name).to_owned()).or_default().push((*text).into());
        }
        Self::new(section, own, Section::new())
    }

    /// The name of the section.
    #[must_use]
    pub fn section(&self) -> &str {
        &self.section
    }

    /// Whether `name` was given a value that is not blank.
    pub fn given(&mut self, name: &str) -> bool {
        self.look(name, false).is_some_and(|(value, _)| !value.written.trim().is_empty())
    }

    /// Text; `None` if unset or blank.
    pub fn str(&mut self, name: &str) -> Option<String> {
        let found = self.find(name, false, false)?;
        if has_indented_comment(&found.text) {
            self.wrong(name, &found, INDENTED_COMMENT);
            return None;
        }
        Some(found.text).filter(|text| !text.is_empty())
    }

    /// Text, or `default` if unset or blank.
    pub fn text(&mut self, name: &str, default: &str) -> String {
        self.str(name).unwrap_or_else(|| default.to_owned())
    }

    /// Text that no message shows; `None` if unset or blank.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        self.secrets.insert(name.to_owned());
        let found = self.find(name, false, true)?;
        Some(found.text).filter(|text| !text.is_empty()).map(Secret)
    }

    /// An absolute path; `None` if unset or blank.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        let text = self.str(name)?;
        if Path::new(&text).is_absolute() && !text.contains(['\0', '\n']) {
            return Some(text.into());
        }
        let mut what = format!("must be an absolute path: value={}", shown(&text));
        if text.contains('\n') {
            what = format!("{what}: {INDENTED_LINE}");
        }
        self.fail(name, what);
        None
    }

    /// A whole number within `range`.
    pub fn int(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let (low, high) = range.into_inner();
        let want = match (low, high) {
            (0, u64::MAX) => "a whole number, not negative".to_owned(),
            (low, u64::MAX) => format!("a whole number, at least {low}"),
            _ => format!("a whole number from {low} to {high}"),
        };
        self.number(name, &want, |number| {
            u64::try_from(number).ok().filter(|number| (low..=high).contains(number))
        })
    }

    /// A time in whole seconds, from `least` up to [`LONGEST`].
    pub fn seconds(&mut self, name: &str, least: u64) -> Option<Duration> {
        self.int(name, least..=LONGEST.as_secs()).map(Duration::from_secs)
    }

    /// A whole number of either sign.
    pub fn signed(&mut self, name: &str) -> Option<i64> {
        self.number(name, "a whole number", |number| i64::try_from(number).ok())
    }

    /// The mode of a file, written in octal digits with or without a leading zero. As in
    /// glance_store, 0 and below mean none and give 0.
    pub fn mode(&mut self, name: &str) -> Option<u32> {
        self.number(name, "a mode in octal digits, such as 0640", |number| {
            if number <= 0 {
                return Some(0);
            }
            u32::from_str_radix(&number.to_string(), 8).ok().filter(|mode| *mode <= 0o7777)
        })
    }

    fn number<T>(
        &mut self,
        name: &str,
        want: &str,
        accept: impl FnOnce(i128) -> Option<T>,
    ) -> Option<T> {
        let found = self.find(name, true, false)?;
        let accepted = integer(&found.text).and_then(accept);
        if accepted.is_none() {
            self.refuse(name, &found, want);
        }
        accepted
    }

    /// `true` `1` `on` `yes`, or `false` `0` `off` `no`, in any case.
    pub fn bool(&mut self, name: &str) -> Option<bool> {
        let found = self.find(name, true, false)?;
        match found.text.to_ascii_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Some(true),
            "false" | "0" | "off" | "no" => Some(false),
            _ => {
                self.refuse(name, &found, "true or false");
                None
            }
        }
    }

    /// One of `choices`, spelled exactly.
    pub fn choice<'a>(&mut self, name: &str, choices: &[&'a str]) -> Option<&'a str> {
        let found = self.find(name, false, false).filter(|found| !found.text.is_empty())?;
        let chosen = choices.iter().find(|choice| **choice == found.text);
        if chosen.is_none() {
            self.refuse(name, &found, &format!("one of {}", choices.join(", ")));
        }
        chosen.copied()
    }

    /// Items between commas, in order, without blank ones; empty if unset.
    pub fn list(&mut self, name: &str) -> Vec<String> {
        let text = self.str(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// Every value of an option that may be repeated, in order, without blank ones.
    pub fn multi(&mut self, name: &str) -> Vec<String> {
        self.asked.insert(name.to_owned());
        self.several.insert(name.to_owned());
        let Some((values, section)) = self.values(name) else { return Vec::new() };
        let (values, section) = (values.to_vec(), section.to_owned());
        let mut texts = Vec::new();
        for value in values {
            let Some(found) = self.resolve(name, value, section.clone(), false) else { continue };
            if has_indented_comment(&found.text) {
                self.wrong(name, &found, INDENTED_COMMENT);
            } else if !found.text.trim().is_empty() {
                texts.push(found.text);
            }
        }
        texts
    }

    /// Accepts an option of glance_store that changes nothing here, saying `why` if it is set.
    pub fn no_longer_matters(&mut self, name: &str, why: &str) {
        if let Some((value, section)) = self.look(name, false) {
            let note = Finding::new(&section, name, format!("changes nothing: {why}"));
            self.found.notes.push(note.at(value.at));
        }
    }

    /// Notes that the value of `name` is wrong. `what` ends in the remedy, and shows no secret. That
    /// the value holds what was meant for a comment is added here.
    pub fn fail(&mut self, name: &str, what: impl Into<String>) {
        let mut what = what.into();
        if self.commented(name).is_some() {
            what = format!("{what}: {INLINE_COMMENT}");
        }
        let finding = self.about(name, what);
        self.found.problems.push(finding);
    }

    /// The last value of `name` that seems to end in a comment.
    fn commented(&self, name: &str) -> Option<(&Value, &str)> {
        let own = self.own.get(name).map(|values| (values, self.section.as_str()));
        let (values, section) =
            own.or_else(|| self.fallback.get(name).map(|values| (values, FALLBACK)))?;
        let value = values.iter().rfind(|value| has_inline_comment(&value.written))?;
        (!self.secrets.contains(name)).then_some((value, section))
    }

    /// Notes something about `name` that is good to know.
    pub fn note(&mut self, name: &str, what: impl Into<String>) {
        let finding = self.about(name, what.into());
        self.found.notes.push(finding);
    }

    /// Lets the section hold options that nobody asks for.
    pub fn accept_any(&mut self) {
        self.open = true;
    }

    /// The names that were asked for so far.
    #[must_use]
    pub fn known(&self) -> &BTreeSet<String> {
        &self.asked
    }

    /// Ends the reading: everything found, and every option of the section's own that nobody
    /// asked for. Those of `[backend_defaults]` are for another store to ask for.
    #[must_use]
    pub fn finish(mut self) -> Findings {
        if !self.open {
            for (name, values) in &self.own {
                if !self.asked.contains(name) {
                    let at = values.last().and_then(|value| value.at.clone());
                    let what = unknown(name, self.asked.iter().map(String::as_str));
                    self.found.problems.push(Finding::new(&self.section, name, what).at(at));
                }
            }
        }
        self.note_swallowed();
        self.found
    }

    /// All values of an option, and of which section they are: where the own one has any, no others count.
    fn values(&self, name: &str) -> Option<(&[Value], &str)> {
        let own = self.own.get(name).map(|values| (values.as_slice(), self.section.as_str()));
        own.or_else(|| self.fallback.get(name).map(|values| (values.as_slice(), FALLBACK)))
    }

    /// The value that counts of an option that one file sets twice, and where that has another for it. A later
    /// file is meant to be over an earlier one.
    fn set_twice(&self, name: &str) -> Option<(&Value, &str, &str)> {
        let (values, section) = self.values(name)?;
        let (last, before) = values.split_last()?;
        let (file, _) = last.at.as_ref()?.rsplit_once(':')?;
        let before = before.iter().filter(|value| value.written != last.written);
        let mut before = before.filter_map(|value| value.at.as_deref()?.rsplit_once(':'));
        let (_, line) = before.rfind(|(other, _)| *other == file)?;
        (!self.several.contains(name)).then_some((last, section, line))
    }

    /// Says of each value that was taken as it is, and holds a line or a comment that was hardly meant
    /// to be in it, or took the place of another.
    fn note_swallowed(&mut self) {
        let told = |name: &str| {
            self.found.problems.iter().any(|finding| finding.option.as_deref() == Some(name))
        };
        let names = self.asked.iter().filter(|name| !told(name)).cloned();
        for name in names.collect::<Vec<_>>() {
            if let Some((value, section)) = self.commented(&name) {
                let note = Finding::new(section, &name, INLINE_COMMENT).at(value.at.clone());
                self.found.notes.push(note);
            }
            if let Some((value, section, line)) = self.set_twice(&name) {
                let what = format!(
                    "has another value in line {line} of the same file, which does not count: remove one"
                );
                let note = Finding::new(section, &name, what).at(value.at.clone());
                self.found.notes.push(note);
            }
            if let Some((value, section)) = self.look(&name, false)
                && let Some(option) = swallowed(&value.written)
                && !self.secrets.contains(&name)
            {
                let what = format!(
                    "the indented line behind it is part of its value, and no option `{option}`: \
                     begin that in the first column"
                );
                self.found.notes.push(Finding::new(&section, &name, what).at(value.at));
            }
        }
    }

    fn about(&mut self, name: &str, what: String) -> Finding {
        let (at, section) = match self.look(name, false) {
            Some((value, section)) => (value.at, section),
            None => (None, self.section.clone()),
        };
        Finding::new(&section, name, what).at(at)
    }

    /// The value that counts, and the section it is in.
    fn look(&mut self, name: &str, skip_blank: bool) -> Option<(Value, String)> {
        self.asked.insert(name.to_owned());
        [(&self.own, self.section.as_str()), (&self.fallback, FALLBACK)].into_iter().find_map(
            |(section, title)| {
                let value = section.get(name)?.last()?;
                let blank = value.written.trim().is_empty();
                (!(skip_blank && blank)).then(|| (value.clone(), title.to_owned()))
            },
        )
    }

    fn find(&mut self, name: &str, skip_blank: bool, secret: bool) -> Option<Found> {
        let (value, section) = self.look(name, skip_blank)?;
        self.resolve(name, value, section, secret)
    }

    fn resolve(
        &mut self,
        name: &str,
        value: Value,
        section: String,
        secret: bool,
    ) -> Option<Found> {
        let what = match &value.meant {
            Ok(text) => return Some(Found { text: text.clone(), value, section }),
            Err(_) if secret => {
                "a `$` in it refers to an option that has no value: write `$$` for a dollar sign"
                    .to_owned()
            }
            Err(why) => why.to_string(),
        };
        self.found.problems.push(Finding::new(&section, name, what).at(value.at));
        None
    }

    /// Shows what was written, not what it came out as: a reference may lead to a secret.
    fn refuse(&mut self, name: &str, found: &Found, want: &str) {
        let written = &found.value.written;
        let mut what = format!("must be {want}: value={}", shown(written));
        let causes = [
            (has_indented_comment(written), INDENTED_COMMENT),
            (has_inline_comment(written), INLINE_COMMENT),
            (written.trim().contains('\n'), INDENTED_LINE),
        ];
        if let Some((_, cause)) = causes.into_iter().find(|(is_so, _)| *is_so) {
            what = format!("{what}: {cause}");
        }
        self.wrong(name, found, what);
    }

    fn wrong(&mut self, name: &str, found: &Found, what: impl Into<String>) {
        let finding = Finding::new(&found.section, name, what);
        self.found.problems.push(finding.at(found.value.at.clone()));
    }
}

const INDENTED_COMMENT: &str =
    "an indented comment became part of the value: begin the comment in the first column";
const INLINE_COMMENT: &str = "what seems to be a comment behind the value is part of it: write the \
                              comment on a line of its own, from the first column on";
const INDENTED_LINE: &str =
    "the indented line behind it is part of the value: begin that line in the first column";

/// Whether a line after the first begins as a comment. An indented comment is no comment to oslo.config
/// but the next line of the value.
fn has_indented_comment(text: &str) -> bool {
    text.lines().skip(1).any(|line| line.starts_with(['#', ';']))
}

/// Whether `text` looks as if it ended in a comment, which oslo.config does not know there.
fn has_inline_comment(text: &str) -> bool {
    let mut chars = text.chars().zip(text.chars().skip(1));
    chars.any(|(before, c)| matches!(c, '#' | ';') && before.is_whitespace())
}

/// The name of the option that an indented line was probably meant to set: oslo.config takes the line
/// for more of the value before it.
fn swallowed(text: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.lines().skip(1).filter_map(|line| line.split_once('=')).map(|(name, _)| name);
    names.map(str::trim_end).find(|name| name.contains('_') && name.chars().all(plain))
}

/// What to say of the option `name` that is none of `known`.
#[must_use]
pub fn unknown<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!("no such option; did you mean `{near}`?"),
        None => "no such option here: remove it, or move it to the section it belongs to".into(),
    }
}

/// The one of `known` that `name` was probably meant to be.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = plain(name);
    let limit = match name.chars().count() {
        0..=2 => 1,
        length => (length / 4).max(2),
    };
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let other = plain(candidate);
        let part = name.len() > 3
            && (other.ends_with(&format!("_{name}")) || other.starts_with(&format!("{name}_")));
        let far = if part { 1 } else { strsim::damerau_levenshtein(&name, &other) };
        if far <= limit && best.is_none_or(|(least, _)| far < least) {
            best = Some((far, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn plain(name: &str) -> String {
    name.chars().take(100).collect::<String>().to_lowercase().replace(['-', ' '], "_")
}

/// `text` in backticks, on one line and not too long.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push_str("...");
    }
    format!("`{}`", short.replace("\\\"", "\"").replace("\\'", "'"))
}

/// A whole number as Python's `int()` reads it: a sign, digits, single underscores between them.
fn integer(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let grouped = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|digit| digit.is_ascii_digit()));
    if !grouped {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests;
