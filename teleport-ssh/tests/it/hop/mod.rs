//! A proxy between real clients and real nodes: certificates of a real authority, stock `ssh` and `sshd`, our own client.

mod bulk;
mod client;
mod forward;
mod impostors;
mod locks;
mod openssh;
mod refusals;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_core::api::*;
use teleport_core::audit::{AuditEvent, AuditPage, AuditQuery, EventKind};
use teleport_core::cert::{CertIssuer, Permits, SubjectKeys, TrustBundle, danger};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, UserName};
use teleport_core::origin::MAGIC;
use teleport_core::resource::{Node, NodeRecord, Role, RoleConditions, RoleSpec};
use teleport_core::task::{Shutdown, TaskScope};
use teleport_ssh::client::openssh::{ConfigFiles, ProxyAddress, known_hosts};
use teleport_ssh::client::{Credentials, SshClient};
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName};
use teleport_ssh::keys::{SshKeyPair, TlsKeyPair};
use teleport_ssh::proxy::{Direct, NodeView, ProxyServer};
use teleport_ssh::view::AccessCache;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longer than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const CLUSTER: &str = "example.test";
/// What makes stock `ssh` ask for a proxy of the cluster, whatever address leads there.
pub(crate) const PROXY: &str = "HostKeyAlias=teleport-proxy.example.test";

/// What the proxy hears from the auth service: trust, roles, nodes. Collects what it reports.
#[derive(Debug)]
pub(crate) struct Access {
    view: watch::Sender<AccessView>,
    nodes: watch::Sender<Vec<Node>>,
    events: Mutex<Vec<AuditEvent>>,
    reported: watch::Sender<usize>,
    silent: watch::Sender<bool>,
}

impl Access {
    /// Ends the stream of views, and gives no other.
    pub(crate) fn fall_silent(&self) {
        self.silent.send_replace(true);
    }
}

fn elsewhere<T>() -> ApiResult<T> {
    Err(ApiError::denied())
}

#[async_trait]
impl PublicApi for Access {
    async fn ping(&self) -> ApiResult<Ping> {
        elsewhere()
    }
    async fn join(&self, _: JoinRequest) -> ApiResult<HostCredentials> {
        elsewhere()
    }
    async fn login(&self, _: LoginRequest) -> ApiResult<LoginResponse> {
        elsewhere()
    }
    async fn invite(&self, _: teleport_core::secret::SecretString) -> ApiResult<InviteInfo> {
        elsewhere()
    }
    async fn accept_invite(&self, _: AcceptInvite) -> ApiResult<()> {
        elsewhere()
    }
}

#[async_trait]
impl IdentityApi for Access {
    async fn renew_host(&self, _: RenewRequest) -> ApiResult<HostCredentials> {
        elsewhere()
    }
    async fn reissue_user(&self, _: ReissueRequest) -> ApiResult<LoginResponse> {
        elsewhere()
    }
}

#[async_trait]
impl PresenceApi for Access {
    async fn announce_node(&self, _: NodeRecord) -> ApiResult<()> {
        elsewhere()
    }
    async fn keep_alive(&self) -> ApiResult<()> {
        elsewhere()
    }
    async fn announce_proxy(&self, _: ProxyRecord) -> ApiResult<()> {
        elsewhere()
    }
    async fn nodes(&self) -> ApiResult<Vec<Node>> {
        Ok(self.nodes.borrow().clone())
    }
    async fn watch_nodes(&self) -> ApiResult<BoxStream<'static, ApiResult<NodeEvent>>> {
        let mut nodes = self.nodes.subscribe();
        nodes.mark_changed();
        Ok(stream::unfold(nodes, |mut nodes| async {
            nodes.changed().await.ok()?;
            let snapshot = nodes.borrow_and_update().clone();
            Some((Ok(NodeEvent::Snapshot(snapshot)), nodes))
        })
        .boxed())
    }
}

