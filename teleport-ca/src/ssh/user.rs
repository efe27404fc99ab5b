//! What a user's certificate says.

use teleport_core::cert::{
    IssueError, NO_LOGIN, Permits, ROUTE_TO_CLUSTER, UserGrant, X_LOGIN_IP, X_MFA_DEVICE, X_ROLES, X_TRAITS,
};
use teleport_core::id::ClusterName;

/// The logins, or the placeholder: an empty list would mean "every login" to some servers.
pub(crate) fn principals(grant: &UserGrant) -> Vec<&str> {
    if grant.logins.is_empty() {
        return vec![NO_LOGIN];
    }
    let mut principals: Vec<&str> = Vec::with_capacity(grant.logins.len());
    for login in &grant.logins {
        if !principals.contains(&login.as_str()) {
            principals.push(login.as_str());
        }
    }
    principals
}

/// `networks` are canonical.
pub(crate) fn critical_options(networks: &[String]) -> Vec<(&'static str, String)> {
    if networks.is_empty() { Vec::new() } else { vec![("source-address", networks.join(","))] }
}

/// What OpenSSH reads of the permissions, in the order of their names by bytes.
pub(crate) fn permits(permits: Permits) -> Vec<(&'static str, String)> {
    let Permits { agent_forwarding, port_forwarding, pty, x11_forwarding } = permits;
    let permits = [
        ("permit-X11-forwarding", x11_forwarding),
        ("permit-agent-forwarding", agent_forwarding),
        ("permit-port-forwarding", port_forwarding),
        ("permit-pty", pty),
    ];
    permits.into_iter().filter(|(_, given)| *given).map(|(name, _)| (name, String::new())).collect()
}

/// In the order of their names, by bytes.
pub(crate) fn extensions<'g>(
    grant: &'g UserGrant,
    cluster: &ClusterName,
) -> Result<Vec<(&'g str, String)>, IssueError> {
    let json = |error: serde_json::Error| IssueError::Unavailable { source: error.into() };
    let mut extensions = permits(grant.permits);
    if let Some(address) = grant.login_ip {
        extensions.push((X_LOGIN_IP, address.to_canonical().to_string()));
    }
    if let Some(device) = grant.mfa_device {
        extensions.push((X_MFA_DEVICE, device.to_string()));
    }
    extensions.push((X_ROLES, serde_json::to_string(&grant.roles).map_err(json)?));
    extensions.push((ROUTE_TO_CLUSTER, cluster.to_string()));
    if !grant.traits.is_empty() {
        extensions.push((X_TRAITS, serde_json::to_string(&grant.traits).map_err(json)?));
    }
    extensions.extend(grant.extensions.iter().map(|(name, value)| (name.as_str(), value.clone())));
    extensions.sort_unstable();
    Ok(extensions)
}
