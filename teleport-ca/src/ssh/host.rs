//! What a host's certificate says.

use teleport_core::cert::{HostGrant, X_CLUSTER, X_HOST_ROLE};

/// The host's id and its display name: both are needed by who verifies it, and both are good to see in a log.
pub(crate) fn key_id(grant: &HostGrant) -> String {
    format!("{} {}", grant.host_id, grant.name)
}

/// In the order of their names, by bytes.
pub(crate) fn extensions(grant: &HostGrant) -> Vec<(&'static str, String)> {
    vec![(X_CLUSTER, grant.cluster.to_string()), (X_HOST_ROLE, grant.role.to_string())]
}
