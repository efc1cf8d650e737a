//! One configured store: its accounts, its containers, and which locations are its own.

use std::collections::{BTreeMap, HashSet};

use futures_util::TryStreamExt as _;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::{
    account::{Account, Call},
    config::{Config, Logins, User},
    failure, listing,
    location::{self, Address, Location},
    names, references,
};
use crate::{
    contract::{Context, Error, ImageId, Kind, Result},
    kit::{
        http::{Answer, Client, Method, Settings, StatusCode},
        keystone::{Login, Tokens, Who},
        lane::Lane,
        refusals::{foreign, missing},
        turns::Turns,
    },
};

/// Containers that are remembered to be there.
const SEEN: usize = 4096;
/// So many times as long as a server may be silent an answer may take: there is time for another connection.
const TRIES: u32 = 3;
/// How often what can be sent again is, by the client itself. The pauses are 12 seconds on average.
const RETRIES: usize = 6;

/// One store.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) name: String,
    pub(super) config: Config,
    /// Where digests of segments are computed, and spooled ones are read.
    pub(super) lane: Lane,
    client: Client,
    /// The account of new images; `None` if only callers have some.
    own: Option<Member>,
    /// Those of `swift_store_config_file`.
    references: BTreeMap<String, Member>,
    seen: Mutex<HashSet<String>>,
    turns: Turns,
}

/// An account and how locations name it.
#[derive(Clone, Debug)]
struct Member {
    account: Account,
    address: Address,
}

/// Where an image is, or is to be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) account: Account,
    pub(super) at: Location,
}

impl Place {
    pub(super) fn container(&self) -> &str {
        &self.at.container
    }

    pub(super) fn object(&self) -> &str {
        &self.at.object
    }

    pub(super) fn location(&self) -> crate::Location {
        crate::Location::Swift(self.at.clone())
    }
}

