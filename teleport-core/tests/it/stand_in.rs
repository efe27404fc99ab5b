//! Proxies stand in for registered SSH servers, and for nobody else. Over the real authority: what it signs is what is asked about.

use std::sync::Arc;
use std::time::Duration;

use teleport_backend::memory::MemoryBackend;
use teleport_ca::CertificateAuthority;
use teleport_ca::seal::{MASTER_KEY_LEN, Sealer};
use teleport_core::api::{
    ActiveSessionApi, AdminApi, ApiErrorKind, AuditApi, CreateToken, JoinRequest, OpenSshLogin, PresenceApi,
    ProxyRecord, PublicApi, RecordingApi, RecordingQuery, ResourceApi, RunningSession, SessionReport,
    SessionReportApi, StandIn, StandInApi,
};
use teleport_core::audit::{AuditEvent, EventKind};
use teleport_core::auth::{AuthConfig, AuthHandle, AuthService, Caller, Ports};
use teleport_core::cert::danger::unchecked_user_grant;
use teleport_core::cert::{
    CertIssuer, CertRejected, HostCheck, HostIdentity, Identity, MAX_OPENSSH_LOGIN_TTL, UserCheck,
    verify_host, verify_user,
};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::{EntropyExt, SystemEntropy};
use teleport_core::id::{ClusterName, HostId, HostRole};
use teleport_core::recording::RecordingMeta;
use teleport_core::resource::{Lock, NodeKind, NodeRecord, Role};
use teleport_core::secret::SecretBytes;
use teleport_core::storage::{Backend, Key};
use teleport_core::testing::{
    ManualClock, MemoryAudit, MemoryRecordings, host_identity, recording_meta, subject_keys,
};

use crate::cluster::CLUSTER;

struct World {
    auth: AuthService,
    ca: Arc<CertificateAuthority>,
    clock: Arc<ManualClock>,
    audit: Arc<MemoryAudit>,
    backend: Arc<dyn Backend>,
    unique: std::sync::atomic::AtomicU64,
}

