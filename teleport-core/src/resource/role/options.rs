//! How sessions by grace of a role are treated. How the options of several roles become one:
//! [`SessionPolicy`](crate::access::SessionPolicy).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::resource::span;

/// What happens to sessions when the state of locks is not known for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LockMode {
    /// The last known state counts.
    #[default]
    BestEffort,
    /// Nothing new is allowed.
    Strict,
}

impl LockMode {
    /// As configurations and documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "best_effort",
            Self::Strict => "strict",
        }
    }
}

/// Whether sessions are recorded, and what happens to those that can be no longer. In the order of their strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordingMode {
    /// They are not recorded. Their start and end are in the audit log all the same.
    Off,
    /// One that cannot be recorded at its start is not begun. Later, what cannot be kept is a gap in the recording.
    #[default]
    BestEffort,
    /// One that cannot be recorded is not begun, or ends: with the first output that is not kept.
    Strict,
}

impl RecordingMode {
    /// The name, as in documents and audit events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::BestEffort => "best_effort",
            Self::Strict => "strict",
        }
    }
}

/// Whether sessions are recorded, by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map such as {default: strict}, with the keys default and ssh, of off, best_effort or strict,"
)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct RecordSession {
    /// For kinds that are not named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<RecordingMode>,
    /// For SSH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<RecordingMode>,
}

impl RecordSession {
    /// What counts for SSH.
    pub fn for_ssh(self) -> RecordingMode {
        self.ssh.or(self.default).unwrap_or_default()
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map such as {enabled: false}")]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct Switch {
    /// Whether it is on.
    pub enabled: bool,
}

/// Port forwarding by its direction. What is not named follows [`RoleOptions::port_forwarding`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map such as {local: {enabled: true}, remote: {enabled: false}}"
)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct PortForwarding {
    /// From the client's side to where the node can reach (`ssh -L`, `ssh -D`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Switch>,
    /// From the node's side to where the client can reach (`ssh -R`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Switch>,
}

/// An extension of SSH certificates. In documents also with `type: ssh` and `mode: extension`, the only ones there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
pub struct CertExtension {
    /// `ssh`.
    #[serde(rename = "type", default = "CertExtension::only_type")]
    pub kind: String,
    /// `extension`.
    #[serde(default = "CertExtension::only_mode")]
    pub mode: String,
    /// The extension's name, such as `login@github.com`.
    pub name: String,
    /// Its value: a text or a [`Template`](crate::access::Template), whose first value counts.
    pub value: String,
}

impl CertExtension {
    /// An extension of SSH certificates.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: Self::only_type(), mode: Self::only_mode(), name: name.into(), value: value.into() }
    }

    fn only_type() -> String {
        "ssh".to_owned()
    }

    fn only_mode() -> String {
        "extension".to_owned()
    }
}

/// How sessions by grace of the role are treated. Written only where it differs from the default, apart from the first three.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "administrators' tools build it")]
#[expect(clippy::struct_excessive_bools, reason = "independent options, named as administrators know them")]
pub struct RoleOptions {
    /// The longest life of certificates. The shortest of all roles counts. In documents a duration such as `8h`, or a number
    /// of seconds.
    #[serde(with = "span")]
    pub max_session_ttl: Duration,
    /// Whether the agent may be forwarded. One role suffices.
    pub forward_agent: bool,
    /// Whether ports may be forwarded, where [`RoleOptions::ssh_port_forwarding`] does not say otherwise. One role suffices.
    pub port_forwarding: bool,
    /// Port forwarding by its direction. One role that says no suffices.
    #[serde(skip_serializing_if = "is_default")]
    pub ssh_port_forwarding: PortForwarding,
    /// Whether files may be copied. Every role must allow it.
    #[serde(skip_serializing_if = "is_true")]
    pub ssh_file_copy: bool,
    /// Whether X11 may be forwarded. One role suffices.
    #[serde(skip_serializing_if = "is_default")]
    pub permit_x11_forwarding: bool,
    /// After how long without input and output a connection ends; zero is never. The shortest of all roles counts.
    #[serde(with = "span", skip_serializing_if = "is_default")]
    pub client_idle_timeout: Duration,
    /// Whether connections end with their certificate. One role suffices.
    #[serde(skip_serializing_if = "is_default")]
    pub disconnect_expired_cert: bool,
    /// The most sessions of one connection; zero is any number. The lowest counts.
    #[serde(skip_serializing_if = "is_default")]
    pub max_sessions: u64,
    /// The most connections of the user to nodes of the cluster; zero is any number. The lowest counts.
    #[serde(skip_serializing_if = "is_default")]
    pub max_connections: u64,
    /// Whether sessions are recorded. The strictest counts.
    #[serde(skip_serializing_if = "is_default")]
    pub record_session: RecordSession,
    /// Whether certificates are bound to the address of the login. One role suffices.
    #[serde(skip_serializing_if = "is_default")]
    pub pin_source_ip: bool,
    /// Further extensions of certificates. All are added.
    #[serde(skip_serializing_if = "is_default")]
    pub cert_extensions: Vec<CertExtension>,
    /// What happens when the state of locks is not known for certain; `None` is as the cluster says. The strictest counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockMode>,
}

impl RoleOptions {
    /// What restricts, without what permits: all that counts on of a role that was taken from its user.
    pub(crate) fn restrictions(&self) -> Self {
        let only_no = |switch: Option<Switch>| switch.filter(|switch| !switch.enabled);
        let PortForwarding { local, remote } = self.ssh_port_forwarding;
        Self {
            forward_agent: false,
            port_forwarding: false,
            ssh_port_forwarding: PortForwarding { local: only_no(local), remote: only_no(remote) },
            permit_x11_forwarding: false,
            cert_extensions: Vec::new(),
            ..self.clone()
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_true(value: &bool) -> bool {
    *value
}

impl Default for RoleOptions {
    fn default() -> Self {
        Self {
            max_session_ttl: Duration::from_secs(30 * 3600),
            forward_agent: false,
            port_forwarding: true,
            ssh_port_forwarding: PortForwarding::default(),
            ssh_file_copy: true,
            permit_x11_forwarding: false,
            client_idle_timeout: Duration::ZERO,
            disconnect_expired_cert: false,
            max_sessions: 0,
            max_connections: 0,
            record_session: RecordSession::default(),
            pin_source_ip: false,
            cert_extensions: Vec::new(),
            lock: None,
        }
    }
}
