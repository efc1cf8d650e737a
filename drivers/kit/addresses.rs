//! Which addresses may be connected to by what fetches from places that callers name.
//!
//! A caller who names a URL makes the daemon connect where the caller could not: to services of the
//! machine itself, of its networks, and to what tells instances of a cloud their secrets. So only addresses
//! of the public Internet are connected to, and what else the configuration allows.
//!
//! **Rule: the address that is connected to is the one that was judged.** A [`Guard`] is the resolver of the
//! client that connects: a name is looked up once for a connection, and its addresses are judged on the way from
//! the look-up to the connection. Addresses in URLs, which are not looked up, are judged by [`Guard::judge`],
//! before each request and after each redirect, once the URL's parser has read what stands for an
//! address, be it in octal, in hexadecimal, or as one number.
//!
//! # Decisions
//! * Chose: IPv6 addresses that carry an IPv4 address are denied, and where they are allowed, what they
//!   carry has to be allowed as well. Because: `64:ff9b::7f00:1` may well be this machine. Instead of: judging
//!   the outer address alone.
//! * Chose: a name that is allowed may have any address that is not denied by the configuration. Because: whoever
//!   allows `images.internal` knows that it is inside. Instead of: two lists that must agree.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use futures_util::future::BoxFuture;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// What is denied unless it is allowed: all that is not of the public Internet, and what lets a public address
/// lead elsewhere.
const DENIED_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this host, this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // shared by carriers, and by clouds for their services
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // the host, as instances of Azure see it
    (Ipv4Addr::new(169, 254, 0, 0), 16), // link-local, and what tells instances of clouds their secrets
    (Ipv4Addr::new(172, 16, 0, 0), 12),  // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),   // protocols' own
    (Ipv4Addr::new(192, 0, 2, 0), 24),   // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24), // relays of 6to4
    (Ipv4Addr::new(192, 168, 0, 0), 16), // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),  // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24), // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),    // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),    // reserved, and broadcast
];

/// The public Internet of IPv6. Loopback, link-local, unique local, multicast, IPv4-mapped and -compatible
/// addresses and those of NAT64 are outside.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What is denied of it.
const DENIED_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocols' own, Teredo among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Judges where connections go. Clones are the same.
#[derive(Clone)]
pub struct Guard {
    rules: Arc<Rules>,
    lookup: Lookup,
}

/// How a name is looked up.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// What a configuration says about places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Places that may be connected to, although they are not of the public Internet.
    pub allow: Vec<Place>,
    /// Places that may not, whatever else is said.
    pub deny: Vec<Place>,
    /// Whether only what is allowed may be connected to, and not the public Internet.
    pub only_allowed: bool,
}

/// A network, an address, or names of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The addresses that have the first so many bits of this one.
    Network(IpAddr, u8),
    /// This host name, in lower case.
    Host(String),
    /// The host names that end in this, which begins with a dot.
    Below(String),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "must be an address, a network such as 10.0.0.0/8, a host name, or \
                             *.example.org for the names below one";
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address, bits(address)));
        }
        if let Some((address, length)) = text.split_once('/') {
            let (address, length) = (address.parse::<IpAddr>(), length.parse::<u8>());
            let (Ok(address), Ok(length)) = (address, length) else { return Err(WRONG) };
            return (length <= bits(address))
                .then_some(Self::Network(address, length))
                .ok_or(WRONG);
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        // As a URL has it, so that the two can be compared.
        match url::Host::parse(name) {
            Ok(url::Host::Domain(name)) if !name.contains('*') => {
                let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
                Ok(if below { Self::Below(format!(".{name}")) } else { Self::Host(name) })
            }
            _ => Err(WRONG),
        }
    }
}

impl Place {
    fn has_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network, length) if is_in(address, *network, *length))
    }

    fn has_name(&self, name: &str) -> bool {
        match self {
            Self::Network(..) => false,
            Self::Host(host) => name == host,
            Self::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
        }
    }
}

/// The refusal of a place. It names what the caller named; the address behind a name, which the caller
/// need not know, is told by `Debug` alone.
#[derive(Clone)]
pub struct Refused {
    host: String,
    address: Option<IpAddr>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "images are not fetched from this host; whoever runs the daemon can allow it in the store's \
             section: host=`{}`",
            self.host
        )
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("host", &self.host).field("address", &self.address).finish()
    }
}

