//! Who may call, as TLS and the certificates decide it.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use teleport_core::api::{
    AdminApi as _, ApiErrorKind, IdentityApi as _, PresenceApi as _, PublicApi as _, RenewRequest,
    TrustApi as _,
};
use teleport_core::cert::{Permits, Subject, TLS_SUBJECT_OID, Traits};
use teleport_core::id::{HostRole, NodeName, RoleName};
use teleport_core::resource::NodeRecord;
use teleport_ssh::keys::TlsKeyPair;
use teleport_ssh::rpc::{ClientIdentity, UserCredentials};

use super::world::{World, authority, cluster, host, soon, user};

fn record(material: &teleport_ssh::identity::HostMaterial) -> NodeRecord {
    NodeRecord {
        host_id: material.host_id,
        name: material.name.clone(),
        address: "127.0.0.1:3022".to_owned(),
        labels: teleport_core::label::Labels::default(),
        sub_kind: teleport_core::resource::NodeKind::Teleport,
        proxy_ids: Vec::new(),
        version: "0".to_owned(),
    }
}

#[tokio::test]
async fn without_a_certificate_only_the_public_part_answers() {
    let world = World::start().await;
    let nobody = world.client(ClientIdentity::Anonymous(world.trust()));
    assert_eq!(nobody.ping().await.unwrap().cluster_name, cluster());
    for error in [
        nobody.users().await.unwrap_err(),
        nobody.nodes().await.unwrap_err(),
        nobody.keep_alive().await.unwrap_err(),
        nobody.watch_nodes().await.err().unwrap(),
    ] {
        assert_eq!(error.kind(), ApiErrorKind::Denied, "{error:?}");
    }
}

#[tokio::test]
async fn hosts_and_users_are_who_their_certificates_say() {
    let world = World::start().await;
    let (node, handle) = world.as_host(HostRole::Node, "web-1").await;
    node.announce_node(record(&handle.current())).await.unwrap();
    node.keep_alive().await.unwrap();
    assert_eq!(node.trust().await.unwrap(), world.trust());
    assert_eq!(node.users().await.unwrap_err().kind(), ApiErrorKind::Denied);
    // Not another node's record.
    let other = world.host(HostRole::Node, "web-2").await;
    assert_eq!(node.announce_node(record(&other)).await.unwrap_err().kind(), ApiErrorKind::Denied);
    let editor = world.as_user("alice", &["editor"]).await;
    assert_eq!(editor.users().await.unwrap().len(), 1);
    let nodes = world.as_user("bob", &["access"]).await.nodes().await.unwrap();
    assert_eq!(nodes.len(), 1);
}

#[tokio::test]
async fn c4_a_users_certificate_opens_nothing_that_is_a_hosts() {
    let world = World::start().await;
    let node = world.host(HostRole::Node, "web-1").await;
    // Named exactly like a host, with roles that sound like services.
    for name in [node.host_id.to_string(), "node".to_owned(), "proxy".to_owned()] {
        let client = world.as_user(&name, &["access", "node", "proxy", "auth"]).await;
        let keys = teleport_core::testing::subject_keys(1);
        for error in [
            client.renew_host(RenewRequest { keys, addresses: Vec::new() }).await.unwrap_err(),
            client.announce_node(record(&node)).await.unwrap_err(),
            client.keep_alive().await.unwrap_err(),
            client.watch_nodes().await.err().unwrap(),
        ] {
            assert_eq!(error.kind(), ApiErrorKind::Denied, "{error:?}");
        }
    }
}

/// A certificate authority that a test bends.
struct Forge {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Forge {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "example.com");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn leaf(
        &self,
        common_name: &str,
        subject: &Subject,
        usages: Vec<ExtendedKeyUsagePurpose>,
        is_ca: IsCa,
    ) -> (Vec<u8>, TlsKeyPair) {
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = usages;
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2036, 1, 1);
        let subject = serde_json::to_vec(subject).unwrap();
        params.custom_extensions = vec![CustomExtension::from_oid_content(&TLS_SUBJECT_OID, subject)];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().to_vec(), TlsKeyPair::from_pkcs8(&key.serialize_der()).unwrap())
    }

    /// A world whose auth service trusts this authority as well, for hosts or for users.
    fn trusted_by(&self, world: &World, for_hosts: bool) {
        let mut trust = world.trust();
        let authority = teleport_core::cert::X509Authority::from_der(self.issuer.der().to_vec());
        if for_hosts { &mut trust.host_tls_ca } else { &mut trust.user_tls_ca }.push(authority);
        world.identity.replace_trust(&trust);
    }
}

fn host_subject(role: HostRole) -> Subject {
    Subject::Host { cluster: cluster(), name: NodeName::new("web-1").unwrap(), role }
}

fn user_subject() -> Subject {
    Subject::User {
        cluster: cluster(),
        logins: Vec::new(),
        login_ip: None,
        mfa_device: None,
        permits: Permits::default(),
        roles: vec![RoleName::new("editor").unwrap()],
        source_addresses: Vec::new(),
        extensions: Vec::new(),
        traits: Traits::new(),
    }
}

const HOST_ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

async fn outcome(world: &World, certificate: Vec<u8>, tls: TlsKeyPair) -> Result<(), ApiErrorKind> {
    let credentials = UserCredentials { tls, certificate, trust: world.trust() };
    let client = world.client(ClientIdentity::User(credentials));
    soon("an answer", client.trust()).await.map(drop).map_err(|error| error.kind())
}

