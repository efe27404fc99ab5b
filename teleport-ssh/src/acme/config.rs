//! What is ordered, where, and for whom.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::DnsName;
use teleport_core::secret::SecretString;
use zeroize::Zeroizing;

use crate::proxy_web::WebCertificate;

/// The directory that is asked if none is said: that of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The most names of one certificate, as public authorities have it.
const MAX_NAMES: usize = 100;
/// The shortest key of an external account, in bytes.
const MIN_KEY: usize = 16;

/// What an ACME account and its orders are to be.
#[derive(Clone, Debug)]
pub struct AcmeConfig {
    pub(super) directory: String,
    pub(super) email: Option<String>,
    /// In lower case, each once.
    pub(super) names: Vec<String>,
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) external: Option<ExternalAccount>,
}

/// An account that somebody has at the authority already, to which the one of ACME is to belong.
#[derive(Clone)]
pub(super) struct ExternalAccount {
    pub(super) id: String,
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("id", &self.id).finish_non_exhaustive()
    }
}

/// No certificate can be ordered so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcmeConfigError {
    /// The directory's address.
    #[error("{url:?} is not the address of a directory: write https://host/path")]
    Directory {
        /// The address.
        url: String,
    },
    /// The address of whom the authority writes to.
    #[error("{email:?} is not an address of mail")]
    Email {
        /// The address.
        email: String,
    },
    /// What an authority has given for an external account.
    #[error(
        "an external account is an id and a key of at least 16 bytes in base64url, as the authority gives them"
    )]
    External,
    /// A name.
    #[error("{name:?} is not a DNS name that a certificate can be ordered for")]
    Name {
        /// The name.
        name: String,
    },
    /// None or too many names.
    #[error("a certificate is for 1 to {MAX_NAMES} names, and these are {count}")]
    Names {
        /// How many.
        count: usize,
    },
}

impl AcmeConfig {
    /// One certificate for all of these DNS names, from Let's Encrypt. Using it agrees to the terms of the authority.
    ///
    /// # Errors
    /// [`AcmeConfigError`].
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Self, AcmeConfigError> {
        let mut valid: Vec<String> = Vec::new();
        for name in names {
            let name = name.as_ref();
            let known = DnsName::try_from(name).ok().filter(|_| !name.ends_with('.'));
            let known = known.ok_or_else(|| AcmeConfigError::Name { name: name.to_owned() })?;
            let known = known.as_ref().to_ascii_lowercase();
            if !valid.contains(&known) {
                valid.push(known);
            }
        }
        match valid.len() {
            1..=MAX_NAMES => {
                let directory = LETS_ENCRYPT.to_owned();
                Ok(Self { directory, email: None, names: valid, roots: Vec::new(), external: None })
            }
            count => Err(AcmeConfigError::Names { count }),
        }
    }