async fn authority(
    clock: &Arc<ManualClock>,
    backend: Arc<dyn Backend>,
) -> (CertificateAuthority, Arc<Sealer>) {
    let entropy = Arc::new(SystemEntropy::new());
    let master = SecretBytes::new(entropy.bytes::<MASTER_KEY_LEN>().unwrap());
    let sealer = Arc::new(Sealer::new(&master, entropy.clone()).unwrap());
    let name = ClusterName::new(CLUSTER).unwrap();
    let ca = CertificateAuthority::open_or_create(name, backend, sealer.clone(), clock.clone(), entropy);
    (ca.await.unwrap(), sealer)
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(clock.clone()));
        let (ca, sealer) = authority(&clock, backend.clone()).await;
        let (ca, audit) = (Arc::new(ca), Arc::new(MemoryAudit::new()));
        let ports = Ports {
            backend: backend.clone(),
            issuer: ca.clone(),
            sealer,
            recordings: Arc::new(MemoryRecordings::new()),
            audit: audit.clone(),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy::new()),
        };
        let auth = AuthService::new(ports, AuthConfig::new(ClusterName::new(CLUSTER).unwrap()));
        auth.bootstrap().await.unwrap();
        let world = Self { auth, ca, clock, audit, backend, unique: 1.into() };
        for (name, env) in [("dev", "dev"), ("ops", "prod")] {
            let role = serde_json::json!({
                "kind": "role", "version": "v1", "metadata": {"name": name},
                "spec": {"allow": {"logins": ["alice"], "node_labels": {"env": env}}},
            });
            let role: Role = serde_json::from_value(role).unwrap();
            world.admin().create_role(role).await.unwrap();
        }
        world
    }

    fn unique(&self) -> u64 {
        self.unique.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
    }

    fn admin(&self) -> AuthHandle {
        self.auth.acting_as(Caller::LocalAdmin)
    }

    fn host(&self, name: &str, role: HostRole) -> HostIdentity {
        let id = uuid::Uuid::from_u64_pair(0x1234_5678_4000_8000, self.unique()).to_string();
        host_identity(&id, name, CLUSTER, role, self.clock.now().saturating_add(Duration::from_secs(86_400)))
    }

    fn acting(&self, host: &HostIdentity) -> AuthHandle {
        let remote = "192.0.2.1:4711".parse().ok();
        self.auth.acting_as(Caller::Identity(Identity::Host(host.clone()), remote))
    }

    /// A host that has joined and announced itself.
    async fn node(&self, name: &str, labels: &str, kind: NodeKind) -> HostIdentity {
        let host = self.host(name, HostRole::Node);
        let token = CreateToken {
            roles: vec![HostRole::Node],
            ttl: None,
            uses: None,
            labels: labels.parse().unwrap(),
            value: None,
        };
        let request = JoinRequest {
            token: self.admin().create_token(token).await.unwrap().token,
            host_id: host.host_id,
            name: host.name.clone(),
            role: HostRole::Node,
            keys: subject_keys(self.unique()),
            addresses: Vec::new(),
            client_ip: None,
        };
        self.auth.acting_as(Caller::Anonymous { remote: None }).join(request).await.unwrap();
        let record = NodeRecord {
            host_id: host.host_id,
            sub_kind: kind,
            name: host.name.clone(),
            address: format!("198.51.100.{}:22", self.unique()),
            labels: Default::default(),
            proxy_ids: Vec::new(),
            version: String::new(),
        };
        self.acting(&host).announce_node(record).await.unwrap();
        host
    }

    /// A user's certificate, with all roles of this world if it names none.
    async fn certificate(&self, ca: &CertificateAuthority, role: &str, ttl: u64) -> String {
        let mut grant = unchecked_user_grant("alice".parse().unwrap(), Duration::from_secs(ttl));
        grant.roles = vec![role.parse().unwrap()];
        grant.logins = vec!["alice".parse().unwrap()];
        grant.permits.pty = true;
        grant.permits.port_forwarding = true;
        grant.permits.agent_forwarding = true;
        ca.sign_user_ssh(&grant, &subject_keys(self.unique()).ssh).await.unwrap().openssh
    }

    fn login(&self, node: &HostIdentity, certificate: &str) -> OpenSshLogin {
        OpenSshLogin {
            node: node.host_id,
            login: "alice".parse().unwrap(),
            certificate: certificate.to_owned(),
            client_ip: "203.0.113.5".parse().ok(),
            key: subject_keys(self.unique()).ssh,
        }
    }

    fn reason(&self) -> String {
        self.audit.last(EventKind::ApiDenied).unwrap().error.unwrap()
    }
}

