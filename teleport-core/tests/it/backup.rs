//! A backup is restored into an empty cluster, and nowhere else.

use std::sync::Arc;

use teleport_backend::memory::MemoryBackend;
use teleport_backend::wrap::FaultBackend;
use teleport_core::api::{AdminApi, ApiErrorKind, CreateToken, PublicApi, ResourceApi};
use teleport_core::audit::EventKind;
use teleport_core::auth::{AuthService, Backup, RestoreError, RestorePorts, restore};
use teleport_core::id::{ClusterName, HostRole};
use teleport_core::label::Labels;
use teleport_core::resource::{Document, Lock, LockSpec, LockTarget, Role, RoleSpec, User, UserSpec};
use teleport_core::secret::Sealer;
use teleport_core::storage::BackendExt;
use teleport_core::testing::MemoryAudit;

use crate::cluster::{CLUSTER, Cluster, PASSWORD};

fn empty(of: &Cluster) -> RestorePorts {
    RestorePorts {
        backend: Arc::new(MemoryBackend::new(of.clock.clone())),
        sealer: of.ports.sealer.clone(),
        audit: Arc::new(MemoryAudit::new()),
        clock: of.clock.clone(),
        entropy: of.ports.entropy.clone(),
    }
}

fn name() -> ClusterName {
    CLUSTER.parse().unwrap()
}

/// Everything that `tctl get all --with-secrets` writes.
async fn documents(cluster: &Cluster, secrets: bool) -> Vec<Document> {
    let admin = cluster.admin();
    let mut all: Vec<Document> = admin.roles().await.unwrap().into_iter().map(Document::Role).collect();
    all.extend(admin.user_documents().await.unwrap().into_iter().map(Document::User));
    all.extend(admin.token_documents().await.unwrap().into_iter().map(Document::Token));
    all.extend(admin.locks().await.unwrap().into_iter().map(Document::Lock));
    all.push(Document::Shown("node"));
    if secrets {
        all.push(Document::Secrets(admin.secrets().await.unwrap()));
    }
    all
}

/// The auth service over what was restored.
async fn started(of: &Cluster, ports: &RestorePorts) -> AuthService {
    let mut all = of.ports.clone();
    all.backend = ports.backend.clone();
    let service = AuthService::new(all, of.auth.config().clone());
    service.bootstrap().await.unwrap();
    service
}

async fn populated() -> (Cluster, teleport_core::secret::SecretString) {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    let mut ops = Role::new("ops", RoleSpec::default());
    ops.spec.allow.logins = vec!["deploy".to_owned()];
    cluster.admin().create_role(ops).await.unwrap();
    let mut editor = cluster.admin().role("editor".parse().unwrap()).await.unwrap();
    editor.metadata.description = "changed".to_owned();
    cluster.admin().replace_role(editor).await.unwrap();
    let mut bob = User::new("bob", UserSpec::default());
    bob.spec.roles = vec!["ops".parse().unwrap()];
    cluster.admin().add_user(bob).await.unwrap();
    let target = LockTarget { user: Some("bob".parse().unwrap()), ..LockTarget::default() };
    let lock = Lock::new("bob-is-away", LockSpec { target, message: String::new() });
    cluster.admin().create_lock(lock).await.unwrap();
    (cluster, secret)
}

#[tokio::test]
async fn roles_and_users_come_back_without_their_secrets() {
    let (cluster, secret) = populated().await;
    let ports = empty(&cluster);
    let backup = Backup::new(documents(&cluster, false).await).unwrap();
    let restored = restore(&ports, &name(), &backup).await.unwrap();
    assert_eq!((restored.roles, restored.users, restored.secrets, restored.left_out), (4, 2, 0, 1));
    assert_eq!(restored.locks, 1);
    let service = started(&cluster, &ports).await;
    let admin = service.acting_as(teleport_core::auth::Caller::LocalAdmin);
    assert_eq!(admin.role("editor".parse().unwrap()).await.unwrap().metadata.description, "changed");
    let locked = admin.lock("bob-is-away".parse().unwrap()).await.unwrap();
    assert_eq!(locked.spec.target.to_string(), "user:\"bob\"");
    assert_eq!(admin.user("bob".parse().unwrap()).await.unwrap().spec.roles[0].as_str(), "ops");
    cluster.next_step();
    let login = || cluster.login("alice", PASSWORD, cluster.code(&secret));
    let public = service.acting_as(cluster.web_caller());
    assert_eq!(
        public.login(login()).await.unwrap_err().kind(),
        ApiErrorKind::Denied,
        "no password came along"
    );
    assert!(cluster.web().login(login()).await.is_ok());
}