    /// Another authority than Let's Encrypt: the address of its directory.
    ///
    /// # Errors
    /// [`AcmeConfigError::Directory`] unless it begins with `https://` and a host.
    pub fn directory(mut self, url: &str) -> Result<Self, AcmeConfigError> {
        let uri = url.parse::<hyper::Uri>().ok();
        let good = uri.is_some_and(|uri| {
            uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !good {
            return Err(AcmeConfigError::Directory { url: url.to_owned() });
        }
        url.clone_into(&mut self.directory);
        Ok(self)
    }

    /// Whom the authority writes to, for instance before a certificate ends.
    ///
    /// # Errors
    /// [`AcmeConfigError::Email`].
    pub fn email(mut self, email: &str) -> Result<Self, AcmeConfigError> {
        let good = email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
        if !good
            || email.chars().any(|letter| {
                letter.is_control() || letter.is_whitespace() || "?,@".contains(letter) && letter != '@'
            })
            || email.matches('@').count() > 1
        {
            return Err(AcmeConfigError::Email { email: email.to_owned() });
        }
        self.email = Some(email.to_owned());
        Ok(self)
    }

    /// The account belongs to one that the authority has given this id and this key (base64url) for, as some demand (RFC 8555, 7.3.4).
    ///
    /// # Errors
    /// [`AcmeConfigError::External`].
    pub fn external_account(mut self, id: &str, key: &SecretString) -> Result<Self, AcmeConfigError> {
        let given = key.expose().trim().trim_end_matches('=');
        // It has room for all of it: what grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(given.len()));
        text.extend(given.chars().map(|letter| match letter {
            '+' => '-',
            '/' => '_',
            letter => letter,
        }));
        let key = BASE64URL_NOPAD.decode(text.as_bytes()).map(Zeroizing::new).ok();
        let key = key.filter(|key| key.len() >= MIN_KEY).ok_or(AcmeConfigError::External)?;
        if id.is_empty() || id.chars().any(char::is_control) {
            return Err(AcmeConfigError::External);
        }
        self.external = Some(ExternalAccount { id: id.to_owned(), key });
        Ok(self)
    }

    /// The certificates (DER) of the authorities that vouch for the directory. Without any nobody does.
    #[must_use]
    pub fn roots(mut self, roots: Vec<Vec<u8>>) -> Self {
        self.roots = roots;
        self
    }

    /// The address of the directory.
    pub fn directory_url(&self) -> &str {
        &self.directory
    }

    /// Whom the authority writes to.
    pub fn contact(&self) -> Option<&str> {
        self.email.as_deref()
    }

    pub(super) fn covered_by(&self, certificate: &WebCertificate) -> bool {
        self.names.iter().all(|name| certificate.is_for(name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn only_names_that_are_names() {
        let config = AcmeConfig::new(["Proxy.Example.com", "proxy.example.COM", "b.example.com"]).unwrap();
        assert_eq!(config.names, ["proxy.example.com", "b.example.com"]);
        for wrong in [
            "",
            "*.example.com",
            "192.0.2.1",
            "::1",
            "a b",
            "proxy.example.com.",
            "a..b",
            "a/b",
            "a\n",
            "proxy:443",
        ] {
            assert!(AcmeConfig::new([wrong]).is_err(), "{wrong:?}");
        }
        assert_eq!(AcmeConfig::new([""; 0]).unwrap_err(), AcmeConfigError::Names { count: 0 });
        let many = (0..=MAX_NAMES).map(|number| format!("{number}.example.com"));
        assert_eq!(AcmeConfig::new(many).unwrap_err(), AcmeConfigError::Names { count: 101 });
    }

    #[test]
    fn external_accounts_have_an_id_and_a_key_that_is_not_shown() {
        let config = || AcmeConfig::new(["a.example.com"]).unwrap();
        let with = |id: &str, key: &str| config().external_account(id, &SecretString::new(key));
        for key in ["-_-_AAAAAAAAAAAAAAAAAAAA", "+/+/AAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAA==\n"]
        {
            let text = format!("{:?}", with("kid-1", key).unwrap());
            assert!(text.contains("kid-1") && !text.contains("AAAA") && !text.contains("0, 0"), "{text}");
        }
        for (id, key) in [
            ("", "AAAAAAAAAAAAAAAAAAAAAAAA"),
            ("a\nb", "AAAAAAAAAAAAAAAAAAAAAAAA"),
            ("kid-1", ""),
            ("kid-1", "AAAA"),
            ("kid-1", "not base64, as everybody sees"),
        ] {
            assert_eq!(with(id, key).unwrap_err(), AcmeConfigError::External, "{id:?} {key:?}");
        }
    }

    #[test]
    fn only_directories_behind_tls_and_addresses_of_mail() {
        let config = || AcmeConfig::new(["a.example.com"]).unwrap();
        for wrong in
            ["http://ca.example.com/dir", "ca.example.com", "https://", "", "https:///dir", "file:///etc"]
        {
            assert!(config().directory(wrong).is_err(), "{wrong:?}");
        }
        assert!(config().directory("https://ca.example.com:14000/dir").is_ok());
        for wrong in ["", "admin", "@example.com", "admin@", "a@b@c", "a b@c", "a@b?x=y", "a@b,c@d", "a@b\n"]
        {
            assert!(config().email(wrong).is_err(), "{wrong:?}");
        }
        assert!(config().email("admin+web@example.com").is_ok());
    }
}
