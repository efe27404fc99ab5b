//! The certificate authority of a cluster.

mod issue;
mod open;
mod openssh;

use std::fmt;
use std::sync::Arc;

use teleport_core::cert::{CaPin, PublicKey, TrustBundle};
use teleport_core::clock::Clock;
use teleport_core::entropy::Entropy;
use teleport_core::id::ClusterName;

use crate::key::{KeyId, KeyPurpose, KeyStore};
use crate::x509::TlsIssuer;

/// The certificate authority of a cluster: [`CertIssuer`](teleport_core::cert::CertIssuer) over a [`KeyStore`].
///
/// Five keys: one for each of users and hosts, SSH and X.509, and one for logins on the SSH servers of others. What is signed with one is never accepted where another is
/// expected. The keys are loaded when the authority is opened; after that issuing touches no storage.
pub struct CertificateAuthority {
    cluster: ClusterName,
    keys: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    host: Signers,
    user: Signers,
    /// The first signs; there always is one.
    openssh: Vec<SshSigner>,
}

/// The keys for hosts, or those for users. Of each list the first signs.
struct Signers {
    ssh: SshSigner,
    tls: TlsIssuer,
    additional_ssh: Vec<SshSigner>,
    additional_tls: Vec<TlsIssuer>,
}

struct SshSigner {
    key: KeyId,
    public: PublicKey,
}

impl Signers {
    fn ssh(&self) -> impl Iterator<Item = &SshSigner> {
        std::iter::once(&self.ssh).chain(&self.additional_ssh)
    }

    fn tls(&self) -> impl Iterator<Item = &TlsIssuer> {
        std::iter::once(&self.tls).chain(&self.additional_tls)
    }
}

impl CertificateAuthority {
    /// The cluster.
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// What joining hosts compare the cluster with: one pin for each X.509 authority of hosts.
    pub fn ca_pins(&self) -> Vec<CaPin> {
        self.host.tls().map(TlsIssuer::pin).collect()
    }

    /// The public keys that the cluster trusts.
    pub fn trust_bundle(&self) -> TrustBundle {
        let ssh = |signers: &Signers| signers.ssh().map(|signer| signer.public.clone()).collect();
        let tls = |signers: &Signers| signers.tls().map(|issuer| issuer.certificate.clone()).collect();
        TrustBundle {
            cluster: self.cluster.clone(),
            user_ca: ssh(&self.user),
            host_ca: ssh(&self.host),
            openssh_ca: self.openssh.iter().map(|signer| signer.public.clone()).collect(),
            user_tls_ca: tls(&self.user),
            host_tls_ca: tls(&self.host),
        }
    }

    pub(crate) fn key_store(&self) -> &dyn KeyStore {
        &*self.keys
    }

    pub(crate) fn active_keys(&self) -> Vec<(KeyPurpose, &KeyId)> {
        let openssh = self.openssh.first().map(|signer| (KeyPurpose::OpenSsh, &signer.key));
        let mut keys =
            vec![(KeyPurpose::HostSsh, &self.host.ssh.key), (KeyPurpose::HostTls, &self.host.tls.key)];
        keys.extend(openssh);
        keys.push((KeyPurpose::UserSsh, &self.user.ssh.key));
        keys.push((KeyPurpose::UserTls, &self.user.tls.key));
        keys
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("cluster", &self.cluster)
            .field("user_ca", &self.user.ssh.public)
            .field("host_ca", &self.host.ssh.public)
            .finish_non_exhaustive()
    }
}
