//! A certificate that browsers are shown.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use teleport_core::clock::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate or key from a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct CertificateError {
    /// What is wrong.
    pub reason: &'static str,
}

/// A certificate for browsers and its key.
#[derive(Clone)]
pub struct WebCertificate(Arc<Parts>);

struct Parts {
    key: Arc<CertifiedKey>,
    /// DNS names in lower case; the first label may be `*`.
    names: Vec<String>,
    valid_after: Timestamp,
    valid_before: Timestamp,
}

impl WebCertificate {
    /// From PEM: the certificate first, then those that lead to its authority; and the key (PKCS#8, PKCS#1 or SEC 1).
    ///
    /// # Errors
    /// [`CertificateError`], also for a key that is not the certificate's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let wrong = |reason| CertificateError { reason };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("the certificate file is not PEM"))?;
        let leaf = chain.first().ok_or(wrong("the certificate file has no certificate"))?;
        let (names, valid_after, valid_before) =
            read(leaf).ok_or(wrong("the certificate file has no certificate of X.509"))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| wrong("the key file has no private key in PEM"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| wrong("the key is of a kind that is not supported"))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => {
                Ok(Self(Arc::new(Parts { key: Arc::new(certified), names, valid_after, valid_before })))
            }
            Err(_) => Err(wrong("the key does not belong to the certificate")),
        }
    }

    /// The DNS names that it is for, in lower case; the first label may be `*`.
    pub fn names(&self) -> &[String] {
        &self.0.names
    }

    /// Whether it is for this DNS name.
    pub fn is_for(&self, name: &str) -> bool {
        let rest = name.split_once('.').map(|(_, rest)| rest);
        self.0.names.iter().any(|known| {
            known.eq_ignore_ascii_case(name)
                || known
                    .strip_prefix("*.")
                    .is_some_and(|known| rest.is_some_and(|rest| rest.eq_ignore_ascii_case(known)))
        })
    }

    /// Since when it is valid.
    pub fn valid_after(&self) -> Timestamp {
        self.0.valid_after
    }

    /// Until when it is valid.
    pub fn valid_before(&self) -> Timestamp {
        self.0.valid_before
    }

    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.key)
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebCertificate")
            .field("names", &self.0.names)
            .field("valid_before", &self.0.valid_before)
            .finish_non_exhaustive()
    }
}

/// Names and validity.
fn read(der: &[u8]) -> Option<(Vec<String>, Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let at = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_unix_secs(u64::try_from(time.timestamp()).unwrap_or_default())
    };
    let validity = certificate.validity();
    Some((names.collect(), at(validity.not_before), at(validity.not_after)))
}
