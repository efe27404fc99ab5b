//! What `tsh login` leaves on disk: one profile for each proxy.
//!
//! ```text
//! ~/.tsh/                       or $TELEPORT_HOME; mode 0700
//!   current                     the name of the profile in use
//!   <proxy>/                    host of the proxy, and its port if it is not 3080 or 443
//!     profile.json              everything: the only file that is read back
//!     key, key-cert.pub         the same key and certificate for OpenSSH
//!     known_hosts               @cert-authority lines for OpenSSH
//! ```
//!
//! All files have mode 0600 and are replaced whole. A profile that others can read is refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use teleport_core::cert::{IssuedCertificates, TrustBundle};
use teleport_core::clock::Timestamp;
use teleport_core::id::{ClusterName, NodeName, OsLogin, RoleName, UserName};
use teleport_core::secret::{SecretString, wire};

use super::connect::Credentials;
use super::openssh::{ConfigFiles, ProxyAddress, known_hosts};
use crate::identity::file::{private_dir, read_private, write_private};
use crate::keys::{SshKeyPair, TlsKeyPair};

const VERSION: u32 = 1;
const CURRENT: &str = "current";
const DOCUMENT: &str = "profile.json";
const KEY: &str = "key";
const CERTIFICATE: &str = "key-cert.pub";
const KNOWN_HOSTS: &str = "known_hosts";
/// Ports that are not part of a profile's name.
const WEB_PORTS: [u16; 2] = [443, 3080];

/// Why a profile cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The document is damaged, or of a newer version of this program.
    #[error("{path} is not a profile that this version can read; log in again")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The proxy's address is not `host:port`.
    #[error("{text:?} is not the address of a proxy: host:port is")]
    Proxy {
        /// The text.
        text: String,
    },
}

/// A user's login at one proxy.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "whoever logs in builds it")]
pub struct Profile {
    /// The proxy's HTTPS: `host:port`.
    pub web_address: ProxyAddress,
    /// The proxy's SSH.
    pub ssh_address: ProxyAddress,
    /// The user.
    pub user: UserName,
    /// The user's roles at login.
    pub roles: Vec<RoleName>,
    /// The logins in the certificate.
    pub logins: Vec<OsLogin>,
    /// The SSH key.
    pub ssh: SshKeyPair,
    /// The TLS key.
    pub tls: TlsKeyPair,
    /// The certificates for both.
    pub certificates: IssuedCertificates,
    /// Whom to trust.
    pub trust: TrustBundle,
}

impl Profile {
    /// The cluster.
    pub const fn cluster(&self) -> &ClusterName {
        &self.trust.cluster
    }

    /// Its name among the profiles.
    pub fn name(&self) -> String {
        profile_name(&self.web_address)
    }

    /// Whether the certificates are still valid.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.certificates.valid_before
    }

    /// What to connect with.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            user: self.user.clone(),
            ssh: self.ssh.clone(),
            certificate: self.certificates.ssh.clone(),
            trust: self.trust.clone(),
        }
    }
}

fn profile_name(proxy: &ProxyAddress) -> String {
    let host = proxy.host.to_ascii_lowercase().replace(':', "_");
    if WEB_PORTS.contains(&proxy.port) { host } else { format!("{host}_{}", proxy.port) }
}

/// The form on disk.
#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    web_address: String,
    ssh_address: String,
    user: UserName,
    roles: Vec<RoleName>,
    logins: Vec<OsLogin>,
    #[serde(with = "wire")]
    ssh_key: SecretString,
    #[serde(with = "wire")]
    tls_key: SecretString,
    certificates: IssuedCertificates,
    trust: TrustBundle,
}

impl From<&Profile> for Document {
    fn from(profile: &Profile) -> Self {
        Self {
            version: VERSION,
            web_address: profile.web_address.to_authority(),
            ssh_address: profile.ssh_address.to_authority(),
            user: profile.user.clone(),
            roles: profile.roles.clone(),
            logins: profile.logins.clone(),
            ssh_key: profile.ssh.to_openssh(),
            tls_key: BASE64.encode(profile.tls.to_pkcs8().expose()).into(),
            certificates: profile.certificates.clone(),
            trust: profile.trust.clone(),
        }
    }
}

impl Document {
    fn into_profile(self) -> Option<Profile> {
        let tls_key = zeroize::Zeroizing::new(BASE64.decode(self.tls_key.expose().as_bytes()).ok()?);
        (self.version == VERSION).then_some(())?;
        Some(Profile {
            web_address: ProxyAddress::parse(&self.web_address).ok()?,
            ssh_address: ProxyAddress::parse(&self.ssh_address).ok()?,
            user: self.user,
            roles: self.roles,
            logins: self.logins,
            ssh: SshKeyPair::from_openssh(self.ssh_key.expose()).ok()?,
            tls: TlsKeyPair::from_pkcs8(&tls_key).ok()?,
            certificates: self.certificates,
            trust: self.trust,
        })
    }
}

