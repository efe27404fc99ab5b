//! Where forwarded connections may go.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::pattern::Pattern;

/// The end of a forwarded connection, as the client asked for it and as it was resolved.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "nodes build it")]
pub struct Destination<'a> {
    /// The host, as the client wrote it: a name or an address.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The address that will be connected to, once it is known.
    pub address: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Name(Pattern),
    Network(IpNet),
}

/// One entry of `permit_open`: a host, a name with `*`, an address or a network, and a port, a range of ports or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DestinationPattern {
    host: Host,
    ports: RangeInclusive<u16>,
    source: String,
}

impl DestinationPattern {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let usage = "write host:port, such as db.internal:5432, *.example.com:443, 10.0.0.0/8:8000-8999 or [2001:db8::]/32:*";
        let (host, ports) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port; {usage}"))?;
        let ports = Self::ports(ports).ok_or_else(|| format!("{ports:?} is no port; {usage}"))?;
        let host = Self::host(host).ok_or_else(|| format!("{host:?} is no host; {usage}"))?;
        Ok(Self { host, ports, source: text.to_owned() })
    }

    /// What stands for every destination: for entries that are not understood.
    pub(super) fn anything(source: &str) -> Self {
        Self { host: Host::Any, ports: 0..=u16::MAX, source: source.to_owned() }
    }

    fn ports(text: &str) -> Option<RangeInclusive<u16>> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
        match text.split_once('-') {
            _ if text == "*" => Some(1..=u16::MAX),
            Some((first, last)) => {
                let range = port(first)?..=port(last)?;
                (!range.is_empty()).then_some(range)
            }
            None => port(text).map(|port| port..=port),
        }
    }

    fn host(text: &str) -> Option<Host> {
        if text == "*" {
            return Some(Host::Any);
        }
        // IPv6 stands in brackets, as everywhere before a port; a prefix length may follow them.
        if let Some(rest) = text.strip_prefix('[') {
            let (address, prefix) = rest.split_once(']')?;
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            let length = match prefix.strip_prefix('/') {
                Some(length) => length.parse().ok()?,
                None if prefix.is_empty() => 128,
                None => return None,
            };
            return IpNet::new(address.into(), length).ok().map(|network| Host::Network(network.trunc()));
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return matches!(network, IpNet::V4(_)).then(|| Host::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return matches!(address, IpAddr::V4(_)).then(|| Host::Network(address.into()));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
        // Digits, dots and stars that are no address would only look as if they were some: as a name no address matches them.
        let has = |is: fn(&u8) -> bool| text.bytes().any(|byte| is(&byte));
        let named = has(u8::is_ascii_alphabetic) || (has(|byte| *byte == b'*') && !has(u8::is_ascii_digit));
        let name = !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed) && named;
        let pattern = Pattern::parse(&text.to_ascii_lowercase()).ok()?;
        name.then_some(Host::Name(pattern))
    }

    fn matches(&self, destination: &Destination<'_>) -> bool {
        self.ports.contains(&destination.port)
            && match &self.host {
                Host::Any => true,
                Host::Name(pattern) => {
                    let name = destination.host.strip_suffix('.').unwrap_or(destination.host);
                    literal(name).is_none() && pattern.matches(&name.to_ascii_lowercase())
                }
                Host::Network(network) => {
                    let address = destination.address.or_else(|| literal(destination.host));
                    address.is_some_and(|address| contains(network, address))
                }
            }
    }
}

/// Whether the address is in the network, however it is written.
fn contains(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address) || network.contains(&address.to_canonical())
}

fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Where forwarded connections of a session may go: the `permit_open` of the roles that grant the session, without those that
/// any role denies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// `None` is any.
    pub(super) allowed: Option<Vec<DestinationPattern>>,
    pub(super) denied: Vec<DestinationPattern>,
}

impl Destinations {
    /// Whether every destination is permitted, also those that have no host and port, such as sockets of the node.
    pub const fn is_unrestricted(&self) -> bool {
        self.allowed.is_none() && self.denied.is_empty()
    }

    /// Whether a connection to `destination` is permitted.
    ///
    /// A name may stand for any address: who connects asks with the address that it is going to connect to, once for each
    /// that it tries. Without an address, only the name is judged, and a network that is denied is not noticed.
    pub fn permit(&self, destination: &Destination<'_>) -> bool {
        let among =
            |patterns: &[DestinationPattern]| patterns.iter().any(|pattern| pattern.matches(destination));
        !among(&self.denied) && self.allowed.as_deref().is_none_or(among)
    }

