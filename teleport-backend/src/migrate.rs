//! Moving everything from one backend to another.

use teleport_core::clock::{Clock, Timestamp};
use teleport_core::storage::{
    Action, Backend, Batch, Condition, Item, Key, MAX_PAGE, Prefix, Revision, StorageError, Watch, WatchEvent,
};

/// How much is written at once: less than every store takes in one request, unless a single value is longer. With the mark it is
/// less than a batch may have.
const STEP_ITEMS: usize = 100;
const STEP_BYTES: usize = 512 << 10;

/// How long changes of the source may take to be told, if there are commits that nothing is told of.
const ECHO: std::time::Duration = std::time::Duration::from_secs(3);

/// What the mark says while nothing but it was written: whatever else is there is somebody else's.
const CLAIMED: &[u8] = b"\"claimed\"";
/// What it says from then on: all that is there is ours.
const COPYING: &[u8] = b"\"copying\"";

/// Why a migration has failed. The source is as it was, always.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// Something was written to the source meanwhile.
    #[error(
        "{key} was written to the source meanwhile: stop all auth services that use it, and migrate again"
    )]
    Changed {
        /// The first thing that changed.
        key: Key,
    },
    /// What the target has is not what the source has.
    #[error("after copying, {key} is not the same in the source and in the target; migrate again")]
    Differs {
        /// The first difference.
        key: Key,
    },
    /// There is nothing to migrate.
    #[error("the source is empty")]
    Empty,
    /// The target has something, and not from a migration that was interrupted.
    #[error("the target is not empty: it has {key}; name another place")]
    NotEmpty {
        /// Something that is there.
        key: Key,
    },
    /// Another migration has taken the target over, and goes on with it.
    #[error("another migration writes to the target: this one has stopped; let the other one end")]
    Overtaken,
    /// The source cannot be read.
    #[error("the source failed")]
    Source {
        /// Why.
        source: StorageError,
    },
    /// The target cannot be read or written.
    #[error(
        "the target failed; what was copied so far is marked as unfinished, and migrating again goes on with it"
    )]
    Target {
        /// Why.
        source: StorageError,
    },
    /// The source itself is the result of something that was interrupted.
    #[error("the source is unfinished itself: it was restored or migrated by half")]
    Unfinished,
}

/// What a migration is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Counting what there is.
    Count,
    /// Writing it to the target.
    Copy,
    /// Comparing both.
    Verify,
}

/// What a migration has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// Items.
    pub items: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
}

/// Copies everything that is live from `source` to `target`, which must be empty, then compares both.
///
/// Until it is done the target has an item at `mark`, by which others see that it is not to be used; a target with this item may be
/// migrated to again. Every write depends on this item being as this migration made it: of two that run at once, the later one wins and
/// the other one stops. Expiries stay; revisions are the target's own. `progress` hears what is done, how many items of how many.
///
/// Cancelling it leaves the target marked.
///
/// # Errors
/// [`MigrateError`].
pub async fn migrate(
    source: &dyn Backend,
    target: &dyn Backend,
    mark: &Key,
    clock: &dyn Clock,
    progress: &mut (dyn FnMut(Stage, u64, u64) + Send),
) -> Result<Migrated, MigrateError> {
    let from = |source| MigrateError::Source { source };
    let root = Prefix::root();
    // Known now, nothing is written for it. It is decided when the target is ours.
    if target.get(mark).await.map_err(|source| MigrateError::Target { source })?.is_none() {
        check_empty(target, mark).await?;
    }
    if source.get(mark).await.map_err(from)?.is_some() {
        return Err(MigrateError::Unfinished);
    }
    let mut changes = source.watch(&root).await.map_err(from)?;
    let mut all = Migrated::default();
    let mut pages = Pages::of(source);
    while let Some(item) = pages.next().await.map_err(from)? {
        all.items += 1;
        all.bytes += (item.key.as_str().len() + item.value.len()) as u64;
        progress(Stage::Count, all.items, all.items);
    }
    if all.items == 0 {
        return Err(MigrateError::Empty);
    }
    let fence = Fence::claim(target, mark).await?;
    let mut done = 0;
    let mut pages = Pages::of(source);
    let mut step = Step::default();
    while let Some(item) = pages.next().await.map_err(from)? {
        if !step.has_room(&item) {
            fence.commit(std::mem::take(&mut step).batch, Action::Keep).await?;
        }
        step.add(item);
        done += 1;
        progress(Stage::Copy, done, all.items);
    }
    fence.commit(step.batch, Action::Keep).await?;
    compare(source, target, mark, clock, &mut |done| progress(Stage::Verify, done, all.items)).await?;
    check_unchanged(source, target, &mut changes).await?;
    fence.commit(Batch::new(), Action::Delete).await?;
    Ok(all)
}

