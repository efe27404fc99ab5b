//! Issuing.

use async_trait::async_trait;
use teleport_core::cert::{
    CertFields, CertIssuer, CertKind, CertRejected, HostGrant, IssueError, IssuedCertificates,
    IssuedSshCertificate, OpenSshGrant, PublicKey, SERVICE_DNS_NAME, SshServerGrant, Subject, SubjectKeys,
    TlsPublicKey, TrustBundle, UserGrant, is_local,
};
use teleport_core::entropy::EntropyExt;

use super::CertificateAuthority;
use crate::inspect;
use crate::policy::{self, Validity};
use crate::ssh::{self, Content, SshCertificate};
use crate::x509::{self, Leaf};

/// The random parts of one issue.
struct Unique {
    nonce: [u8; 32],
    /// The lower half is the serial number of the SSH certificate, so that one number finds both in the log.
    serial: [u8; 16],
}

impl Unique {
    fn ssh_serial(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.serial;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl CertificateAuthority {
    /// An SSH certificate alone, for users of other SSH software.
    ///
    /// Dropping the future issues nothing.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn sign_user_ssh(
        &self,
        grant: &UserGrant,
        key: &PublicKey,
    ) -> Result<SshCertificate, IssueError> {
        let networks = policy::check_user(grant)?;
        self.user_ssh(grant, key, &networks, &self.unique()?, self.user_validity(grant)).await
    }

    fn unique(&self) -> Result<Unique, IssueError> {
        let random: [u8; 48] =
            self.entropy.bytes().map_err(|error| IssueError::Unavailable { source: error.into() })?;
        let mut unique = Unique { nonce: [0; 32], serial: [0; 16] };
        let (nonce, serial) = random.split_at(unique.nonce.len());
        unique.nonce.copy_from_slice(nonce);
        unique.serial.copy_from_slice(serial);
        Ok(unique)
    }

    fn user_validity(&self, grant: &UserGrant) -> Validity {
        Validity::user(self.clock.now(), grant.ttl)
    }

    async fn user_ssh(
        &self,
        grant: &UserGrant,
        key: &PublicKey,
        networks: &[String],
        unique: &Unique,
        validity: Validity,
    ) -> Result<SshCertificate, IssueError> {
        self.check_ssh_key(key)?;
        let content = Content {
            kind: CertKind::User,
            subject: key,
            serial: unique.ssh_serial(),
            nonce: &unique.nonce,
            key_id: grant.user.as_str(),
            principals: &ssh::user_principals(grant),
            validity,
            critical_options: &ssh::user_options(networks),
            extensions: &ssh::user_extensions(grant, &self.cluster)?,
        };
        content.sign(&*self.keys, (&self.user.ssh.key, &self.user.ssh.public)).await
    }

    async fn host_ssh(
        &self,
        grant: &HostGrant,
        key: &PublicKey,
        principals: &[String],
        unique: &Unique,
        validity: Validity,
    ) -> Result<SshCertificate, IssueError> {
        let names: Vec<&str> = principals.iter().map(String::as_str).collect();
        let content = Content {
            kind: CertKind::Host,
            subject: key,
            serial: unique.ssh_serial(),
            nonce: &unique.nonce,
            key_id: &ssh::host_key_id(grant),
            principals: &names,
            validity,
            critical_options: &[],
            extensions: &ssh::host_extensions(grant),
        };
        content.sign(&*self.keys, (&self.host.ssh.key, &self.host.ssh.public)).await
    }

    fn check_ssh_key(&self, key: &PublicKey) -> Result<(), IssueError> {
        let signers = self.user.ssh().chain(self.host.ssh()).chain(&self.openssh);
        policy::check_ssh_key(key, signers.map(|signer| &signer.public))
    }

    fn check_tls_key(&self, key: &TlsPublicKey) -> Result<(), IssueError> {
        policy::check_tls_key(key, self.user.tls().chain(self.host.tls()).map(|issuer| &*issuer.point))
    }
}

#[async_trait]
impl CertIssuer for CertificateAuthority {
    async fn issue_user(
        &self,
        grant: UserGrant,
        keys: &SubjectKeys,
    ) -> Result<IssuedCertificates, IssueError> {
        let networks = policy::check_user(&grant)?;
        self.check_tls_key(&keys.tls)?;
        let unique = self.unique()?;
        let validity = self.user_validity(&grant);
        let ssh = self.user_ssh(&grant, &keys.ssh, &networks, &unique, validity).await?;
        let subject = Subject::User {
            cluster: self.cluster.clone(),
            logins: grant.logins,
            login_ip: grant.login_ip.map(|address| address.to_canonical()),
            mfa_device: grant.mfa_device,
            permits: grant.permits,
            roles: grant.roles,
            source_addresses: networks,
            extensions: grant.extensions,
            traits: grant.traits,
        };
        let leaf = Leaf {
            common_name: grant.user.as_str(),
            subject: &subject,
            key: &keys.tls,
            names: Vec::new(),
            serial: unique.serial,
            validity,
        };
        let tls = leaf.sign(&*self.keys, &self.user.tls).await?;
        Ok(issued(ssh, tls))
    }

