//! Users whose documents expire: no certificate outlasts them, and nothing of them comes to life again.

use std::time::Duration;

use teleport_core::api::{
    AcceptInvite, AdminApi, ApiErrorKind, CreateUser, IdentityApi, PublicApi, ReissueRequest, ResetUser,
    ResourceApi,
};
use teleport_core::audit::EventKind;
use teleport_core::id::UserName;
use teleport_core::resource::{User, UserSpec};
use teleport_core::secret::SecretString;
use teleport_core::testing::subject_keys;

use crate::cluster::{Cluster, PASSWORD};

fn alice() -> UserName {
    "alice".parse().unwrap()
}

/// From now on alice ends after so many seconds.
async fn ends_after(cluster: &Cluster, seconds: u64) {
    let mut user = cluster.admin().user(alice()).await.unwrap();
    user.metadata.expires = Some(cluster.now().saturating_add(Duration::from_secs(seconds)));
    cluster.admin().replace_user(user).await.unwrap();
}

#[tokio::test]
async fn no_certificate_outlasts_its_user() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    let identity = cluster.user("alice", &["access"], &["root"]);
    let login = async || {
        cluster.next_step();
        let answer = cluster.web().login(cluster.login("alice", PASSWORD, cluster.code(&secret))).await?;
        Ok::<_, teleport_core::api::ApiError>(answer.certificates.valid_before)
    };
    let reissue = async |ttl| {
        let request = ReissueRequest { keys: subject_keys(cluster.unique()), ttl };
        let answer = cluster.as_user(&identity).reissue_user(request).await?;
        Ok::<_, teleport_core::api::ApiError>(answer.certificates.valid_before)
    };
    ends_after(&cluster, 630).await;
    let end = cluster.now().saturating_add(Duration::from_secs(630));
    assert_eq!(login().await.unwrap(), end);
    assert_eq!(reissue(None).await.unwrap(), end);
    assert_eq!(reissue(Some(100)).await.unwrap(), cluster.now().saturating_add(Duration::from_secs(100)));
    // The shortest certificate would be too long.
    ends_after(&cluster, 59).await;
    assert_eq!(reissue(None).await.unwrap_err().kind(), ApiErrorKind::Denied);
    ends_after(&cluster, 89).await;
    assert_eq!(login().await.unwrap_err().kind(), ApiErrorKind::Denied);
    let event = cluster.audit.last(EventKind::UserLoginFailure).unwrap();
    assert!(event.error.unwrap().contains("the user ends"));
}

/// The link of a user who is gone does not set the password of the next one of that name.
#[tokio::test]
async fn an_invite_ends_with_its_user() {
    let cluster = Cluster::new().await;
    let document = || {
        let mut user = User::new("alice", UserSpec::default());
        user.spec.roles = vec!["access".parse().unwrap()];
        user
    };
    let create = || CreateUser {
        name: alice(),
        roles: vec!["access".parse().unwrap()],
        logins: Vec::new(),
        ttl: None,
    };
    for by_document in [true, false] {
        cluster.admin().add_user(document()).await.unwrap();
        ends_after(&cluster, 600).await;
        let link = cluster.admin().reset_user(alice(), ResetUser::default()).await.unwrap();
        let info = cluster.web().invite(link.token.clone()).await.unwrap();
        cluster.clock.advance(Duration::from_secs(601));
        if by_document {
            cluster.admin().add_user(document()).await.unwrap();
        } else {
            cluster.admin().create_user(create()).await.unwrap();
        }
        let accept = AcceptInvite {
            token: link.token,
            password: SecretString::new(PASSWORD),
            code: cluster.code(&info.secret),
            client_ip: None,
        };
        let error = cluster.web().accept_invite(accept).await.unwrap_err();
        assert_eq!(error.kind(), ApiErrorKind::NotFound, "by document: {by_document}");
        cluster.admin().delete_user(alice()).await.unwrap();
    }
}
