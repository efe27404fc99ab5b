//! What the storage holds, and what somebody who can write it achieves.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use data_encoding::BASE64;
use teleport_backend::memory::MemoryBackend;
use teleport_ca::key::{KeyError, KeyPurpose, KeyStore, SoftwareKeyStore};
use teleport_ca::{CaError, CertificateAuthority, danger};
use teleport_core::clock::SystemClock;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::ClusterName;
use teleport_core::storage::{Backend, BackendExt, Batch, Item, Key, Prefix, Revision, StorageError, Watch};
use tokio::sync::Barrier;

use crate::support::{backend, cluster, open, sealer};

type Storage = Arc<dyn Backend>;

async fn try_open(backend: &Storage, name: ClusterName, seed: u8) -> Result<CertificateAuthority, CaError> {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
    CertificateAuthority::open_or_create(name, Arc::clone(backend), sealer(seed), clock, entropy).await
}

async fn all(backend: &Storage) -> Vec<Item> {
    backend.list(&Prefix::root()).await.unwrap()
}

async fn value(backend: &Storage, key: &str) -> serde_json::Value {
    let item = backend.get(&Key::new(key).unwrap()).await.unwrap().unwrap();
    serde_json::from_slice(&item.value).unwrap()
}

async fn store(backend: &Storage, key: &str, value: &serde_json::Value) {
    let bytes = serde_json::to_vec(value).unwrap();
    backend.put(&Key::new(key).unwrap(), bytes.into(), None).await.unwrap();
}

const AUTHORITY: &str = "ca/authority/local";

#[tokio::test]
async fn is_the_same_when_opened_again() {
    let backend = backend();
    let first = open(&backend).await;
    let before = all(&backend).await;
    let second = open(&backend).await;
    assert_eq!(first.trust_bundle(), second.trust_bundle());
    assert_eq!(first.ca_pins(), second.ca_pins());
    assert_eq!(all(&backend).await, before, "opening writes nothing");
    assert_eq!(before.len(), 7, "five keys and two records");
}

/// A cluster that began without the key for logins on the SSH servers of others gets one, and everything else stays.
#[tokio::test]
async fn a_cluster_without_it_gets_the_openssh_key() {
    let backend = backend();
    let first = open(&backend).await.trust_bundle();
    for item in all(&backend).await {
        if item.key.as_str().contains("openssh") {
            backend.delete(&item.key).await.unwrap();
        }
    }
    assert_eq!(all(&backend).await.len(), 5);
    let second = open(&backend).await.trust_bundle();
    assert_eq!((&second.user_ca, &second.host_ca), (&first.user_ca, &first.host_ca));
    assert_ne!(second.openssh_ca, first.openssh_ca);
    assert_eq!(open(&backend).await.trust_bundle(), second);
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn no_private_key_is_in_the_storage() {
    let backend = backend();
    let ca = open(&backend).await;
    // Everything stored: as it is, and every text in it that is base64 of something.
    let mut stored = Vec::new();
    for item in all(&backend).await {
        stored.push(item.value.to_vec());
        for word in String::from_utf8(item.value.to_vec())
            .unwrap()
            .split(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c))
        {
            stored.extend(BASE64.decode(word.as_bytes()).ok());
        }
    }
    let found = |needle: &[u8]| stored.iter().any(|value| contains(value, needle));
    let public = ca.trust_bundle().user_ca[0].clone();
    assert!(found(public.as_wire()), "the search finds what is there");
    let exported = danger::export(&ca).await.unwrap();
    let of_the_authority: Vec<_> =
        KeyPurpose::ALL.into_iter().filter(|purpose| *purpose != KeyPurpose::Audit).collect();
    assert_eq!(exported.iter().map(|key| key.purpose).collect::<Vec<_>>(), of_the_authority);
    for key in exported {
        let base64: String = key.pem.expose().lines().filter(|line| !line.starts_with('-')).collect();
        let pkcs8 = BASE64.decode(base64.as_bytes()).unwrap();
        // Where PKCS#8 has the seed of Ed25519 and the scalar of P-256.
        let secret = if pkcs8.len() == 48 { &pkcs8[16..48] } else { &pkcs8[36..68] };
        for piece in secret.chunks(8) {
            assert!(!found(piece), "{}", key.purpose);
        }
        assert!(!found(base64.as_bytes()), "{}", key.purpose);
    }
}