#[tokio::test]
async fn only_a_proxy_stands_in_and_only_for_registered_servers() {
    let world = World::new().await;
    let server = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let node = world.node("web", "env=dev", NodeKind::Teleport).await;
    let proxy = world.host("proxy", HostRole::Proxy);
    let key = subject_keys(world.unique()).ssh;
    let ask = |host: &HostIdentity| StandIn { node: host.host_id, key: key.clone() };
    let certificate = world.certificate(&world.ca, "dev", 3600).await;

    // Not the nodes, and not even the server itself.
    for caller in [&node, &server] {
        let api = world.acting(caller);
        assert_eq!(api.stand_in(ask(&server)).await.unwrap_err().kind(), ApiErrorKind::Denied);
        let login = world.login(&server, &certificate);
        assert_eq!(api.openssh_login(login).await.unwrap_err().kind(), ApiErrorKind::Denied);
    }
    let api = world.acting(&proxy);
    // A node of ours decides for itself: nobody stands between it and its users.
    assert_eq!(api.stand_in(ask(&node)).await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert!(world.reason().contains("no registered SSH server"), "{}", world.reason());
    let login = world.login(&node, &certificate);
    assert_eq!(api.openssh_login(login).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let nobody = world.host("nobody", HostRole::Node);
    assert_eq!(api.stand_in(ask(&nobody)).await.unwrap_err().kind(), ApiErrorKind::NotFound);

    let shown = api.stand_in(ask(&server)).await.unwrap();
    let (fields, trust) = (world.ca.read(&shown.ssh).unwrap(), world.ca.trust_bundle());
    let now = world.clock.now();
    for name in ["db", "db.example.com", &server.host_id.to_string()] {
        let check = HostCheck { name, role: HostRole::Node, now };
        assert_eq!(verify_host(&fields, &trust, check).unwrap().host_id, server.host_id);
    }
    for (name, role) in [("web", HostRole::Node), ("db", HostRole::Proxy)] {
        assert!(verify_host(&fields, &trust, HostCheck { name, role, now }).is_err(), "{name}");
    }
    assert_eq!(fields.subject, key);

    // Not by what every host has, nor by a name that a node of ours has as well.
    let names = async |host: &HostIdentity| {
        let shown = api.stand_in(ask(host)).await.unwrap();
        world.ca.read(&shown.ssh).unwrap().principals
    };
    let id = server.host_id.to_string();
    assert!(names(&server).await.iter().any(|name| name == "db"));
    assert!(!names(&server).await.iter().any(|name| name == "localhost" || name == "127.0.0.1"));
    world.node("DB", "env=dev", NodeKind::Teleport).await;
    let all = names(&server).await;
    assert!(all.iter().all(|name| name.starts_with(&id) || name.starts_with("198.51.100.")), "{all:?}");

    world.admin().delete_node(server.host_id).await.unwrap();
    assert_eq!(api.stand_in(ask(&server)).await.unwrap_err().kind(), ApiErrorKind::NotFound);
    let login = world.login(&server, &certificate);
    assert_eq!(api.openssh_login(login).await.unwrap_err().kind(), ApiErrorKind::NotFound);
}

#[tokio::test]
async fn each_login_is_decided_by_the_users_own_certificate() {
    let world = World::new().await;
    let dev = world.node("dev-db", "env=dev", NodeKind::OpenSsh).await;
    let prod = world.node("prod-db", "env=prod", NodeKind::OpenSsh).await;
    let api = world.acting(&world.host("proxy", HostRole::Proxy));
    let certificate = world.certificate(&world.ca, "dev", 3600).await;

    let issued = api.openssh_login(world.login(&dev, &certificate)).await.unwrap();
    let (fields, trust) = (world.ca.read(&issued.ssh).unwrap(), world.ca.trust_bundle());
    assert_eq!((fields.key_id.as_str(), &fields.principals[..]), ("alice", &["alice".to_owned()][..]));
    let extensions: Vec<_> = fields.extensions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(extensions, ["permit-port-forwarding", "permit-pty"]);
    assert!(trust.openssh_ca.contains(&fields.authority));
    assert!(!trust.user_ca.contains(&fields.authority) && !trust.host_ca.contains(&fields.authority));
    let life = issued.valid_before.saturating_since(world.clock.now());
    assert!(life <= MAX_OPENSSH_LOGIN_TTL, "{life:?}");
    // Nothing of ours lets anybody in by it.
    let login = "alice".parse().unwrap();
    let check = UserCheck { login: Some(&login), peer: None, now: world.clock.now() };
    assert_eq!(verify_user(&fields, &trust, check).unwrap_err(), CertRejected::Authority);
    let told = world.audit.last(EventKind::CertCreate).unwrap();
    assert_eq!((told.user.as_deref(), told.fields["cert_type"].as_str()), (Some("alice"), Some("openssh")));
    assert_eq!(told.fields["host_id"], dev.host_id.to_string());

    // What the role allows on dev it does not allow on prod, whatever the proxy says.
    let refused = async |request: OpenSshLogin| {
        let error = api.openssh_login(request).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ApiErrorKind::Denied, "access denied"));
        world.reason()
    };
    let why = refused(world.login(&prod, &certificate)).await;
    assert!(why.contains(&prod.host_id.to_string()), "{why}");
    let ops = world.certificate(&world.ca, "ops", 3600).await;
    api.openssh_login(world.login(&prod, &ops)).await.unwrap();
    let root = OpenSshLogin { login: "root".parse().unwrap(), ..world.login(&dev, &certificate) };
    let why = refused(root).await;
    assert!(why.contains("principals"), "{why}");

    // Certificates of others, of hosts, of the wrong authority, changed ones, none.
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new(world.clock.clone()));
    let (foreign, _) = authority(&world.clock, backend).await;
    let foreign = world.certificate(&foreign, "dev", 3600).await;
    let host = api.stand_in(StandIn { node: dev.host_id, key: subject_keys(7).ssh }).await.unwrap().ssh;
    let mut changed = certificate.clone().into_bytes();
    let at = changed.len() - 10;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for (what, certificate) in [
        ("foreign", foreign.as_str()),
        ("host", &host),
        ("by the same authority as logins", &issued.ssh),
        ("changed", &changed),
        ("none", ""),
        ("no certificate", "ssh-ed25519 AAAA"),
    ] {
        let why = refused(world.login(&dev, certificate)).await;
        assert!(why.contains("alice"), "{what}: {why}");
    }

    let lock = serde_json::from_value(serde_json::json!({"target": {"user": "alice"}})).unwrap();
    world.admin().create_lock(Lock::new("alice", lock)).await.unwrap();
    let why = refused(world.login(&dev, &certificate)).await;
    assert!(why.contains("lock"), "{why}");
    world.admin().delete_lock("alice".parse().unwrap()).await.unwrap();
    api.openssh_login(world.login(&dev, &certificate)).await.unwrap();

    // No longer than the user's own, and not behind its end.
    world.clock.advance(Duration::from_secs(3600 - 90));
    let last = api.openssh_login(world.login(&dev, &certificate)).await.unwrap();
    assert!(last.valid_before <= world.clock.now().saturating_add(Duration::from_secs(90)));
    world.clock.advance(Duration::from_secs(91));
    let why = refused(world.login(&dev, &certificate)).await;
    assert!(why.contains("expired"), "{why}");
}

