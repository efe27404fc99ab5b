//! What a daemon does: the file and the command line, checked and with every default filled in.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_backend::recordings::age::{AgeRecipient, MAX_RECIPIENTS};
use teleport_backend::recordings::s3::S3Config;
use teleport_core::access::ClusterRecording;
use teleport_core::auth::{Backup, PasswordConfig, RecordingLimits, RetentionConfig, SecondFactor};
use teleport_core::cert::CaPin;
use teleport_core::id::{ClusterName, HostRole, NodeName};
use teleport_core::label::Labels;
use teleport_core::peering::{MAX_AGENT_CONNECTIONS, TunnelStrategy};
use teleport_core::recording::MAX_PART_LEN;
use teleport_core::resource::LockMode;
use teleport_core::secret::SecretString;
use teleport_ssh::mux::ProxyProtocol;
use teleport_ssh::node::{Displays, GatewayPorts, MAX_FORWARDED, RESUME_FOR};
use teleport_ssh::pam::{PamConfig, PamService};
use teleport_ssh::record::{SpoolLimits, TooOld};

use super::file::{
    AuthenticationSection, FactorName, GatewayPortsName, PamSection, PasswordHashingSection,
    RecordingsSection, SpoolSection, StorageSection, StrategyName, TooOldName, TunnelStrategySection,
    X11Section, YesNo,
};
use super::proxy::ProxyFlags;
use super::{AuditSettings, FileConfig, ProxySettings, Size, parse_duration, proxy_protocol};

