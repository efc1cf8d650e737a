//! `http://` and `https://` locations.

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use percent_encoding::percent_decode_str;

use crate::{
    contract::{Error, ImageId, Kind, Result},
    kit::{http::Url, options::Secret},
};

/// The schemes of such locations.
pub const SCHEMES: [&str; 2] = ["http", "https"];

/// The longest location, in bytes: signed URLs are long.
const LONGEST: usize = 8192;

/// Parts of the names of parameters whose values let whoever has them read the image.
const SIGNS: [&str; 9] =
    ["sig", "token", "key", "secret", "pass", "pwd", "credential", "auth", "policy"];

/// A URL as glance_store writes it: with a user and a password or without, and without its fragment.
///
/// Neither user and password nor what signs a query is shown by `Display` and `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    /// Where it is, without user and password.
    pub(super) url: Url,
    /// Who asks.
    pub(super) user: Option<User>,
    /// As it was written, without what is not shown.
    shown: String,
}

/// Who asks a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: Secret,
    pub(super) password: Secret,
}

impl Location {
    /// The last part of the path, empty if there is none.
    #[must_use]
    pub fn image(&self) -> &str {
        let mut parts = self.url.path_segments().into_iter().flatten();
        parts.rfind(|part| !part.is_empty()).unwrap_or_default()
    }

    /// The image `id` below this URL, which ends in a slash.
    pub(super) fn below(&self, id: &ImageId) -> Self {
        let mut below = self.clone();
        // An id has no character that means anything in a path.
        below.url.set_path(&format!("{}{id}", self.url.path()));
        below.shown.push_str(id.as_str());
        below
    }

    /// What signs its query, as it is written and as it is meant: servers may say it back.
    pub(super) fn signs(&self) -> impl Iterator<Item = Secret> {
        let parameters = self.url.query().unwrap_or_default().split('&');
        let values =
            parameters.filter_map(|text| text.split_once('=').filter(|(name, _)| is_sign(name)));
        values.flat_map(|(_, value)| {
            let meant = percent_decode_str(value).decode_utf8_lossy().into_owned();
            [Secret::from(value.to_owned()), Secret::from(meant)]
        })
    }

    /// What a server that was asked for this redirects to by `text`.
    pub(super) fn redirected(&self, text: &str) -> Result<Self> {
        let refuse =
            |why: &str| Err(Error::new(Kind::Invalid, format!("{why}: location=`{self}`")));
        let Ok(joined) = self.url.join(text) else {
            return refuse("the server redirects to what is no URL");
        };
        let Ok(mut next) = joined.as_str().parse::<Self>() else {
            return refuse("the server redirects to what is neither http nor https");
        };
        if next.user.is_none() && next.url.origin() == self.url.origin() {
            next.user.clone_from(&self.user);
        }
        Ok(next)
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text is not shown: it may have a password in a place where nobody looks for one.
        let refuse = |why: &str| Error::new(Kind::Invalid, why);
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            return Err(refuse("an http location begins with http:// or https://"));
        }
        // The parser of URLs would take the path's first part for the host.
        if rest.is_empty() || rest.starts_with(['/', '?', '#']) {
            return Err(refuse("an http location names a host"));
        }
        if text.len() > LONGEST {
            return Err(refuse("an http location has at most 8192 bytes"));
        }
        // The parser of URLs drops some of these, and reads others as slashes.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(refuse(
                "an http location has no blanks, control characters and backslashes: write them as %20",
            ));
        }
        let mut url = text.parse::<Url>().map_err(|error| {
            let reason = error.to_string();
            refuse(&format!("this http location is no URL ({reason})"))
        })?;
        url.set_fragment(None);
        let user = user(&url).map_err(refuse)?;
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| refuse("an http location names a host"))?;
        Ok(Self { shown: shown(text, user.is_some()), user, url })
    }
}

/// The user and the password in a URL.
fn user(url: &Url) -> Result<Option<User>, &'static str> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(|text| Secret::from(text.into_owned())).map_err(
            |_not_utf8| "the user and the password of an http location are UTF-8, percent-encoded",
        )
    };
    let (name, password) = (decoded(url.username())?, decoded(url.password().unwrap_or_default())?);
    if name.expose().contains(':') {
        return Err(
            "the user of an http location has no colon: no server could tell where it ends",
        );
    }
    Ok(Some(User { name, password }))
}

/// `text` without its fragment and what is not shown.
fn shown(text: &str, user: bool) -> String {
    let text = text.split('#').next().unwrap_or_default();
    let (place, query) = match text.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (text, None),
    };
    let mut shown = place.to_owned();
    if let (true, Some((scheme, rest))) = (user, place.split_once("://")) {
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host = authority.rsplit('@').next().unwrap_or_default();
        shown = format!("{scheme}://***@{host}{path}");
    }
    if let Some(query) = query {
        let parts: Vec<_> = query.split('&').map(parameter).collect();
        shown.push('?');
        shown.push_str(&parts.join("&"));
    }
    shown
}

/// A parameter of a query, without its value if that may sign the request.
fn parameter(text: &str) -> String {
    match text.split_once('=') {
        Some((name, _)) if is_sign(name) => format!("{name}=***"),
        _ => text.to_owned(),
    }
}