#[tokio::test]
async fn a_proxy_is_believed_about_registered_servers_alone() {
    let world = World::new().await;
    let server = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let node = world.node("web", "env=dev", NodeKind::Teleport).await;
    let proxy = world.host("proxy", HostRole::Proxy);
    let api = world.acting(&proxy);
    let session = recording_meta().session;
    let event = |kind: EventKind, host: &HostIdentity| {
        AuditEvent::new(kind).user("alice").session(session).server(host.host_id, &host.name)
    };
    let error = api.emit_events(vec![event(EventKind::SessionStart, &node)]).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied);
    // What a proxy may say of itself it may not say as somebody else.
    api.emit_events(vec![event(EventKind::AuthFailure, &node)]).await.unwrap();
    assert_eq!(world.audit.last(EventKind::AuthFailure).unwrap().server_id, Some(proxy.host_id));

    api.emit_events(vec![event(EventKind::SessionStart, &server)]).await.unwrap();
    let told = world.audit.last(EventKind::SessionStart).unwrap();
    assert_eq!((told.server_id, told.server_hostname), (Some(server.host_id), Some(server.name.clone())));
    assert_eq!(told.fields["proxy_id"], proxy.host_id.to_string());

    let meta = |host: &HostIdentity| RecordingMeta {
        host_id: host.host_id,
        host_name: host.name.clone(),
        started: world.clock.now(),
        ..recording_meta()
    };
    assert_eq!(api.create_recording(meta(&node)).await.unwrap_err().kind(), ApiErrorKind::Denied);
    api.create_recording(meta(&server)).await.unwrap();
    api.put_recording_part(session, 0, bytes::Bytes::from_static(b"part")).await.unwrap();
    let other = world.acting(&node);
    let part = bytes::Bytes::from_static(b"forged");
    assert_eq!(other.put_recording_part(session, 1, part).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let running = |node: Option<HostId>| SessionReport {
        page: 0,
        sessions: vec![RunningSession {
            id: session,
            node,
            user: "alice".parse().unwrap(),
            roles: Vec::new(),
            login: "alice".parse().unwrap(),
            started: world.clock.now(),
            command: None,
            terminal: None,
            recorded: true,
            participants: Vec::new(),
        }],
    };
    let of_node = api.report_sessions(running(Some(node.host_id))).await.unwrap_err();
    assert_eq!(of_node.kind(), ApiErrorKind::Denied);
    // Nor may a node say it of the server.
    let error = other.report_sessions(running(Some(server.host_id))).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied);
    api.report_sessions(running(Some(server.host_id))).await.unwrap();
    let active = world.admin().active_sessions().await.unwrap();
    assert_eq!((active[0].host_id, &active[0].host_name), (server.host_id, &server.name));
    // Also when the server was removed meanwhile: the session ended by it is still to be told.
    world.admin().delete_node(server.host_id).await.unwrap();
    api.complete_recording(session, 1).await.unwrap();
    api.emit_events(vec![event(EventKind::SessionEnd, &server)]).await.unwrap();
    assert_eq!(world.audit.last(EventKind::SessionEnd).unwrap().server_id, Some(server.host_id));
}

