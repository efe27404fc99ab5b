//! Following the log's files into the index.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use teleport_core::audit::chain::{ChainHead, Entry};
use teleport_core::clock::{Clock, Timestamp};
use teleport_core::secret::Sealer;
use teleport_core::storage::{
    Action, Backend, Batch, Condition, InvalidKey, Key, MAX_OPERATIONS, Repo, RepoError, Revision,
    StorageError,
};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::block::{self, BlockError, BlockId, Draft};
use super::record::{Indexed, SEEN_EVERY};
use crate::audit::file::{Place, Synced, Walk, is_at};

/// About the most bytes of lines in one commit.
const MAX_BATCH_BYTES: usize = 2 << 20;
/// The most blocks in one commit, which writes a record as well, and may delete one.
const MAX_BLOCKS: usize = MAX_OPERATIONS - 2;
/// The most items of a page whose values are blocks.
pub(super) const PAGE: usize = 32;
/// How long one call of storage may take. Nobody waits for it but the index.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
const DAY_MILLIS: u64 = 86_400_000;

/// What an index works with.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) sealer: Arc<dyn Sealer>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Why the index is not further.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error("the audit files cannot be read")]
    Files(#[from] io::Error),
    #[error("a block of events cannot be made")]
    Block(#[from] BlockError),
    #[error("storage failed")]
    Storage(#[from] StorageError),
    #[error("storage failed")]
    Record(#[from] RepoError),
    /// The index was deleted, or the answer to the last commit was lost. Once; over and over, another process is at it.
    #[error(
        "the place of this log in its index was changed: if that goes on, another service has a copy of this one's data directory"
    )]
    Changed(#[source] StorageError),
    #[error("storage did not answer")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("the work was ended")]
    Ended(#[from] tokio::task::JoinError),
}

impl From<InvalidKey> for FollowError {
    fn from(error: InvalidKey) -> Self {
        Self::Record(error.into())
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more to do.
    More,
    /// Everything that is on the disk is in the index.
    Done,
}

/// Where the index is with this log, as storage knows it.
#[derive(Debug)]
struct State {
    record: Indexed,
    revision: Option<Revision>,
    written: Instant,
}

/// Follows the files of one log.
#[derive(Debug)]
pub(super) struct Follower {
    ports: Ports,
    directory: Arc<Path>,
    retention: Option<Duration>,
    synced: watch::Receiver<Option<Synced>>,
    /// `None` until it was read, and when it has to be read again.
    state: Option<State>,
    /// The record has to be written even if nothing is new.
    stale: bool,
    /// Up to where old blocks were removed.
    pruned: Option<Timestamp>,
    /// How far it is, for those who wait.
    progress: watch::Sender<Place>,
}

/// What one commit adds.
#[derive(Debug)]
struct Portion {
    blocks: Vec<(Key, Vec<u8>)>,
    place: Place,
    head: Option<ChainHead>,
    log: Uuid,
    more: bool,
}

#[derive(Deserialize)]
struct When {
    time: Timestamp,
}

impl Follower {
    pub(super) fn new(
        ports: Ports,
        directory: Arc<Path>,
        retention: Option<Duration>,
        synced: watch::Receiver<Option<Synced>>,
        progress: watch::Sender<Place>,
    ) -> Self {
        Self { ports, directory, retention, synced, state: None, stale: false, pruned: None, progress }
    }

    /// The record may be gone: looks.
    pub(super) const fn doubt(&mut self) {
        self.stale = true;
    }

    /// Waits until something is new on the disk. `false` if the log was closed. Cancel safe.
    pub(super) async fn changed(&mut self) -> bool {
        self.synced.changed().await.is_ok()
    }

    /// Adds what is on the disk, at most one commit. After an error storage is asked again where the index is.
    pub(super) async fn step(&mut self) -> Result<Step, FollowError> {
        // Without a file there is no log yet that has a name.
        let synced = self.synced.borrow_and_update().clone().filter(|synced| synced.end != Place::default());
        let Some(synced) = synced else { return Ok(Step::Done) };
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.load(synced.log).await?,
        };
        let portion = self.read(&state.record, synced.end).await?;
        let more = portion.more;
        let is_new = portion.place != state.record.place || state.record.behind != more;
        if is_new || self.stale || state.written.elapsed() >= SEEN_EVERY {
            match self.commit(&mut state, portion, false).await {
                Err(FollowError::Storage(error)) if error.is_conflict() => {
                    return Err(FollowError::Changed(error));
                }
                outcome => outcome?,
            }
        }
        self.progress.send_replace(state.record.place.clone());
        self.state = Some(state);
        if more { Ok(Step::More) } else { self.prune().await }
    }

    /// Says that the log was closed, when everything is in the index.
    pub(super) async fn close(&mut self) -> Result<(), FollowError> {
        let Some(mut state) = self.state.take() else { return Ok(()) };
        let Indexed { place, head, log, .. } = state.record.clone();
        let nothing = Portion { blocks: Vec::new(), place, head, log, more: false };
        self.commit(&mut state, nothing, true).await
    }

    /// Where the index is.
    async fn load(&mut self, log: Uuid) -> Result<State, FollowError> {
        let records = Repo::<Indexed>::new(Arc::clone(&self.ports.backend));
        let stored = tokio::time::timeout(PATIENCE, records.get(&log.to_string())).await?;
        let (stored, revision) = match stored {
            Ok(stored) => stored.map(|stored| (stored.record, stored.revision)).unzip(),
            // Built anew, and written over it.
            Err(RepoError::Corrupt { .. }) => {
                let key = records.key(&log.to_string())?;
                (None, self.ports.backend.get(&key).await?.map(|item| item.revision))
            }
            Err(error) => return Err(error.into()),
        };
        let mut record = stored.unwrap_or(Indexed {
            log,
            place: Place::default(),
            head: None,
            seen: self.ports.clock.now(),
            behind: true,
            closed: true,
        });
        let (directory, place, head) = (Arc::clone(&self.directory), record.place.clone(), record.head);
        if !tokio::task::spawn_blocking(move || is_at(&directory, &place, head)).await?? {
            tracing::warn!(%log, "the audit files are not those that the index knows; it is made anew from them");
            (record.place, record.head) = (Place::default(), None);
        }
        // From now on this service is there.
        self.stale |= record.closed;
        Ok(State { record, revision, written: Instant::now() })
    }

    fn floor(&self) -> Timestamp {
        let kept_from = self.retention.map(|kept| self.ports.clock.now().saturating_sub(kept));
        let millis = kept_from.unwrap_or(Timestamp::EPOCH).unix_millis();
        Timestamp::from_unix_millis(millis - millis % DAY_MILLIS)
    }

    async fn read(&self, record: &Indexed, end: Place) -> Result<Portion, FollowError> {
        let (directory, sealer) = (Arc::clone(&self.directory), Arc::clone(&self.ports.sealer));
        let (from, head, log) = (record.place.clone(), record.head, record.log);
        let read = move || portion(directory, &*sealer, (from, head, log), end);
        tokio::task::spawn_blocking(read).await?
    }

    async fn commit(&mut self, state: &mut State, portion: Portion, closed: bool) -> Result<(), FollowError> {
        let records = Repo::<Indexed>::new(Arc::clone(&self.ports.backend));
        let mut batch = Batch::new();
        for (key, value) in portion.blocks {
            // Made anew it is the same block.
            batch = batch.put(key, Condition::Any, value, None);
        }
        let mut condition = state.revision.map_or(Condition::Absent, Condition::Is);
        if portion.log != state.record.log {
            // The first checkpoint has named the log, or another chain begins.
            let former = records.key(&state.record.log.to_string())?;
            batch = batch.with(former, condition, Action::Delete);
            condition = Condition::Any;
        }
        let record = Indexed {
            log: portion.log,
            place: portion.place,
            head: portion.head,
            seen: self.ports.clock.now(),
            behind: portion.more,
            closed,
        };
        let batch = records.write_in(batch, &record, condition)?;
        let revision = tokio::time::timeout(PATIENCE, self.ports.backend.commit(batch)).await??;
        *state = State { record, revision: Some(revision), written: Instant::now() };
        self.stale = false;
        Ok(())
    }

    /// Removes what is older than the log is kept, a page at a time, once a day.
    async fn prune(&mut self) -> Result<Step, FollowError> {
        let floor = self.floor();
        if self.pruned == Some(floor) || self.retention.is_none() {
            return Ok(Step::Done);
        }
        let backend = &self.ports.backend;
        let page = tokio::time::timeout(PATIENCE, backend.range(&block::prefix()?, None, PAGE)).await??;
        let old = page.iter().take_while(|item| {
            BlockId::parse(&item.key).is_none_or(|id| id.second.saturating_mul(1000) < floor.unix_millis())
        });
        let batch = old
            .fold(Batch::new(), |batch, item| batch.with(item.key.clone(), Condition::Any, Action::Delete));
        let removed = batch.operations().len();
        if removed > 0 {
            tokio::time::timeout(PATIENCE, backend.commit(batch)).await??;
        }
        if removed == PAGE {
            return Ok(Step::More);
        }
        // And how far it was with logs of which nothing is left.
        let records = Repo::<Indexed>::new(Arc::clone(backend));
        let own = self.state.as_ref().map(|state| state.record.log);
        for stored in tokio::time::timeout(PATIENCE, records.list()).await?? {
            if stored.record.seen < floor && Some(stored.record.log) != own {
                tokio::time::timeout(PATIENCE, records.delete(&stored.record.log.to_string())).await??;
            }
        }
        self.pruned = Some(floor);
        Ok(Step::Done)
    }
}

/// Reads what one commit can hold. Blocks.
fn portion(
    directory: Arc<Path>,
    sealer: &dyn Sealer,
    (from, mut head, log): (Place, Option<ChainHead>, Uuid),
    end: Place,
) -> Result<Portion, FollowError> {
    let mut walk = Walk::new(directory, from, Some(end), log)?;
    let (mut drafts, mut bytes, mut more) = (Vec::<Draft>::new(), 0, false);
    while let Some(line) = walk.next()? {
        bytes += line.len();
        if let Some(entry) = Entry::parse(&line) {
            head = Some(entry.head());
            let event = [entry.body(), b"}"].concat();
            if let Ok(When { time }) = serde_json::from_slice(&event) {
                add(&mut drafts, walk.log(), time, entry.head().index, &event);
            }
        }
        if bytes >= MAX_BATCH_BYTES || drafts.len() >= MAX_BLOCKS {
            more = true;
            break;
        }
    }
    let mut blocks = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let key = draft.key()?;
        let value = draft.seal(&key, sealer)?;
        blocks.push((key, value));
    }
    Ok(Portion { blocks, place: walk.place().clone(), head, log: walk.log(), more })
}

fn add(drafts: &mut Vec<Draft>, log: Uuid, time: Timestamp, index: u64, event: &[u8]) {
    let second = time.unix_secs();
    let fits =
        |draft: &&mut Draft| draft.id.second == second && draft.id.log == log && draft.has_room(event.len());
    if let Some(draft) = drafts.iter_mut().rev().find(fits) {
        draft.push(event);
        return;
    }
    let mut draft = Draft::new(BlockId { second, log }, index);
    draft.push(event);
    drafts.push(draft);
}
