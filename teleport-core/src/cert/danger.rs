//! Grants without a policy check.
//!
//! For programs that embed a certificate authority and have rules of their own. What these functions return is as good
//! as an approved login or join: call them only behind such rules.

use std::time::Duration;

use super::{HostGrant, OpenSshGrant, Permits, SshServerGrant, UserGrant};
use crate::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, UserName};

/// A grant for a user certificate that no policy of ours has seen. All lists are empty; fill the public fields.
pub fn unchecked_user_grant(user: UserName, ttl: Duration) -> UserGrant {
    UserGrant::new(user, ttl)
}

/// A grant for a host certificate that no token has admitted.
pub fn unchecked_host_grant(
    host_id: HostId,
    name: NodeName,
    cluster: ClusterName,
    role: HostRole,
    ttl: Duration,
) -> HostGrant {
    HostGrant::new(host_id, name, cluster, role, ttl)
}

/// A grant for a login on a registered SSH server that no role of ours has allowed. It permits nothing besides; fill the public fields.
pub fn unchecked_openssh_grant(user: UserName, login: OsLogin, ttl: Duration) -> OpenSshGrant {
    OpenSshGrant::new(user, login, Permits::default(), ttl)
}

/// A grant for the certificate of an SSH server whose names nobody has compared with those of the cluster's members.
pub fn unchecked_ssh_server_grant(names: Vec<String>, cluster: ClusterName, ttl: Duration) -> SshServerGrant {
    SshServerGrant::new(names, cluster, ttl)
}