fn session_on(world: &World, node: HostId, n: u128) -> RunningSession {
    RunningSession {
        id: uuid::Uuid::from_u128(0x6f0e_1a3c_7d1f_4b5e_9a53_0000_0000_0000 + n).to_string().parse().unwrap(),
        node: Some(node),
        user: "alice".parse().unwrap(),
        roles: Vec::new(),
        login: "alice".parse().unwrap(),
        started: world.clock.now(),
        command: None,
        terminal: None,
        recorded: true,
        participants: Vec::new(),
    }
}

fn lasting(mut host: HostIdentity) -> HostIdentity {
    host.expires = Timestamp::MAX;
    host
}

/// A server whose certificate ended is a registered server for as long as it is listed, and the proxy is believed about it.
#[tokio::test]
async fn a_server_is_known_as_one_for_as_long_as_it_is_listed() {
    let world = World::new().await;
    let server = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let node = world.node("web", "env=dev", NodeKind::Teleport).await;
    let api = world.acting(&lasting(world.host("proxy", HostRole::Proxy)));
    // Behind what is remembered of a host, and before a server leaves the list.
    world.clock.advance(Duration::from_secs(29 * 86_400));
    let member = |host: &HostIdentity| {
        let key = Key::new(&format!("hosts/{}", host.host_id)).unwrap();
        let backend = world.backend.clone();
        async move { backend.get(&key).await.unwrap().is_some() }
    };
    assert!(!member(&server).await, "the test has to wait for longer");
    let ask = |host: &HostIdentity| StandIn { node: host.host_id, key: subject_keys(9).ssh };
    api.stand_in(ask(&server)).await.unwrap();
    api.report_sessions(SessionReport::of_node(vec![session_on(&world, server.host_id, 1)])).await.unwrap();
    assert_eq!(world.admin().active_sessions().await.unwrap().len(), 1);
    // Of a node of ours nothing is left by then; what is unknown is nobody's.
    assert_eq!(api.stand_in(ask(&node)).await.unwrap_err().kind(), ApiErrorKind::NotFound);
    // Then it is gone from the list as well: what is said of it counts no more, and what else is said does.
    let other = world.node("db2", "env=dev", NodeKind::OpenSsh).await;
    world.clock.advance(Duration::from_secs(2 * 86_400));
    assert_eq!(api.stand_in(ask(&server)).await.unwrap_err().kind(), ApiErrorKind::NotFound);
    let both = vec![session_on(&world, server.host_id, 1), session_on(&world, other.host_id, 2)];
    api.report_sessions(SessionReport::of_node(both)).await.unwrap();
    let active = world.admin().active_sessions().await.unwrap();
    assert_eq!(active.iter().map(|active| active.host_id).collect::<Vec<_>>(), [other.host_id]);
}

