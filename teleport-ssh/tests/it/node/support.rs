//! A node in this process, an authority of the test's own, and the stock client.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{Certificate, LineEnding, PrivateKey};
use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_core::access::RoleSet;
use teleport_core::api::{
    AccessView, ApiError, ApiResult, AuditApi, ConnectionApi, HeldConnections, HoldConnections,
    HostCredentials, IdentityApi, LoginResponse, NodeEvent, PresenceApi, ProxyRecord, RecordingApi,
    RecordingQuery, ReissueRequest, ReleaseConnections, RenewRequest, RunningSession, SessionReport,
    SessionReportApi, TrustApi,
};
use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery};
use teleport_core::cert::danger::unchecked_host_grant;
use teleport_core::cert::{CertIssuer, PublicKey, SubjectKeys, TrustBundle};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, EntropyExt, SystemEntropy};
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, SessionId};
use teleport_core::recording::{RecordingInfo, RecordingMeta};
use teleport_core::resource::{Node, NodeRecord, Role, builtin_roles};
use teleport_core::secret::SecretBytes;
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName};
use teleport_ssh::listener::limits::Limits;
use teleport_ssh::node::{NodeBuilder, NodeServer, NodeStatus};
use teleport_ssh::session::{OsSessions, SessionService};
use teleport_ssh::sys::environment::AllowList;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// No state of a test takes longer to be reached. Start files of a login may wait a minute for a lock that a shell left
/// behind which was ended while it started, as these tests do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The login under which these tests run.
pub(crate) fn me() -> OsLogin {
    OsLogin::new(&teleport_ssh::sys::host::current_login().unwrap()).unwrap()
}

/// The auth service as the node sees it: gives out one view, keeps every event, can be away.
#[derive(Debug)]
pub(crate) struct TestAuth {
    pub(crate) view: watch::Sender<AccessView>,
    events: watch::Sender<Vec<AuditEvent>>,
    announced: watch::Sender<Vec<NodeRecord>>,
    away: AtomicBool,
    silent: watch::Sender<bool>,
    known: Mutex<bool>,
    /// What the node has told of its sessions last.
    pub(crate) sessions: watch::Sender<Vec<RunningSession>>,
    /// Who counts connections, if somebody does.
    pub(crate) counting: OnceLock<Arc<dyn ConnectionApi>>,
}

impl TestAuth {
    fn new(view: AccessView) -> Arc<Self> {
        Arc::new(Self {
            view: watch::Sender::new(view),
            events: watch::Sender::new(Vec::new()),
            announced: watch::Sender::new(Vec::new()),
            away: AtomicBool::new(false),
            silent: watch::Sender::new(false),
            known: Mutex::new(false),
            sessions: watch::Sender::new(Vec::new()),
            counting: OnceLock::new(),
        })
    }

    pub(crate) fn go_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Ends the stream of views, and gives no other.
    pub(crate) fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    fn answer(&self) -> ApiResult<()> {
        if self.away.load(Ordering::SeqCst) { Err(ApiError::unavailable("away")) } else { Ok(()) }
    }

    /// Waits for an event with this code that `wanted` accepts.
    pub(crate) async fn event(&self, code: &str, wanted: impl Fn(&AuditEvent) -> bool) -> AuditEvent {
        let mut events = self.events.subscribe();
        let find = |events: &Vec<AuditEvent>| {
            events.iter().find(|event| event.code.code() == code && wanted(event)).cloned()
        };
        let found = events.wait_for(|events| find(events).is_some());
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(events) => find(&events.unwrap()).unwrap(),
            Err(_) => panic!("no event {code}; there are {:#?}", self.events.borrow()),
        }
    }

    /// All with this code so far.
    pub(crate) fn events(&self, code: &str) -> Vec<AuditEvent> {
        self.events.borrow().iter().filter(|event| event.code.code() == code).cloned().collect()
    }

    pub(crate) fn count(&self, code: &str) -> usize {
        self.events.borrow().iter().filter(|event| event.code.code() == code).count()
    }

    pub(crate) async fn announced(&self, times: usize) -> NodeRecord {
        let mut announced = self.announced.subscribe();
        let records = tokio::time::timeout(PATIENCE, announced.wait_for(|records| records.len() >= times));
        records.await.unwrap().unwrap().last().unwrap().clone()
    }
}

