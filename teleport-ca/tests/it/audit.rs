//! The key of the audit log.

use std::sync::Arc;

use teleport_backend::memory::MemoryBackend;
use teleport_ca::key::{KeyPurpose, KeyStore, SoftwareKeyStore};
use teleport_ca::seal::Sealer;
use teleport_ca::{AuditKey, CaError};
use teleport_core::audit::chain::CheckpointSigner;
use teleport_core::clock::SystemClock;
use teleport_core::entropy::SystemEntropy;
use teleport_core::secret::SecretBytes;
use teleport_core::storage::{Backend, BackendExt, Key, Prefix};

fn sealer(seed: u8) -> Arc<Sealer> {
    let master: Vec<u8> = (0..32).map(|byte| byte ^ seed).collect();
    Arc::new(Sealer::new(&SecretBytes::new(master), Arc::new(SystemEntropy::new())).unwrap())
}

async fn open(backend: &Arc<dyn Backend>, seed: u8) -> Result<AuditKey, CaError> {
    AuditKey::open_or_create(Arc::clone(backend), sealer(seed), Arc::new(SystemEntropy::new())).await
}

#[tokio::test]
async fn there_is_one_key_and_it_stays() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(Arc::new(SystemClock::new())));
    let (one, two) = tokio::join!(open(&backend, 0), open(&backend, 0));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.key(), two.key());
    assert_eq!(open(&backend, 0).await.unwrap().key(), one.key());
    let signature = two.sign(b"message").await.unwrap();
    assert!(one.key().verifies(b"message", &signature));
    assert!(!one.key().verifies(b"massage", &signature));
    // At rest it is sealed, and another master key does not open it.
    open(&backend, 1).await.expect_err("the master key is another one");
    let keys = backend.list(&Prefix::new("ca/keys").unwrap()).await.unwrap();
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn no_other_key_takes_its_place() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(Arc::new(SystemClock::new())));
    open(&backend, 0).await.unwrap();
    let store = SoftwareKeyStore::new(Arc::clone(&backend), sealer(0), Arc::new(SystemEntropy::new()));
    let record = Key::new("ca/audit/local").unwrap();
    let stored = String::from_utf8(backend.get(&record).await.unwrap().unwrap().value.to_vec()).unwrap();
    let used = stored.split('"').find(|text| text.starts_with("audit-")).unwrap().to_owned();
    for purpose in [KeyPurpose::UserSsh, KeyPurpose::Audit] {
        let other = store.generate(purpose).await.unwrap();
        let forged = stored.replace(&used, other.as_str());
        backend.put(&record, forged.into(), None).await.unwrap();
        let error = open(&backend, 0).await.expect_err("another key");
        assert!(matches!(error, CaError::Corrupt { .. }), "{error:?}");
    }
}
