//! Reading X.509 certificates whose chain `webpki` verifies.

use teleport_core::cert::TLS_SUBJECT_OID;
use x509_parser::der_parser::Oid;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// The bytes are not a certificate of the form that we issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate of the expected form")]
pub(crate) struct Malformed;

/// What we read of an identity.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) common_name: String,
    /// The content of our extension; empty without it.
    pub(crate) subject: Vec<u8>,
    pub(crate) serial: u64,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// Its extended key usage names TLS clients.
    pub(crate) for_clients: bool,
    /// DER SubjectPublicKeyInfo.
    pub(crate) spki: Vec<u8>,
}

impl Leaf {
    /// Reads `der`. Whether anything of it is true is for the verification of its chain to say.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let certificate = parse(der)?;
        let mut names = certificate.subject().iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else { return Err(Malformed) };
        let oid = Oid::from(&TLS_SUBJECT_OID).map_err(|_| Malformed)?;
        // "unique" also refuses a certificate that has the extension twice.
        let subject = certificate.get_extension_unique(&oid).map_err(|_| Malformed)?;
        let usage = certificate.extended_key_usage().map_err(|_| Malformed)?;
        let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).map_err(|_| Malformed);
        let serial = certificate.raw_serial().iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self {
            common_name: name.as_str().map_err(|_| Malformed)?.to_owned(),
            subject: subject.map(|extension| extension.value.to_vec()).unwrap_or_default(),
            serial,
            not_before: seconds(certificate.validity().not_before)?,
            not_after: seconds(certificate.validity().not_after)?,
            for_clients: usage.is_some_and(|usage| usage.value.client_auth),
            spki: certificate.public_key().raw.to_vec(),
        })
    }
}

/// The DER SubjectPublicKeyInfo of an authority's certificate; `None` if it is not one of an authority.
pub(crate) fn authority_spki(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = parse(der).ok()?;
    certificate.is_ca().then(|| certificate.public_key().raw.to_vec())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Malformed> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Malformed),
    }
}

/// The service that a verified certificate names.
pub(crate) fn role(der: &[u8]) -> Option<teleport_core::id::HostRole> {
    match serde_json::from_slice(&Leaf::parse(der).ok()?.subject) {
        Ok(teleport_core::cert::Subject::Host { role, .. }) => Some(role),
        _ => None,
    }
}
