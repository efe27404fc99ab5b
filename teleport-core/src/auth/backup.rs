//! Backups: the secrets that belong to one, and a cluster that begins with one.
//!
//! A restore writes into an empty cluster only. It may need more than one batch, so it leaves a mark until it is whole: a cluster
//! that was restored by half does not start.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{Context, SHA256};

use super::context::OpContext;
use super::devices::TotpRecord;
use super::documents::invalid;
use super::names::SignedName;
use super::password::PasswordRecord;
use super::policy::Permit;
use super::trust::AUTHORITIES;
use super::{Caller, EvictedHost, HostRecord, Withdrawn};
use crate::access::{CompiledRole, check_room};
use crate::api::{ApiError, ApiErrorKind, ApiResult};
use crate::audit::{AuditError, AuditEvent, AuditLog, EventKind};
use crate::clock::Clock;
use crate::entropy::{Entropy, EntropyExt};
use crate::id::ClusterName;
use crate::resource::{Document, Lock, Role, SealedRecord, Secrets, SecretsSpec, User, builtin_roles};
use crate::secret::Sealer;
use crate::storage::{
    Action, Backend, BackendExt, Batch, Condition, InvalidKey, Key, Prefix, Record, Repo, RepoError,
    StorageError,
};
use crate::token::{ForJoin, TokenUse};

/// Everything secret, and what is worth nothing without it: password hashes, second factors, tokens, the authorities, to which
/// keys the ids of hosts are bound, which hosts and users were removed, and which servers were certified.
const SECRET: [&str; 8] = [
    AUTHORITIES,
    Withdrawn::COLLECTION,
    EvictedHost::COLLECTION,
    HostRecord::COLLECTION,
    PasswordRecord::COLLECTION,
    SignedName::COLLECTION,
    ForJoin::COLLECTION,
    TotpRecord::COLLECTION,
];
/// A cluster where something is here is not empty.
const INHABITED: [&str; 5] = [
    HostRecord::COLLECTION,
    PasswordRecord::COLLECTION,
    <Role as Record>::COLLECTION,
    ForJoin::COLLECTION,
    <User as Record>::COLLECTION,
];
/// What is sealed to recognise the master key by.
const CHECK: &str = "backup/check";
/// Where it is marked that a restore has begun and not ended.
const MARK: &str = "restore/unfinished";
/// Records written at once.
const STEP: usize = 100;

pub(super) async fn secrets(call: &OpContext<'_>, _permit: Permit<'_>) -> ApiResult<Secrets> {
    let ports = &call.auth.ports;
    let mut records = Vec::new();
    for collection in SECRET {
        let prefix = Prefix::new(collection).map_err(RepoError::from)?;
        for item in ports.backend.list(&prefix).await? {
            records.push(SealedRecord::new(&item.key, &item.value, item.expires));
        }
    }
    let check = BASE64.encode(&ports.sealer.seal(CHECK, CHECK.as_bytes())?);
    let event = AuditEvent::new(EventKind::BackupSecrets).field("records", records.len());
    call.audit(vec![call.by_caller(event)]).await?;
    Ok(Secrets::of(SecretsSpec { cluster: call.auth.config.cluster.clone(), check, records }))
}

/// Refuses a cluster that was restored by half.
pub(super) async fn check_whole(backend: &dyn Backend) -> ApiResult<()> {
    match backend.get(&mark()?).await? {
        None => Ok(()),
        Some(_) => Err(ApiError::new(ApiErrorKind::Conflict, RestoreError::Unfinished.to_string())),
    }
}

fn mark() -> Result<Key, RepoError> {
    Ok(unfinished_restore()?)
}

/// Where the item is that marks storage which was filled by half, by a restore or a migration. No auth service starts on it.
///
/// # Errors
/// None.
pub fn unfinished_restore() -> Result<Key, InvalidKey> {
    Key::new(MARK)
}

/// What a cluster is to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    roles: Vec<Role>,
    users: Vec<User>,
    locks: Vec<Lock>,
    secrets: Option<Secrets>,
    left_out: usize,
}

