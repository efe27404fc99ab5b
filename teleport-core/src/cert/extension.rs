//! The names that our certificates use, in one place.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Permits, Traits};
use crate::id::{ClusterName, DeviceId, HostRole, NodeName, OsLogin, RoleName};

/// Extension of user certificates: a JSON list of role names.
pub const X_ROLES: &str = "roles@teleport-rs";
/// Extension of user certificates: a JSON map from trait name to a list of values.
pub const X_TRAITS: &str = "traits@teleport-rs";
/// Extension of user certificates: the cluster that sessions go to.
pub const ROUTE_TO_CLUSTER: &str = "route-to-cluster@teleport-rs";
/// Extension of user certificates: the address from which the user logged in.
pub const X_LOGIN_IP: &str = "login-ip@teleport-rs";
/// Extension of user certificates: the id of the second factor by which the user logged in.
pub const X_MFA_DEVICE: &str = "mfa-device@teleport-rs";
/// Extension of host certificates: the service, `node`, `proxy` or `auth`.
pub const X_HOST_ROLE: &str = "host-role@teleport-rs";
/// Extension of host certificates: the cluster.
pub const X_CLUSTER: &str = "cluster@teleport-rs";

/// A DNS name in the X.509 identity of every auth service and proxy, and of nothing else: who looks for the service of a
/// cluster rather than for one host asks for this name. Which of the two services answers, [`Subject::Host`] says.
pub const SERVICE_DNS_NAME: &str = "teleport.cluster.local";

/// The node name that no host may have: with the cluster's it makes [`proxy_principal`].
pub const PROXY_NAME: &str = "teleport-proxy";

/// The principal in the SSH host certificate of every proxy of a cluster, and of nothing else: `teleport-proxy.<cluster>`.
///
/// Hosts choose their names and addresses, so a node may say that it is called like a proxy. Who looks for a proxy therefore
/// asks for this name, whatever address leads there; it is also the same for all proxies behind one address.
pub fn proxy_principal(cluster: &ClusterName) -> String {
    format!("{PROXY_NAME}.{cluster}")
}

/// Whether every host has this name or address, for connections within its own machine: it says nothing of who answers.
pub fn is_local(name: &str) -> bool {
    let local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    name == "localhost" || name.parse().is_ok_and(local)
}

/// The longest name of an extension that roles add, in bytes.
const MAX_EXTENSION_NAME: usize = 128;

/// Whether roles may add an extension of this name to the certificates of users: `name@domain`, and none to which OpenSSH or this
/// product give a meaning.
pub fn is_free_extension(name: &str) -> bool {
    let Some((local, domain)) = name.split_once('@') else { return false };
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let ours = domain.eq_ignore_ascii_case("teleport-rs") || domain.eq_ignore_ascii_case("openssh.com");
    name.len() <= MAX_EXTENSION_NAME && word(local) && word(domain) && !ours
}

/// The X.509 extension that holds a [`Subject`] as JSON. Not critical: other software may use the certificate without it.
pub const TLS_SUBJECT_OID: [u64; 5] = [1, 3, 9999, 42, 1];

/// Who an X.509 identity speaks for, beside its common name (user name or host id). Carried as JSON in the extension
/// [`TLS_SUBJECT_OID`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::exhaustive_enums, reason = "authorities write it and verifiers read it: both must know all")]
pub enum Subject {
    /// A host.
    Host {
        /// Its cluster.
        cluster: ClusterName,
        /// Its display name.
        name: NodeName,
        /// Its service.
        role: HostRole,
    },
    /// A user.
    User {
        /// The user's cluster.
        cluster: ClusterName,
        /// The logins that roles and traits gave when it was issued.
        logins: Vec<OsLogin>,
        /// The address from which the user logged in.
        login_ip: Option<IpAddr>,
        /// The second factor by which the user logged in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mfa_device: Option<DeviceId>,
        /// What the SSH certificate of the same issue permits.
        permits: Permits,
        /// The user's roles.
        roles: Vec<RoleName>,
        /// Only these addresses may use it; empty is any.
        source_addresses: Vec<String>,
        /// Further extensions of the SSH certificate of the same issue.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        extensions: Vec<(String, String)>,
        /// The user's traits.
        traits: Traits,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_host_has() {
        for name in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::"] {
            assert!(is_local(name), "{name}");
        }
        for name in ["", "localhost.example.com", "192.0.2.1", "2001:db8::1", "127.0.0.1:22", "node"] {
            assert!(!is_local(name), "{name}");
        }
    }
}
