//! The key that signs logins on the SSH servers of others. It has a record of its own, so that a cluster that began without it gets it.

use serde::{Deserialize, Serialize};
use teleport_core::storage::{Record, Repo};

use super::SshSigner;
use super::open::open_ssh;
use crate::error::CaError;
use crate::key::{KeyPurpose, KeyStore};
use crate::store::{Keys, LOCAL, SshKey, Version};

/// There is one, so that two processes that create it at once agree on one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenSshRecord {
    version: Version,
    ssh: Keys<SshKey>,
}

impl Record for OpenSshRecord {
    const COLLECTION: &'static str = "ca/openssh";

    fn key(&self) -> String {
        LOCAL.to_owned()
    }
}

/// The keys, of which the first signs; a new one if there is none. A key that cannot be read is never replaced by a new one.
pub(super) async fn open_or_create(
    records: &Repo<OpenSshRecord>,
    keys: &dyn KeyStore,
) -> Result<Vec<SshSigner>, CaError> {
    let record = match records.get(LOCAL).await? {
        Some(stored) => stored.record,
        None => create(records, keys).await?,
    };
    let mut signers = vec![open_ssh(record.ssh.active, keys, KeyPurpose::OpenSsh).await?];
    for key in record.ssh.additional {
        signers.push(open_ssh(key, keys, KeyPurpose::OpenSsh).await?);
    }
    Ok(signers)
}

async fn create(records: &Repo<OpenSshRecord>, keys: &dyn KeyStore) -> Result<OpenSshRecord, CaError> {
    let key = keys.generate(KeyPurpose::OpenSsh).await?;
    let public = keys.info(&key).await?.public;
    let record = OpenSshRecord { version: Version::V1, ssh: Keys::new(SshKey { key: key.clone(), public }) };
    match records.create(&record).await {
        Ok(_) => Ok(record),
        Err(error) => {
            // Whoever was first has made the one that is used. An unused key that remains does no harm.
            let stored = records.get(LOCAL).await?.map(|stored| stored.record);
            if error.is_conflict() {
                keys.delete(&key).await?;
            }
            stored.ok_or_else(|| error.into())
        }
    }
}
