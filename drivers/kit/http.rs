//! The client of every driver that speaks plain HTTP: a pool of connections to a backend's servers, and
//! what is done when they do not answer as they should.
//!
//! * [`Request`] is what is sent, [`Answer`] what comes back, [`Client::send`] brings one for the other
//! * `retry`: which requests are sent again, and after which pause; `watch`: when a server is given up
//!
//! **Rule: a body is whole or an error.** It ends where the server said it would, by its length or by the
//! last chunk; a connection that ends earlier is an error and never the end of the bytes.
//!
//! **Rule: a secret is in no text.** What goes into a header by [`Request::secret`], and what
//! [`Request::hiding`] names, is in no `Debug`, no error and no log line, nor is it when the server says it back.
//!
//! # Decisions
//! * Chose: a time for the next byte. Because: an image takes as long as it takes, and a server that is
//!   silent is found all the same. Instead of: a time for the whole request.
//! * Chose: HTTP/1.1 alone. Because: it moves bulk faster, and a connection that stalls stalls one request.
//!   Instead of: HTTP/2.

pub use reqwest::{
    Method, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

mod answer;
mod client;
mod failure;
mod reach;
mod request;
mod retry;
mod settings;
mod watch;

pub use answer::{Answer, Incoming};
pub use client::Client;
#[cfg(feature = "s3")]
pub(crate) use failure::innermost;
#[cfg(feature = "s3")]
pub(crate) use reach::certificates;
pub use request::{Payload, Request};
pub(crate) use retry::usual_pause as pause;
pub use settings::Settings;

/// `url` with `path` behind its own, whatever is in the names.
pub(crate) fn beneath<S: AsRef<str>>(url: &Url, path: impl IntoIterator<Item = S>) -> Url {
    let mut url = url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

#[cfg(test)]
pub(crate) mod tests;
