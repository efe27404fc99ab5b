//! Keys, certificates and trust that belong together.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use teleport_core::api::HostCredentials;
use teleport_core::cert::{CLOCK_SKEW, SubjectKeys, TrustBundle};
use teleport_core::clock::Timestamp;
use teleport_core::entropy::Entropy;
use teleport_core::id::{ClusterName, HostId, HostRole, NodeName};
use tokio::sync::watch;

use crate::keys::{KeyError, SshKeyPair, TlsKeyPair};
use crate::rpc::x509;

/// What a host calls itself and which service it is: what it joins with, and what its certificates must say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "hosts build it")]
pub struct HostName {
    /// Its id.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// Its service.
    pub role: HostRole,
}

/// The certificates that came back do not fit the keys and the host that asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the credentials that were issued are not for this host: {reason}")]
#[non_exhaustive]
pub struct MaterialError {
    /// What does not fit.
    pub reason: &'static str,
}

/// The certificates of a host are not valid at this time by its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host's certificates are valid from {valid_after} to {valid_before}, and its clock says {now}: compare the clocks of this machine and of \
     the auth service"
)]
#[non_exhaustive]
pub struct NotValidNow {
    /// From when they are valid.
    pub valid_after: Timestamp,
    /// When they end.
    pub valid_before: Timestamp,
    /// What the clock says.
    pub now: Timestamp,
}

/// A host's keys, its certificates for them, and whom it trusts.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "embedders with an authority of their own build it")]
pub struct HostMaterial {
    /// The host's id.
    pub host_id: HostId,
    /// Its display name.
    pub name: NodeName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The service it may speak for.
    pub role: HostRole,
    /// Its SSH host key.
    pub ssh: SshKeyPair,
    /// The SSH host certificate: one line, `algorithm base64`.
    pub ssh_certificate: String,
    /// Its TLS key.
    pub tls: TlsKeyPair,
    /// The X.509 identity, DER.
    pub tls_certificate: Vec<u8>,
    /// Whom it trusts.
    pub trust: TrustBundle,
    /// From when the certificates are valid.
    pub valid_after: Timestamp,
    /// When they end.
    pub valid_before: Timestamp,
}

impl HostMaterial {
    /// Fresh keys for [`HostMaterial::from_credentials`].
    ///
    /// # Errors
    /// [`KeyError::Entropy`].
    pub fn generate_keys(entropy: &dyn Entropy) -> Result<(SshKeyPair, TlsKeyPair), KeyError> {
        Ok((SshKeyPair::generate(entropy)?, TlsKeyPair::generate(entropy)?))
    }

    /// What was issued for `keys`, after checking that it is for this host and these keys: a mistake shows here and not at
    /// the first connection of a user.
    ///
    /// # Errors
    /// [`MaterialError`].
    pub fn from_credentials(
        host: HostName,
        keys: (SshKeyPair, TlsKeyPair),
        credentials: HostCredentials,
    ) -> Result<Self, MaterialError> {
        let (ssh, tls) = keys;
        let HostCredentials { certificates, trust } = credentials;
        let wrong = |reason| MaterialError { reason };
        let parsed = x509::Leaf::parse(&certificates.tls)
            .map_err(|_| wrong("the X.509 certificate cannot be read"))?;
        if parsed.spki != tls.public().as_spki() {
            return Err(wrong("the X.509 certificate is for another key"));
        }
        if parsed.common_name != host.host_id.to_string() {
            return Err(wrong("the X.509 certificate names another host"));
        }
        let certificate = ssh_key::Certificate::from_openssh(&certificates.ssh)
            .map_err(|_| wrong("the SSH certificate cannot be read"))?;
        if ssh_key::PublicKey::from(certificate.public_key().clone()).to_bytes().ok().as_deref()
            != Some(ssh.public().as_wire())
        {
            return Err(wrong("the SSH certificate is for another key"));
        }
        Ok(Self {
            host_id: host.host_id,
            name: host.name,
            cluster: trust.cluster.clone(),
            role: host.role,
            ssh,
            ssh_certificate: certificates.ssh,
            tls,
            tls_certificate: certificates.tls,
            trust,
            valid_after: certificates.valid_after,
            valid_before: certificates.valid_before,
        })
    }

    /// Whether the certificates are valid at `now`, as whoever asks that has the same time sees it: what was issued by a clock that is wrong
    /// is not to replace what is good.
    ///
    /// # Errors
    /// [`NotValidNow`].
    pub fn check_valid_at(&self, now: Timestamp) -> Result<(), NotValidNow> {
        let Self { valid_after, valid_before, .. } = *self;
        // With the same allowance as in `core::cert`.
        if valid_after <= now.saturating_add(CLOCK_SKEW) && now < valid_before {
            Ok(())
        } else {
            Err(NotValidNow { valid_after, valid_before, now })
        }
    }

    /// The public halves of its keys.
    pub fn public_keys(&self) -> SubjectKeys {
        SubjectKeys { ssh: self.ssh.public(), tls: self.tls.public() }
    }

    /// What it calls itself.
    pub fn host(&self) -> HostName {
        HostName { host_id: self.host_id, name: self.name.clone(), role: self.role }
    }
}

impl fmt::Debug for HostMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMaterial")
            .field("host_id", &self.host_id)
            .field("name", &self.name)
            .field("role", &self.role)
            .field("valid_before", &self.valid_before)
            .finish_non_exhaustive()
    }
}

/// A host's identity as its services hold it. Clones share one identity.
#[derive(Clone)]
pub struct HostIdentityHandle(Arc<Shared>);

struct Shared {
    current: ArcSwap<HostMaterial>,
    version: watch::Sender<u64>,
}

impl HostIdentityHandle {
    /// Begins with `material`.
    pub fn new(material: HostMaterial) -> Self {
        let current = ArcSwap::from_pointee(material);
        Self(Arc::new(Shared { current, version: watch::Sender::new(0) }))
    }

    /// The newest identity.
    pub fn current(&self) -> Arc<HostMaterial> {
        self.0.current.load_full()
    }

    /// From now on this is the identity; everybody who waits for a change hears of it.
    pub fn replace(&self, material: HostMaterial) {
        self.0.current.store(Arc::new(material));
        self.0.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// From now on this is whom the host trusts. Nothing happens if that is what it trusts already.
    pub fn replace_trust(&self, trust: &TrustBundle) {
        let current = self.current();
        if current.trust != *trust {
            self.replace(HostMaterial { trust: trust.clone(), ..HostMaterial::clone(&current) });
        }
    }

    /// Changes from now on.
    pub fn changes(&self) -> IdentityChanges {
        IdentityChanges { seen: self.0.version.subscribe(), handle: self.clone() }
    }
}

impl fmt::Debug for HostIdentityHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostIdentityHandle").field(&self.current()).finish()
    }
}

/// Waits for changes of an identity.
#[derive(Debug)]
pub struct IdentityChanges {
    seen: watch::Receiver<u64>,
    handle: HostIdentityHandle,
}

impl IdentityChanges {
    /// The next identity. Several changes at once are seen as one. Cancel safe.
    pub async fn next(&mut self) -> Arc<HostMaterial> {
        // The sender lives as long as `handle`, so waiting cannot fail.
        let _ = self.seen.changed().await;
        self.handle.current()
    }
}
