//! What can be said of a configuration without running the daemon: what is wrong with it, and which
//! locations its stores could serve.

mod cinder;

use std::sync::Arc;

use imaged_drivers::{Common, Driver, Host, Kind, Location, Site, Usable};

pub use cinder::{ForCinder, InStore};

use crate::{
    config::{self, Config},
    daemon::Sources,
    digest,
};

/// A configuration that was read, its stores opened as far as they can be.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is well, or good to know, a line each.
    pub fine: Vec<String>,
    /// What must be mended, a line each.
    pub wrong: Vec<String>,
    stores: Vec<Opened>,
    /// `None` if it could not be read.
    settings: Option<config::Daemon>,
}

#[derive(Debug)]
struct Opened {
    name: String,
    kind: String,
    section: Option<imaged_drivers::Config>,
    /// `None` if it cannot be opened.
    driver: Option<Arc<dyn Driver>>,
}

/// What the stores could do with a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One of them could open it, if there is an image.
    Served,
    /// None of them could, for this reason.
    Unserved(String),
    /// It is no location, for this reason.
    Bad(String),
}

impl Checked {
    /// Reads the configuration, and opens each store.
    pub async fn new(sources: &Sources) -> Self {
        match sources.read() {
            Ok((config, notes)) => {
                let fine = notes.iter().map(ToString::to_string).collect();
                let mut checked = Self { fine, ..Self::default() };
                checked.open(&config, sources.is_embedded()).await;
                checked
            }
            Err(found) => {
                let fine = found.notes.iter().map(ToString::to_string).collect();
                let wrong = found.problems.iter().map(ToString::to_string).collect();
                Self { fine, wrong, ..Self::default() }
            }
        }
    }

    async fn open(&mut self, config: &Config, embedded: bool) {
        if let Err(error) = crate::socket::group_of(&config.daemon) {
            self.wrong.push(error.to_string());
        }
        if let Err(error) = digest::kernel(&config.daemon.digest_kernel) {
            self.wrong.push(error.to_string());
        }
        for store in &config.stores {
            let driver = self.open_store(store, embedded).await;
            let (name, kind, section) =
                (store.name.clone(), store.kind.clone(), store.driver.clone());
            self.stores.push(Opened { name, kind, section, driver });
        }
        self.settings = Some(config.daemon.clone());
    }

    async fn open_store(
        &mut self,
        store: &config::Store,
        embedded: bool,
    ) -> Option<Arc<dyn Driver>> {
        let (name, kind) = (&store.name, &store.kind);
        let Some(section) = &store.driver else {
            let nothing = || format!("store `{name}`: no driver");
            self.wrong.push(store.problem.as_ref().map_or_else(nothing, ToString::to_string));
            return None;
        };
        let opened = match imaged_drivers::open(section, name, &Host::named("check")).await {
            Ok(opened) => opened.probe().await.map(|_| opened),
            Err(error) => Err(error),
        };
        let driver = match opened {
            Ok(driver) => driver,
            Err(error) if embedded && error.kind() == Kind::Unavailable => {
                self.fine.push(format!("store `{name}` is made at the first start"));
                return None;
            }
            Err(error) => {
                self.wrong.push(format!("store `{name}` is down: {error}"));
                return None;
            }
        };
        let sites = driver.sites();
        for other in &self.stores {
            let theirs = other.driver.as_ref().map(|driver| driver.sites()).unwrap_or_default();
            match Site::common(&sites, &theirs, &other.name) {
                Some(Common::Refused(why)) => {
                    self.wrong.push(format!("store `{name}` is down: {why}"));
                    return None;
                }
                Some(Common::Told(what)) => self.fine.push(format!("store `{name}`: {what}")),
                None => {}
            }
        }
        self.tell_parts(store, &*driver);
        self.fine.extend(driver.notes().iter().map(|note| format!("store `{name}`: {note}")));
        match (store.read_only, driver.reading_only()) {
            (true, _) => self
                .fine
                .push(format!("store `{name}` ({kind}) can be read, and no more (imaged_read_only)")),
            (false, Some(reason)) => self.wrong.push(format!(
                "store `{name}` ({kind}) is reading only, mend that or set imaged_read_only: {reason}"
            )),
            (false, None) => self.fine.push(format!("store `{name}` ({kind}) can be used")),
        }
        Some(driver)
    }

