//! The acceptance of SSH certificates: one function for users, one for hosts.

use std::net::IpAddr;
use std::time::Duration;

use super::{
    CertFields, CertKind, CertRejected, HostIdentity, KeyAlgorithm, Permits, PublicKey, TrustBundle,
    UserIdentity, X_CLUSTER, X_HOST_ROLE, X_LOGIN_IP, X_MFA_DEVICE, X_ROLES, is_free_extension,
};
use crate::clock::Timestamp;
use crate::id::{HostId, HostRole, NodeName, OsLogin, RoleName, UserName};

/// How much a certificate's beginning may lie in the future.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// The most principals of a user certificate. Host certificates may have as many names plus their addresses.
pub const MAX_PRINCIPALS: usize = 32;
/// The longest life of a user certificate.
pub const MAX_USER_TTL: Duration = Duration::from_secs(30 * 3600);
/// The shortest life of a user certificate.
pub const MIN_USER_TTL: Duration = Duration::from_secs(60);
/// The longest life of a host certificate.
pub const MAX_HOST_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest life of a certificate by which a proxy logs in to the SSH server of somebody else: as long as that takes.
pub const MAX_OPENSSH_LOGIN_TTL: Duration = Duration::from_secs(300);
/// The principal of a user who may log in nowhere. No operating system has such a login, and [`OsLogin`] refuses it.
pub const NO_LOGIN: &str = "-teleport-nologin";

/// What a listener knows when a user presents a certificate.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "listeners build it; a new fact must make them think")]
pub struct UserCheck<'a> {
    /// The login that is asked for; `None` where there is none (at the proxy any principal will do).
    pub login: Option<&'a OsLogin>,
    /// The address of the client, from the socket or an authenticated proxy.
    pub peer: Option<IpAddr>,
    /// The time.
    pub now: Timestamp,
}

/// Whom a client or server expects a host certificate to name.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "clients build it; a new fact must make them think")]
pub struct HostCheck<'a> {
    /// The name, address or host id that was dialled; must be a principal.
    pub name: &'a str,
    /// The service that is expected there.
    pub role: HostRole,
    /// The time.
    pub now: Timestamp,
}

/// Accepts a user certificate, or says why not. The order of the checks is part of the contract: what says whether the
/// certificate is ours comes before what reads its content.
///
/// `fields` come from a certificate whose signature was verified with `fields.authority`.
///
/// # Errors
/// [`CertRejected`], for the log; tell the peer nothing of it.
pub fn verify_user(
    fields: &CertFields,
    trust: &TrustBundle,
    check: UserCheck<'_>,
) -> Result<UserIdentity, CertRejected> {
    accept(fields, CertKind::User, &trust.user_ca, MAX_USER_TTL, check.now)?;
    let logins = user_principals(&fields.principals)?;
    if let Some(login) = check.login
        && !logins.contains(login)
    {
        return Err(CertRejected::Login);
    }
    let user = UserName::new(&fields.key_id).map_err(|_| CertRejected::Field)?;
    let (force_command, source_addresses) = critical_options(&fields.critical_options)?;
    check_source_address(&source_addresses, check.peer)?;
    let roles: Vec<RoleName> = match fields.extension(X_ROLES) {
        Some(json) => serde_json::from_str(json).map_err(|_| CertRejected::Field)?,
        None => Vec::new(),
    };
    let login_ip = match fields.extension(X_LOGIN_IP) {
        Some(text) => Some(text.parse().map_err(|_| CertRejected::Field)?),
        None => None,
    };
    let mfa_device = match fields.extension(X_MFA_DEVICE) {
        Some(text) => Some(text.parse().map_err(|_| CertRejected::Field)?),
        None => None,
    };
    Ok(UserIdentity {
        user,
        // From the authority that signed, never from a field.
        cluster: trust.cluster.clone(),
        roles,
        logins,
        traits: fields.traits().ok_or(CertRejected::Field)?,
        permits: Permits {
            agent_forwarding: fields.extension("permit-agent-forwarding").is_some(),
            port_forwarding: fields.extension("permit-port-forwarding").is_some(),
            pty: fields.extension("permit-pty").is_some(),
            x11_forwarding: fields.extension("permit-X11-forwarding").is_some(),
        },
        force_command,
        source_addresses,
        extensions: fields.extensions.iter().filter(|(name, _)| is_free_extension(name)).cloned().collect(),
        login_ip,
        mfa_device,
        serial: fields.serial,
        valid_after: Timestamp::from_unix_secs(fields.valid_after),
        expires: Timestamp::from_unix_secs(fields.valid_before),
    })
}

