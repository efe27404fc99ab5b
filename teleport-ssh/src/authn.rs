//! Certificates from the wire: parsed, their signature checked, handed to the one acceptance function of the core.
//!
//! What the SSH libraries check of a certificate is close to nothing: neither the authority, nor the kind, nor principals,
//! nor options. So everything that lets somebody in goes through `parse` and then through
//! [`teleport_core::cert::verify_user`] or [`teleport_core::cert::verify_host`].
//!
//! A certificate is never an authority here: both keys become a [`PublicKey`], which cannot hold a certificate.

use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, UnparsedPublicKey};
use ssh_key::certificate::CertType;
use ssh_key::encoding::Encode;
use ssh_key::public::KeyData;
use ssh_key::{Certificate, Signature};
use teleport_core::cert::{
    CertFields, CertKind, CertRejected, HostCheck, HostIdentity, KeyAlgorithm, MAX_CERT_LEN, PublicKey,
    TrustBundle, UserCheck, UserIdentity, verify_host, verify_user,
};
use teleport_core::origin::{Header, OriginRejected, Statement};

#[cfg(test)]
mod tests;

/// Reads a certificate as neutral fields and checks that it was signed with the key it names as its authority.
///
/// # Errors
/// [`CertRejected::Malformed`], [`CertRejected::Algorithm`] or [`CertRejected::Signature`].
pub(crate) fn parse(certificate: &Certificate) -> Result<CertFields, CertRejected> {
    let encoded = certificate.encode_vec().map_err(|_| CertRejected::Malformed)?;
    if encoded.len() > MAX_CERT_LEN {
        return Err(CertRejected::Malformed);
    }
    let subject = plain_key(certificate.public_key())?;
    let authority = plain_key(certificate.signature_key())?;
    let signature = certificate.signature();
    let unsigned = signature
        .encoded_len_prefixed()
        .ok()
        .and_then(|len| encoded.len().checked_sub(len))
        .and_then(|len| encoded.get(..len))
        .ok_or(CertRejected::Malformed)?;
    verify_signature(&authority, unsigned, signature)?;
    Ok(CertFields {
        kind: match certificate.cert_type() {
            CertType::Host => CertKind::Host,
            CertType::User => CertKind::User,
        },
        subject,
        authority,
        signature_algorithm: signature.algorithm().to_string(),
        serial: certificate.serial(),
        key_id: certificate.key_id().to_owned(),
        principals: certificate.valid_principals().to_vec(),
        valid_after: certificate.valid_after(),
        valid_before: certificate.valid_before(),
        critical_options: pairs(certificate.critical_options()),
        extensions: pairs(certificate.extensions()),
    })
}

/// Accepts a user certificate, or says why not. Also returns the authority that vouches: it may lose its trust while the user is
/// here.
///
/// # Errors
/// [`CertRejected`], for the log; the peer hears nothing of it.
pub(crate) fn user(
    certificate: &Certificate,
    trust: &TrustBundle,
    check: UserCheck<'_>,
) -> Result<(UserIdentity, PublicKey), CertRejected> {
    let fields = parse(certificate)?;
    let identity = verify_user(&fields, trust, check)?;
    Ok((identity, fields.authority))
}

/// Accepts a host certificate, or says why not.
///
/// # Errors
/// [`CertRejected`].
pub(crate) fn host(
    certificate: &Certificate,
    trust: &TrustBundle,
    check: HostCheck<'_>,
) -> Result<HostIdentity, CertRejected> {
    verify_host(&parse(certificate)?, trust, check)
}

/// Reads a certificate in its wire form; only the canonical encoding is one.
///
/// # Errors
/// As [`user_from_bytes`], before anybody is trusted.
pub fn fields_from_bytes(bytes: &[u8]) -> Result<CertFields, CertRejected> {
    if bytes.len() > MAX_CERT_LEN {
        return Err(CertRejected::Malformed);
    }
    let certificate = Certificate::from_bytes(bytes).map_err(|_| CertRejected::Malformed)?;
    match certificate.encode_vec() {
        Ok(encoded) if encoded == bytes => parse(&certificate),
        _ => Err(CertRejected::Malformed),
    }
}

