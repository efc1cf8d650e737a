//! `swift://` locations, in every form that glance_store writes.

use std::{borrow::Cow, fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::contract::{Error, Kind, Result};

/// The schemes of such locations.
pub const SCHEMES: [&str; 4] = ["swift", "swift+https", "swift+http", "swift+config"];

/// What Python's `urllib.parse.quote` leaves as it is.
pub(super) const QUOTED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b'/');

/// Stands for a key, which is never kept.
const MASK: &str = "***";

/// Where an image is in a Swift.
///
/// * `swift+config://<reference>/<container>/<object>`
/// * `swift+https://[<user>:<key>@]<address of the login, or of the account>/<container>/<object>`, also
///   `swift+http` and `swift`
///
/// Keys are read over and not kept: `Display` writes `***` in their place, and that is read like any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    pub(super) account: Account,
    pub(super) container: String,
    pub(super) object: String,
}

/// In which account it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    /// The one of this section of `swift_store_config_file`.
    Reference(String),
    /// The one of this address.
    Address(Address),
}

/// An address of a login, or of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    /// Whether it is reached over TLS.
    pub(super) secure: bool,
    /// Host, port and path, without slashes around it.
    pub(super) rest: String,
    /// `project:user`, where the location tells.
    pub(super) user: Option<String>,
}

impl Address {
    /// The address of a URL.
    pub(super) fn of(url: &str, user: Option<&str>) -> Self {
        let (secure, rest) = match url.strip_prefix("http://") {
            Some(rest) => (false, rest),
            None => (true, url.strip_prefix("https://").unwrap_or(url)),
        };
        Self { secure, rest: rest.trim_matches('/').to_owned(), user: user.map(str::to_owned) }
    }

    /// The project, where the location tells.
    pub(super) fn project(&self) -> Option<&str> {
        self.user.as_deref().map(|user| user.rsplit_once(':').map_or(user, |(project, _)| project))
    }
}

impl Location {
    /// The name of the object: the image's id.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.object
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse =
            |why: &str| Error::new(Kind::Invalid, format!("{why}: location=`{}`", masked(text)));
        if text.len() > 4096 {
            return Err(Error::new(Kind::Invalid, "a location has at most 4096 bytes"));
        }
        let Some((scheme, rest)) = text.split_once("://").filter(|(_, rest)| !rest.contains("://"))
        else {
            return Err(refuse(
                "a swift location has one scheme: write swift+http://, not http://",
            ));
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        // A user may have a slash; what follows the login has no @.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (object, container) = (path.pop().unwrap_or_default(), path.pop().unwrap_or_default());
        let named = |name: &str| !matches!(name, "" | "." | "..");
        if authority.is_empty() || !named(object) || !named(container) {
            return Err(refuse(
                "a swift location is swift+https://ADDRESS/CONTAINER/ID or \
                 swift+config://REFERENCE/CONTAINER/ID",
            ));
        }
        let account = match scheme {
            "swift+config" if path.is_empty() && login.is_none() => {
                Account::Reference(authority.to_owned())
            }
            "swift+config" => return Err(refuse("a reference is followed by CONTAINER/ID alone")),
            "swift" | "swift+https" | "swift+http" => {
                let wrong = "a swift location has USER:KEY, both percent-encoded, before its one @";
                let user = match login {
                    Some(login) => Some(user(login).ok_or_else(|| refuse(wrong))?),
                    None => None,
                };
                let rest = std::iter::once(authority).chain(path).collect::<Vec<_>>().join("/");
                let rest = rest.trim_matches('/').to_owned();
                if rest.is_empty() {
                    return Err(refuse("a swift location has an address"));
                }
                Account::Address(Address { secure: scheme != "swift+http", rest, user })
            }
            _ => {
                return Err(refuse(
                    "a swift location begins with swift://, swift+http:// or the like",
                ));
            }
        };
        Ok(Self { account, container: container.to_owned(), object: object.to_owned() })
    }
}

/// The user of `user:key`. The key is not kept.
fn user(login: &str) -> Option<String> {
    // Each part was encoded by itself, so the last colon that is written out divides them.
    let (user, _key) = login.rsplit_once(':').filter(|_| !login.contains('@'))?;
    Some(percent_decode_str(user).decode_utf8().ok()?.into_owned())
}

/// `text` without a key that may be in it.
fn masked(text: &str) -> Cow<'_, str> {
    match text.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://{MASK}@{after}").into()
        }
        None => text.into(),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            Account::Reference(reference) => write!(f, "swift+config://{reference}")?,
            Account::Address(Address { secure, rest, user }) => {
                f.write_str(if *secure { "swift+https://" } else { "swift+http://" })?;
                if let Some(user) = user {
                    write!(f, "{}:{MASK}@", utf8_percent_encode(user, QUOTED))?;
                }
                f.write_str(rest)?;
            }
        }
        write!(f, "/{}/{}", self.container, self.object)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn glance_stores_locations_are_read_and_keys_are_masked() {
        for (text, shown) in [
            (
                "swift+http://service%3Aglance:s3cret@127.0.0.1:5000/v3/glance/id-1",
                "swift+http://service%3Aglance:***@127.0.0.1:5000/v3/glance/id-1",
            ),
            (
                "swift://account:user:pass@authurl.com/container/obj",
                "swift+https://account%3Auser:***@authurl.com/container/obj",
            ),
            (
                "swift+https://t%3Au:p%3Aq%2F@example.com:35357/v3/c_3a1/3a1",
                "swift+https://t%3Au:***@example.com:35357/v3/c_3a1/3a1",
            ),
            (
                "swift+https://swift.example.com/v1/AUTH_x/glance_id/id",
                "swift+https://swift.example.com/v1/AUTH_x/glance_id/id",
            ),
            ("swift+config://ref1/glance/id", "swift+config://ref1/glance/id"),
        ] {
            let at: Location = text.parse().unwrap();
            assert_eq!(at.to_string(), shown);
            assert_eq!(shown.parse::<Location>().unwrap(), at, "{shown}");
            assert!(!format!("{at:?}").contains("s3cret"));
        }
    }

    #[test]
    fn bad_locations_are_refused_without_their_keys() {
        for text in [
            "swift://user:s3cret@http://authurl.com/v1/container/obj",
            "swift+config://ref1/glance",
            "swift+config://ref1/v3/glance/id",
            "swift+http://user-s3cret@host/c/o",
            "swift+http://a:s3cret@b:c@host/c/o",
            "swift+http://host/o",
            "swift+http://host/c/..",
            "swift+http://host/../o",
            "swift+http:///c/o",
            "swift+ftp://u:s3cret@host/c/o",
            "swift+http://u:s3cret@host/c/",
            "swift+http://u:s3cret@host",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(
            project in "[a-z:%é @/]{1,9}", host in "[a-z]{1,9}(:[0-9]{1,4})?(/v[13])?",
            container in "[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,19}", object in "[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,39}",
        ) {
            let user = Some(format!("{project}:glance"));
            let account = Account::Address(Address { secure: true, rest: host, user });
            let at = Location { account, container, object };
            prop_assert_eq!(at.to_string().parse::<Location>().unwrap(), at);
        }
    }
}
