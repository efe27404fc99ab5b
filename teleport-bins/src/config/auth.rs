//! The auth service's part of what a daemon does.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_backend::recordings::age::{AgeRecipient, MAX_RECIPIENTS};
use teleport_backend::recordings::s3::S3Config;
use teleport_core::access::ClusterRecording;
use teleport_core::auth::{Backup, PasswordConfig, RecordingLimits, RetentionConfig, SecondFactor};
use teleport_core::id::ClusterName;
use teleport_core::peering::{MAX_AGENT_CONNECTIONS, TunnelStrategy};
use teleport_core::recording::MAX_PART_LEN;
use teleport_core::resource::LockMode;
use teleport_core::secret::SecretString;
use teleport_ssh::mux::ProxyProtocol;

use super::addresses::{address, hosts};
use super::file::{
    AuthSection, AuthenticationSection, EncryptionSection, FactorName, PasswordHashingSection,
    RecordingsSection, RetentionSection, StorageSection, StrategyName, TunnelStrategySection,
};
use super::{AuditSettings, Size, parse_duration, proxy_protocol};

/// The auth service.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The cluster's name; the host's name if absent. Only the first start uses it.
    pub cluster_name: Option<ClusterName>,
    /// Names and addresses that others reach it by.
    pub public_addresses: Vec<String>,
    /// Load balancers before its port that say where clients are.
    pub protocol: ProxyProtocol,
    /// Static tokens, `roles:secret`, files not read yet.
    pub static_tokens: Vec<String>,
    /// The storage, a URL of `teleport_backend::open_remote`. It may hold a password.
    pub storage: SecretString,
    /// The audit log.
    pub audit: AuditSettings,
    /// How sessions are recorded.
    pub session_recording: ClusterRecording,
    /// What one host may hand in of recordings.
    pub recordings: RecordingLimits,
    /// Where they are kept.
    pub recording_store: RecordingPlace,
    /// How long they are kept.
    pub retention: RetentionConfig,
    /// For whom they are encrypted, and the files of the keys that decrypt them.
    pub recording_keys: (Vec<AgeRecipient>, Vec<PathBuf>),
    /// What a login needs beside the password.
    pub second_factor: SecondFactor,
    /// What happens where it is not known for certain who is locked, unless a role says so.
    pub lock_mode: LockMode,
    /// How nodes without a port are reached.
    pub tunnel_strategy: TunnelStrategy,
    /// How passwords are hashed.
    pub password: PasswordConfig,
    /// What the cluster begins with, if it is empty.
    pub bootstrap: Option<Backup>,
}

impl AuthSettings {
    /// Checks the section `auth_service` and that of the storage, and fills in the defaults.
    ///
    /// # Errors
    /// A sentence that names the key and says what to do.
    pub(super) fn resolve(
        section: AuthSection,
        storage: StorageSection,
        cluster_name: Option<String>,
        data_dir: &Path,
        ip: Option<IpAddr>,
    ) -> Result<Self> {
        let url = SecretString::new(url_of(&storage, data_dir)?);
        Ok(Self {
            listen: address(section.listen_addr.as_deref(), 3025, ip, "auth_service.listen_addr")?,
            cluster_name: cluster_name
                .map(|name| ClusterName::new(&name))
                .transpose()
                .context("cluster_name")?,
            public_addresses: hosts(section.public_addr),
            protocol: proxy_protocol::resolve(
                section.proxy_protocol,
                section.proxy_protocol_sources,
                "auth_service",
            )?,
            static_tokens: section.tokens,
            audit: AuditSettings::resolve(&section.audit, storage.audit_events_uri)?,
            session_recording: ClusterRecording::new(
                section.session_recording.unwrap_or_default(),
                section.session_recording_rules,
            )
            .context("auth_service.session_recording_rules")?,
            recordings: recording_limits(&section.recordings)?,
            recording_store: RecordingPlace::of(storage.audit_sessions_uri.as_deref(), data_dir)?,
            retention: retention(&section.recording_retention)?,
            recording_keys: recording_keys(section.session_recording_encryption)?,
            second_factor: second_factor(&section.authentication)?,
            lock_mode: section.authentication.locking_mode.unwrap_or_default(),
            tunnel_strategy: tunnel_strategy(&section.tunnel_strategy)?,
            password: password_hashing(&section.password_hashing)?,
            bootstrap: None,
            storage: url,
        })
    }
}

/// Where recordings are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the daemon must know all of them")]
pub enum RecordingPlace {
    /// In a directory of this host.
    Directory(PathBuf),
    /// In an object storage.
    S3(S3Config),
}

