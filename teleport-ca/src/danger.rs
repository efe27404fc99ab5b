//! The only way to an authority's private keys.
//!
//! Who has them can be anybody on every host of the cluster, unseen. Meant for moving an authority to other software or to a
//! vault; not needed for backups, since the sealed keys are part of the storage.

use std::fmt;

use async_trait::async_trait;
use data_encoding::BASE64;
use teleport_core::secret::{SecretBytes, SecretString};
use zeroize::Zeroizing;

use crate::authority::CertificateAuthority;
use crate::key::{KeyError, KeyId, KeyPurpose};

/// The way out of a key store that has one.
#[async_trait]
pub trait ExportKeys: fmt::Debug + Send + Sync {
    /// The private key as PKCS#8, DER.
    ///
    /// # Errors
    /// [`KeyError`].
    async fn private_key(&self, key: &KeyId) -> Result<SecretBytes, KeyError>;
}

/// A private key of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportedKey {
    /// What it signs.
    pub purpose: KeyPurpose,
    /// The private key: PKCS#8 in PEM.
    pub pem: SecretString,
}

/// The private keys with which `authority` signs at this moment.
///
/// # Errors
/// [`KeyError::NotExportable`] if its key store keeps them to itself.
pub async fn export(authority: &CertificateAuthority) -> Result<Vec<ExportedKey>, KeyError> {
    let exporter = authority.key_store().exporter().ok_or(KeyError::NotExportable)?;
    let mut exported = Vec::new();
    for (purpose, key) in authority.active_keys() {
        let der = exporter.private_key(key).await?;
        exported.push(ExportedKey { purpose, pem: pem(der.expose()) });
    }
    Ok(exported)
}

fn pem(der: &[u8]) -> SecretString {
    let base64 = Zeroizing::new(BASE64.encode(der));
    // Sized at once: growing would leave pieces of the key behind in memory.
    let mut text = String::with_capacity(base64.len() + base64.len() / 64 + 64);
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    SecretString::new(text)
}
