//! The key that signs checkpoints of the audit log.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use teleport_core::audit::AuditError;
use teleport_core::audit::chain::{CheckpointKey, CheckpointSigner};
use teleport_core::entropy::Entropy;
use teleport_core::secret::Sealer;
use teleport_core::storage::{Backend, Record, Repo};

use crate::error::CaError;
use crate::key::{KeyId, KeyPurpose, KeyStore, SoftwareKeyStore};
use crate::store::{LOCAL, Version};

/// Which key signs. There is one record, so that two processes that create it at once agree on one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditKeyRecord {
    version: Version,
    key: KeyId,
    public: CheckpointKey,
}

impl Record for AuditKeyRecord {
    const COLLECTION: &'static str = "ca/audit";

    fn key(&self) -> String {
        LOCAL.to_owned()
    }
}

/// Signs checkpoints of the cluster's audit log: an Ed25519 key of its own in a [`KeyStore`]. It signs nothing else, and no
/// certificate is ever accepted by it.
pub struct AuditKey {
    keys: Arc<dyn KeyStore>,
    key: KeyId,
    public: CheckpointKey,
}

impl AuditKey {
    /// The key that is stored in `backend`, sealed with `sealer`; a new one if there is none. Several processes may do this at
    /// once over one storage.
    ///
    /// # Errors
    /// [`CaError`]. A key that cannot be read is never replaced by a new one.
    pub async fn open_or_create(
        backend: Arc<dyn Backend>,
        sealer: Arc<dyn Sealer>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, CaError> {
        let keys = SoftwareKeyStore::new(Arc::clone(&backend), sealer, entropy);
        Self::with_key_store(backend, Arc::new(keys)).await
    }

    /// The same with a key that lives elsewhere. `backend` holds its name and its public half.
    ///
    /// # Errors
    /// [`CaError`].
    pub async fn with_key_store(backend: Arc<dyn Backend>, keys: Arc<dyn KeyStore>) -> Result<Self, CaError> {
        let records = Repo::<AuditKeyRecord>::new(backend);
        let record = match records.get(LOCAL).await? {
            Some(stored) => stored.record,
            None => create(&records, &*keys).await?,
        };
        let public = public_of(&record.key, &*keys).await?;
        if public != record.public {
            return Err(CaError::corrupt(format!("the public half of {} is another one", record.key)));
        }
        Ok(Self { keys, key: record.key, public })
    }
}

async fn create(records: &Repo<AuditKeyRecord>, keys: &dyn KeyStore) -> Result<AuditKeyRecord, CaError> {
    let key = keys.generate(KeyPurpose::Audit).await?;
    let public = public_of(&key, keys).await?;
    let record = AuditKeyRecord { version: Version::V1, key, public };
    match records.create(&record).await {
        Ok(_) => Ok(record),
        Err(error) => {
            // Whoever was first has made the one that is used. An unused key that remains does no harm.
            let stored = records.get(LOCAL).await?.map(|stored| stored.record);
            if error.is_conflict() {
                keys.delete(&record.key).await?;
            }
            stored.ok_or_else(|| error.into())
        }
    }
}

async fn public_of(key: &KeyId, keys: &dyn KeyStore) -> Result<CheckpointKey, CaError> {
    let info = keys.info(key).await?;
    let wire = info.public.as_wire();
    match wire.split_last_chunk() {
        Some((_, bytes)) if info.purpose == KeyPurpose::Audit => Ok(CheckpointKey::new(*bytes)),
        _ => Err(CaError::corrupt(format!("{key} is not a {} key", KeyPurpose::Audit))),
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[async_trait]
impl CheckpointSigner for AuditKey {
    fn key(&self) -> CheckpointKey {
        self.public
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AuditError> {
        self.keys.sign(&self.key, message).await.map_err(AuditError::new)
    }
}
