//! The lexer of oslo.config's INI dialect.
//!
//! # Decisions
//! Chose: the rules of `oslo_config.iniparser`, line for line. Because: a configuration that
//! Glance reads must mean the same here, and every value needs its line for the messages. Instead
//! of the crate `rust-ini`, whose values differ whatever its options: a value that ends in a
//! backslash swallows the next line, a line without `=` becomes part of the next option's name, a
//! password that begins with a quote runs to the next quote, and an empty first line is lost.

use std::{collections::BTreeMap, fmt};

/// Sections of options of values, as oslo.config's parser has them.
pub type Raw = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// One section heading or one value, in the order of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// `[name]`
    Section(String),
    /// `name = value`
    Option(Assignment),
}

/// One value of one option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    /// Lines of a continued value are joined by line feeds.
    pub(super) value: String,
    /// Counted from 1; the first one of a continued value.
    pub(super) line: usize,
}

/// A line that cannot be read. It is not shown: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it, and the remedy.
    pub what: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for Fault {}

/// The values of `text` as oslo.config's own parser would have them: nothing is interpolated, and
/// the names of sections are as written.
///
/// # Errors
/// Every line that cannot be read.
pub fn raw(text: &str) -> Result<Raw, Vec<Fault>> {
    let (items, faults) = items(text);
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut raw = Raw::new();
    let mut section = String::new();
    for item in items {
        match item {
            Item::Section(name) => {
                raw.entry(name.clone()).or_default();
                section = name;
            }
            Item::Option(Assignment { name, value, .. }) => {
                raw.entry(section.clone()).or_default().entry(name).or_default().push(value);
            }
        }
    }
    Ok(raw)
}

/// What `text` says, and every line that cannot be read.
pub(super) fn items(text: &str) -> (Vec<Item>, Vec<Fault>) {
    let mut items = Vec::new();
    let mut faults = Vec::new();
    let mut open = None::<Assignment>;
    let mut in_section = false;
    for (line, text) in (1..).zip(lines(text)) {
        let mut text = text.trim_end_matches(blank);
        // Also inside: where files that begin so were joined.
        if let Some(rest) = text.strip_prefix('\u{feff}') {
            faults.push(Fault { line, what: MARK });
            text = rest;
        }
        if text.starts_with([' ', '\t'])
            && let Some(open) = &mut open
        {
            open.value.push('\n');
            open.value.push_str(text.trim_start_matches(blank));
            continue;
        }
        items.extend(open.take().map(Item::Option));
        match line_of(text, line) {
            Ok(None) => {}
            Ok(Some(Item::Section(name))) => {
                in_section = true;
                items.push(Item::Section(name));
            }
            Ok(Some(Item::Option(_))) if !in_section => faults.push(Fault {
                line,
                what: "an option stands before any section: begin with [DEFAULT]",
            }),
            Ok(Some(Item::Option(assignment))) => open = Some(assignment),
            Err(what) => faults.push(Fault { line, what }),
        }
    }
    items.extend(open.map(Item::Option));
    (items, faults)
}

const MARK: &str = "a byte order mark, which editors do not show, stands before the text, and Glance does \
                    not read the file either: save it as UTF-8 without one";

/// What a line says that continues none.
fn line_of(text: &str, line: usize) -> Result<Option<Item>, &'static str> {
    if text.is_empty() || text.starts_with(['#', ';']) {
        return Ok(None);
    }
    if text.starts_with([' ', '\t']) {
        return Err("an indented line follows no option: begin it in the first column");
    }
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.strip_suffix(']') {
            Some("") => Err("a section has no name: write it between the brackets"),
            Some(name) => Ok(Some(Item::Section(name.to_owned()))),
            None => Err("a section ends in `]`: close the bracket, with nothing behind it"),
        };
    }
    let Some((name, value)) = text.split_once(['=', ':']) else {
        return Err("no `=` in the line: write `name = value`, or `#` before a comment");
    };
    let name = name.trim_matches(blank);
    if name.is_empty() {
        return Err("an option has no name: write it before the `=`");
    }
    let value = unquoted(value.trim_matches(blank)).to_owned();
    Ok(Some(Item::Option(Assignment { name: name.to_owned(), value, line })))
}

/// `value` without the same quote at both ends; a lone quote is both.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return if rest.is_empty() { rest } else { rest.strip_suffix(quote).unwrap_or(value) };
        }
    }
    value
}

/// Lines that end as Python's text files have them: `\n`, `\r\n` or `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// What Python's `str.strip` takes away.
fn blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Vec<String> {
        let raw = raw(text).unwrap();
        raw["s"].get("a").cloned().unwrap_or_default()
    }

    #[test]
    fn values_are_what_oslo_config_makes_of_them() {
        for (text, values) in [
            ("[s]\na = 1", vec!["1"]),
            ("[s]\na: 1", vec!["1"]),
            ("[s]\na = b:c=d", vec!["b:c=d"]),
            ("[s]\na:b=c", vec!["b=c"]),
            ("[s]\na = p#ss;w  # rd", vec!["p#ss;w  # rd"]),
            ("[s]\na = \" 1 \"", vec![" 1 "]),
            ("[s]\na = '1'", vec!["1"]),
            ("[s]\na = \"1'", vec!["\"1'"]),
            ("[s]\na = \"", vec![""]),
            ("[s]\na = \"\"", vec![""]),
            ("[s]\na = \"x\" and \"y\"", vec!["x\" and \"y"]),
            ("[s]\na = x\\", vec!["x\\"]),
            ("[s]\na = \\n\\t", vec!["\\n\\t"]),
            ("[s]\na =", vec![""]),
            ("[s]\na =\n  x,\n\ty  \n", vec!["\nx,\ny"]),
            ("[s]\na = 1\n  # no comment\n", vec!["1\n# no comment"]),
            ("[s]\na = \"1\"\n  \"2\"\n", vec!["1\n\"2\""]),
            ("[s]\na = 1\na = 2\n[t]\na = 9\n[s]\na = 3", vec!["1", "2", "3"]),
            ("[s]\r\na = 1\r\n  2\r\n", vec!["1\n2"]),
            ("[s]\ra = 1\r  2\r", vec!["1\n2"]),
            ("[s]\n\u{a0}a\u{1f} = \u{3000}1\x0b", vec!["1"]),
            ("# c\n; d\n\n[s]\n#a = 1\n;a = 1\n", vec![]),
        ] {
            assert_eq!(one(text), values, "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_named_wherever_a_file_begins_with_one() {
        let faults = raw("\u{feff}[s]\na = 1\n\u{feff}[t]\n\u{feff}\n").unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 3, 4]);
        assert!(
            faults.iter().all(|fault| fault.what.starts_with("a byte order mark")),
            "{faults:?}"
        );
    }

    #[test]
    fn sections_keep_their_spelling_and_their_brackets() {
        let raw = raw("[a]b]\nx=1\n[ c ]\n[A]\n").unwrap();
        assert_eq!(raw.keys().collect::<Vec<_>>(), [" c ", "A", "a]b"]);
    }

    #[test]
    fn every_line_that_cannot_be_read_is_told_and_none_is_shown() {
        let text =
            "early = 1\n[s\n[]\n[s]\nhunter2\n= 1\na = 1\n\n  hunter2\n# c\n  hunter2\n[s] # c";
        let faults = raw(text).unwrap_err();
        let numbers: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(numbers, [1, 2, 3, 5, 6, 9, 11, 12]);
        assert!(faults.iter().all(|fault| !fault.to_string().contains("hunter2")));
    }
}