/// The directory of profiles.
#[derive(Clone, Debug)]
pub struct ProfileStore {
    home: PathBuf,
}

impl ProfileStore {
    /// In this directory, which is made when the first profile is saved.
    pub fn at(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// The directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Saves a profile and makes it the current one.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn save(&self, profile: &Profile) -> Result<(), ProfileError> {
        let dir = self.dir(&profile.name())?;
        for dir in [&self.home, &dir] {
            private_dir(dir).map_err(failed(dir))?;
        }
        let document = serde_json::to_vec_pretty(&Document::from(profile)).map_err(io::Error::from);
        let document = zeroize::Zeroizing::new(document.map_err(failed(&dir.join(DOCUMENT)))?);
        let certificate = format!("{} {}\n", profile.certificates.ssh.trim_end(), profile.user);
        let key = profile.ssh.to_openssh();
        for (name, content) in [
            (KEY, key.expose().as_bytes()),
            (CERTIFICATE, certificate.as_bytes()),
            (KNOWN_HOSTS, known_hosts(&profile.trust).as_bytes()),
            // Last: from now on it is the truth.
            (DOCUMENT, &document),
        ] {
            let path = dir.join(name);
            write_private(&path, content).map_err(failed(&path))?;
        }
        self.select(&profile.name())
    }

    /// Makes a profile the current one.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn select(&self, name: &str) -> Result<(), ProfileError> {
        let path = self.home.join(CURRENT);
        write_private(&path, name.as_bytes()).map_err(failed(&path))
    }

    /// The profile of a proxy, or the current one; `None` if there is none.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn load(&self, proxy: Option<&ProxyAddress>) -> Result<Option<Profile>, ProfileError> {
        let name = match proxy {
            Some(proxy) => profile_name(proxy),
            None => match self.current()? {
                Some(name) => name,
                None => return Ok(None),
            },
        };
        self.load_named(&name)
    }

    fn load_named(&self, name: &str) -> Result<Option<Profile>, ProfileError> {
        let path = self.dir(name)?.join(DOCUMENT);
        let Some(text) = read_private(&path).map_err(failed(&path))? else { return Ok(None) };
        let document: Option<Document> = serde_json::from_str(&text).ok();
        match document.and_then(Document::into_profile) {
            Some(profile) => Ok(Some(profile)),
            None => Err(ProfileError::Malformed { path }),
        }
    }

    /// The name of the current profile.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn current(&self) -> Result<Option<String>, ProfileError> {
        let path = self.home.join(CURRENT);
        let text = read_private(&path).map_err(failed(&path))?;
        Ok(text.map(|text| text.trim().to_owned()).filter(|name| !name.is_empty()))
    }

    /// All profiles that can be read, in the order of their names.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn list(&self) -> Result<Vec<Profile>, ProfileError> {
        let entries = match fs::read_dir(&self.home) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&self.home)(error)),
        };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        // A damaged profile, or a file of somebody else, does not hide the others.
        Ok(names.iter().filter_map(|name| self.load_named(name).ok().flatten()).collect())
    }

    /// Deletes a profile with its keys. Returns what it was, so that the agent can be told to forget it as well.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn remove(&self, name: &str) -> Result<Option<Profile>, ProfileError> {
        let dir = self.dir(name)?;
        // A damaged profile is removed like any other.
        let profile = self.load_named(name).ok().flatten();
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&dir)(error)),
            _ => {}
        }
        if self.current()?.as_deref() == Some(name) {
            let path = self.home.join(CURRENT);
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        Ok(profile)
    }

    /// The files of a profile for OpenSSH.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn openssh_files(&self, profile: &Profile) -> Result<ConfigFiles, ProfileError> {
        let dir = self.dir(&profile.name())?;
        Ok(ConfigFiles {
            identity: dir.join(KEY),
            certificate: dir.join(CERTIFICATE),
            known_hosts: dir.join(KNOWN_HOSTS),
        })
    }

    /// The directory of a profile. A name that leads elsewhere is refused.
    fn dir(&self, name: &str) -> Result<PathBuf, ProfileError> {
        match NodeName::new(name) {
            Ok(name) if name.as_str() != CURRENT => Ok(self.home.join(name.as_str())),
            _ => Err(ProfileError::Proxy { text: name.to_owned() }),
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ProfileError + '_ {
    |source| ProfileError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
