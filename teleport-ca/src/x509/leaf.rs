//! An X.509 identity.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use teleport_core::cert::{IssueError, MAX_CERT_LEN, Subject, TLS_SUBJECT_OID, TlsPublicKey};

use super::der::{self, Point};
use super::issuer::TlsIssuer;
use crate::key::KeyStore;
use crate::policy::{Validity, refused};

/// What an identity says.
pub(crate) struct Leaf<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) subject: &'a Subject,
    pub(crate) key: &'a TlsPublicKey,
    pub(crate) names: Vec<SanType>,
    pub(crate) serial: [u8; 16],
    pub(crate) validity: Validity,
}

impl Leaf<'_> {
    /// Signs; the result is DER.
    pub(crate) async fn sign(self, keys: &dyn KeyStore, issuer: &TlsIssuer) -> Result<Vec<u8>, IssueError> {
        let message = self.into_message(issuer)?;
        let signature = keys
            .sign(&issuer.key, &message)
            .await
            .map_err(|error| IssueError::Unavailable { source: error.into() })?;
        let certificate = der::assemble(&message, &signature);
        if certificate.len() > MAX_CERT_LEN {
            return Err(refused("the certificate would be too large"));
        }
        Ok(certificate)
    }

    /// What is signed.
    fn into_message(self, issuer: &TlsIssuer) -> Result<Vec<u8>, IssueError> {
        let unavailable =
            |source: Box<dyn std::error::Error + Send + Sync>| IssueError::Unavailable { source };
        let subject = serde_json::to_vec(self.subject).map_err(|error| unavailable(error.into()))?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, self.common_name);
        let mut params = CertificateParams::default();
        set_life(&mut params, self.validity);
        params.serial_number = Some(wide_serial(self.serial));
        params.subject_alt_names = self.names;
        params.distinguished_name = name;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match self.subject {
            Subject::User { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Subject::Host { .. } => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
        };
        params.custom_extensions = vec![CustomExtension::from_oid_content(&TLS_SUBJECT_OID, subject)];
        params.use_authority_key_identifier_extension = true;
        issuer.to_be_signed(&params, &Point(self.key.point())).map_err(|error| unavailable(error.into()))
    }
}

/// The names under which TLS clients may look for a host. One that is no valid DNS name is left out: some verifiers refuse
/// the whole certificate for it. The host is still found by its id.
pub(crate) fn alternative_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<SanType> {
    names
        .into_iter()
        .filter_map(|name| match name.parse::<IpAddr>() {
            Ok(address) => Some(SanType::IpAddress(address)),
            Err(_) if is_dns_name(name) => name.try_into().ok().map(SanType::DnsName),
            Err(_) => None,
        })
        .collect()
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A last label of digits is half an address.
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A positive serial number of 16 bytes.
pub(super) fn wide_serial(mut bytes: [u8; 16]) -> SerialNumber {
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Sets from when until when.
pub(super) fn set_life(params: &mut CertificateParams, life: Validity) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(life.after.unix_secs());
    params.not_after = epoch + Duration::from_secs(life.before.unix_secs());
}
