//! Recordings in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::clock::Timestamp;
use crate::id::SessionId;
use crate::recording::{
    Completion, Form, Listing, MAX_PARTS, MAX_STORED_PART_LEN, PartDigests, RecordingError, RecordingInfo,
    RecordingMeta, RecordingStore, Rewrite,
};

/// What is said of a recording: alice's, as root on web-1 of example.com. Tests change what they are about.
#[allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "these names are well-formed")]
pub fn recording_meta() -> RecordingMeta {
    RecordingMeta {
        session: "6f0e1a3c-7d1f-4b5e-9a53-5d5a1f9f3f10".parse().unwrap(),
        cluster: "example.com".parse().unwrap(),
        host_id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        host_name: "web-1".parse().unwrap(),
        user: "alice".parse().unwrap(),
        login: "root".parse().unwrap(),
        started: Timestamp::from_unix_secs(1_800_000_000),
        command: None,
        terminal: None,
    }
}

/// A [`RecordingStore`] in the memory of this process.
#[derive(Debug, Default)]
pub struct MemoryRecordings {
    recordings: Mutex<BTreeMap<SessionId, Recording>>,
    undeletable: Mutex<BTreeSet<SessionId>>,
}

#[derive(Debug)]
struct Recording {
    meta: RecordingMeta,
    form: Form,
    parts: BTreeMap<u32, Bytes>,
    completed: Option<Completion>,
}

impl Recording {
    /// The parts from 0 up to the first gap.
    fn gapless(&self) -> impl Iterator<Item = &Bytes> {
        self.parts
            .iter()
            .zip(0_u32..)
            .take_while(|((number, _), index)| **number == *index)
            .map(|((_, part), _)| part)
    }

    fn info(&self) -> RecordingInfo {
        let len = self.gapless().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX)).sum();
        RecordingInfo::new(self.meta.clone(), self.form.clone(), len, self.completed.clone())
    }
}

const fn conflict(reason: &'static str) -> RecordingError {
    RecordingError::Conflict { reason }
}

impl MemoryRecordings {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Recording>> {
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it cannot delete this recording.
    pub fn refuse_to_delete(&self, session: SessionId) {
        self.undeletable.lock().unwrap_or_else(PoisonError::into_inner).insert(session);
    }

    fn with<T>(
        &self,
        session: SessionId,
        act: impl FnOnce(&mut Recording) -> Result<T, RecordingError>,
    ) -> Result<T, RecordingError> {
        act(self.lock().get_mut(&session).ok_or(RecordingError::NotFound)?)
    }
}

#[async_trait]
impl RecordingStore for MemoryRecordings {
    async fn create(&self, meta: &RecordingMeta, form: &Form) -> Result<(), RecordingError> {
        let mut recordings = self.lock();
        match recordings.get(&meta.session) {
            Some(known) if known.meta != *meta => Err(conflict("another recording has this session id")),
            Some(_) => Ok(()),
            None => {
                let (meta, form) = (meta.clone(), form.clone());
                let recording = Recording { meta, form, parts: BTreeMap::new(), completed: None };
                recordings.insert(recording.meta.session, recording);
                Ok(())
            }
        }
    }

    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError> {
        self.with(session, |recording| {
            if part.len() > MAX_STORED_PART_LEN || number >= MAX_PARTS {
                return Err(conflict("the part is too long or has too high a number"));
            }
            match recording.parts.get(&number) {
                Some(known) if *known == part => Ok(()),
                Some(_) => Err(conflict("the part is stored with other bytes")),
                None if recording.completed.is_some() => Err(conflict("the recording is complete")),
                None => {
                    recording.parts.insert(number, part);
                    Ok(())
                }
            }
        })
    }

    async fn part(&self, session: SessionId, number: u32) -> Result<Option<Bytes>, RecordingError> {
        self.with(session, |recording| Ok(recording.parts.get(&number).cloned()))
    }

    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError> {
        self.with(session, |recording| Ok(u32::try_from(recording.gapless().count()).unwrap_or(u32::MAX)))
    }

    async fn lengths(&self, session: SessionId) -> Result<Vec<u32>, RecordingError> {
        self.with(session, |recording| {
            Ok(recording.gapless().map(|part| u32::try_from(part.len()).unwrap_or(u32::MAX)).collect())
        })
    }

    async fn complete(&self, session: SessionId, completion: &Completion) -> Result<(), RecordingError> {
        self.with(session, |recording| {
            let stored = u32::try_from(recording.gapless().count()).unwrap_or(u32::MAX);
            match &recording.completed {
                Some(known) if known.parts == completion.parts => Ok(()),
                Some(_) => Err(conflict("the recording is complete with another number of parts")),
                None if stored != completion.parts
                    || (recording.parts.len() != recording.gapless().count() && !completion.abandoned) =>
                {
                    Err(conflict("a part is missing, or there is one too many"))
                }
                None => {
                    recording.parts.retain(|number, _| *number < completion.parts);
                    recording.completed = Some(completion.clone());
                    Ok(())
                }
            }
        })
    }

    async fn info(&self, session: SessionId) -> Result<RecordingInfo, RecordingError> {
        self.with(session, |recording| Ok(recording.info()))
    }

    async fn read(&self, session: SessionId, offset: u64, len: usize) -> Result<Bytes, RecordingError> {
        self.with(session, |recording| {
            let whole: BytesMut = recording.gapless().flat_map(|part| part.iter().copied()).collect();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
            let end = start.saturating_add(len).min(whole.len());
            Ok(whole.freeze().slice(start..end))
        })
    }

    async fn list(&self, listing: &Listing) -> Result<Vec<RecordingInfo>, RecordingError> {
        let recordings = self.lock();
        let wanted = |info: &RecordingInfo| {
            listing.covers(info.place())
                && listing.user.as_ref().is_none_or(|user| info.has_participant(user))
        };
        let mut found: Vec<RecordingInfo> = recordings.values().map(Recording::info).filter(wanted).collect();
        found.sort_by_key(RecordingInfo::place);
        found.truncate(listing.limit);
        Ok(found)
    }

    async fn delete(&self, session: SessionId) -> Result<(), RecordingError> {
        if self.undeletable.lock().unwrap_or_else(PoisonError::into_inner).contains(&session) {
            return Err(RecordingError::unavailable("the store was told to fail"));
        }
        self.lock().remove(&session);
        Ok(())
    }

    async fn part_digests(&self, session: SessionId) -> Result<Option<PartDigests>, RecordingError> {
        self.with(session, |_| Ok(None))
    }

    async fn rewrite(&self, session: SessionId, change: Rewrite) -> Result<(), RecordingError> {
        self.with(session, |recording| {
            if recording.completed.is_none() {
                return Err(conflict("the recording is not complete"));
            }
            for (number, part) in &mut recording.parts {
                let new = change(*number, part.clone())?;
                if new.len() != part.len() {
                    return Err(conflict("the part has another length"));
                }
                *part = new;
            }
            Ok(())
        })
    }

    async fn rewrap(&self, session: SessionId) -> Result<bool, RecordingError> {
        self.with(session, |_| Ok(false))
    }
}
