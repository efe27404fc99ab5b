//! What a daemon does: the file and the command line, checked and with every default filled in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use teleport_core::cert::CaPin;
use teleport_core::id::{HostRole, NodeName};
use teleport_core::secret::SecretString;

use super::addresses::{diag_addr, with_port};
use super::file::{OneOrMany, YesNo};
use super::proxy::ProxyFlags;
use super::{AuthSettings, FileConfig, NodeSettings, ProxySettings};

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
    pub fn resolve(mut file: FileConfig, flags: Overrides) -> Result<Self> {
        let enabled = |section: Option<YesNo>| section.is_none_or(|yes| yes.0);
        let shared = file.teleport;
        let named = !flags.auth_servers.is_empty() || flags.proxy_server.is_some();
        let of_file = shared.auth_server.map(OneOrMany::into_vec).unwrap_or_default();
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
            let cluster_name = flags.cluster_name.or(file.auth_service.cluster_name.take());
            Some(AuthSettings::resolve(file.auth_service, shared.storage, cluster_name, &data_dir, ip)?)
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
            Some(NodeSettings::resolve(file.ssh_service, by_proxy, flags.labels, ip)?)
        } else {
            None
        };
        if auth.is_none() && auth_servers.is_empty() {
            bail!(
                "where is the auth service? say --auth-server=host:3025 (or run it here: --roles=auth,proxy,node)"
            );
        }
        let pins = if flags.ca_pins.is_empty() {
            shared.ca_pin.map(OneOrMany::into_vec).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn resolve(flags: Overrides) -> Result<Settings> {
        Settings::resolve(FileConfig::default(), Overrides { data_dir: Some("/tmp/x".into()), ..flags })
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
}
