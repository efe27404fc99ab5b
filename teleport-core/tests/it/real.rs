//! The auth service over the adapters that are used in earnest: redb, the real authority, logs and recordings in files.

use std::sync::Arc;

use teleport_backend::audit::file::{Checkpoints, FileAuditLog};
use teleport_backend::audit::index::IndexedAuditLog;
use teleport_backend::memory::MemoryBackend;
use teleport_backend::recordings::fs::FsRecordingStore;
use teleport_backend::redb::RedbBackend;
use teleport_ca::seal::{MASTER_KEY_LEN, Sealer};
use teleport_ca::{CertificateAuthority, inspect};
use teleport_core::api::{
    AdminApi, AuthApi, CreateToken, IdentityApi, JoinRequest, PublicApi, ReissueRequest,
};
use teleport_core::auth::{AuthConfig, AuthService, Caller, Ports};
use teleport_core::cert::{CertIssuer, Identity, SubjectKeys};
use teleport_core::clock::{SystemClock, Timestamp};
use teleport_core::entropy::{EntropyExt, SystemEntropy};
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName};
use teleport_core::label::Labels;
use teleport_core::secret::SecretBytes;
use teleport_core::storage::{Backend, BackendExt, Prefix};
use teleport_core::testing::api_suite::{self, ApiFixture};
use teleport_core::testing::{KnownKeySigner, subject_keys, user_identity};
use tokio::time::Instant;

use crate::cluster::{CLUSTER, at_once};

struct Real {
    auth: AuthService,
    ca: Arc<CertificateAuthority>,
    backend: Arc<dyn Backend>,
    ports: Ports,
    unique: std::sync::atomic::AtomicU64,
    sealer: Arc<Sealer>,
    directory: tempfile::TempDir,
}

impl Real {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::new());
        let entropy = Arc::new(SystemEntropy::new());
        let backend: Arc<dyn Backend> =
            Arc::new(RedbBackend::open(directory.path().join("state.redb"), clock.clone()).await.unwrap());
        let master_key = SecretBytes::new(entropy.bytes::<MASTER_KEY_LEN>().unwrap());
        let sealer = Arc::new(Sealer::new(&master_key, entropy.clone()).unwrap());
        let name = ClusterName::new(CLUSTER).unwrap();
        let ca = CertificateAuthority::open_or_create(
            name.clone(),
            backend.clone(),
            sealer.clone(),
            clock.clone(),
            entropy.clone(),
        );
        let ca = Arc::new(ca.await.unwrap());
        let log = Self::log(directory.path(), "log", &backend, &sealer).await;
        let ports = Ports {
            backend: backend.clone(),
            issuer: ca.clone(),
            sealer: sealer.clone(),
            recordings: Arc::new(FsRecordingStore::open(directory.path().join("recordings")).await.unwrap()),
            audit: log,
            clock,
            entropy,
        };
        let mut config = AuthConfig::new(name);
        config.password.memory = 32;
        let auth = AuthService::new(ports.clone(), config);
        auth.bootstrap().await.unwrap();
        Self { auth, ca, backend, ports, unique: 1.into(), sealer, directory }
    }

    /// The log of one service, in files of its own, with the index in the storage of all.
    async fn log(
        directory: &std::path::Path,
        name: &str,
        backend: &Arc<dyn Backend>,
        sealer: &Arc<Sealer>,
    ) -> Arc<IndexedAuditLog> {
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
        let files =
            FileAuditLog::builder(directory.join(name), clock.clone(), entropy).checkpoints(Checkpoints {
                service: None,
                cluster: ClusterName::new(CLUSTER).unwrap(),
                signer: Arc::new(KnownKeySigner::new(1)),
                storage: Arc::new(MemoryBackend::new(clock.clone())),
            });
        let files = Arc::new(files.open().await.unwrap());
        Arc::new(IndexedAuditLog::start(files, backend.clone(), sealer.clone(), clock))
    }
}

impl ApiFixture for Real {
    fn as_caller(&self, caller: Caller) -> Arc<dyn AuthApi> {
        Arc::new(self.auth.acting_as(caller))
    }

    fn cluster(&self) -> ClusterName {
        ClusterName::new(CLUSTER).unwrap()
    }

    fn now(&self) -> Timestamp {
        self.ports.clock.now()
    }

    fn keys(&self) -> SubjectKeys {
        subject_keys(self.unique())
    }

    fn unique(&self) -> u64 {
        self.unique.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
    }
}

#[tokio::test]
async fn the_suite_passes_over_files_and_the_real_authority() {
    let real = Real::new().await;
    api_suite::all(&real).await;
}

#[tokio::test]
async fn pins_are_those_of_the_authority() {
    let real = Real::new().await;
    let pins = real.ca.trust().await.unwrap().ca_pins();
    assert_eq!(pins, real.ca.ca_pins());
    assert_eq!(pins.len(), 1);
}

fn join(real: &Real, token: &teleport_core::secret::SecretString) -> JoinRequest {
    JoinRequest {
        token: token.clone(),
        host_id: HostId::random(&SystemEntropy::new()).unwrap(),
        name: NodeName::new("web-1").unwrap(),
        role: HostRole::Node,
        keys: real.keys(),
        addresses: vec!["192.0.2.7".to_owned()],
        client_ip: None,
    }
}