impl std::error::Error for Refused {}

impl Guard {
    /// A guard that keeps to these rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self::looking_up(rules, Arc::new(|name| Box::pin(system(name))))
    }

    fn looking_up(rules: Rules, lookup: Lookup) -> Self {
        Self { rules: Arc::new(rules), lookup }
    }

    /// Judges `url` as far as that is possible without looking its name up.
    ///
    /// # Errors
    /// It is not to be connected to.
    pub fn judge(&self, url: &Url) -> Result<(), Refused> {
        let (host, address) = match url.host() {
            Some(url::Host::Ipv4(address)) => (address.to_string(), Some(address.into())),
            Some(url::Host::Ipv6(address)) => (address.to_string(), Some(address.into())),
            Some(url::Host::Domain(name)) => (plain(name), None),
            None => (String::new(), None),
        };
        let admitted = match address {
            Some(address) => self.rules.admit(address, false),
            None => !host.is_empty() && !self.rules.deny.iter().any(|place| place.has_name(&host)),
        };
        if admitted { Ok(()) } else { Err(Refused { host, address }) }
    }

    /// Those of the addresses `found` for the host `name` that may be connected to.
    fn admitted(&self, name: &str, found: &[IpAddr]) -> Result<Vec<IpAddr>, Refused> {
        let name = plain(name);
        let named = self.rules.allow.iter().any(|place| place.has_name(&name));
        let denied = self.rules.deny.iter().any(|place| place.has_name(&name));
        let admitted: Vec<_> = found
            .iter()
            .copied()
            .filter(|address| !denied && self.rules.admit(*address, named))
            .collect();
        if admitted.is_empty() {
            return Err(Refused { host: name, address: found.first().copied() });
        }
        Ok(admitted)
    }
}

impl Rules {
    /// Whether `address` may be connected to; `named`: by a name that is allowed.
    fn admit(&self, address: IpAddr, named: bool) -> bool {
        if self.deny.iter().any(|place| place.has_address(address)) {
            return false;
        }
        let allowed = named || self.allow.iter().any(|place| place.has_address(address));
        match carried(address) {
            Some(inner) => allowed && self.admit(inner.into(), named),
            None => allowed || (!self.only_allowed && is_public(address)),
        }
    }
}

/// Whether an address is of the public Internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let denied =
                |&(network, length): &(Ipv4Addr, u8)| is_in(v4.into(), network.into(), length);
            !DENIED_V4.iter().any(denied)
        }
        IpAddr::V6(v6) => {
            let within =
                |&(network, length): &(Ipv6Addr, u8)| is_in(v6.into(), network.into(), length);
            within(&PUBLIC_V6) && !DENIED_V6.iter().any(within)
        }
    }
}

/// The IPv4 address that an IPv6 address leads to, if it is of a kind that carries one.
fn carried(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let pair = |high: u16, low: u16| Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        // No address, and loopback.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Compatible, mapped, translated; NAT64 with its well-known prefix and the local one.
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(pair(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => Some(pair(high, low)),
        // Teredo: the client's address, inverted.
        [0x2001, 0, _, _, _, _, high, low] => Some(pair(!high, !low)),
        // ISATAP.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(pair(high, low)),
        _ => None,
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether `address` has the first `length` bits of `network`.
fn is_in(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let same = |left: u128, right: u128, bits: u8| {
        let over = u32::from(bits.saturating_sub(length));
        left.checked_shr(over) == right.checked_shr(over)
    };
    match (address, network) {
        (IpAddr::V4(left), IpAddr::V4(right)) => {
            same(left.to_bits().into(), right.to_bits().into(), 32)
        }
        (IpAddr::V6(left), IpAddr::V6(right)) => same(left.to_bits(), right.to_bits(), 128),
        _ => false,
    }
}

/// A host name in the form in which names are compared.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

async fn system(name: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = (guard.lookup)(name.as_str().to_owned()).await?;
            if found.is_empty() {
                return Err(io::Error::from(io::ErrorKind::NotFound).into());
            }
            let admitted = guard.admitted(name.as_str(), &found)?;
            // The port is the URL's.
            let addresses = admitted.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.fmt(f)
    }
}

#[cfg(test)]
mod tests;
