//! What administrators asked for and did not get, and who they are, in the audit log.

use teleport_core::api::{
    AdminApi, ApiErrorKind, CreateToken, CreateUser, ResetUser, ResourceApi, SignHost, SignUser, SigningApi,
    UpdateUser,
};
use teleport_core::audit::EventKind;
use teleport_core::auth::policy::Operation;
use teleport_core::id::{HostRole, UserName};
use teleport_core::label::Labels;
use teleport_core::resource::{
    Lock, LockSpec, Metadata, Role, RoleSpec, Rule, Token, TokenSpec, User, UserSpec, Verb,
};
use teleport_core::secret::SecretString;
use teleport_core::testing::subject_keys;

use crate::cluster::Cluster;

#[tokio::test]
async fn a_change_that_was_not_made_is_in_the_audit_log() {
    let cluster = Cluster::new().await;
    // Nobody may sign by the built-in roles.
    let mut signer = Role::new("signer", RoleSpec::default());
    signer.spec.allow.rules = vec![Rule {
        resources: vec!["user_cert".to_owned(), "host_cert".to_owned()],
        verbs: vec![Verb::Create],
        condition: None,
    }];
    cluster.admin().create_role(signer).await.unwrap();
    let alice = cluster.as_user(&cluster.member("alice", &["editor", "signer"]).await);
    let name = |text: &str| UserName::new(text).unwrap();
    let create = || CreateUser { name: name("alice"), roles: Vec::new(), logins: Vec::new(), ttl: None };
    let token =
        || CreateToken { roles: Vec::new(), ttl: None, uses: None, labels: Labels::default(), value: None };
    let roles = || UpdateUser { roles: Some(Vec::new()), ..UpdateUser::default() };
    let unknown = cluster.host("web-1", HostRole::Node).host_id;
    let secret = "a-secret-that-nobody-shall-read";
    let role = |name: &str| Role::new(name, RoleSpec::default());
    let user = |name: &str| User::new(name, UserSpec::default());
    let described = Token::described(Metadata::default(), TokenSpec::default());
    let lock = Lock::new("l", LockSpec::default());
    let outcomes = [
        (Operation::CreateUser, alice.create_user(create()).await.map(drop), ApiErrorKind::Conflict, "alice"),
        (
            Operation::ResetUser,
            alice.reset_user(name("nobody"), ResetUser::default()).await.map(drop),
            ApiErrorKind::NotFound,
            "nobody",
        ),
        (
            Operation::UpdateUser,
            alice.update_user(name("nobody"), roles()).await,
            ApiErrorKind::NotFound,
            "nobody",
        ),
        (Operation::UnlockUser, alice.unlock_user(name("nobody")).await, ApiErrorKind::NotFound, "nobody"),
        (Operation::DeleteUser, alice.delete_user(name("nobody")).await, ApiErrorKind::NotFound, "nobody"),
        (Operation::CreateToken, alice.create_token(token()).await.map(drop), ApiErrorKind::Invalid, "role"),
        (
            Operation::DeleteToken,
            alice.delete_token(SecretString::new(secret)).await,
            ApiErrorKind::NotFound,
            "token",
        ),
        (
            Operation::DeleteNode,
            alice.delete_node(unknown).await,
            ApiErrorKind::NotFound,
            &unknown.to_string(),
        ),
        (
            Operation::CreateRole,
            alice.create_role(role("a b")).await.map(drop),
            ApiErrorKind::Invalid,
            "name",
        ),
        (
            Operation::ReplaceRole,
            alice.replace_role(role("nonesuch")).await.map(drop),
            ApiErrorKind::NotFound,
            "nonesuch",
        ),
        (
            Operation::DeleteRole,
            alice.delete_role("access".parse().unwrap()).await,
            ApiErrorKind::Invalid,
            "built in",
        ),
        (Operation::AddUser, alice.add_user(user("alice")).await.map(drop), ApiErrorKind::Conflict, "alice"),
        (
            Operation::ReplaceUser,
            alice.replace_user(user("nobody")).await.map(drop),
            ApiErrorKind::NotFound,
            "nobody",
        ),
        (
            Operation::ReplaceToken,
            alice.replace_token(described).await.map(drop),
            ApiErrorKind::Invalid,
            "metadata.expires",
        ),
        (
            Operation::CreateLock,
            alice.create_lock(lock.clone()).await.map(drop),
            ApiErrorKind::Invalid,
            "spec.target",
        ),
        (
            Operation::ReplaceLock,
            alice.replace_lock(lock).await.map(drop),
            ApiErrorKind::Invalid,
            "spec.target",
        ),
        (
            Operation::DeleteLock,
            alice.delete_lock("nonesuch".parse().unwrap()).await,
            ApiErrorKind::NotFound,
            "nonesuch",
        ),
        (
            Operation::SignUser,
            alice
                .sign_user(SignUser { user: name("nobody"), keys: subject_keys(1), ttl: None })
                .await
                .map(drop),
            ApiErrorKind::NotFound,
            "nobody",
        ),
        (
            Operation::SignHost,
            alice
                .sign_host(SignHost { names: vec!["*".to_owned()], key: subject_keys(1).ssh, ttl: None })
                .await
                .map(drop),
            ApiErrorKind::Invalid,
            "host name",
        ),
    ];
    // Every operation that the table calls administration is among them.
    let all: Vec<Operation> =
        Operation::ALL.iter().copied().filter(|operation| operation.administers()).collect();
    assert_eq!(outcomes.iter().map(|outcome| outcome.0).collect::<Vec<_>>(), all);
    let failures: Vec<_> =
        cluster.audit.events().into_iter().filter(|event| event.code == EventKind::ApiFailure).collect();
    assert_eq!(failures.len(), outcomes.len(), "one each");
    for ((operation, outcome, kind, says), event) in outcomes.into_iter().zip(failures) {
        assert_eq!(outcome.unwrap_err().kind(), kind, "{}", operation.name());
        assert_eq!(event.fields["operation"], operation.name());
        assert_eq!((event.user.as_deref(), event.success), (Some("alice"), Some(false)));
        let error = event.error.unwrap();
        assert!(error.contains(says) && !error.contains(secret), "{}: {error}", operation.name());
    }
    // Looking and being refused are other things.
    alice.role("nonesuch".parse().unwrap()).await.unwrap_err();
    let bob = cluster.as_user(&cluster.member("bob", &["access"]).await);
    bob.delete_user(name("nobody")).await.unwrap_err();
    assert_eq!(cluster.audit.count(EventKind::ApiFailure), all.len());
    assert_eq!(cluster.audit.count(EventKind::ApiDenied), 1);
}

#[tokio::test]
async fn what_is_done_on_the_auth_host_is_named_so() {
    let cluster = Cluster::new().await;
    let host = cluster.host("auth-1", HostRole::Auth);
    let request = CreateUser {
        name: UserName::new("alice").unwrap(),
        roles: Vec::new(),
        logins: Vec::new(),
        ttl: None,
    };
    cluster.as_host(&host).create_user(request).await.unwrap();
    let event = cluster.audit.last(EventKind::UserCreate).unwrap();
    assert_eq!(event.user.as_deref(), Some("auth host"));
    assert_eq!(event.server_hostname, Some(host.name.clone()), "which one, if there are several");
    assert!(UserName::new("auth host").is_err(), "no user is called so");
    // A node and a proxy are known by their ids.
    let node = cluster.host("web-1", HostRole::Node);
    cluster.as_host(&node).users().await.unwrap_err();
    let event = cluster.audit.last(EventKind::ApiDenied).unwrap();
    assert_eq!(event.user, Some(format!("{}.{}", node.host_id, node.cluster)));
}
