//! Creating an authority once, opening it ever after.

use std::sync::Arc;

use teleport_core::cert::PublicKey;
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::entropy::{Entropy, EntropyExt};
use teleport_core::id::ClusterName;
use teleport_core::secret::Sealer;
use teleport_core::storage::{Backend, Repo};

use super::{CertificateAuthority, Signers, SshSigner, openssh};
use crate::error::CaError;
use crate::key::{KeyError, KeyId, KeyPurpose, KeyStore, SoftwareKeyStore};
use crate::store::{AuthorityRecord, Keys, LOCAL, Side, SshKey, TlsKey, Version};
use crate::x509::TlsIssuer;

impl CertificateAuthority {
    /// The authority of `cluster` that is stored in `backend`, its keys sealed with `sealer`; a new one if there is none.
    ///
    /// Several processes may do this at once over one storage: all of them get the same authority. If the future is
    /// dropped while it creates one, sealed keys that nothing refers to may remain in the storage.
    ///
    /// # Errors
    /// [`CaError`]. An authority that cannot be read is never replaced by a new one.
    pub async fn open_or_create(
        cluster: ClusterName,
        backend: Arc<dyn Backend>,
        sealer: Arc<dyn Sealer>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, CaError> {
        let keys = SoftwareKeyStore::new(Arc::clone(&backend), sealer, Arc::clone(&entropy));
        Self::with_key_store(cluster, backend, Arc::new(keys), clock, entropy).await
    }

    /// The same with keys that live elsewhere. `backend` holds their names and what is public.
    ///
    /// # Errors
    /// [`CaError`].
    pub async fn with_key_store(
        cluster: ClusterName,
        backend: Arc<dyn Backend>,
        keys: Arc<dyn KeyStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, CaError> {
        let records = Repo::<AuthorityRecord>::new(Arc::clone(&backend));
        let record = match records.get(LOCAL).await? {
            Some(stored) => stored.record,
            None => create(&records, &cluster, &*keys, &*clock, &*entropy).await?,
        };
        if record.cluster != cluster {
            return Err(CaError::OtherCluster { asked: cluster, stored: record.cluster });
        }
        let host = open_side(&cluster, record.host, &*keys, KeyPurpose::HostSsh, KeyPurpose::HostTls).await?;
        let user = open_side(&cluster, record.user, &*keys, KeyPurpose::UserSsh, KeyPurpose::UserTls).await?;
        let openssh = openssh::open_or_create(&Repo::new(backend), &*keys).await?;
        Ok(Self { cluster, keys, clock, entropy, host, user, openssh })
    }
}

/// Makes the keys, then the record that refers to them. Who finds the record there already takes that one.
async fn create(
    records: &Repo<AuthorityRecord>,
    cluster: &ClusterName,
    keys: &dyn KeyStore,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<AuthorityRecord, CaError> {
    let (record, made) = new_record(cluster, keys, clock, entropy).await?;
    match records.create(&record).await {
        Ok(_) => {
            tracing::info!(%cluster, "made the keys of a new certificate authority");
            Ok(record)
        }
        Err(error) => {
            // Read rather than trust the error: a write whose answer was lost may have happened.
            let stored = records.get(LOCAL).await?.map(|stored| stored.record);
            // Only a conflict says that our record will never be there. Otherwise it may still arrive, and its keys must
            // be there then: sealed keys without use do no harm, a record without keys is a lost cluster.
            if error.is_conflict() {
                for key in &made {
                    if let Err(error) = keys.delete(key).await {
                        tracing::warn!(%key, error = &error as &dyn std::error::Error, "an unused key remains");
                    }
                }
            }
            stored.ok_or_else(|| error.into())
        }
    }
}

async fn new_record(
    cluster: &ClusterName,
    keys: &dyn KeyStore,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<(AuthorityRecord, [KeyId; 4]), CaError> {
    let now = clock.now();
    let host_ssh = keys.generate(KeyPurpose::HostSsh).await?;
    let host_tls = keys.generate(KeyPurpose::HostTls).await?;
    let user_ssh = keys.generate(KeyPurpose::UserSsh).await?;
    let user_tls = keys.generate(KeyPurpose::UserTls).await?;
    let made = [host_ssh.clone(), host_tls.clone(), user_ssh.clone(), user_tls.clone()];
    let host = new_side(cluster, keys, entropy, now, (host_ssh, host_tls)).await?;
    let user = new_side(cluster, keys, entropy, now, (user_ssh, user_tls)).await?;
    Ok((AuthorityRecord { version: Version::V1, cluster: cluster.clone(), created: now, host, user }, made))
}

async fn new_side(
    cluster: &ClusterName,
    keys: &dyn KeyStore,
    entropy: &dyn Entropy,
    now: Timestamp,
    (ssh, tls): (KeyId, KeyId),
) -> Result<Side, CaError> {
    let public = keys.info(&ssh).await?.public;
    let serial = entropy.bytes().map_err(KeyError::unavailable)?;
    let certificate = TlsIssuer::create(cluster, keys, &tls, serial, now).await?;
    Ok(Side { ssh: Keys::new(SshKey { key: ssh, public }), tls: Keys::new(TlsKey { key: tls, certificate }) })
}

/// Takes up what the record names, if the key store vouches for all of it.
async fn open_side(
    cluster: &ClusterName,
    side: Side,
    keys: &dyn KeyStore,
    ssh: KeyPurpose,
    tls: KeyPurpose,
) -> Result<Signers, CaError> {
    let mut additional_ssh = Vec::new();
    let mut additional_tls = Vec::new();
    for key in side.ssh.additional {
        additional_ssh.push(open_ssh(key, keys, ssh).await?);
    }
    for key in side.tls.additional {
        additional_tls.push(open_tls(cluster, key, keys, tls).await?);
    }
    Ok(Signers {
        ssh: open_ssh(side.ssh.active, keys, ssh).await?,
        tls: open_tls(cluster, side.tls.active, keys, tls).await?,
        additional_ssh,
        additional_tls,
    })
}

pub(super) async fn open_ssh(
    stored: SshKey,
    keys: &dyn KeyStore,
    purpose: KeyPurpose,
) -> Result<SshSigner, CaError> {
    let public = vouched(&stored.key, keys, purpose).await?;
    if public != stored.public {
        return Err(CaError::corrupt(format!("the public half of {} is another one", stored.key)));
    }
    Ok(SshSigner { key: stored.key, public })
}

async fn open_tls(
    cluster: &ClusterName,
    stored: TlsKey,
    keys: &dyn KeyStore,
    purpose: KeyPurpose,
) -> Result<TlsIssuer, CaError> {
    let public = vouched(&stored.key, keys, purpose).await?;
    TlsIssuer::open(cluster, stored.key, &public, stored.certificate)
}

async fn vouched(key: &KeyId, keys: &dyn KeyStore, purpose: KeyPurpose) -> Result<PublicKey, CaError> {
    let info = keys.info(key).await?;
    if info.purpose == purpose && info.public.algorithm() == purpose.algorithm() {
        Ok(info.public)
    } else {
        Err(CaError::corrupt(format!("{key} is not a {purpose} key")))
    }
}
