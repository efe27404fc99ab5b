//! D6, I4: secrets that are planted in a whole life of a cluster are found nowhere.

use teleport_core::api::{
    AcceptInvite, AccountApi, AddMfaDevice, AdminApi, ApiErrorKind, ChangePassword, CreateToken, CreateUser,
    JoinRequest, PublicApi, ResetUser,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::Caller;
use teleport_core::cert::Identity;
use teleport_core::id::{HostRole, NodeName, RoleName};
use teleport_core::label::Labels;
use teleport_core::resource::User;
use teleport_core::secret::SecretString;
use teleport_core::storage::{BackendExt, Prefix, Repo, RepoError};
use teleport_core::testing::subject_keys;
use teleport_core::token::{ForJoin, StaticToken, TokenHash};

use crate::cluster::{Cluster, PASSWORD};

#[tokio::test]
async fn d6_no_secret_in_storage_audit_or_debug() {
    let cluster = Cluster::new().await;
    let (admin, public) = (cluster.admin(), cluster.web());
    let mut secrets = vec![PASSWORD.to_owned()];
    let mut shown = Vec::new();

    let user = CreateUser {
        name: "alice".parse().unwrap(),
        roles: vec![RoleName::new("access").unwrap()],
        logins: Vec::new(),
        ttl: None,
    };
    let invite = admin.create_user(user).await.unwrap();
    let info = public.invite(invite.token.clone()).await.unwrap();
    secrets.extend([invite.token.expose().to_owned(), info.secret.expose().to_owned()]);
    shown.extend([format!("{invite:?}"), format!("{info:?}")]);
    let accept = AcceptInvite {
        token: invite.token.clone(),
        password: SecretString::new(PASSWORD),
        code: cluster.code(&info.secret),
        client_ip: None,
    };
    shown.push(format!("{accept:?}"));
    public.accept_invite(accept).await.unwrap();
    cluster.next_step();
    let login = cluster.login("alice", PASSWORD, cluster.code(&info.secret));
    shown.push(format!("{login:?}"));
    public.login(login).await.unwrap();
    // Another device and another password.
    cluster.next_step();
    let account = cluster.as_user(&cluster.user("alice", &["access"], &["root"]));
    let begun = account.begin_mfa_device("phone".parse().unwrap()).await.unwrap();
    secrets.extend([begun.ticket.expose().to_owned(), begun.secret.expose().to_owned()]);
    let add = AddMfaDevice {
        ticket: begun.ticket.clone(),
        new_code: cluster.code(&begun.secret),
        password: SecretString::new(PASSWORD),
        code: cluster.code(&info.secret),
    };
    shown.push(format!("{begun:?} {add:?}"));
    account.add_mfa_device(add).await.unwrap();
    cluster.next_step();
    let change = ChangePassword {
        password: SecretString::new(PASSWORD),
        code: cluster.code(&begun.secret),
        new_password: SecretString::new("a-planted-new-password"),
    };
    secrets.push("a-planted-new-password".to_owned());
    shown.push(format!("{change:?}"));
    account.change_password(change).await.unwrap();
    let wrong = cluster.login("alice", "a-planted-wrong-password", SecretString::new("123456"));
    secrets.push("a-planted-wrong-password".to_owned());
    shown.push(format!("{:?}", public.login(wrong).await));
    // What is stored now, and after the reset: then an invite is open.
    let mut stored = cluster.backend.list(&Prefix::root()).await.unwrap();
    secrets.push(
        admin
            .reset_user("alice".parse().unwrap(), ResetUser::default())
            .await
            .unwrap()
            .token
            .expose()
            .to_owned(),
    );

    let token = CreateToken {
        roles: vec![HostRole::Node],
        ttl: None,
        uses: Some(5),
        labels: Labels::default(),
        value: Some(SecretString::new("a-planted-join-token")),
    };
    shown.push(format!("{token:?}"));
    secrets.push("a-planted-join-token".to_owned());
    let made = admin.create_token(token).await.unwrap();
    shown.push(format!("{made:?}"));
    for token in [made.token, SecretString::new("a-planted-wrong-token")] {
        let request = JoinRequest {
            token,
            host_id: cluster.host("n", HostRole::Node).host_id,
            name: NodeName::new("n").unwrap(),
            role: HostRole::Node,
            keys: subject_keys(cluster.unique()),
            addresses: Vec::new(),
            client_ip: None,
        };
        shown.push(format!("{request:?} {:?}", public.join(request.clone()).await));
    }
    secrets.push("a-planted-wrong-token".to_owned());
    shown.extend([
        format!("{:?}", cluster.auth),
        format!("{:?}", cluster.ports.sealer),
        format!("{:?}", admin),
    ]);

    stored.extend(cluster.backend.list(&Prefix::root()).await.unwrap());
    for collection in ["passwords/", "totp/", "invites/", "tokens/", "hosts/", "lockouts/"] {
        assert!(
            stored.iter().any(|item| item.key.as_str().starts_with(collection)),
            "nothing in {collection}"
        );
    }
    for item in &stored {
        shown.push(format!("{} {}", item.key, String::from_utf8_lossy(&item.value)));
    }
    for event in cluster.audit.events() {
        shown.push(serde_json::to_string(&event).unwrap());
    }
    for secret in &secrets {
        for text in &shown {
            assert!(!text.contains(secret.as_str()), "a secret is in {text}");
        }
    }
}

#[tokio::test]
async fn i5_a_deleted_user_leaves_nothing() {
    let cluster = Cluster::new().await;
    cluster.sign_up("alice").await;
    let wrong = cluster.login("alice", "wrong", SecretString::new("000000"));
    cluster.web().login(wrong).await.unwrap_err();
    cluster.sign_up("alice2").await;
    let others = cluster.backend.list(&Prefix::root()).await.unwrap();
    let invite = cluster.admin().reset_user("alice".parse().unwrap(), ResetUser::default()).await.unwrap();
    cluster.admin().delete_user("alice".parse().unwrap()).await.unwrap();
    let mut left = cluster.backend.list(&Prefix::root()).await.unwrap();
    // That there was somebody of this name, until the last certificate has ended.
    left.retain(|item| item.key.as_str() != "withdrawn/alice");
    for item in &left {
        let text = format!("{} {}", item.key, String::from_utf8_lossy(&item.value));
        assert!(!text.contains("alice") || text.contains("alice2"), "{text}");
    }
    assert_eq!(others.iter().filter(|item| item.key.as_str().ends_with("/alice2")).count(), 3);
    assert_eq!(left.iter().filter(|item| item.key.as_str().ends_with("/alice2")).count(), 3);
    assert!(cluster.web().invite(invite.token).await.is_err());
    // A link that is not good any more is in the log.
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(event.fields["operation"], "invite");
    assert_eq!(event.error.as_deref(), Some("the invite is unknown, used or over"));
}

/// I4: a copied record does not speak for the one to whose key it was copied.
#[tokio::test]
async fn i4_a_record_at_the_key_of_another_is_not_read() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("mallory").await;
    cluster.sign_up("alice").await;
    let users = Repo::<User>::new(cluster.backend.clone());
    assert_eq!(users.get("alice").await.unwrap().unwrap().record.metadata.name, "alice");
    for collection in ["users", "passwords", "totp"] {
        let key = |name: &str| format!("{collection}/{name}").parse().unwrap();
        let own = cluster.backend.get(&key("mallory")).await.unwrap().unwrap();
        cluster.backend.put(&key("alice"), own.value, None).await.unwrap();
    }
    assert!(matches!(users.get("alice").await, Err(RepoError::Corrupt { .. })));
    let listed = users.list().await.unwrap();
    assert_eq!(listed.iter().map(|user| user.record.metadata.name.as_str()).collect::<Vec<_>>(), ["mallory"]);
    cluster.next_step();
    let stolen = cluster.login("alice", PASSWORD, cluster.code(&secret));
    cluster.web().login(stolen).await.unwrap_err();
    assert_eq!(cluster.issuer.issued(), 0);
    let own = cluster.login("mallory", PASSWORD, cluster.code(&secret));
    cluster.web().login(own).await.unwrap();
}

