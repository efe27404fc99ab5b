//! From text to an identity.

use ssh_key::Certificate;
use teleport_core::cert::{
    CertRejected, IssuedCertificates, PublicKey, Subject, TrustBundle, UserCheck, X509Authority, verify_user,
};
use teleport_core::clock::Timestamp;
use teleport_core::id::ClusterName;

use super::{CERTIFICATE, IdentityFile, IdentityFileError as Error, ProxyAddresses, SSH_KEY, TLS_KEY};
use crate::authn;
use crate::client::openssh::ProxyAddress;
use crate::keys::{SshKeyPair, TlsKeyPair};
use crate::pem;
use crate::rpc::x509::Leaf;

const PART_SSH_KEY: &str = "the private key for SSH";
const PART_TLS_KEY: &str = "the private key for TLS";
const PART_SSH_CERTIFICATE: &str = "the SSH certificate";
const PART_TLS_CERTIFICATE: &str = "the X.509 certificate";
const PART_TLS_AUTHORITY: &str = "the X.509 authority of the cluster";
const PART_USER_AUTHORITY: &str = "the SSH authority of users";
const PART_HOST_AUTHORITY: &str = "the SSH authority of hosts";
const PART_PROXY: &str = "the address of the proxy";

/// What was found so far.
#[derive(Default)]
struct Parts {
    ssh_key: Option<SshKeyPair>,
    tls_key: Option<TlsKeyPair>,
    ssh_certificate: Option<String>,
    /// The first is the user's.
    certificates: Vec<X509Authority>,
    user_ca: Vec<PublicKey>,
    host_ca: Vec<PublicKey>,
    cluster: Option<ClusterName>,
    proxy: Option<ProxyAddresses>,
}

pub(super) fn parse(text: &str) -> Result<IdentityFile, Error> {
    let mut parts = Parts::default();
    let mut rest = text;
    let mut number = 0;
    while let Some((line, after)) = next_line(rest) {
        number += 1;
        let label = line.strip_prefix("-----BEGIN ").and_then(|label| label.strip_suffix("-----"));
        let Some(label) = label else {
            parts.line(line, number)?;
            rest = after;
            continue;
        };
        let end = format!("-----END {label}-----");
        let (body, block, lines, after) = block(rest, after, &end).ok_or(Error::Truncated {
            part: match label {
                SSH_KEY => PART_SSH_KEY,
                TLS_KEY => PART_TLS_KEY,
                _ => PART_TLS_CERTIFICATE,
            },
        })?;
        parts.block(label, body, block, number)?;
        number += lines;
        rest = after;
    }
    parts.finish()
}

/// The next line, without white space at its ends.
fn next_line(text: &str) -> Option<(&str, &str)> {
    if text.is_empty() {
        return None;
    }
    let (line, after) = text.split_once('\n').unwrap_or((text, ""));
    Some((line.trim(), after))
}

/// What stands between the first line of a block and its last; the block with both; how many lines follow the first; and what
/// follows the block.
fn block<'t>(whole: &'t str, content: &'t str, end: &str) -> Option<(&'t str, &'t str, usize, &'t str)> {
    let mut rest = content;
    let mut lines = 0;
    loop {
        let (line, after) = next_line(rest)?;
        lines += 1;
        if line == end {
            let body = content.get(..content.len() - rest.len())?;
            let block = whole.get(..whole.len() - after.len())?;
            return Some((body, block, lines, after));
        }
        rest = after;
    }
}

fn once<T>(place: &mut Option<T>, part: &'static str, line: usize, value: Option<T>) -> Result<(), Error> {
    let value = value.ok_or(Error::Malformed { part, line })?;
    match place.replace(value) {
        Some(_) => Err(Error::Twice { part, line }),
        None => Ok(()),
    }
}

impl Parts {
    fn block(&mut self, label: &str, body: &str, block: &str, line: usize) -> Result<(), Error> {
        match label {
            SSH_KEY => {
                once(&mut self.ssh_key, PART_SSH_KEY, line, SshKeyPair::from_openssh(block.trim()).ok())
            }
            TLS_KEY => {
                let key = pem::decode(body).and_then(|der| TlsKeyPair::from_pkcs8(&der).ok());
                once(&mut self.tls_key, PART_TLS_KEY, line, key)
            }
            CERTIFICATE => {
                let part =
                    if self.certificates.is_empty() { PART_TLS_CERTIFICATE } else { PART_TLS_AUTHORITY };
                let certificate = pem::decode(body).map(|der| X509Authority::from_der(der.as_slice()));
                let certificate = certificate.filter(|certificate| certificate.spki().is_some());
                self.certificates.push(certificate.ok_or(Error::Malformed { part, line })?);
                Ok(())
            }
            _ => Err(Error::Line { line }),
        }
    }

