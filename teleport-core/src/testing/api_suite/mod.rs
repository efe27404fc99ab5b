//! The suite that every implementation of the API must pass: the service in process, and its client over the wire.
//!
//! An implementation writes an [`ApiFixture`] and calls [`all`] (or the parts, for a test each). The suite needs no control of
//! the clock and leaves nothing behind that a second run on the same cluster would stumble over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "the suite fails by panicking"
)]

mod account;
mod connections;
mod documents;
mod events;
mod hosts;
mod policy;
mod recordings;
mod users;

use std::sync::Arc;
use std::time::Duration;

pub use self::account::{
    a_locked_user_is_unlocked, a_user_changes_the_password, a_user_has_several_devices,
    invites_are_in_the_list_of_tokens, the_last_device_is_not_removed, users_are_updated,
};
pub use self::connections::places_belong_to_their_node;
pub use self::documents::{
    locks_are_written_under_their_revision, roles_are_written_under_their_revision,
    tokens_are_changed_without_their_secret, users_are_written_under_their_revision,
};
pub use self::events::{events_carry_who_reports_them, sessions_are_reported_by_their_own_host};
pub use self::hosts::{
    a_host_id_belongs_to_its_keys, a_token_admits_as_often_as_it_says, nodes_come_and_go,
    proxies_are_in_the_status, tokens_are_listed_without_secrets, watchers_see_changes,
};
pub use self::policy::{CallTarget, call, the_policy_table_holds};
pub use self::recordings::recordings_belong_to_their_host_and_user;
pub use self::users::{
    a_derived_certificate_is_never_wider, a_user_comes_logs_in_and_goes, refused_logins_look_alike,
};
use crate::api::{ApiError, ApiErrorKind, AuthApi, CreateUser};
use crate::auth::{Caller, one_time_code};
use crate::cert::{HostIdentity, Identity, SubjectKeys, UserIdentity};
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, HostRole, UserName};
use crate::secret::SecretString;

/// A cluster to run the suite on: bootstrapped, otherwise as it likes.
pub trait ApiFixture: Send + Sync {
    /// The API as this caller sees it. For an implementation over the wire: a connection with a certificate that says the
    /// same as the identity; the remote address may be another, and [`Caller::LocalAdmin`] may be the auth host.
    fn as_caller(&self, caller: Caller) -> Arc<dyn AuthApi>;

    /// The cluster.
    fn cluster(&self) -> ClusterName;

    /// The time of the service.
    fn now(&self) -> Timestamp;

    /// Fresh public keys, of which nobody needs the private halves.
    fn keys(&self) -> SubjectKeys;

    /// A number that no other call gave.
    fn unique(&self) -> u64;
}

/// Runs the whole suite.
pub async fn all(fixture: &dyn ApiFixture) {
    a_user_comes_logs_in_and_goes(fixture).await;
    refused_logins_look_alike(fixture).await;
    a_derived_certificate_is_never_wider(fixture).await;
    a_user_changes_the_password(fixture).await;
    a_user_has_several_devices(fixture).await;
    the_last_device_is_not_removed(fixture).await;
    users_are_updated(fixture).await;
    a_locked_user_is_unlocked(fixture).await;
    invites_are_in_the_list_of_tokens(fixture).await;
    a_token_admits_as_often_as_it_says(fixture).await;
    a_host_id_belongs_to_its_keys(fixture).await;
    tokens_are_listed_without_secrets(fixture).await;
    nodes_come_and_go(fixture).await;
    proxies_are_in_the_status(fixture).await;
    watchers_see_changes(fixture).await;
    places_belong_to_their_node(fixture).await;
    recordings_belong_to_their_host_and_user(fixture).await;
    events_carry_who_reports_them(fixture).await;
    sessions_are_reported_by_their_own_host(fixture).await;
    roles_are_written_under_their_revision(fixture).await;
    users_are_written_under_their_revision(fixture).await;
    tokens_are_changed_without_their_secret(fixture).await;
    locks_are_written_under_their_revision(fixture).await;
    the_policy_table_holds(fixture).await;
}

const PASSWORD: &str = "correct horse battery staple";

fn anonymous(fixture: &dyn ApiFixture) -> Arc<dyn AuthApi> {
    fixture.as_caller(Caller::Anonymous { remote: None })
}

/// People without a certificate, for whom a proxy calls.
fn public(fixture: &dyn ApiFixture) -> Arc<dyn AuthApi> {
    as_host(fixture, &host(fixture, "public", HostRole::Proxy))
}

fn admin(fixture: &dyn ApiFixture) -> Arc<dyn AuthApi> {
    fixture.as_caller(Caller::LocalAdmin)
}

fn expires(fixture: &dyn ApiFixture) -> Timestamp {
    // Whole seconds, as certificates have them.
    Timestamp::from_unix_secs(fixture.now().unix_secs() + 3600)
}

fn user(fixture: &dyn ApiFixture, name: &str, roles: &[&str], logins: &[&str]) -> UserIdentity {
    super::user_identity(name, fixture.cluster().as_str(), roles, logins, expires(fixture))
}

/// A user who exists, as a certificate with the same roles says it.
async fn member(fixture: &dyn ApiFixture, prefix: &str, roles: &[&str]) -> UserIdentity {
    let name = fresh_name(fixture, prefix);
    let identity = user(fixture, name.as_str(), roles, &["root"]);
    let (roles, logins) = (identity.roles.clone(), identity.logins.clone());
    admin(fixture).create_user(CreateUser { name, roles, logins, ttl: None }).await.unwrap();
    identity
}

fn as_user(fixture: &dyn ApiFixture, identity: UserIdentity) -> Arc<dyn AuthApi> {
    fixture.as_caller(Caller::Identity(Identity::User(identity), None))
}

fn host(fixture: &dyn ApiFixture, name: &str, role: HostRole) -> HostIdentity {
    let id = host_id(fixture).to_string();
    super::host_identity(&id, name, fixture.cluster().as_str(), role, expires(fixture))
}

fn as_host(fixture: &dyn ApiFixture, identity: &HostIdentity) -> Arc<dyn AuthApi> {
    fixture.as_caller(Caller::Identity(Identity::Host(identity.clone()), None))
}

fn uuid(fixture: &dyn ApiFixture) -> uuid::Uuid {
    let (now, unique) = (fixture.now().unix_millis(), fixture.unique());
    uuid::Uuid::from_u64_pair(now.rotate_left(20), unique)
}

fn host_id(fixture: &dyn ApiFixture) -> HostId {
    HostId::from_uuid(uuid(fixture))
}

fn fresh_name(fixture: &dyn ApiFixture, prefix: &str) -> UserName {
    UserName::new(&format!("{prefix}-{:x}-{}", fixture.now().unix_millis(), fixture.unique())).unwrap()
}

fn code(fixture: &dyn ApiFixture, secret: &SecretString, ahead: u64) -> SecretString {
    one_time_code(secret, fixture.now().saturating_add(Duration::from_secs(ahead))).expect("a secret")
}

#[track_caller]
fn refused<T>(outcome: Result<T, ApiError>, kind: ApiErrorKind) -> ApiError {
    match outcome {
        Ok(_) => panic!("succeeded, but {kind:?} was expected"),
        Err(error) if error.kind() == kind => error,
        Err(error) => panic!("{kind:?} was expected, not {error:?}"),
    }
}