#[async_trait]
impl IdentityApi for TestAuth {
    async fn renew_host(&self, _request: RenewRequest) -> ApiResult<HostCredentials> {
        Err(ApiError::denied())
    }
    async fn reissue_user(&self, _request: ReissueRequest) -> ApiResult<LoginResponse> {
        Err(ApiError::denied())
    }
}

#[async_trait]
impl PresenceApi for TestAuth {
    async fn announce_node(&self, node: NodeRecord) -> ApiResult<()> {
        self.answer()?;
        *self.known.lock().unwrap() = true;
        self.announced.send_modify(|records| records.push(node));
        Ok(())
    }
    async fn keep_alive(&self) -> ApiResult<()> {
        self.answer()?;
        if *self.known.lock().unwrap() { Ok(()) } else { Err(ApiError::not_found("node")) }
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

#[async_trait]
impl ConnectionApi for TestAuth {
    async fn hold_connections(&self, request: HoldConnections) -> ApiResult<HeldConnections> {
        self.answer()?;
        self.counting.get().ok_or_else(ApiError::denied)?.hold_connections(request).await
    }
    async fn release_connections(&self, request: ReleaseConnections) -> ApiResult<()> {
        self.answer()?;
        self.counting.get().ok_or_else(ApiError::denied)?.release_connections(request).await
    }
}

#[async_trait]
impl SessionReportApi for TestAuth {
    async fn report_sessions(&self, report: SessionReport) -> ApiResult<()> {
        self.answer()?;
        self.sessions.send_replace(report.sessions);
        Ok(())
    }
}

#[async_trait]
impl TrustApi for TestAuth {
    async fn trust(&self) -> ApiResult<TrustBundle> {
        Ok(self.view.borrow().trust.clone())
    }
    async fn watch_access(&self) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>> {
        self.answer()?;
        if *self.silent.borrow() {
            return Err(ApiError::unavailable("silent"));
        }
        let mut views = self.view.subscribe();
        views.mark_changed();
        Ok(futures_util::stream::unfold((views, self.silent.subscribe()), async |(mut views, mut silent)| {
            tokio::select! {
                changed = views.changed() => changed.ok()?,
                _ = silent.wait_for(|silent| *silent) => return None,
            }
            let view = views.borrow_and_update().clone();
            Some((Ok(view), (views, silent)))
        })
        .boxed())
    }
}

#[async_trait]
impl RecordingApi for TestAuth {
    async fn create_recording(&self, _meta: RecordingMeta) -> ApiResult<()> {
        Ok(())
    }
    async fn put_recording_part(&self, _session: SessionId, _number: u32, _part: Bytes) -> ApiResult<()> {
        Ok(())
    }
    async fn stream_recording(&self, _session: SessionId, _position: u64, _bytes: Bytes) -> ApiResult<()> {
        Ok(())
    }
    async fn recording_parts(&self, _session: SessionId) -> ApiResult<u32> {
        Ok(0)
    }
    async fn complete_recording(&self, _session: SessionId, _parts: u32) -> ApiResult<()> {
        Ok(())
    }
    async fn recordings(&self, _query: RecordingQuery) -> ApiResult<Vec<RecordingInfo>> {
        Ok(Vec::new())
    }
    async fn recording(&self, _session: SessionId) -> ApiResult<RecordingInfo> {
        Err(ApiError::denied())
    }
    async fn read_recording(&self, _session: SessionId, _offset: u64) -> ApiResult<Bytes> {
        Ok(Bytes::new())
    }
}

#[async_trait]
impl AuditApi for TestAuth {
    async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()> {
        self.answer()?;
        self.events.send_modify(|all| all.extend(events));
        Ok(())
    }
    async fn search_events(&self, _query: AuditQuery) -> ApiResult<AuditPage> {
        Err(ApiError::denied())
    }
}

/// A user certificate in the making: good unless a test changes it.
pub(crate) struct UserCert {
    pub(crate) kind: CertType,
    pub(crate) key_id: String,
    pub(crate) principals: Vec<String>,
    pub(crate) valid_after: u64,
    pub(crate) valid_before: u64,
    pub(crate) critical: Vec<(String, String)>,
    pub(crate) extensions: Vec<(String, String)>,
}

impl UserCert {
    pub(crate) fn new() -> Self {
        let now = SystemClock::new().now().unix_secs();
        let flag = |name: &str| (name.to_owned(), String::new());
        Self {
            kind: CertType::User,
            key_id: "alice".into(),
            principals: vec![me().to_string()],
            valid_after: now - 60,
            valid_before: now + 3600,
            critical: Vec::new(),
            extensions: vec![
                flag("permit-pty"),
                ("roles@teleport-rs".into(), "[\"access\"]".into()),
                ("traits@teleport-rs".into(), format!("{{\"logins\":[\"{}\"]}}", me())),
            ],
        }
    }

    pub(crate) fn without(mut self, extension: &str) -> Self {
        self.extensions.retain(|(name, _)| name != extension);
        self
    }

    /// With these extensions besides, which say nothing.
    pub(crate) fn with(mut self, extensions: &[&str]) -> Self {
        self.extensions.extend(extensions.iter().map(|name| ((*name).to_owned(), String::new())));
        self.extensions.sort();
        self
    }

    pub(crate) fn critical(mut self, name: &str, value: &str) -> Self {
        self.critical.push((name.into(), value.into()));
        self
    }

    pub(crate) fn sign(&self, subject: &PrivateKey, authority: &PrivateKey) -> Certificate {
        self.try_sign(subject, authority).unwrap()
    }

    pub(crate) fn try_sign(
        &self,
        subject: &PrivateKey,
        authority: &PrivateKey,
    ) -> ssh_key::Result<Certificate> {
        let mut builder = Builder::new(
            [9; 32],
            subject.public_key().key_data().clone(),
            self.valid_after,
            self.valid_before,
        )?;
        builder.serial(7)?.key_id(self.key_id.clone())?.cert_type(self.kind)?;
        if self.principals.is_empty() {
            builder.all_principals_valid()?;
        }
        for principal in &self.principals {
            builder.valid_principal(principal.clone())?;
        }
        for (name, value) in &self.critical {
            builder.critical_option(name.clone(), value.clone())?;
        }
        for (name, value) in &self.extensions {
            builder.extension(name.clone(), value.clone())?;
        }
        builder.sign(authority)
    }
}

pub(crate) fn private_key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub(crate) fn neutral(key: &PrivateKey) -> PublicKey {
    PublicKey::from_wire(&key.public_key().to_bytes().unwrap()).unwrap()
}

/// A node that runs in this process as long as this lives.
pub(crate) struct TestNode {
    pub(crate) address: SocketAddr,
    pub(crate) auth: Arc<TestAuth>,
    pub(crate) status: NodeStatus,
    pub(crate) shutdown: Shutdown,
    /// Signs users.
    pub(crate) user_ca: PrivateKey,
    /// Of the user in [`TestNode::ssh`].
    pub(crate) user_key: PrivateKey,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) ended: watch::Receiver<bool>,
    _scope: TaskScope,
}

pub(crate) fn lenient() -> Limits {
    Limits { penalties: false, per_source: 10_000, ..Limits::default() }
}

impl TestNode {
    pub(crate) async fn start() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(change: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        Self::serving(Arc::new(OsSessions::new(clock)), change).await
    }

