//! What is ordered, where, and for whom.

use rustls::pki_types::DnsName;

use crate::proxy_web::WebCertificate;

/// The directory that is asked if none is said: that of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The most names of one certificate, as public authorities have it.
const MAX_NAMES: usize = 100;

/// What an ACME account and its orders are to be.
#[derive(Clone, Debug)]
pub struct AcmeConfig {
    pub(super) directory: String,
    pub(super) email: Option<String>,
    /// In lower case, each once.
    pub(super) names: Vec<String>,
    pub(super) roots: Vec<Vec<u8>>,
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
                Ok(Self { directory, email: None, names: valid, roots: Vec::new() })
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
