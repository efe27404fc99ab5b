//! The messages of the API: JSON, unknown keys refused in requests.
#![expect(clippy::exhaustive_structs, reason = "callers build requests, services build answers")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{EndedSession, MfaDevice};
use crate::access::{ClusterRecording, RoleSet};
use crate::audit::chain::{CheckpointKey, StoredCheckpoint};
use crate::cert::{CaPin, IssuedCertificates, SubjectKeys, Traits, TrustBundle};
use crate::clock::Timestamp;
use crate::id::{ClusterName, HostId, HostRole, NodeName, OsLogin, RoleName, SessionId, UserName};
use crate::label::Labels;
use crate::lock::LockSet;
use crate::peering::Peering;
use crate::recording::Place;
use crate::resource::{LockMode, NODE_ONLINE_FOR, NODE_RETENTION, Node};
use crate::secret::{SecretString, optional_wire, wire};

/// Answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The version of the auth service.
    pub server_version: String,
    /// What a login needs beside the password: `otp`, or `off` for nothing.
    pub second_factor: String,
    /// Where the answering proxy accepts SSH: `host:port`. Filled in by the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_ssh_address: Option<String>,
    /// Where the answering proxy accepts tunnels of nodes, if not at its web port: `host:port`. Filled in by the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_tunnel_address: Option<String>,
}

/// A host asks to become a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's secret.
    #[serde(with = "wire")]
    pub token: SecretString,
    /// The host's own id, made by it.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// The service that it wants to be.
    pub role: HostRole,
    /// Its public keys.
    pub keys: SubjectKeys,
    /// Names and addresses under which it will be reached.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Filled in by the proxy that forwards the request.
    #[serde(default)]
    pub client_ip: Option<IpAddr>,
}

/// A host asks for newer certificates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Its public keys; new ones are allowed.
    pub keys: SubjectKeys,
    /// Names and addresses under which it is reached.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// What a host gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCredentials {
    /// Its certificates.
    pub certificates: IssuedCertificates,
    /// Whom to trust.
    pub trust: TrustBundle,
}

/// A user logs in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The user, as typed.
    pub user: String,
    /// The password.
    #[serde(with = "wire")]
    pub password: SecretString,
    /// The one-time code: six digits. Empty where the cluster asks for none.
    #[serde(with = "wire")]
    pub code: SecretString,
    /// Fresh public keys.
    pub keys: SubjectKeys,
    /// How long the certificates should be valid, in seconds; roles may shorten it.
    #[serde(default)]
    pub ttl: Option<u64>,
    /// Filled in by the proxy that forwards the request.
    #[serde(default)]
    pub client_ip: Option<IpAddr>,
}

/// A user asks for certificates for other keys or a shorter time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReissueRequest {
    /// The public keys.
    pub keys: SubjectKeys,
    /// How long the certificates should be valid, in seconds; never longer than those of the caller.
    #[serde(default)]
    pub ttl: Option<u64>,
}

/// What a user gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginResponse {
    /// The user, as the cluster writes it.
    pub user: UserName,
    /// The user's roles.
    pub roles: Vec<RoleName>,
    /// The logins in the certificate.
    pub logins: Vec<OsLogin>,
    /// The certificates.
    pub certificates: IssuedCertificates,
    /// Whom to trust.
    pub trust: TrustBundle,
}

/// What an invited user needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InviteInfo {
    /// Who is invited.
    pub user: UserName,
    /// The second factor as `otpauth://` URL, for a QR code.
    #[serde(with = "wire")]
    pub otpauth_url: SecretString,
    /// The second factor's secret in base32, to be typed.
    #[serde(with = "wire")]
    pub secret: SecretString,
    /// When the invite ends.
    pub expires: Timestamp,
}

/// An invited user accepts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptInvite {
    /// The invite.
    #[serde(with = "wire")]
    pub token: SecretString,
    /// The new password; see [`crate::password`].
    #[serde(with = "wire")]
    pub password: SecretString,
    /// A code of the new second factor. Empty, where the cluster asks for none, to have none.
    #[serde(with = "wire")]
    pub code: SecretString,
    /// Filled in by the proxy that forwards the request.
    #[serde(default)]
    pub client_ip: Option<IpAddr>,
}

