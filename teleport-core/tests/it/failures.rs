//! When ports fail: nothing is given away, nothing pretends to have happened.

use std::sync::Arc;

use teleport_core::api::{AdminApi, ApiErrorKind, CreateToken, IdentityApi, PublicApi, ReissueRequest};
use teleport_core::auth::{AuthService, Caller, Ports};
use teleport_core::id::HostRole;
use teleport_core::label::Labels;
use teleport_core::testing::{NoEntropy, subject_keys};

use crate::cluster::{Cluster, PASSWORD};

#[tokio::test]
async fn what_cannot_be_audited_is_not_answered_with_success() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    cluster.next_step();
    cluster.audit.set_broken(true);
    let login = cluster.login("alice", PASSWORD, cluster.code(&secret));
    assert_eq!(cluster.web().login(login).await.unwrap_err().kind(), ApiErrorKind::Unavailable);
    let alice = cluster.user("alice", &["access"], &["root"]);
    let request = ReissueRequest { keys: subject_keys(1), ttl: None };
    let error = cluster.as_user(&alice).reissue_user(request).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable);
    // A refusal needs no log.
    assert_eq!(cluster.as_user(&alice).users().await.unwrap_err().kind(), ApiErrorKind::Denied);
    cluster.audit.set_broken(false);
    cluster.next_step();
    let login = cluster.login("alice", PASSWORD, cluster.code(&secret));
    assert!(cluster.web().login(login).await.is_ok());
}

#[tokio::test]
async fn without_randomness_no_secret_is_made() {
    let cluster = Cluster::new().await;
    let ports = Ports { entropy: Arc::new(NoEntropy), ..cluster.ports.clone() };
    let auth = AuthService::new(ports, cluster.auth.config().clone());
    let request = CreateToken {
        roles: vec![HostRole::Node],
        ttl: None,
        uses: None,
        labels: Labels::default(),
        value: None,
    };
    let error = auth.acting_as(Caller::LocalAdmin).create_token(request).await.unwrap_err();
    assert_eq!(error.kind(), ApiErrorKind::Unavailable);
    assert!(cluster.admin().tokens().await.unwrap().is_empty());
}

#[tokio::test]
async fn without_storage_nobody_gets_in() {
    let cluster = Cluster::new().await;
    let secret = cluster.sign_up("alice").await;
    cluster.next_step();
    cluster.backend.close().await;
    let login = cluster.login("alice", PASSWORD, cluster.code(&secret));
    assert_eq!(cluster.web().login(login).await.unwrap_err().kind(), ApiErrorKind::Unavailable);
    assert_eq!(cluster.issuer.issued(), 0);
}
