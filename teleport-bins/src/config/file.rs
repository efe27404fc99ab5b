//! The configuration file: YAML, unknown keys refused with their line and a suggestion.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use teleport_core::access::{RecordAt, RecordingRule};
use teleport_core::resource::LockMode;

use super::Size;
pub use super::proxy_protocol::HeaderModeName;
use super::yaml::explain;

/// `/etc/teleport.yaml`. Every key has a default; flags of the command line override it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// The version of the form: `v3`.
    pub version: Option<String>,
    /// What all services share.
    pub teleport: TeleportSection,
    /// The auth service.
    pub auth_service: AuthSection,
    /// The proxy.
    pub proxy_service: ProxySection,
    /// The SSH node.
    pub ssh_service: SshSection,
}

/// What all services share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeleportSection {
    /// The display name of this host; its host name if absent.
    pub nodename: Option<String>,
    /// Where state is kept.
    pub data_dir: Option<PathBuf>,
    /// The join token, or an absolute path to a file that holds it.
    pub auth_token: Option<String>,
    /// How the cluster is recognised at the first start.
    pub ca_pin: Option<OneOrMany>,
    /// Refuses to join without `ca_pin`.
    pub require_ca_pin: bool,
    /// The auth service, or several of one cluster: `host:port`.
    #[serde(alias = "auth_servers")]
    pub auth_server: Option<OneOrMany>,
    /// The proxy, as a way to the auth service: `host:port`.
    pub proxy_server: Option<String>,
    /// The address that others reach this host by.
    pub advertise_ip: Option<String>,
    /// Where the daemon is asked how it is: `/healthz`, `/readyz`, `/metrics`.
    pub diag_addr: Option<String>,
    /// What is logged, and where to.
    pub log: LogSection,
    /// Where the auth service keeps its state.
    pub storage: StorageSection,
}

/// What is logged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `debug`, `info`, `warn` or `error`.
    pub severity: Option<String>,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogFormat {
    /// `text` or `json`.
    pub output: Option<String>,
}

/// Where the auth service keeps its state.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageSection {
    /// `redb`, `memory`, `etcd` or `postgres`; that of the URL if absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where it is, for `etcd` and `postgres`.
    pub url: Option<String>,
    /// The file; `backend.redb` in the data directory if absent.
    pub path: Option<PathBuf>,
    /// Where recordings are kept: `file:///path` or `s3://bucket/prefix?region=…`; `recordings` in the data directory if absent.
    pub audit_sessions_uri: Option<String>,
    /// Where the audit log is (`file://…`), and where it is passed on to (`stdout://`, `syslog://…`).
    pub audit_events_uri: Option<OneOrMany>,
}

/// The auth service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// Whether this host runs it.
    pub enabled: Option<YesNo>,
    /// The cluster's name; fixed at the first start.
    pub cluster_name: Option<String>,
    /// Where it listens.
    pub listen_addr: Option<String>,
    /// Addresses that others reach it by.
    pub public_addr: Option<OneOrMany>,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: Option<HeaderModeName>,
    /// Of which load balancers: addresses and networks.
    pub proxy_protocol_sources: Option<OneOrMany>,
    /// Static join tokens: `role,role:secret` or `role:/path/to/file`.
    pub tokens: Vec<String>,
    /// How the audit log is kept.
    pub audit: AuditSection,
    /// How sessions are recorded: `node`, `node-sync` or `off`.
    pub session_recording: Option<RecordAt>,
    /// The same for nodes with certain labels.
    pub session_recording_rules: Vec<RecordingRule>,
    /// What one host may hand in.
    pub recordings: RecordingsSection,
    /// How long recordings are kept.
    pub recording_retention: RetentionSection,
    /// Who can read recordings.
    pub session_recording_encryption: EncryptionSection,
    /// How users prove who they are.
    pub authentication: AuthenticationSection,
    /// How passwords are hashed.
    pub password_hashing: PasswordHashingSection,
    /// How nodes without a port are reached.
    pub tunnel_strategy: TunnelStrategySection,
}

/// How nodes without a port are reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TunnelStrategySection {
    /// `agent_mesh` or `proxy_peering`.
    #[serde(rename = "type")]
    pub kind: StrategyName,
    /// To how many proxies a node has tunnels, if proxies ask each other.
    pub agent_connection_count: Option<NonZeroU8>,
}

/// The name of a strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyName {
    /// Each node has a tunnel to each proxy.
    #[default]
    AgentMesh,
    /// Nodes have tunnels to some proxies, which the others ask.
    ProxyPeering,
}

/// How the audit log is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSection {
    /// When events are made durable: `always`, or so often, such as `1s`.
    pub sync: Option<String>,
    /// How long its files are kept, such as `365d`; for ever if absent.
    pub retention: Option<String>,
}

