//! The way to a disk: portals in turn, name resolution, login, and where a target has moved to.

use std::{
    fmt,
    net::ToSocketAddrs as _,
    time::{Duration, Instant},
};

use crate::{
    context::{Context, TooLate},
    error::{Error, Result},
    sys,
};

/// The port of portals that name none.
const PORT: u16 = 3260;

/// How often a target may say that it has moved.
const MOVES: u32 = 3;

/// A disk, by one of the ways to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`, an IPv6 address in brackets; without a port it is 3260.
    pub portal: String,
    /// The target's name.
    pub iqn: String,
    /// Its LUN.
    pub lun: u16,
}

/// How to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Chap {
    /// Who.
    pub user: String,
    /// Never shown.
    pub password: String,
}

impl fmt::Debug for Chap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chap").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What is the same for all ways to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of this host.
    pub initiator: String,
    /// For targets that want it.
    pub chap: Option<Chap>,
    /// Whether anything may be written. Otherwise it is refused here, whatever the target would do.
    pub writable: bool,
    /// How long one portal may take, until the disk is known.
    pub connect: Duration,
    /// How long a command may take. It is the session that ends with it.
    pub command: Duration,
}

/// Connects and logs in, within that time. Blocks.
///
/// Resolving a name can take longer, as long as the system lets it.
pub(crate) fn reach(target: &Target, settings: &Settings, until: Instant) -> Result<Context> {
    let mut portal = target.portal.clone();
    for _ in 0..=MOVES {
        match log_in(&portal, target, settings, until)? {
            Login::In(context) => return Ok(context),
            Login::Moved(to) => portal = to,
        }
    }
    Err(Error::Unreachable { portal, why: "the target moves from portal to portal".to_owned() })
}

enum Login {
    In(Context),
    Moved(String),
}

fn log_in(portal: &str, target: &Target, settings: &Settings, until: Instant) -> Result<Login> {
    let unreachable = |why: String| Error::Unreachable { portal: portal.to_owned(), why };
    let late = |_: TooLate| unreachable(format!("no answer within {:?}", settings.connect));
    let mut last = unreachable("the name has no address".to_owned());
    for address in addresses(portal).map_err(unreachable)? {
        let chap = settings.chap.as_ref().map(|Chap { user, password }| (&**user, &**password));
        let mut context = Context::new(&settings.initiator, &target.iqn, target.lun, chap)?;
        if context.connect(&address, until).map_err(late)? != Some(sys::SCSI_STATUS_GOOD) {
            last = unreachable(context.complaint());
            continue;
        }
        return match context.login(until).map_err(late)? {
            Some(sys::SCSI_STATUS_GOOD) => Ok(Login::In(context)),
            Some(sys::SCSI_STATUS_REDIRECT) => Ok(Login::Moved(context.moved_to())),
            _ => Err(refused(portal, target, context.complaint())),
        };
    }
    Err(last)
}

/// Numeric addresses with ports.
fn addresses(portal: &str) -> Result<Vec<String>, String> {
    // Some list portals with the tag of their group.
    let portal = portal.rsplit_once(',').map_or(portal, |(portal, _tag)| portal);
    let resolved = if has_port(portal) {
        portal.to_socket_addrs()
    } else {
        let host = portal.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        (host.unwrap_or(portal), PORT).to_socket_addrs()
    };
    let resolved = resolved.map_err(|error| error.to_string())?;
    Ok(resolved.map(|address| address.to_string()).collect())
}

/// Whether there is a port behind the host: an IPv6 address may do without brackets only if not.
fn has_port(portal: &str) -> bool {
    match portal.rsplit_once(':') {
        Some((host, _)) => !host.contains(':') || host.ends_with(']'),
        None => false,
    }
}

/// What a target says instead of letting us in: the status of RFC 7143, 11.13.5, stands at the end.
fn refused(portal: &str, target: &Target, why: String) -> Error {
    let portal = portal.to_owned();
    let status = why.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')'));
    match status.and_then(|(status, _)| status.parse::<u16>().ok()) {
        Some(0x0203 | 0x0204) => Error::NoSuchTarget { portal, iqn: target.iqn.clone() },
        Some(0x0201 | 0x0202) => Error::LoginRefused { portal, why },
        _ => Error::Unreachable { portal, why },
    }
}

/// The error of several ways of which none goes: the one that says most.
pub(crate) fn worst(errors: Vec<Error>) -> Error {
    let none = Error::Invalid("an iSCSI disk without a portal".to_owned());
    let says = |error: &Error| match error {
        Error::Unreachable { .. } | Error::TimedOut { .. } => 0,
        Error::Lost { .. } => 1,
        Error::Refused { .. } | Error::Sense(_) => 2,
        Error::NoSuchTarget { .. } => 3,
        Error::LoginRefused { .. } | Error::Invalid(_) => 4,
    };
    // Of equals the first.
    errors.into_iter().rev().max_by_key(says).unwrap_or(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_are_read_in_every_spelling() {
        for (portal, address) in [
            ("127.0.0.1:3261", "127.0.0.1:3261"),
            ("127.0.0.1", "127.0.0.1:3260"),
            ("127.0.0.1:3261,1", "127.0.0.1:3261"),
            ("[::1]:3261", "[::1]:3261"),
            ("[::1]", "[::1]:3260"),
            ("::1", "[::1]:3260"),
            ("[::1]:3261,2", "[::1]:3261"),
        ] {
            assert_eq!(addresses(portal), Ok(vec![address.to_owned()]), "{portal}");
        }
        for portal in ["", "127.0.0.1:x", "127.0.0.1:99999", "[::1", "a b:1"] {
            assert!(addresses(portal).is_err(), "{portal}");
        }
    }

    #[test]
    fn a_refused_login_is_told_by_its_status() {
        let target = Target { portal: "p:1".to_owned(), iqn: "iqn.x".to_owned(), lun: 1 };
        let told = |why: &str| refused("p:1", &target, why.to_owned());
        assert!(matches!(told("Status: Target not found(515)"), Error::NoSuchTarget { .. }));
        assert!(matches!(told("Status: Authentication failure(513)"), Error::LoginRefused { .. }));
        assert!(matches!(told("Status: Service unavailable(769)"), Error::Unreachable { .. }));
        assert!(matches!(told("read from socket failed"), Error::Unreachable { .. }));
    }

    #[test]
    fn of_several_errors_the_one_that_says_most_is_told() {
        let unreachable = |portal: &str| Error::Unreachable {
            portal: portal.to_owned(),
            why: "refused".to_owned(),
        };
        let refused = Error::LoginRefused { portal: "c".to_owned(), why: "no".to_owned() };
        assert_eq!(worst(vec![unreachable("a"), unreachable("b")]), unreachable("a"));
        assert_eq!(worst(vec![unreachable("a"), refused.clone(), unreachable("b")]), refused);
        assert!(matches!(worst(Vec::new()), Error::Invalid(_)));
    }

    #[test]
    fn a_password_is_not_shown() {
        let chap = Chap { user: "me".to_owned(), password: "secret".to_owned() };
        let shown = format!("{chap:?}");
        assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    }
}