    /// The entries that permit, as they were written; `None` is any.
    pub fn allowed(&self) -> Option<impl Iterator<Item = &str>> {
        self.allowed.as_ref().map(|patterns| patterns.iter().map(|pattern| pattern.source.as_str()))
    }

    /// The entries that deny, as they were written.
    pub fn denied(&self) -> impl Iterator<Item = &str> {
        self.denied.iter().map(|pattern| pattern.source.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn list(entries: &[&str]) -> Vec<DestinationPattern> {
        entries.iter().map(|entry| DestinationPattern::parse(entry).unwrap()).collect()
    }

    fn permits(destinations: &Destinations, host: &str, port: u16, address: Option<&str>) -> bool {
        let address = address.map(|address| address.parse().unwrap());
        destinations.permit(&Destination { host, port, address })
    }

    #[test]
    fn only_what_is_listed() {
        let destinations = Destinations {
            allowed: Some(list(&[
                "db.internal:5432",
                "*.example.com:443",
                "10.0.0.0/8:8000-8999",
                "192.0.2.7:22",
                "[2001:db8::]/32:*",
                "[::1]:80",
            ])),
            denied: Vec::new(),
        };
        for (host, port, address, expected) in [
            ("db.internal", 5432, None, true),
            ("DB.Internal.", 5432, None, true),
            ("db.internal", 5433, None, false),
            ("xdb.internal", 5432, None, false),
            ("www.example.com", 443, None, true),
            ("example.com", 443, None, false),
            ("www.example.com.evil.org", 443, None, false),
            ("10.1.2.3", 8000, None, true),
            ("10.1.2.3", 8999, None, true),
            ("10.1.2.3", 9000, None, false),
            ("11.1.2.3", 8000, None, false),
            ("::ffff:10.1.2.3", 8000, None, true),
            ("somewhere.internal", 8000, Some("10.1.2.3"), true),
            ("somewhere.internal", 8000, None, false),
            ("192.0.2.7", 22, None, true),
            ("[2001:db8::1]", 1, None, true),
            ("2001:db9::1", 1, None, false),
            ("::1", 80, None, true),
            ("1.2.3.4", 443, None, false),
        ] {
            assert_eq!(permits(&destinations, host, port, address), expected, "{host} {port} {address:?}");
        }
        assert!(!destinations.is_unrestricted());
    }

    #[test]
    fn a_denied_address_is_denied_by_every_name() {
        let denied = list(&["169.254.169.254:*", "*.secret:*"]);
        let destinations = Destinations { allowed: None, denied };
        assert!(permits(&destinations, "example.com", 80, Some("192.0.2.1")));
        assert!(!permits(&destinations, "example.com", 80, Some("169.254.169.254")));
        assert!(!permits(&destinations, "example.com", 80, Some("::ffff:169.254.169.254")));
        assert!(!permits(&destinations, "169.254.169.254", 80, None));
        assert!(!permits(&destinations, "a.secret", 80, Some("192.0.2.1")));
        assert!(!destinations.is_unrestricted());
        assert!(Destinations::default().is_unrestricted());
        assert!(permits(&Destinations::default(), "anything", 1, None));
    }

    #[test]
    fn a_pattern_for_names_is_none_for_addresses() {
        let destinations = Destinations { allowed: Some(list(&["1*x:80"])), denied: Vec::new() };
        assert!(permits(&destinations, "10x", 80, None));
        assert!(!permits(&destinations, "10.0.0.1", 80, None));
        // What looks like addresses and would match none is no entry at all, least of all one that denies.
        for bad in ["10.*:*", "192.168.1.*:22", "1*:80"] {
            assert!(DestinationPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_entries_are_refused() {
        for bad in [
            "",
            "db",
            "db:",
            "db:0",
            "db:65536",
            "db:+80",
            "db:9-8",
            "db:a",
            ":80",
            "::1:80",
            "[::1:80",
            "[::1]x:80",
            "10.0.0.0/33:80",
            "10.0.0:80",
            "a b:80",
            "a/8:80",
            "2001:db8::/32:80",
            "[10.0.0.1]:80",
        ] {
            assert!(DestinationPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