/// How users prove who they are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthenticationSection {
    /// What a login needs beside the password: `otp`, or `off` for nothing, which is for tests.
    pub second_factor: Option<FactorName>,
    /// What happens where it is not known for certain who is locked: `best_effort` or `strict`.
    pub locking_mode: Option<LockMode>,
}

/// The name of a second factor. `off` is a boolean to some readers of YAML.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "write otp, or off for tests")]
pub enum FactorName {
    /// As some readers take `off` and `on`.
    Switch(bool),
    /// A word.
    Word(String),
}

/// How passwords are hashed: Argon2id.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordHashingSection {
    /// The memory of one hash.
    pub memory: Option<Size>,
    /// The passes over it.
    pub passes: Option<u32>,
    /// The lanes.
    pub lanes: Option<u32>,
    /// How many hashes are computed at the same time.
    pub parallel: Option<usize>,
}

/// How long recordings are kept: for ever, unless it is said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSection {
    /// Those of sessions that began longer ago are deleted.
    pub max_age: Option<String>,
    /// The oldest are deleted while all together are larger.
    pub max_size: Option<Size>,
}

/// Who can read recordings, by keys of `age-keygen`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncryptionSection {
    /// Public keys for which new recordings are encrypted.
    pub recipients: Vec<String>,
    /// Files of private keys by which the auth service reads recordings.
    pub identity_files: Vec<PathBuf>,
}

/// What one host may hand in of recordings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingsSection {
    /// The longest recording.
    pub max_size: Option<Size>,
    /// All its recordings of one day (UTC).
    pub max_size_per_day: Option<Size>,
    /// How many recordings on one day.
    pub max_count_per_day: Option<u64>,
}

/// The proxy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxySection {
    /// Whether this host runs it.
    pub enabled: Option<YesNo>,
    /// Where it listens for HTTPS.
    pub web_listen_addr: Option<String>,
    /// Where it listens for SSH; the same address as for HTTPS opens no other port.
    #[serde(alias = "ssh_listen_addr")]
    pub listen_addr: Option<String>,
    /// Where it listens for tunnels of nodes; where it does for HTTPS if absent.
    pub tunnel_listen_addr: Option<String>,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: Option<HeaderModeName>,
    /// Of which load balancers: addresses and networks.
    pub proxy_protocol_sources: Option<OneOrMany>,
    /// Names or addresses (with or without port) that clients reach it by.
    pub public_addr: Option<OneOrMany>,
    /// Certificates for HTTPS, instead of the cluster's own.
    pub https_keypairs: Vec<KeyPair>,
    /// Where other proxies ask it for nodes, if the cluster's proxies do that.
    pub peer_listen_addr: Option<String>,
    /// The name or address, with or without port, that other proxies reach it by. Of this proxy alone, not of a load balancer.
    pub peer_public_addr: Option<String>,
    /// How often it is looked whether they have changed, such as `1m`; `off` for never.
    pub https_keypairs_reload_interval: Option<String>,
    /// A certificate for HTTPS of a public authority.
    pub acme: AcmeSection,
    /// Whether it connects to nodes at loopback, link-local and cloud metadata addresses.
    pub local_addresses: Option<YesNo>,
}

/// A certificate by ACME.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AcmeSection {
    /// Whether one is ordered. That agrees to the terms of the authority.
    pub enabled: Option<YesNo>,
    /// Whom the authority writes to.
    pub email: Option<String>,
    /// The authority's directory, that of Let's Encrypt if absent.
    pub uri: Option<String>,
    /// The authorities that vouch for the directory, PEM; those of the system if absent.
    pub ca_file: Option<PathBuf>,
    /// Where names are proved by HTTP-01, instead of TLS-ALPN-01 at the web port.
    pub http_listen_addr: Option<String>,
    /// The id of an account that the authority has made itself.
    pub eab_kid: Option<String>,
    /// Its key in base64url, a file.
    pub eab_hmac_file: Option<PathBuf>,
}

/// A certificate chain and its key, PEM files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// The key.
    pub key_file: PathBuf,
    /// The certificates, the server's own first.
    pub cert_file: PathBuf,
}

/// The SSH node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SshSection {
    /// Whether this host runs it.
    pub enabled: Option<YesNo>,
    /// Where it listens.
    pub listen_addr: Option<String>,
    /// Addresses that proxies reach it by.
    pub public_addr: Option<OneOrMany>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What may wait for the auth service.
    pub recordings: SpoolSection,
    /// How long a connection of `tsh` that was lost is kept for it to come back, such as `10m`; `off` for not at all.
    pub resume_for: Option<String>,
    /// The most forwarded connections of one connection at a time, in both directions together.
    pub max_forwarded: Option<u32>,
    /// On which addresses users may have the node listen.
    pub gateway_ports: GatewayPortsName,
    /// Whether users may have their displays in sessions.
    pub x11: X11Section,
    /// Whether PAM is asked about sessions.
    pub pam: PamSection,
}

