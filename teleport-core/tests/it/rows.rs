//! Rows of the threat list that are about everything at once: who can make whom more (C5), lists (C6), names (C10), what is signed
//! (D3), and what the audit log is told of those who have nothing.

use std::time::Duration;

use teleport_core::access::{AccessChecker, RoleSet};
use teleport_core::api::{
    AdminApi, ApiError, ApiErrorKind, CreateToken, CreateUser, IdentityApi, JoinRequest, LoginRequest,
    PresenceApi, PublicApi, ReissueRequest, RenewRequest, ResetUser, ResourceApi, SignHost, SignUser,
    SigningApi, TrustApi, UpdateUser,
};
use teleport_core::audit::EventKind;
use teleport_core::id::{ClusterName, HostRole, NodeName, OsLogin, RoleName, SessionId, UserName};
use teleport_core::label::Labels;
use teleport_core::resource::{
    Metadata, NodeRecord, Role, RoleSpec, Rule, Token, TokenSpec, User, UserSpec, Verb,
};
use teleport_core::secret::SecretString;
use teleport_core::testing::subject_keys;

use crate::cluster::Cluster;

fn rule(resources: &[&str], verbs: &[Verb]) -> Rule {
    let resources = resources.iter().map(|&kind| kind.to_owned()).collect();
    Rule { resources, verbs: verbs.to_vec(), condition: None }
}

/// A role that may look at everything, and change nothing that decides who may do what.
async fn looker(cluster: &Cluster) {
    let mut role = Role::new("looker", RoleSpec::default());
    role.spec.allow.logins = vec!["{{internal.logins}}".to_owned()];
    role.spec.allow.rules = vec![
        rule(&["user", "role", "token"], &[Verb::List, Verb::Read]),
        rule(&["event", "session", "node", "cert_authority"], &[Verb::Any]),
    ];
    cluster.admin().create_role(role).await.unwrap();
}