#[tokio::test]
async fn another_master_key_opens_nothing_and_replaces_nothing() {
    let backend = backend();
    open(&backend).await;
    let before = all(&backend).await;
    let error = try_open(&backend, cluster(), 1).await.unwrap_err();
    assert!(matches!(error, CaError::Key { source: KeyError::Unreadable { .. } }), "{error:?}");
    assert_eq!(all(&backend).await, before);
}

#[tokio::test]
async fn another_cluster_is_told_so() {
    let backend = backend();
    open(&backend).await;
    let error = try_open(&backend, ClusterName::new("other.com").unwrap(), 0).await.unwrap_err();
    assert_eq!(error.to_string(), "this storage belongs to the cluster example.com, not to other.com");
}

/// Each exchange of what was sealed, or of what refers to it, is noticed.
#[tokio::test]
async fn swapped_records_do_not_open() {
    let backend = backend();
    open(&backend).await;
    let keys: Vec<String> = all(&backend)
        .await
        .iter()
        .map(|item| item.key.to_string())
        .filter(|key| key.starts_with("ca/keys/"))
        .collect();
    assert_eq!(keys.len(), 5);
    let swaps = keys.iter().flat_map(|a| keys.iter().map(move |b| (a, b))).filter(|(a, b)| a < b);
    for (a, b) in swaps {
        let (first, second) = (value(&backend, a).await, value(&backend, b).await);
        let mut exchanged = (first.clone(), second.clone());
        exchanged.0["sealed"] = second["sealed"].clone();
        exchanged.1["sealed"] = first["sealed"].clone();
        for (left, right) in [(&exchanged.0, &exchanged.1), (&second, &first)] {
            store(&backend, a, left).await;
            store(&backend, b, right).await;
            let error = try_open(&backend, cluster(), 0).await.unwrap_err();
            assert!(matches!(error, CaError::Key { source: KeyError::Unreadable { .. } }), "{error:?}");
        }
        store(&backend, a, &first).await;
        store(&backend, b, &second).await;
        try_open(&backend, cluster(), 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_record_is_not_believed() {
    let (backend, other) = (backend(), backend());
    open(&backend).await;
    open(&other).await;
    let (good, foreign) = (value(&backend, AUTHORITY).await, value(&other, AUTHORITY).await);
    let pointers = [
        "/user/ssh/active/public",
        "/host/ssh/active/public",
        "/user/tls/active/certificate",
        "/host/tls/active/certificate",
        "/user/ssh/active/key",
        "/host/tls/active/key",
        "/user/ssh/active",
        "/host",
    ];
    for pointer in pointers {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = foreign.pointer(pointer).unwrap().clone();
        store(&backend, AUTHORITY, &changed).await;
        assert!(try_open(&backend, cluster(), 0).await.is_err(), "{pointer} of another authority");
    }
    for (a, b) in [
        ("/user", "/host"),
        ("/user/ssh/active", "/host/ssh/active"),
        ("/user/tls/active", "/host/tls/active"),
    ] {
        let mut changed = good.clone();
        *changed.pointer_mut(a).unwrap() = good.pointer(b).unwrap().clone();
        store(&backend, AUTHORITY, &changed).await;
        assert!(matches!(try_open(&backend, cluster(), 0).await, Err(CaError::Corrupt { .. })), "{b} as {a}");
    }
    let mut added = good.clone();
    added["host"]["ssh"]["additional"] = serde_json::json!([foreign["host"]["ssh"]["active"]]);
    store(&backend, AUTHORITY, &added).await;
    assert!(try_open(&backend, cluster(), 0).await.is_err(), "an additional key of somebody else");
    let mut newer = good.clone();
    newer["version"] = "v2".into();
    store(&backend, AUTHORITY, &newer).await;
    assert!(matches!(try_open(&backend, cluster(), 0).await, Err(CaError::Corrupt { .. })));
    store(&backend, AUTHORITY, &good).await;
    try_open(&backend, cluster(), 0).await.unwrap();
}

#[tokio::test]
async fn a_deleted_key_is_gone() {
    let backend = backend();
    let keys = SoftwareKeyStore::new(Arc::clone(&backend), sealer(0), Arc::new(SystemEntropy::new()));
    let key = keys.generate(KeyPurpose::UserSsh).await.unwrap();
    assert_eq!(keys.sign(&key, b"message").await.unwrap().len(), 64);
    keys.delete(&key).await.unwrap();
    assert!(matches!(keys.sign(&key, b"message").await, Err(KeyError::Missing { .. })));
    keys.delete(&key).await.unwrap();
    assert!(all(&backend).await.is_empty());
}

/// What goes wrong with the commit of the authority's record.
#[derive(Debug)]
enum Trouble {
    /// As many writers as the barrier has wait for each other.
    Crowd(Barrier),
    /// It happens, and the answer is lost.
    LostAnswer,
    /// It does not happen.
    Refused,
}

#[derive(Debug)]
struct Troubled {
    inner: MemoryBackend,
    trouble: Trouble,
    commits: AtomicUsize,
}

impl Troubled {
    fn new(trouble: Trouble) -> Arc<Self> {
        let inner = MemoryBackend::new(Arc::new(SystemClock::new()));
        Arc::new(Self { inner, trouble, commits: AtomicUsize::new(0) })
    }
}

impl fmt::Display for Troubled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("troubled")
    }
}

#[async_trait]
impl Backend for Troubled {
    async fn get(&self, key: &Key) -> Result<Option<Item>, StorageError> {
        self.inner.get(key).await
    }

    async fn range(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Item>, StorageError> {
        self.inner.range(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        if batch.operations().iter().all(|operation| operation.key.as_str() != AUTHORITY) {
            return self.inner.commit(batch).await;
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        match &self.trouble {
            Trouble::Crowd(barrier) => {
                barrier.wait().await;
                self.inner.commit(batch).await
            }
            Trouble::LostAnswer => {
                self.inner.commit(batch).await?;
                Err(StorageError::unavailable("the answer was lost"))
            }
            Trouble::Refused => Err(StorageError::unavailable("no")),
        }
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, StorageError> {
        self.inner.watch(prefix).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[tokio::test]
async fn all_who_create_it_at_once_agree() {
    let troubled = Troubled::new(Trouble::Crowd(Barrier::new(3)));
    let backend: Storage = Arc::clone(&troubled) as Storage;
    let (a, b, c) = tokio::join!(open(&backend), open(&backend), open(&backend));
    assert_eq!(troubled.commits.load(Ordering::SeqCst), 3, "all of them had seen none");
    assert_eq!(a.trust_bundle(), b.trust_bundle());
    assert_eq!(a.trust_bundle(), c.trust_bundle());
    assert_eq!(all(&backend).await.len(), 7, "the keys of the losers are gone");
}

#[tokio::test]
async fn a_lost_answer_loses_no_keys() {
    let backend: Storage = Troubled::new(Trouble::LostAnswer);
    let first = open(&backend).await;
    assert_eq!(open(&backend).await.trust_bundle(), first.trust_bundle());
    assert_eq!(all(&backend).await.len(), 7);
}

/// The record may still arrive later, so its keys stay; the next attempt makes its own.
#[tokio::test]
async fn a_failed_creation_can_be_repeated() {
    let troubled = Troubled::new(Trouble::Refused);
    let backend: Storage = Arc::clone(&troubled) as Storage;
    let error = try_open(&backend, cluster(), 0).await.unwrap_err();
    assert!(matches!(error, CaError::Storage { .. }), "{error:?}");
    let remaining = all(&backend).await;
    assert!(remaining.iter().all(|item| item.key.as_str().starts_with("ca/keys/")), "{remaining:?}");
    let healthy: Storage = Arc::new(MemoryBackend::new(Arc::new(SystemClock::new())));
    for item in remaining {
        healthy.put(&item.key, item.value, None).await.unwrap();
    }
    let ca = open(&healthy).await;
    assert_eq!(open(&healthy).await.trust_bundle(), ca.trust_bundle());
}
