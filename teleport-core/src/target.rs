//! What a user means by a destination: the texts of `tsh ssh`, `ssh -J` and the proxy's subsystem.
//!
//! ```text
//! target    = host [":" port] ["@" cluster]
//! host      = node name | UUID | IPv4 | "[" IPv6 "]" | key=value{,key=value}
//! subsystem = "proxy:" host ":" port ["@" cluster]        (also the older "@default@" cluster)
//! login     = [login "@"] target
//! ```
//!
//! A target is a *question to the inventory*, never an address to dial. The character sets are so narrow that a parsed
//! target can stand in a command line, a log or a generated `ssh_config` as it is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::id::{ClusterName, HostId, NodeName, OsLogin};
use crate::label::Labels;

/// The longest target, in bytes.
pub const MAX_TARGET_LEN: usize = 1024;

const SUBSYSTEM_PREFIX: &str = "proxy:";
/// The only namespace that older clients may still name.
const LEGACY_NAMESPACE: &str = "default";

/// A text is not a target. Safe to show to whoever wrote the text: it does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTarget {
    /// `proxy:@cluster`, which in other products means the auth service.
    #[error("the auth service is not reached through this subsystem, only nodes are")]
    AuthService,
    /// The part after `@` is not a cluster's name.
    #[error("the cluster must be 1 to 128 letters, digits, '.', '_', '-', beginning with a letter or digit")]
    Cluster,
    /// The host has characters that no name, address or label selector has.
    #[error("the host must be a node's name, UUID, address or labels as key=value,key=value")]
    Host,
    /// The login breaks its rule.
    #[error(
        "the login must be 1 to 64 letters, digits, '.', '_', '-', beginning with a letter, digit or '_'"
    )]
    Login,
    /// The labels are not `key=value,key=value`, or have characters that selectors may not have.
    #[error("labels are selected as key=value,key=value with letters, digits and any of `_ - . / +`")]
    Labels,
    /// A namespace other than `default` before the cluster.
    #[error("namespaces are not supported: write host:port@cluster")]
    Namespace,
    /// The port is not a number up to 65535.
    #[error("the port must be a number from 0 to 65535 (0: whatever the node announced)")]
    Port,
    /// Longer than [`MAX_TARGET_LEN`], or empty.
    #[error("a target has 1 to {MAX_TARGET_LEN} bytes")]
    Size,
    /// A name of a subsystem that is not `proxy:...`.
    #[error("the only subsystem is proxy:host:port[@cluster]")]
    Subsystem,
    /// An IPv6 address without brackets: where it ends and the port begins cannot be told.
    #[error("write an IPv6 address in brackets: [2001:db8::1]:22")]
    Unbracketed,
}

/// The node that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever resolves a host must think of each form")]
pub enum TargetHost {
    /// By its address. An IPv4 address that was written as an IPv6 one is kept as written.
    Address(IpAddr),
    /// By its identity.
    Id(HostId),
    /// By labels that it must have; never empty.
    Labels(Labels),
    /// By its name, perhaps with the cluster's name behind it.
    Name(NodeName),
}

/// A destination: which node, at which port, in which cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialTarget {
    /// The node.
    pub host: TargetHost,
    /// The port that was asked for; `None` also for port 0.
    pub port: Option<u16>,
    /// The cluster; `None` is the cluster that is asked.
    pub cluster: Option<ClusterName>,
}

impl DialTarget {
    /// From a host and port that arrive apart, as in a `direct-tcpip` request. Brackets around an IPv6 address are
    /// optional here, as nothing can be confused.
    ///
    /// # Errors
    /// [`InvalidTarget`].
    pub fn from_host_port(host: &str, port: u32) -> Result<Self, InvalidTarget> {
        check_size(host)?;
        let port = u16::try_from(port).map_err(|_| InvalidTarget::Port)?;
        let (host, cluster) = split_cluster(host)?;
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => TargetHost::Address(address.into()),
            Err(_) => parse_host(host)?,
        };
        Ok(Self { host, port: nonzero(port), cluster })
    }

    /// From the name of a subsystem: `proxy:host:port[@cluster]`, or the older `proxy:host:port@default@cluster`.
    ///
    /// # Errors
    /// [`InvalidTarget`].
    pub fn from_subsystem(name: &str) -> Result<Self, InvalidTarget> {
        // An attacker's long name is refused before anything looks through it.
        if name.len() > MAX_TARGET_LEN {
            return Err(InvalidTarget::Size);
        }
        let rest = name.strip_prefix(SUBSYSTEM_PREFIX).ok_or(InvalidTarget::Subsystem)?;
        if rest.starts_with('@') {
            return Err(InvalidTarget::AuthService);
        }
        match rest.split('@').collect::<Vec<_>>().as_slice() {
            [_] | [_, _] => rest.parse(),
            [host, LEGACY_NAMESPACE, cluster] => format!("{host}@{cluster}").parse(),
            _ => Err(InvalidTarget::Namespace),
        }
    }

    /// The name of the subsystem that asks a proxy for this target.
    pub fn to_subsystem(&self) -> String {
        let Self { host, port, cluster } = self;
        let mut name = format!("{SUBSYSTEM_PREFIX}{host}:{}", port.unwrap_or(0));
        if let Some(cluster) = cluster {
            name.push('@');
            name.push_str(cluster.as_str());
        }
        name
    }
}

