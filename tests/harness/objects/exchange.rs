//! Requests and answers, as the dialects see them.

use std::{collections::BTreeMap, fmt};

use hyper::{HeaderMap, Method, Request, body::Incoming, header::HeaderValue};
use percent_encoding::percent_decode_str;

use super::space::Blob;

/// The head of a request.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    /// Of the path, decoded, without what is empty at its end.
    pub(super) path: Vec<String>,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
}

impl Head {
    pub(super) fn of(request: &Request<Incoming>) -> Self {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = request.uri().query().unwrap_or_default().split('&');
        let query = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(&value.replace('+', " ")))
        });
        Self {
            method: request.method().clone(),
            path: request.uri().path().trim_start_matches('/').split('/').map(decode).collect(),
            query: query.collect(),
            headers: request.headers().clone(),
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn asks(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    pub(super) fn value(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The path from its `nth` part on.
    pub(super) fn rest(&self, nth: usize) -> String {
        self.path.get(nth..).unwrap_or_default().join("/")
    }

    /// Headers that begin so, by names in small letters.
    pub(super) fn beginning(&self, with: &[&str]) -> BTreeMap<String, String> {
        let chosen = self
            .headers
            .iter()
            .filter(|(name, _)| with.iter().any(|start| name.as_str().starts_with(start)));
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        chosen.map(|(name, value)| (name.to_string(), text(value))).collect()
    }
}

/// What a dialect answers.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Blob,
    /// The length that is told of a body which is not sent.
    pub(super) length: Option<u64>,
}

impl Answer {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Blob::default(), length: None }
    }

    pub(super) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Blob>) -> Self {
        self.body = body.into();
        self
    }
}