    async fn issue_host(
        &self,
        grant: HostGrant,
        keys: &SubjectKeys,
    ) -> Result<IssuedCertificates, IssueError> {
        let principals = policy::host_principals(&grant, &self.cluster)?;
        self.check_ssh_key(&keys.ssh)?;
        self.check_tls_key(&keys.tls)?;
        let unique = self.unique()?;
        let validity = Validity::host(self.clock.now(), grant.ttl);
        let ssh = self.host_ssh(&grant, &keys.ssh, &principals, &unique, validity).await?;
        let mut names: Vec<&str> = principals.iter().map(String::as_str).collect();
        if policy::speaks_for_cluster(grant.role) && !names.contains(&SERVICE_DNS_NAME) {
            names.push(SERVICE_DNS_NAME);
        }
        let host_id = grant.host_id.to_string();
        let subject = Subject::Host { cluster: grant.cluster, name: grant.name, role: grant.role };
        let leaf = Leaf {
            common_name: &host_id,
            subject: &subject,
            key: &keys.tls,
            names: x509::alternative_names(names),
            serial: unique.serial,
            validity,
        };
        let tls = leaf.sign(&*self.keys, &self.host.tls).await?;
        Ok(issued(ssh, tls))
    }

    async fn issue_ssh_server(
        &self,
        grant: SshServerGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError> {
        let principals = policy::ssh_server_principals(&grant, &self.cluster)?;
        self.check_ssh_key(key)?;
        let unique = self.unique()?;
        let content = Content {
            kind: CertKind::Host,
            subject: key,
            serial: unique.ssh_serial(),
            nonce: &unique.nonce,
            key_id: principals.first().copied().unwrap_or_default(),
            principals: &principals,
            validity: Validity::host(self.clock.now(), grant.ttl),
            critical_options: &[],
            extensions: &[],
        };
        let certificate = content.sign(&*self.keys, (&self.host.ssh.key, &self.host.ssh.public)).await?;
        Ok(issued_ssh(certificate))
    }

    async fn issue_openssh_login(
        &self,
        grant: OpenSshGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError> {
        self.check_ssh_key(key)?;
        let unique = self.unique()?;
        let Some(signer) = self.openssh.first() else {
            return Err(policy::refused("there is no key for logins on the SSH servers of others"));
        };
        let content = Content {
            kind: CertKind::User,
            subject: key,
            serial: unique.ssh_serial(),
            nonce: &unique.nonce,
            key_id: grant.user.as_str(),
            principals: &[grant.login.as_str()],
            validity: Validity::openssh_login(self.clock.now(), grant.ttl),
            critical_options: &[],
            extensions: &ssh::permits(grant.permits),
        };
        Ok(issued_ssh(content.sign(&*self.keys, (&signer.key, &signer.public)).await?))
    }

    async fn issue_stand_in(
        &self,
        grant: HostGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError> {
        let mut principals = policy::host_principals(&grant, &self.cluster)?;
        // Those that every host has are for connections within its own machine.
        principals.retain(|name| !is_local(name));
        self.check_ssh_key(key)?;
        let validity = Validity::host(self.clock.now(), grant.ttl);
        Ok(issued_ssh(self.host_ssh(&grant, key, &principals, &self.unique()?, validity).await?))
    }

    fn read(&self, certificate: &str) -> Result<CertFields, CertRejected> {
        inspect::fields(certificate)
    }

    async fn trust(&self) -> Result<TrustBundle, IssueError> {
        Ok(self.trust_bundle())
    }
}

fn issued_ssh(certificate: SshCertificate) -> IssuedSshCertificate {
    let SshCertificate { openssh: ssh, serial, valid_after, valid_before } = certificate;
    IssuedSshCertificate { ssh, serial, valid_after, valid_before }
}

fn issued(ssh: SshCertificate, tls: Vec<u8>) -> IssuedCertificates {
    let SshCertificate { openssh, serial, valid_after, valid_before } = ssh;
    IssuedCertificates { ssh: openssh, tls, serial, valid_after, valid_before }
}