/// Why a cluster was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The audit log cannot be written.
    #[error("the restore could not be written down")]
    Audit {
        /// The reason.
        #[from]
        source: AuditError,
    },
    /// A document is not what can be stored.
    #[error("{what}: {reason}")]
    Invalid {
        /// Which.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster has users, roles or hosts.
    #[error(
        "this cluster is not empty: a backup is restored into a new one only (nothing was changed); \
         to write single documents into it use tctl create --force"
    )]
    NotEmpty,
    /// The restore of another backup has begun and was interrupted.
    #[error(
        "the restore of another backup was interrupted here: start again with --bootstrap and that same file, \
         or with an empty data directory"
    )]
    OtherBackup,
    /// The secrets were sealed with another master key.
    #[error(
        "the secrets of the backup were sealed with another master key; put the file master.key of the old data directory into \
         the new one, or leave the document of the kind secrets out"
    )]
    OtherKey,
    /// Storage failed.
    #[error("storage failed")]
    Storage {
        /// The reason.
        #[from]
        source: RepoError,
    },
    /// A restore has begun and was interrupted.
    #[error(
        "this cluster was filled by half: if a restore was interrupted, start again with --bootstrap and the same file; if a \
         migration was, run it again"
    )]
    Unfinished,
}

impl From<StorageError> for RestoreError {
    fn from(source: StorageError) -> Self {
        Self::Storage { source: source.into() }
    }
}

impl From<InvalidKey> for RestoreError {
    fn from(source: InvalidKey) -> Self {
        Self::Storage { source: source.into() }
    }
}

fn wrong(what: impl fmt::Display, reason: impl fmt::Display) -> RestoreError {
    RestoreError::Invalid { what: what.to_string(), reason: reason.to_string() }
}

impl Backup {
    /// Checks that the documents of a backup can be stored, and that none is there twice. What only describes itself (nodes,
    /// authorities) and tokens, whose secrets no document has, is left out: the secrets of the backup hold them.
    ///
    /// # Errors
    /// [`RestoreError::Invalid`].
    pub fn new(documents: impl IntoIterator<Item = Document>) -> Result<Self, RestoreError> {
        let mut backup = Self::default();
        for document in documents {
            match document {
                Document::Role(mut role) => {
                    role.metadata.revision = None;
                    let what = format!("role {}", role.metadata.name);
                    if backup.roles.iter().any(|known| known.metadata.name == role.metadata.name) {
                        return Err(wrong(what, "is there twice"));
                    }
                    CompiledRole::new(role.clone()).map_err(|error| wrong(what, invalid(&error)))?;
                    backup.roles.push(role);
                }
                Document::User(mut user) => {
                    user.metadata.revision = None;
                    let what = format!("user {}", user.metadata.name);
                    if backup.users.iter().any(|known| known.metadata.name == user.metadata.name) {
                        return Err(wrong(what, "is there twice"));
                    }
                    super::documents::check_user(&user).map_err(|error| wrong(what, error))?;
                    backup.users.push(user);
                }
                Document::Lock(mut lock) => {
                    lock.metadata.revision = None;
                    let what = format!("lock {}", lock.metadata.name);
                    if backup.locks.iter().any(|known| known.metadata.name == lock.metadata.name) {
                        return Err(wrong(what, "is there twice"));
                    }
                    super::documents::check_lock(&lock).map_err(|error| wrong(what, error))?;
                    backup.locks.push(lock);
                }
                Document::Secrets(secrets) => {
                    if backup.secrets.replace(secrets).is_some() {
                        return Err(wrong("secrets", "are there twice"));
                    }
                }
                Document::Shown(_) | Document::Token(_) => backup.left_out += 1,
            }
        }
        check_room(backup.roles.iter()).map_err(|error| wrong("roles", error))?;
        let builtin = builtin_roles();
        let names: Vec<&str> =
            backup.roles.iter().chain(&builtin).map(|role| role.metadata.name.as_str()).collect();
        for user in &backup.users {
            if let Some(missing) = user.spec.roles.iter().find(|held| !names.contains(&held.as_str())) {
                let reason = format!("the backup has no role {missing}; add it, or take it from the user");
                return Err(wrong(format_args!("user {}", user.metadata.name), reason));
            }
        }
        Ok(backup)
    }

    /// Whose secrets are in it.
    pub fn cluster(&self) -> Option<&ClusterName> {
        self.secrets.as_ref().map(|secrets| &secrets.spec.cluster)
    }
}

/// What a restore works with. The authority is not among them: it may be restored as well, and is opened after that.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "programs build it; a new port must make them think")]
pub struct RestorePorts {
    /// Where the cluster is kept.
    pub backend: Arc<dyn Backend>,
    /// Opens what was sealed.
    pub sealer: Arc<dyn Sealer>,
    /// Where the restore is written down.
    pub audit: Arc<dyn AuditLog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// How many roles.
    pub roles: usize,
    /// How many users.
    pub users: usize,
    /// How many locks.
    pub locks: usize,
    /// How many secret records; without any, users need invites (`reset_user`) and hosts new tokens.
    pub secrets: usize,
    /// How many documents were left out.
    pub left_out: usize,
}