    pub(crate) async fn serving(
        service: Arc<dyn SessionService>,
        change: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let user_ca = private_key(1);
        let material = host_material(&clock, &entropy).await;
        let mut trust = material.trust.clone();
        trust.user_ca = vec![neutral(&user_ca)];
        let auth = TestAuth::new(AccessView::new(trust.clone(), builtin_roles()));
        let dir = tempfile::tempdir().unwrap();
        let access: Arc<TestAuth> = Arc::clone(&auth);
        let builder = NodeServer::builder(HostIdentityHandle::new(material), access, service, clock, entropy)
            .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .limits(lenient())
            .accept_env(AllowList::parse(["LANG", "LC_*", "SHLVL"]).unwrap());
        let bound = change(builder).bind().await.unwrap();
        let (address, status) = (bound.local_addr().unwrap(), bound.status());
        let (shutdown, scope) = (Shutdown::new(), TaskScope::new());
        let (end, ended) = watch::channel(false);
        let serving = bound.serve(shutdown.clone());
        scope.spawn(async move {
            serving.await;
            end.send_replace(true);
        });
        let host_ca = &trust.host_ca[0];
        std::fs::write(dir.path().join("known_hosts"), format!("@cert-authority * {host_ca}\n")).unwrap();
        let user_key = private_key(2);
        let node = Self { address, auth, status, shutdown, user_ca, user_key, dir, ended, _scope: scope };
        node.status.view().ready().await;
        node.write_certificate("user", &UserCert::new().sign(&node.user_key, &node.user_ca), &node.user_key);
        node
    }

