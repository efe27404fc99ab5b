//! Who somebody is, after verification.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::verify::check_source_address;
use super::{CLOCK_SKEW, CertRejected, Traits};
use crate::clock::Timestamp;
use crate::id::{ClusterName, DeviceId, HostId, HostRole, NodeName, OsLogin, RoleName, UserName};

/// What a user certificate permits; absence in the certificate is refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "issuers build it; a new permission must make them think")]
#[expect(clippy::struct_excessive_bools, reason = "independent permissions, named as OpenSSH names them")]
pub struct Permits {
    /// `permit-agent-forwarding`
    pub agent_forwarding: bool,
    /// `permit-port-forwarding`
    pub port_forwarding: bool,
    /// `permit-pty`
    pub pty: bool,
    /// `permit-X11-forwarding`
    pub x11_forwarding: bool,
}

/// A user whose certificate was verified. Made by the verification functions only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserIdentity {
    /// The user.
    pub user: UserName,
    /// The cluster whose authority vouches for the user.
    pub cluster: ClusterName,
    /// The roles that the certificate names. What they allow is looked up when it matters.
    pub roles: Vec<RoleName>,
    /// The logins that the certificate names.
    pub logins: Vec<OsLogin>,
    /// The traits that the certificate names.
    pub traits: Traits,
    /// What the certificate permits.
    pub permits: Permits,
    /// The only command that may run, if the certificate says so.
    pub force_command: Option<String>,
    /// Only these networks (`address` or `address/bits`) may use it; empty is any.
    pub source_addresses: Vec<String>,
    /// Further extensions for other software, in the order of their names.
    pub extensions: Vec<(String, String)>,
    /// From where the user logged in, if known.
    pub login_ip: Option<IpAddr>,
    /// The second factor by which the user logged in, if there was one.
    pub mfa_device: Option<DeviceId>,
    /// The certificate's serial number.
    pub serial: u64,
    /// From when the certificate is valid: [`CLOCK_SKEW`](super::CLOCK_SKEW) before it was issued.
    pub valid_after: Timestamp,
    /// When the certificate ends.
    pub expires: Timestamp,
}

impl UserIdentity {
    /// Whether the certificate may be used from `peer`, as when it was verified: for connections that go on from another address.
    ///
    /// # Errors
    /// [`CertRejected::SourceAddress`] if it is bound to others, or the address is not known.
    pub fn may_come_from(&self, peer: Option<IpAddr>) -> Result<(), CertRejected> {
        check_source_address(&self.source_addresses, peer)
    }

    /// Whether the certificate was issued at `time` or before. Certificates know seconds: one of the very second counts as issued
    /// before.
    pub fn is_issued_until(&self, time: Timestamp) -> bool {
        self.valid_after.saturating_add(CLOCK_SKEW).unix_secs() <= time.unix_secs()
    }
}

/// A host whose certificate was verified. Made by the verification functions only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostIdentity {
    /// The host.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The service it speaks for.
    pub role: HostRole,
    /// The certificate's serial number.
    pub serial: u64,
    /// When the certificate ends.
    pub expires: Timestamp,
}

/// Somebody who was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// A host.
    Host(HostIdentity),
    /// A user.
    User(UserIdentity),
}

impl Identity {
    /// When its certificate ends.
    pub const fn expires(&self) -> Timestamp {
        match self {
            Self::Host(host) => host.expires,
            Self::User(user) => user.expires,
        }
    }
}