/// Writes a backup into an empty cluster, before its authority is opened for the first time. If it is interrupted,
/// [`AuthService::bootstrap`](super::AuthService::bootstrap) refuses until it was called again with the same backup.
///
/// # Errors
/// [`RestoreError`]; nothing was written with [`RestoreError::NotEmpty`], [`RestoreError::OtherBackup`],
/// [`RestoreError::OtherKey`] and [`RestoreError::Invalid`].
pub async fn restore(
    ports: &RestorePorts,
    cluster: &ClusterName,
    backup: &Backup,
) -> Result<Restored, RestoreError> {
    let backend = &*ports.backend;
    let operations = operations(ports, backup)?;
    let (mark, begun) = (mark()?, fingerprint(&operations));
    let before = backend.get(&mark).await?;
    if let Some(before) = &before {
        // What another one has left here would stay.
        if before.value != begun {
            return Err(RestoreError::OtherBackup);
        }
    } else {
        for collection in INHABITED {
            if !backend.range(&Prefix::new(collection)?, None, 1).await?.is_empty() {
                return Err(RestoreError::NotEmpty);
            }
        }
    }
    if before.is_none() {
        backend.create(&mark, begun, None).await?;
    }
    for step in operations.chunks(STEP) {
        let batch = step
            .iter()
            .cloned()
            .fold(Batch::new(), |batch, (key, action)| batch.with(key, Condition::Any, action));
        backend.commit(batch).await?;
    }
    let restored = Restored {
        roles: backup.roles.len(),
        users: backup.users.len(),
        locks: backup.locks.len(),
        secrets: backup.secrets.as_ref().map_or(0, |secrets| secrets.spec.records.len()),
        left_out: backup.left_out,
    };
    let mut event = AuditEvent::new(EventKind::BackupRestore)
        .user(Caller::LocalAdmin.to_string())
        .field("roles", restored.roles)
        .field("users", restored.users)
        .field("locks", restored.locks)
        .field("secrets", restored.secrets);
    event.uid = ports.entropy.uuid().map_err(AuditError::new)?;
    event.time = ports.clock.now();
    backup.cluster().unwrap_or(cluster).as_str().clone_into(&mut event.cluster_name);
    ports.audit.emit(vec![event]).await?;
    BackendExt::delete(backend, &mark).await?;
    Ok(restored)
}

/// What the mark says of the restore that has begun: all that it writes.
fn fingerprint(operations: &[(Key, Action)]) -> Bytes {
    let mut digest = Context::new(&SHA256);
    let mut add = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    for (key, action) in operations {
        add(key.as_str().as_bytes());
        if let Action::Put { value, expires } = action {
            add(value);
            add(expires.map(|at| at.to_string()).unwrap_or_default().as_bytes());
        }
    }
    format!("\"{}\"", HEXLOWER.encode(digest.finish().as_ref())).into()
}

/// Everything that is to be written.
fn operations(ports: &RestorePorts, backup: &Backup) -> Result<Vec<(Key, Action)>, RestoreError> {
    let mut batch = Batch::new();
    let (roles, users) =
        (Repo::<Role>::new(Arc::clone(&ports.backend)), Repo::<User>::new(Arc::clone(&ports.backend)));
    for role in &backup.roles {
        batch = roles.write_in(batch, role, Condition::Any)?;
    }
    for user in &backup.users {
        batch = users.write_in(batch, user, Condition::Any)?;
    }
    let locks = Repo::<Lock>::new(Arc::clone(&ports.backend));
    for lock in &backup.locks {
        batch = locks.write_in(batch, lock, Condition::Any)?;
    }
    if let Some(Secrets { spec, .. }) = &backup.secrets {
        let check = BASE64.decode(spec.check.as_bytes()).map_err(|_| RestoreError::OtherKey)?;
        ports.sealer.open(CHECK, &check).map_err(|_| RestoreError::OtherKey)?;
        for record in &spec.records {
            let what = || format!("secrets: the record {:?}", record.key);
            let key = Key::new(&record.key).map_err(|error| wrong(what(), error))?;
            let known = SECRET.iter().any(|collection| {
                key.as_str().strip_prefix(collection).is_some_and(|rest| rest.starts_with('/'))
            });
            if !known {
                return Err(wrong(what(), "is not one of a backup"));
            }
            let value = record.bytes().ok_or_else(|| wrong(what(), "is not base64"))?;
            batch = batch.put(key, Condition::Any, value, record.expires);
        }
    }
    Ok(batch.into_operations().into_iter().map(|operation| (operation.key, operation.action)).collect())
}
