//! Who calls.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::cert::{HostIdentity, Identity};
use crate::id::HostRole;

/// Who calls, as the transport has verified it. Nothing that a request says changes who its caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "transports build it; a new kind must make the policy think")]
#[expect(clippy::large_enum_variant, reason = "there is one for each connection, and it is lent")]
pub enum Caller {
    /// Somebody without a certificate.
    Anonymous {
        /// The other end of the connection, where there is one.
        remote: Option<SocketAddr>,
    },
    /// Somebody whose certificate was verified, and the other end of the connection.
    Identity(Identity, Option<SocketAddr>),
    /// Whoever holds the data directory of the auth service, on its own machine. May administer everything: the same
    /// directory holds the keys of the authorities.
    LocalAdmin,
}

impl Caller {
    /// The other end of the connection.
    pub const fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Anonymous { remote } | Self::Identity(_, remote) => *remote,
            Self::LocalAdmin => None,
        }
    }

    /// The host that calls.
    pub const fn host(&self) -> Option<&HostIdentity> {
        match self {
            Self::Identity(Identity::Host(host), _) => Some(host),
            _ => None,
        }
    }

    /// From where the request comes in truth: the address that a proxy reports for its client, else the other end of the
    /// connection. What anybody but a proxy claims is ignored.
    pub(crate) fn client_ip(&self, reported: Option<IpAddr>) -> Option<IpAddr> {
        let ip = match self.host() {
            Some(host) if host.role == HostRole::Proxy => reported,
            _ => self.remote().map(|remote| remote.ip()),
        };
        ip.map(|ip| ip.to_canonical())
    }
}

/// As audit events name them.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous { .. } => f.write_str("anonymous"),
            // `tctl` on its machine. Who ran it there is not known: whoever reads the service's key can claim to be anybody. No
            // user has a space in the name.
            Self::Identity(Identity::Host(host), _) if host.role == HostRole::Auth => {
                f.write_str("auth host")
            }
            Self::Identity(Identity::Host(host), _) => write!(f, "{}.{}", host.host_id, host.cluster),
            Self::Identity(Identity::User(user), _) => fmt::Display::fmt(&user.user, f),
            Self::LocalAdmin => f.write_str("local-admin"),
        }
    }
}
