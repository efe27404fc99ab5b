//! An authority that signs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::subject_keys;
use crate::cert::{
    CertFields, CertIssuer, CertRejected, HostGrant, IssueError, IssuedCertificates, IssuedSshCertificate,
    MAX_HOST_TTL, MAX_OPENSSH_LOGIN_TTL, MAX_USER_TTL, MIN_USER_TTL, OpenSshGrant, PublicKey, SshServerGrant,
    SubjectKeys, TrustBundle, UserGrant,
};
use crate::clock::Clock;
use crate::id::ClusterName;

/// A [`CertIssuer`] whose "certificates" say in JSON what was granted and carry no signature: fast, and readable in tests.
/// **Never outside tests**; real ones come from `teleport-ca`.
#[derive(Debug)]
pub struct UnsignedIssuer {
    cluster: ClusterName,
    clock: Arc<dyn Clock>,
    issued: AtomicU64,
}

impl UnsignedIssuer {
    /// An authority of a cluster.
    pub fn new(cluster: ClusterName, clock: Arc<dyn Clock>) -> Self {
        Self { cluster, clock, issued: AtomicU64::new(0) }
    }

    /// How many certificates were made.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::SeqCst)
    }

    /// What an unsigned certificate says; `null` for anything else.
    pub fn read(certificates: &IssuedCertificates) -> Value {
        serde_json::from_str(&certificates.ssh).unwrap_or_default()
    }

    fn issue(&self, content: &Value, ttl: Duration) -> IssuedCertificates {
        let now = self.clock.now();
        let text = content.to_string();
        IssuedCertificates {
            tls: text.clone().into_bytes(),
            ssh: text,
            serial: self.issued.fetch_add(1, Ordering::SeqCst) + 1,
            valid_after: now.saturating_sub(Duration::from_secs(60)),
            valid_before: now.saturating_add(ttl),
        }
    }
}

fn ssh_of(issued: IssuedCertificates) -> IssuedSshCertificate {
    let IssuedCertificates { ssh, serial, valid_after, valid_before, .. } = issued;
    IssuedSshCertificate { ssh, serial, valid_after, valid_before }
}

#[async_trait]
impl CertIssuer for UnsignedIssuer {
    async fn issue_user(
        &self,
        grant: UserGrant,
        keys: &SubjectKeys,
    ) -> Result<IssuedCertificates, IssueError> {
        let content = json!({
            "user": grant.user, "logins": grant.logins, "roles": grant.roles, "traits": grant.traits,
            "permits": grant.permits, "login_ip": grant.login_ip, "mfa_device": grant.mfa_device, "source_addresses": grant.source_addresses,
            "extensions": grant.extensions, "keys": keys,
        });
        Ok(self.issue(&content, grant.ttl.clamp(MIN_USER_TTL, MAX_USER_TTL)))
    }

    async fn issue_host(
        &self,
        grant: HostGrant,
        keys: &SubjectKeys,
    ) -> Result<IssuedCertificates, IssueError> {
        let content = json!({
            "host_id": grant.host_id, "name": grant.name, "cluster": grant.cluster, "role": grant.role,
            "addresses": grant.addresses, "keys": keys,
        });
        Ok(self.issue(&content, grant.ttl.min(MAX_HOST_TTL)))
    }

    async fn issue_ssh_server(
        &self,
        grant: SshServerGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError> {
        let content = json!({ "names": grant.names, "cluster": grant.cluster, "key": key });
        Ok(ssh_of(self.issue(&content, grant.ttl.clamp(MIN_USER_TTL, MAX_HOST_TTL))))
    }

    async fn issue_openssh_login(
        &self,
        grant: OpenSshGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError> {
        let content =
            json!({ "user": grant.user, "login": grant.login, "permits": grant.permits, "key": key });
        Ok(ssh_of(self.issue(&content, grant.ttl.clamp(MIN_USER_TTL, MAX_OPENSSH_LOGIN_TTL))))
    }

    async fn issue_stand_in(
        &self,
        grant: HostGrant,
        key: &PublicKey,
    ) -> Result<IssuedSshCertificate, IssueError> {
        let content = json!({
            "host_id": grant.host_id, "name": grant.name, "role": grant.role,
            "addresses": grant.addresses, "key": key,
        });
        Ok(ssh_of(self.issue(&content, grant.ttl.clamp(MIN_USER_TTL, MAX_HOST_TTL))))
    }

    /// What carries no signature is of nobody.
    fn read(&self, _certificate: &str) -> Result<CertFields, CertRejected> {
        Err(CertRejected::Signature)
    }

    async fn trust(&self) -> Result<TrustBundle, IssueError> {
        Ok(TrustBundle {
            cluster: self.cluster.clone(),
            user_ca: vec![subject_keys(u64::MAX).ssh],
            host_ca: vec![subject_keys(u64::MAX - 1).ssh],
            openssh_ca: vec![subject_keys(u64::MAX - 2).ssh],
            user_tls_ca: Vec::new(),
            host_tls_ca: Vec::new(),
        })
    }
}