/// Nothing but the mark is there.
async fn check_empty(target: &dyn Backend, mark: &Key) -> Result<(), MigrateError> {
    let found = target.range(&Prefix::root(), None, 2).await;
    let found = found.map_err(|source| MigrateError::Target { source })?;
    match found.into_iter().find(|item| item.key != *mark) {
        Some(item) => Err(MigrateError::NotEmpty { key: item.key }),
        None => Ok(()),
    }
}

/// The mark as this migration has made it: nothing is written to the target unless it is still so.
struct Fence<'a> {
    target: &'a dyn Backend,
    mark: &'a Key,
    revision: Revision,
}

impl<'a> Fence<'a> {
    /// Makes the target ours, with nothing in it but the mark.
    async fn claim(target: &'a dyn Backend, mark: &'a Key) -> Result<Self, MigrateError> {
        let found = target.get(mark).await.map_err(|source| MigrateError::Target { source })?;
        let is_ours = found.as_ref().is_some_and(|item| item.value != CLAIMED);
        let condition = found.map_or(Condition::Absent, |item| Condition::Is(item.revision));
        let put = |value| Action::Put { value: bytes::Bytes::from_static(value), expires: None };
        let mut fence = Self { target, mark, revision: Revision::ZERO };
        if is_ours {
            fence.revision = fence.write(Batch::new(), condition, put(COPYING)).await?;
            fence.clear().await?;
            return Ok(fence);
        }
        fence.revision = fence.write(Batch::new(), condition, put(CLAIMED)).await?;
        // From now on no service starts on it. One that has may have written meanwhile.
        if let Err(error) = check_empty(target, mark).await {
            fence.commit(Batch::new(), Action::Delete).await?;
            return Err(error);
        }
        fence.revision = fence.commit(Batch::new(), put(COPYING)).await?;
        Ok(fence)
    }

    /// Writes, and does to the mark what `action` says.
    async fn commit(&self, batch: Batch, action: Action) -> Result<Revision, MigrateError> {
        self.write(batch, Condition::Is(self.revision), action).await
    }

    async fn write(
        &self,
        batch: Batch,
        condition: Condition,
        action: Action,
    ) -> Result<Revision, MigrateError> {
        match self.target.commit(batch.with(self.mark.clone(), condition, action)).await {
            Err(StorageError::Conflict { .. }) => Err(MigrateError::Overtaken),
            result => result.map_err(|source| MigrateError::Target { source }),
        }
    }

    /// Removes what an earlier attempt has left.
    async fn clear(&self) -> Result<(), MigrateError> {
        let mut last: Option<Key> = None;
        loop {
            let page = self.target.range(&Prefix::root(), last.as_ref(), STEP_ITEMS).await;
            let page = page.map_err(|source| MigrateError::Target { source })?;
            let Some(item) = page.last() else { return Ok(()) };
            last = Some(item.key.clone());
            let old = page.into_iter().filter(|item| item.key != *self.mark);
            let batch =
                old.fold(Batch::new(), |batch, item| batch.with(item.key, Condition::Any, Action::Delete));
            self.commit(batch, Action::Keep).await?;
        }
    }
}