/// What nodes and proxies decide by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessView {
    /// Whom to trust.
    pub trust: TrustBundle,
    /// The roles that exist. One that cannot be read here, as when a newer auth service sends it, becomes one that denies
    /// everything ([`Role::unreadable`](crate::resource::Role::unreadable)): it refuses those who hold it, not everybody.
    pub roles: RoleSet,
    /// From where the cluster's proxies connect, as the auth service has seen it: many users are behind each of these addresses, so what one of them does is
    /// not to be held against the address.
    #[serde(default)]
    pub proxies: Vec<IpAddr>,
    /// The proxies that are online, to which nodes have tunnels.
    #[serde(default)]
    pub proxy_ids: BTreeSet<HostId>,
    /// Which of them can be asked for nodes, if proxies ask each other. Otherwise nodes have a tunnel to each.
    #[serde(default)]
    pub peering: Option<Peering>,
    /// Who is locked.
    #[serde(default)]
    pub locks: LockSet,
    /// What happens where it is not known for certain who is locked, unless a role says so.
    #[serde(default)]
    pub lock_mode: LockMode,
    /// How sessions are recorded, as far as roles do not say.
    #[serde(default)]
    pub recording: ClusterRecording,
    /// Users who were deleted, and when: their certificates that were issued until then are void. Those whose last certificate has
    /// ended are left out.
    #[serde(default)]
    pub deleted_users: BTreeMap<UserName, Timestamp>,
    /// Sessions that somebody has ended, for some minutes: nodes that have them end them.
    #[serde(default)]
    pub ended_sessions: Vec<EndedSession>,
    /// Roles that were taken from users whose certificates may still name them. A role that is given back is not among them any
    /// more.
    #[serde(default)]
    pub taken_roles: BTreeMap<UserName, BTreeSet<RoleName>>,
    /// Hosts that were removed from the cluster, without those that are known to be nodes: what they say as proxies counts for nothing,
    /// however long their certificates last.
    #[serde(default)]
    pub removed_proxies: BTreeSet<HostId>,
}

impl AccessView {
    /// A view without proxies, locks and removed hosts, from whose users nothing was taken.
    pub fn new(trust: TrustBundle, roles: impl Into<RoleSet>) -> Self {
        Self {
            trust,
            roles: roles.into(),
            proxies: Vec::new(),
            proxy_ids: BTreeSet::new(),
            peering: None,
            locks: LockSet::default(),
            lock_mode: LockMode::default(),
            recording: ClusterRecording::default(),
            deleted_users: BTreeMap::new(),
            ended_sessions: Vec::new(),
            taken_roles: BTreeMap::new(),
            removed_proxies: BTreeSet::new(),
        }
    }
}

/// A change to the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeEvent {
    /// A node is gone.
    Gone(HostId),
    /// A node is new or has changed, or gave a sign of life.
    Put(Node),
    /// All nodes at this moment. Always the first event.
    Snapshot(Vec<Node>),
}

/// What a proxy announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyRecord {
    /// The proxy.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// Where its HTTPS is reached: `host:port`.
    pub web_address: String,
    /// Where its SSH is reached: `host:port`.
    pub ssh_address: String,
    /// Where other proxies ask it for the nodes whose tunnels it has: `host:port`; see [`crate::peering`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// How many nodes had a tunnel to it when it said so.
    #[serde(default)]
    pub tunnels: u32,
    /// The version of its software.
    pub version: String,
}

impl crate::storage::Record for ProxyRecord {
    const COLLECTION: &'static str = "proxies";

    fn key(&self) -> String {
        self.host_id.to_string()
    }
}

/// A proxy as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// What it announced.
    #[serde(flatten)]
    pub record: ProxyRecord,
    /// When it was last heard of.
    pub last_seen: Timestamp,
}

impl Proxy {
    /// From a stored record and the expiry of its item.
    pub fn from_stored(record: ProxyRecord, expires: Option<Timestamp>) -> Self {
        Self { record, last_seen: expires.unwrap_or(Timestamp::EPOCH).saturating_sub(NODE_RETENTION) }
    }

    /// Whether it was heard of recently enough, as for nodes.
    pub fn is_online(&self, now: Timestamp) -> bool {
        now < self.last_seen.saturating_add(NODE_ONLINE_FOR)
    }
}