#[tokio::test]
async fn a_joined_host_holds_what_was_granted() {
    let real = Real::new().await;
    let admin = real.auth.acting_as(Caller::LocalAdmin);
    let token = CreateToken {
        roles: vec![HostRole::Node],
        ttl: None,
        uses: Some(1),
        labels: Labels::default(),
        value: None,
    };
    let made = admin.create_token(token).await.unwrap();
    let request = join(&real, &made.token);
    let public = real.auth.acting_as(Caller::Anonymous { remote: None });
    let credentials = public.join(request.clone()).await.unwrap();
    let said = inspect::describe(&credentials.certificates.ssh).unwrap();
    let text = format!("{said:?}");
    for wanted in [request.host_id.to_string().as_str(), "web-1", "192.0.2.7", "node"] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert!(!text.contains("root"));
}

/// I5 on a disk, by two services.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i5_a_hundred_hosts_one_use_one_joins_on_redb() {
    let real = Real::new().await;
    let second = AuthService::new(real.ports.clone(), real.auth.config().clone());
    let admin = real.auth.acting_as(Caller::LocalAdmin);
    let token = CreateToken {
        roles: vec![HostRole::Node],
        ttl: None,
        uses: Some(1),
        labels: Labels::default(),
        value: None,
    };
    let made = admin.create_token(token).await.unwrap();
    let attempts = (0..100).map(|number| {
        let request = join(&real, &made.token);
        let service = if number % 2 == 0 { real.auth.clone() } else { second.clone() };
        async move { service.acting_as(Caller::Anonymous { remote: None }).join(request).await }
    });
    let outcomes = at_once(attempts).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let hosts = real.backend.list(&Prefix::new("hosts").unwrap()).await.unwrap();
    assert_eq!(hosts.len(), 1);
}

/// The figure of a development build; `benches` measures the real one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_are_signed_and_written_down_fast() {
    const EACH: usize = 100;
    let real = Real::new().await;
    let admin = real.auth.acting_as(Caller::LocalAdmin);
    let alice = teleport_core::api::CreateUser {
        name: "alice".parse().unwrap(),
        roles: vec!["access".parse().unwrap()],
        logins: vec!["root".parse().unwrap()],
        ttl: None,
    };
    admin.create_user(alice).await.unwrap();
    let expires = real.now().saturating_add(std::time::Duration::from_secs(3600));
    let identity = user_identity("alice", CLUSTER, &["access"], &["root"], expires);
    let start = Instant::now();
    let workers = (0..16_u64).map(|worker| {
        let api = real.auth.acting_as(Caller::Identity(Identity::User(identity.clone()), None));
        async move {
            for _ in 0..EACH {
                api.reissue_user(ReissueRequest { keys: subject_keys(worker), ttl: None }).await.unwrap();
            }
        }
    });
    at_once(workers).await;
    let count = 16 * EACH;
    let rate = f64::from(u32::try_from(count).unwrap()) / start.elapsed().as_secs_f64();
    println!("{rate:.0} exchanges a second, signed, on redb, audited on disk, in a development build");
    let query = teleport_core::audit::AuditQuery {
        events: vec!["cert.create".to_owned()],
        limit: 10_000,
        ..teleport_core::audit::AuditQuery::default()
    };
    let page = teleport_core::api::AuditApi::search_events(&admin, query).await.unwrap();
    assert_eq!(page.events.len(), count);
}

/// Two services over one storage, each with a log in files of its own: what either did is found at both.
#[tokio::test]
async fn what_either_service_did_is_found_at_both() {
    let real = Real::new().await;
    let log = Real::log(real.directory.path(), "other", &real.backend, &real.sealer).await;
    let ports = Ports { audit: log, ..real.ports.clone() };
    let other = AuthService::new(ports, real.auth.config().clone());
    let services = [&real.auth, &other].map(|service| service.acting_as(Caller::LocalAdmin));
    let mut expected = 0;
    for _ in 0..10 {
        for service in &services {
            let token = CreateToken {
                roles: vec![HostRole::Node],
                ttl: None,
                uses: None,
                labels: Labels::default(),
                value: None,
            };
            service.create_token(token).await.unwrap();
            expected += 1;
        }
    }
    let query = teleport_core::audit::AuditQuery {
        events: vec!["join_token.create".to_owned()],
        limit: 7,
        ..teleport_core::audit::AuditQuery::default()
    };
    for service in &services {
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let (mut found, mut query) = (Vec::new(), query.clone());
            loop {
                let page = teleport_core::api::AuditApi::search_events(service, query.clone()).await.unwrap();
                assert_eq!(page.incomplete, None);
                found.extend(page.events);
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
            assert!(found.is_sorted_by_key(|event| event.time));
            if found.len() == expected {
                let uids: std::collections::BTreeSet<_> = found.iter().map(|event| event.uid).collect();
                assert_eq!(uids.len(), expected, "each once");
                break;
            }
            assert!(found.len() < expected && Instant::now() < deadline, "{} of {expected}", found.len());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
