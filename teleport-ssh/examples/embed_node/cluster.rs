//! The rest of a cluster, as small as it can be: an authority in memory, one role, and an audit log on standard error.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_ca::seal::Sealer;
use teleport_core::api::{
    AccessView, ApiError, ApiResult, AuditApi, ConnectionApi, HeldConnections, HoldConnections,
    HostCredentials, IdentityApi, LoginResponse, NodeAccess, NodeEvent, PresenceApi, ProxyRecord,
    RecordingApi, RecordingQuery, ReissueRequest, ReleaseConnections, RenewRequest, SessionReport,
    SessionReportApi, TrustApi,
};
use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery};
use teleport_core::cert::danger::{unchecked_host_grant, unchecked_user_grant};
use teleport_core::cert::{CertIssuer, SubjectKeys, TrustBundle};
use teleport_core::clock::Clock;
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, RoleName, SessionId, UserName};
use teleport_core::recording::{RecordingInfo, RecordingMeta};
use teleport_core::resource::{Node, NodeRecord, builtin_roles};
use teleport_core::secret::SecretBytes;
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName};
use teleport_ssh::keys::SshKeyPair;

type Failure = Box<dyn std::error::Error>;

/// An authority and the identity of one node.
pub(crate) struct SmallCluster {
    ca: CertificateAuthority,
    entropy: Arc<dyn Entropy>,
    /// The node's identity.
    pub(crate) identity: HostIdentityHandle,
}

impl SmallCluster {
    /// Makes the authority's keys and the node's certificates.
    pub(crate) async fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, Failure> {
        let cluster = ClusterName::new("example.com")?;
        let sealer = Sealer::new(&SecretBytes::new(entropy.bytes::<32>()?), Arc::clone(&entropy))?;
        let backend = Arc::new(MemoryBackend::new(Arc::clone(&clock)));
        let ca = CertificateAuthority::open_or_create(
            cluster.clone(),
            backend,
            Arc::new(sealer),
            clock,
            Arc::clone(&entropy),
        )
        .await?;
        let host = HostName {
            host_id: HostId::random(&*entropy)?,
            name: NodeName::new("console")?,
            role: HostRole::Node,
        };
        let keys = HostMaterial::generate_keys(&*entropy)?;
        let day = Duration::from_secs(24 * 3600);
        let grant = unchecked_host_grant(host.host_id, host.name.clone(), cluster, host.role, day);
        let subject = SubjectKeys { ssh: keys.0.public(), tls: keys.1.public() };
        let certificates = ca.issue_host(grant, &subject).await?;
        let trust = ca.trust().await?;
        let material = HostMaterial::from_credentials(host, keys, HostCredentials { certificates, trust })?;
        Ok(Self { ca, entropy, identity: HostIdentityHandle::new(material) })
    }

    /// What the node asks and reports to.
    pub(crate) fn access(&self) -> Arc<dyn NodeAccess> {
        let trust = self.identity.current().trust.clone();
        Arc::new(SmallAuth(AccessView::new(trust, builtin_roles())))
    }

    /// Makes a key and a certificate for alice, who may log in as `operator`, and says how to use them.
    pub(crate) async fn write_client_files(
        &self,
        dir: &Path,
        address: SocketAddr,
    ) -> Result<String, Failure> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let pair = SshKeyPair::generate(&*self.entropy)?;
        let mut grant = unchecked_user_grant(UserName::new("alice")?, Duration::from_secs(3600));
        grant.logins = vec![OsLogin::new("operator")?];
        grant.roles = vec![RoleName::new("access")?];
        grant.traits = [("logins".to_owned(), vec!["operator".to_owned()])].into();
        grant.permits.pty = true;
        let certificate = self.ca.sign_user_ssh(&grant, &pair.public()).await?;
        std::fs::DirBuilder::new().mode(0o700).create(dir)?;
        let key = dir.join("id");
        std::fs::write(&key, pair.to_openssh().expose())?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        std::fs::write(dir.join("id-cert.pub"), &certificate.openssh)?;
        let known_hosts = dir.join("known_hosts");
        let authorities = self.identity.current().trust.host_ca.clone();
        let lines: String = authorities.iter().map(|key| format!("@cert-authority * {key}\n")).collect();
        std::fs::write(&known_hosts, lines)?;
        Ok(format!(
            "ssh -F none -i {} -o IdentitiesOnly=yes -o UserKnownHostsFile={} -p {} operator@{}",
            key.display(),
            known_hosts.display(),
            address.port(),
            address.ip()
        ))
    }
}

