//! How a backend's servers are reached.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::retry::BACKOFF;
use crate::kit::{addresses::Guard, options::Secret};

/// How a backend's servers are reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store, named in errors.
    pub store: String,
    /// Certificates in PEM, trusted beside those of the system's authorities.
    pub ca: Option<PathBuf>,
    /// No certificate is verified.
    pub insecure: bool,
    /// The proxy for a scheme, by the scheme: `http` or `https`. None is taken from the environment.
    pub proxy: BTreeMap<String, Secret>,
    /// How long a connection may take, from the look for the server's address to the end of the TLS handshake.
    pub connect: Duration,
    /// How long the next byte may take, in either direction, and an answer to begin.
    pub progress: Duration,
    /// Requests at a time. One counts from its beginning to the last byte of its answer.
    pub connections: usize,
    /// How often a request is sent again.
    pub retries: usize,
    /// The longest pause before the first other try; it doubles with each.
    pub backoff: Duration,
    /// Which addresses may be connected to; all of them without one.
    pub guard: Option<Guard>,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(store: &str) -> Self {
        Self {
            store: store.to_owned(),
            ca: None,
            insecure: false,
            proxy: BTreeMap::new(),
            connect: Duration::from_secs(10),
            progress: Duration::from_secs(60),
            connections: 64,
            retries: 3,
            backoff: BACKOFF,
            guard: None,
        }
    }
}
