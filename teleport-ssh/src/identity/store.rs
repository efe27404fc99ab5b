//! Identities on disk.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use teleport_core::cert::TrustBundle;
use teleport_core::clock::Timestamp;
use teleport_core::entropy::{Entropy, EntropyError};
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName};
use teleport_core::secret::{SecretString, wire};
use zeroize::Zeroizing;

use super::HostMaterial;
use super::file::{private_dir, read_private, write_private};
use crate::keys::{KeyError, SshKeyPair, TlsKeyPair};

/// Why an identity was not read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is not an identity, or one of another version.
    #[error("{} is damaged: remove it and join again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There is no randomness for a host id.
    #[error("no host id can be made")]
    Entropy(#[source] EntropyError),
    /// No keys could be made.
    #[error("no keys can be made")]
    Keys(#[source] KeyError),
    /// A file or directory cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Keeps the identities of a host's services: one file for each in a directory that only its owner can enter.
///
/// Writing replaces a file as a whole, so that keys and certificates always fit. The calls block for as long as the disk
/// takes.
#[derive(Clone, Debug)]
pub struct IdentityStore {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: Version,
    host_id: HostId,
    name: NodeName,
    cluster: ClusterName,
    role: HostRole,
    #[serde(with = "wire")]
    ssh_key: SecretString,
    ssh_certificate: String,
    /// PKCS#8 in base64.
    #[serde(with = "wire")]
    tls_key: SecretString,
    /// DER in base64.
    tls_certificate: String,
    trust: TrustBundle,
    valid_after: Timestamp,
    valid_before: Timestamp,
}

/// Keys that wait for their certificates.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKeys {
    version: Version,
    #[serde(with = "wire")]
    ssh_key: SecretString,
    #[serde(with = "wire")]
    tls_key: SecretString,
}

impl StoredKeys {
    fn new(ssh: &SshKeyPair, tls: &TlsKeyPair) -> Self {
        let tls_key = SecretString::new(BASE64.encode(tls.to_pkcs8().expose()));
        Self { version: Version::V1, ssh_key: ssh.to_openssh(), tls_key }
    }

    fn into_keys(self) -> Option<(SshKeyPair, TlsKeyPair)> {
        let pkcs8 = Zeroizing::new(BASE64.decode(self.tls_key.expose().as_bytes()).ok()?);
        let tls = TlsKeyPair::from_pkcs8(&pkcs8).ok()?;
        Some((SshKeyPair::from_openssh(self.ssh_key.expose()).ok()?, tls))
    }
}

#[derive(Serialize, Deserialize)]
enum Version {
    #[serde(rename = "v1")]
    V1,
}

impl Stored {
    fn new(material: &HostMaterial) -> Self {
        Self {
            version: Version::V1,
            host_id: material.host_id,
            name: material.name.clone(),
            cluster: material.cluster.clone(),
            role: material.role,
            ssh_key: material.ssh.to_openssh(),
            ssh_certificate: material.ssh_certificate.clone(),
            tls_key: SecretString::new(BASE64.encode(material.tls.to_pkcs8().expose())),
            tls_certificate: BASE64.encode(&material.tls_certificate),
            trust: material.trust.clone(),
            valid_after: material.valid_after,
            valid_before: material.valid_before,
        }
    }

    fn into_material(self) -> Option<HostMaterial> {
        let pkcs8 = Zeroizing::new(BASE64.decode(self.tls_key.expose().as_bytes()).ok()?);
        Some(HostMaterial {
            host_id: self.host_id,
            name: self.name,
            cluster: self.cluster,
            role: self.role,
            ssh: SshKeyPair::from_openssh(self.ssh_key.expose()).ok()?,
            ssh_certificate: self.ssh_certificate,
            tls: TlsKeyPair::from_pkcs8(&pkcs8).ok()?,
            tls_certificate: BASE64.decode(self.tls_certificate.as_bytes()).ok()?,
            trust: self.trust,
            valid_after: self.valid_after,
            valid_before: self.valid_before,
        })
    }
}

impl IdentityStore {
    /// Opens `dir`, which is made if it does not exist. It must belong to the process's user; others are locked out of it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        private_dir(&dir).map_err(|source| StoreError::Io { path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The host's id; a new one is made and kept the first time. To the cluster each service is a host of its own: services that
    /// share a machine have a store each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn host_id(&self, entropy: &dyn Entropy) -> Result<HostId, StoreError> {
        let path = self.dir.join("host_uuid");
        if let Some(text) = self.read(&path)? {
            return text.trim_end().parse().map_err(|_| StoreError::Damaged { path });
        }
        let id = HostId::random(entropy).map_err(StoreError::Entropy)?;
        self.write(&path, format!("{id}\n").as_bytes())?;
        Ok(id)
    }

    /// Keys to join with. They are kept until an identity is: the cluster binds an id to the keys that it first came with, so a
    /// join whose answer was lost succeeds when it is tried again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keys(&self, entropy: &dyn Entropy) -> Result<(SshKeyPair, TlsKeyPair), StoreError> {
        let path = self.keys_path();
        if let Some(text) = self.read(&path)? {
            let keys = serde_json::from_str::<StoredKeys>(&text).ok().and_then(StoredKeys::into_keys);
            return keys.ok_or(StoreError::Damaged { path });
        }
        let (ssh, tls) = HostMaterial::generate_keys(entropy).map_err(StoreError::Keys)?;
        self.write_json(&path, &StoredKeys::new(&ssh, &tls))?;
        Ok((ssh, tls))
    }

    /// The identity of a service, if it has one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(&self, role: HostRole) -> Result<Option<HostMaterial>, StoreError> {
        let path = self.path(role);
        let Some(text) = self.read(&path)? else { return Ok(None) };
        let stored: Option<Stored> = serde_json::from_str(&text).ok();
        match stored.filter(|stored| stored.role == role).and_then(Stored::into_material) {
            Some(material) => Ok(Some(material)),
            None => Err(StoreError::Damaged { path }),
        }
    }

    /// Keeps an identity; the former one of its service is gone.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save(&self, material: &HostMaterial) -> Result<(), StoreError> {
        self.write_json(&self.path(material.role), &Stored::new(material))?;
        let keys = self.keys_path();
        match std::fs::remove_file(&keys) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { path: keys, source })
            }
            _ => Ok(()),
        }
    }

    fn keys_path(&self) -> PathBuf {
        self.dir.join("joining-keys.json")
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(value).map(Zeroizing::new);
        let json = json.map_err(|error| StoreError::Io { path: path.to_owned(), source: error.into() })?;
        self.write(path, &json)
    }

    fn path(&self, role: HostRole) -> PathBuf {
        self.dir.join(format!("{role}.json"))
    }

    fn read(&self, path: &Path) -> Result<Option<Zeroizing<String>>, StoreError> {
        read_private(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        write_private(path, content).map_err(|source| StoreError::Io { path: path.to_owned(), source })
    }
}