/// An auth service for one node: one view that never changes, events on standard error.
#[derive(Debug)]
struct SmallAuth(AccessView);

#[async_trait]
impl TrustApi for SmallAuth {
    async fn trust(&self) -> ApiResult<TrustBundle> {
        Ok(self.0.trust.clone())
    }
    async fn watch_access(&self) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>> {
        let view = futures_util::stream::iter([Ok(self.0.clone())]);
        Ok(view.chain(futures_util::stream::pending()).boxed())
    }
}

#[async_trait]
impl AuditApi for SmallAuth {
    async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()> {
        for event in events {
            eprintln!("{} {} {}", event.code.code(), event.event, event.user.unwrap_or_default());
        }
        Ok(())
    }
    async fn search_events(&self, _query: AuditQuery) -> ApiResult<AuditPage> {
        Err(ApiError::denied())
    }
}

#[async_trait]
impl PresenceApi for SmallAuth {
    async fn announce_node(&self, _node: NodeRecord) -> ApiResult<()> {
        Ok(())
    }
    async fn keep_alive(&self) -> ApiResult<()> {
        Ok(())
    }
    async fn announce_proxy(&self, _proxy: ProxyRecord) -> ApiResult<()> {
        Err(ApiError::denied())
    }
    async fn nodes(&self) -> ApiResult<Vec<Node>> {
        Ok(Vec::new())
    }
    async fn watch_nodes(&self) -> ApiResult<BoxStream<'static, ApiResult<NodeEvent>>> {
        Err(ApiError::denied())
    }
}

/// Its roles set no limit, so it is never asked.
#[async_trait]
impl ConnectionApi for SmallAuth {
    async fn hold_connections(&self, _request: HoldConnections) -> ApiResult<HeldConnections> {
        Err(ApiError::denied())
    }
    async fn release_connections(&self, _request: ReleaseConnections) -> ApiResult<()> {
        Err(ApiError::denied())
    }
}

/// It keeps no list of sessions.
#[async_trait]
impl SessionReportApi for SmallAuth {
    async fn report_sessions(&self, _report: SessionReport) -> ApiResult<()> {
        Ok(())
    }
}

#[async_trait]
impl IdentityApi for SmallAuth {
    async fn renew_host(&self, _request: RenewRequest) -> ApiResult<HostCredentials> {
        Err(ApiError::denied())
    }
    async fn reissue_user(&self, _request: ReissueRequest) -> ApiResult<LoginResponse> {
        Err(ApiError::denied())
    }
}

/// Nothing is recorded: the node has no recorders.
#[async_trait]
impl RecordingApi for SmallAuth {
    async fn create_recording(&self, _meta: RecordingMeta) -> ApiResult<()> {
        Err(ApiError::denied())
    }
    async fn put_recording_part(&self, _session: SessionId, _number: u32, _part: Bytes) -> ApiResult<()> {
        Err(ApiError::denied())
    }
    async fn stream_recording(&self, _session: SessionId, _position: u64, _bytes: Bytes) -> ApiResult<()> {
        Err(ApiError::denied())
    }
    async fn recording_parts(&self, _session: SessionId) -> ApiResult<u32> {
        Err(ApiError::denied())
    }
    async fn complete_recording(&self, _session: SessionId, _parts: u32) -> ApiResult<()> {
        Err(ApiError::denied())
    }
    async fn recordings(&self, _query: RecordingQuery) -> ApiResult<Vec<RecordingInfo>> {
        Err(ApiError::denied())
    }
    async fn recording(&self, _session: SessionId) -> ApiResult<RecordingInfo> {
        Err(ApiError::denied())
    }
    async fn read_recording(&self, _session: SessionId, _offset: u64) -> ApiResult<Bytes> {
        Err(ApiError::denied())
    }
}