#[async_trait]
impl TrustApi for Access {
    async fn trust(&self) -> ApiResult<TrustBundle> {
        Ok(self.view.borrow().trust.clone())
    }
    async fn watch_access(&self) -> ApiResult<BoxStream<'static, ApiResult<AccessView>>> {
        if *self.silent.borrow() {
            return Err(ApiError::unavailable("silent"));
        }
        let mut views = self.view.subscribe();
        views.mark_changed();
        Ok(stream::unfold((views, self.silent.subscribe()), |(mut views, mut silent)| async {
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
impl AuditApi for Access {
    async fn emit_events(&self, events: Vec<AuditEvent>) -> ApiResult<()> {
        let mut all = self.events.lock().unwrap();
        all.extend(events);
        self.reported.send_replace(all.len());
        Ok(())
    }
    async fn search_events(&self, _: AuditQuery) -> ApiResult<AuditPage> {
        elsewhere()
    }
}

/// One cluster: an authority, a proxy that runs, files for OpenSSH.
pub(crate) struct World {
    pub(crate) ca: CertificateAuthority,
    pub(crate) access: Arc<Access>,
    pub(crate) proxy: SocketAddr,
    pub(crate) dir: TempDir,
    nodes: NodeView,
    /// What the proxy said to nodes.
    pub(crate) origins: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(crate) view: AccessCache,
    entropy: Arc<dyn Entropy>,
    shutdown: Shutdown,
    scope: TaskScope,
}

/// A user with keys in files.
pub(crate) struct TestUser {
    pub(crate) credentials: Credentials,
    pub(crate) files: ConfigFiles,
}

impl World {
    pub(crate) async fn start() -> Self {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let ca = authority(&entropy).await;
        let role = Role::new(
            "access",
            RoleSpec {
                allow: RoleConditions {
                    logins: vec![os_user()],
                    node_labels: serde_json::from_str(r#"{"env":"test"}"#).unwrap(),
                    ..RoleConditions::default()
                },
                ..RoleSpec::default()
            },
        );
        let access = Arc::new(Access {
            view: watch::Sender::new(AccessView::new(ca.trust_bundle(), vec![role])),
            nodes: watch::Sender::default(),
            events: Mutex::default(),
            reported: watch::Sender::default(),
            silent: watch::Sender::new(false),
        });
        let material = host(&ca, &entropy, "proxy", HostRole::Proxy, Duration::from_secs(3600)).await;
        let bound = ProxyServer::builder(
            HostIdentityHandle::new(material),
            Arc::clone(&access) as Arc<dyn ProxyAccess>,
            Arc::new(SystemClock::new()),
            Arc::clone(&entropy),
        )
        .listen("127.0.0.1:0".parse().unwrap())
        // There is nowhere else.
        .dialer(Arc::new(Direct::new().local_addresses(true)))
        .bind()
        .await
        .unwrap();
        let (proxy, nodes, view) = (bound.local_addr().unwrap(), bound.nodes(), bound.view());
        let (shutdown, scope) = (Shutdown::new(), TaskScope::new());
        scope.spawn(bound.serve(shutdown.clone()));
        let dir = tempfile::tempdir().unwrap();
        let origins = Arc::default();
        let world = Self { ca, access, proxy, dir, nodes, origins, view, entropy, shutdown, scope };
        // Accepting before the roles are known would refuse the first users.
        world.user("probe").await;
        world
    }

    pub(crate) fn address(&self) -> ProxyAddress {
        ProxyAddress::parse(&self.proxy.to_string()).unwrap()
    }

    /// A user who may log in as the user of this process, on nodes with the label `env=test`.
    pub(crate) async fn user(&self, name: &str) -> TestUser {
        let ssh = SshKeyPair::generate(&*self.entropy).unwrap();
        let tls = TlsKeyPair::generate(&*self.entropy).unwrap();
        let user = UserName::new(name).unwrap();
        let mut grant = danger::unchecked_user_grant(user.clone(), Duration::from_secs(6 * 3600));
        grant.logins = vec![OsLogin::new(&os_user()).unwrap()];
        grant.roles = vec!["access".parse().unwrap()];
        grant.permits =
            Permits { pty: true, port_forwarding: true, agent_forwarding: true, x11_forwarding: true };
        let keys = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
        let issued = self.ca.issue_user(grant, &keys).await.unwrap();
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        let files = ConfigFiles {
            identity: dir.join("key"),
            certificate: dir.join("key-cert.pub"),
            known_hosts: dir.join("known_hosts"),
        };
        private(&files.identity, ssh.to_openssh().expose());
        private(&files.certificate, &format!("{} {name}\n", issued.ssh));
        private(&files.known_hosts, &known_hosts(&self.ca.trust_bundle()));
        let credentials = Credentials { user, ssh, certificate: issued.ssh, trust: self.ca.trust_bundle() };
        TestUser { credentials, files }
    }

    pub(crate) fn client(&self, user: &TestUser) -> SshClient {
        SshClient::new(user.credentials.clone(), Arc::new(SystemClock::new()))
    }

    /// A real `sshd` that trusts the user authority and shows a certificate for `name`, started for each connection.
    pub(crate) async fn sshd(&self, name: &str) -> HostId {
        let material = self.node_material(name).await;
        let address = self.sshd_with(&material, true).await;
        self.register(material.host_id, name, address, "env=test").await;
        material.host_id
    }

    pub(crate) async fn node_material(&self, name: &str) -> HostMaterial {
        host(&self.ca, &self.entropy, name, HostRole::Node, Duration::from_secs(3600)).await
    }

    pub(crate) async fn node_material_for(&self, name: &str, ttl: Duration) -> HostMaterial {
        host(&self.ca, &self.entropy, name, HostRole::Node, ttl).await
    }

    /// Where an `sshd` with this identity answers, with its certificate or without.
    pub(crate) async fn sshd_with(&self, material: &HostMaterial, certified: bool) -> SocketAddr {
        let dir = self.dir.path().join(material.host_id.to_string());
        fs::create_dir_all(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        private(&at("host_key"), material.ssh.to_openssh().expose());
        private(&at("host_key-cert.pub"), &material.ssh_certificate);
        let authorities: Vec<_> =
            self.ca.trust_bundle().user_ca.iter().map(|key| format!("{key}\n")).collect();
        private(&at("user_ca"), &authorities.concat());
        let mut config = format!(
            "HostKey {dir}/host_key\nTrustedUserCAKeys {dir}/user_ca\nAuthorizedKeysFile none\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n\
             LogLevel VERBOSE\nX11Forwarding yes\n",
            dir = dir.display()
        );
        if certified {
            config += &format!("HostCertificate {}/host_key-cert.pub\n", dir.display());
        }
        private(&at("sshd_config"), &config);
        // sshd insists on it when it runs as root.
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let origins = Arc::clone(&self.origins);
        self.scope.spawn(async move {
            let mut children = Vec::new();
            let carried = TaskScope::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Some(stream) = without_header(stream, Arc::clone(&origins), &carried).await else {
                    continue;
                };
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
                let mut sshd = Command::new("/usr/sbin/sshd");
                sshd.args(["-i", "-e", "-f"]).arg(dir.join("sshd_config"));
                sshd.stdin(Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap())));
                sshd.stdout(Stdio::from(std::os::fd::OwnedFd::from(stream))).stderr(log);
                children.push(sshd.spawn().expect("sshd runs: install openssh-server"));
                children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            }
        });
        address
    }

    /// Adds a node to the inventory and waits until the proxy knows it.
    pub(crate) async fn register(&self, id: HostId, name: &str, address: SocketAddr, labels: &str) {
        let node = Node {
            record: NodeRecord {
                host_id: id,
                name: NodeName::new(name).unwrap(),
                address: address.to_string(),
                labels: labels.parse().unwrap(),
                sub_kind: teleport_core::resource::NodeKind::Teleport,
                proxy_ids: Vec::new(),
                version: "0".to_owned(),
            },
            last_seen: SystemClock::new().now(),
        };
        self.access.nodes.send_modify(|nodes| nodes.push(node));
        let known = self.nodes.wait_for(|nodes| nodes.by_id(id).is_some());
        tokio::time::timeout(DEADLINE, known).await.expect("the proxy hears of the node");
    }

    /// Waits for an event of this kind that `wanted` accepts.
    pub(crate) async fn event(&self, kind: EventKind, wanted: impl Fn(&AuditEvent) -> bool) -> AuditEvent {
        let mut reported = self.access.reported.subscribe();
        let find = async {
            loop {
                let found = {
                    let events = self.access.events.lock().unwrap();
                    events.iter().find(|event| event.code == kind && wanted(event)).cloned()
                };
                match found {
                    Some(event) => return event,
                    None => reported.changed().await.unwrap(),
                }
            }
        };
        match tokio::time::timeout(DEADLINE, find).await {
            Ok(event) => event,
            Err(_) => panic!("no {kind} among {:#?}", self.access.events.lock().unwrap()),
        }
    }

    /// Options with which stock `ssh` uses the user's certificate and nothing else of this machine.
    pub(crate) fn ssh(&self, user: &TestUser) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options(user)).stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        ssh
    }

    pub(crate) fn options(&self, user: &TestUser) -> Vec<String> {
        let ConfigFiles { identity, certificate, known_hosts } = &user.files;
        let mut options = vec!["-F".to_owned(), "none".to_owned()];
        for option in [
            format!("IdentityFile={}", identity.display()),
            format!("CertificateFile={}", certificate.display()),
            format!("UserKnownHostsFile={}", known_hosts.display()),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "BatchMode=yes".to_owned(),
            "LogLevel=INFO".to_owned(),
        ] {
            options.extend(["-o".to_owned(), option]);
        }
        options
    }

    pub(crate) async fn stop(self) {
        self.shutdown.abort();
        self.scope.abort().await;
    }
}

/// The stream without what a proxy says before its client does, which our own nodes take off by themselves: the server speaks at once, and
/// hears the client later.
async fn without_header(
    client: TcpStream,
    origins: Arc<Mutex<Vec<Vec<u8>>>>,
    carried: &TaskScope,
) -> Option<TcpStream> {
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(inner.local_addr().unwrap()), inner.accept());
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = near.ok()?.into_split();
    carried.spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    carried.spawn(async move {
        let mut first = [0];
        if from_client.peek(&mut first).await.is_ok() && first[0] == MAGIC[0] {
            let mut header = vec![0; MAGIC.len() + 2];
            from_client.read_exact(&mut header).await.unwrap();
            let len = u16::from_be_bytes(*header.last_chunk().unwrap());
            header.resize(header.len() + usize::from(len), 0);
            from_client.read_exact(&mut header[MAGIC.len() + 2..]).await.unwrap();
            origins.lock().unwrap().push(header);
        }
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    Some(far.ok()?.0)
}

pub(crate) async fn authority(entropy: &Arc<dyn Entropy>) -> CertificateAuthority {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let master = teleport_core::secret::SecretBytes::new(
        teleport_core::entropy::EntropyExt::bytes::<32>(&**entropy).unwrap(),
    );
    let sealer = teleport_ca::seal::Sealer::new(&master, Arc::clone(entropy)).unwrap();
    CertificateAuthority::open_or_create(
        ClusterName::new(CLUSTER).unwrap(),
        Arc::new(MemoryBackend::new(Arc::clone(&clock))),
        Arc::new(sealer),
        clock,
        Arc::clone(entropy),
    )
    .await
    .unwrap()
}

pub(crate) async fn host(
    ca: &CertificateAuthority,
    entropy: &Arc<dyn Entropy>,
    name: &str,
    role: HostRole,
    ttl: Duration,
) -> HostMaterial {
    let host =
        HostName { host_id: HostId::random(&**entropy).unwrap(), name: NodeName::new(name).unwrap(), role };
    let keys = HostMaterial::generate_keys(&**entropy).unwrap();
    let mut grant =
        danger::unchecked_host_grant(host.host_id, host.name.clone(), ca.cluster().clone(), role, ttl);
    grant.addresses = vec!["127.0.0.1".to_owned()];
    let subject = SubjectKeys { ssh: keys.0.public(), tls: keys.1.public() };
    let certificates = ca.issue_host(grant, &subject).await.unwrap();
    let credentials = HostCredentials { certificates, trust: ca.trust_bundle() };
    HostMaterial::from_credentials(host, keys, credentials).unwrap()
}

pub(crate) fn os_user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

pub(crate) fn private(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs a program to its end without holding up this test's tasks.
pub(crate) async fn run(mut command: Command) -> Output {
    let described = format!("{command:?}");
    let running = tokio::task::spawn_blocking(move || command.output().expect("the program runs"));
    match tokio::time::timeout(DEADLINE, running).await {
        Ok(output) => output.unwrap(),
        Err(_) => panic!("{described} did not end"),
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "").trim().to_owned()
}

#[track_caller]
pub(crate) fn assert_ok(output: &Output, stdout: &str) {
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), (stdout, ""));
}

pub(crate) fn script(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    private(&path, content);
    path
}
