//! Who is calling: the kernel tells the user of the peer, the configuration tells the role.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
    time::Duration,
};

use imaged_drivers::{Error, Kind, Result, lane::Lane};
use nix::{
    errno::Errno,
    unistd::{Gid, Group, Uid, User, getgrouplist},
};
use tokio::sync::Mutex;

use crate::{
    config::{self, Grant, Role, Who},
    wire::stream::Wire,
};

/// The grants of the configuration.
pub type Roles = Vec<Grant>;

/// Look-ups of users and groups may go to a directory server, and so may hang.
static NAMES: LazyLock<Lane> = LazyLock::new(|| Lane::new("names", 8, Duration::from_secs(10)));

/// Who is at the other end of one connection, and what they may do.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The uid and gid, if the kernel tells.
    ids: Option<(u32, u32)>,
    wire: Wire,
    /// What was found out last, and under which configuration.
    known: Mutex<Option<(Arc<config::Daemon>, Peer)>>,
}

impl Caller {
    pub(crate) fn new(ids: Option<(u32, u32)>, wire: &Wire) -> Self {
        Self { ids, wire: wire.clone(), known: Mutex::default() }
    }

    /// The peer, with the role that `settings` give it. Who is calling stays; what they may do is
    /// looked up again when the configuration changes, and when it could not be found out before.
    pub(crate) async fn look_up(&self, settings: &Arc<config::Daemon>) -> Peer {
        let mut known = self.known.lock().await;
        if let Some((then, peer)) = &*known
            && Arc::ptr_eq(then, settings)
        {
            return peer.clone();
        }
        let peer = match self.ids {
            Some((uid, gid)) => Peer::of(uid, gid, &settings.roles).await,
            None => Peer::unknown(),
        };
        if peer.unsure {
            *known = None;
        } else {
            self.wire.admit_descriptors(peer.role >= Some(Role::Member));
            *known = Some((Arc::clone(settings), peer.clone()));
        }
        peer
    }
}

/// The process at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    uid: u32,
    gid: u32,
    name: Option<String>,
    role: Option<Role>,
    /// The role may be higher: not all could be looked up.
    unsure: bool,
}

impl Peer {
    /// A peer by what the kernel tells, with the highest role that `roles` give it.
    async fn of(uid: u32, gid: u32, roles: &Roles) -> Self {
        let peer = Self { uid, gid, ..Self::with(None) };
        if uid == 0 || uid == Uid::effective().as_raw() {
            return Self { role: Some(Role::Admin), ..peer };
        }
        // Grants by number hold whether or not anybody can be asked for names.
        let by_number = roles.iter().filter(|grant| match grant.who {
            Who::Uid(other) => other == uid,
            Who::Gid(other) => other == gid,
            Who::User(_) | Who::Group(_) => false,
        });
        let peer = Self { role: by_number.map(|grant| grant.role).max(), ..peer };
        if roles.iter().all(|grant| matches!(grant.who, Who::Uid(_))) {
            return peer;
        }
        let (roles, unnamed) = (roles.clone(), peer.clone());
        let looked = NAMES.run("look up the caller", move || peer.by_name(&roles)).await;
        looked.unwrap_or_else(|error| {
            tracing::warn!(uid, error = %error.chain(), "a caller's role cannot be found out");
            Self { unsure: true, ..unnamed }
        })
    }

    /// The same peer with its name, and the role that its name and groups give it. Blocks.
    fn by_name(self, roles: &Roles) -> Result<Self> {
        let user = User::from_uid(Uid::from_raw(self.uid));
        let name = known(user, "the name of the caller's user")?.map(|user| user.name);
        let groups = groups_of(name.as_deref(), self.gid)?;
        let mut role = self.role;
        for grant in roles {
            let admitted = match &grant.who {
                Who::Uid(other) => *other == self.uid,
                Who::User(user) => name.as_ref() == Some(user),
                Who::Gid(other) => groups.contains(other),
                Who::Group(name) => group(name)?.is_some_and(|group| groups.contains(&group)),
            };
            if admitted {
                role = role.max(Some(grant.role));
            }
        }
        Ok(Self { name, role, ..self })
    }

    /// A peer of whom the kernel tells nothing.
    fn unknown() -> Self {
        Self { unsure: true, ..Self::with(None) }
    }

    /// A peer of this role, for callers inside the process.
    #[must_use]
    pub fn with(role: Option<Role>) -> Self {
        Self { uid: u32::MAX, gid: u32::MAX, name: None, role, unsure: false }
    }

    /// The user, by number.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Refuses a peer below the role `least`.
    ///
    /// # Errors
    /// `Denied`, with the line that would admit it; `Unavailable` if its role could not be found
    /// out.
    pub fn needs(&self, least: Role) -> Result<()> {
        if self.role >= Some(least) {
            return Ok(());
        }
        if self.unsure {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "this needs the role {least}, and the caller's name and groups cannot be looked \
                     up now; try again: uid=`{}` gid=`{}`",
                    self.uid, self.gid
                ),
            ));
        }
        let who = self.name.clone().unwrap_or_else(|| self.uid.to_string());
        let has = self.role.map_or_else(|| "none".to_owned(), |role| role.to_string());
        Err(Error::new(
            Kind::Denied,
            format!(
                "this needs the role {least} and the caller has {has}; to admit it, add to roles \
                 in [imaged]: `{who}:{least}`: uid=`{}` gid=`{}`",
                self.uid, self.gid
            ),
        ))
    }
}

/// What a look-up gave; that there is no such name is an answer, that nobody could be asked is none.
fn known<T>(found: nix::Result<Option<T>>, what: &str) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(found),
        // Some name services say so when there is no such name.
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => Err(Error::new(
            Kind::Unavailable,
            format!("the name service does not tell {what}: {}", errno.desc()),
        )
        .because(errno)),
    }
}

/// Every group of a user.
fn groups_of(name: Option<&str>, gid: u32) -> Result<BTreeSet<u32>> {
    let mut groups = BTreeSet::from([gid]);
    if let Some(name) = name.and_then(|name| std::ffi::CString::new(name).ok()) {
        let more = getgrouplist(&name, Gid::from_raw(gid)).map(Some);
        let more = known(more, "the caller's groups")?.unwrap_or_default();
        groups.extend(more.into_iter().map(Gid::as_raw));
    }
    Ok(groups)
}

/// The number of a group, by its name or number; `None` if there is no such group.
///
/// # Errors
/// `Unavailable` if nobody can be asked.
pub(super) fn group(name: &str) -> Result<Option<u32>> {
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let found = known(Group::from_name(name), &format!("the group `{name}`"))?;
    Ok(found.map(|group| group.gid.as_raw()))
}
