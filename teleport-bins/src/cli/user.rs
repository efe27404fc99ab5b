//! Who somebody is at a cluster, for `tsh` and `tctl` alike: where logins are kept, and how the auth service is reached with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use teleport_core::cert::TrustBundle;
use teleport_core::clock::{Clock, Timestamp};
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{IdentityFile, Profile};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, ProxyConnector, UserCredentials};

use crate::config::with_port;

/// The port of a proxy's HTTPS if none is said.
const WEB_PORT: u16 = 3080;

/// Where the logins of this machine's user are, if the command line does not say.
pub(super) fn home(said: Option<PathBuf>) -> Result<PathBuf> {
    let home = said.filter(|home| !home.as_os_str().is_empty());
    match home {
        Some(home) => Ok(std::path::absolute(home)?),
        None => match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            Some(home) => Ok(PathBuf::from(home).join(".tsh")),
            None => bail!("there is no home directory; set TELEPORT_HOME to a directory for your logins"),
        },
    }
}

/// Reads `host`, `host:port` or `https://host:port`.
pub(super) fn parse_proxy(text: &str) -> Result<ProxyAddress> {
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or_default();
    let address = with_port(bare, WEB_PORT);
    ProxyAddress::parse(&address).with_context(|| format!("--proxy: {text:?} is not the address of a proxy"))
}

/// Why an identity file is of no use any more.
pub(super) fn over(path: &Path, ended: Timestamp) -> anyhow::Error {
    anyhow::anyhow!(
        "the certificates in {} ended at {ended}; make new ones with `tsh login --out` or `tctl auth sign`",
        path.display()
    )
}

/// What to show to the auth service.
pub(super) trait Credentials {
    fn credentials(&self) -> UserCredentials;
}

impl Credentials for IdentityFile {
    fn credentials(&self) -> UserCredentials {
        let (tls, certificate) = (self.tls.clone(), self.certificates.tls.clone());
        UserCredentials { tls, certificate, trust: self.trust.clone() }
    }
}

impl Credentials for Profile {
    fn credentials(&self) -> UserCredentials {
        let (tls, certificate) = (self.tls.clone(), self.certificates.tls.clone());
        UserCredentials { tls, certificate, trust: self.trust.clone() }
    }
}

/// The auth service as this user. `address` is its own, or the HTTPS of a proxy as the way to it: the auth service takes connections
/// that are meant for a proxy's way to it, so nobody has to say which of the two it is.
pub(super) fn auth_client(who: &impl Credentials, address: &str, clock: Arc<dyn Clock>) -> AuthClient {
    let user = who.credentials();
    let TrustBundle { cluster, .. } = &user.trust;
    let connector = ProxyConnector::new([address], cluster.clone());
    AuthClient::builder(Arc::new(connector), ClientIdentity::User(user), clock).build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn proxies_are_written_in_several_ways() {
        for (text, expected) in [
            ("proxy.example.com", "proxy.example.com:3080"),
            ("proxy.example.com:443", "proxy.example.com:443"),
            ("https://proxy.example.com:443/web", "proxy.example.com:443"),
            ("::1", "[::1]:3080"),
            ("127.0.0.1", "127.0.0.1:3080"),
        ] {
            assert_eq!(parse_proxy(text).unwrap().to_authority(), expected);
        }
        for bad in ["", "a b", "-oProxyCommand=x", "host:99999", "`id`"] {
            assert!(parse_proxy(bad).is_err(), "{bad}");
        }
    }
}
