//! A cluster's auth service on a port, with a clock that the test moves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_core::api::{AdminApi as _, ApiErrorKind, CreateToken, CreateUser, HostCredentials};
use teleport_core::audit::AuditLog;
use teleport_core::auth::{AuthConfig, AuthService, Caller, Ports};
use teleport_core::cert::danger::{unchecked_host_grant, unchecked_user_grant};
use teleport_core::cert::{CaPin, CertIssuer as _, SubjectKeys, TrustBundle};
use teleport_core::clock::Clock;
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, RoleName, UserName};
use teleport_core::secret::SecretString;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_core::testing::{KnownKeySealer, ManualClock, MemoryAudit, MemoryRecordings};
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName};
use teleport_ssh::keys::{SshKeyPair, TlsKeyPair};
use teleport_ssh::listener::Door;
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::proxy_web::{ProxyWeb, ProxyWebBuilder, WebRates};
use teleport_ssh::rpc::{AuthClient, AuthServer, ClientIdentity, TcpConnector, UserCredentials};

pub(super) const CLUSTER: &str = "example.com";

pub(super) fn cluster() -> ClusterName {
    ClusterName::new(CLUSTER).unwrap()
}

/// Waits for a state, with an end.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) ca: Arc<CertificateAuthority>,
    pub(super) service: AuthService,
    pub(super) audit: Arc<MemoryAudit>,
    pub(super) identity: HostIdentityHandle,
    pub(super) address: SocketAddr,
    pub(super) door: Door,
    pub(super) shutdown: Shutdown,
    pub(super) tasks: TaskScope,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::start_with(Limits { penalties: false, ..Limits::default() }).await
    }

    pub(super) async fn start_with(limits: Limits) -> Self {
        Self::start_over(limits, |audit| audit).await
    }

    /// With another audit log in front of the one in memory.
    pub(super) async fn start_over(
        limits: Limits,
        wrap: impl FnOnce(Arc<MemoryAudit>) -> Arc<dyn AuditLog>,
    ) -> Self {
        Self::start_as(AuthConfig::new(cluster()), limits, wrap).await
    }

    /// With other settings of the service.
    pub(super) async fn start_as(
        config: AuthConfig,
        limits: Limits,
        wrap: impl FnOnce(Arc<MemoryAudit>) -> Arc<dyn AuditLog>,
    ) -> Self {
        let clock = Arc::new(ManualClock::default());
        let ca = authority(&clock).await;
        let audit = Arc::new(MemoryAudit::new());
        let ports = Ports {
            backend: Arc::new(MemoryBackend::new(clock.clone())),
            issuer: ca.clone(),
            sealer: Arc::new(KnownKeySealer),
            recordings: Arc::new(MemoryRecordings::new()),
            audit: wrap(audit.clone()),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy::new()),
        };
        let service = AuthService::new(ports, config);
        service.bootstrap().await.unwrap();
        let identity = HostIdentityHandle::new(host(&ca, HostRole::Auth, "auth-1").await);
        let (shutdown, tasks) = (Shutdown::new(), TaskScope::new());
        let bound = AuthServer::builder(Arc::new(service.clone()), identity.clone(), clock.clone())
            .listen("127.0.0.1:0".parse().unwrap())
            .limits(limits)
            .bind()
            .await
            .unwrap();
        let (address, door) = (bound.local_addr().unwrap(), bound.door());
        tasks.spawn(bound.serve(shutdown.clone()));
        Self { clock, ca, service, audit, identity, address, door, shutdown, tasks }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub(super) fn trust(&self) -> TrustBundle {
        self.ca.trust_bundle()
    }

    pub(super) fn pins(&self) -> Vec<CaPin> {
        self.ca.ca_pins()
    }

    pub(super) fn connector(&self) -> Arc<TcpConnector> {
        Arc::new(TcpConnector::new([self.address.to_string()]))
    }

    pub(super) fn client(&self, identity: ClientIdentity) -> AuthClient {
        AuthClient::builder(self.connector(), identity, self.clock()).build()
    }

    pub(super) async fn host(&self, role: HostRole, name: &str) -> HostMaterial {
        host(&self.ca, role, name).await
    }

    /// A client with the identity of a new host.
    pub(super) async fn as_host(&self, role: HostRole, name: &str) -> (AuthClient, HostIdentityHandle) {
        let handle = HostIdentityHandle::new(self.host(role, name).await);
        (self.client(ClientIdentity::Host(handle.clone())), handle)
    }

    /// A client with the identity of a user.
    pub(super) async fn as_user(&self, name: &str, roles: &[&str]) -> AuthClient {
        self.make_user(name, roles).await;
        self.client(ClientIdentity::User(user(&self.ca, name, roles, Duration::from_secs(3600)).await))
    }

    /// A user of whom the cluster knows, if it can be one and is not: who is none administers nothing.
    pub(super) async fn make_user(&self, name: &str, roles: &[&str]) {
        let request = CreateUser {
            name: UserName::new(name).unwrap(),
            roles: roles.iter().map(|role| RoleName::new(role).unwrap()).collect(),
            logins: Vec::new(),
            ttl: None,
        };
        match self.service.acting_as(Caller::LocalAdmin).create_user(request).await {
            Err(error) if !matches!(error.kind(), ApiErrorKind::Conflict | ApiErrorKind::Invalid) => {
                panic!("{error:?}")
            }
            _ => {}
        }
    }

    /// A join token.
    pub(super) async fn token(&self, role: HostRole) -> SecretString {
        let request = CreateToken {
            roles: vec![role],
            ttl: Some(600),
            uses: None,
            labels: teleport_core::label::Labels::default(),
            value: None,
        };
        self.service.acting_as(Caller::LocalAdmin).create_token(request).await.unwrap().token
    }

    /// A proxy's HTTPS in front of this auth service.
    pub(super) async fn web(&self, rates: WebRates) -> SocketAddr {
        let (api, identity) = self.as_host(HostRole::Proxy, "proxy-1").await;
        let web = ProxyWeb::builder(Arc::new(api), identity, self.clock())
            .pass_to(self.connector())
            .ssh_address("proxy.example.com:3023")
            .rates(rates);
        self.serve_web(web).await
    }

    /// Serves a proxy on a port of loopback.
    pub(super) async fn serve_web(&self, web: ProxyWebBuilder) -> SocketAddr {
        let bound = web.listen("127.0.0.1:0".parse().unwrap()).bind().await.unwrap();
        let address = bound.local_addr().unwrap();
        self.tasks.spawn(bound.serve(self.shutdown.clone()));
        address
    }
}

