//! Recordings in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::clock::Timestamp;
use crate::id::{SessionId, UserName};
use crate::recording::{
    MAX_PART_LEN, MAX_PARTS, RecordingError, RecordingInfo, RecordingMeta, RecordingStore,
};

/// A [`RecordingStore`] in the memory of this process.
#[derive(Debug, Default)]
pub struct MemoryRecordings(Mutex<BTreeMap<SessionId, Recording>>);

#[derive(Debug)]
struct Recording {
    meta: RecordingMeta,
    parts: BTreeMap<u32, Bytes>,
    completed: Option<(u32, Timestamp)>,
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
        RecordingInfo {
            meta: self.meta.clone(),
            completed: self.completed.map(|(_, at)| at),
            abandoned: false,
            len: self.gapless().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX)).sum(),
        }
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self, limit: usize, wanted: impl Fn(&RecordingMeta) -> bool) -> Vec<RecordingInfo> {
        let recordings = self.lock();
        let found = recordings.values().filter(|recording| wanted(&recording.meta));
        let mut found: Vec<RecordingInfo> = found.map(Recording::info).collect();
        found.sort_by_key(|info| std::cmp::Reverse(info.meta.started));
        found.truncate(limit);
        found
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
    async fn create(&self, meta: &RecordingMeta) -> Result<(), RecordingError> {
        let mut recordings = self.lock();
        match recordings.get(&meta.session) {
            Some(known) if known.meta != *meta => Err(conflict("another recording has this session id")),
            Some(_) => Ok(()),
            None => {
                let recording = Recording { meta: meta.clone(), parts: BTreeMap::new(), completed: None };
                recordings.insert(meta.session, recording);
                Ok(())
            }
        }
    }

    async fn put_part(&self, session: SessionId, number: u32, part: Bytes) -> Result<(), RecordingError> {
        self.with(session, |recording| {
            if part.len() > MAX_PART_LEN || number >= MAX_PARTS {
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

    async fn parts(&self, session: SessionId) -> Result<u32, RecordingError> {
        self.with(session, |recording| Ok(u32::try_from(recording.gapless().count()).unwrap_or(u32::MAX)))
    }

    async fn complete(&self, session: SessionId, parts: u32, at: Timestamp) -> Result<(), RecordingError> {
        self.with(session, |recording| {
            let stored = u32::try_from(recording.gapless().count()).unwrap_or(u32::MAX);
            match recording.completed {
                Some((known, _)) if known == parts => Ok(()),
                Some(_) => Err(conflict("the recording is complete with another number of parts")),
                None if stored != parts || recording.parts.len() != recording.gapless().count() => {
                    Err(conflict("a part is missing, or there is one too many"))
                }
                None => {
                    recording.completed = Some((parts, at));
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

    async fn list(
        &self,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<RecordingInfo>, RecordingError> {
        Ok(self.newest(limit, |meta| (from..to).contains(&meta.started)))
    }

    async fn list_of(
        &self,
        user: &UserName,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<RecordingInfo>, RecordingError> {
        Ok(self.newest(limit, |meta| meta.user == *user && (from..to).contains(&meta.started)))
    }
}
