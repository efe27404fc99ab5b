//! Permission to have a certificate made: what a check returns and an issuer demands.

use std::net::IpAddr;
use std::time::Duration;

use super::{Permits, Traits};
use crate::id::{ClusterName, DeviceId, HostId, HostRole, NodeName, OsLogin, RoleName, UserName};

/// Permission for one user certificate. Made by the login and reissue checks, or by
/// [`danger`](super::danger) for programs that have a policy of their own.
///
/// Row D3 of the threat list: nobody else makes one, so nothing is signed that no check has seen.
///
/// ```compile_fail,E0624
/// # use std::time::Duration;
/// # use teleport_core::{cert::UserGrant, id::UserName};
/// # let user = UserName::new("alice").unwrap();
/// UserGrant::new(user, Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserGrant {
    /// The user; becomes the key id.
    pub user: UserName,
    /// Becomes the principals; if empty, a placeholder that is nobody's login is issued instead.
    pub logins: Vec<OsLogin>,
    /// The user's roles.
    pub roles: Vec<RoleName>,
    /// The user's traits.
    pub traits: Traits,
    /// What the certificate shall permit.
    pub permits: Permits,
    /// How long it shall be valid, already limited by roles. Issuers clamp it to 1 minute ..= 30 hours.
    pub ttl: Duration,
    /// From where the user logged in.
    pub login_ip: Option<IpAddr>,
    /// The second factor by which the user logged in.
    pub mfa_device: Option<DeviceId>,
    /// Networks to bind the certificate to; empty is any.
    pub source_addresses: Vec<String>,
    /// Further extensions for other software, with their values; none of them means anything here.
    pub extensions: Vec<(String, String)>,
}

impl UserGrant {
    pub(crate) fn new(user: UserName, ttl: Duration) -> Self {
        Self {
            user,
            logins: Vec::new(),
            roles: Vec::new(),
            traits: Traits::new(),
            permits: Permits::default(),
            ttl,
            login_ip: None,
            mfa_device: None,
            source_addresses: Vec::new(),
            extensions: Vec::new(),
        }
    }
}

/// Permission for one host certificate. Made by token admission and by renewal.
///
/// ```compile_fail,E0639
/// # use std::time::Duration;
/// # use teleport_core::cert::HostGrant;
/// # use teleport_core::id::{ClusterName, HostId, HostRole, NodeName};
/// fn forge(host_id: HostId, name: NodeName, cluster: ClusterName, ttl: Duration) -> HostGrant {
///     HostGrant { host_id, name, cluster, role: HostRole::Auth, addresses: Vec::new(), ttl }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostGrant {
    /// The host.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The service it may speak for.
    pub role: HostRole,
    /// Further names and addresses under which clients reach it.
    pub addresses: Vec<String>,
    /// How long the certificates shall be valid.
    pub ttl: Duration,
}

impl HostGrant {
    pub(crate) fn new(
        host_id: HostId,
        name: NodeName,
        cluster: ClusterName,
        role: HostRole,
        ttl: Duration,
    ) -> Self {
        Self { host_id, name, cluster, role, addresses: Vec::new(), ttl }
    }
}

/// Permission for a certificate by which a proxy logs in to a registered SSH server in the name of a user: one login, some minutes. Made
/// by the check of the user's certificate and roles for that very node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenSshGrant {
    /// The user; becomes the key id.
    pub user: UserName,
    /// The only principal.
    pub login: OsLogin,
    /// What the certificate shall permit.
    pub permits: Permits,
    /// How long it shall be valid. Issuers clamp it to 1 minute ..= 5 minutes.
    pub ttl: Duration,
}

impl OpenSshGrant {
    pub(crate) fn new(user: UserName, login: OsLogin, permits: Permits, ttl: Duration) -> Self {
        Self { user, login, permits, ttl }
    }
}

/// Permission for the certificate of an SSH server that is no member of the cluster. Made by the check of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SshServerGrant {
    /// Names and addresses under which clients reach it; they become the principals. Never empty.
    pub names: Vec<String>,
    /// The cluster whose authority vouches for it.
    pub cluster: ClusterName,
    /// How long the certificate shall be valid. Issuers clamp it to 1 minute ..= 30 days.
    pub ttl: Duration,
}

impl SshServerGrant {
    pub(crate) fn new(names: Vec<String>, cluster: ClusterName, ttl: Duration) -> Self {
        Self { names, cluster, ttl }
    }
}