/// Row C5: who may write neither users nor roles nor tokens becomes nobody else and nothing more, whichever way is tried; also
/// not about the own user. Each attempt is in the audit log.
#[tokio::test]
async fn c5_nobody_becomes_more_without_the_right_to_write_users_roles_or_tokens() {
    let cluster = Cluster::new().await;
    looker(&cluster).await;
    cluster.member("admin", &["editor"]).await;
    let mallory = cluster.as_user(&cluster.member("mallory", &["looker", "access", "auditor"]).await);
    let admin = cluster.admin();
    let (me, editor) = (UserName::new("mallory").unwrap(), RoleName::new("editor").unwrap());
    let before = (
        admin.user(me.clone()).await.unwrap(),
        admin.roles().await.unwrap(),
        admin.users().await.unwrap().len(),
        admin.tokens().await.unwrap().len(),
    );
    let token = |roles: Vec<HostRole>| CreateToken {
        roles,
        ttl: None,
        uses: None,
        labels: Labels::default(),
        value: Some(SecretString::new("0123456789abcdef0123456789abcdef")),
    };
    let create = CreateUser {
        name: UserName::new("second").unwrap(),
        roles: vec![editor.clone()],
        logins: vec![OsLogin::new("root").unwrap()],
        ttl: None,
    };
    let more = UpdateUser { roles: Some(vec![editor.clone()]), ..UpdateUser::default() };
    let logins = UpdateUser { logins: Some(vec![OsLogin::new("root").unwrap()]), ..UpdateUser::default() };
    let mut own = before.0.clone();
    own.spec.roles.push(editor.clone());
    let mut wider = mallory.role(RoleName::new("looker").unwrap()).await.unwrap();
    wider.spec.allow.rules.push(rule(&["*"], &[Verb::Any]));
    let fresh = Role::new("fresh", RoleSpec::default());
    let described = Token::described(Metadata::default(), TokenSpec::default());
    let sign_user = SignUser { user: UserName::new("admin").unwrap(), keys: subject_keys(1), ttl: None };
    let sign_host = SignHost { names: vec!["web".to_owned()], key: subject_keys(1).ssh, ttl: None };
    let outcomes: Vec<(&str, Result<(), ApiError>)> = vec![
        ("create_user", mallory.create_user(create).await.map(drop)),
        ("add_user", mallory.add_user(User::new("third", own.spec.clone())).await.map(drop)),
        ("update_user", mallory.update_user(me.clone(), more).await),
        ("update_user", mallory.update_user(me.clone(), logins).await),
        ("replace_user", mallory.replace_user(own).await.map(drop)),
        (
            "reset_user",
            mallory.reset_user(UserName::new("admin").unwrap(), ResetUser::default()).await.map(drop),
        ),
        ("unlock_user", mallory.unlock_user(me.clone()).await),
        ("delete_user", mallory.delete_user(UserName::new("admin").unwrap()).await),
        ("create_role", mallory.create_role(fresh).await.map(drop)),
        ("replace_role", mallory.replace_role(wider).await.map(drop)),
        ("delete_role", mallory.delete_role(editor).await),
        ("create_token", mallory.create_token(token(vec![HostRole::Node])).await.map(drop)),
        ("create_token", mallory.create_token(token(vec![HostRole::Proxy])).await.map(drop)),
        ("replace_token", mallory.replace_token(described).await.map(drop)),
        ("delete_token", mallory.delete_token(SecretString::new("x")).await),
        ("secrets", mallory.secrets().await.map(drop)),
        ("sign_user", mallory.sign_user(sign_user).await.map(drop)),
        ("sign_host", mallory.sign_host(sign_host).await.map(drop)),
    ];
    let denied = |events: Vec<teleport_core::audit::AuditEvent>| {
        let of_api = events.into_iter().filter(|event| event.code == EventKind::ApiDenied);
        of_api.map(|event| event.fields["operation"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let tried: Vec<_> = outcomes.iter().map(|(operation, _)| (*operation).to_owned()).collect();
    assert_eq!(denied(cluster.audit.events()), tried);
    for (operation, outcome) in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), ApiErrorKind::Denied, "{operation}");
    }
    let after = (
        admin.user(me).await.unwrap(),
        admin.roles().await.unwrap(),
        admin.users().await.unwrap().len(),
        admin.tokens().await.unwrap().len(),
    );
    assert_eq!((before.0.spec, before.1, before.2, before.3), (after.0.spec, after.1, after.2, after.3));
}

/// Row C5, the other side: each of the three rights is the right to administer the cluster, as the threat model says; so it says
/// what is true.
#[tokio::test]
async fn c5_who_writes_users_or_roles_is_an_administrator() {
    let cluster = Cluster::new().await;
    for (name, kind) in [("of-users", "user"), ("of-roles", "role")] {
        let mut role = Role::new(name, RoleSpec::default());
        role.spec.allow.rules = vec![rule(&[kind], &[Verb::Any])];
        cluster.admin().create_role(role).await.unwrap();
    }
    let me = UserName::new("helper").unwrap();
    let helper = cluster.as_user(&cluster.member("helper", &["of-users"]).await);
    let roles = Some(vec!["of-users".parse().unwrap(), "editor".parse().unwrap()]);
    helper.update_user(me.clone(), UpdateUser { roles, ..UpdateUser::default() }).await.unwrap();
    // Not by the certificate of before.
    assert_eq!(helper.roles().await.unwrap_err().kind(), ApiErrorKind::Denied);
    let writer = cluster.as_user(&cluster.member("writer", &["of-roles"]).await);
    let mut own = writer.role(RoleName::new("of-roles").unwrap()).await.unwrap();
    own.spec.allow.rules.push(rule(&["user"], &[Verb::Any]));
    writer.replace_role(own).await.unwrap();
    writer.users().await.unwrap();
}

