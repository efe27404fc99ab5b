//! The documents of a recording, and what its objects say before it is complete.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use teleport_core::id::SessionId;
use teleport_core::recording::{Completion, Form, RecordingInfo, RecordingMeta};

use super::layout::{COMPLETE, DELETED, Layout, META};

/// The version of both documents.
const VERSION: u32 = 1;

/// How many manifests are remembered: of what is being read and written now.
const REMEMBERED: usize = 64;

/// A document that was written by a version that it names.
pub(super) trait Versioned {
    fn is_known(&self) -> bool;
}

#[derive(Serialize, Deserialize)]
pub(super) struct MetaFile {
    version: u32,
    #[serde(flatten)]
    pub(super) form: Form,
    pub(super) meta: RecordingMeta,
}

impl MetaFile {
    pub(super) const fn new(meta: RecordingMeta, form: Form) -> Self {
        Self { version: VERSION, form, meta }
    }
}

impl Versioned for MetaFile {
    fn is_known(&self) -> bool {
        self.version == VERSION
    }
}

/// All that is said of a complete recording, so that one request tells it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    #[serde(flatten)]
    form: Form,
    meta: RecordingMeta,
    pub(super) completion: Completion,
    pub(super) lengths: Vec<u32>,
}

impl Manifest {
    pub(super) fn new(file: MetaFile, completion: Completion, lengths: Vec<u32>) -> Self {
        Self { version: VERSION, form: file.form, meta: file.meta, completion, lengths }
    }

    pub(super) fn info(&self) -> RecordingInfo {
        let len = self.lengths.iter().copied().map(u64::from).sum();
        RecordingInfo::new(self.meta.clone(), self.form.clone(), len, Some(self.completion.clone()))
    }
}

impl Versioned for Manifest {
    fn is_known(&self) -> bool {
        self.version == VERSION && self.lengths.len() == self.completion.parts as usize
    }
}

/// The objects of a recording, from their list.
pub(super) struct SoFar {
    parts: BTreeMap<u32, u32>,
    pub(super) is_complete: bool,
}

impl SoFar {
    /// `None` if the recording does not exist, or not any more.
    pub(super) fn of(names: BTreeMap<String, u64>) -> Option<Self> {
        if !names.contains_key(META) || names.contains_key(DELETED) {
            return None;
        }
        let parts = names.iter().filter_map(|(name, len)| {
            Some((Layout::part_number(name)?, u32::try_from(*len).unwrap_or(u32::MAX)))
        });
        Some(Self { parts: parts.collect(), is_complete: names.contains_key(COMPLETE) })
    }

    /// The lengths of the parts up to the first gap.
    pub(super) fn gapless(&self) -> Vec<u32> {
        (0..).map_while(|number| self.parts.get(&number).copied()).collect()
    }

    /// The same, if there are exactly as many as a completion says and no gap; behind one that is abandoned there may be.
    pub(super) fn exactly(&self, completion: &Completion) -> Result<Vec<u32>, &'static str> {
        let gapless = self.gapless();
        let parts = completion.parts as usize;
        if gapless.len() < parts {
            Err("a part is missing")
        } else if gapless.len() > parts || (self.parts.len() > parts && !completion.abandoned) {
            Err("there are more parts")
        } else {
            Ok(gapless)
        }
    }
}

/// Manifests of late. They never change.
#[derive(Debug, Default)]
pub(super) struct Manifests(Mutex<VecDeque<(SessionId, Arc<Manifest>)>>);

impl Manifests {
    fn with<T>(&self, act: impl FnOnce(&mut VecDeque<(SessionId, Arc<Manifest>)>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn known(&self, session: SessionId) -> Option<Arc<Manifest>> {
        self.with(|known| known.iter().find(|(of, _)| *of == session).map(|(_, found)| Arc::clone(found)))
    }

    pub(super) fn remember(&self, session: SessionId, manifest: Arc<Manifest>) {
        self.with(|known| {
            known.retain(|(of, _)| *of != session);
            known.truncate(REMEMBERED - 1);
            known.push_front((session, manifest));
        });
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.with(|known| known.retain(|(of, _)| *of != session));
    }
}
