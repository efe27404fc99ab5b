//! What browsers are shown at the proxy's web port.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use teleport_ssh::acme::AcmeConfig;

use super::addresses::address;
use super::file::{AcmeSection, KeyPair};
use super::parse_duration;

/// How often files are looked at, unless said.
pub(crate) const RELOAD: Duration = Duration::from_secs(60);

/// What browsers are shown.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the daemon must know all of them")]
#[expect(clippy::large_enum_variant, reason = "a process has one of them")]
pub enum Https {
    /// A certificate by ACME.
    Acme {
        /// What is ordered, but for the authorities that vouch for the directory.
        config: AcmeConfig,
        /// These authorities, PEM; those of the system if absent.
        ca_file: Option<PathBuf>,
        /// Where names are proved by HTTP-01, instead of TLS-ALPN-01.
        http_listen: Option<SocketAddr>,
        /// The account at the authority that the one of ACME belongs to: its id, and the file of its key.
        external: Option<(String, PathBuf)>,
    },
    /// Files of keys and certificates.
    Files {
        /// Key, then certificates.
        pairs: Vec<(PathBuf, PathBuf)>,
        /// How often it is looked whether they have changed.
        reload: Option<Duration>,
    },
    /// The cluster's own certificate of the proxy.
    Own,
}

impl Https {
    pub(super) fn resolve(
        pairs: Vec<KeyPair>,
        interval: Option<&str>,
        acme: AcmeSection,
        public_addresses: &[String],
    ) -> Result<Self> {
        if acme.enabled.is_some_and(|enabled| enabled.0) {
            if !pairs.is_empty() {
                bail!("proxy_service: acme and https_keypairs exclude each other; remove one of them");
            }
            return Self::acme(acme, public_addresses);
        }
        let reload = match interval {
            None => Some(RELOAD),
            Some("off" | "0") => None,
            Some(text) => {
                let key = "proxy_service.https_keypairs_reload_interval";
                Some(parse_duration(text).map_err(anyhow::Error::msg).context(key)?)
                    .filter(|every| !every.is_zero())
            }
        };
        Ok(match pairs.is_empty() {
            true => Self::Own,
            false => {
                let pairs = pairs.into_iter().map(|pair| (pair.key_file, pair.cert_file)).collect();
                Self::Files { pairs, reload }
            }
        })
    }

