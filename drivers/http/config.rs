//! The options of an `http` section, by glance_store's names, and those of imaged's own.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::location::Location;
use crate::kit::{
    addresses::{Place, Rules},
    http::{Settings, Url},
    options::{Options, Secret, shown},
};

/// The options of an `http` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `https_ca_certificates_file`: certificates in PEM, trusted beside the system's.
    pub ca: Option<PathBuf>,
    /// `https_insecure`: no certificate is verified. Off unless switched on.
    pub insecure: bool,
    /// `http_proxy_information`: the proxy for a scheme.
    pub proxy: BTreeMap<String, Secret>,
    /// `imaged_http_allow`, `imaged_http_deny` and `imaged_http_only_allowed`: where it may connect to.
    pub rules: Rules,
    /// `imaged_http_base_url`: below it images are found by their ids.
    pub base: Option<Location>,
    /// `imaged_http_connect_timeout_s`: how long a connection may take.
    pub connect: Duration,
    /// `imaged_http_timeout_s`: how long the next byte may take.
    pub progress: Duration,
    /// `imaged_http_connections`: images that are read at a time.
    pub connections: usize,
    /// `imaged_http_retries`: how often what failed is tried again, as long as no byte comes.
    pub retries: usize,
}

impl Config {
    /// Reads an `http` section. No server is asked.
    pub fn read(options: &mut Options) -> Option<Self> {
        let usual = Settings::new("");
        let insecure = options.bool("https_insecure").unwrap_or(false);
        if insecure {
            options.note("https_insecure", "no certificate is verified: anybody may answer");
        }
        let count = |options: &mut Options, name, range, usual| {
            options.int(name, range).and_then(|count| usize::try_from(count).ok()).unwrap_or(usual)
        };
        Some(Self {
            ca: options.path("https_ca_certificates_file"),
            insecure,
            proxy: proxies(options),
            rules: Rules {
                allow: places(options, "imaged_http_allow"),
                deny: places(options, "imaged_http_deny"),
                only_allowed: options.bool("imaged_http_only_allowed").unwrap_or(false),
            },
            base: base(options),
            connect: options.seconds("imaged_http_connect_timeout_s", 1).unwrap_or(usual.connect),
            progress: options.seconds("imaged_http_timeout_s", 1).unwrap_or(usual.progress),
            connections: count(options, "imaged_http_connections", 1..=10_000, usual.connections),
            retries: count(options, "imaged_http_retries", 0..=100, usual.retries),
        })
    }
}

/// `scheme:proxy` between commas, as `http:10.0.0.1:3128`. No message shows one: it may have a password.
fn proxies(options: &mut Options) -> BTreeMap<String, Secret> {
    const NAME: &str = "http_proxy_information";
    let mut found = BTreeMap::new();
    for entry in options.list(NAME) {
        match entry.split_once(':').map(|(scheme, proxy)| (scheme.trim(), proxy.trim())) {
            Some((scheme @ ("http" | "https"), proxy)) if is_proxy(proxy) => {
                let proxy = if proxy.contains("://") {
                    proxy.to_owned()
                } else {
                    format!("http://{proxy}")
                };
                found.insert(scheme.to_owned(), Secret::from(proxy));
            }
            _ => options.fail(
                NAME,
                "must be scheme:proxy between commas, as http:10.0.0.1:3128, for http and https",
            ),
        }
    }
    found
}

fn is_proxy(proxy: &str) -> bool {
    let url = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    url.parse::<Url>().is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Networks, addresses and host names, between commas or on lines of their own.
fn places(options: &mut Options, name: &str) -> Vec<Place> {
    let mut found = Vec::new();
    for entry in
        options.multi(name).iter().flat_map(|entry| entry.split([',', '\n'])).map(str::trim)
    {
        match entry.parse() {
            _ if entry.is_empty() => {}
            Ok(place) => found.push(place),
            Err(want) => options.fail(name, format!("{want}: value={}", shown(entry))),
        }
    }
    found
}

/// The URL below which images are, which ends in a slash.
fn base(options: &mut Options) -> Option<Location> {
    const NAME: &str = "imaged_http_base_url";
    let text = options.secret(NAME)?;
    let base = match text.expose() {
        text if text.ends_with('/') => text.to_owned(),
        text => format!("{text}/"),
    };
    match base.parse::<Location>() {
        Ok(at) if !base.contains(['?', '#']) => Some(at),
        // It may have a password.
        _ => {
            options.fail(
                NAME,
                "must be a URL such as https://images.example.org/glance, without a query",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[(&str, &str)]) -> (Config, Vec<String>) {
        let mut options = Options::of("web", text);
        let config = Config::read(&mut options).unwrap();
        let problems = options.finish().problems;
        (config, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn certificates_are_verified_unless_told_otherwise() {
        assert!(!read(&[]).0.insecure);
        assert!(read(&[("https_insecure", "true")]).0.insecure);
    }

    #[test]
    fn proxies_are_read_as_glance_store_does() {
        let (config, problems) =
            read(&[("http_proxy_information", "http:10.0.0.1:3128, https:http://u:p@x.org:80")]);
        assert_eq!(problems, [""; 0]);
        let proxy = |scheme: &str| config.proxy.get(scheme).unwrap().expose().to_owned();
        assert_eq!(proxy("http"), "http://10.0.0.1:3128");
        assert_eq!(proxy("https"), "http://u:p@x.org:80");
        for wrong in [
            "10.0.0.1:3128",
            "ftp:x:1",
            "http:",
            "http",
            "http:socks5://s3cret@x",
            "http:u:s3cret@[",
        ] {
            let (config, problems) = read(&[("http_proxy_information", wrong)]);
            assert!(config.proxy.is_empty() && problems.len() == 1, "{wrong}: {problems:?}");
            assert!(!problems[0].contains("s3cret"), "{problems:?}");
        }
    }

    #[test]
    fn places_are_read_from_lines_and_lists() {
        let (config, problems) = read(&[
            ("imaged_http_allow", "10.0.0.0/8, images.internal"),
            ("imaged_http_allow", "fd00::/8"),
            ("imaged_http_deny", "*.example.org"),
        ]);
        assert_eq!(problems, [""; 0]);
        assert_eq!((config.rules.allow.len(), config.rules.deny.len()), (3, 1));
        let (_, problems) = read(&[("imaged_http_allow", "10.0.0.0/33")]);
        assert!(problems[0].contains("`10.0.0.0/33`"), "{problems:?}");
    }

    #[test]
    fn a_base_is_a_url_that_ends_in_a_slash() {
        for text in ["https://x.org/a", "https://x.org/a/"] {
            let base = read(&[("imaged_http_base_url", text)]).0.base.unwrap();
            assert_eq!(base.to_string(), "https://x.org/a/");
        }
        for wrong in ["x.org", "ftp://x", "https://u:s3cret@x.org/?a", "https://u:s3cret@[/"] {
            let (config, problems) = read(&[("imaged_http_base_url", wrong)]);
            assert!(config.base.is_none() && !problems[0].contains("s3cret"), "{problems:?}");
        }
    }
}