    /// Says of each part of a store what can be done with it.
    fn tell_parts(&mut self, store: &config::Store, driver: &dyn Driver) {
        for part in driver.parts() {
            let about = format!("store `{}`: {} is {}", store.name, part.what, part.usable.word());
            match &part.usable {
                Usable::Up => self.fine.push(about),
                Usable::ReadingOnly(_) if store.read_only => self.fine.push(about),
                Usable::ReadingOnly(reason) | Usable::Down(reason) => {
                    self.wrong.push(format!("{about}: {reason}"));
                }
            }
        }
    }

    /// Whether a store could serve the location `text`, by its name alone. One whose store cannot be
    /// opened now counts as not served.
    #[must_use]
    pub fn judge(&self, text: &str) -> Verdict {
        let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme))
        else {
            return Verdict::Bad("is no URI such as file:///var/lib/glance/images/ID".to_owned());
        };
        let known = Location::has_scheme(scheme);
        let at: Location = match text.parse() {
            Ok(at) => at,
            Err(error) if known => {
                let why = error.to_string();
                let why = why.split_once(": location=").map_or(why.as_str(), |(why, _)| why);
                return Verdict::Bad(why.to_owned());
            }
            Err(_) => {
                return Verdict::Unserved(format!(
                    "no store of this build has locations that begin with `{scheme}://`"
                ));
            }
        };
        let serves =
            |store: &Opened| store.driver.as_ref().is_some_and(|driver| driver.serves(&at));
        if self.stores.iter().any(serves) {
            return Verdict::Served;
        }
        let down = |store: &&Opened| store.driver.is_none() && store.kind == at.kind();
        match self.stores.iter().find(down) {
            Some(store) => Verdict::Unserved(format!(
                "no store that is up could serve it; store `{}` is down",
                store.name
            )),
            None => Verdict::Unserved("no store could serve it".to_owned()),
        }
    }
}

/// Whether a URI may begin with this and a colon.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// A location as it may be shown: as its driver shows it, or without what stands before an `@`, which may be
/// a name and a secret.
#[must_use]
pub fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    if matches!(scheme, "file" | "filesystem" | "rbd") {
        return text.to_owned();
    }
    match (text.parse::<Location>(), rest.rsplit_once('@')) {
        (Ok(at), _) => at.to_string(),
        (Err(_), Some((_, rest))) => format!("{scheme}://...@{rest}"),
        (Err(_), None) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_location_are_not_shown() {
        for (text, shown) in [
            ("swift+https://tenant:user:k@y@auth/v3/c/o", "swift+https://...@auth/v3/c/o"),
            ("s3://access:secret/with@host/bucket/x", "s3://host/bucket/x"),
            ("file:///images/a@b", "file:///images/a@b"),
            ("https://me:secret@x/a?sig=secret&b=1", "https://***@x/a?sig=***&b=1"),
            ("cinder://volume", "cinder://volume"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn what_is_no_location_is_told_from_what_no_store_serves() {
        let none = Checked::default();
        for text in
            ["", "x", "://x", "/var/lib/x", "1://x", "file://relative", "rbd:///", "mem://x"]
        {
            assert!(matches!(none.judge(text), Verdict::Bad(_)), "{text}");
        }
        for text in ["s3://k:s@h/b/o", "swift+https://h/c/o", "file:///x/y", "rbd://f/p/i/snap"] {
            assert!(matches!(none.judge(text), Verdict::Unserved(_)), "{text}");
        }
    }
}