fn is_sign(name: &str) -> bool {
    let plain = percent_decode_str(name).decode_utf8_lossy().to_lowercase();
    SIGNS.iter().any(|sign| plain.contains(sign))
}

impl Hash for Location {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.url.hash(state);
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Location {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn glance_store_locations_are_read_and_written_as_they_are() {
        for text in [
            "http://example.com/images/1",
            "http://example.com",
            "https://example.com:8443/a/b.qcow2?x=1&y=%20",
            "http://EXAMPLE.com:80/a/../b?q=http://other",
            "http://[2001:db8::1]/x",
            "http://example.com/é",
        ] {
            let at = parse(text);
            assert_eq!(at.to_string(), text);
            assert_eq!(parse(&at.to_string()), at);
        }
        assert_eq!(parse("http://x/a?b#c").to_string(), "http://x/a?b");
        assert_eq!(parse("http://x/a?b#c").url.as_str(), "http://x/a?b");
    }

    #[test]
    fn secrets_are_used_and_never_shown() {
        for (text, shown, user) in [
            ("http://me:s3cret@x.org/a?b=1", "http://***@x.org/a?b=1", Some(("me", "s3cret"))),
            ("http://me:s3cret%40%3A@x.org", "http://***@x.org", Some(("me", "s3cret@:"))),
            (
                "http://me:s3cret@y:s3cret@x.org/@",
                "http://***@x.org/@",
                Some(("me", "s3cret@y:s3cret")),
            ),
            ("https://s3cret@x.org/a@b", "https://***@x.org/a@b", Some(("s3cret", ""))),
            ("https://:s3cret@x.org/", "https://***@x.org/", Some(("", "s3cret"))),
            (
                "http://x/a?temp_url_sig=s3cret&temp_url_expires=7",
                "http://x/a?temp_url_sig=***&temp_url_expires=7",
                None,
            ),
            ("http://x/a?X-Amz-Signature=s3cret", "http://x/a?X-Amz-Signature=***", None),
            (
                "http://x/a?X-Amz-Security-T%6fken=s3cret&n=1",
                "http://x/a?X-Amz-Security-T%6fken=***&n=1",
                None,
            ),
            ("http://x/a?PASSWORD=s3cret#s3cret", "http://x/a?PASSWORD=***", None),
        ] {
            let at = parse(text);
            assert_eq!(at.to_string(), shown);
            let debug = format!("{at:?} {:?} {:?}", at.user, crate::Location::Http(at.clone()));
            assert!(!debug.contains("s3cret"), "{debug}");
            let found = at.user.as_ref().map(|user| (user.name.expose(), user.password.expose()));
            assert_eq!(found, user, "{text}");
            assert_eq!(at.url.username(), "");
        }
    }

    #[test]
    fn bad_locations_are_refused_without_showing_them() {
        let long = format!("http://x/{}", "a".repeat(LONGEST));
        for text in [
            "http://",
            "http:///",
            "http:///x",
            "https:////x/y",
            "http://?x",
            "http://#x",
            "http://:80/",
            "http://me:s3cret@/",
            "http://x:s3cret/",
            "http://x:99999/",
            "http://a b/",
            "http://x/a b",
            "http://x/\n",
            "http:\\\\x\\s3cret",
            "http://x\\@y/",
            "ftp://x/s3cret",
            "http:x",
            "HTTP://x/",
            "http://me%3Ax:s3cret@x/",
            "http://%ff:s3cret@x/",
            "http://[::1/s3cret",
            "http://999.1/",
            "http://0x100000000/",
            "http://1.2.3.4.5/",
            &long,
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(!error.chain().contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn an_image_is_the_last_part_of_its_path() {
        for (text, image) in [
            ("http://x/a/b?c/d", "b"),
            ("http://x/a/b/", "b"),
            ("http://x", ""),
            ("http://x/?id=7", ""),
        ] {
            assert_eq!(parse(text).image(), image);
        }
    }

    #[test]
    fn a_redirect_keeps_its_query_and_takes_no_password_elsewhere() {
        let at = parse("https://me:word@x.org/a/b?q=1");
        for (text, url, user) in [
            ("c?r=2", "https://x.org/a/c?r=2", true),
            ("/c", "https://x.org/c", true),
            ("https://x.org:443/c#d", "https://x.org/c", true),
            ("https://x.org:444/c", "https://x.org:444/c", false),
            ("http://x.org/c", "http://x.org/c", false),
            ("//y.org/c?r=%26", "https://y.org/c?r=%26", false),
            ("https://you:other@y.org/", "https://y.org/", true),
        ] {
            let next = at.redirected(text).unwrap();
            assert_eq!((next.url.as_str(), next.user.is_some()), (url, user), "{text}");
        }
        for wrong in [
            "ftp://x/",
            "file:///etc/passwd",
            "gopher://127.0.0.1:25/",
            "http://",
            "http://[",
            "data:,x",
        ] {
            assert_eq!(at.redirected(wrong).unwrap_err().kind(), Kind::Invalid, "{wrong}");
        }
    }
}