pub(super) async fn authority(clock: &Arc<ManualClock>) -> Arc<CertificateAuthority> {
    let backend = Arc::new(MemoryBackend::new(clock.clone()));
    let entropy = Arc::new(SystemEntropy::new());
    let sealer = Arc::new(KnownKeySealer);
    Arc::new(
        CertificateAuthority::open_or_create(cluster(), backend, sealer, clock.clone(), entropy)
            .await
            .unwrap(),
    )
}

fn keys() -> (SshKeyPair, TlsKeyPair, SubjectKeys) {
    let (ssh, tls) = HostMaterial::generate_keys(&SystemEntropy::new()).unwrap();
    let public = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
    (ssh, tls, public)
}

/// A host of a cluster, without a token.
pub(super) async fn host(ca: &CertificateAuthority, role: HostRole, name: &str) -> HostMaterial {
    let host_id = HostId::random(&SystemEntropy::new()).unwrap();
    issued(ca, HostName { host_id, name: NodeName::new(name).unwrap(), role }).await
}

/// Keys and certificates of a host, which may have others already.
pub(super) async fn issued(ca: &CertificateAuthority, host: HostName) -> HostMaterial {
    let (ssh, tls, public) = keys();
    let ttl = Duration::from_secs(7 * 24 * 3600);
    let grant = unchecked_host_grant(host.host_id, host.name.clone(), ca.cluster().clone(), host.role, ttl);
    let certificates = ca.issue_host(grant, &public).await.unwrap();
    let credentials = HostCredentials { certificates, trust: ca.trust_bundle() };
    HostMaterial::from_credentials(host, (ssh, tls), credentials).unwrap()
}

/// A user of a cluster, without a login.
pub(super) async fn user(
    ca: &CertificateAuthority,
    name: &str,
    roles: &[&str],
    ttl: Duration,
) -> UserCredentials {
    let (_, tls, public) = keys();
    let mut grant = unchecked_user_grant(UserName::new(name).unwrap(), ttl);
    grant.roles = roles.iter().map(|role| RoleName::new(role).unwrap()).collect();
    grant.logins = vec![OsLogin::new("root").unwrap()];
    grant.traits.insert("logins".to_owned(), vec!["root".to_owned()]);
    let certificates = ca.issue_user(grant, &public).await.unwrap();
    UserCredentials { tls, certificate: certificates.tls, trust: ca.trust_bundle() }
}

/// PEM of DER, for other TLS software.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der))
}
