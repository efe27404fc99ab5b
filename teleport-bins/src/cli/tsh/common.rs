//! What the commands of `tsh` share.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use teleport_core::clock::{Clock, SystemClock};
use teleport_core::entropy::{Entropy, SystemEntropy};
use teleport_ssh::client::openssh::ProxyAddress;
use teleport_ssh::client::{Profile, ProfileStore, SshClient};
use teleport_ssh::rpc::{AuthClient, ClientIdentity, ProxyConnector, UserCredentials};

/// The port of a proxy's HTTPS if none is said.
const WEB_PORT: u16 = 3080;

/// Where logins are, and which proxy is meant.
pub(super) struct Context {
    pub(super) profiles: ProfileStore,
    pub(super) proxy: Option<ProxyAddress>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl Context {
    pub(super) fn new(home: Option<PathBuf>, proxy: Option<String>) -> Result<Self> {
        let home = match home {
            Some(home) => std::path::absolute(home)?,
            None => match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
                Some(home) => PathBuf::from(home).join(".tsh"),
                None => bail!("there is no home directory; set TELEPORT_HOME to a directory for your logins"),
            },
        };
        Ok(Self {
            profiles: ProfileStore::at(home),
            proxy: proxy.as_deref().map(parse_proxy).transpose()?,
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy::new()),
        })
    }

    /// The login that is meant, valid or not.
    pub(super) fn any_profile(&self) -> Result<Profile> {
        match self.profiles.load(self.proxy.as_ref())? {
            Some(profile) => Ok(profile),
            None => bail!("not logged in; run: tsh login --proxy=<host> --user=<name>"),
        }
    }

    /// The login that is meant, and still valid.
    pub(super) fn profile(&self) -> Result<Profile> {
        let profile = self.any_profile()?;
        if !profile.is_valid(self.clock.now()) {
            bail!(
                "your certificate has expired; run: tsh login --proxy={} --user={}",
                profile.web_address.to_authority(),
                profile.user
            );
        }
        Ok(profile)
    }

    /// The auth service, by way of the proxy and as the user.
    pub(super) fn api(&self, profile: &Profile) -> AuthClient {
        let connector = ProxyConnector::new([profile.web_address.to_authority()], profile.cluster().clone());
        let user = UserCredentials {
            tls: profile.tls.clone(),
            certificate: profile.certificates.tls.clone(),
            trust: profile.trust.clone(),
        };
        AuthClient::builder(Arc::new(connector), ClientIdentity::User(user), Arc::clone(&self.clock)).build()
    }

    /// SSH as the user.
    pub(super) fn ssh(&self, profile: &Profile) -> SshClient {
        SshClient::new(profile.credentials(), Arc::clone(&self.clock))
    }
}

/// Reads `host`, `host:port` or `https://host:port`.
pub(super) fn parse_proxy(text: &str) -> Result<ProxyAddress> {
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or_default();
    let address = crate::config::with_port(bare, WEB_PORT);
    ProxyAddress::parse(&address).with_context(|| format!("--proxy: {text:?} is not the address of a proxy"))
}

/// Asks for a secret on the terminal, without echo; reads a line of standard input where there is no terminal.
pub(super) fn ask_secret(prompt: &str) -> Result<teleport_core::secret::SecretString> {
    use std::io::{BufRead, IsTerminal};
    let answer = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(prompt).context("nothing could be read")?
    } else {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).context("nothing could be read")?;
        if read == 0 {
            bail!(
                "standard input ended where an answer was expected: {}",
                prompt.trim_end_matches([':', ' '])
            );
        }
        line.trim_end_matches(['\n', '\r']).to_owned()
    };
    Ok(answer.into())
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
