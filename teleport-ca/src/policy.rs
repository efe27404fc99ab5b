//! What is not issued, whatever the caller permits.
//!
//! Most of it cannot even be expressed in a grant, whose names are parsed. What is left is checked here, because a signature
//! cannot be taken back.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use teleport_core::cert::{
    CLOCK_SKEW, HostGrant, IssueError, KeyAlgorithm, MAX_HOST_TTL, MAX_OPENSSH_LOGIN_TTL, MAX_PRINCIPALS,
    MAX_USER_TTL, MIN_USER_TTL, PublicKey, SERVICE_DNS_NAME, SshServerGrant, TlsPublicKey, UserGrant,
    is_free_extension, proxy_principal,
};
use teleport_core::clock::Timestamp;
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName};

use crate::ssh::wire;

const MAX_ROLES: usize = 128;
const MAX_NETWORKS: usize = 64;
const MAX_EXTENSIONS: usize = 64;
const MAX_EXTENSION_LEN: usize = 1024;
/// With the names that every host has, it stays below what `verify_host` accepts.
const MAX_ADDRESSES: usize = MAX_PRINCIPALS;

pub(crate) const fn refused(reason: &'static str) -> IssueError {
    IssueError::Refused { reason }
}

/// The life of a certificate, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) after: Timestamp,
    pub(crate) before: Timestamp,
}

impl Validity {
    pub(crate) fn user(now: Timestamp, ttl: Duration) -> Self {
        Self::clamped(now, ttl, MAX_USER_TTL)
    }

    pub(crate) fn host(now: Timestamp, ttl: Duration) -> Self {
        Self::clamped(now, ttl, MAX_HOST_TTL)
    }

    pub(crate) fn openssh_login(now: Timestamp, ttl: Duration) -> Self {
        Self::clamped(now, ttl, MAX_OPENSSH_LOGIN_TTL)
    }

    fn clamped(now: Timestamp, ttl: Duration, max: Duration) -> Self {
        let now = Timestamp::from_unix_secs(now.unix_secs());
        let ttl = Duration::from_secs(ttl.clamp(MIN_USER_TTL, max).as_secs());
        Self { after: now.saturating_sub(CLOCK_SKEW), before: now.saturating_add(ttl) }
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// Refuses what a user's certificate may not say; gives back the networks in their canonical form.
pub(crate) fn check_user(grant: &UserGrant) -> Result<Vec<String>, IssueError> {
    if grant.logins.len() > MAX_PRINCIPALS {
        return Err(refused("more than 32 logins"));
    }
    if grant.roles.len() > MAX_ROLES {
        return Err(refused("more than 128 roles"));
    }
    if grant
        .traits
        .iter()
        .any(|(name, values)| has_control(name) || values.iter().any(|value| has_control(value)))
    {
        return Err(refused("a trait has a control character"));
    }
    check_extensions(&grant.extensions)?;
    if grant.source_addresses.len() > MAX_NETWORKS {
        return Err(refused("more than 64 source addresses"));
    }
    grant.source_addresses.iter().map(|text| network(text)).collect()
}

/// Further extensions mean something to other software, and never to ours or to OpenSSH: none of them gives a permission.
fn check_extensions(extensions: &[(String, String)]) -> Result<(), IssueError> {
    if extensions.len() > MAX_EXTENSIONS {
        return Err(refused("more than 64 further extensions"));
    }
    if extensions.iter().any(|(name, _)| !is_free_extension(name)) {
        return Err(refused("a further extension has a name that is not free"));
    }
    if extensions.iter().any(|(_, value)| has_control(value) || value.len() > MAX_EXTENSION_LEN) {
        return Err(refused("the value of a further extension is too long or has a control character"));
    }
    let twice = |(index, (name, _)): (usize, &(String, String))| {
        extensions.iter().take(index).any(|(other, _)| other == name)
    };
    if extensions.iter().enumerate().any(twice) {
        return Err(refused("a further extension is named twice"));
    }
    Ok(())
}

/// `address` or `address/bits` without bits after the mask, which OpenSSH would take for a mistake. Numbers with leading
/// zeros are refused: some read them as octal.
fn network(text: &str) -> Result<String, IssueError> {
    let parse = || {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let Some(bits) = bits else { return Some(address.to_canonical().to_string()) };
        let number: u8 = bits.parse().ok()?;
        let network = IpNet::new(address, number).ok()?;
        (number.to_string() == bits).then(|| network.trunc().to_string())
    };
    parse().ok_or(refused("a source address is neither an address nor a network"))
}

/// The names of a host, each once: its id and its display name, alone and within the cluster, the local ones, those of its
/// service, and the addresses of the grant.
pub(crate) fn host_principals(grant: &HostGrant, cluster: &ClusterName) -> Result<Vec<String>, IssueError> {
    if grant.cluster != *cluster {
        return Err(refused("the host is of another cluster"));
    }
    if grant.addresses.len() > MAX_ADDRESSES {
        return Err(refused("more than 32 addresses"));
    }
    let HostGrant { host_id, name, .. } = grant;
    let mut principals = vec![
        format!("{host_id}.{cluster}"),
        host_id.to_string(),
        format!("{name}.{cluster}"),
        name.to_string(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    if grant.role == HostRole::Proxy {
        principals.push(proxy_principal(cluster));
    }
    for address in &grant.addresses {
        principals.push(match address.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => NodeName::new(address)
                .map_err(|_| refused("an address is neither an IP address nor a host name"))?
                .to_string(),
        });
    }
    if principals.iter().any(|name| is_of_somebody_else(name, Some((grant.host_id, grant.role)), cluster)) {
        return Err(refused("a name or address belongs to another host or service"));
    }
    let mut unique: Vec<String> = Vec::with_capacity(principals.len());
    for principal in principals {
        if !unique.contains(&principal) {
            unique.push(principal);
        }
    }
    Ok(unique)
}

/// The names of an SSH server that is no member: those of the grant, none of which is one by which members know each other.
pub(crate) fn ssh_server_principals<'g>(
    grant: &'g SshServerGrant,
    cluster: &ClusterName,
) -> Result<Vec<&'g str>, IssueError> {
    if grant.cluster != *cluster {
        return Err(refused("the host is of another cluster"));
    }
    if grant.names.is_empty() || grant.names.len() > MAX_PRINCIPALS {
        return Err(refused("a host has between 1 and 32 names"));
    }
    for name in &grant.names {
        if name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().to_string() == *name) {
            continue;
        }
        let name = NodeName::new(name)
            .map_err(|_| refused("a name is neither an IP address nor a host name"))?
            .to_string();
        let within = format!("{name}.{cluster}");
        if is_of_somebody_else(&name, None, cluster) || is_of_somebody_else(&within, None, cluster) {
            return Err(refused("a name belongs to a member of the cluster"));
        }
    }
    Ok(grant.names.iter().map(String::as_str).collect())
}