impl Store {
    /// Reads the references, if there are any, and asks no server.
    pub(super) async fn open(config: &Config, name: &str) -> Result<Self> {
        let client = Client::new(Settings {
            ca: config.ca.clone(),
            insecure: config.insecure,
            connect: config.timeout.min(Settings::new(name).connect),
            progress: config.timeout,
            connections: config.connections,
            retries: RETRIES,
            ..Settings::new(name)
        })?;
        let lane = Lane::new(name, 2, config.timeout);
        let member = |user: &User| Member {
            account: account(
                config,
                tokens(config, &client, user.login.clone()).latest_of(name),
                &client,
            ),
            address: Address::of(&user.address, user.user.as_deref()),
        };
        let (own, references) = match &config.logins {
            Logins::Callers(_) => (None, BTreeMap::new()),
            Logins::Own(user) => (Some(member(user)), BTreeMap::new()),
            Logins::File { path, default } => {
                let (path, reference) = (path.clone(), default.clone());
                let read = lane.run("read swift_store_config_file", move || {
                    references::read(&path, &reference)
                });
                let members: BTreeMap<_, _> =
                    read.await?.iter().map(|(name, user)| (name.clone(), member(user))).collect();
                (members.get(default).cloned(), members)
            }
        };
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            lane,
            client,
            own,
            references,
            seen: Mutex::default(),
            turns: Turns::default(),
        })
    }

    /// The store's own account.
    pub(super) fn account(&self) -> Result<&Account> {
        self.own.as_ref().map(|own| &own.account).ok_or_else(|| {
            Error::new(
                Kind::BackendDenied,
                format!(
                    "this multi-tenant store has no user of its own, and only callers have a token: \
                     give it swift_store_user and swift_store_key, of a user who may reach all \
                     accounts: store=`{}`",
                    self.name
                ),
            )
        })
    }

    /// Where the image `id` is if there is one.
    pub(super) fn place(&self, id: &ImageId) -> Option<Place> {
        if self.config.multi_tenant {
            return None;
        }
        let own = self.own.as_ref()?;
        let account = match &self.config.logins {
            Logins::File { default, .. } => location::Account::Reference(default.clone()),
            Logins::Own(_) | Logins::Callers(_) => location::Account::Address(own.address.clone()),
        };
        let container = names::container(&self.config.container, self.config.seed, id);
        let at = Location { account, container, object: id.to_string() };
        Some(Place { account: own.account.clone(), at })
    }

    /// Where a new image of `id` is to be.
    pub(super) async fn new_place(&self, id: &ImageId, context: &Context) -> Result<Place> {
        if let Some(place) = self.place(id) {
            return Ok(place);
        }
        let account = match (&context.token, &self.config.logins) {
            (Some(token), Logins::Callers(url)) => self.lent(url, token.clone()),
            (Some(token), Logins::Own(user)) => self.lent(&user.login.url, token.clone()),
            _ => self.account()?.clone(),
        };
        let url = account.url().await?;
        let container = names::own_container(&self.config.container, id);
        let address = location::Account::Address(Address::of(url.as_str(), None));
        Ok(Place { account, at: Location { account: address, container, object: id.to_string() } })
    }

    /// The account of a caller.
    fn lent(&self, url: &crate::kit::http::Url, token: crate::kit::options::Secret) -> Account {
        let login = Login { url: url.clone(), who: Who::Bearer(token) };
        account(&self.config, tokens(&self.config, &self.client, login), &self.client)
    }

    /// Whether `at` is a location of this store. Asks nobody.
    pub(super) fn serves(&self, at: &Location) -> bool {
        self.member(at).is_some()
    }

    /// The place of a location of this store.
    pub(super) fn find(&self, at: &crate::Location) -> Result<Place> {
        let crate::Location::Swift(swift) = at else { return Err(foreign(at, &self.name)) };
        let account = self.member(swift).ok_or_else(|| foreign(at, &self.name))?;
        Ok(Place { account, at: swift.clone() })
    }

    fn member(&self, at: &Location) -> Option<Account> {
        let id: ImageId = at.object.parse().ok()?;
        let base = &self.config.container;
        if self.config.multi_tenant {
            let location::Account::Address(address) = &at.account else { return None };
            let own = self.own.as_ref()?;
            let is_ours = at.container == names::own_container(base, &id) && address.user.is_none();
            return is_ours.then(|| own.account.beside(address)).flatten();
        }
        let seeded = names::container(base, self.config.seed, &id);
        if at.container != *base && at.container != seeded {
            return None;
        }
        let found = match &at.account {
            location::Account::Reference(reference) => self.references.get(reference)?,
            location::Account::Address(address) => {
                let mut members = self.references.values().chain(&self.own);
                members.find(|member| is_same(&member.address, address))?
            }
        };
        Some(found.account.clone())
    }

    /// Makes the container of a new image, if it is not there and may be made.
    ///
    /// # Errors
    /// `Unavailable` if it is not there and may not be made.
    pub(super) async fn ensure_container(&self, account: &Account, container: &str) -> Result<()> {
        if self.seen.lock().contains(container) {
            return Ok(());
        }
        if !is_there(account, container).await? {
            if !self.config.create_container {
                return Err(no_container(container, &self.name));
            }
            let made = account.send(&Call::container(Method::PUT, container)).await?;
            if !made.status.is_success() {
                return Err(failure::of(made, "make a container").await);
            }
        }
        let mut seen = self.seen.lock();
        if seen.len() >= SEEN {
            seen.clear();
        }
        seen.insert(container.to_owned());
        Ok(())
    }

    /// A container that was thought to be there is not, perhaps.
    pub(super) fn forget_container(&self, container: &str) {
        self.seen.lock().remove(container);
    }

    /// All containers of the store's account that can have images of it.
    pub(super) async fn containers(&self) -> Result<Vec<String>> {
        let base = &self.config.container;
        let mut containers = vec![base.clone()];
        if self.config.seed > 0 {
            let prefix = format!("{base}_");
            let seeded: Vec<_> =
                listing::containers(self.account()?, &prefix).try_collect().await?;
            containers.extend(seeded);
        }
        Ok(containers)
    }

    /// Waits until no other call of this process makes or removes the object of `place`.
    pub(super) async fn alone(&self, place: &Place) -> OwnedMutexGuard<()> {
        self.turns.of(&place.at).await
    }
}

/// Whether two addresses are of one account: of the same login and, where it is told, the same project.
fn is_same(own: &Address, other: &Address) -> bool {
    let same_project = match (own.project(), other.project()) {
        (Some(own), Some(other)) => own == other,
        _ => true,
    };
    own.secure == other.secure && own.rest == other.rest && same_project
}

fn tokens(config: &Config, client: &Client, login: Login) -> Tokens {
    Tokens::new(client.clone(), login, (*config.wanted).clone(), config.expires_soon)
}

fn account(config: &Config, tokens: Tokens, client: &Client) -> Account {
    Account::new(client.clone(), tokens, config.timeout.saturating_mul(TRIES))
}

/// The end of a change of what is at `place`, by the `answer` of the server.
pub(super) async fn changed(answer: Answer, place: &Place, store: &str, doing: &str) -> Result<()> {
    match answer.status {
        StatusCode::NOT_FOUND => Err(missing(place.object(), store)),
        status if status.is_success() => {
            answer.finish().await;
            Ok(())
        }
        _ => Err(failure::of(answer, doing).await),
    }
}

/// Whether there is such a container.
pub(super) async fn is_there(account: &Account, container: &str) -> Result<bool> {
    let answer = account.send(&Call::container(Method::HEAD, container)).await?;
    match answer.status {
        StatusCode::NOT_FOUND => Ok(false),
        status if status.is_success() => Ok(true),
        _ => Err(failure::of(answer, "tell of a container").await),
    }
}

/// The refusal of an upload into a container that is not there.
pub(super) fn no_container(container: &str, store: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "the container is not there: make it, or set swift_store_create_container_on_put: \
             container=`{container}` store=`{store}`"
        ),
    )
}
