//! The decision whether a host may join.

use std::net::IpAddr;
use std::time::Duration;

use super::TokenRecord;
use crate::cert::HostGrant;
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, HostRole, NodeName};
use crate::label::Labels;
use crate::lock::Locked;

/// The most addresses of one host.
pub const MAX_ADDRESSES: usize = 16;

/// What a host says of itself when it asks to join.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it; a new claim must make them think")]
pub struct JoinClaim<'a> {
    /// Its id.
    pub host_id: HostId,
    /// Its display name.
    pub name: &'a NodeName,
    /// The service that it wants to be.
    pub role: HostRole,
    /// Further names and addresses under which it will be reached.
    pub addresses: &'a [String],
    /// The cluster that it asks.
    pub cluster: &'a ClusterName,
    /// Whether this very host, by its keys, has joined by this token before: the answer was lost, and it asks again. Such a use is
    /// spent already.
    pub again: bool,
}

/// Why a host may not join. For the log and the audit event; the host hears that it was denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinDenied {
    /// An address that cannot be one of the host.
    #[error("{address:?} cannot be a name or address of the host")]
    Address {
        /// The address, cut if it is long.
        address: String,
    },
    /// The id belongs to another host.
    #[error(
        "the host id is bound to other keys or another role until that host's certificates have ended; use another id"
    )]
    Bound,
    /// The host of this id was removed.
    #[error("the host was removed from the cluster by an administrator; only another id may join")]
    Evicted,
    /// The token is over.
    #[error("the token expired at {at}")]
    Expired {
        /// Since when.
        at: Timestamp,
    },
    /// The host is locked.
    #[error("{locked}")]
    Locked {
        /// By which lock.
        locked: Locked,
    },
    /// The token is not for this service.
    #[error("the token does not allow the role {asked}")]
    Role {
        /// The service that was asked for.
        asked: HostRole,
    },
    /// The host would take a name by which others are found.
    #[error(
        "{name:?} is a name or address by which a proxy, the cluster or a certified server is found; the host needs another"
    )]
    Taken {
        /// The name or address.
        name: String,
    },
    /// There is no such token.
    #[error("there is no such token")]
    Unknown,
    /// The token was used as often as it may be.
    #[error("the token has no uses left")]
    UsedUp,
}

/// Permission to join. Made by [`admit`] only.
///
/// ```compile_fail,E0639
/// # use teleport_core::token::Admission;
/// # use teleport_core::id::{ClusterName, HostId, HostRole, NodeName};
/// # use teleport_core::label::Labels;
/// fn forge(host_id: HostId, name: NodeName, cluster: ClusterName, labels: Labels) -> Admission {
///     let addresses = Vec::new();
///     Admission { host_id, name, cluster, role: HostRole::Auth, addresses, labels, token_after: None }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Admission {
    /// The host.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// The service that it may be.
    pub role: HostRole,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Labels that it must carry.
    pub labels: Labels,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The token after this use; `None` if the use does not change it. To be stored **before** anything is signed: a
    /// crash may then waste a use, but never double one.
    pub token_after: Option<TokenRecord>,
}

impl Admission {
    /// Permission for the certificates, valid for `ttl`.
    pub fn into_grant(self, ttl: Duration) -> HostGrant {
        let mut grant = HostGrant::new(self.host_id, self.name, self.cluster, self.role, ttl);
        grant.addresses = self.addresses;
        grant
    }
}

/// Decides whether the holder of the token may join as it claims.
///
/// # Errors
/// [`JoinDenied`], for the log.
pub fn admit(token: &TokenRecord, claim: &JoinClaim<'_>, now: Timestamp) -> Result<Admission, JoinDenied> {
    if let Some(at) = token.expires
        && at <= now
    {
        return Err(JoinDenied::Expired { at });
    }
    let token_after = match token.uses_left {
        Some(_) if claim.again => None,
        Some(uses) => {
            let left = uses.checked_sub(1).ok_or(JoinDenied::UsedUp)?;
            Some(TokenRecord { uses_left: Some(left), ..token.clone() })
        }
        None => None,
    };
    if !token.roles.contains(&claim.role) {
        return Err(JoinDenied::Role { asked: claim.role });
    }
    let wrong = claim.addresses.get(MAX_ADDRESSES).or_else(|| {
        claim.addresses.iter().find(|address| !is_address(address, claim.host_id, claim.cluster))
    });
    if let Some(address) = wrong {
        return Err(JoinDenied::Address { address: address.chars().take(64).collect() });
    }
    Ok(Admission {
        host_id: claim.host_id,
        name: claim.name.clone(),
        role: claim.role,
        addresses: claim.addresses.to_vec(),
        labels: token.labels.clone(),
        cluster: claim.cluster.clone(),
        token_after,
    })
}

/// Whether `address` may be a principal of the host `own` beside its id and name: an IP address or a DNS name, and not a name
/// that the cluster gives to hosts (`<id>`, `<anything>.<cluster>`), by which it could pose as another one.
pub fn is_address(address: &str, own: HostId, cluster: &ClusterName) -> bool {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return !ip.is_unspecified() && !ip.is_multicast();
    }
    let lower = address.to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let of_cluster = lower
        .strip_suffix(&cluster.as_str().to_ascii_lowercase())
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let numeric = lower.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_id = |text: &str| text.parse::<HostId>().is_ok_and(|id| id != own);
    lower.len() <= 253 && lower.split('.').all(label) && !of_cluster && !numeric && !is_id(&lower)
}
