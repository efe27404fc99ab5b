//! Keys in the cluster's storage, sealed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use teleport_core::cert::{KeyAlgorithm, PublicKey};
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::secret::{Sealer, SecretBytes};
use teleport_core::storage::{Backend, Record, Repo};
use zeroize::Zeroizing;

use super::{KeyError, KeyId, KeyInfo, KeyPurpose, KeyStore};
use crate::danger;
use crate::ssh::wire;

/// The DER of an Ed25519 PKCS#8 document up to its 32-byte seed (RFC 8410).
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A [`KeyStore`] over the cluster's storage: private keys are PKCS#8, sealed with the key of their own record as context,
/// and opened once per process.
///
/// A key's name begins with its purpose, so the context binds the purpose as well: a record that is moved does not open.
///
/// # Limits
/// Ed25519 seeds come from the given [`Entropy`]. P-256 keys and the nonces of their signatures come from the operating
/// system through `ring`, which takes no other source. `ring` does not wipe the keys that it has loaded.
pub struct SoftwareKeyStore {
    records: Repo<SealedKey>,
    sealer: Arc<dyn Sealer>,
    entropy: Arc<dyn Entropy>,
    random: SystemRandom,
    loaded: RwLock<BTreeMap<KeyId, Arc<Loaded>>>,
}

/// A private key at rest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedKey {
    version: Version,
    id: KeyId,
    /// PKCS#8, sealed, in base64.
    sealed: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Version {
    #[serde(rename = "v1")]
    V1,
}

impl Record for SealedKey {
    const COLLECTION: &'static str = "ca/keys";

    fn key(&self) -> String {
        self.id.to_string()
    }
}

struct Loaded {
    info: KeyInfo,
    pair: Pair,
}

enum Pair {
    EcdsaP256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl SoftwareKeyStore {
    /// Over `backend`, sealing with `sealer`.
    pub fn new(backend: Arc<dyn Backend>, sealer: Arc<dyn Sealer>, entropy: Arc<dyn Entropy>) -> Self {
        let records = Repo::new(backend);
        Self { records, sealer, entropy, random: SystemRandom::new(), loaded: RwLock::default() }
    }

    fn new_private(&self, algorithm: KeyAlgorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match algorithm {
            KeyAlgorithm::Ed25519 => {
                let mut pkcs8 = Zeroizing::new(vec![0; ED25519_PKCS8.len() + 32]);
                let (head, seed) = pkcs8.split_at_mut(ED25519_PKCS8.len());
                head.copy_from_slice(&ED25519_PKCS8);
                self.entropy.fill(seed).map_err(KeyError::unavailable)?;
                Ok(pkcs8)
            }
            KeyAlgorithm::EcdsaP256 => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.random)
                    .map_err(|_| KeyError::unavailable("no randomness for a new key"))?;
                Ok(Zeroizing::new(document.as_ref().to_vec()))
            }
            _ => Err(KeyError::unavailable("no key of this algorithm can be made")),
        }
    }

    async fn open(&self, key: &KeyId) -> Result<SecretBytes, KeyError> {
        let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| KeyError::Unreadable {
            key: key.clone(),
            source,
        };
        let context = self.records.key(key.as_str()).map_err(|error| unreadable(error.into()))?;
        let stored = match self.records.get(key.as_str()).await {
            Ok(stored) => stored.ok_or_else(|| KeyError::Missing { key: key.clone() })?,
            Err(teleport_core::storage::RepoError::Corrupt { source, .. }) => {
                return Err(unreadable(source.into()));
            }
            Err(error) => return Err(KeyError::unavailable(error)),
        };
        let sealed =
            BASE64.decode(stored.record.sealed.as_bytes()).map_err(|error| unreadable(error.into()))?;
        // The context is the key that was asked for: what the record says of itself does not count.
        self.sealer.open(context.as_str(), &sealed).map_err(|error| unreadable(error.into()))
    }

    async fn load(&self, key: &KeyId) -> Result<Arc<Loaded>, KeyError> {
        let known = self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        if let Some(loaded) = known {
            return Ok(loaded);
        }
        let pkcs8 = self.open(key).await?;
        let loaded = purpose_of(key)
            .and_then(|purpose| Loaded::from_pkcs8(purpose, pkcs8.expose(), &self.random))
            .map(Arc::new)
            .ok_or_else(|| KeyError::Unreadable {
                key: key.clone(),
                source: "not a private key of its purpose".into(),
            })?;
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Arc::clone(&loaded));
        Ok(loaded)
    }
}

impl fmt::Debug for SoftwareKeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKeyStore").finish_non_exhaustive()
    }
}

fn purpose_of(key: &KeyId) -> Option<KeyPurpose> {
    KeyPurpose::ALL
        .into_iter()
        .find(|purpose| key.as_str().strip_prefix(purpose.as_str()).is_some_and(|rest| rest.starts_with('-')))
}

impl Loaded {
    fn from_pkcs8(purpose: KeyPurpose, pkcs8: &[u8], random: &SystemRandom) -> Option<Self> {
        let (pair, public) = match purpose.algorithm() {
            KeyAlgorithm::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
                let public = wire::ed25519_key(pair.public_key().as_ref());
                (Pair::Ed25519(Box::new(pair)), public)
            }
            KeyAlgorithm::EcdsaP256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, random).ok()?;
                let public = wire::p256_key(pair.public_key().as_ref());
                (Pair::EcdsaP256(Box::new(pair)), public)
            }
            _ => return None,
        };
        Some(Self { info: KeyInfo { purpose, public: PublicKey::from_wire(&public).ok()? }, pair })
    }
}

#[async_trait]
impl KeyStore for SoftwareKeyStore {
    async fn generate(&self, purpose: KeyPurpose) -> Result<KeyId, KeyError> {
        let unique = self.entropy.uuid().map_err(KeyError::unavailable)?;
        let id = KeyId::new(&format!("{purpose}-{unique}")).map_err(KeyError::unavailable)?;
        let context = self.records.key(id.as_str()).map_err(KeyError::unavailable)?;
        let private = self.new_private(purpose.algorithm())?;
        let sealed = self.sealer.seal(context.as_str(), &private).map_err(KeyError::unavailable)?;
        let record = SealedKey { version: Version::V1, id: id.clone(), sealed: BASE64.encode(&sealed) };
        self.records.create(&record).await.map_err(KeyError::unavailable)?;
        Ok(id)
    }

    async fn info(&self, key: &KeyId) -> Result<KeyInfo, KeyError> {
        Ok(self.load(key).await?.info.clone())
    }

    async fn sign(&self, key: &KeyId, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.load(key).await?.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::EcdsaP256(pair) => pair
                .sign(&self.random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| KeyError::unavailable("no randomness for a signature")),
        }
    }

    async fn delete(&self, key: &KeyId) -> Result<(), KeyError> {
        self.records.delete(key.as_str()).await.map_err(KeyError::unavailable)?;
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }

    fn exporter(&self) -> Option<&dyn danger::ExportKeys> {
        Some(self)
    }
}

#[async_trait]
impl danger::ExportKeys for SoftwareKeyStore {
    async fn private_key(&self, key: &KeyId) -> Result<SecretBytes, KeyError> {
        self.open(key).await
    }
}
