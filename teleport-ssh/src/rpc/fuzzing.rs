//! Ways in for fuzzers, past the signatures that they cannot make. No part of the API.

use teleport_core::cert::{Identity, TlsAuthority, TlsFields, TrustBundle, verify_tls};
use teleport_core::clock::Timestamp;

use super::x509::{Leaf, authority_spki};

/// What is made of a certificate for which `authority` was found to vouch.
pub fn identity(
    der: &[u8],
    authority: TlsAuthority,
    trust: &TrustBundle,
    now: Timestamp,
) -> Option<Identity> {
    let leaf = Leaf::parse(der).ok()?;
    let fields = TlsFields {
        authority,
        common_name: &leaf.common_name,
        subject: &leaf.subject,
        serial: leaf.serial,
        not_after: leaf.not_after,
    };
    verify_tls(&fields, trust, None, now).ok()
}

/// The key of a certificate that a joining host is shown as its authority.
pub fn authority_key(der: &[u8]) -> Option<Vec<u8>> {
    authority_spki(der)
}
