//! The acceptance of X.509 identities.

use std::net::IpAddr;

use super::verify::check_source_address;
use super::{CertRejected, HostIdentity, Identity, Subject, TrustBundle, UserIdentity};
use crate::clock::Timestamp;
use crate::id::{HostId, UserName};

/// Which kind of authority an X.509 chain was verified with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two authorities; a third must make verifiers think")]
pub enum TlsAuthority {
    /// One of [`TrustBundle::host_tls_ca`].
    Host,
    /// One of [`TrustBundle::user_tls_ca`].
    User,
}

/// The fields of an X.509 identity whose chain **was verified** with an authority of this kind.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "adapters build it; a new field must make them think")]
pub struct TlsFields<'a> {
    /// Which kind of authority vouches for it.
    pub authority: TlsAuthority,
    /// The subject's common name: a user name or a host id.
    pub common_name: &'a str,
    /// The content of the extension [`TLS_SUBJECT_OID`](super::TLS_SUBJECT_OID).
    pub subject: &'a [u8],
    /// The low 64 bits of the serial number.
    pub serial: u64,
    /// Seconds since the epoch.
    pub not_before: u64,
    /// Seconds since the epoch.
    pub not_after: u64,
}

/// Accepts an X.509 identity, or says why not. A host is a host only under the hosts' authority, a user only under the
/// users': whatever names a user may have, none of them gives the rights of a service.
///
/// # Errors
/// [`CertRejected`], for the log.
pub fn verify_tls(
    fields: &TlsFields<'_>,
    trust: &TrustBundle,
    peer: Option<IpAddr>,
    now: Timestamp,
) -> Result<Identity, CertRejected> {
    if now.unix_secs() >= fields.not_after {
        return Err(CertRejected::Expired);
    }
    let expires = Timestamp::from_unix_secs(fields.not_after);
    let subject: Subject = serde_json::from_slice(fields.subject).map_err(|_| CertRejected::Field)?;
    match (fields.authority, subject) {
        (TlsAuthority::Host, Subject::Host { cluster, name, role }) => {
            if cluster != trust.cluster {
                return Err(CertRejected::Name);
            }
            let host_id: HostId = fields.common_name.parse().map_err(|_| CertRejected::Field)?;
            Ok(Identity::Host(HostIdentity { host_id, name, cluster, role, serial: fields.serial, expires }))
        }
        (
            TlsAuthority::User,
            Subject::User {
                cluster,
                logins,
                login_ip,
                mfa_device,
                permits,
                roles,
                source_addresses,
                extensions,
                traits,
            },
        ) => {
            if cluster != trust.cluster {
                return Err(CertRejected::Name);
            }
            check_source_address(&source_addresses, peer)?;
            let user = UserName::new(fields.common_name).map_err(|_| CertRejected::Field)?;
            Ok(Identity::User(UserIdentity {
                user,
                cluster,
                roles,
                logins,
                traits,
                permits,
                force_command: None,
                source_addresses,
                extensions,
                login_ip,
                mfa_device,
                serial: fields.serial,
                valid_after: Timestamp::from_unix_secs(fields.not_before),
                expires,
            }))
        }
        _ => Err(CertRejected::Kind),
    }
}