    /// Writes a key and its certificate for [`TestNode::ssh_as`].
    pub(crate) fn write_certificate(&self, name: &str, certificate: &Certificate, key: &PrivateKey) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(self.dir.path().join(format!("{name}-cert.pub")), certificate.to_openssh().unwrap())
            .unwrap();
    }

    /// The stock client, as the user of `name`.
    pub(crate) fn ssh_as(&self, name: &str) -> Command {
        let mut command = Command::new("ssh");
        let key = self.path(name);
        command
            .args([
                "-F",
                "none",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "IdentityAgent=none",
                "-o",
                "BatchMode=yes",
            ])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=none"])
            .args(["-o", "PreferredAuthentications=publickey"])
            // A shell within a shell: it then leaves alone the start files of whoever runs the tests.
            // And cookies of displays are in a file of the test, where nobody else waits for the lock of the user's own.
            .arg("-o")
            .arg(format!("SetEnv=SHLVL=5 XAUTHORITY={}", self.xauthority().display()))
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", self.path("known_hosts").display()))
            .arg("-i")
            .arg(key)
            .arg("-p")
            .arg(self.address.port().to_string())
            .arg("-l")
            .arg(me().as_str())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) fn ssh(&self) -> Command {
        self.ssh_as("user")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where programs look for cookies of displays, on a node that takes `XAUTHORITY` of clients.
    pub(crate) fn xauthority(&self) -> PathBuf {
        self.path("xauthority")
    }

    /// Runs the stock client with these arguments before the host, and this command.
    pub(crate) async fn run(&self, options: &[&str], command: &[&str]) -> Output {
        run(self.ssh().args(options).arg("127.0.0.1").args(command)).await
    }

    /// A session of the stock client with these arguments before the host, which is up and lasts as long as what is returned.
    pub(crate) async fn hold(&self, options: &[&str]) -> Child {
        let mut client = self
            .ssh()
            .args(options)
            .args(["127.0.0.1", "echo up; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        let said = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        assert_eq!(said.as_deref(), Some("up"));
        client
    }

    /// Replaces the roles that exist.
    pub(crate) async fn roles(&self, roles: Vec<Role>) {
        let roles = RoleSet::from(roles);
        self.auth.view.send_modify(|view| view.roles.clone_from(&roles));
        let changed = self.status.view().wait_for(|view| view.roles == roles);
        tokio::time::timeout(PATIENCE, changed).await.unwrap();
    }
}

pub(crate) async fn run(command: &mut Command) -> Output {
    tokio::time::timeout(PATIENCE, command.stdout(Stdio::piped()).stderr(Stdio::piped()).output())
        .await
        .unwrap()
        .unwrap()
}

/// Every byte value, without a short period.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(next).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn host_material(clock: &Arc<dyn Clock>, entropy: &Arc<dyn Entropy>) -> HostMaterial {
    let cluster = ClusterName::new("example.com").unwrap();
    let sealer = teleport_ca::seal::Sealer::new(
        &SecretBytes::new(entropy.bytes::<32>().unwrap()),
        Arc::clone(entropy),
    )
    .unwrap();
    let backend = Arc::new(MemoryBackend::new(Arc::clone(clock)));
    let ca = CertificateAuthority::open_or_create(
        cluster.clone(),
        backend,
        Arc::new(sealer),
        Arc::clone(clock),
        Arc::clone(entropy),
    )
    .await
    .unwrap();
    let host = HostName {
        host_id: HostId::random(&**entropy).unwrap(),
        name: NodeName::new("node-1").unwrap(),
        role: HostRole::Node,
    };
    let keys = HostMaterial::generate_keys(&**entropy).unwrap();
    let grant = unchecked_host_grant(
        host.host_id,
        host.name.clone(),
        cluster,
        HostRole::Node,
        Duration::from_secs(3600),
    );
    let subjects = SubjectKeys { ssh: keys.0.public(), tls: keys.1.public() };
    let certificates = ca.issue_host(grant, &subjects).await.unwrap();
    let trust = ca.trust().await.unwrap();
    HostMaterial::from_credentials(host, keys, HostCredentials { certificates, trust }).unwrap()
}
