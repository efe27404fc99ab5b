//! The suite of the API, as clients see it over TLS on a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use teleport_core::api::{AuthApi, HostCredentials};
use teleport_core::auth::Caller;
use teleport_core::cert::danger::{unchecked_host_grant, unchecked_user_grant};
use teleport_core::cert::{CertIssuer as _, HostIdentity, Identity, SubjectKeys, UserIdentity};
use teleport_core::clock::{Clock as _, Timestamp};
use teleport_core::entropy::SystemEntropy;
use teleport_core::id::{ClusterName, HostRole};
use teleport_core::testing::api_suite::{self, ApiFixture};
use teleport_ssh::identity::{HostIdentityHandle, HostMaterial, HostName};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, Connector, UserCredentials};

use super::origin::in_one_process;
use super::world::{World, cluster};

pub(super) struct Wire {
    pub(super) world: World,
    /// For callers who are in one process with the auth service.
    process: Arc<dyn Connector>,
    number: AtomicU64,
    /// Whether the administrator calls as the auth service's own host. Who holds its data directory may do more, and
    /// never calls over the wire.
    remote_admin: bool,
}

impl Wire {
    pub(super) async fn new() -> Self {
        let world = World::start().await;
        let process = in_one_process(&world).await;
        Self { world, process, number: AtomicU64::new(1), remote_admin: true }
    }

    /// Certificates that say what `host` says.
    fn host(&self, host: HostIdentity) -> ClientIdentity {
        let (ssh, tls) = HostMaterial::generate_keys(&SystemEntropy::new()).unwrap();
        let public = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
        let ttl = host.expires.saturating_since(self.world.clock.now());
        let grant = unchecked_host_grant(host.host_id, host.name.clone(), host.cluster, host.role, ttl);
        let certificates = self.world.ca.issue_host(grant, &public).now_or_never().unwrap().unwrap();
        let credentials = HostCredentials { certificates, trust: self.world.trust() };
        let name = HostName { host_id: host.host_id, name: host.name, role: host.role };
        let material = HostMaterial::from_credentials(name, (ssh, tls), credentials).unwrap();
        ClientIdentity::Host(HostIdentityHandle::new(material))
    }

    fn user(&self, user: UserIdentity) -> ClientIdentity {
        let (ssh, tls) = HostMaterial::generate_keys(&SystemEntropy::new()).unwrap();
        let public = SubjectKeys { ssh: ssh.public(), tls: tls.public() };
        let mut grant =
            unchecked_user_grant(user.user, user.expires.saturating_since(self.world.clock.now()));
        grant.roles = user.roles;
        grant.logins = user.logins;
        grant.traits = user.traits;
        grant.permits = user.permits;
        grant.login_ip = user.login_ip;
        grant.mfa_device = user.mfa_device;
        grant.source_addresses = user.source_addresses;
        grant.extensions = user.extensions;
        let certificates = self.world.ca.issue_user(grant, &public).now_or_never().unwrap().unwrap();
        ClientIdentity::User(UserCredentials {
            tls,
            certificate: certificates.tls,
            trust: self.world.trust(),
        })
    }
}

impl ApiFixture for Wire {
    fn as_caller(&self, caller: Caller) -> Arc<dyn AuthApi> {
        let identity = match caller {
            Caller::Anonymous { .. } => ClientIdentity::Anonymous(self.world.trust()),
            // Such a proxy is believed about its addresses.
            Caller::Identity(Identity::Host(host), None) if host.role == HostRole::Proxy => {
                let (way, identity) = (Arc::clone(&self.process), self.host(host));
                return Arc::new(AuthClient::builder(way, identity, self.world.clock()).build());
            }
            Caller::Identity(Identity::Host(host), _) => self.host(host),
            Caller::Identity(Identity::User(user), _) => self.user(user),
            Caller::Identity(other, _) => panic!("{other:?}"),
            Caller::LocalAdmin if !self.remote_admin => {
                return Arc::new(self.world.service.acting_as(Caller::LocalAdmin));
            }
            Caller::LocalAdmin => ClientIdentity::Host(self.world.identity.clone()),
        };
        Arc::new(self.world.client(identity))
    }

    fn cluster(&self) -> ClusterName {
        cluster()
    }

    fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    fn keys(&self) -> SubjectKeys {
        let (ssh, tls) = HostMaterial::generate_keys(&SystemEntropy::new()).unwrap();
        SubjectKeys { ssh: ssh.public(), tls: tls.public() }
    }

    fn unique(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }
}

macro_rules! suite {
    ($($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                api_suite::$test(&Wire::new().await).await;
            }
        )*
    };
}

suite! {
    a_derived_certificate_is_never_wider
    a_host_id_belongs_to_its_keys
    a_locked_user_is_unlocked
    a_token_admits_as_often_as_it_says
    a_user_changes_the_password
    a_user_comes_logs_in_and_goes
    a_user_has_several_devices
    events_carry_who_reports_them
    invites_are_in_the_list_of_tokens
    nodes_come_and_go
    proxies_are_in_the_status
    places_belong_to_their_node
    recordings_belong_to_their_host_and_user
    refused_logins_look_alike
    roles_are_written_under_their_revision
    sessions_are_reported_by_their_own_host
    the_last_device_is_not_removed
    tokens_are_changed_without_their_secret
    tokens_are_listed_without_secrets
    users_are_updated
    users_are_written_under_their_revision
    watchers_see_changes
}

#[tokio::test]
async fn the_policy_table_holds() {
    let wire = Wire { remote_admin: false, ..Wire::new().await };
    api_suite::the_policy_table_holds(&wire).await;
}