#[tokio::test]
async fn with_secrets_users_log_in_and_tokens_admit() {
    let (cluster, secret) = populated().await;
    let token = CreateToken {
        roles: vec![HostRole::Node],
        ttl: Some(600),
        uses: None,
        labels: Labels::default(),
        value: None,
    };
    let token = cluster.admin().create_token(token).await.unwrap();
    cluster.backend.put(&"ca/authority/local".parse().unwrap(), "{}".into(), None).await.unwrap();
    let ports = empty(&cluster);
    let all = documents(&cluster, true).await;
    let logged = cluster.audit.last(EventKind::BackupSecrets).unwrap();
    assert_eq!(logged.user.as_deref(), Some("local-admin"));
    restore(&ports, &name(), &Backup::new(all).unwrap()).await.unwrap();
    let service = started(&cluster, &ports).await;
    cluster.next_step();
    let public = service.acting_as(cluster.web_caller());
    public.login(cluster.login("alice", PASSWORD, cluster.code(&secret))).await.unwrap();
    let admin = service.acting_as(teleport_core::auth::Caller::LocalAdmin);
    assert_eq!(admin.tokens().await.unwrap()[0].id, token.info.id);
    let authority = ports.backend.get(&"ca/authority/local".parse().unwrap()).await.unwrap();
    assert_eq!(authority.unwrap().value, "{}", "the authorities are those of before");
}

#[tokio::test]
async fn only_an_empty_cluster_is_restored_and_only_by_its_own_key() {
    #[derive(Debug)]
    struct Foreign;
    impl Sealer for Foreign {
        fn seal(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, teleport_core::entropy::EntropyError> {
            Ok(Vec::new())
        }

        fn open(
            &self,
            _: &str,
            _: &[u8],
        ) -> Result<teleport_core::secret::SecretBytes, teleport_core::secret::OpenError> {
            Err(teleport_core::secret::OpenError::new())
        }
    }
    let (cluster, _) = populated().await;
    let backup = Backup::new(documents(&cluster, true).await).unwrap();
    let own = RestorePorts { backend: cluster.backend.clone(), ..empty(&cluster) };
    let before = cluster.admin().user_documents().await.unwrap();
    assert!(matches!(restore(&own, &name(), &backup).await, Err(RestoreError::NotEmpty)));
    assert_eq!(cluster.admin().user_documents().await.unwrap(), before);
    let foreign = RestorePorts { sealer: Arc::new(Foreign), ..empty(&cluster) };
    assert!(matches!(restore(&foreign, &name(), &backup).await, Err(RestoreError::OtherKey)));
    assert!(foreign.backend.list(&teleport_core::storage::Prefix::root()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restore_that_was_interrupted_does_not_start_and_can_be_finished() {
    let (cluster, _) = populated().await;
    let backup = Backup::new(documents(&cluster, true).await).unwrap();
    let ports = empty(&cluster);
    let inner = ports.backend.clone();
    // The mark; the records; when they are written again, what takes the mark away.
    for (fails, begun) in [(1, false), (2, true), (2, true)] {
        let faulty = FaultBackend::new(inner.clone());
        faulty.faults().fail_write(fails);
        let attempt = RestorePorts { backend: Arc::new(faulty), ..ports.clone() };
        assert!(restore(&attempt, &name(), &backup).await.is_err());
        let mut all = cluster.ports.clone();
        all.backend = inner.clone();
        let service = AuthService::new(all, cluster.auth.config().clone());
        if begun {
            let error = service.bootstrap().await.unwrap_err();
            assert!(error.message().contains("--bootstrap"), "{error}");
        }
    }
    restore(&ports, &name(), &backup).await.unwrap();
    let service = started(&cluster, &ports).await;
    let admin = service.acting_as(teleport_core::auth::Caller::LocalAdmin);
    assert_eq!(admin.user_documents().await.unwrap().len(), 2);
}

/// What one backup has left would stay beside the other.
#[tokio::test]
async fn an_interrupted_restore_goes_on_with_the_same_backup_only() {
    let (cluster, _) = populated().await;
    let all = documents(&cluster, true).await;
    let backup = Backup::new(all.clone()).unwrap();
    let ports = empty(&cluster);
    let faulty = FaultBackend::new(ports.backend.clone());
    faulty.faults().fail_write(2);
    let attempt = RestorePorts { backend: Arc::new(faulty), ..ports.clone() };
    assert!(restore(&attempt, &name(), &backup).await.is_err());
    let other = Backup::new(all.into_iter().filter(|document| document.kind() != "user")).unwrap();
    let error = restore(&ports, &name(), &other).await.unwrap_err();
    assert!(matches!(error, RestoreError::OtherBackup), "{error}");
    restore(&ports, &name(), &backup).await.unwrap();
    started(&cluster, &ports).await;
}

#[test]
fn what_cannot_be_stored_is_refused_before_anything_is_written() {
    let role = |name: &str| Document::Role(Role::new(name, RoleSpec::default()));
    let user = |name: &str, role: &str| {
        let mut user = User::new(name, UserSpec::default());
        user.spec.roles = vec![role.parse().unwrap()];
        Document::User(user)
    };
    let mut wrong = Role::new("wrong", RoleSpec::default());
    wrong.spec.allow.node_labels_expression = Some("labels[".to_owned());
    for (documents, part) in [
        (vec![role("ops"), role("ops")], "role ops: is there twice"),
        (vec![user("a", "access"), user("a", "access")], "user a: is there twice"),
        (vec![user("a", "ops")], "no role ops"),
        (vec![user("A b", "access")], "user A b: metadata.name"),
        (vec![Document::Role(wrong)], "role wrong: "),
    ] {
        let error = Backup::new(documents).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(Backup::new([user("a", "editor"), user("b", "ops"), role("ops")]).is_ok());
}