#[tokio::test]
async fn what_is_not_an_identity_does_not_get_in() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let world = World::start().await;
    let hosts = Forge::new();
    hosts.trusted_by(&world, true);
    let node = host_subject(HostRole::Node);
    let both = || vec![ClientAuth, ServerAuth];
    // The forge works: this one is accepted.
    let (certificate, key) = hosts.leaf(HOST_ID, &node, both(), IsCa::ExplicitNoCa);
    assert_eq!(outcome(&world, certificate, key).await, Ok(()));
    type Case<'a> = (&'a str, (Vec<u8>, TlsKeyPair));
    let authority_key = TlsKeyPair::from_pkcs8(&hosts.issuer.key().serialize_der()).unwrap();
    let cases: Vec<Case<'_>> = vec![
        ("for servers only", hosts.leaf(HOST_ID, &node, vec![ServerAuth], IsCa::ExplicitNoCa)),
        ("without a usage", hosts.leaf(HOST_ID, &node, Vec::new(), IsCa::ExplicitNoCa)),
        (
            "an authority as client",
            hosts.leaf(HOST_ID, &node, both(), IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("the authority itself", (hosts.issuer.der().to_vec(), authority_key)),
        ("a user by the hosts' authority", hosts.leaf("alice", &user_subject(), both(), IsCa::ExplicitNoCa)),
        ("a host without an id", hosts.leaf("web-1", &node, both(), IsCa::ExplicitNoCa)),
        ("by an authority nobody knows", Forge::new().leaf(HOST_ID, &node, both(), IsCa::ExplicitNoCa)),
        (
            "nonsense",
            (
                b"not a certificate".to_vec(),
                TlsKeyPair::generate(&teleport_core::entropy::SystemEntropy::new()).unwrap(),
            ),
        ),
    ];
    for (what, (certificate, key)) in cases {
        assert_eq!(outcome(&world, certificate, key).await, Err(ApiErrorKind::Unavailable), "{what}");
    }
}

#[tokio::test]
async fn a10_a_host_by_the_users_authority_is_nobody() {
    use ExtendedKeyUsagePurpose::ClientAuth;
    let world = World::start().await;
    let users = Forge::new();
    users.trusted_by(&world, false);
    let (certificate, key) = users.leaf("alice", &user_subject(), vec![ClientAuth], IsCa::ExplicitNoCa);
    assert_eq!(outcome(&world, certificate, key).await, Ok(()));
    for role in HostRole::ALL {
        let (certificate, key) =
            users.leaf(HOST_ID, &host_subject(role), vec![ClientAuth], IsCa::ExplicitNoCa);
        assert_eq!(outcome(&world, certificate, key).await, Err(ApiErrorKind::Unavailable), "{role}");
    }
}

#[tokio::test]
async fn c4_certificates_of_another_cluster_of_the_same_name_do_not_get_in() {
    let world = World::start().await;
    let other = authority(&world.clock).await;
    let mut foreign = user(&other, "alice", &["editor"], Duration::from_secs(3600)).await;
    foreign.trust = world.trust();
    let error = soon("a refusal", world.client(ClientIdentity::User(foreign)).users()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable);
    let mut node = host(&other, HostRole::Node, "web-1").await;
    node.trust = world.trust();
    let handle = teleport_ssh::identity::HostIdentityHandle::new(node);
    let error = soon("a refusal", world.client(ClientIdentity::Host(handle)).keep_alive()).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let world = World::start().await;
    let client = world.as_user("alice", &["editor"]).await;
    client.users().await.unwrap();
    world.clock.advance(Duration::from_secs(3599));
    client.users().await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    // Over the connection that is still open; and afterwards a new one is refused.
    assert_eq!(client.users().await.unwrap_err().kind(), ApiErrorKind::Denied);
    assert_eq!(soon("a refusal", client.users()).await.unwrap_err().kind(), ApiErrorKind::Unavailable);
}

#[tokio::test]
async fn a_connection_ends_with_the_trust_it_was_made_by() {
    let world = World::start().await;
    let client = world.as_user("alice", &["editor"]).await;
    client.users().await.unwrap();
    let mut trust = world.trust();
    trust.user_tls_ca.clear();
    world.identity.replace_trust(&trust);
    assert_eq!(client.users().await.unwrap_err().kind(), ApiErrorKind::Denied);
    // Hosts are not concerned.
    let (node, _) = world.as_host(HostRole::Node, "web-1").await;
    node.trust().await.unwrap();
}

#[tokio::test]
async fn clients_believe_nobody_but_the_auth_service() {
    let world = World::start().await;
    // A node's certificate in the auth service's place: the right authority, the wrong service.
    let usurper = world.host(HostRole::Node, "web-1").await;
    let genuine = world.identity.current();
    world.identity.replace(usurper);
    let client = world.as_user("alice", &["editor"]).await;
    assert_eq!(soon("a refusal", client.users()).await.unwrap_err().kind(), ApiErrorKind::Unavailable);
    // A proxy has the services' name as well, and is not the auth service.
    world.identity.replace(world.host(HostRole::Proxy, "proxy-1").await);
    assert_eq!(soon("a refusal", client.users()).await.unwrap_err().kind(), ApiErrorKind::Unavailable);
    world.identity.replace(teleport_ssh::identity::HostMaterial::clone(&genuine));
    soon("an answer", client.users()).await.unwrap();
}