/// An auth service that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthServerRecord {
    /// The service.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// The version of its software.
    pub version: String,
    /// Where its API is reached: `host:port`.
    pub address: String,
    /// When it was last heard of.
    pub last_seen: Timestamp,
}

/// The cluster at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster_name: ClusterName,
    /// The version of the auth service.
    pub server_version: String,
    /// How joining hosts recognise the cluster.
    pub ca_pins: Vec<CaPin>,
    /// The proxies, online or not.
    pub proxies: Vec<Proxy>,
    /// The auth services that run.
    #[serde(default)]
    pub auth_servers: Vec<AuthServerRecord>,
    /// How many nodes are online.
    pub nodes_online: usize,
    /// The time of the auth service.
    pub time: Timestamp,
}

/// What a copy of the audit log is checked with, beside the log itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnchors {
    /// The keys that sign checkpoints.
    pub keys: Vec<CheckpointKey>,
    /// The newest checkpoint of each log, as the cluster's storage remembers it: those of every auth service.
    pub checkpoints: Vec<StoredCheckpoint>,
}

/// Asks for a new user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// The user.
    pub name: UserName,
    /// The user's roles.
    pub roles: Vec<RoleName>,
    /// The user's logins, as the trait `logins`.
    pub logins: Vec<OsLogin>,
    /// How long the invite is good, in seconds; 1 hour if absent, at most 48 hours.
    #[serde(default)]
    pub ttl: Option<u64>,
}

/// An invite, shown once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invite {
    /// Who is invited.
    pub user: UserName,
    /// The secret of the link.
    #[serde(with = "wire")]
    pub token: SecretString,
    /// When it ends.
    pub expires: Timestamp,
}

/// A user in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// The user.
    pub name: UserName,
    /// The roles.
    pub roles: Vec<RoleName>,
    /// The logins.
    pub logins: Vec<OsLogin>,
    /// Until when logins are refused after too many failures.
    pub locked_until: Option<Timestamp>,
    /// The other traits.
    #[serde(default)]
    pub traits: Traits,
    /// How many second factors the user has: none before the invite is accepted.
    #[serde(default)]
    pub mfa_devices: usize,
    /// Which: what a lock of a device names.
    #[serde(default)]
    pub devices: Vec<MfaDevice>,
}

/// Asks for a join token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What hosts may join as.
    pub roles: Vec<HostRole>,
    /// How long it is good, in seconds; 30 minutes if absent.
    #[serde(default)]
    pub ttl: Option<u64>,
    /// How many hosts may join; any number if absent.
    #[serde(default)]
    pub uses: Option<u32>,
    /// Labels that nodes joined by it always carry; nodes cannot override them.
    #[serde(default)]
    pub labels: Labels,
    /// The secret; a random one if absent.
    #[serde(default, with = "optional_wire")]
    pub value: Option<SecretString>,
}

/// A join token, its secret shown once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreatedToken {
    /// The secret.
    #[serde(with = "wire")]
    pub token: SecretString,
    /// What the list shows.
    pub info: TokenInfo,
    /// How joining hosts recognise the cluster.
    pub ca_pins: Vec<CaPin>,
}

/// What a token in the list is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenPurpose {
    /// A new user sets password and second factor.
    Invite(UserName),
    /// Hosts join.
    #[default]
    Join,
    /// A user sets password and second factor anew.
    Reset(UserName),
}

/// A join token or an invite in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Names it. `static-1` is the first of the configuration.
    pub id: String,
    /// What it is good for.
    #[serde(default)]
    pub purpose: TokenPurpose,
    /// What hosts may join as.
    pub roles: Vec<HostRole>,
    /// When it ends; never for static tokens.
    pub expires: Option<Timestamp>,
    /// How many more hosts may join; any number if absent.
    pub uses_left: Option<u32>,
    /// Labels of nodes joined by it.
    pub labels: Labels,
    /// Whether it comes from the configuration.
    pub is_static: bool,
}

/// Which recordings to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingQuery {
    /// Began not before; a day ago if absent.
    pub from: Option<Timestamp>,
    /// Began before.
    pub to: Option<Timestamp>,
    /// At most so many; 0 is 50, never more than 1000.
    pub limit: usize,
    /// Only this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Only what is listed after this place: the last one of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
    /// In which this user took part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// With this login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<OsLogin>,
    /// On this node, by its name or its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}
