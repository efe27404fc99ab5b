//! An X.509 authority.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData,
};
use ring::digest;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use teleport_core::cert::{CLOCK_SKEW, CaPin, PublicKey, X509Authority};
use teleport_core::clock::Timestamp;
use teleport_core::id::ClusterName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::der::{self, Point};
use super::leaf::{set_life, wide_serial};
use crate::error::CaError;
use crate::key::{KeyId, KeyStore};
use crate::policy::Validity;

/// How long an authority is valid.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The length of an uncompressed P-256 point.
const POINT_LEN: usize = 65;

/// An authority that signs X.509 identities.
pub(crate) struct TlsIssuer {
    pub(crate) key: KeyId,
    pub(crate) certificate: X509Authority,
    pub(crate) point: Box<[u8]>,
    params: CertificateParams,
}

impl TlsIssuer {
    /// Makes and self-signs the certificate of a new authority.
    pub(crate) async fn create(
        cluster: &ClusterName,
        keys: &dyn KeyStore,
        key: &KeyId,
        serial: [u8; 16],
        now: Timestamp,
    ) -> Result<X509Authority, CaError> {
        let point = point(&keys.info(key).await?.public)?;
        let mut params = params(cluster, &point);
        let now = Timestamp::from_unix_secs(now.unix_secs());
        set_life(
            &mut params,
            Validity { after: now.saturating_sub(CLOCK_SKEW), before: now.saturating_add(LIFE) },
        );
        params.serial_number = Some(wide_serial(serial));
        let message = der::to_be_signed(&params, &Point(&point), &params, &point)
            .map_err(|error| CaError::corrupt(error.to_string()))?;
        let signature = keys.sign(key, &message).await?;
        Ok(X509Authority::from_der(der::assemble(&message, &signature)))
    }

    /// Takes up an authority: its certificate must be what the key, which the store vouches for, has signed for this
    /// cluster. So who can write the storage cannot make anybody trust another key.
    pub(crate) fn open(
        cluster: &ClusterName,
        key: KeyId,
        public: &PublicKey,
        certificate: X509Authority,
    ) -> Result<Self, CaError> {
        let point = point(public)?;
        let parsed = match X509Certificate::from_der(certificate.as_der()) {
            Ok(([], parsed)) => parsed,
            _ => return Err(CaError::corrupt(format!("the certificate of {key} is malformed"))),
        };
        let tbs = &parsed.tbs_certificate;
        let signed = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point)
            .verify(tbs.as_ref(), &parsed.signature_value.data)
            .is_ok();
        let named =
            tbs.subject.iter_common_name().map(|name| name.as_str().ok()).eq([Some(cluster.as_str())]);
        if !signed || !named || !tbs.is_ca() || *tbs.public_key().subject_public_key.data != *point {
            return Err(CaError::corrupt(format!("the certificate of {key} is not the one of its key")));
        }
        Ok(Self { params: params(cluster, &point), key, certificate, point })
    }

    /// The pin by which joining hosts know it.
    pub(crate) fn pin(&self) -> CaPin {
        CaPin::of_spki(&Point(&self.point).subject_public_key_info())
    }

    /// Signs a leaf.
    pub(super) fn to_be_signed(
        &self,
        leaf: &CertificateParams,
        subject: &Point<'_>,
    ) -> Result<Vec<u8>, rcgen::Error> {
        der::to_be_signed(leaf, subject, &self.params, &self.point)
    }
}

/// The point of a P-256 key in its SSH form, where it comes last.
fn point(key: &PublicKey) -> Result<Box<[u8]>, CaError> {
    let wire = key.as_wire();
    wire.len()
        .checked_sub(POINT_LEN)
        .and_then(|start| wire.get(start..))
        .filter(|point| point.first() == Some(&4))
        .map(Into::into)
        .ok_or_else(|| CaError::corrupt("a key for X.509 is not a P-256 key"))
}

fn params(cluster: &ClusterName, point: &[u8]) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, cluster.as_str());
    name.push(DnType::OrganizationName, cluster.as_str());
    // RFC 7093, method 1. Given rather than derived, which would hash the key again for every leaf.
    let identifier = digest::digest(&digest::SHA256, point).as_ref().iter().take(20).copied().collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    params
}