/// What others have written to the source meanwhile would be lost.
async fn check_unchanged(
    source: &dyn Backend,
    target: &dyn Backend,
    changes: &mut Watch,
) -> Result<(), MigrateError> {
    let from = |source| MigrateError::Source { source };
    let gone = || from(StorageError::unavailable("its changes could not be followed"));
    // All that was committed before this one begins must have been told.
    let mut fresh = source.watch(&Prefix::root()).await.map_err(from)?;
    let Ok(WatchEvent::Ready { revision: newest }) = fresh.next().await else { return Err(gone()) };
    let mut told = Revision::ZERO;
    while told < newest {
        // Not every commit is told of: some change nothing, and a store may be shared with others.
        let Ok(event) = tokio::time::timeout(ECHO, changes.next()).await else { return Ok(()) };
        match event {
            Ok(WatchEvent::Ready { revision }) => told = revision,
            Ok(WatchEvent::Put(item)) => return Err(MigrateError::Changed { key: item.key }),
            Ok(WatchEvent::Deleted { key, revision }) => {
                told = revision;
                let found = target.get(&key).await.map_err(|source| MigrateError::Target { source })?;
                if found.is_some() {
                    return Err(MigrateError::Changed { key });
                }
            }
            Ok(_) => {}
            Err(_) => return Err(gone()),
        }
    }
    Ok(())
}

/// What is written at once.
#[derive(Default)]
struct Step {
    batch: Batch,
    bytes: usize,
}

impl Step {
    fn has_room(&self, item: &Item) -> bool {
        self.batch.operations().is_empty()
            || (self.batch.operations().len() < STEP_ITEMS && self.bytes + item.value.len() < STEP_BYTES)
    }

    fn add(&mut self, item: Item) {
        self.bytes += item.key.as_str().len() + item.value.len();
        let batch = std::mem::take(&mut self.batch);
        self.batch = batch.put(item.key, Condition::Any, item.value, item.expires);
    }
}

/// Goes through both in the order of keys. What expires meanwhile may be in one only.
async fn compare(
    source: &dyn Backend,
    target: &dyn Backend,
    mark: &Key,
    clock: &dyn Clock,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), MigrateError> {
    let from = |source| MigrateError::Source { source };
    let to = |source| MigrateError::Target { source };
    let (mut ours, mut theirs) = (Pages::of(source), Pages::of(target));
    let (mut one, mut other) = (ours.next().await.map_err(from)?, theirs.next().await.map_err(to)?);
    let mut done = 0;
    loop {
        if other.as_ref().is_some_and(|item| item.key == *mark) {
            other = theirs.next().await.map_err(to)?;
        }
        let now = clock.now();
        match (&one, &other) {
            (None, None) => return Ok(()),
            (Some(left), Some(right)) if left.key == right.key => {
                if left.value != right.value || left.expires != right.expires {
                    return Err(MigrateError::Differs { key: left.key.clone() });
                }
                done += 1;
                progress(done);
                one = ours.next().await.map_err(from)?;
                other = theirs.next().await.map_err(to)?;
            }
            (Some(left), right) if right.as_ref().is_none_or(|right| left.key < right.key) => {
                passed(left, now)?;
                one = ours.next().await.map_err(from)?;
            }
            (_, Some(right)) => {
                passed(right, now)?;
                other = theirs.next().await.map_err(to)?;
            }
            (Some(left), None) => passed(left, now)?,
        }
    }
}

/// An item that only one has must have expired.
fn passed(item: &Item, now: Timestamp) -> Result<(), MigrateError> {
    if item.is_expired(now) { Ok(()) } else { Err(MigrateError::Differs { key: item.key.clone() }) }
}

/// Everything in a backend, one by one.
struct Pages<'a> {
    backend: &'a dyn Backend,
    page: std::vec::IntoIter<Item>,
    last: Option<Key>,
    is_over: bool,
}

impl<'a> Pages<'a> {
    fn of(backend: &'a dyn Backend) -> Self {
        Self { backend, page: Vec::new().into_iter(), last: None, is_over: false }
    }

    async fn next(&mut self) -> Result<Option<Item>, StorageError> {
        loop {
            if let Some(item) = self.page.next() {
                return Ok(Some(item));
            }
            if self.is_over {
                return Ok(None);
            }
            let page = self.backend.range(&Prefix::root(), self.last.as_ref(), MAX_PAGE).await?;
            self.is_over = page.len() < MAX_PAGE;
            self.last = page.last().map(|item| item.key.clone());
            self.page = page.into_iter();
        }
    }
}