    fn acme(section: AcmeSection, public_addresses: &[String]) -> Result<Self> {
        let names: Vec<&String> =
            public_addresses.iter().filter(|host| host.parse::<IpAddr>().is_err()).collect();
        if names.is_empty() {
            bail!(
                "proxy_service.acme: a certificate is ordered for the names in proxy_service.public_addr, and there is none; write the name that clients use"
            );
        }
        let mut config = AcmeConfig::new(names).context("proxy_service.public_addr")?;
        if let Some(email) = &section.email {
            config = config.email(email).context("proxy_service.acme.email")?;
        }
        if let Some(uri) = &section.uri {
            config = config.directory(uri).context("proxy_service.acme.uri")?;
        }
        let key = "proxy_service.acme.http_listen_addr";
        let listen = section.http_listen_addr.as_deref();
        let http_listen = listen.map(|listen| address(Some(listen), 80, None, key)).transpose()?;
        let external = match (section.eab_kid, section.eab_hmac_file) {
            (Some(id), Some(file)) => Some((id, file)),
            (None, None) => None,
            _ => bail!(
                "proxy_service.acme: eab_kid and eab_hmac_file belong together; write both, as the authority gives them"
            ),
        };
        Ok(Self::Acme { config, ca_file: section.ca_file, http_listen, external })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use teleport_core::id::HostRole;

    use super::*;
    use crate::config::{FileConfig, Overrides, Settings, parse, sample};

    fn resolve(text: &str) -> Result<Settings> {
        let file = parse(&format!("proxy_service:\n{text}")).map_err(anyhow::Error::msg)?;
        Settings::resolve(file, Overrides::default())
    }

    #[test]
    fn what_browsers_are_shown_comes_from_the_file_and_goes_back_into_it() {
        for (text, port) in [
            ("  enabled: yes\n", 3080),
            (
                "  https_keypairs: [{key_file: /k, cert_file: /c}, {key_file: /l, cert_file: /d}]\n  https_keypairs_reload_interval: 5m\n",
                3080,
            ),
            (
                "  https_keypairs: [{key_file: /k, cert_file: /c}]\n  https_keypairs_reload_interval: off\n",
                3080,
            ),
            (
                "  public_addr: [a.example.com, 'b.example.com:8443', 192.0.2.1]\n  acme: {enabled: yes}\n",
                443,
            ),
            (
                "  public_addr: a.example.com\n  acme: {enabled: yes, email: a@example.com, uri: 'https://ca.example.com/dir', ca_file: /ca, http_listen_addr: 127.0.0.1:80, eab_kid: kid-1, eab_hmac_file: /hmac}\n",
                443,
            ),
            ("  acme: {enabled: no}\n", 3080),
        ] {
            let settings = resolve(text).unwrap();
            let proxy = settings.proxy.as_ref().unwrap();
            assert_eq!(proxy.web_listen.port(), port, "{text}");
            let again = Settings::resolve(parse(&sample(&settings)).unwrap(), Overrides::default()).unwrap();
            let (again, proxy) = (again.proxy.unwrap(), proxy);
            assert_eq!(format!("{:?}", again.https), format!("{:?}", proxy.https), "{text}");
            assert_eq!(again.web_listen, proxy.web_listen);
            assert_eq!(
                (&again.public_addresses, again.public_port),
                (&proxy.public_addresses, proxy.public_port)
            );
        }
    }

    #[test]
    fn what_cannot_be_shown_is_refused_in_one_line() {
        for (text, says) in [
            ("  acme: {enabled: yes}\n", "write the name that clients use"),
            ("  public_addr: 192.0.2.1\n  acme: {enabled: yes}\n", "write the name that clients use"),
            ("  public_addr: '*.example.com'\n  acme: {enabled: yes}\n", "proxy_service.public_addr"),
            (
                "  public_addr: a.example.com\n  acme: {enabled: yes, uri: 'http://ca'}\n",
                "proxy_service.acme.uri",
            ),
            ("  public_addr: a.example.com\n  acme: {enabled: yes, email: x}\n", "proxy_service.acme.email"),
            ("  public_addr: a.example.com\n  acme: {enabled: yes, eab_kid: x}\n", "belong together"),
            ("  public_addr: a.example.com\n  acme: {enabled: yes, eab_hmac_file: /x}\n", "belong together"),
            (
                "  public_addr: a.example.com\n  acme: {enabled: yes, http_listen_addr: x}\n",
                "acme.http_listen_addr",
            ),
            (
                "  public_addr: a.example.com\n  acme: {enabled: yes}\n  https_keypairs: [{key_file: /k, cert_file: /c}]\n",
                "exclude each other",
            ),
            ("  https_keypairs: [{key_file: /k}]\n", "cert_file"),
            ("  https_keypairs_reload_interval: soon\n", "https_keypairs_reload_interval"),
        ] {
            let error = format!("{:#}", resolve(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn flags_say_it_as_well() {
        let flags = Overrides {
            acme: true,
            acme_email: Some("a@example.com".into()),
            public_addr: vec!["proxy.example.com:443".into()],
            ..Overrides::default()
        };
        let settings = Settings::resolve(FileConfig::default(), flags).unwrap();
        let proxy = settings.proxy.unwrap();
        assert!(matches!(proxy.https, Https::Acme { .. }), "{proxy:?}");
        assert_eq!(
            (proxy.public_addresses, proxy.public_port),
            (vec!["proxy.example.com".to_owned()], Some(443))
        );
        let node = Some(vec![HostRole::Node]);
        let email = Some("a@example.com".to_owned());
        for (flags, says) in [
            (Overrides { acme: true, ..Overrides::default() }, "proxy_service.public_addr"),
            (Overrides { acme_email: email, ..Overrides::default() }, "--acme-email is for --acme"),
            (Overrides { acme: true, roles: node, ..Overrides::default() }, "runs the proxy"),
        ] {
            let error = format!("{:#}", Settings::resolve(FileConfig::default(), flags).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
    }
}