impl RecordingPlace {
    /// What `audit_sessions_uri` says, or the place in the data directory.
    pub(crate) fn of(uri: Option<&str>, data_dir: &Path) -> Result<Self> {
        match uri {
            Some(uri) => Self::parse(uri).context("storage.audit_sessions_uri"),
            None => Ok(Self::Directory(data_dir.join("recordings"))),
        }
    }

    /// Reads `file:///path` or `s3://bucket/prefix?…`.
    pub(crate) fn parse(uri: &str) -> Result<Self> {
        if let Some(path) = uri.strip_prefix("file://") {
            let path = path.strip_prefix("localhost").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(Self::Directory(path.into())),
                false => bail!("write file:///path, with three slashes"),
            };
        }
        match uri.split_once("://") {
            Some(("s3", _)) => Ok(Self::S3(uri.parse()?)),
            _ => bail!("write file:///path or s3://bucket/prefix?region=…"),
        }
    }
}

fn second_factor(section: &AuthenticationSection) -> Result<SecondFactor> {
    Ok(match &section.second_factor {
        None => SecondFactor::Otp,
        Some(FactorName::Word(word)) if word == "otp" => SecondFactor::Otp,
        Some(FactorName::Word(word)) if word == "off" => SecondFactor::Off,
        Some(FactorName::Switch(false)) => SecondFactor::Off,
        Some(_) => bail!("auth_service.authentication.second_factor: write otp, or off for tests"),
    })
}

fn tunnel_strategy(section: &TunnelStrategySection) -> Result<TunnelStrategy> {
    let count = section.agent_connection_count;
    let key = "auth_service.tunnel_strategy.agent_connection_count";
    match section.kind {
        StrategyName::AgentMesh if count.is_some() => {
            bail!(
                "{key}: with agent_mesh a node has a tunnel to each proxy; remove it, or write type: proxy_peering"
            )
        }
        StrategyName::AgentMesh => Ok(TunnelStrategy::AgentMesh),
        StrategyName::ProxyPeering => {
            let agent_connection_count = count.unwrap_or(NonZeroU8::MIN);
            if agent_connection_count.get() > MAX_AGENT_CONNECTIONS {
                bail!("{key}: at most {MAX_AGENT_CONNECTIONS}; 2 or 3 are enough");
            }
            Ok(TunnelStrategy::ProxyPeering { agent_connection_count })
        }
    }
}

fn password_hashing(section: &PasswordHashingSection) -> Result<PasswordConfig> {
    let mut config = PasswordConfig::default();
    if let Some(Size(bytes)) = section.memory {
        config.memory = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    }
    config.passes = section.passes.unwrap_or(config.passes);
    config.lanes = section.lanes.unwrap_or(config.lanes);
    config.parallel = section.parallel.unwrap_or(config.parallel);
    config.check().context("auth_service.password_hashing")?;
    Ok(config)
}

/// How long recordings are kept.
fn retention(section: &RetentionSection) -> Result<RetentionConfig> {
    let mut retention = RetentionConfig::default();
    if let Some(text) = &section.max_age {
        let age = parse_duration(text).map_err(anyhow::Error::msg);
        let age = age.context("auth_service.recording_retention.max_age")?;
        if age < SHORTEST_RETENTION {
            bail!(
                "auth_service.recording_retention.max_age: at least 1h, or sessions are deleted as they end"
            );
        }
        retention.max_age = Some(age);
    }
    retention.max_size = section.max_size.map(|size| size.0);
    Ok(retention)
}

/// Nobody wants recordings to be kept for less.
const SHORTEST_RETENTION: Duration = Duration::from_secs(3600);

/// Reads the recipients; the files are read by the daemon.
fn recording_keys(section: EncryptionSection) -> Result<(Vec<AgeRecipient>, Vec<PathBuf>)> {
    let recipients = section.recipients.iter().map(|text| text.trim().parse()).collect::<Result<Vec<_>, _>>();
    let recipients = recipients.context("auth_service.session_recording_encryption.recipients")?;
    if recipients.len() > MAX_RECIPIENTS {
        bail!("auth_service.session_recording_encryption.recipients: at most {MAX_RECIPIENTS}");
    }
    Ok((recipients, section.identity_files))
}

