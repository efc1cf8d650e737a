//! Who is calling: the kernel tells the user of the peer, the configuration tells the role.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use imaged_drivers::{Error, Kind, Result, lane::Lane};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::UnixStream;

use crate::{
    api::Action,
    config::{Grant, Role, Who},
};

/// The grants of the configuration.
pub type Roles = Vec<Grant>;

/// Look-ups of users and groups may go to a directory server, and so may hang.
static NAMES: LazyLock<Lane> = LazyLock::new(|| Lane::new("names", 8, Duration::from_secs(10)));

/// The process at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    uid: u32,
    gid: u32,
    name: Option<String>,
    role: Option<Role>,
}

impl Peer {
    /// The peer of `stream`, and the highest role that `roles` give it.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub async fn of(stream: &UnixStream, roles: &Roles) -> Result<Self> {
        let told = stream
            .peer_cred()
            .map_err(|error| Error::io("read the credentials of", "the caller", error))?;
        Self::from_ids(told.uid(), told.gid(), roles).await
    }

    /// The same peer, with the role that `roles` give it; with none if that cannot be found out.
    pub async fn again(&self, roles: &Roles) -> Self {
        let looked = Self::from_ids(self.uid, self.gid, roles).await;
        looked.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "a caller's role cannot be looked up again");
            Self { role: None, ..self.clone() }
        })
    }

    async fn from_ids(uid: u32, gid: u32, roles: &Roles) -> Result<Self> {
        if uid == 0 || uid == Uid::effective().as_raw() {
            return Ok(Self { uid, gid, name: None, role: Some(Role::Admin) });
        }
        if roles.iter().all(|grant| matches!(grant.who, Who::Uid(_))) {
            let role = roles.iter().filter(|g| matches!(g.who, Who::Uid(n) if n == uid));
            return Ok(Self { uid, gid, name: None, role: role.map(|grant| grant.role).max() });
        }
        let roles = roles.clone();
        NAMES
            .run("look up the caller", move || {
                let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
                let groups = groups_of(name.as_deref(), gid);
                let role = roles
                    .iter()
                    .filter(|grant| match &grant.who {
                        Who::Uid(other) => *other == uid,
                        Who::User(user) => name.as_ref() == Some(user),
                        Who::Gid(other) => groups.contains(other),
                        Who::Group(name) => {
                            group(name).is_some_and(|group| groups.contains(&group))
                        }
                    })
                    .map(|grant| grant.role)
                    .max();
                Ok(Self { uid, gid, name, role })
            })
            .await
    }

    /// A peer of this role, for callers inside the process.
    #[must_use]
    pub fn with(role: Option<Role>) -> Self {
        Self { uid: u32::MAX, gid: u32::MAX, name: None, role }
    }

    /// Refuses what the peer's role does not allow.
    ///
    /// # Errors
    /// `Denied`, with the line that would admit it.
    pub fn may(&self, action: &Action) -> Result<()> {
        action.role().map_or(Ok(()), |least| self.needs(least))
    }

    /// Refuses a peer below the role `least`.
    ///
    /// # Errors
    /// `Denied`, with the line that would admit it.
    pub fn needs(&self, least: Role) -> Result<()> {
        if self.role >= Some(least) {
            return Ok(());
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

/// Every group of a user.
fn groups_of(name: Option<&str>, gid: u32) -> BTreeSet<u32> {
    let mut groups = BTreeSet::from([gid]);
    if let Some(name) = name.and_then(|name| std::ffi::CString::new(name).ok()) {
        let more = getgrouplist(&name, Gid::from_raw(gid)).unwrap_or_default();
        groups.extend(more.into_iter().map(Gid::as_raw));
    }
    groups
}

/// The number of a group, by its name or number.
pub(super) fn group(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw()))
}