/// D6: who reads the log, or the list of tokens, learns nothing by which a secret could be guessed.
#[tokio::test]
async fn d6_no_part_of_a_hash_where_people_look() {
    let weak = SecretString::new("abc");
    let cluster = Cluster::with(|config| {
        config.static_tokens = vec![StaticToken::new(vec![HostRole::Node], &weak).unwrap()];
    })
    .await;
    let (admin, public) = (cluster.admin(), cluster.web());
    let chosen = SecretString::new("correct-horse-battery");
    let request = CreateToken {
        roles: vec![HostRole::Node],
        ttl: None,
        uses: None,
        labels: Labels::default(),
        value: Some(chosen.clone()),
    };
    let made = admin.create_token(request).await.unwrap();
    let join = |token: &SecretString| JoinRequest {
        token: token.clone(),
        host_id: cluster.host("n", HostRole::Node).host_id,
        name: NodeName::new("n").unwrap(),
        role: HostRole::Node,
        keys: subject_keys(cluster.unique()),
        addresses: Vec::new(),
        client_ip: None,
    };
    let token_id = |kind| cluster.audit.last(kind).unwrap().fields.get("token_id").cloned();
    public.join(join(&weak)).await.unwrap();
    assert_eq!(token_id(EventKind::InstanceJoin).unwrap(), "static-1");
    public.join(join(&chosen)).await.unwrap();
    assert_eq!(token_id(EventKind::InstanceJoin).unwrap(), *made.info.id);
    let mistaken = SecretString::new("hunter2");
    public.join(join(&mistaken)).await.unwrap_err();
    assert_eq!(token_id(EventKind::InstanceJoinFailure), None);
    let listed = admin.tokens().await.unwrap();
    assert_eq!(listed.iter().map(|token| token.id.as_str()).collect::<Vec<_>>(), ["static-1", &made.info.id]);
    let fixed = admin.delete_token(SecretString::new("static-1")).await.unwrap_err();
    assert_eq!(fixed.kind(), ApiErrorKind::Invalid);
    admin.delete_token(SecretString::new(&made.info.id[..8])).await.unwrap();
    assert_eq!(token_id(EventKind::JoinTokenDelete).unwrap(), *made.info.id);

    let mut shown = serde_json::to_string(&listed).unwrap();
    for event in cluster.audit.events() {
        shown.push_str(&serde_json::to_string(&event).unwrap());
    }
    for secret in [&weak, &chosen, &mistaken] {
        let digits = TokenHash::<ForJoin>::of(secret).to_hex()[..8].to_owned();
        assert!(!shown.contains(&digits), "a part of a hash is shown");
    }
}