/// A host that was one and is the other: the last that it said of itself counts.
#[tokio::test]
async fn a_node_that_was_a_server_is_not_stood_in_for() {
    let world = World::new().await;
    let host = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let api = world.acting(&world.host("proxy", HostRole::Proxy));
    let ask = || StandIn { node: host.host_id, key: subject_keys(9).ssh };
    let certificate = world.certificate(&world.ca, "dev", 3600).await;
    api.stand_in(ask()).await.unwrap();
    let announce = async |sub_kind| {
        let record = NodeRecord {
            host_id: host.host_id,
            sub_kind,
            name: host.name.clone(),
            address: "198.51.100.77:22".to_owned(),
            labels: Default::default(),
            proxy_ids: Vec::new(),
            version: String::new(),
        };
        world.acting(&host).announce_node(record).await.unwrap();
    };
    announce(NodeKind::Teleport).await;
    assert_eq!(api.stand_in(ask()).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let login = world.login(&host, &certificate);
    assert_eq!(api.openssh_login(login).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let sessions = vec![session_on(&world, host.host_id, 1)];
    assert_eq!(
        api.report_sessions(SessionReport::of_node(sessions)).await.unwrap_err().kind(),
        ApiErrorKind::Denied
    );
    announce(NodeKind::OpenSsh).await;
    api.stand_in(ask()).await.unwrap();
    api.openssh_login(world.login(&host, &certificate)).await.unwrap();
}

/// It is the proxy that delivers what happened on a server.
#[tokio::test]
async fn a_recording_is_lost_with_its_proxy_and_not_with_its_server() {
    let world = World::new().await;
    let server = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let proxy = lasting(world.host("proxy", HostRole::Proxy));
    let api = world.acting(&proxy);
    let announce = || {
        api.announce_proxy(ProxyRecord {
            host_id: proxy.host_id,
            name: proxy.name.clone(),
            web_address: "198.51.100.200:3080".to_owned(),
            ssh_address: "198.51.100.200:3023".to_owned(),
            peer_address: None,
            tunnels: 0,
            version: String::new(),
        })
    };
    announce().await.unwrap();
    let meta = RecordingMeta {
        host_id: server.host_id,
        host_name: server.name.clone(),
        started: world.clock.now(),
        ..recording_meta()
    };
    let session = meta.session;
    api.create_recording(meta).await.unwrap();
    let lost = world.auth.lost_uploads();
    let abandoned = async || {
        let query = RecordingQuery { from: Some(Timestamp::EPOCH), ..RecordingQuery::default() };
        let listed = world.admin().recordings(query).await.unwrap();
        (listed[0].abandoned, listed[0].completed.is_some())
    };
    // The proxy lives, and has nothing to deliver yet; of the server nothing is ever heard.
    for _ in 0..5 {
        world.clock.advance(Duration::from_secs(60));
        announce().await.unwrap();
        lost.sweep().await.unwrap();
        assert_eq!(abandoned().await, (false, false));
    }
    world.admin().delete_node(server.host_id).await.unwrap();
    lost.sweep().await.unwrap();
    lost.sweep().await.unwrap();
    assert_eq!(abandoned().await, (false, false), "the server was removed; the proxy still has all of it");
    api.put_recording_part(session, 0, bytes::Bytes::from_static(b"part")).await.unwrap();
    // Nothing more of the proxy.
    world.clock.advance(Duration::from_secs(101));
    lost.sweep().await.unwrap();
    assert_eq!(abandoned().await, (true, false));
    api.put_recording_part(session, 1, bytes::Bytes::from_static(b"more")).await.unwrap();
    world.admin().delete_node(proxy.host_id).await.unwrap();
    lost.sweep().await.unwrap();
    assert_eq!(abandoned().await, (true, true));
}

/// A proxy may have more sessions than fit into a report. A node has one page.
#[tokio::test]
async fn a_proxy_tells_of_its_sessions_in_pages() {
    let world = World::new().await;
    let server = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let node = world.node("web", "env=dev", NodeKind::Teleport).await;
    let proxy = world.host("proxy", HostRole::Proxy);
    let api = world.acting(&proxy);
    let page = |page: u16, first: u128, count: usize| SessionReport {
        page,
        sessions: (first..).take(count).map(|n| session_on(&world, server.host_id, n)).collect(),
    };
    let count = async || world.admin().active_sessions().await.unwrap().len();
    api.report_sessions(page(0, 0, SessionReport::MAX)).await.unwrap();
    api.report_sessions(page(1, 5000, 10)).await.unwrap();
    assert_eq!(count().await, SessionReport::MAX + 10);
    // Each replaces itself.
    api.report_sessions(page(1, 5000, 3)).await.unwrap();
    api.report_sessions(page(0, 0, 2)).await.unwrap();
    assert_eq!(count().await, 5);
    api.report_sessions(page(0, 0, 0)).await.unwrap();
    assert_eq!(count().await, 3);
    let invalid = async |api: &AuthHandle, report: SessionReport| {
        assert_eq!(api.report_sessions(report).await.unwrap_err().kind(), ApiErrorKind::Invalid);
    };
    invalid(&api, page(SessionReport::MAX_PAGES, 0, 1)).await;
    invalid(&api, page(0, 0, SessionReport::MAX + 1)).await;
    invalid(&world.acting(&node), SessionReport { page: 1, sessions: Vec::new() }).await;
    // With the proxy all of them go.
    api.report_sessions(page(SessionReport::MAX_PAGES - 1, 9000, 1)).await.unwrap();
    assert_eq!(count().await, 4);
    world.admin().delete_node(proxy.host_id).await.unwrap();
    assert_eq!(count().await, 0);
}

/// What binds a certificate to an address counts for the address of the user, as the proxy saw it.
#[tokio::test]
async fn a3_a_bound_certificate_is_good_for_a_server_from_its_address_alone() {
    let world = World::new().await;
    let server = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let api = world.acting(&world.host("proxy", HostRole::Proxy));
    let mut grant = unchecked_user_grant("alice".parse().unwrap(), Duration::from_secs(3600));
    grant.roles = vec!["dev".parse().unwrap()];
    grant.logins = vec!["alice".parse().unwrap()];
    grant.source_addresses = vec!["203.0.113.5".to_owned()];
    let certificate = world.ca.sign_user_ssh(&grant, &subject_keys(5).ssh).await.unwrap().openssh;
    api.openssh_login(world.login(&server, &certificate)).await.unwrap();
    for client_ip in ["203.0.113.6".parse().ok(), None] {
        let request = OpenSshLogin { client_ip, ..world.login(&server, &certificate) };
        assert_eq!(
            api.openssh_login(request).await.unwrap_err().kind(),
            ApiErrorKind::Denied,
            "{client_ip:?}"
        );
        assert!(world.reason().contains("address"), "{}", world.reason());
    }
}

/// Locks of the proxy and of the server, and a role that cannot be read.
#[tokio::test]
async fn locks_of_hosts_and_damaged_roles_count_for_each_login() {
    let world = World::new().await;
    let server = world.node("db", "env=dev", NodeKind::OpenSsh).await;
    let proxy = world.host("proxy", HostRole::Proxy);
    let api = world.acting(&proxy);
    let certificate = world.certificate(&world.ca, "dev", 3600).await;
    api.openssh_login(world.login(&server, &certificate)).await.unwrap();
    for host in [&server, &proxy] {
        let target = serde_json::json!({"target": {"node": host.host_id.to_string()}});
        world.admin().create_lock(Lock::new("host", serde_json::from_value(target).unwrap())).await.unwrap();
        let error = api.openssh_login(world.login(&server, &certificate)).await.unwrap_err();
        assert!(
            matches!(error.kind(), ApiErrorKind::Denied | ApiErrorKind::Evicted),
            "{:?} {}",
            error.kind(),
            host.name
        );
        world.admin().delete_lock("host".parse().unwrap()).await.unwrap();
    }
    api.openssh_login(world.login(&server, &certificate)).await.unwrap();

    let key = Key::new("roles/dev").unwrap();
    let batch = teleport_core::storage::Batch::new().put(
        key,
        teleport_core::storage::Condition::Exists,
        b"{damaged".to_vec(),
        None,
    );
    world.backend.commit(batch).await.unwrap();
    let error = api.openssh_login(world.login(&server, &certificate)).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Denied);
}