/// The URL of the storage.
fn url_of(section: &StorageSection, data_dir: &Path) -> Result<String> {
    let kind = section.kind.as_deref();
    if let Some(url) = &section.url {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let scheme = if scheme == "postgresql" { "postgres" } else { scheme };
        // The URL is not shown: it may hold a password.
        if !["etcd", "postgres"].contains(&scheme) {
            bail!("storage.url: it begins with etcd:// or postgres://; a file is named by storage.path");
        }
        if kind.is_some_and(|kind| kind != scheme) {
            bail!("storage.type: it is {:?}, and storage.url is of {scheme:?}", kind.unwrap_or_default());
        }
        if section.path.is_some() {
            bail!("storage: path and url exclude each other");
        }
        return Ok(url.clone());
    }
    match kind {
        None | Some("redb") => {
            let path = section.path.clone().unwrap_or_else(|| data_dir.join("backend.redb"));
            Ok(format!("redb:{}", path.display()))
        }
        Some("memory") => Ok("memory:".to_owned()),
        Some(kind @ ("etcd" | "postgres")) => {
            bail!("storage.url is missing: say where the storage of the type {kind} is")
        }
        Some(other) => bail!("storage.type: {other:?} is not known; use redb, etcd, postgres or memory"),
    }
}

fn recording_limits(section: &RecordingsSection) -> Result<RecordingLimits> {
    let mut limits = RecordingLimits::default();
    if let Some(size @ Size(bytes)) = section.max_size {
        let part = MAX_PART_LEN as u64;
        if bytes < part {
            bail!(
                "auth_service.recordings.max_size: {size} is less than one part of a recording; at least {}",
                Size(part)
            );
        }
        limits.recording_bytes = bytes;
    }
    if let Some(Size(bytes)) = section.max_size_per_day {
        limits.host_day_bytes = bytes;
    }
    if let Some(count) = section.max_count_per_day {
        if count == 0 {
            bail!("auth_service.recordings.max_count_per_day: at least 1");
        }
        limits.host_day_recordings = count;
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::super::{Overrides, Settings};
    use super::*;

    #[test]
    fn passwords_are_hashed_as_the_file_says_but_not_weakly() {
        let auth = |text: &str| {
            let flags = Overrides { data_dir: Some("/tmp/x".into()), ..Overrides::default() };
            let file =
                crate::config::parse(&format!("auth_service:\n  {text}\n")).map_err(anyhow::Error::msg)?;
            Ok::<_, anyhow::Error>(Settings::resolve(file, flags)?.auth.unwrap())
        };
        let dear =
            auth("password_hashing: {memory: 64MiB, passes: 3, lanes: 2, parallel: 4}").unwrap().password;
        assert_eq!((dear.memory, dear.passes, dear.lanes, dear.parallel), (64 << 10, 3, 2, 4));
        assert_eq!(auth("password_hashing: {passes: 3}").unwrap().password.memory, 19 << 10);
        for bad in ["memory: 1MiB", "passes: 1", "memory: 2GiB", "lanes: 0", "parallel: 0"] {
            let error = format!("{:#}", auth(&format!("password_hashing: {{{bad}}}")).unwrap_err());
            assert!(error.contains("auth_service.password_hashing"), "{bad}: {error}");
        }
        assert_eq!(auth("tokens: []").unwrap().second_factor, SecondFactor::Otp);
        for (text, factor) in
            [("otp", SecondFactor::Otp), ("off", SecondFactor::Off), ("\"off\"", SecondFactor::Off)]
        {
            let settings = auth(&format!("authentication: {{second_factor: {text}}}")).unwrap();
            assert_eq!(settings.second_factor, factor, "{text}");
        }
        assert_eq!(auth("tokens: []").unwrap().lock_mode, LockMode::BestEffort);
        for (text, mode) in [("strict", LockMode::Strict), ("best_effort", LockMode::BestEffort)] {
            let settings = auth(&format!("authentication: {{locking_mode: {text}}}")).unwrap();
            assert_eq!(settings.lock_mode, mode, "{text}");
        }
        assert!(auth("authentication: {locking_mode: lax}").is_err());
        assert_eq!(auth("tokens: []").unwrap().tunnel_strategy, TunnelStrategy::AgentMesh);
        for (text, count) in [("", 1), (", agent_connection_count: 2", 2)] {
            let settings = auth(&format!("tunnel_strategy: {{type: proxy_peering{text}}}")).unwrap();
            let agent_connection_count = count.try_into().unwrap();
            assert_eq!(settings.tunnel_strategy, TunnelStrategy::ProxyPeering { agent_connection_count });
        }
        for bad in [
            "type: proxies",
            "agent_connection_count: 2",
            "type: proxy_peering, agent_connection_count: 0",
            "type: proxy_peering, agent_connection_count: 17",
        ] {
            assert!(auth(&format!("tunnel_strategy: {{{bad}}}")).is_err(), "{bad}");
        }
        for bad in ["on", "webauthn", "\"\"", "OTP"] {
            assert!(auth(&format!("authentication: {{second_factor: {bad}}}")).is_err(), "{bad}");
        }
    }
}
