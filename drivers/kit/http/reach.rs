//! The ways to servers: straight, or by a proxy.

use std::collections::BTreeMap;

use reqwest::{Certificate, ClientBuilder, Proxy, Url, redirect::Policy};

use super::{failure::innermost, settings::Settings};
use crate::{
    contract::{Error, Kind, Result},
    kit::addresses::Guard,
};

/// How long a connection that nobody uses is kept.
const IDLE: std::time::Duration = std::time::Duration::from_secs(30);

/// One client for what is reached straight, and one for each proxy.
///
/// Rule: straight connections are made to addresses that the guard has seen, and to no other. Where a proxy
/// connects, it is the proxy that looks names up: the guard judges names and the addresses in URLs. The proxy
/// itself is the operator's choice, and is not judged.
pub(super) struct Reach {
    straight: reqwest::Client,
    proxied: BTreeMap<String, reqwest::Client>,
    guard: Option<Guard>,
}

impl Reach {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let authorities = authorities(settings)?;
        let straight = || match settings.guard.clone() {
            Some(guard) => builder(settings).dns_resolver(guard),
            None => builder(settings),
        };
        let straight = build(settings, straight, &authorities)?;
        let mut proxied = BTreeMap::new();
        for (scheme, url) in &settings.proxy {
            // What reqwest says of a proxy may show its password.
            let wrong = |_error| {
                let what = "a proxy is a URL such as http://proxy.example.org:3128";
                Error::new(Kind::Invalid, format!("{what}: scheme=`{scheme}`"))
            };
            let proxy = Proxy::all(url.expose()).map_err(wrong)?;
            let client = build(settings, || builder(settings).proxy(proxy.clone()), &authorities)?;
            proxied.insert(scheme.clone(), client);
        }
        Ok(Self { straight, proxied, guard: settings.guard.clone() })
    }

    /// The client by which `url` is reached.
    ///
    /// # Errors
    /// `Invalid` if it is not to be.
    pub(super) fn client(&self, url: &Url) -> Result<&reqwest::Client> {
        if let Some(guard) = &self.guard {
            guard.judge(url).map_err(|refused| {
                Error::new(Kind::Invalid, refused.to_string()).because(refused)
            })?;
        }
        Ok(self.proxied.get(url.scheme()).unwrap_or(&self.straight))
    }
}

fn builder(settings: &Settings) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("imaged/", env!("CARGO_PKG_VERSION")))
        // What the environment says is for people at a terminal.
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(settings.connect)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(settings.connections)
        .tls_danger_accept_invalid_certs(settings.insecure)
}

/// The certificates of the settings' file.
fn authorities(settings: &Settings) -> Result<Vec<Certificate>> {
    let Some(path) = &settings.ca else { return Ok(Vec::new()) };
    let pem = std::fs::read(path)
        .map_err(|error| Error::io("read the certificates in", path.display(), error))?;
    certificates(&pem).map_err(|why| {
        let what = format!("this file has no certificates in PEM ({why})");
        Error::new(Kind::Invalid, format!("{what}: file=`{}`", path.display()))
    })
}

/// The certificates of authorities in `pem`, every one of which can be used, or why not.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, String> {
    let found = Certificate::from_pem_bundle(pem).map_err(|error| innermost(&error))?;
    if found.is_empty() {
        return Err("it has none".to_owned());
    }
    let tried = reqwest::Client::builder().tls_certs_only(found.clone()).build();
    tried.map(|_client| found).map_err(|error| innermost(&error))
}

/// The client, which trusts the system's authorities and these; these alone where the system has none, as in
/// a small container: what needs no TLS works all the same.
fn build(
    settings: &Settings,
    builder: impl Fn() -> ClientBuilder,
    authorities: &[Certificate],
) -> Result<reqwest::Client> {
    let merged = builder().tls_certs_merge(authorities.to_vec()).build();
    let built =
        merged.or_else(|_no_authorities| builder().tls_certs_only(authorities.to_vec()).build());
    built.map_err(|error| {
        let what = format!("cannot prepare TLS: store=`{}`", settings.store);
        Error::new(Kind::Internal, what).because(error)
    })
}
