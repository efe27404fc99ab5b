//! What is kept: the account, the certificate, and how the last attempt went.

use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use teleport_core::clock::Timestamp;
use zeroize::Zeroizing;

use super::config::AcmeConfig;
use super::error::AcmeError;
use crate::identity::file::{private_dir, read_private, write_private};
use crate::proxy_web::{CertificateError, WebCertificate};

const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.json";
const ATTEMPTS: &str = "attempts.json";

/// The directory of these files.
pub(super) struct Store {
    dir: PathBuf,
}

/// An account at an authority.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptAccount {
    pub(super) directory: String,
    pub(super) email: Option<String>,
    /// With its private key.
    pub(super) credentials: AccountCredentials,
    /// The id of the account that it belongs to, if it belongs to one.
    #[serde(default)]
    pub(super) external: Option<String>,
}

/// A certificate and its key, in one file: never the one without the other.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    /// Who has issued it.
    pub(super) directory: String,
    #[serde(with = "secret")]
    pub(super) key: Zeroizing<String>,
    pub(super) chain: String,
}

impl Kept {
    pub(super) fn read(&self) -> Result<WebCertificate, CertificateError> {
        WebCertificate::from_pem(self.chain.as_bytes(), self.key.as_bytes())
    }
}

/// How the attempts at one certificate have gone.
#[derive(Serialize, Deserialize)]
pub(super) struct Attempts {
    directory: String,
    names: Vec<String>,
    /// In a row.
    pub(super) failures: u32,
    pub(super) not_before: Timestamp,
    /// An order that is not finished.
    pub(super) order: Option<KeptOrder>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct KeptOrder {
    pub(super) url: String,
    /// The key that the certificate will be for.
    #[serde(with = "secret")]
    pub(super) key: Zeroizing<String>,
}

/// Private keys in files.
mod secret {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(key: &Zeroizing<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(key)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(from).map(Zeroizing::new)
    }
}

impl Attempts {
    fn new(config: &AcmeConfig) -> Self {
        let (directory, names) = (config.directory.clone(), config.names.clone());
        Self { directory, names, failures: 0, not_before: Timestamp::EPOCH, order: None }
    }

    /// There is a certificate; none is ordered before `again`.
    pub(super) fn succeeded(&mut self, again: Timestamp) {
        self.failures = 0;
        self.not_before = again;
        self.order = None;
    }

    pub(super) fn failed(&mut self, again: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = again;
    }
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, AcmeError> {
        let dir = dir.to_owned();
        private_dir(&dir).map_err(|source| AcmeError::Files { path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    /// The account at this authority, if there is one.
    pub(super) fn account(&self, directory: &str) -> Result<Option<KeptAccount>, AcmeError> {
        Ok(self.read::<KeptAccount>(ACCOUNT)?.filter(|kept| kept.directory == directory))
    }

    pub(super) fn keep_account(&self, account: &KeptAccount) -> Result<(), AcmeError> {
        self.write(ACCOUNT, account)
    }

    pub(super) fn certificate(&self) -> Result<Option<Kept>, AcmeError> {
        self.read(CERTIFICATE)
    }

    pub(super) fn keep_certificate(&self, kept: &Kept) -> Result<(), AcmeError> {
        self.write(CERTIFICATE, kept)
    }

    /// Those for what is wanted now: other names and other authorities begin anew.
    pub(super) fn attempts(&self, config: &AcmeConfig) -> Result<Attempts, AcmeError> {
        let kept = self.read::<Attempts>(ATTEMPTS)?;
        let same = |kept: &Attempts| kept.directory == config.directory && kept.names == config.names;
        Ok(kept.filter(same).unwrap_or_else(|| Attempts::new(config)))
    }

    pub(super) fn keep_attempts(&self, attempts: &Attempts) -> Result<(), AcmeError> {
        self.write(ATTEMPTS, attempts)
    }

    /// What cannot be understood is as good as not there: all of it can be had again.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, AcmeError> {
        let path = self.dir.join(name);
        match read_private(&path) {
            Ok(Some(text)) => Ok(serde_json::from_str(&text)
                .inspect_err(
                    |_| tracing::warn!(path = %path.display(), "the file is damaged and is not used"),
                )
                .ok()),
            Ok(None) => Ok(None),
            Err(source) => Err(AcmeError::Files { path, source }),
        }
    }

    fn write(&self, name: &str, content: &impl Serialize) -> Result<(), AcmeError> {
        let path = self.dir.join(name);
        let failed = |source| AcmeError::Files { path: path.clone(), source };
        let text =
            serde_json::to_vec_pretty(content).map(Zeroizing::new).map_err(|error| failed(error.into()))?;
        write_private(&path, &text).map_err(failed)
    }
}
