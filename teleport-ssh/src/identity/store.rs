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
use crate::keys::{SshKeyPair, TlsKeyPair};

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

    /// The host's id; a new one is made and kept the first time.
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
        let path = self.path(material.role);
        let json = serde_json::to_vec_pretty(&Stored::new(material)).map(Zeroizing::new);
        let json = json.map_err(|error| StoreError::Io { path: path.clone(), source: error.into() })?;
        self.write(&path, &json)
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
