//! Entries that are signed.

use std::borrow::Cow;
use std::fmt;

use async_trait::async_trait;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Chain, ChainHead, CheckpointKey, Digest, Entry, NotAnEntry};
use crate::audit::{AuditError, AuditEvent, EventKind};
use crate::clock::Timestamp;
use crate::id::{HostId, NodeName};
use crate::storage::Record;

/// What every signature covers first, so that none is good for anything else.
const CONTEXT: &[u8] = b"teleport-audit-checkpoint-v1\n";
const SIGNATURE: &[u8] = b",\"signature\":\"";
/// The base64 of 64 bytes.
const SIGNATURE_LEN: usize = 88;

/// Signs checkpoints.
///
/// # Contract
/// The key signs nothing else. `sign` returns the 64 bytes of RFC 8032 that [`CheckpointSigner::key`] verifies. It is called
/// between two writes of the log, which waits for it.
#[async_trait]
pub trait CheckpointSigner: fmt::Debug + Send + Sync + 'static {
    /// The public half.
    fn key(&self) -> CheckpointKey;

    /// Signs a message.
    ///
    /// # Errors
    /// [`AuditError`]. The log goes on without the checkpoint and tries again.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AuditError>;
}

/// Why a checkpoint was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointReason {
    /// A chain begins, or its first checkpoint.
    Begin,
    /// A file begins.
    Day,
    /// There were enough entries.
    Entries,
    /// Files were removed by retention; the checkpoint's `first` is the entry that is the first one from then on.
    Retention,
    /// The log was opened.
    Start,
    /// The log was closed.
    Stop,
    /// The newest entry was old enough.
    Time,
}

impl CheckpointReason {
    /// As entries say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Day => "day",
            Self::Entries => "entries",
            Self::Retention => "retention",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Time => "time",
        }
    }
}

/// A checkpoint that is to be signed.
#[derive(Debug)]
pub struct CheckpointDraft {
    chain: Chain,
    line: Vec<u8>,
}

impl CheckpointDraft {
    /// The next entry of `chain` as a checkpoint. `event` says where, when and why, see [`checkpoint_event`](Self::event).
    ///
    /// # Errors
    /// [`NotAnEntry`].
    pub fn new(chain: &Chain, event: &AuditEvent) -> Result<Self, NotAnEntry> {
        let json = serde_json::to_vec(event).map_err(|_| NotAnEntry)?;
        let mut line = CONTEXT.to_vec();
        chain.open(&json, &mut line)?;
        Ok(Self { chain: *chain, line })
    }

    /// The event of a checkpoint of the log `log` behind the end of `chain`.
    pub fn event(chain: &Chain, log: Uuid, key: &CheckpointKey, reason: CheckpointReason) -> AuditEvent {
        AuditEvent::new(EventKind::AuditCheckpoint)
            .field("head", chain.digest().to_string())
            .field("key", key.id().to_string())
            .field("log", log.to_string())
            .field("reason", reason.as_str())
    }

    /// What is to be signed.
    pub fn message(&self) -> &[u8] {
        &self.line
    }

    /// The line with its newline, and the chain that ends with it. `None` if the signature does not have 64 bytes.
    pub fn finish(mut self, signature: &[u8]) -> Option<(Vec<u8>, Chain)> {
        if signature.len() != 64 {
            return None;
        }
        self.line.drain(..CONTEXT.len());
        self.line.extend_from_slice(SIGNATURE);
        self.line.extend_from_slice(BASE64.encode(signature).as_bytes());
        self.line.push(b'"');
        self.chain.close(0, &mut self.line);
        Some((self.line, self.chain))
    }
}

/// A checkpoint as an entry says it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Its own place.
    pub head: ChainHead,
    /// The digest of the entry before it.
    pub before: Digest,
    /// The log.
    pub log: Uuid,
    /// The cluster.
    pub cluster: String,
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: String,
    /// The key's id.
    pub key: String,
    /// What was before this entry was removed by retention.
    pub first: Option<u64>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    time: Timestamp,
    #[serde(borrow, default)]
    cluster_name: Cow<'a, str>,
    head: Digest,
    #[serde(borrow)]
    key: Cow<'a, str>,
    log: Uuid,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(default)]
    first: Option<u64>,
}

impl Checkpoint {
    /// Whether an entry says that it is a checkpoint. Cheap; [`Checkpoint::parse`] decides.
    pub fn is_likely(entry: &Entry<'_>) -> bool {
        let code = EventKind::AuditCheckpoint.code().as_bytes();
        entry.body.windows(code.len()).any(|window| window == code)
    }

    /// Reads a checkpoint. Its signature is not checked.
    pub fn parse(entry: &Entry<'_>) -> Option<Self> {
        signed(entry)?;
        let fields: Fields<'_> = serde_json::from_slice(entry.line).ok()?;
        let kind = EventKind::AuditCheckpoint;
        (fields.code == kind.code() && fields.event == kind.name()).then(|| Self {
            head: entry.head(),
            before: fields.head,
            log: fields.log,
            cluster: fields.cluster_name.into_owned(),
            time: fields.time,
            reason: fields.reason.into_owned(),
            key: fields.key.into_owned(),
            first: fields.first,
        })
    }

    /// Whether `key` signed the entry.
    pub fn is_signed_by(entry: &Entry<'_>, key: &CheckpointKey) -> bool {
        signed(entry).is_some_and(|(text, signature)| key.verifies(&[CONTEXT, text].concat(), &signature))
    }
}

/// What is signed of an entry, and the signature.
fn signed<'a>(entry: &Entry<'a>) -> Option<(&'a [u8], Vec<u8>)> {
    let rest = entry.body.strip_suffix(b"\"")?;
    let (rest, signature) = rest.split_at_checked(rest.len().checked_sub(SIGNATURE_LEN)?)?;
    Some((rest.strip_suffix(SIGNATURE)?, BASE64.decode(signature).ok()?))
}

/// The newest checkpoint of a log, kept in the cluster's storage: whoever shortens the log's files cannot shorten this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredCheckpoint {
    /// The log.
    pub log: Uuid,
    /// The checkpoint's place.
    pub head: ChainHead,
    /// When it was written.
    pub time: Timestamp,
    /// Whose log it is; not said by releases that knew one auth service only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<LogOwner>,
}

/// The auth service that writes a log. Each of a cluster has its own, in files of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "programs build it")]
pub struct LogOwner {
    /// The host id of the service.
    pub service: HostId,
    /// Its display name.
    pub name: NodeName,
}

impl StoredCheckpoint {
    /// What is to be remembered of a checkpoint.
    pub const fn new(log: Uuid, head: ChainHead, time: Timestamp) -> Self {
        Self { log, head, time, owner: None }
    }

    /// The same of the log of this service.
    #[must_use]
    pub fn of(mut self, owner: Option<LogOwner>) -> Self {
        self.owner = owner;
        self
    }
}

impl Record for StoredCheckpoint {
    const COLLECTION: &'static str = "audit/checkpoints";

    fn key(&self) -> String {
        self.log.to_string()
    }
}
