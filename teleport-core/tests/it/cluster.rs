//! A cluster in memory whose clock the tests hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use teleport_backend::memory::MemoryBackend;
use teleport_core::api::{AcceptInvite, AdminApi, CreateUser, LoginRequest, PublicApi};
use teleport_core::auth::{AuthConfig, AuthHandle, AuthService, Caller, Ports, one_time_code};
use teleport_core::cert::{HostIdentity, Identity, UserIdentity};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::id::{ClusterName, HostRole, OsLogin, RoleName, SessionId, UserName};
use teleport_core::recording::{RecordingMeta, RecordingStore};
use teleport_core::secret::SecretString;
use teleport_core::storage::Backend;
use teleport_core::testing::{
    KnownKeySealer, ManualClock, MemoryAudit, MemoryRecordings, RepeatableEntropy, UnsignedIssuer,
    host_identity, recording_meta, subject_keys, user_identity,
};

pub(crate) const CLUSTER: &str = "example.com";
pub(crate) const PASSWORD: &str = "correct horse battery staple";

pub(crate) struct Cluster {
    pub(crate) auth: AuthService,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) audit: Arc<MemoryAudit>,
    pub(crate) issuer: Arc<UnsignedIssuer>,
    pub(crate) ports: Ports,
    counter: AtomicU64,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(configure: impl FnOnce(&mut AuthConfig)) -> Self {
        let clock = Arc::new(ManualClock::default());
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(clock.clone()));
        Self::over(backend, clock, configure).await
    }

    pub(crate) async fn over(
        backend: Arc<dyn Backend>,
        clock: Arc<ManualClock>,
        configure: impl FnOnce(&mut AuthConfig),
    ) -> Self {
        Self::storing(backend, clock, Arc::new(MemoryRecordings::new()), configure).await
    }

    pub(crate) async fn storing(
        backend: Arc<dyn Backend>,
        clock: Arc<ManualClock>,
        recordings: Arc<dyn RecordingStore>,
        configure: impl FnOnce(&mut AuthConfig),
    ) -> Self {
        let name = ClusterName::new(CLUSTER).unwrap();
        let audit = Arc::new(MemoryAudit::new());
        let issuer = Arc::new(UnsignedIssuer::new(name.clone(), clock.clone()));
        let ports = Ports {
            backend: backend.clone(),
            issuer: issuer.clone(),
            sealer: Arc::new(KnownKeySealer),
            recordings,
            audit: audit.clone(),
            clock: clock.clone(),
            // The same seeds in every run: a wrong code is never right by chance.
            entropy: Arc::new(RepeatableEntropy::new(42)),
        };
        let mut config = AuthConfig::new(name);
        // What a password costs is measured elsewhere.
        config.password.memory = 32;
        config.password.passes = 1;
        configure(&mut config);
        let auth = AuthService::new(ports.clone(), config);
        auth.bootstrap().await.unwrap();
        Self { auth, backend, clock, audit, issuer, ports, counter: AtomicU64::new(1) }
    }

    /// Another auth service on the same storage.
    pub(crate) fn second(&self) -> AuthService {
        AuthService::new(self.ports.clone(), self.auth.config().clone())
    }

    pub(crate) fn unique(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn admin(&self) -> AuthHandle {
        self.auth.acting_as(Caller::LocalAdmin)
    }

    pub(crate) fn anonymous(&self) -> AuthHandle {
        self.auth.acting_as(Caller::Anonymous { remote: Some("192.0.2.99:4711".parse().unwrap()) })
    }

    /// A person at a proxy's web page, for whom the proxy calls.
    pub(crate) fn web(&self) -> AuthHandle {
        self.auth.acting_as(self.web_caller())
    }

    pub(crate) fn web_caller(&self) -> Caller {
        let proxy = Identity::Host(self.host("proxy-1", HostRole::Proxy));
        Caller::Identity(proxy, Some("192.0.2.1:4711".parse().unwrap()))
    }

    pub(crate) fn as_host(&self, host: &HostIdentity) -> AuthHandle {
        self.auth.acting_as(Caller::Identity(Identity::Host(host.clone()), None))
    }

    pub(crate) fn as_user(&self, user: &UserIdentity) -> AuthHandle {
        self.auth.acting_as(Caller::Identity(Identity::User(user.clone()), None))
    }

    pub(crate) fn host(&self, name: &str, role: HostRole) -> HostIdentity {
        let id = uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, self.unique()).to_string();
        host_identity(&id, name, CLUSTER, role, self.now().saturating_add(Duration::from_secs(3600)))
    }

    /// A recording of alice's that `host` begins now.
    pub(crate) fn recording(&self, host: &HostIdentity) -> RecordingMeta {
        RecordingMeta {
            session: SessionId::from_uuid(uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, self.unique())),
            cluster: host.cluster.clone(),
            host_id: host.host_id,
            host_name: host.name.clone(),
            started: self.now(),
            ..recording_meta()
        }
    }

    pub(crate) fn user(&self, name: &str, roles: &[&str], logins: &[&str]) -> UserIdentity {
        let expires = self.now().saturating_add(Duration::from_secs(3600));
        user_identity(name, CLUSTER, roles, logins, expires)
    }

    /// A user who exists, as a certificate with the same roles says it.
    pub(crate) async fn member(&self, name: &str, roles: &[&str]) -> UserIdentity {
        let identity = self.user(name, roles, &["root"]);
        let request = CreateUser {
            name: identity.user.clone(),
            roles: identity.roles.clone(),
            logins: identity.logins.clone(),
            ttl: None,
        };
        self.admin().create_user(request).await.unwrap();
        identity
    }

    /// A user with the role `access` who can log in; returns the second factor's secret. The code of this step is used up.
    pub(crate) async fn sign_up(&self, name: &str) -> SecretString {
        let invite = self
            .admin()
            .create_user(CreateUser {
                name: UserName::new(name).unwrap(),
                roles: vec![RoleName::new("access").unwrap()],
                logins: vec![OsLogin::new("root").unwrap()],
                ttl: None,
            })
            .await
            .unwrap();
        let info = self.web().invite(invite.token.clone()).await.unwrap();
        let accept = AcceptInvite {
            token: invite.token,
            password: SecretString::new(PASSWORD),
            code: self.code(&info.secret),
            client_ip: None,
        };
        self.web().accept_invite(accept).await.unwrap();
        info.secret
    }

    pub(crate) fn code(&self, secret: &SecretString) -> SecretString {
        one_time_code(secret, self.now()).unwrap()
    }

    /// Moves the clock on by one step of codes.
    pub(crate) fn next_step(&self) {
        self.clock.advance(Duration::from_secs(30));
    }

    pub(crate) fn login(&self, user: &str, password: &str, code: SecretString) -> LoginRequest {
        LoginRequest {
            user: user.to_owned(),
            password: SecretString::new(password),
            code,
            keys: subject_keys(self.unique()),
            ttl: None,
            client_ip: None,
        }
    }
}

/// Runs futures at the same time, on all threads of the runtime.
pub(crate) async fn at_once<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut tasks: tokio::task::JoinSet<T> = futures.into_iter().collect();
    let mut outcomes = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        outcomes.push(outcome.unwrap());
    }
    outcomes
}