/// Accepts a host certificate, or says why not.
///
/// `fields` come from a certificate whose signature was verified with `fields.authority`.
///
/// # Errors
/// [`CertRejected`].
pub fn verify_host(
    fields: &CertFields,
    trust: &TrustBundle,
    check: HostCheck<'_>,
) -> Result<HostIdentity, CertRejected> {
    accept(fields, CertKind::Host, &trust.host_ca, MAX_HOST_TTL, check.now)?;
    if fields.principals.is_empty() || fields.principals.len() > 2 * MAX_PRINCIPALS {
        return Err(CertRejected::Principals);
    }
    if !fields.critical_options.is_empty() {
        return Err(CertRejected::Option);
    }
    let role: HostRole =
        fields.extension(X_HOST_ROLE).and_then(|text| text.parse().ok()).ok_or(CertRejected::Field)?;
    if role != check.role
        || fields.extension(X_CLUSTER) != Some(trust.cluster.as_str())
        || !fields.principals.iter().any(|principal| principal == check.name)
    {
        return Err(CertRejected::Name);
    }
    let (host_id, name) = fields
        .key_id
        .split_once(' ')
        .and_then(|(id, name)| Some((id.parse::<HostId>().ok()?, NodeName::new(name).ok()?)))
        .ok_or(CertRejected::Field)?;
    Ok(HostIdentity {
        host_id,
        name,
        cluster: trust.cluster.clone(),
        role,
        serial: fields.serial,
        expires: Timestamp::from_unix_secs(fields.valid_before),
    })
}

/// What both kinds have in common: kind, authority, algorithm, time.
fn accept(
    fields: &CertFields,
    kind: CertKind,
    authorities: &[PublicKey],
    max_ttl: Duration,
    now: Timestamp,
) -> Result<(), CertRejected> {
    if fields.kind != kind {
        return Err(CertRejected::Kind);
    }
    // Byte equality with a plain key: `PublicKey` cannot hold a certificate, so a certificate is never an authority.
    if !authorities.contains(&fields.authority) {
        return Err(CertRejected::Authority);
    }
    if fields.signature_algorithm != fields.authority.algorithm().as_str() {
        return Err(CertRejected::Algorithm);
    }
    match fields.subject.algorithm() {
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 | KeyAlgorithm::Ed25519 => {}
    }
    let life = fields.valid_before.checked_sub(fields.valid_after).ok_or(CertRejected::Lifetime)?;
    if life == 0 || life > max_ttl.as_secs().saturating_add(2 * CLOCK_SKEW.as_secs()) {
        return Err(CertRejected::Lifetime);
    }
    let now = now.unix_secs();
    if fields.valid_after > now.saturating_add(CLOCK_SKEW.as_secs()) {
        return Err(CertRejected::NotYetValid);
    }
    if now >= fields.valid_before {
        return Err(CertRejected::Expired);
    }
    let clean = |text: &str| !text.chars().any(char::is_control);
    if clean(&fields.key_id)
        && fields
            .extensions
            .iter()
            .chain(&fields.critical_options)
            .all(|(key, value)| clean(key) && clean(value))
    {
        Ok(())
    } else {
        Err(CertRejected::Field)
    }
}

fn user_principals(principals: &[String]) -> Result<Vec<OsLogin>, CertRejected> {
    if principals.is_empty() || principals.len() > MAX_PRINCIPALS {
        return Err(CertRejected::Principals);
    }
    principals
        .iter()
        .filter(|principal| *principal != NO_LOGIN)
        .map(|principal| OsLogin::new(principal).map_err(|_| CertRejected::Principals))
        .collect()
}

type Options = (Option<String>, Vec<String>);

fn critical_options(options: &[(String, String)]) -> Result<Options, CertRejected> {
    let mut force_command = None;
    let mut source_addresses = Vec::new();
    for (name, value) in options {
        // Each once, as OpenSSH demands: else one of two would silently not bind.
        match name.as_str() {
            "force-command" if !value.is_empty() && force_command.is_none() => {
                force_command = Some(value.clone());
            }
            "source-address" if !value.is_empty() && source_addresses.is_empty() => {
                source_addresses = value.split(',').map(str::to_owned).collect();
            }
            _ => return Err(CertRejected::Option),
        }
    }
    Ok((force_command, source_addresses))
}

/// Whether a credential that is bound to `networks` may be used from `peer`. Unparsable networks refuse.
pub(super) fn check_source_address(networks: &[String], peer: Option<IpAddr>) -> Result<(), CertRejected> {
    if networks.is_empty() {
        return Ok(());
    }
    let parsed: Vec<ipnet::IpNet> = networks
        .iter()
        .map(|text| text.parse().or_else(|_| text.parse::<IpAddr>().map(ipnet::IpNet::from)))
        .collect::<Result<_, _>>()
        .map_err(|_| CertRejected::Option)?;
    let peer = peer.map(|peer| peer.to_canonical()).ok_or(CertRejected::SourceAddress)?;
    if parsed.iter().any(|network| network.contains(&peer)) {
        Ok(())
    } else {
        Err(CertRejected::SourceAddress)
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
