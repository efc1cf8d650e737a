//! Who may do what: the option `roles`. Names are looked up when a peer comes, not here.

use std::{fmt, str::FromStr};

use imaged_drivers::options::{nearest, shown};

/// What a peer may do; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// List, stat and metrics.
    Reader,
    /// Get, and images from volumes, which it may take back for a while.
    Service,
    /// Put.
    Member,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Service, Self::Member, Self::Admin];

    /// The role as the configuration spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Service => "service",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| {
            match nearest(text, names) {
                Some(near) => format!("no such role; did you mean `{near}`? role={}", shown(text)),
                None => format!("a role is one of {}: role={}", names.join(", "), shown(text)),
            }
        })
    }
}

/// Whom a grant admits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// `name`: a user.
    User(String),
    /// `1000`: a user by number.
    Uid(u32),
    /// `%name`: the members of a group.
    Group(String),
    /// `%1000`: the members of a group by number.
    Gid(u32),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Uid(number) => write!(f, "{number}"),
            Self::Group(name) => write!(f, "%{name}"),
            Self::Gid(number) => write!(f, "%{number}"),
        }
    }
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (group, name) = match text.strip_prefix('%') {
            Some(name) => (true, name),
            None => (false, text),
        };
        let plain =
            |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | ',' | '%');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("want a user, a %group or a number: who={}", shown(text)));
        }
        if !name.bytes().all(|digit| digit.is_ascii_digit()) {
            let name = name.to_owned();
            return Ok(if group { Self::Group(name) } else { Self::User(name) });
        }
        match name.parse() {
            Ok(u32::MAX) | Err(_) => {
                Err(format!("no user or group has this number: who={}", shown(text)))
            }
            Ok(number) => Ok(if group { Self::Gid(number) } else { Self::Uid(number) }),
        }
    }
}

/// One entry of `roles`: `who:role`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Whom it admits.
    pub who: Who,
    /// To do what.
    pub role: Role,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.who, self.role)
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((who, role)) = text.rsplit_once(':') else {
            return Err(format!("write who:role, such as glance:admin: entry={}", shown(text)));
        };
        Ok(Self { who: who.trim().parse()?, role: role.trim().parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_and_written_as_they_are() {
        for (text, who, role) in [
            ("glance:admin", Who::User("glance".into()), Role::Admin),
            ("%monitor:reader", Who::Group("monitor".into()), Role::Reader),
            ("1000:member", Who::Uid(1000), Role::Member),
            ("%1000:service", Who::Gid(1000), Role::Service),
            ("svc-1@example.org:reader", Who::User("svc-1@example.org".into()), Role::Reader),
        ] {
            let grant: Grant = text.parse().unwrap();
            assert_eq!(grant, Grant { who, role });
            assert_eq!(grant.to_string(), text);
        }
        assert_eq!(" a : admin ".parse::<Grant>(), "a:admin".parse());
    }

    #[test]
    fn bad_grants_say_what_to_write() {
        for (text, expected) in [
            ("glance", "write who:role"),
            ("glance:admn", "did you mean `admin`?"),
            ("glance:root", "one of reader, service, member, admin"),
            (":admin", "want a user"),
            ("%:admin", "want a user"),
            ("%%a:admin", "want a user"),
            ("a b:admin", "want a user"),
            ("4294967295:admin", "no user or group has this number"),
            ("99999999999:admin", "no user or group has this number"),
        ] {
            let error = text.parse::<Grant>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn roles_are_ordered_by_what_they_may_do() {
        assert!(Role::ALL.is_sorted());
        assert!(Role::Admin > Role::Member && Role::Member > Role::Service);
    }
}
