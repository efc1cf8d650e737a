//! What went wrong between here and a server, as errors: by kind, and without a secret.

use reqwest::{Method, StatusCode, Url};

use crate::{
    contract::{Error, Kind},
    kit::{addresses::Refused, options::Secret},
};

/// Characters of a server's text that an error shows.
const SHOWN: usize = 300;

/// What errors about one exchange say.
#[derive(Clone)]
pub(super) struct About {
    store: String,
    what: String,
    hidden: Vec<Secret>,
}

impl About {
    pub(super) fn new(store: &str, method: &Method, url: &Url, hidden: &[Secret]) -> Self {
        let what = format!("{method} {}", shown_url(url));
        Self { store: store.to_owned(), what, hidden: hidden.to_vec() }
    }

    /// `what` of this kind, with what it is about.
    pub(super) fn error(&self, kind: Kind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("{what}: request=`{}` store=`{}`", self.what, self.store))
    }

    /// Nothing came in time.
    pub(super) fn late(&self) -> Error {
        self.error(Kind::Timeout, "the server did not answer in time")
    }

    /// What reqwest says of an exchange that failed.
    pub(super) fn failed(&self, error: reqwest::Error) -> Error {
        let error = error.without_url();
        if let Some(refused) = causes(&error).find_map(|cause| cause.downcast_ref::<Refused>()) {
            let refused = refused.clone();
            return self.error(Kind::Invalid, refused.to_string()).because(refused);
        }
        let reason = self.reason(&error);
        if reason.contains("certificate") {
            let what = format!(
                "the server's certificate is not trusted ({reason}); name the file of its authority \
                 in the store's section"
            );
            return self.error(Kind::BackendDenied, what).because(error);
        }
        let what = if error.is_connect() {
            format!("cannot connect to the server ({reason})")
        } else {
            format!("the connection to the server broke ({reason})")
        };
        self.error(Kind::Unavailable, what).because(error)
    }

    /// The innermost cause, in its own words.
    fn reason(&self, error: &reqwest::Error) -> String {
        self.cleaned(&innermost(error))
    }

    /// `text` of a server for an error: one line, not long, without marks of HTML and without secrets.
    pub(super) fn cleaned(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.hidden.iter().map(Secret::expose).filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "...");
        }
        let mut plain = String::new();
        let mut inside = false;
        for c in text.chars() {
            match c {
                '<' => inside = true,
                '>' if inside => {
                    inside = false;
                    plain.push(' ');
                }
                _ if inside => {}
                c if c.is_control() || c.is_whitespace() => plain.push(' '),
                // Values stand between backticks.
                '`' => plain.push('\''),
                c => plain.push(c),
            }
        }
        let words = plain.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}...", words.get(..end).unwrap_or_default()),
            None => words,
        }
    }
}

/// The innermost cause of an error, in its own words.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = causes(error).last().map(ToString::to_string).unwrap_or_default();
    innermost.split(" (os error").next().unwrap_or_default().to_owned()
}

/// An error and what caused it, from the outermost.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        // An io::Error shows what it was made of as itself.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.map(|inner| inner as _).or_else(|| error.source())
    })
}

/// A URL without what may be secret in it: user, password, query.
pub(super) fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    let cleared = shown.set_username("").and_then(|()| shown.set_password(None));
    if cleared.is_err() {
        return url.scheme().to_owned();
    }
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string().chars().take(2 * SHOWN).collect()
}

/// What a status means for who asked.
pub(super) fn kind(status: StatusCode) -> Kind {
    match status.as_u16() {
        404 | 410 => Kind::NotFound,
        408 | 504 => Kind::Timeout,
        409 => Kind::Exists,
        412 => Kind::Precondition,
        413 => Kind::TooLarge,
        416 => Kind::Range,
        429 => Kind::Unavailable,
        507 => Kind::Full,
        // Whatever it refuses, somebody has to change something there.
        400..=499 => Kind::BackendDenied,
        _ => Kind::Unavailable,
    }
}
