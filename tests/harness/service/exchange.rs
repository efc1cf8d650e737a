//! Requests and answers, as the services see them.

use std::{collections::BTreeMap, fmt};

use hyper::{HeaderMap, Method, Request, body::Incoming, header::HeaderValue};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::blob::Blob;

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// Of the path, decoded, without what is empty at its end.
    pub(crate) path: Vec<String>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: HeaderMap,
}

impl Head {
    pub(crate) fn of(request: &Request<Incoming>) -> Self {
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

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn asks(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    pub(crate) fn value(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The path from its `nth` part on.
    pub(crate) fn rest(&self, nth: usize) -> String {
        self.path.get(nth..).unwrap_or_default().join("/")
    }

    /// Headers that begin so, by names in small letters.
    pub(crate) fn beginning(&self, with: &[&str]) -> BTreeMap<String, String> {
        let chosen = self
            .headers
            .iter()
            .filter(|(name, _)| with.iter().any(|start| name.as_str().starts_with(start)));
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        chosen.map(|(name, value)| (name.to_string(), text(value))).collect()
    }
}

/// What a service answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Blob,
    /// The length that is told of a body which is not sent.
    pub(crate) length: Option<u64>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Blob::default(), length: None }
    }

    pub(crate) fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Blob>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.with("content-type", "application/json").body(body.to_string())
    }
}