/// Accepts a user certificate in its wire form, or says why not.
///
/// # Errors
/// [`CertRejected`], for the log; the peer hears nothing of it.
pub fn user_from_bytes(
    bytes: &[u8],
    trust: &TrustBundle,
    check: UserCheck<'_>,
) -> Result<UserIdentity, CertRejected> {
    verify_user(&fields_from_bytes(bytes)?, trust, check)
}

/// Accepts a host certificate in its wire form, or says why not.
///
/// # Errors
/// [`CertRejected`].
pub fn host_from_bytes(
    bytes: &[u8],
    trust: &TrustBundle,
    check: HostCheck<'_>,
) -> Result<HostIdentity, CertRejected> {
    verify_host(&fields_from_bytes(bytes)?, trust, check)
}

/// A statement of where a client is, in its wire form, and the certificate of whoever made it. Both signatures are checked, and nothing
/// else: whether it is to be believed is for [`Seen::accept`](teleport_core::origin::Seen::accept) to say.
///
/// # Errors
/// [`OriginRejected`].
pub fn statement_from_bytes(bytes: &[u8]) -> Result<(CertFields, Statement), OriginRejected> {
    let header = Header::parse(bytes)?;
    let fields = fields_from_bytes(header.certificate)?;
    if fields.subject.algorithm() != KeyAlgorithm::Ed25519 {
        return Err(OriginRejected::Signature);
    }
    let key = raw_tail::<32>(&fields.subject)?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(header.signed, header.signature)
        .map_err(|_| OriginRejected::Signature)?;
    Ok((fields, header.statement))
}

fn pairs(options: &ssh_key::certificate::OptionsMap) -> Vec<(String, String)> {
    options.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A key that is accepted as subject or authority: of an accepted algorithm, and no certificate.
fn plain_key(key: &KeyData) -> Result<PublicKey, CertRejected> {
    if key.is_certificate() {
        return Err(CertRejected::Malformed);
    }
    let blob = key.encode_vec().map_err(|_| CertRejected::Malformed)?;
    PublicKey::from_wire(&blob).map_err(|_| CertRejected::Algorithm)
}

fn verify_signature(
    authority: &PublicKey,
    message: &[u8],
    signature: &Signature,
) -> Result<(), CertRejected> {
    let algorithm = authority.algorithm();
    if signature.algorithm().to_string() != algorithm.as_str() {
        return Err(CertRejected::Algorithm);
    }
    let bytes = signature.as_bytes();
    let verified = match algorithm {
        KeyAlgorithm::Ed25519 => {
            let key = raw_tail::<32>(authority)?;
            UnparsedPublicKey::new(&ED25519, key).verify(message, bytes)
        }
        KeyAlgorithm::EcdsaP256 => {
            let signature = fixed::<64>(bytes).ok_or(CertRejected::Signature)?;
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, raw_tail::<65>(authority)?)
                .verify(message, &signature)
        }
        KeyAlgorithm::EcdsaP384 => {
            let signature = fixed::<96>(bytes).ok_or(CertRejected::Signature)?;
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, raw_tail::<97>(authority)?)
                .verify(message, &signature)
        }
        _ => return Err(CertRejected::Algorithm),
    };
    verified.map_err(|_| CertRejected::Signature)
}

/// The last `N` bytes of a key's wire form: the key itself, whose length `PublicKey` has checked.
fn raw_tail<const N: usize>(key: &PublicKey) -> Result<&[u8], CertRejected> {
    key.as_wire().last_chunk::<N>().map(<[u8; N]>::as_slice).ok_or(CertRejected::Malformed)
}

/// An ECDSA signature as SSH writes it (two integers, RFC 5656) in the form of `N` bytes that ring reads.
fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let (r, rest) = integer(bytes)?;
    let (s, rest) = integer(rest)?;
    let mut fixed = [0; N];
    let (to_r, to_s) = fixed.split_at_mut(N / 2);
    for (to, from) in [(to_r, r), (to_s, s)] {
        let at = to.len().checked_sub(from.len())?;
        to.get_mut(at..)?.copy_from_slice(from);
    }
    rest.is_empty().then_some(fixed)
}

/// A positive integer in its shortest form (RFC 4251), without the sign byte.
fn integer(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = input.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    match bytes {
        [0, next, ..] if *next >= 0x80 => Some((bytes.get(1..)?, rest)),
        [first, ..] if (1..0x80).contains(first) => Some((bytes, rest)),
        _ => None,
    }
}
