//! Real Swifts on this machine: OpenStack's own, and Ceph's gateway. Each store under test has a container of
//! its own.

use std::{collections::BTreeMap, process::Command};

use imaged_drivers::ImageId;

use crate::harness::rigs::{Facts, GATEWAY, Own, SWIFT, Turn, run};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// OpenStack's.
    OpenStack,
    /// Ceph's gateway.
    Gateway,
}

/// A container of its own, which is removed with all that is in it when this is dropped.
pub(crate) struct Swift {
    pub(crate) container: String,
    pub(crate) auth: String,
    pub(crate) user: String,
    pub(crate) key: String,
    /// Where the account is.
    url: String,
    _turn: Option<Turn>,
}

impl Swift {
    /// A container in a server of the test's own.
    pub(crate) fn in_own(own: &Own) -> Self {
        Self::of(&own.facts(), None)
    }

    /// A server with a container that nobody else has.
    pub(crate) fn up(server: Server) -> Self {
        match server {
            Server::OpenStack => Self::of(&SWIFT, None),
            Server::Gateway => Self::of(&GATEWAY, Some(Turn::together("cluster"))),
        }
    }

    fn of(rig: &Facts, turn: Option<Turn>) -> Self {
        let [auth, user, key] = ["auth", "user", "key"].map(|name| rig[name].clone());
        let container = format!("test-{}", uuid::Uuid::new_v4().simple());
        let (url, _) = login(&auth, &user, &key);
        let this = Self { container, auth, user, key, url, _turn: turn };
        this.curl(&["-X", "PUT", &this.at("")]);
        this
    }

    /// Changes what the container is told.
    pub(crate) fn post(&self, header: &str) {
        self.curl(&["-f", "-X", "POST", "-H", header, &self.at("")]);
    }

    /// The options of a store in it.
    pub(crate) fn options(&self) -> String {
        let Self { container, auth, user, key, .. } = self;
        format!(
            "swift_store_auth_version = 1\nswift_store_auth_address = {auth}\n\
             swift_store_user = {user}\nswift_store_key = {key}\n\
             swift_store_container = {container}\n"
        )
    }

    /// A token, and where the account is.
    pub(crate) fn login(&self) -> (String, String) {
        let (url, token) = login(&self.auth, &self.user, &self.key);
        (token, url)
    }

    /// The options of a store in it whose login is at a door that knows version 3.
    pub(crate) fn options_of_version_3(&self, door: &str) -> String {
        let container = &self.container;
        format!(
            "swift_store_auth_address = {door}\nswift_store_user = {}\nswift_store_key = {}\n\
             swift_store_region = RegionOne\nswift_store_container = {container}\n",
            super::keystone::USER,
            super::keystone::PASSWORD,
        )
    }

    fn at(&self, object: &str) -> String {
        format!("{}/{}/{object}", self.url, self.container).trim_end_matches('/').to_owned()
    }

    /// What the server says to a request, after its head.
    pub(crate) fn curl(&self, args: &[&str]) -> String {
        loop {
            // Anew each time: the last one may have expired, and this one may on its way.
            let token = format!("X-Auth-Token: {}", self.login().0);
            let mut curl = Command::new("curl");
            let said = run(curl
                .args(["-s", "-S", "-w", "%{stderr}%{http_code}", "-H", &token])
                .args(args));
            if said.stderr != b"401" {
                return String::from_utf8(said.stdout).unwrap();
            }
        }
    }

    /// The head of what it says of an object.
    pub(crate) fn head(&self, object: &str) -> BTreeMap<String, String> {
        // Anew each time: the last one may have expired.
        let token = format!("X-Auth-Token: {}", self.login().0);
        head(&["-I", "-H", &token, &self.at(object)])
    }

    /// The names of all objects in the container.
    pub(crate) fn objects(&self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let marker = all.last().map(|last| format!("?marker={last}")).unwrap_or_default();
            let page = self.curl(&[&(self.at("") + &marker)]);
            let count = all.len();
            all.extend(page.lines().map(str::to_owned));
            if all.len() == count {
                return all;
            }
        }
    }

    /// What lies in the container beside these whole images and what they consist of.
    pub(crate) fn left(&self, beside: &[&ImageId]) -> Vec<String> {
        let mut left = self.objects();
        for id in beside {
            let prefix = match self.head(id.as_str()).get("x-object-manifest") {
                Some(manifest) => manifest.split_once('/').unwrap().1.to_owned(),
                None => format!("{id}-"),
            };
            left.retain(|name| name != id.as_str() && !name.starts_with(&prefix));
        }
        left
    }
}

/// Where the account is, and a token for it.
pub(crate) fn login(auth: &str, user: &str, key: &str) -> (String, String) {
    let login = [format!("X-Auth-User: {user}"), format!("X-Auth-Key: {key}")];
    let head = head(&["-H", &login[0], "-H", &login[1], auth]);
    (head["x-storage-url"].clone(), head["x-auth-token"].clone())
}

/// The head of an answer, names in small letters.
pub(crate) fn head(args: &[&str]) -> BTreeMap<String, String> {
    let curl =
        run(Command::new("curl").args(["-s", "-S", "-D", "-", "-o", "/dev/null"]).args(args));
    let text = String::from_utf8(curl.stdout).unwrap();
    let pair = |line: &str| {
        line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

impl Drop for Swift {
    fn drop(&mut self) {
        for name in self.objects() {
            self.curl(&["-X", "DELETE", &self.at(&name)]);
        }
        self.curl(&["-X", "DELETE", &self.at("")]);
    }
}