/// A host is free to choose its display name, so it must not be able to choose one by which another host or the cluster's
/// own services are found. Compared as DNS does, without case. `own` is who asks, if it is a member.
fn is_of_somebody_else(name: &str, own: Option<(HostId, HostRole)>, cluster: &ClusterName) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let service = name == SERVICE_DNS_NAME || name.ends_with(&format!(".{SERVICE_DNS_NAME}"));
    let first_label = name.split('.').next().unwrap_or_default();
    let other_host = first_label.parse::<HostId>().is_ok_and(|id| own.is_none_or(|(own, _)| own != id));
    let proxy = name == proxy_principal(cluster).to_ascii_lowercase();
    let is_service = own.is_some_and(|(_, role)| speaks_for_cluster(role));
    let is_proxy = own.is_some_and(|(_, role)| role == HostRole::Proxy);
    other_host || (service && !is_service) || (proxy && !is_proxy)
}

/// Whether the role is one of those that are found under [`SERVICE_DNS_NAME`].
pub(crate) const fn speaks_for_cluster(role: HostRole) -> bool {
    matches!(role, HostRole::Auth | HostRole::Proxy)
}

/// Points of small order on the curve of Ed25519, in each encoding that some verifier takes, without the sign bit. For such a
/// key anybody can make signatures.
const SMALL_ORDER: [[u8; 32]; 7] = {
    let mut zero = [0; 32];
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    minus_one[0] = 0xec;
    minus_one[31] = 0x7f;
    let mut prime = minus_one;
    prime[0] = 0xed;
    let mut prime_plus_one = minus_one;
    prime_plus_one[0] = 0xee;
    zero[0] = 0;
    [
        zero,
        one,
        minus_one,
        prime,
        prime_plus_one,
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
            0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ]
};

/// Refuses keys that anybody has the private half of, and those of the authority itself.
pub(crate) fn check_ssh_key<'a>(
    key: &PublicKey,
    mut authorities: impl Iterator<Item = &'a PublicKey>,
) -> Result<(), IssueError> {
    if authorities.any(|authority| authority == key) {
        return Err(refused("the key is one of the authority"));
    }
    let fields = wire::after_first_string(key.as_wire());
    let weak = match key.algorithm() {
        KeyAlgorithm::Ed25519 => {
            let mut point = [0; 32];
            match fields.get(4..).filter(|bytes| bytes.len() == point.len()) {
                Some(bytes) => point.copy_from_slice(bytes),
                None => return Err(refused("not an Ed25519 key")),
            }
            point[31] &= 0x7f;
            SMALL_ORDER.contains(&point)
        }
        _ => is_zero_point(wire::after_first_string(fields).get(4..).unwrap_or_default()),
    };
    if weak { Err(refused("the key gives no security")) } else { Ok(()) }
}

/// The same for the key of an X.509 identity; `authorities` are points.
pub(crate) fn check_tls_key<'a>(
    key: &TlsPublicKey,
    mut authorities: impl Iterator<Item = &'a [u8]>,
) -> Result<(), IssueError> {
    if authorities.any(|authority| authority == key.point()) {
        return Err(refused("the key is one of the authority"));
    }
    if is_zero_point(key.point()) { Err(refused("the key gives no security")) } else { Ok(()) }
}

fn is_zero_point(point: &[u8]) -> bool {
    point.iter().skip(1).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
