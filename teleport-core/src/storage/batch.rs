//! The atomic write.

use bytes::Bytes;

use super::{InvalidBatch, Key, Revision};
use crate::clock::Timestamp;

/// The most operations of one batch.
pub const MAX_OPERATIONS: usize = 128;

/// The longest value, in bytes.
pub const MAX_VALUE_LEN: usize = 1 << 20;

/// What must hold for a key just before the batch; expired items are absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// There is no item.
    Absent,
    /// Nothing is asked.
    Any,
    /// There is an item.
    Exists,
    /// There is an item and this is its revision.
    Is(Revision),
}

impl Condition {
    /// Whether it holds for the revision of the live item at the key, if there is one.
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::Any => true,
            Self::Exists => current.is_some(),
            Self::Is(revision) => current == Some(revision),
        }
    }
}

/// What happens to a key if all conditions of the batch hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Removes the item if there is one.
    Delete,
    /// Changes nothing: the operation is only its condition.
    Keep,
    /// Writes the item.
    Put {
        /// The new value.
        value: Bytes,
        /// When it disappears.
        expires: Option<Timestamp>,
    },
    /// Changes the expiry and the revision of the item and leaves the value. Without an item it changes nothing, so give
    /// it a condition.
    Touch {
        /// When it disappears.
        expires: Option<Timestamp>,
    },
}

/// One step of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// The key it is about.
    pub key: Key,
    /// What must hold.
    pub condition: Condition,
    /// What to do.
    pub action: Action,
}

/// Operations on distinct keys, applied all or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch(Vec<Operation>);

impl Batch {
    /// An empty batch; committing it is valid and changes nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an operation.
    #[must_use]
    pub fn with(mut self, key: Key, condition: Condition, action: Action) -> Self {
        self.0.push(Operation { key, condition, action });
        self
    }

    /// Adds an unconditional or conditional write.
    #[must_use]
    pub fn put(
        self,
        key: Key,
        condition: Condition,
        value: impl Into<Bytes>,
        expires: Option<Timestamp>,
    ) -> Self {
        self.with(key, condition, Action::Put { value: value.into(), expires })
    }

    /// The operations, in the order they were added.
    pub fn operations(&self) -> &[Operation] {
        &self.0
    }

    /// The operations, by value.
    pub fn into_operations(self) -> Vec<Operation> {
        self.0
    }

    /// For drivers: checks what every driver must refuse before it starts.
    ///
    /// # Errors
    /// [`InvalidBatch`] for a key that occurs twice, too many operations or a value that is too long.
    pub fn validate(&self) -> Result<(), InvalidBatch> {
        if self.0.len() > MAX_OPERATIONS {
            return Err(InvalidBatch::TooManyOperations);
        }
        let mut keys: Vec<&Key> = self.0.iter().map(|operation| &operation.key).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find_map(|pair| match pair {
            [first, second] if first == second => Some((*first).clone()),
            _ => None,
        }) {
            return Err(InvalidBatch::DuplicateKey { key: twice });
        }
        let too_long = |operation: &&Operation| matches!(&operation.action, Action::Put { value, .. } if value.len() > MAX_VALUE_LEN);
        match self.0.iter().find(too_long) {
            Some(operation) => Err(InvalidBatch::ValueTooLong { key: operation.key.clone() }),
            None => Ok(()),
        }
    }
}
