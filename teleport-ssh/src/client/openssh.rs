//! What stock OpenSSH needs to reach nodes through the proxy: a block for `ssh_config`, lines for `known_hosts`.
//!
//! Everything in them is a parsed name, an address or a quoted path, so nothing that a cluster, a node or a user is called can become
//! an option or reach a shell (`ssh` hands `ProxyCommand` to one).
//!
//! The proxy is recognised by the principal that only proxies have ([`proxy_principal`]), not by its address: a node may list any
//! address among its own, also the proxy's, and its certificate then names it.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use teleport_core::cert::{PublicKey, TrustBundle, proxy_principal};
use teleport_core::id::{ClusterName, NodeName};

/// A text cannot stand in a configuration of OpenSSH.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address of a proxy is not `host:port`.
    #[error("{text:?} is not an address of the form host:port")]
    Address {
        /// The text.
        text: String,
    },
    /// A path has characters that `ssh_config` cannot hold, or is not UTF-8.
    #[error(
        "the path {path:?} cannot be written in an ssh_config: it has control characters or a double quote"
    )]
    Path {
        /// The path.
        path: PathBuf,
    },
}

/// The address of a proxy, taken apart: a name or address and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyAddress {
    /// The name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl ProxyAddress {
    /// Reads `host:port`.
    ///
    /// # Errors
    /// [`ConfigError::Address`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let error = || ConfigError::Address { text: text.chars().take(300).collect() };
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or_else(error)?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
                inner
            }
            None => host,
        };
        let named = NodeName::new(host).is_ok() || host.parse::<IpAddr>().is_ok();
        match port.parse() {
            Ok(port) if named && port != 0 => Ok(Self { host: host.to_owned(), port }),
            _ => Err(error()),
        }
    }

    /// `host:port`, with brackets where they are needed.
    pub fn to_authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Lines for `known_hosts`: whoever shows a certificate of the cluster's host authority for a name in the cluster is believed;
/// the proxy's [`proxy_principal`] is one, addresses are none. No host key is ever learnt.
pub fn known_hosts(trust: &TrustBundle) -> String {
    let mut lines = String::new();
    for authority in &trust.host_ca {
        let _ = writeln!(lines, "{}", host_authority(&trust.cluster, authority));
    }
    lines
}

/// The line of [`known_hosts`] for one authority, without a line feed.
pub fn host_authority(cluster: &ClusterName, authority: &PublicKey) -> String {
    // Nodes are asked for at port 3022 too, and `ssh` then looks for the form with brackets.
    format!("@cert-authority *.{cluster},[*.{cluster}]:* {authority}")
}

/// The files that a configuration refers to.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct ConfigFiles {
    /// The private key.
    pub identity: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// The lines of [`known_hosts`].
    pub known_hosts: PathBuf,
}

impl ConfigFiles {
    fn quoted(&self) -> Result<[String; 3], ConfigError> {
        Ok([quote(&self.identity)?, quote(&self.certificate)?, quote(&self.known_hosts)?])
    }
}

/// A block for `ssh_config` with which `ssh login@node.cluster` reaches nodes. It needs no other program: OpenSSH itself
/// jumps through the proxy.
///
/// `proxy_login` is the login to name at the proxy, which does not matter to it; the user's name is good.
///
/// # Errors
/// [`ConfigError`].
pub fn config(
    cluster: &ClusterName,
    proxy: &ProxyAddress,
    proxy_login: &str,
    files: &ConfigFiles,
) -> Result<String, ConfigError> {
    let [identity, certificate, known_hosts] = files.quoted()?;
    let alias = proxy_principal(cluster);
    let ProxyAddress { host, port } = proxy;
    let proxy_login = login_word(proxy_login);
    Ok(format!(
        "# Cluster {cluster}\n\
         Host {alias}\n\
         \x20   HostName {host}\n\
         \x20   HostKeyAlias {alias}\n\
         \x20   Port {port}\n\
         \x20   User {proxy_login}\n\
         \n\
         Host *.{cluster} !{alias}\n\
         \x20   Port 3022\n\
         \x20   ProxyJump {alias}\n\
         \n\
         Host *.{cluster} {alias}\n\
         \x20   IdentityFile {identity}\n\
         \x20   CertificateFile {certificate}\n\
         \x20   IdentitiesOnly yes\n\
         \x20   UserKnownHostsFile {known_hosts}\n\
         \x20   GlobalKnownHostsFile /dev/null\n\
         \x20   StrictHostKeyChecking yes\n\
         \x20   UpdateHostKeys no\n",
    ))
}