/// Row C6: what is listed is what can be read one by one, and there is no other way to a list.
#[tokio::test]
async fn c6_a_list_is_what_can_be_read_one_by_one() {
    let cluster = Cluster::new().await;
    looker(&cluster).await;
    let mut some = Role::new("some", RoleSpec::default());
    some.spec.allow.node_labels = serde_json::from_str(r#"{"env":["prod","test"]}"#).unwrap();
    some.spec.deny.node_labels = serde_json::from_str(r#"{"secret":"yes"}"#).unwrap();
    some.spec.allow.logins = vec!["root".to_owned()];
    cluster.admin().create_role(some.clone()).await.unwrap();
    for (name, labels) in
        [("a", "env=prod"), ("b", "env=test"), ("c", "env=prod,secret=yes"), ("d", "env=stage"), ("e", "")]
    {
        let host = cluster.host(name, HostRole::Node);
        let record = NodeRecord {
            host_id: host.host_id,
            name: host.name.clone(),
            address: "192.0.2.7:3022".to_owned(),
            labels: labels.parse().unwrap(),
            sub_kind: teleport_core::resource::NodeKind::Teleport,
            proxy_ids: Vec::new(),
            version: "1".to_owned(),
        };
        cluster.as_host(&host).announce_node(record).await.unwrap();
    }
    let all = cluster.admin().nodes().await.unwrap();
    let roles: RoleSet = cluster.admin().roles().await.unwrap().into();
    let mut seen = Vec::new();
    for held in [&["some"][..], &["access"], &["some", "access"], &["editor"], &[]] {
        let name = format!("viewer-{}", cluster.unique());
        let viewer = cluster.member(&name, held).await;
        let api = cluster.as_user(&viewer);
        let listed: Vec<_> = api.nodes().await.unwrap().into_iter().map(|node| node.record.name).collect();
        let checker = AccessChecker::for_identity(&viewer, &roles);
        // Who may list nodes as an administrator sees all of them.
        let all_of_them = checker.check_rule("node", Verb::List).is_ok();
        let visible = all.iter().filter(|node| all_of_them || checker.can_see(&node.record));
        let mut visible: Vec<_> = visible.map(|node| node.record.name.clone()).collect();
        let mut sorted = listed.clone();
        sorted.sort();
        visible.sort();
        assert_eq!(sorted, visible, "{held:?}");
        seen.push(listed.len());
        // A stream would tell of all.
        assert_eq!(api.watch_nodes().await.err().unwrap().kind(), ApiErrorKind::Denied, "{held:?}");
        assert_eq!(api.watch_access().await.err().unwrap().kind(), ApiErrorKind::Denied, "{held:?}");
        // Users and roles, as lists, as documents and one by one: all or nothing.
        let (users, documents) = (api.users().await, api.user_documents().await);
        let one = api.user(viewer.user.clone()).await;
        assert_eq!(users.is_ok(), held.contains(&"editor"), "{held:?}");
        assert_eq!((documents.is_ok(), one.is_ok()), (users.is_ok(), users.is_ok()), "{held:?}");
        let (list, one) = (api.roles().await, api.role(RoleName::new("some").unwrap()).await);
        assert_eq!((list.is_ok(), one.is_ok()), (users.is_ok(), users.is_ok()), "{held:?}");
        let (tokens, documents) = (api.tokens().await, api.token_documents().await);
        assert_eq!((tokens.is_ok(), documents.is_ok()), (users.is_ok(), users.is_ok()), "{held:?}");
    }
    assert_eq!(seen, [2, 5, 4, 5, 0], "the roles differ in what they show");
    // A node sees itself, and no other.
    let node = cluster.host("a", HostRole::Node);
    assert!(cluster.as_host(&node).nodes().await.unwrap().is_empty());
}

/// Row C10: a name has one spelling. What looks like another one is none, in every kind of name; so it is never another record and
/// never another counter.
#[test]
fn c10_what_looks_like_a_name_is_none() {
    let long = "a".repeat(256);
    for odd in [
        "Alice ",
        " alice",
        "alice\n",
        "ali ce",
        "alice\0",
        "al\u{200b}ice",
        "alice\u{feff}",
        "\u{202e}ecila",
        "alic\u{e9}",
        "alice\u{301}",
        "\u{ff41}lice",
        "\u{430}lice",
        "../alice",
        "..%2falice",
        "..",
        "alice/../bob",
        "alice\\bob",
        "alice,root",
        "*",
        "",
        long.as_str(),
    ] {
        assert!(UserName::new(odd).is_err(), "a user {odd:?}");
        assert!(RoleName::new(odd).is_err(), "a role {odd:?}");
        assert!(OsLogin::new(odd).is_err(), "a login {odd:?}");
        assert!(NodeName::new(odd).is_err(), "a node {odd:?}");
        assert!(ClusterName::new(odd).is_err(), "a cluster {odd:?}");
        assert!(odd.parse::<SessionId>().is_err(), "a session {odd:?}");
    }
    assert!(UserName::new("Alice").is_err(), "users have no capitals");
    // One id, one spelling.
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    assert!(id.parse::<SessionId>().is_ok());
    for odd in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"), format!("urn:uuid:{id}")] {
        assert!(odd.parse::<SessionId>().is_err(), "{odd}");
    }
}

/// Row C10: the records of documents are named by the same rule, whoever writes them.
#[tokio::test]
async fn c10_no_document_has_a_name_that_looks_like_another() {
    let cluster = Cluster::new().await;
    for odd in ["Alice", "alice ", "al\u{200b}ice", "alice\u{301}", "..%2f", "../alice"] {
        let user = User::new(odd, UserSpec::default());
        assert_eq!(
            cluster.admin().add_user(user).await.unwrap_err().kind(),
            ApiErrorKind::Invalid,
            "{odd:?}"
        );
    }
    for odd in ["access ", "acc\u{200b}ess", "access\u{301}", "..%2f", "../access"] {
        let role = Role::new(odd, RoleSpec::default());
        assert_eq!(
            cluster.admin().create_role(role).await.unwrap_err().kind(),
            ApiErrorKind::Invalid,
            "{odd:?}"
        );
    }
}

/// Row D3: nothing is signed for whoever lacks what the way to it demands. (That no other way compiles is shown at
/// [`UserGrant`](teleport_core::cert::UserGrant), [`HostGrant`](teleport_core::cert::HostGrant) and
/// [`Admission`](teleport_core::token::Admission).)
#[tokio::test]
async fn d3_nothing_is_signed_without_authorisation() {
    let cluster = Cluster::new().await;
    let host = cluster.host("web-1", HostRole::Node);
    let alice = cluster.member("alice", &["access", "editor", "auditor"]).await;
    let mut expired = alice.clone();
    expired.expires = cluster.now();
    let mut foreign = alice.clone();
    foreign.cluster = ClusterName::new("other.example").unwrap();
    let mut stale = host.clone();
    stale.expires = cluster.now();
    let before = cluster.issuer.issued();
    let everybody = [
        ("anonymous", cluster.anonymous()),
        ("a proxy", cluster.web()),
        ("a node", cluster.as_host(&host)),
        ("an expired node", cluster.as_host(&stale)),
        ("alice", cluster.as_user(&alice)),
        ("alice, late", cluster.as_user(&expired)),
        ("alice of elsewhere", cluster.as_user(&foreign)),
        ("somebody who does not exist", cluster.as_user(&cluster.user("ghost", &["editor"], &["root"]))),
    ];
    for (who, api) in everybody {
        let login = LoginRequest {
            user: "alice".to_owned(),
            password: SecretString::new("not the password"),
            code: SecretString::new("000000"),
            keys: subject_keys(1),
            ttl: None,
            client_ip: None,
        };
        let join = JoinRequest {
            token: SecretString::new("0".repeat(32)),
            host_id: host.host_id,
            name: NodeName::new("web-1").unwrap(),
            role: HostRole::Node,
            keys: subject_keys(1),
            addresses: Vec::new(),
            client_ip: None,
        };
        let sign_user = SignUser { user: alice.user.clone(), keys: subject_keys(1), ttl: None };
        let sign_host = SignHost { names: vec!["web".to_owned()], key: subject_keys(1).ssh, ttl: None };
        let mut refused = vec![
            ("login", api.login(login).await.map(drop)),
            ("join", api.join(join).await.map(drop)),
            ("sign_user", api.sign_user(sign_user).await.map(drop)),
            ("sign_host", api.sign_host(sign_host).await.map(drop)),
        ];
        if who != "a node" && who != "a proxy" {
            let renew = RenewRequest { keys: subject_keys(1), addresses: Vec::new() };
            refused.push(("renew_host", api.renew_host(renew).await.map(drop)));
        }
        if who != "alice" {
            let reissue = ReissueRequest { keys: subject_keys(1), ttl: None };
            refused.push(("reissue_user", api.reissue_user(reissue).await.map(drop)));
        }
        for (operation, outcome) in refused {
            assert_eq!(outcome.unwrap_err().kind(), ApiErrorKind::Denied, "{operation} as {who}");
        }
    }
    assert_eq!(cluster.issuer.issued(), before, "nothing was signed");
    let reissue = ReissueRequest { keys: subject_keys(1), ttl: None };
    cluster.as_user(&alice).reissue_user(reissue).await.unwrap();
    assert_eq!(cluster.issuer.issued(), before + 1, "what is authorised is");
}

/// A certificate that is about to end is refused with a hint, and in the audit log like every refusal.
#[tokio::test]
async fn a_certificate_that_is_not_exchanged_is_in_the_audit_log() {
    let cluster = Cluster::new().await;
    let mut alice = cluster.member("alice", &["access"]).await;
    alice.expires = cluster.now().saturating_add(Duration::from_secs(30));
    let request = ReissueRequest { keys: subject_keys(1), ttl: None };
    let error = cluster.as_user(&alice).reissue_user(request).await.unwrap_err();
    assert!(error.message().contains("log in again"), "{error}");
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(event.error.as_deref(), Some("the certificate ends too soon"));
}

/// Whoever has nothing can fill the audit log with nothing but a number; whoever has a token is written down every time.
#[tokio::test]
async fn a_flood_of_joins_without_a_token_is_a_number_in_the_audit_log() {
    let cluster = Cluster::new().await;
    let join = |token: SecretString, role| JoinRequest {
        token,
        host_id: cluster.host("web-1", HostRole::Node).host_id,
        name: NodeName::new("web-1").unwrap(),
        role,
        keys: subject_keys(1),
        addresses: Vec::new(),
        client_ip: None,
    };
    let failures = || {
        let events = cluster.audit.events();
        events.into_iter().filter(|event| event.code == EventKind::InstanceJoinFailure).collect::<Vec<_>>()
    };
    let flood = async |count: usize| {
        for _ in 0..count {
            let guess = join(SecretString::new("0".repeat(32)), HostRole::Node);
            cluster.anonymous().join(guess).await.unwrap_err();
        }
    };
    flood(500).await;
    assert_eq!(failures().len(), 30);
    assert!(failures().iter().all(|event| !event.fields.contains_key("more_before")));
    let token = CreateToken {
        roles: vec![HostRole::Node],
        ttl: None,
        uses: None,
        labels: Labels::default(),
        value: None,
    };
    let token = cluster.admin().create_token(token).await.unwrap().token;
    for _ in 0..50 {
        cluster.anonymous().join(join(token.clone(), HostRole::Proxy)).await.unwrap_err();
    }
    assert_eq!(failures().len(), 80);
    cluster.clock.advance(Duration::from_secs(60));
    flood(2).await;
    let told = failures();
    assert_eq!(told.len(), 82);
    assert_eq!(told[80].fields["more_before"], 470);
    assert!(!told[81].fields.contains_key("more_before"));
}