/// Flags of `teleport start`; each overrides the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--roles`
    pub roles: Option<Vec<HostRole>>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--nodename`
    pub nodename: Option<String>,
    /// `--auth-server`
    pub auth_servers: Vec<String>,
    /// `--proxy-server`
    pub proxy_server: Option<String>,
    /// `--token`
    pub token: Option<String>,
    /// `--ca-pin`
    pub ca_pins: Vec<String>,
    /// `--require-ca-pin`
    pub require_ca_pin: bool,
    /// `--labels`
    pub labels: Option<String>,
    /// `--listen-ip`
    pub listen_ip: Option<std::net::IpAddr>,
    /// `--advertise-ip`
    pub advertise_ip: Option<String>,
    /// `--cluster-name`
    pub cluster_name: Option<String>,
    /// `--diag-addr`
    pub diag_addr: Option<String>,
    /// `--one-port`
    pub one_port: bool,
    /// `--public-addr`
    pub public_addr: Vec<String>,
    /// `--acme`
    pub acme: bool,
    /// `--acme-email`
    pub acme_email: Option<String>,
}

/// What a daemon does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where state is kept.
    pub data_dir: PathBuf,
    /// The display name of this host.
    pub nodename: NodeName,
    /// The name or address that others reach this host by, without a port.
    pub advertise: Option<String>,
    /// The auth service, if it runs here.
    pub auth: Option<AuthSettings>,
    /// The proxy, if it runs here.
    pub proxy: Option<ProxySettings>,
    /// The node, if it runs here.
    pub node: Option<NodeSettings>,
    /// Where the auth service is reached, if it does not run here: `host:port`.
    pub auth_servers: Vec<String>,
    /// The join token, if one was given.
    pub token: Option<SecretString>,
    /// How the cluster is recognised.
    pub ca_pins: Vec<CaPin>,
    /// Whether joining without a pin is refused.
    pub require_ca_pin: bool,
    /// Where the daemon is asked how it is; nowhere unless said.
    pub diag_addr: Option<SocketAddr>,
}

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

/// The node.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Whether it listens nowhere and has tunnels to the proxies, which are where the way to the auth service begins.
    pub tunnels: bool,
    /// Where it listens, if it does.
    pub listen: SocketAddr,
    /// Names and addresses that proxies reach it by.
    pub public_addresses: Vec<String>,
    /// Its labels.
    pub labels: Labels,
    /// What may wait for the auth service.
    pub recordings: SpoolLimits,
    /// What PAM is asked about sessions, if it is asked.
    pub pam: Option<PamConfig>,
    /// How long connections that were lost are kept for their clients; zero is not at all.
    pub resume_for: Duration,
    /// The most forwarded connections of one connection at a time.
    pub max_forwarded: usize,
    /// On which addresses users may have it listen.
    pub gateway_ports: GatewayPorts,
    /// The displays that sessions may have, if any.
    pub x11: Option<Displays>,
    /// This program, which it starts for users who copy files: [`THIS_PROGRAM`], unless it is part of another one.
    pub program: PathBuf,
}

/// This program itself, even after its file was replaced by a newer one.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// `/var/lib/teleport` for root, else below the XDG state directory.
///
/// # Errors
/// When the user has no home directory.
pub fn default_data_dir() -> Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/teleport".into());
    }
    if let Some(state) = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(state).join("teleport"));
    }
    match std::env::var_os("HOME").filter(|path| !path.is_empty()) {
        Some(home) => Ok(PathBuf::from(home).join(".local/state/teleport")),
        None => bail!("there is no home directory; say --data-dir"),
    }
}

pub(crate) fn host_name() -> NodeName {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let valid = name.as_deref().and_then(|name| NodeName::new(name).ok());
    valid.or_else(|| NodeName::new("localhost").ok()).unwrap_or_else(|| unreachable!("localhost is a name"))
}

pub(super) fn address(
    text: Option<&str>,
    port: u16,
    ip: Option<std::net::IpAddr>,
    key: &str,
) -> Result<SocketAddr> {
    let any = ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let Some(text) = text else { return Ok((any, port).into()) };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok((ip, port).into());
    }
    bail!("{key}: {text:?} is not an address to listen on; write it like 0.0.0.0:{port}")
}

/// Its port has no default that others would not have as well, so it is to be said.
fn diag_addr(text: Option<&str>) -> Result<Option<SocketAddr>> {
    text.map(|text| {
        text.parse().ok().with_context(|| {
            format!("diag_addr: {text:?} is not an address to listen on; write it like 127.0.0.1:3000")
        })
    })
    .transpose()
}

/// Adds `port` to `host` or `host:port`; brackets a bare IPv6 address.
pub(crate) fn with_port(text: &str, port: u16) -> String {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{text}]:{port}");
    }
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port { text.to_owned() } else { format!("{text}:{port}") }
}

/// How long connections are kept: at most a day, for each holds memory.
fn resume_for(text: Option<&str>) -> Result<Duration> {
    const MOST: Duration = Duration::from_secs(86_400);
    match text {
        None => Ok(RESUME_FOR),
        Some("off") => Ok(Duration::ZERO),
        Some(text) => {
            let time = parse_duration(text).map_err(anyhow::Error::msg).context("ssh_service.resume_for")?;
            if time > MOST || time < Duration::from_secs(1) {
                bail!("ssh_service.resume_for: say a time from 1s to 24h, or off");
            }
            Ok(time)
        }
    }
}

/// Half of the descriptors of the process bounds all of them together, whatever is said here.
fn max_forwarded(most: Option<u32>) -> Result<usize> {
    let most = most.map_or(Ok(MAX_FORWARDED), usize::try_from)?;
    if !(1..=65_536).contains(&most) {
        bail!(
            "ssh_service.max_forwarded: say 1 to 65536; that nobody forwards anything is for roles to say (port_forwarding)"
        );
    }
    Ok(most)
}

/// `host` of `host` or `host:port`.
pub(crate) fn without_port(text: &str) -> &str {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return text;
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => text,
    }
}

/// A secret given as itself or, as an absolute path, in a file.
pub(crate) fn read_secret(text: &str) -> Result<SecretString> {
    if !Path::new(text).is_absolute() {
        return Ok(SecretString::new(text));
    }
    let content =
        std::fs::read_to_string(text).with_context(|| format!("cannot read the token file {text}"))?;
    Ok(SecretString::new(content.trim()))
}

impl Settings {
    /// Checks a file's content and the command line, and fills in the defaults.
    ///
    /// # Errors
    /// A sentence that names the key or flag and says what to do.
    pub fn resolve(file: FileConfig, flags: Overrides) -> Result<Self> {
        let enabled = |section: Option<YesNo>| section.is_none_or(|yes| yes.0);
        let shared = file.teleport;
        let named = !flags.auth_servers.is_empty() || flags.proxy_server.is_some();
        let of_file = shared.auth_server.map(super::file::OneOrMany::into_vec).unwrap_or_default();
        let (auth_servers, by_proxy) = match named {
            true => way(flags.proxy_server, flags.auth_servers)?,
            false => way(shared.proxy_server, of_file)?,
        };
        let roles = match flags.roles {
            Some(roles) => roles,
            None => {
                let mut roles = Vec::new();
                // Naming another auth server means not to be one.
                if enabled(file.auth_service.enabled)
                    && (auth_servers.is_empty() || file.auth_service.enabled.is_some())
                    && !named
                {
                    roles.push(HostRole::Auth);
                }
                if enabled(file.proxy_service.enabled) {
                    roles.push(HostRole::Proxy);
                }
                if enabled(file.ssh_service.enabled) {
                    roles.push(HostRole::Node);
                }
                roles
            }
        };
        if roles.is_empty() {
            bail!("every service is disabled; enable one in the configuration or say --roles=node");
        }
        let data_dir = match flags.data_dir.or(shared.data_dir) {
            Some(dir) => dir,
            None => default_data_dir()?,
        };
        let data_dir = std::path::absolute(&data_dir).context("the data directory has no absolute path")?;
        let nodename = match flags.nodename.or(shared.nodename) {
            Some(name) => NodeName::new(&name).context("nodename")?,
            None => host_name(),
        };
        let ip = flags.listen_ip;
        let auth = if roles.contains(&HostRole::Auth) {
            let cluster_name = flags.cluster_name.or(file.auth_service.cluster_name);
            let storage = SecretString::new(storage(&shared.storage, &data_dir)?);
            Some(AuthSettings {
                listen: address(
                    file.auth_service.listen_addr.as_deref(),
                    3025,
                    ip,
                    "auth_service.listen_addr",
                )?,
                cluster_name: cluster_name
                    .map(|name| ClusterName::new(&name))
                    .transpose()
                    .context("cluster_name")?,
                public_addresses: hosts(file.auth_service.public_addr),
                protocol: proxy_protocol::resolve(
                    file.auth_service.proxy_protocol,
                    file.auth_service.proxy_protocol_sources,
                    "auth_service",
                )?,
                static_tokens: file.auth_service.tokens,
                audit: AuditSettings::resolve(&file.auth_service.audit, shared.storage.audit_events_uri)?,
                session_recording: ClusterRecording::new(
                    file.auth_service.session_recording.unwrap_or_default(),
                    file.auth_service.session_recording_rules,
                )
                .context("auth_service.session_recording_rules")?,
                recordings: recording_limits(&file.auth_service.recordings)?,
                recording_store: RecordingPlace::of(shared.storage.audit_sessions_uri.as_deref(), &data_dir)?,
                retention: retention(&file.auth_service.recording_retention)?,
                recording_keys: recording_keys(file.auth_service.session_recording_encryption)?,
                second_factor: second_factor(&file.auth_service.authentication)?,
                lock_mode: file.auth_service.authentication.locking_mode.unwrap_or_default(),
                tunnel_strategy: tunnel_strategy(&file.auth_service.tunnel_strategy)?,
                password: password_hashing(&file.auth_service.password_hashing)?,
                bootstrap: None,
                storage,
            })
        } else {
            None
        };
        let of_proxy = flags.acme || flags.acme_email.is_some() || !flags.public_addr.is_empty();
        if of_proxy && !roles.contains(&HostRole::Proxy) {
            bail!("--public-addr, --acme and --acme-email are for the host that runs the proxy");
        }
        let proxy = if roles.contains(&HostRole::Proxy) {
            let Overrides { public_addr, acme, acme_email, one_port, .. } = flags;
            let flags = ProxyFlags { public_addr, acme, acme_email, one_port };
            Some(ProxySettings::resolve(file.proxy_service, flags, ip)?)
        } else {
            None
        };
        let node = if roles.contains(&HostRole::Node) {
            let labels = match flags.labels {
                Some(labels) => labels.parse().context("--labels")?,
                None => Labels::new(file.ssh_service.labels).context("ssh_service.labels")?,
            };
            Some(NodeSettings {
                // Whoever says where it listens wants it to listen.
                tunnels: by_proxy && file.ssh_service.listen_addr.is_none(),
                listen: address(
                    file.ssh_service.listen_addr.as_deref(),
                    3022,
                    ip,
                    "ssh_service.listen_addr",
                )?,
                recordings: spool_limits(&file.ssh_service.recordings)?,
                resume_for: resume_for(file.ssh_service.resume_for.as_deref())?,
                max_forwarded: max_forwarded(file.ssh_service.max_forwarded)?,
                gateway_ports: match file.ssh_service.gateway_ports {
                    GatewayPortsName::ClientSpecified => GatewayPorts::ClientSpecified,
                    GatewayPortsName::No => GatewayPorts::No,
                },
                x11: displays(&file.ssh_service.x11)?,
                pam: pam(&file.ssh_service.pam)?,
                public_addresses: hosts(file.ssh_service.public_addr),
                labels,
                program: THIS_PROGRAM.into(),
            })
        } else {
            None
        };
        if auth.is_none() && auth_servers.is_empty() {
            bail!(
                "where is the auth service? say --auth-server=host:3025 (or run it here: --roles=auth,proxy,node)"
            );
        }
        let pins = if flags.ca_pins.is_empty() {
            shared.ca_pin.map(super::file::OneOrMany::into_vec).unwrap_or_default()
        } else {
            flags.ca_pins
        };
        Ok(Self {
            data_dir,
            nodename,
            advertise: flags.advertise_ip.or(shared.advertise_ip),
            auth,
            proxy,
            node,
            auth_servers,
            token: flags.token.or(shared.auth_token).as_deref().map(read_secret).transpose()?,
            ca_pins: pins.iter().map(|pin| pin.trim().parse()).collect::<Result<_, _>>()?,
            require_ca_pin: flags.require_ca_pin || shared.require_ca_pin,
            diag_addr: diag_addr(flags.diag_addr.or(shared.diag_addr).as_deref())?,
        })
    }
}

/// The way to the auth service, each `host:port`, and whether it begins at the web ports of proxies: those that everybody uses say so by
/// themselves.
fn way(proxy: Option<String>, auth: Vec<String>) -> Result<(Vec<String>, bool)> {
    if let Some(proxy) = proxy {
        return Ok((vec![with_port(&proxy, 3080)], true));
    }
    let servers: Vec<String> = auth
        .iter()
        .map(|text| match text.trim() {
            "" => bail!("auth_server: one of the addresses is empty; write host:3025"),
            text => Ok(with_port(text, 3025)),
        })
        .collect::<Result<_>>()?;
    let of_proxy = |server: &String| server.ends_with(":3080") || server.ends_with(":443");
    let by_proxy = !servers.is_empty() && servers.iter().all(of_proxy);
    Ok((servers, by_proxy))
}

pub(super) fn hosts(list: Option<super::file::OneOrMany>) -> Vec<String> {
    let list = list.map(super::file::OneOrMany::into_vec).unwrap_or_default();
    list.iter().map(|text| without_port(text).to_owned()).collect()
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

/// Less could not hold the recordings of a few sessions.
const MIN_SPOOL: u64 = 16 << 20;

fn spool_limits(section: &SpoolSection) -> Result<SpoolLimits> {
    let mut limits = SpoolLimits::default();
    if let Some(size @ Size(bytes)) = section.max_size {
        if bytes < MIN_SPOOL {
            bail!("ssh_service.recordings.max_size: {size} is too little; at least {}", Size(MIN_SPOOL));
        }
        limits.max_bytes = bytes;
    }
    if let Some(text) = &section.max_age {
        let age = parse_duration(text).map_err(anyhow::Error::msg);
        limits.max_age = age.context("ssh_service.recordings.max_age")?;
    }
    limits.too_old = match section.too_old {
        Some(TooOldName::Delete) => TooOld::Delete,
        Some(TooOldName::Keep) | None => TooOld::Keep,
    };
    Ok(limits)
}

/// The displays that sessions may have.
fn displays(section: &X11Section) -> Result<Option<Displays>> {
    let first = section.display_offset.unwrap_or(Displays::default().first());
    let displays = Displays::new(first, section.max_display).context("ssh_service.x11")?;
    Ok(section.enabled.is_some_and(|enabled| enabled.0).then_some(displays))
}

/// What PAM is asked about sessions.
fn pam(section: &PamSection) -> Result<Option<PamConfig>> {
    if section.use_pam_auth.is_some_and(|wanted| wanted.0) {
        bail!(
            "ssh_service.pam.use_pam_auth: users log in by certificates only; write false. Modules of `account` and `session` are asked"
        );
    }
    let service = section.service_name.as_deref().unwrap_or("sshd");
    let service = PamService::new(service).context("ssh_service.pam.service_name")?;
    let mut config = PamConfig::new(service);
    for (name, value) in &section.environment {
        config =
            config.variable(name, value).with_context(|| format!("ssh_service.pam.environment: {name:?}"))?;
    }
    Ok(section.enabled.is_some_and(|enabled| enabled.0).then_some(config))
}

/// How long recordings are kept.
fn retention(section: &super::file::RetentionSection) -> Result<RetentionConfig> {
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
fn recording_keys(section: super::file::EncryptionSection) -> Result<(Vec<AgeRecipient>, Vec<PathBuf>)> {
    let recipients = section.recipients.iter().map(|text| text.trim().parse()).collect::<Result<Vec<_>, _>>();
    let recipients = recipients.context("auth_service.session_recording_encryption.recipients")?;
    if recipients.len() > MAX_RECIPIENTS {
        bail!("auth_service.session_recording_encryption.recipients: at most {MAX_RECIPIENTS}");
    }
    Ok((recipients, section.identity_files))
}

/// The URL of the storage.
fn storage(section: &StorageSection, data_dir: &Path) -> Result<String> {
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
    use super::*;

    fn resolve(flags: Overrides) -> Result<Settings> {
        Settings::resolve(FileConfig::default(), Overrides { data_dir: Some("/tmp/x".into()), ..flags })
    }

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

    #[test]
    fn without_anything_it_is_a_whole_cluster() {
        let settings = resolve(Overrides::default()).unwrap();
        assert!(settings.auth.is_some() && settings.proxy.is_some() && settings.node.is_some());
        assert_eq!(settings.node.unwrap().listen.port(), 3022);
    }

    #[test]
    fn another_auth_server_disables_the_own() {
        let flags = Overrides { auth_servers: vec!["auth".into()], ..Overrides::default() };
        let settings = resolve(flags).unwrap();
        assert!(settings.auth.is_none());
        assert_eq!(settings.auth_servers, ["auth:3025"]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let flags = Overrides { roles: Some(vec![HostRole::Node]), ..Overrides::default() };
        assert!(resolve(flags).unwrap_err().to_string().contains("--auth-server"));
        let flags = Overrides { ca_pins: vec!["sha256:zz".into()], ..Overrides::default() };
        assert!(resolve(flags).unwrap_err().to_string().contains("tctl status"));
        let flags = Overrides { nodename: Some("a b".into()), ..Overrides::default() };
        assert!(resolve(flags).is_err());
    }

    #[test]
    fn ports_are_added_and_removed() {
        assert_eq!(with_port("auth", 3025), "auth:3025");
        assert_eq!(with_port("auth:1", 3025), "auth:1");
        assert_eq!(with_port("::1", 3025), "[::1]:3025");
        assert_eq!(with_port("[::1]:5", 3025), "[::1]:5");
        assert_eq!(without_port("[::1]:5"), "::1");
        assert_eq!(without_port("proxy.example.com:443"), "proxy.example.com");
    }
}