/// PAM for sessions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PamSection {
    /// Whether it is asked.
    pub enabled: Option<YesNo>,
    /// Its service, `sshd` if absent.
    pub service_name: Option<String>,
    /// Must be `false`: nobody logs in by PAM.
    pub use_pam_auth: Option<YesNo>,
    /// Variables for its modules and the sessions; values may be templates such as `{{external.team}}`.
    pub environment: BTreeMap<String, String>,
}

/// On which addresses users may have the node listen (`ssh -R`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayPortsName {
    /// `clientspecified`: on those that they say.
    ClientSpecified,
    /// `no`: on loopback.
    #[default]
    No,
}

impl<'de> Deserialize<'de> for GatewayPortsName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// `no` is a word of YAML.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Word {
            Bool(bool),
            Text(String),
        }
        let known = match Word::deserialize(deserializer)? {
            Word::Bool(false) => Some(Self::No),
            Word::Bool(true) => None,
            Word::Text(text) => match text.to_ascii_lowercase().as_str() {
                "no" => Some(Self::No),
                "clientspecified" => Some(Self::ClientSpecified),
                _ => None,
            },
        };
        known.ok_or_else(|| serde::de::Error::custom("write no or clientspecified"))
    }
}

/// The displays of sessions (`ssh -X`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct X11Section {
    /// Whether there are any.
    pub enabled: Option<YesNo>,
    /// The first, 10 if absent.
    pub display_offset: Option<u16>,
    /// The last, a thousand behind the first if absent.
    pub max_display: Option<u16>,
}

/// Recordings that wait for the auth service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolSection {
    /// All of them, half of it of one user.
    pub max_size: Option<Size>,
    /// How long one may wait, such as `7d`.
    pub max_age: Option<String>,
    /// What becomes of those that are older: `keep` or `delete`.
    pub too_old: Option<TooOldName>,
}

/// What becomes of recordings that are too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooOldName {
    /// They are deleted.
    Delete,
    /// They stay.
    Keep,
}

/// A text or a list of texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "write one text or a list of texts")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// As a list.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// `yes`, `no`, `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YesNo(pub bool);

impl<'de> Deserialize<'de> for YesNo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = YesNo;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("yes or no")
            }
            fn visit_bool<E>(self, value: bool) -> Result<YesNo, E> {
                Ok(YesNo(value))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<YesNo, E> {
                match text.to_ascii_lowercase().as_str() {
                    "yes" | "true" | "on" => Ok(YesNo(true)),
                    "no" | "false" | "off" => Ok(YesNo(false)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The file cannot be used. One line that says where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct ConfigError {
    path: PathBuf,
    message: String,
}

/// Reads a configuration file.
///
/// # Errors
/// [`ConfigError`] with the line and, for an unknown key, the key that was probably meant.
pub fn load(path: &Path) -> Result<FileConfig, ConfigError> {
    let fail = |message: String| ConfigError { path: path.to_owned(), message };
    let text = std::fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    parse(&text).map_err(fail)
}

/// Reads the text of a configuration file.
///
/// # Errors
/// One line, with the place and, for an unknown key, the key that was probably meant.
pub fn parse(text: &str) -> Result<FileConfig, String> {
    // An empty file is an empty configuration, not a type error.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(FileConfig::default());
    }
    let config: FileConfig = serde_saphyr::from_str(text).map_err(|error| explain(&error))?;
    match config.version.as_deref() {
        None | Some("v1" | "v2" | "v3") => Ok(config),
        Some(other) => Err(format!("version {other:?} is not known; write `version: v3`")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn reads_the_original_form() {
        let config = parse(
            "version: v3\nteleport:\n  nodename: web-1\n  ca_pin: [\"sha256:00\"]\nssh_service:\n  enabled: yes\n  labels:\n    env: prod\nproxy_service:\n  enabled: \"no\"\n",
        )
        .unwrap();
        assert_eq!(config.ssh_service.enabled, Some(YesNo(true)));
        assert_eq!(config.proxy_service.enabled, Some(YesNo(false)));
        assert_eq!(config.ssh_service.labels.get("env").map(String::as_str), Some("prod"));
        assert!(parse("# nothing\n\n").is_ok());
        let config = parse("auth_service:\n  recordings: {max_size: 1GiB, max_count_per_day: 10}\n").unwrap();
        let recordings = config.auth_service.recordings;
        assert_eq!((recordings.max_size, recordings.max_count_per_day), (Some(Size(1 << 30)), Some(10)));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let error = parse("teleport:\n  nodname: web-1\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("did you mean `nodename`?"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        let error = parse("auth_service:\n  enabled: maybe\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("yes or no"), "{error}");
        let error = parse("auth_service:\n  recordings:\n    max_size: much\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("like 512MiB"), "{error}");
        assert!(parse("version: v9\n").unwrap_err().contains("v9"));
        assert!(parse("teleport: [").is_err());
    }
}