    fn line(&mut self, text: &str, line: usize) -> Result<(), Error> {
        let mut words = text.split_ascii_whitespace();
        let Some(first) = words.next().filter(|word| !word.starts_with('#')) else { return Ok(()) };
        let rest = text.get(first.len()..).unwrap_or_default().trim();
        match first {
            "cert-authority" => {
                let malformed = Error::Malformed { part: PART_USER_AUTHORITY, line };
                self.user_ca.push(rest.parse().map_err(|_| malformed)?);
                Ok(())
            }
            "@cert-authority" => self.host_authority(rest, line),
            "@proxy" => {
                let proxy = rest.split_once(' ').and_then(|(web, ssh)| {
                    let (web, ssh) = (ProxyAddress::parse(web).ok()?, ProxyAddress::parse(ssh.trim()).ok()?);
                    Some(ProxyAddresses { web, ssh })
                });
                once(&mut self.proxy, PART_PROXY, line, proxy)
            }
            algorithm if algorithm.ends_with("-cert-v01@openssh.com") => {
                let certificate = words.next().map(|base64| format!("{algorithm} {base64}"));
                once(&mut self.ssh_certificate, PART_SSH_CERTIFICATE, line, certificate)
            }
            _ => Err(Error::Line { line }),
        }
    }

    /// `*.cluster,… algorithm base64`.
    fn host_authority(&mut self, text: &str, line: usize) -> Result<(), Error> {
        let read = || {
            let (hosts, key) = text.split_once(' ')?;
            let cluster = ClusterName::new(hosts.split(',').next()?.strip_prefix("*.")?).ok()?;
            Some((cluster, key.parse().ok()?))
        };
        let (cluster, key) = read().ok_or(Error::Malformed { part: PART_HOST_AUTHORITY, line })?;
        self.host_ca.push(key);
        match self.cluster.replace(cluster.clone()) {
            Some(other) if other != cluster => Err(Error::Different),
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<IdentityFile, Error> {
        let missing = |part| Error::Truncated { part };
        let ssh = self.ssh_key.ok_or(missing(PART_SSH_KEY))?;
        let tls = self.tls_key.ok_or(missing(PART_TLS_KEY))?;
        let certificate = self.ssh_certificate.ok_or(missing(PART_SSH_CERTIFICATE))?;
        let mut certificates = self.certificates.into_iter();
        let identity = certificates.next().ok_or(missing(PART_TLS_CERTIFICATE))?;
        let host_tls_ca: Vec<X509Authority> = certificates.collect();
        for (there, part) in
            [(!host_tls_ca.is_empty(), PART_TLS_AUTHORITY), (!self.user_ca.is_empty(), PART_USER_AUTHORITY)]
        {
            there.then_some(()).ok_or(missing(part))?;
        }
        let cluster = self.cluster.ok_or(missing(PART_HOST_AUTHORITY))?;
        let trust = TrustBundle {
            cluster,
            user_ca: self.user_ca,
            openssh_ca: Vec::new(),
            host_ca: self.host_ca,
            user_tls_ca: Vec::new(),
            host_tls_ca,
        };
        if identity.spki() != Some(tls.public().as_spki()) {
            return Err(Error::Mismatch { part: PART_TLS_CERTIFICATE });
        }
        let rejected = |reason| Error::Certificate { reason };
        let parsed =
            Certificate::from_openssh(&certificate).map_err(|_| rejected(CertRejected::Malformed))?;
        let mut fields = authn::parse(&parsed).map_err(rejected)?;
        if fields.subject != ssh.public() {
            return Err(Error::Mismatch { part: PART_SSH_CERTIFICATE });
        }
        let valid_after = Timestamp::from_unix_secs(fields.valid_after);
        // From which address it will be used is not known here, and whether it is over is another question.
        fields.critical_options.retain(|(name, _)| name != "source-address");
        let check = UserCheck { login: None, peer: None, now: valid_after };
        let user = verify_user(&fields, &trust, check).map_err(rejected)?;
        let leaf = Leaf::parse(identity.as_der()).ok();
        let same = leaf.is_some_and(|leaf| {
            let subject = serde_json::from_slice(&leaf.subject);
            leaf.common_name == user.user.as_str()
                && matches!(subject, Ok(Subject::User { cluster, .. }) if cluster == trust.cluster)
        });
        same.then_some(()).ok_or(Error::Different)?;
        Ok(IdentityFile {
            user: user.user,
            roles: user.roles,
            logins: user.logins,
            ssh,
            tls,
            certificates: IssuedCertificates {
                ssh: certificate,
                tls: identity.as_der().to_vec(),
                serial: fields.serial,
                valid_after,
                valid_before: Timestamp::from_unix_secs(fields.valid_before),
            },
            trust,
            proxy: self.proxy,
        })
    }
}
