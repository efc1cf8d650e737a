//! `swift_store_config_file`: accounts by reference, so that no location needs a login in it.
//!
//! The file is what Python's `configparser` reads; values may stand in quotes.

use std::{collections::BTreeMap, path::Path};

use super::config::{User, address, password};
use crate::{
    contract::{Error, Kind, Result},
    kit::{
        keystone::{Domain, Login, Who},
        options::Secret,
    },
};

/// The accounts of a file, by their references.
pub(super) type References = BTreeMap<String, User>;

type Section = BTreeMap<String, String>;

/// Reads the file at `path`; `default` must be among its references. Blocks.
pub(super) fn read(path: &Path, default: &str) -> Result<References> {
    let fail = |error| Error::io("read", path.display(), error);
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let references = parse(&text).map_err(|why| {
        Error::new(Kind::Invalid, format!("{why}: swift_store_config_file=`{}`", path.display()))
    })?;
    if !references.contains_key(default) {
        let has = references.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "default_swift_reference names no section of swift_store_config_file: \
                 reference=`{default}` file=`{}` has=`{has}`",
                path.display()
            ),
        ));
    }
    Ok(references)
}

/// No text of the file is in the error but names: values may be secrets.
fn parse(text: &str) -> Result<References, String> {
    let mut sections = sections(text)?;
    let default = sections.remove("DEFAULT").unwrap_or_default();
    let account = |(name, section): (String, Section)| {
        let whole: Section = default.clone().into_iter().chain(section).collect();
        let user = account(&whole).map_err(|why| format!("section [{name}]: {why}"))?;
        Ok((name, user))
    };
    sections.into_iter().map(account).collect()
}

/// The sections of the text with their values as they are written.
fn sections(text: &str) -> Result<BTreeMap<String, Section>, String> {
    let mut sections = BTreeMap::<String, Section>::new();
    // The section and the name that an indented line goes on with.
    let (mut section, mut name) = (None::<String>, None::<String>);
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let title = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if line.starts_with([' ', '\t'])
            && let (Some(section), Some(name)) = (&section, &name)
        {
            let values = sections.entry(section.clone()).or_default();
            let value = values.entry(name.clone()).or_default();
            value.push('\n');
            value.push_str(trimmed);
        } else if let Some(title) = title {
            sections.entry(title.to_owned()).or_default();
            (section, name) = (Some(title.to_owned()), None);
        } else if let (Some(section), Some((key, value))) =
            (&section, trimmed.split_once(['=', ':']))
        {
            let key = key.trim().to_lowercase();
            let values = sections.entry(section.clone()).or_default();
            values.insert(key.clone(), value.trim().to_owned());
            name = Some(key);
        } else {
            return Err(format!("line {number} is neither [REFERENCE] nor NAME = VALUE in one"));
        }
    }
    Ok(sections)
}

/// The account of a section.
fn account(section: &Section) -> Result<User, String> {
    let value = |name: &str| match section.get(name) {
        Some(text) => meant(section, text, 0).map(Some).map_err(|why| format!("{name}: {why}")),
        None => Ok(None),
    };
    let domain = |id: &str, name: &str| {
        Ok::<_, String>(match (value(id)?, value(name)?) {
            (Some(id), _) => Domain::Id(id),
            (None, Some(name)) => Domain::Name(name),
            (None, None) => Domain::Id("default".into()),
        })
    };
    let needed = |name: &str| value(name)?.ok_or_else(|| format!("{name} is missing"));
    let text = needed("auth_address")?;
    let url = address(&text)
        .ok_or_else(|| "auth_address must be a URL without a login in it".to_owned())?;
    let credential =
        value("application_credential_id")?.zip(value("application_credential_secret")?);
    if let Some((id, secret)) = credential {
        let who = Who::ApplicationCredential { id, secret: secret.into() };
        return Ok(User { user: None, address: text, login: Login { url, who } });
    }
    let (user, key) = (needed("user")?, Secret::from(needed("key")?));
    let version = value("auth_version")?.unwrap_or_default();
    let user_domain = domain("user_domain_id", "user_domain_name")?;
    let project_domain = domain("project_domain_id", "project_domain_name")?;
    let who = password(version.trim(), &user, key, user_domain, project_domain)
        .ok_or_else(|| "user is PROJECT:USER, with one colon".to_owned())?;
    Ok(User { user: Some(user), address: text, login: Login { url, who } })
}

/// A value without its quotes, `%(name)s` and `%%` replaced.
fn meant(section: &Section, text: &str, depth: usize) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let named = after.strip_prefix('(').and_then(|after| after.split_once(")s"));
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
        } else if let Some((name, after)) = named {
            let other = section.get(&name.to_lowercase()).filter(|_| depth < 10);
            let other = other.ok_or_else(|| format!("%({name})s has no value"))?;
            out.push_str(&meant(section, other, depth + 1)?);
            rest = after;
        } else {
            out.push('%');
            rest = after;
        }
    }
    out.push_str(rest);
    unquoted(&out).map(str::to_owned)
}

fn unquoted(text: &str) -> Result<&str, String> {
    let Some(quote) = text.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        return Ok(text);
    };
    let inner = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner.ok_or_else(|| "a quote is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::keystone::{Name, Scope};

    const FILE: &str = "\
# the accounts
[DEFAULT]
auth_address = http://keystone:5000/v3

[ref1]
user = service:glance
key = \"s3%%cret\"
project_domain_name: Default

[ref2]
auth_address = https://other:5000/v3
application_credential_id = 'abc'
application_credential_secret = x%(who)s
who = y
auth_version = 3

[old]
auth_address = rgw.example.com/auth/v1.0
auth_version = 1
user = test:tester
key = testing
";

    #[test]
    fn references_are_accounts() {
        let references = parse(FILE).unwrap();
        assert_eq!(references.keys().collect::<Vec<_>>(), ["old", "ref1", "ref2"]);
        let default = || Domain::Id("default".into());
        let first = &references["ref1"];
        assert_eq!(first.user.as_deref(), Some("service:glance"));
        assert_eq!(first.login.url.as_str(), "http://keystone:5000/v3");
        assert_eq!(
            first.login.who,
            Who::Password {
                user: Name::In(default(), "glance".into()),
                password: "s3%cret".to_owned().into(),
                scope: Scope::Project(Name::In(Domain::Name("Default".into()), "service".into())),
            }
        );
        assert_eq!(
            references["ref2"].login.who,
            Who::ApplicationCredential { id: "abc".into(), secret: "xy".to_owned().into() }
        );
        assert_eq!(references["old"].login.url.as_str(), "https://rgw.example.com/auth/v1.0");
        assert!(matches!(&references["old"].login.who, Who::V1 { .. }));
    }

    #[test]
    fn what_is_wrong_is_said_without_values() {
        for (text, said) in [
            ("user = a:b", "line 1"),
            ("[a]\nuser = a:b\nkey = s3cret", "[a]: auth_address is missing"),
            ("[a]\nauth_address = http://k\nuser = a:b", "key is missing"),
            ("[a]\nauth_address = http://k\nuser = s3cret\nkey = s3cret", "PROJECT:USER"),
            (
                "[a]\nauth_address = http://k\nuser = a:b\nkey = \"s3cret",
                "key: a quote is not closed",
            ),
            ("[a]\nauth_address = http://u:s3cret@k\nuser = a:b\nkey = c", "auth_address must be"),
            ("[a]\nauth_address = http://k\nuser = a:b\nkey = %(key)s", "%(key)s has no value"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