impl From<TargetHost> for DialTarget {
    fn from(host: TargetHost) -> Self {
        Self { host, port: None, cluster: None }
    }
}

impl FromStr for DialTarget {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        check_size(text)?;
        let (rest, cluster) = split_cluster(text)?;
        let (host, port) = split_port(rest)?;
        Ok(Self { host: parse_host(host)?, port, cluster })
    }
}

/// The form that [`FromStr`] reads.
impl fmt::Display for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.cluster {
            Some(cluster) => write!(f, "@{cluster}"),
            None => Ok(()),
        }
    }
}

impl TargetHost {
    /// The host as seen from inside `cluster`: `web.example.com` is `web` in the cluster `example.com`. `None` if the
    /// text does not end with the cluster's name.
    pub fn inside(&self, cluster: &ClusterName) -> Option<Self> {
        let Self::Name(name) = self else { return None };
        let short = name.as_str().strip_suffix(cluster.as_str())?.strip_suffix('.')?;
        parse_host(short).ok()
    }
}

impl fmt::Display for TargetHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Id(id) => write!(f, "{id}"),
            Self::Labels(labels) => write!(f, "{labels}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

/// A destination and, perhaps, the login there: `root@web:3022`. The first `@` ends the login, as for `ssh`; so a target
/// with a cluster needs a login before it: `root@web@example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoginTarget {
    /// As whom.
    pub login: Option<OsLogin>,
    /// Where.
    pub target: DialTarget,
}

impl FromStr for LoginTarget {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        check_size(text)?;
        match text.split_once('@') {
            Some((login, target)) => Ok(Self {
                login: Some(OsLogin::new(login).map_err(|_| InvalidTarget::Login)?),
                target: target.parse()?,
            }),
            None => Ok(Self { login: None, target: text.parse()? }),
        }
    }
}

const fn check_size(text: &str) -> Result<(), InvalidTarget> {
    if text.is_empty() || text.len() > MAX_TARGET_LEN { Err(InvalidTarget::Size) } else { Ok(()) }
}

const fn nonzero(port: u16) -> Option<u16> {
    if port == 0 { None } else { Some(port) }
}

fn split_cluster(text: &str) -> Result<(&str, Option<ClusterName>), InvalidTarget> {
    match text.split_once('@') {
        Some((rest, cluster)) => {
            Ok((rest, Some(ClusterName::new(cluster).map_err(|_| InvalidTarget::Cluster)?)))
        }
        None => Ok((text, None)),
    }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), InvalidTarget> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(InvalidTarget::Host)?;
        let (host, rest) = text.split_at_checked(end.saturating_add(1)).ok_or(InvalidTarget::Host)?;
        match rest.strip_prefix(':') {
            Some(port) => (host, port),
            None if rest.is_empty() => return Ok((host, None)),
            None => return Err(InvalidTarget::Host),
        }
    } else {
        match text.split_once(':') {
            None => return Ok((text, None)),
            Some((_, rest)) if rest.contains(':') => return Err(InvalidTarget::Unbracketed),
            Some(parts) => parts,
        }
    };
    // `u16::from_str` accepts a sign; a port has none.
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidTarget::Port);
    }
    Ok((host, nonzero(port.parse().map_err(|_| InvalidTarget::Port)?)))
}

fn parse_host(text: &str) -> Result<TargetHost, InvalidTarget> {
    if text.contains('=') {
        return parse_labels(text).map(TargetHost::Labels);
    }
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(InvalidTarget::Host)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| InvalidTarget::Host)?;
        return Ok(TargetHost::Address(address.into()));
    }
    if let Ok(id) = text.parse() {
        return Ok(TargetHost::Id(id));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return match address {
            IpAddr::V4(_) => Ok(TargetHost::Address(address)),
            IpAddr::V6(_) => Err(InvalidTarget::Unbracketed),
        };
    }
    NodeName::new(text).map(TargetHost::Name).map_err(|_| InvalidTarget::Host)
}

/// Narrower than labels may be: what separates the parts of a target, and what a shell would read, is left out.
fn parse_labels(text: &str) -> Result<Labels, InvalidTarget> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./+=,".contains(&byte);
    // `-o…=…` must not reach a command line as an option. Labels are written sorted, so any of them may come to stand first.
    if text.split(',').any(|part| part.starts_with('-')) || !text.bytes().all(allowed) {
        return Err(InvalidTarget::Labels);
    }
    let labels: Labels = text.parse().map_err(|_| InvalidTarget::Labels)?;
    let parts = text.split(',').count();
    // A key that is named twice, or an empty part, is a mistake whose meaning would have to be guessed.
    if labels.iter().count() == parts && labels.iter().all(|(_, value)| !value.contains('=')) {
        Ok(labels)
    } else {
        Err(InvalidTarget::Labels)
    }
}

#[cfg(test)]
mod tests;
