//! D6, I4: secrets that are planted in a whole life of a cluster are found nowhere.

use teleport_core::api::{AcceptInvite, AdminApi, CreateToken, CreateUser, JoinRequest, PublicApi};
use teleport_core::audit::EventKind;
use teleport_core::id::{HostRole, NodeName, RoleName};
use teleport_core::label::Labels;
use teleport_core::resource::User;
use teleport_core::secret::SecretString;
use teleport_core::storage::{BackendExt, Prefix, Repo, RepoError};
use teleport_core::testing::subject_keys;

use crate::cluster::{Cluster, PASSWORD};

#[tokio::test]
async fn d6_no_secret_in_storage_audit_or_debug() {
    let cluster = Cluster::new().await;
    let (admin, public) = (cluster.admin(), cluster.anonymous());
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
    };
    shown.push(format!("{accept:?}"));
    public.accept_invite(accept).await.unwrap();
    cluster.next_step();
    let login = cluster.login("alice", PASSWORD, cluster.code(&info.secret));
    shown.push(format!("{login:?}"));
    public.login(login).await.unwrap();
    let wrong = cluster.login("alice", "a-planted-wrong-password", SecretString::new("123456"));
    secrets.push("a-planted-wrong-password".to_owned());
    shown.push(format!("{:?}", public.login(wrong).await));
    // What is stored now, and after the reset: then an invite is open.
    let mut stored = cluster.backend.list(&Prefix::root()).await.unwrap();
    secrets.push(admin.reset_user("alice".parse().unwrap()).await.unwrap().token.expose().to_owned());

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
    cluster.anonymous().login(wrong).await.unwrap_err();
    cluster.sign_up("alice2").await;
    let others = cluster.backend.list(&Prefix::root()).await.unwrap();
    let invite = cluster.admin().reset_user("alice".parse().unwrap()).await.unwrap();
    cluster.admin().delete_user("alice".parse().unwrap()).await.unwrap();
    let left = cluster.backend.list(&Prefix::root()).await.unwrap();
    for item in &left {
        let text = format!("{} {}", item.key, String::from_utf8_lossy(&item.value));
        assert!(!text.contains("alice") || text.contains("alice2"), "{text}");
    }
    assert_eq!(others.iter().filter(|item| item.key.as_str().ends_with("/alice2")).count(), 3);
    assert_eq!(left.iter().filter(|item| item.key.as_str().ends_with("/alice2")).count(), 3);
    assert!(cluster.anonymous().invite(invite.token).await.is_err());
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
    cluster.anonymous().login(stolen).await.unwrap_err();
    assert_eq!(cluster.issuer.issued(), 0);
    let own = cluster.login("mallory", PASSWORD, cluster.code(&secret));
    cluster.anonymous().login(own).await.unwrap();
}