/// D6: a password in the field of the name is not written down; names are.
#[tokio::test]
async fn d6_a_password_typed_as_name_is_not_in_the_log() {
    let cluster = Cluster::new().await;
    cluster.sign_up("alice-of-the-north").await;
    for (typed, written) in [
        ("Correct Horse!", "(invalid)"),
        ("correct-horse-battery", "(unknown)"),
        ("Correct-Horse-Battery", "(unknown)"),
        ("alice-of-the-north", "alice-of-the-north"),
        (" Alice-of-the-North", "alice-of-the-north"),
        ("admin", "admin"),
    ] {
        let login = cluster.login(typed, "wrong", SecretString::new("000000"));
        cluster.web().login(login).await.unwrap_err();
        let event = cluster.audit.last(EventKind::UserLoginFailure).unwrap();
        assert_eq!(event.user.as_deref(), Some(written), "{typed}");
        let text = serde_json::to_string(&event).unwrap().to_ascii_lowercase();
        assert!(!text.contains("horse"), "{text}");
    }
}

/// An invite that is accepted at a proxy is accepted from where the user sits; nobody but a proxy can say where that is.
#[tokio::test]
async fn accepting_an_invite_is_audited_with_the_clients_address() {
    let cluster = Cluster::new().await;
    let proxy = Identity::Host(cluster.host("proxy-1", HostRole::Proxy));
    let proxy = cluster.auth.acting_as(Caller::Identity(proxy, "192.0.2.1:4711".parse().ok()));
    let said = "203.0.113.9".parse().ok();
    for (name, by, address) in [("alice", &proxy, "203.0.113.9:0")] {
        let user = CreateUser {
            name: name.parse().unwrap(),
            roles: vec![RoleName::new("access").unwrap()],
            logins: Vec::new(),
            ttl: None,
        };
        let invite = cluster.admin().create_user(user).await.unwrap();
        let info = by.invite(invite.token.clone()).await.unwrap();
        let accept = AcceptInvite {
            token: invite.token,
            password: SecretString::new(PASSWORD),
            code: cluster.code(&info.secret),
            client_ip: said,
        };
        by.accept_invite(accept.clone()).await.unwrap();
        by.accept_invite(accept).await.unwrap_err();
        for kind in [EventKind::UserPasswordChange, EventKind::MfaAdd, EventKind::ApiDenied] {
            let event = cluster.audit.last(kind).unwrap();
            assert_eq!(event.remote.map(|at| at.to_string()).as_deref(), Some(address), "{event:?}");
        }
    }
}
