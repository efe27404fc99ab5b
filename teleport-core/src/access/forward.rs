//! What a login may have forwarded: permits that only its grant gives, and that whoever opens sockets demands.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Destination, Destinations, LoginGrant};

/// What can be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forwarding {
    /// The user's agent.
    Agent,
    /// Connections from the client's side to where the node can reach (`ssh -L`, `ssh -D`).
    Local,
    /// Connections from the node's side to where the client can reach (`ssh -R`).
    Remote,
    /// The user's display.
    X11,
}

impl Forwarding {
    /// The options of roles that permit it.
    pub const fn options(self) -> &'static str {
        match self {
            Self::Agent => "forward_agent",
            Self::Local => "port_forwarding, ssh_port_forwarding.local",
            Self::Remote => "port_forwarding, ssh_port_forwarding.remote",
            Self::X11 => "permit_x11_forwarding",
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Agent => "agent forwarding",
            Self::Local => "local port forwarding",
            Self::Remote => "remote port forwarding",
            Self::X11 => "X11 forwarding",
        })
    }
}

/// Why something is not forwarded. For the user, who was let in and may know, and for the audit event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotForwarded {
    /// The certificate lacks the extension; it was issued when the roles did not permit it.
    #[error("the certificate does not permit {0}; a new one would if the roles do ({options})", options = .0.options())]
    Certificate(Forwarding),
    /// No role lists the destination, or one denies it.
    #[error("the roles do not permit connections to {destination} from this node (permit_open)")]
    Destination {
        /// `host:port`, or a path.
        destination: String,
    },
    /// The roles do not permit it, or one forbids it.
    #[error("the roles do not permit {0} ({options})", options = .0.options())]
    Roles(Forwarding),
}

/// Permission to connect from the node to some destinations. Made by [`LoginGrant::local_forwarding`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalForwarding {
    destinations: Destinations,
}

/// Permission to connect to one address. Made by [`LocalForwarding::to`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedAddress(SocketAddr);

/// Permission to connect to sockets in the node's file system, as far as the login may. Made by [`LocalForwarding::to_socket`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedSocket(());

/// Permission to listen on the node. Made by [`LoginGrant::remote_forwarding`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteForwarding(());

/// Permission to have the user's agent on the node. Made by [`LoginGrant::agent_forwarding`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentForwarding(());

/// Permission to have the user's display on the node. Made by [`LoginGrant::x11_forwarding`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X11Forwarding(());

impl LoginGrant {
    /// Whether connections may be made from the node, and where to.
    ///
    /// # Errors
    /// [`NotForwarded`].
    pub fn local_forwarding(&self) -> Result<LocalForwarding, NotForwarded> {
        self.check(Forwarding::Local, self.identity.permits.port_forwarding, self.policy.local_forwarding)?;
        Ok(LocalForwarding { destinations: self.policy.destinations.clone() })
    }

    /// Whether the node may listen for the user.
    ///
    /// # Errors
    /// [`NotForwarded`].
    pub fn remote_forwarding(&self) -> Result<RemoteForwarding, NotForwarded> {
        self.check(Forwarding::Remote, self.identity.permits.port_forwarding, self.policy.remote_forwarding)?;
        Ok(RemoteForwarding(()))
    }

    /// Whether the user's agent may be used from the node.
    ///
    /// # Errors
    /// [`NotForwarded`].
    pub fn agent_forwarding(&self) -> Result<AgentForwarding, NotForwarded> {
        self.check(Forwarding::Agent, self.identity.permits.agent_forwarding, self.policy.agent_forwarding)?;
        Ok(AgentForwarding(()))
    }

    /// Whether the user's display may be used from the node.
    ///
    /// # Errors
    /// [`NotForwarded`].
    pub fn x11_forwarding(&self) -> Result<X11Forwarding, NotForwarded> {
        self.check(Forwarding::X11, self.identity.permits.x11_forwarding, self.policy.x11_forwarding)?;
        Ok(X11Forwarding(()))
    }

    /// The policy is what the roles say within what the certificate permits.
    const fn check(&self, what: Forwarding, certificate: bool, policy: bool) -> Result<(), NotForwarded> {
        match (certificate, policy) {
            (true, true) => Ok(()),
            (true, false) => Err(NotForwarded::Roles(what)),
            (false, _) => Err(NotForwarded::Certificate(what)),
        }
    }
}

impl LocalForwarding {
    /// Whether `address` may be connected to, which `host` stands for. A name may stand for many: ask for each.
    ///
    /// # Errors
    /// [`NotForwarded::Destination`].
    pub fn to(&self, host: &str, address: SocketAddr) -> Result<PermittedAddress, NotForwarded> {
        // To connect to "any address" is to connect to this machine: it must not be a way around what is said of loopback.
        let loopback = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Some(IpAddr::from([127, 0, 0, 1])),
            IpAddr::V6(ip) if ip.is_unspecified() => Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some_and(|ip| ip.is_unspecified()) => {
                Some(IpAddr::from([127, 0, 0, 1]))
            }
            _ => None,
        };
        let (host, address) = match loopback {
            // The name that was asked for may be the address itself.
            Some(ip) if host.parse::<IpAddr>().is_ok() => {
                (ip.to_string(), SocketAddr::new(ip, address.port()))
            }
            Some(ip) => (host.to_owned(), SocketAddr::new(ip, address.port())),
            None => (host.to_owned(), address),
        };
        let destination =
            Destination { host: &host, port: address.port(), address: Some(address.ip().to_canonical()) };
        if self.destinations.permit(&destination) {
            Ok(PermittedAddress(address))
        } else {
            Err(NotForwarded::Destination { destination: format!("{host}:{}", address.port()) })
        }
    }

    /// Whether the socket `path` may be connected to: only where every destination is permitted, for lists name hosts.
    ///
    /// # Errors
    /// [`NotForwarded::Destination`].
    pub fn to_socket(&self, path: &str) -> Result<PermittedSocket, NotForwarded> {
        if self.destinations.is_unrestricted() {
            Ok(PermittedSocket(()))
        } else {
            Err(NotForwarded::Destination { destination: path.to_owned() })
        }
    }
}

impl PermittedAddress {
    /// The address.
    pub const fn get(&self) -> SocketAddr {
        self.0
    }
}