/// A line for a shell: `ssh -J` through the proxy to a node, without any configuration.
///
/// # Errors
/// [`ConfigError`].
pub fn jump_command(
    cluster: &ClusterName,
    proxy: &ProxyAddress,
    login: &str,
    node: &str,
    files: &ConfigFiles,
) -> Result<String, ConfigError> {
    // `-i`, `-o CertificateFile` and the like do not reach the jump host: OpenSSH starts a second `ssh` for it, which reads
    // configuration files only. So the proxy is reached by a ProxyCommand, which is what `-J` does itself.
    let [identity, certificate, known_hosts] = files.quoted()?;
    let login = login_word(login);
    let options = [
        format!("IdentityFile={identity}"),
        format!("CertificateFile={certificate}"),
        "IdentitiesOnly=yes".to_owned(),
        format!("UserKnownHostsFile={known_hosts}"),
        "StrictHostKeyChecking=yes".to_owned(),
    ];
    let options = shell_words(&options);
    let ProxyAddress { host, port } = proxy;
    // A shell reads this as well, and before it `ssh` expands the tokens in it.
    let jump = format!(
        "ssh -F none {} -o HostKeyAlias={} -W '[%h]:%p' -p {port} {login}@{host}",
        options.replace('%', "%%"),
        proxy_principal(cluster)
    );
    Ok(format!(
        "ssh -F none {options} -o ProxyCommand={} -p 3022 {login}@{}",
        shell_quote(&jump),
        shell_quote(node),
    ))
}

/// Only what every shell and `ssh` itself read as one plain word.
fn login_word(login: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !login.is_empty() && !login.starts_with('-') && login.bytes().all(plain) { login } else { "user" }
}

/// A path as `ssh_config` reads it: in double quotes, with `%` doubled because tokens are expanded in it. A `$` would begin a
/// variable in some of these options, but only as `${`.
fn quote(path: &Path) -> Result<String, ConfigError> {
    let error = || ConfigError::Path { path: path.to_owned() };
    let text = path.to_str().ok_or_else(error)?;
    if text.chars().any(|c| c.is_control() || c == '"' || c == '\\') || text.contains("${") {
        return Err(error());
    }
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

/// Options as words for a shell.
fn shell_words(options: &[String]) -> String {
    options.iter().map(|option| format!("-o {}", shell_quote(option))).collect::<Vec<_>>().join(" ")
}

/// One word for a POSIX shell, quoted if it needs it.
pub fn shell_quote(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:=@,+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn files(dir: &str) -> ConfigFiles {
        let at = |name: &str| Path::new(dir).join(name);
        ConfigFiles { identity: at("key"), certificate: at("key-cert.pub"), known_hosts: at("known_hosts") }
    }

    #[test]
    fn addresses() {
        let parse = |text: &str| ProxyAddress::parse(text).map(|address| address.to_authority());
        for good in ["proxy.example.com:3023", "127.0.0.1:1", "[::1]:3023"] {
            assert_eq!(parse(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":22",
            "-oProxyCommand=id:22",
            "$(id):22",
            "a b:22",
            "a\nb:22",
            "[::1:22",
            "[x]:22",
            "a'b:22",
            "::1]:22",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_are_quoted_or_refused() {
        assert_eq!(quote(Path::new("/a b/100%/it's")).unwrap(), "\"/a b/100%%/it's\"");
        for bad in ["/a\"b", "/a\nb", "/a\\b", "/${HOME}/x"] {
            assert!(quote(Path::new(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shells_see_one_word() {
        assert_eq!(shell_quote("web"), "web");
        assert_eq!(shell_quote("$(id)"), "'$(id)'");
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
        assert_eq!(shell_quote(""), "''");
        assert_eq!(login_word("-oProxyCommand=id"), "user");
        assert_eq!(login_word("`id`"), "user");
    }

    #[test]
    fn a_config_names_every_file_and_the_jump() {
        let cluster = ClusterName::new("example.com").unwrap();
        let proxy = ProxyAddress::parse("proxy.example.com:3023").unwrap();
        let text = config(&cluster, &proxy, "alice", &files("/home/a b/.tsh")).unwrap();
        for line in [
            "Host teleport-proxy.example.com",
            "    HostName proxy.example.com",
            "    HostKeyAlias teleport-proxy.example.com",
            "    ProxyJump teleport-proxy.example.com",
            "    CertificateFile \"/home/a b/.tsh/key-cert.pub\"",
            "    StrictHostKeyChecking yes",
        ] {
            assert!(text.lines().any(|other| other == line), "{line:?} in\n{text}");
        }
        assert!(config(&cluster, &proxy, "alice", &files("/home/a\"b")).is_err());
    }
}
